#include "shm/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/kernel.h"
#include "shm/result.h"
#include "shm/section_keeper.h"

namespace iob::shm {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

absl::StatusOr<UniqueFd> Reopen(int fd, int flags) {
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  UniqueFd reopened(::open(path.c_str(), flags | O_CLOEXEC));
  if (!reopened.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  return reopened;
}

int CreateDescriptor(const std::string& name, unsigned int flags) {
  flags |= MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int fd = ::memfd_create(name.c_str(), flags | MFD_NOEXEC_SEAL);
  // Kernels before 6.3 refuse flags that they do not know.
  if (fd < 0 && errno == EINVAL) return ::memfd_create(name.c_str(), flags);
  return fd;
}

// Only a file of huge pages says anything else than the page size.
uint64_t PageBytesOf(int fd) {
  struct statfs status = {};
  const bool huge = ::fstatfs(fd, &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
  return huge ? static_cast<uint64_t>(status.f_bsize) : PageBytes();
}

}  // namespace

absl::StatusOr<Memfd> Memfd::Create(absl::string_view name) { return CreateWith(name, 0); }

absl::StatusOr<Memfd> Memfd::CreateInPool(absl::string_view name, uint64_t page_bytes) {
  const auto log2_bytes = static_cast<unsigned int>(std::countr_zero(page_bytes));
  return CreateWith(name, MFD_HUGETLB | log2_bytes << MAP_HUGE_SHIFT);
}

absl::StatusOr<Memfd> Memfd::CreateWith(absl::string_view name, unsigned int flags) {
  IOB_ASSIGN_OR_RETURN(UniqueFd fd, CreateUnsized(name, flags));
  return Memfd(std::move(fd));
}

absl::StatusOr<UniqueFd> Memfd::CreateUnsized(absl::string_view name, unsigned int flags) {
  UniqueFd original(CreateDescriptor(std::string(name), flags));
  if (!original.valid()) return ErrnoStatus(errno, "memfd_create");
  // The default is 0777: any uid that holds a read-only descriptor could reopen it for writing.
  if (::fchmod(original.get(), 0600) != 0) return ErrnoStatus(errno, "fchmod of a memfd");
  return Reopen(original.get(), O_RDWR);
}

absl::StatusOr<SealedMemfd> Memfd::SealSize(uint64_t size_bytes, Allocation allocation) && {
  UniqueFd fd = std::move(fd_);
  if (size_bytes > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
    return absl::ResourceExhaustedError(absl::StrCat("no file can hold ", size_bytes, " bytes"));
  }
  const auto size = static_cast<off_t>(size_bytes);
  if (::ftruncate(fd.get(), size) != 0) {
    return ErrnoStatus(errno, absl::StrCat("ftruncate of a memfd to ", size_bytes, " bytes"));
  }
  if (size_bytes != 0 && allocation == Allocation::kNow && ::fallocate(fd.get(), 0, 0, size) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fallocate of ", size_bytes, " bytes"));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, kSizeSeals) != 0)
    return ErrnoStatus(errno, "F_ADD_SEALS of a memfd");
  return SealedMemfd(std::move(fd), size_bytes);
}

SealedMemfd::SealedMemfd(UniqueFd fd, uint64_t size_bytes)
    : fd_(std::move(fd)), size_bytes_(size_bytes), page_bytes_(PageBytesOf(fd_.get())) {}

SealedMemfd::SealedMemfd(SealedMemfd&& other) noexcept = default;

SealedMemfd& SealedMemfd::operator=(SealedMemfd&& other) noexcept {
  keeper_ = std::move(other.keeper_);  // Before the descriptor that the old one borrows.
  fd_ = std::move(other.fd_);
  size_bytes_ = other.size_bytes_;
  page_bytes_ = other.page_bytes_;
  map_policy_ = other.map_policy_;
  return *this;
}

SealedMemfd::~SealedMemfd() = default;

void SealedMemfd::set_keeper(std::unique_ptr<SectionKeeper> keeper) { keeper_ = std::move(keeper); }

absl::StatusOr<SealedMemfd> SealedMemfd::Adopt(UniqueFd fd, uint64_t size_bytes,
                                               bool writers_sealed) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return absl::FailedPreconditionError("a received descriptor is not a memory file");
  if ((seals & kSizeSeals) != kSizeSeals) {
    return absl::FailedPreconditionError("a received descriptor is not sealed against resizing");
  }
  if (writers_sealed && (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) == 0) {
    return absl::FailedPreconditionError("a received descriptor is not sealed against writers");
  }
  // After the seals: from here on the size cannot change.
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) return ErrnoStatus(errno, "fstat of a received descriptor");
  if (!S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError("a received descriptor is not a memory file");
  }
  if (std::cmp_not_equal(status.st_size, size_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat("a received descriptor holds ",
                                                      status.st_size, " bytes where ", size_bytes,
                                                      " were announced"));
  }
  return SealedMemfd(std::move(fd), size_bytes);
}

absl::Status SealedMemfd::SealAgainstWriters() {
  if (::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, "F_ADD_SEALS FUTURE_WRITE of a memfd (needs Linux 5.1)");
  }
  return absl::OkStatus();
}

absl::Status SealedMemfd::Clear(uint64_t offset_bytes, uint64_t length_bytes) {
  const auto offset = static_cast<off_t>(offset_bytes);
  const auto length = static_cast<off_t>(length_bytes);
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0 ||
      ::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, offset, length) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fallocate of ", length_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> SealedMemfd::OpenGrant(FdMode mode) const {
  return Reopen(fd_.get(), mode == FdMode::kReadWrite ? O_RDWR : O_RDONLY);
}

}  // namespace iob::shm
