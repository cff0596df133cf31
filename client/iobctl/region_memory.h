// What the commands about a region's memory share (peek, poke, map-dump, who): which region,
// through which endpoint, and how offsets are written.
//
// Each attaches as an endpoint for as long as it runs, so its rights are those of that endpoint.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "client/iobctl/command.h"
#include "client/types.h"

namespace iob::ctl {

struct RegionFlags {
  std::string name;
  std::string region;  // A number.
  std::string endpoint;
};

// NAME, REGION and --ep.
void AddRegionOptions(CLI::App* command, RegionFlags* flags);

struct OpenedRegion {
  Endpoint endpoint;
  BufferInfo buffer;  // As it was then, with who held its endpoints.
  uint32_t index = 0;
  uint64_t size_bytes = 0;
  std::string what;  // "region 0 of logs", escaped.
};

// As the endpoint that was asked for, or the first one that may map the region for reading, or with
// `to_write` for writing.
//   OUT_OF_RANGE, and the errors of OpenUsable
absl::StatusOr<OpenedRegion> OpenRegion(const Globals& globals, const RegionFlags& flags,
                                        bool to_write);

// "4096", "0x1000"; at most `max`. INVALID_ARGUMENT.
absl::StatusOr<uint64_t> ParseHexOrNumber(const std::string& text, uint64_t max);

}  // namespace iob::ctl
