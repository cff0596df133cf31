// Policy: may this caller do that?
//
// Mechanism (rights, handles, seals) is elsewhere; this is the only place that knows whose word
// counts. Owner of a buffer: the uid that created it. Root may do everything an owner may.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "server/buffer.h"

namespace iob::server {

// May `uid` look at it, list it, read its ledger, delete it?
bool MayAdminister(const Buffer& buffer, uint32_t uid);

bool MayAdminister(const SharedRegion& region, uint32_t uid);

// May `uid` open `endpoint` by name?
bool MayOpen(const Buffer& buffer, shm::EndpointId endpoint, uint32_t uid);

// May `uid` see that there is a buffer of that name at all? Otherwise errors are NOT_FOUND, so that
// names cannot be probed.
bool MayKnowOf(const Buffer& buffer, uint32_t uid);

}  // namespace iob::server
