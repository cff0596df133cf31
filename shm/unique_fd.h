// UniqueFd: one owner for one descriptor.
//
// Move-only. get() borrows; a raw int never owns. Closing EBADF aborts: somebody closed our number,
// and the next close would hit a stranger's file. EINTR from close is not retried: on Linux the
// descriptor is gone either way.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "shm/check.h"

namespace iob::shm {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Close(); }

  // The descriptor, -1 when empty. For the call, not to keep.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  // Gives up ownership.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

  // Closes now; the object is empty afterwards.
  void Close() {
    if (fd_ < 0) return;
    const int result = ::close(std::exchange(fd_, -1));
    IOB_CHECK(result == 0 || errno != EBADF);
  }

 private:
  int fd_ = -1;
};

}  // namespace iob::shm
