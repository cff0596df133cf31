// MemoryRoom: how much memory this machine would still give to the daemon.
//
// Linux does not refuse memory: where a memory cgroup is full, fallocate() ends in the OOM killer,
// which kills the daemon with every buffer in it (cgroup v1 and v2 alike). So the daemon looks
// before it allocates:
//
//   room = the least of, for each memory cgroup from its own up to the root,
//            limit - usage + page cache that can go
//          and of the machine, MemAvailable
//
// What remains is a race: memory that others in the same cgroup, or the daemon's own heap, take
// between the look and the allocation. A reserve is kept for the latter. The cgroup is the one that
// the daemon was started in.
//
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shm/unique_fd.h"

namespace iob::server {

class MemoryRoom {
 public:
  // Of this process. Cgroups that cannot be seen (no /sys/fs/cgroup) do not count.
  MemoryRoom();

  // RESOURCE_EXHAUSTED / QUOTA unless there is room for `size_bytes` and the reserve; says whose
  // limit it is, and what to raise.
  absl::Status Check(uint64_t size_bytes) const;

 private:
  struct Level {
    std::string path;  // Of the limit.
    shm::UniqueFd limit;
    shm::UniqueFd usage;
    shm::UniqueFd stat;
  };
  std::vector<Level> levels_;  // Its own first. Only those that have a limit file.
};

}  // namespace iob::server
