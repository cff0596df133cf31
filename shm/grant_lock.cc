#include "shm/grant_lock.h"

#include <fcntl.h>

#include <cerrno>

#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

absl::StatusOr<bool> AnyLocked(int fd, int64_t first_byte, int64_t byte_count) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = first_byte;
  lock.l_len = byte_count;
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return ErrnoStatus(errno, "F_OFD_GETLK of a section");
  return lock.l_type != F_UNLCK;
}

}  // namespace

absl::Status LockGrant(int fd, GrantRange range, uint32_t grant_number) {
  struct flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = range.ByteOf(grant_number);
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::FailedPreconditionError("a holder of the region has locked it against new grants");
  }
  return ErrnoStatus(errno, "F_OFD_SETLK of a grant");
}

absl::StatusOr<bool> AnyGrantHeld(int fd, GrantRange range) {
  return AnyLocked(fd, range.first_byte(), range.byte_count());
}

absl::StatusOr<bool> GrantHeld(int fd, GrantRange range, uint32_t grant_number) {
  return AnyLocked(fd, range.ByteOf(grant_number), 1);
}

}  // namespace iob::shm
