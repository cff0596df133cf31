#include "shm/frozen_memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr int kFrozenSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

absl::Status NoMemory(int error_number, absl::string_view what) {
  // A memory file has no other reason to be full.
  if (error_number == ENOSPC)
    return absl::ResourceExhaustedError(absl::StrCat(what, ": no memory"));
  return ErrnoStatus(error_number, what);
}

}  // namespace

absl::StatusOr<FrozenMemfd> FrozenMemfd::Adopt(UniqueFd fd, uint64_t size_bytes) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return absl::FailedPreconditionError("a received descriptor is not a memory file");
  if ((seals & kFrozenSeals) != kFrozenSeals) {
    return absl::FailedPreconditionError(absl::StrCat("a received descriptor has the seals ", seals,
                                                      ", not all of ", kFrozenSeals,
                                                      ": it could still change"));
  }
  // After the seals: from here on the size cannot change.
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) return ErrnoStatus(errno, "fstat of a received descriptor");
  if (std::cmp_not_equal(status.st_size, size_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat("a received descriptor holds ",
                                                      status.st_size, " bytes where ", size_bytes,
                                                      " were announced"));
  }
  return FrozenMemfd(std::move(fd), size_bytes);
}

absl::StatusOr<FreshMemfd> FreshMemfd::Create(uint64_t size_bytes) {
  if (size_bytes > static_cast<uint64_t>(std::numeric_limits<off_t>::max()))
    return absl::ResourceExhaustedError(absl::StrCat("no file can hold ", size_bytes, " bytes"));
  IOB_ASSIGN_OR_RETURN(UniqueFd fd, Memfd::CreateUnsized("iob-snapshot"));
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0)
    return ErrnoStatus(errno, absl::StrCat("ftruncate of a memfd to ", size_bytes, " bytes"));
  return FreshMemfd(std::move(fd), size_bytes);
}

absl::Status FreshMemfd::Write(uint64_t offset_bytes, std::span<const std::byte> source) {
  IOB_CHECK(offset_bytes <= size_bytes_ && source.size() <= size_bytes_ - offset_bytes);
  while (!source.empty()) {
    const ssize_t written =
        ::pwrite(fd_.get(), source.data(), source.size(), static_cast<off_t>(offset_bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return NoMemory(written == 0 ? ENOSPC : errno,
                      absl::StrCat("pwrite of ", source.size(), " bytes"));
    }
    offset_bytes += static_cast<uint64_t>(written);
    source = source.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status FreshMemfd::CopyFrom(uint64_t offset_bytes, int fd, uint64_t fd_offset_bytes,
                                  std::span<const std::byte> mapped) {
  IOB_CHECK(offset_bytes <= size_bytes_ && mapped.size() <= size_bytes_ - offset_bytes);
  auto from = static_cast<off_t>(fd_offset_bytes);
  auto to = static_cast<off_t>(offset_bytes);
  size_t copied = 0;
  while (fd >= 0 && copied < mapped.size()) {
    const ssize_t more =
        ::copy_file_range(fd, &from, fd_.get(), &to, mapped.size() - copied, /*flags=*/0);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0 && errno == ENOSPC)
      return NoMemory(errno, absl::StrCat("copying ", mapped.size(), " bytes"));
    if (more <= 0) break;
    copied += static_cast<size_t>(more);
  }
  return WriteMapped(offset_bytes + copied, mapped.subspan(copied));
}

// Maps the pages at once, where the kernel can (Linux 5.14).
absl::Status FreshMemfd::WriteMapped(uint64_t offset_bytes, std::span<const std::byte> source) {
  if (source.empty()) return absl::OkStatus();
  const uint64_t into_page = std::bit_cast<uintptr_t>(source.data()) % PageBytes();
  // What an older kernel refuses comes fault by fault.
  (void)::madvise(const_cast<std::byte*>(source.data()) - into_page, source.size() + into_page,
                  MADV_POPULATE_READ);
  return Write(offset_bytes, source);
}

absl::Status FreshMemfd::Clear(uint64_t offset_bytes, uint64_t length_bytes) {
  IOB_CHECK(offset_bytes <= size_bytes_ && length_bytes <= size_bytes_ - offset_bytes);
  if (length_bytes == 0) return absl::OkStatus();
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset_bytes), static_cast<off_t>(length_bytes)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("punching out ", length_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<FrozenMemfd> FreshMemfd::Freeze() && {
  const UniqueFd fd = std::move(fd_);
  if (size_bytes_ != 0 && ::fallocate(fd.get(), 0, 0, static_cast<off_t>(size_bytes_)) != 0)
    return NoMemory(errno, absl::StrCat("fallocate of ", size_bytes_, " bytes"));
  // EBUSY: the kernel itself still looks at some page; it gave that up to 150 ms already.
  if (::fcntl(fd.get(), F_ADD_SEALS, kFrozenSeals) != 0) {
    if (errno == EBUSY)
      return absl::UnavailableError("F_ADD_SEALS WRITE of a memfd: pages are busy");
    return ErrnoStatus(errno, "F_ADD_SEALS WRITE of a memfd");
  }
  const std::string path = absl::StrCat("/proc/self/fd/", fd.get());
  UniqueFd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!read_only.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  return FrozenMemfd(std::move(read_only), size_bytes_);
}

}  // namespace iob::shm
