// Ids, and who made or holds something.
#pragma once

#include <cstdint>

namespace iob::server {

// Kernel-object-id style: from one counter, never reused within a run.
using Koid = uint64_t;

// For people: pids are reused.
struct HolderInfo {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;
};

}  // namespace iob::server
