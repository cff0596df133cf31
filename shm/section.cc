#include "shm/section.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cinttypes>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/section_keeper.h"

namespace iob::shm {
namespace {

// mbind's bit mask, one bit more than nodes, as the kernel counts.
constexpr unsigned long kMaskBits = 1024;
using NodeMask = std::array<unsigned long, kMaskBits / (8 * sizeof(unsigned long))>;

absl::StatusOr<AddressRange> MapWhole(const SealedMemfd& memfd, bool writable, MapPolicy policy) {
  const Part part{
      .memfd = &memfd, .offset_bytes = 0, .size_bytes = memfd.size_bytes(), .writable = writable};
  return AddressRange::MapParts({&part, 1}, OnFork::kDrop, policy);
}

absl::Status BindToNode(const AddressRange& range, uint32_t node) {
  NodeMask mask = {};
  constexpr size_t kWordBits = 8 * sizeof(unsigned long);
  if (node >= kMaskBits) return absl::InvalidArgumentError(absl::StrCat("NUMA node ", node));
  mask[node / kWordBits] = 1UL << (node % kWordBits);
  if (::syscall(SYS_mbind, range.base(), range.size_bytes(), MPOL_BIND, mask.data(), kMaskBits + 1,
                MPOL_MF_STRICT | MPOL_MF_MOVE) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(ErrnoStatus(errno, absl::StrCat("mbind to NUMA node ", node)).message(),
                   "; nodes with memory here: ", absl::StrJoin(MemoryNodes(), ", ")));
}

// Best effort: what came of it is measured afterwards, by whoever cares.
void PopulateInHugePages(const AddressRange& range) {
  ::madvise(range.base(), range.size_bytes(), MADV_HUGEPAGE);
  ::madvise(range.base(), range.size_bytes(), MADV_POPULATE_WRITE);
  // Gathers what came in small pages, whatever the policy for shared memory is (Linux 6.1).
  ::madvise(range.base(), range.size_bytes(), MADV_COLLAPSE);
}

absl::Status PoolIsShort(const Placement& placement, uint64_t size_bytes) {
  const auto pool = PoolOf(placement.pool_page_bytes);
  const uint64_t needed = size_bytes / placement.pool_page_bytes;
  return absl::ResourceExhaustedError(
      absl::StrCat("the pool of pages of ", placement.pool_page_bytes >> 20, " MiB has ",
                   pool ? pool->free : 0, " free of ", pool ? pool->total : 0, ", ", needed,
                   " are needed: raise ", PoolKnob(placement.pool_page_bytes)));
}

absl::Status Allocate(const SealedMemfd& memfd, const Placement& placement) {
  const auto size = static_cast<off_t>(memfd.size_bytes());
  if (placement.transparent && memfd.size_bytes() >= kHugePageBytes) {
    MapPolicy policy;
    policy.huge = true;
    IOB_ASSIGN_OR_RETURN(const AddressRange range, MapWhole(memfd, true, policy));
    PopulateInHugePages(range);
  }
  // Last, because it alone promises that all of it is there.
  if (::fallocate(memfd.fd(), 0, 0, size) == 0) return absl::OkStatus();
  const int error_number = errno;
  if (placement.pool_page_bytes != 0)
    return ItemError(PlacementItem::kHugePages, PoolIsShort(placement, memfd.size_bytes()));
  return ErrnoStatus(error_number, absl::StrCat("fallocate of ", memfd.size_bytes(), " bytes"));
}

absl::StatusOr<Memfd> CreateMemfd(absl::string_view name, const Placement& placement) {
  if (placement.pool_page_bytes == 0) return Memfd::Create(name);
  if (!PoolOf(placement.pool_page_bytes)) {
    return ItemError(PlacementItem::kHugePages, absl::UnimplementedError(absl::StrCat(
                                                    "this machine has no pages of ",
                                                    placement.pool_page_bytes >> 20, " MiB")));
  }
  return Memfd::CreateInPool(name, placement.pool_page_bytes);
}

absl::Status Place(SealedMemfd* memfd, const Placement& placement) {
  if (placement.numa_node) {
    IOB_ASSIGN_OR_RETURN(const AddressRange range, MapWhole(*memfd, true, {}));
    const absl::Status bound = BindToNode(range, *placement.numa_node);
    if (!bound.ok()) return ItemError(PlacementItem::kNumaNode, bound);
  }
  if (!placement.sparse) IOB_RETURN_IF_ERROR(Allocate(*memfd, placement));
  memfd->set_map_policy({.prefault = placement.prefault,
                         .secret = placement.sensitive,
                         .huge = placement.transparent});
  if (!placement.lock && !placement.sensitive) return absl::OkStatus();
  IOB_ASSIGN_OR_RETURN(
      std::unique_ptr<SectionKeeper> keeper,
      SectionKeeper::Create(*memfd, {.lock = placement.lock, .wipe = placement.sensitive}));
  memfd->set_keeper(std::move(keeper));
  return absl::OkStatus();
}

// What /proc/self/smaps says of the mapping that begins at `address`, in bytes.
uint64_t MappedHugeBytes(const std::byte* address) {
  const std::unique_ptr<FILE, int (*)(FILE*)> smaps(::fopen("/proc/self/smaps", "re"), &::fclose);
  if (smaps == nullptr) return 0;
  char line[512];
  bool inside = false;
  while (::fgets(line, sizeof(line), smaps.get()) != nullptr) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      if (inside) break;
      inside = begin == std::bit_cast<uintptr_t>(address);
      continue;
    }
    uint64_t kib = 0;
    if (inside && ::sscanf(line, "ShmemPmdMapped: %" SCNu64, &kib) == 1) return kib << 10;
  }
  return 0;
}

}  // namespace

