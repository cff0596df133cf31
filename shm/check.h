// IOB_CHECK: for what only a bug of ours can make false.
//
// Never on anything that a peer, a client or a loaded kernel controls: those get an absl::Status.
// The message goes to stderr in one write, so that it survives a process that is about to abort.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace iob::shm {

[[noreturn]] inline void CheckFailed(const char* what) {
  // A short or failed write changes nothing: the process ends here either way.
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, what, std::strlen(what));
  std::abort();
}

}  // namespace iob::shm

#define IOB_STRINGIFY_INNER(x) #x
#define IOB_STRINGIFY(x) IOB_STRINGIFY_INNER(x)

#define IOB_CHECK(condition)                                                                       \
  do {                                                                                             \
    if (!(condition)) [[unlikely]] {                                                               \
      ::iob::shm::CheckFailed("iob: " __FILE__ ":" IOB_STRINGIFY(__LINE__) ": broken: " #condition \
                                                                           "\n");                  \
    }                                                                                              \
  } while (false)
