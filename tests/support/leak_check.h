// LeakCheck: descriptors and shared memory are back to where they were.
//
// Counts the entries of /proc/PID/fd (of this process, and of a daemon in a process of its own) and
// `Shmem` of /proc/meminfo. Closing is asynchronous on the other side of a socket, so it looks
// again until the counts agree, up to a deadline. Shmem belongs to the whole machine: it must come
// back to at most what it was, without the memory files that other daemons and tests hold.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace iob::test {

// Looks every few milliseconds until `condition` holds; false after `deadline_ms`.
bool Eventually(const std::function<bool()>& condition, int64_t deadline_ms = 10'000);

// Entries of /proc/PID/fd; -1 when it cannot be read.
int OpenDescriptors(pid_t pid);

// `Shmem` of /proc/meminfo.
uint64_t ShmemBytes();

// Bytes of memory files of ours that the process holds by descriptor, each file once.
uint64_t RegionBytesHeld(pid_t pid);

class LeakCheck {
 public:
  // Remembers how things are. `daemon_pid` may be this process.
  explicit LeakCheck(pid_t daemon_pid);

  // Empty when everything came back, else what did not.
  std::string Compare() const;

 private:
  struct Counts {
    int own_fds = 0;
    int daemon_fds = 0;
    uint64_t region_bytes = 0;
    uint64_t shmem_bytes = 0;
  };
  Counts Now() const;
  pid_t daemon_pid_;
  Counts before_;
};

}  // namespace iob::test
