#include "shm/grant_lock.h"

#include <fcntl.h>

#include <cerrno>

#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr off_t kFirstByte = off_t{1} << 60;
constexpr off_t kBytesPerEndpoint = off_t{1} << 32;

off_t FirstByteOf(EndpointId endpoint) {
  return kFirstByte + (endpoint == EndpointId::kEp0 ? 0 : kBytesPerEndpoint);
}

}  // namespace

absl::Status LockGrant(int fd, EndpointId endpoint, uint32_t grant_number) {
  struct flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = FirstByteOf(endpoint) + grant_number;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::FailedPreconditionError("a holder of the region has locked it against new grants");
  }
  return ErrnoStatus(errno, "F_OFD_SETLK of a grant");
}

absl::StatusOr<bool> AnyGrantHeld(int fd, EndpointId endpoint) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = FirstByteOf(endpoint);
  lock.l_len = kBytesPerEndpoint;
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return ErrnoStatus(errno, "F_OFD_GETLK of a section");
  return lock.l_type != F_UNLCK;
}

}  // namespace iob::shm
