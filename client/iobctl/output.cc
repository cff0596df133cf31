#include "client/iobctl/output.h"

#include <unistd.h>

#include <cerrno>

#include "client/iobctl/stop_signal.h"
#include "shm/result.h"

namespace iob::ctl {

absl::StatusOr<bool> WriteOut(std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = ::write(STDOUT_FILENO, text.data(), text.size());
    if (size >= 0) {
      text.remove_prefix(static_cast<size_t>(size));
    } else if (errno == EPIPE) {
      return false;
    } else if (errno != EINTR) {
      return shm::ErrnoStatus(errno, "write to stdout");
    }
  }
  return true;
}

absl::StatusOr<size_t> ReadIn(std::span<char> target) {
  while (!StopRequested()) {
    const ssize_t size = ::read(STDIN_FILENO, target.data(), target.size());
    if (size >= 0) return static_cast<size_t>(size);
    if (errno != EINTR) return shm::ErrnoStatus(errno, "read of stdin");
  }
  return size_t{0};
}

}  // namespace iob::ctl