absl::StatusOr<SealedMemfd> MakeSection(absl::string_view name, uint64_t size_bytes,
                                        const Placement& placement) {
  IOB_ASSIGN_OR_RETURN(Memfd fresh, CreateMemfd(name, placement));
  IOB_ASSIGN_OR_RETURN(SealedMemfd memfd,
                       std::move(fresh).SealSize(size_bytes, Allocation::kLater));
  if (size_bytes == 0) return memfd;
  IOB_RETURN_IF_ERROR(Place(&memfd, placement));
  return memfd;
}

absl::StatusOr<uint64_t> HugeBytesOf(const SealedMemfd& memfd) {
  if (memfd.page_bytes() > PageBytes()) return memfd.size_bytes();
  if (memfd.size_bytes() < kHugePageBytes) return uint64_t{0};
  MapPolicy policy;
  policy.huge = true;
  policy.prefault = true;
  IOB_ASSIGN_OR_RETURN(const AddressRange range, MapWhole(memfd, false, policy));
  return MappedHugeBytes(range.base());
}

std::optional<uint32_t> NodeOf(const SealedMemfd& memfd) {
  constexpr uint64_t kPlacesMax = 64;
  if (memfd.size_bytes() == 0) return std::nullopt;
  const auto range = MapWhole(memfd, false, {});
  if (!range.ok()) return std::nullopt;
  const uint64_t pages = memfd.size_bytes() / memfd.page_bytes();
  const uint64_t places = std::min(pages, kPlacesMax);
  std::optional<uint32_t> found;
  for (uint64_t i = 0; i < places; ++i) {
    int node = -1;
    const std::byte* const page = range->base() + pages * i / places * memfd.page_bytes();
    if (::syscall(SYS_get_mempolicy, &node, nullptr, 0, page, MPOL_F_NODE | MPOL_F_ADDR) != 0 ||
        node < 0 || (found && *found != static_cast<uint32_t>(node))) {
      return std::nullopt;
    }
    found = static_cast<uint32_t>(node);
  }
  return found;
}

}  // namespace iob::shm
