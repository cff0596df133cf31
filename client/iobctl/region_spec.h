// Regions, endpoints and permissions as they are written on the command line.
//
//     REGION  :=  KIND ":" SIZE [":" OPTION {"," OPTION}]      a "," after SIZE is as good
//     KIND    :=  "ring" | "reserve-ring" | "broadcast" | "slot" | "id" | "none";
//                 "mediated-ring" and "id-allocator" are other words for two of them
//     OPTION  :=  "ep0=" RIGHTS | "ep1=" RIGHTS | "tag=" NUMBER | "require=" LEVEL, for all, and
//       ring          "policy=" drop-new overwrite block | "block=" TIME | "gaps" | "stamped"
//                     | "followers" | "writer-records=" NUMBER | "writer-bytes=" SIZE
//       reserve-ring  "lanes=" NUMBER | "clears" | "stamped" | "shared" | "granule=" SIZE
//                     | "on-stall=" wait kill renew | "stall=" TIME
//       id            "intern=" NUMBER
//     RIGHTS  :=  "-" | any of: r map-read, w map-write, R mediated read, W mediated write
//     LEVEL   :=  "advisory" | "dac" | "sealed" | "mediated"
//
// SIZE is the region's, but for a slot, where it is the value's. Defaults: ring has ep0=rw,ep1=W
// (ep0 consumes, ep1 writes); reserve-ring, broadcast and slot have ep0=r,ep1=rw (ep0 consumes, ep1
// produces); id has ep0=r,ep1=W (ep0 reads, ep1 allocates); none has ep0=rw,ep1=r. Which options go
// together is for the daemon to say.
//
// Thread-safe: pure functions. All errors are INVALID_ARGUMENT and quote what was wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/types.h"

namespace iob::ctl {

absl::StatusOr<RegionSpec> ParseRegion(const std::string& text);

// "ep0" or "ep1".
absl::StatusOr<EndpointId> ParseEndpoint(const std::string& text);

// "ep1:1000", or where the uid may be left out, "ep1".
struct EndpointAndUid {
  EndpointId endpoint = EndpointId::kEp0;
  std::optional<uint32_t> uid;
};
absl::StatusOr<EndpointAndUid> ParseEndpointAndUid(const std::string& text);

// Rights in the syntax above: "rw", "W", "-".
std::string FormatRights(RegionRights rights);

// The options of its discipline in the syntax above: "policy=overwrite,gaps", "lanes=4,clears".
// Empty when there are none, or none was chosen.
std::string FormatOptions(const RegionInfo& region);

}  // namespace iob::ctl
