#include "client/immutable_mapping.h"

#include <sys/mman.h>

#include <cerrno>

#include "shm/frozen_memfd.h"
#include "shm/hostile.h"
#include "shm/kernel.h"
#include "shm/memfd.h"
#include "shm/result.h"

namespace iob {
namespace {

// Older kernels are asked page by page. The memory is there already (FreshMemfd::Freeze).
void PopulateAll(const shm::AddressRange& range) {
  if (::madvise(range.base(), range.size_bytes(), MADV_POPULATE_READ) == 0) return;
  for (uint64_t at = 0; at < range.size_bytes(); at += shm::PageBytes()) {
    (void)shm::SharedWordAt<uint64_t>(range.base() + at).LoadRelaxed().ForHintOnly();
  }
}

}  // namespace

absl::StatusOr<ImmutableMapping> ImmutableMapping::Map(shm::UniqueFd fd, uint64_t size_bytes,
                                                       Populate populate) {
  if (size_bytes == 0) return ImmutableMapping();
  IOB_ASSIGN_OR_RETURN(shm::FrozenMemfd frozen, shm::FrozenMemfd::Adopt(std::move(fd), size_bytes));
  IOB_ASSIGN_OR_RETURN(const shm::SealedMemfd memfd,
                       shm::SealedMemfd::Adopt(std::move(frozen).Release(), size_bytes,
                                               /*writers_sealed=*/true));
  const shm::Part part{
      .memfd = &memfd, .offset_bytes = 0, .size_bytes = size_bytes, .writable = false};
  IOB_ASSIGN_OR_RETURN(shm::AddressRange range,
                       shm::AddressRange::MapParts(std::span(&part, 1), shm::OnFork::kShare));
  if (populate == Populate::kEager) PopulateAll(range);
  return ImmutableMapping(std::move(range));
}

}  // namespace iob
