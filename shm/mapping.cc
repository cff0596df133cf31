#include "shm/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shm/kernel.h"
#include "shm/placement.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// Far above any machine's address space and far below overflow.
constexpr uint64_t kRangeBytesMax = uint64_t{1} << 46;

absl::Status CheckPart(const Part& part) {
  const uint64_t page_bytes = part.memfd->page_bytes();
  const uint64_t memfd_bytes = part.memfd->size_bytes();
  if (part.offset_bytes % page_bytes != 0 || part.size_bytes % page_bytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a window of ", part.size_bytes, " bytes at offset ", part.offset_bytes,
                     " is not on page boundaries of ", page_bytes, " bytes"));
  }
  if (part.offset_bytes > memfd_bytes || part.size_bytes > memfd_bytes - part.offset_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("a window of ", part.size_bytes,
                                                   " bytes at offset ", part.offset_bytes,
                                                   " leaves a section of ", memfd_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> TotalBytes(std::span<const Part> parts) {
  uint64_t total_bytes = 0;
  for (const Part& part : parts) {
    IOB_RETURN_IF_ERROR(CheckPart(part));
    if (part.size_bytes > kRangeBytesMax - total_bytes) {
      return absl::InvalidArgumentError("the parts of a mapping exceed the address space");
    }
    total_bytes += part.size_bytes;
  }
  return total_bytes;
}

absl::Status ApplyPolicy(const Part& part, std::byte* address, const MapPolicy& policy) {
  const uint64_t size_bytes = part.size_bytes;
  if (policy.huge) ::madvise(address, size_bytes, MADV_HUGEPAGE);  // Not every kernel has them.
  if (policy.secret && (::madvise(address, size_bytes, MADV_DONTDUMP) != 0 ||
                        ::madvise(address, size_bytes, MADV_DONTFORK) != 0)) {
    return ErrnoStatus(errno, "madvise DONTDUMP and DONTFORK");
  }
  if (!policy.prefault) return absl::OkStatus();
  const int advice = part.writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  if (::madvise(address, size_bytes, advice) == 0) return absl::OkStatus();
  if (errno != EINVAL) return ErrnoStatus(errno, "madvise POPULATE");
  // Before Linux 5.14: reading a page of a shared mapping fills its entry, too.
  const SharedBytes bytes(address, size_bytes);
  std::byte touched[1];
  for (uint64_t offset = 0; offset < size_bytes; offset += PageBytes())
    bytes.CopyOut(offset, touched);
  return absl::OkStatus();
}

absl::Status PlacePart(const Part& part, std::byte* address, OnFork on_fork,
                       const MapPolicy& policy) {
  const int protection = part.writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* placed = ::mmap(address, part.size_bytes, protection, MAP_SHARED | MAP_FIXED,
                        part.memfd->fd(), static_cast<off_t>(part.offset_bytes));
  if (placed == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("mmap of ", part.size_bytes,
                                           part.writable ? " writable" : " read-only", " bytes"));
  }
  if (on_fork == OnFork::kDrop && ::madvise(address, part.size_bytes, MADV_DONTFORK) != 0) {
    return ErrnoStatus(errno, "madvise DONTFORK");
  }
  return ApplyPolicy(part, address, policy);
}

// Where a range that is aligned to `bytes` has to begin for its parts to fit their huge pages.
struct Alignment {
  uint64_t bytes = 0;
  uint64_t offset_bytes = 0;  // The base, modulo `bytes`.
};

// The first part in huge pages decides; the kernel refuses others that do not fit.
Alignment AlignmentOf(std::span<const Part> parts, bool huge) {
  uint64_t position = 0;
  for (const Part& part : parts) {
    uint64_t bytes = part.memfd->page_bytes();
    const bool transparent = huge || part.memfd->map_policy().huge;
    if (transparent && part.size_bytes >= kHugePageBytes) bytes = std::max(bytes, kHugePageBytes);
    if (bytes > PageBytes())
      return {.bytes = bytes, .offset_bytes = (part.offset_bytes - position) & (bytes - 1)};
    position += part.size_bytes;
  }
  return {.bytes = PageBytes(), .offset_bytes = 0};
}

}  // namespace

