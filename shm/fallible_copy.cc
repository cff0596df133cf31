#include "shm/fallible_copy.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "shm/mapping.h"
#include "shm/unique_fd.h"

namespace iob::shm {
namespace {

class KeepErrno {
 public:
  KeepErrno() = default;
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;
  ~KeepErrno() { errno = saved_; }

 private:
  const int saved_ = errno;
};

using VmCall = ssize_t (*)(pid_t pid, const iovec* local, unsigned long local_count,
                           const iovec* remote, unsigned long remote_count, unsigned long flags);

// `foreign` is the side that may be gone.
FallibleCopy CopyByKernel(VmCall call, std::byte* own, std::byte* foreign, size_t size_bytes) {
  FallibleCopy copy;
  while (copy.copied_bytes < size_bytes) {
    const size_t left_bytes = size_bytes - copy.copied_bytes;
    const iovec local = {.iov_base = own + copy.copied_bytes, .iov_len = left_bytes};
    const iovec remote = {.iov_base = foreign + copy.copied_bytes, .iov_len = left_bytes};
    // Short when a page is missing, and because of the kernel's limit of 2 GiB: trying again tells.
    const ssize_t moved = call(::getpid(), &local, 1, &remote, 1, 0);
    if (moved <= 0) {
      copy.error_number = moved == 0 ? EFAULT : errno;
      break;
    }
    copy.copied_bytes += static_cast<size_t>(moved);
  }
  return copy;
}

bool Forbidden(const FallibleCopy& copy) {
  return copy.copied_bytes == 0 &&
         (copy.error_number == EPERM || copy.error_number == ENOSYS || copy.error_number == EACCES);
}

size_t BytesToPageEnd(const std::byte* address) {
  return PageBytes() - reinterpret_cast<uintptr_t>(address) % PageBytes();
}

// Through a pipe of its own, a piece at a time that lies in one page on either side: it is there or
// it is not, and it fits any pipe.
FallibleCopy CopyByPipe(std::byte* target, const std::byte* source, size_t size_bytes) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {.copied_bytes = 0, .error_number = errno};
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  FallibleCopy copy;
  while (copy.copied_bytes < size_bytes && copy.error_number == 0) {
    std::byte* const to = target + copy.copied_bytes;
    const std::byte* const from = source + copy.copied_bytes;
    const size_t piece_bytes =
        std::min({size_bytes - copy.copied_bytes, BytesToPageEnd(to), BytesToPageEnd(from)});
    const auto wanted = static_cast<ssize_t>(piece_bytes);
    errno = 0;
    if (::write(writer.get(), from, piece_bytes) != wanted ||
        ::read(reader.get(), to, piece_bytes) != wanted) {
      copy.error_number = errno != 0 ? errno : EFAULT;
    } else {
      copy.copied_bytes += piece_bytes;
    }
  }
  return copy;
}

}  // namespace

FallibleCopy CopyFrom(const std::byte* source, std::byte* target, size_t size_bytes) {
  const KeepErrno keep;
  // iovec has no const; reading writes nothing there.
  const FallibleCopy copy =
      CopyByKernel(::process_vm_readv, target, const_cast<std::byte*>(source), size_bytes);
  return Forbidden(copy) ? CopyByPipe(target, source, size_bytes) : copy;
}

FallibleCopy CopyTo(std::byte* target, const std::byte* source, size_t size_bytes) {
  const KeepErrno keep;
  const FallibleCopy copy =
      CopyByKernel(::process_vm_writev, const_cast<std::byte*>(source), target, size_bytes);
  return Forbidden(copy) ? CopyByPipe(target, source, size_bytes) : copy;
}

}  // namespace iob::shm
