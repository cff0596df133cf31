// Buffers and ledgers as JSON and as tables.
//
// Thread-safe: pure functions.
#pragma once

#include <string>

#include "client/iobctl/json.h"
#include "client/types.h"

namespace iob::ctl {

// Members of one object.
void AddBuffer(const BufferInfo& buffer, JsonWriter* json);
void AddRings(const BufferStats& stats, JsonWriter* json);
void AddTicket(const Ticket& ticket, JsonWriter* json);
void AddCloseReason(const CloseReason& reason, JsonWriter* json);

// What `iobctl stat` prints for a person.
std::string DescribeBuffer(const BufferInfo& buffer, const BufferStats& stats);

// "logs", or "#12" for a buffer without a name; escaped.
std::string DisplayName(const BufferInfo& buffer);
// "open", "2 attached", "killed(9)".
std::string DisplayState(const EndpointInfo& endpoint);

}  // namespace iob::ctl
