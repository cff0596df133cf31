// SnapshotMemory: which copies exist, however far they were passed on, and who pays for them.
//
//   Add (a memfd, its charge) --> counted --the last descriptor and mapping of it are gone--> gone
//
//   M1  An entry lives exactly as long as the memory: the kernel says so when the inode goes
//       (inotify's IN_DELETE_SELF on a file without a name), and nobody who holds the memory can
//       make it say so earlier. A lock on the descriptor could be dropped by its holder.
//   M2  No descriptor is kept for that. The watch alone keeps nothing alive.
//   M3  At most kSnapshotsMax entries: two events each, far from what the kernel queues at least.
//
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/event_loop.h"
#include "server/quota.h"
#include "shm/unique_fd.h"

namespace iob::server {

// inotify queues 16384 events unless the operator has said less.
inline constexpr size_t kSnapshotsMax = 2048;

class SnapshotMemory {
 public:
  // The loop outlives it.
  static absl::StatusOr<std::unique_ptr<SnapshotMemory>> Create(EventLoop& loop);

  // Counts the memory of `fd` from here on; `charge` comes home with it. RESOURCE_EXHAUSTED /
  // QUOTA when there are too many, or the kernel has no room for a watch.
  absl::Status Add(int fd, Charge charge);

  size_t count() const { return entries_.size(); }
  uint64_t bytes() const { return bytes_; }

 private:
  explicit SnapshotMemory(shm::UniqueFd inotify) : inotify_(std::move(inotify)) {}
  void OnInotify();

  shm::UniqueFd inotify_;
  Registration watch_;
  absl::flat_hash_map<int, Charge> entries_;  // By watch descriptor, which is never used again.
  uint64_t bytes_ = 0;
};

}  // namespace iob::server