uint64_t PageBytes() {
  static const auto page_bytes = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return page_bytes;
}

uint64_t RoundUpToPages(uint64_t value) {
  const uint64_t mask = PageBytes() - 1;
  if (value > std::numeric_limits<uint64_t>::max() - mask) return ~mask;
  return (value + mask) & ~mask;
}

absl::StatusOr<AddressRange> AddressRange::Reserve(std::span<const Part> parts, bool huge) {
  IOB_ASSIGN_OR_RETURN(const uint64_t content_bytes, TotalBytes(parts));
  const Alignment alignment = AlignmentOf(parts, huge);
  const uint64_t slack_bytes = alignment.bytes > PageBytes() ? alignment.bytes : 0;
  const uint64_t reserved_bytes = content_bytes + 2 * PageBytes() + slack_bytes;
  void* reserved = ::mmap(nullptr, reserved_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED)
    return ErrnoStatus(errno, absl::StrCat("mmap of ", reserved_bytes, " addresses"));
  AddressRange range;
  range.reserved_ = static_cast<std::byte*>(reserved);
  range.reserved_bytes_ = reserved_bytes;
  range.content_bytes_ = content_bytes;
  const auto first = std::bit_cast<uintptr_t>(range.reserved_) + PageBytes();
  range.base_ =
      range.reserved_ + PageBytes() + ((alignment.offset_bytes - first) & (alignment.bytes - 1));
  return range;
}

absl::StatusOr<AddressRange> AddressRange::MapParts(std::span<const Part> parts, OnFork on_fork) {
  IOB_ASSIGN_OR_RETURN(AddressRange range, Reserve(parts, /*huge=*/false));
  std::byte* address = range.base();
  for (const Part& part : parts) {
    if (part.size_bytes == 0) continue;
    IOB_RETURN_IF_ERROR(PlacePart(part, address, on_fork, part.memfd->map_policy()));
    address += part.size_bytes;
  }
  return range;
}

absl::StatusOr<AddressRange> AddressRange::MapParts(std::span<const Part> parts, OnFork on_fork,
                                                    const MapPolicy& policy) {
  IOB_ASSIGN_OR_RETURN(AddressRange range, Reserve(parts, policy.huge));
  std::byte* address = range.base();
  for (const Part& part : parts) {
    if (part.size_bytes == 0) continue;
    IOB_RETURN_IF_ERROR(PlacePart(part, address, on_fork, policy));
    address += part.size_bytes;
  }
  return range;
}

AddressRange& AddressRange::operator=(AddressRange&& other) noexcept {
  if (this != &other) {
    Unmap();
    reserved_ = std::exchange(other.reserved_, nullptr);
    reserved_bytes_ = std::exchange(other.reserved_bytes_, 0);
    base_ = std::exchange(other.base_, nullptr);
    content_bytes_ = std::exchange(other.content_bytes_, 0);
  }
  return *this;
}

void AddressRange::Unmap() {
  if (reserved_ == nullptr) return;
  const int result = ::munmap(std::exchange(reserved_, nullptr), reserved_bytes_);
  IOB_CHECK(result == 0);
}

absl::StatusOr<Mapping> Mapping::Map(const SealedMemfd& memfd, OnFork on_fork) {
  return MapWindow(memfd, 0, memfd.size_bytes(), 1, on_fork);
}

absl::StatusOr<Mapping> Mapping::MapWindow(const SealedMemfd& memfd, uint64_t offset_bytes,
                                           uint64_t size_bytes, int times, OnFork on_fork) {
  const std::vector<Part> parts(static_cast<size_t>(times), Part{.memfd = &memfd,
                                                                 .offset_bytes = offset_bytes,
                                                                 .size_bytes = size_bytes,
                                                                 .writable = true});
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts(parts, on_fork));
  return Mapping(std::move(range));
}

absl::StatusOr<ReadOnlyMapping> ReadOnlyMapping::Map(const SealedMemfd& memfd, OnFork on_fork) {
  const Part part{
      .memfd = &memfd, .offset_bytes = 0, .size_bytes = memfd.size_bytes(), .writable = false};
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts({&part, 1}, on_fork));
  return ReadOnlyMapping(std::move(range));
}

}  // namespace iob::shm
