// Buffers, shared regions and ledgers as JSON and as tables.
//
// Thread-safe: pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/iobctl/json.h"
#include "client/types.h"

namespace iob::ctl {

// What there is to know about one buffer.
struct BufferReport {
  BufferInfo buffer;  // In ep0's view.
  // Unset when the caller is neither its owner nor root.
  std::optional<BufferStats> stats;
  // Those that its regions refer to and that the caller may see.
  std::vector<SharedRegionInfo> shared_regions;
};

// Members of one object.
void AddBuffer(const BufferInfo& buffer, JsonWriter* json);
void AddReport(const BufferReport& report, JsonWriter* json);
void AddSharedRegion(const SharedRegionInfo& region, JsonWriter* json);
void AddRing(const RingStats& ring, JsonWriter* json);
void AddLosses(const std::vector<LossCount>& losses, JsonWriter* json);
void AddIdAllocator(const IdAllocatorInfo& ids, JsonWriter* json);
void AddHolder(const Holder& holder, JsonWriter* json);
void AddCloseReason(const CloseReason& reason, JsonWriter* json);

// One object.
void AddTicket(const Ticket& ticket, JsonWriter* json);

// What `iobctl stat` prints for a person.
std::string DescribeReport(const BufferReport& report);
std::string DescribeSharedRegion(const SharedRegionInfo& region);
// A table of those regions that are id allocators; empty when none is.
std::string DescribeIdAllocators(const std::vector<RegionInfo>& regions);

// "mediated-ring", "2 none, slot": of all regions, in the order in which they first come.
std::string DisplayDisciplines(const std::vector<RegionInfo>& regions);
// "logs", or "#12" for a buffer without a name; escaped.
std::string DisplayName(const BufferInfo& buffer);
// "open", "2 attached", "killed(9)".
std::string DisplayState(const EndpointInfo& endpoint);
// "uid 0 gid 0 pid 12"; without the pid when the broker cannot see it.
std::string DisplayHolder(const Holder& holder);

}  // namespace iob::ctl
