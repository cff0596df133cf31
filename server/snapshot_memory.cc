#include "server/snapshot_memory.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/result.h"

namespace iob::server {

absl::StatusOr<std::unique_ptr<SnapshotMemory>> SnapshotMemory::Create(EventLoop& loop) {
  shm::UniqueFd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid()) return shm::ErrnoStatus(errno, "inotify_init1");
  std::unique_ptr<SnapshotMemory> memory(new SnapshotMemory(std::move(inotify)));
  IOB_ASSIGN_OR_RETURN(memory->watch_,
                       loop.WatchFd(memory->inotify_.get(), EPOLLIN,
                                    [self = memory.get()](uint32_t) { self->OnInotify(); }));
  return memory;
}

absl::Status SnapshotMemory::Add(int fd, Charge charge) {
  if (entries_.size() >= kSnapshotsMax) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("snapshots of the daemon: ", entries_.size(), " of ",
                                  kSnapshotsMax, " in use"));
  }
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  const int watch = ::inotify_add_watch(inotify_.get(), path.c_str(), IN_DELETE_SELF);
  if (watch < 0) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("no watch for a snapshot (fs.inotify.max_user_watches): ",
                                  std::strerror(errno)));
  }
  bytes_ += charge.memory_bytes();
  entries_[watch] = std::move(charge);
  return absl::OkStatus();
}

void SnapshotMemory::OnInotify() {
  alignas(inotify_event) std::array<char, 4096> buffer;
  ssize_t size = 0;
  while ((size = ::read(inotify_.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < size;) {
      inotify_event event = {};
      std::memcpy(&event, buffer.data() + at, sizeof(event));
      at += static_cast<ssize_t>(sizeof(event) + event.len);
      const auto found = entries_.find(event.wd);
      if (found == entries_.end()) continue;
      bytes_ -= found->second.memory_bytes();
      entries_.erase(found);
    }
  }
}

}  // namespace iob::server
