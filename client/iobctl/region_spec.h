// Regions, endpoints and permissions as they are written on the command line.
//
//     REGION  :=  KIND ":" SIZE [":" OPTION {"," OPTION}]
//     KIND    :=  "ring" | "id" | "none"
//     OPTION  :=  "ep0=" RIGHTS | "ep1=" RIGHTS | "tag=" NUMBER | "require=" LEVEL
//                 | "intern=" NUMBER, for id only
//     RIGHTS  :=  "-" | any of: r map-read, w map-write, R mediated read, W mediated write
//     LEVEL   :=  "advisory" | "dac" | "sealed" | "mediated"
//
// Defaults: ring has ep0=rw,ep1=W (ep0 consumes, ep1 writes); id has ep0=r,ep1=W (ep0 reads, ep1
// allocates); none has ep0=rw,ep1=r.
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

}  // namespace iob::ctl
