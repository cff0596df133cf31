#include "shm/id_allocator_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// The lowest id with a blob of that size for which `equals(offset)`. Ids without a readable blob
// are passed over: they are not what is looked for.
template <typename Equals>
FindOutcome Scan(const IdIndex& index, uint64_t size_bytes, uint32_t* ret_id, Equals equals) {
  const std::optional<IdHeader> header = index.LoadHeader();
  if (!header) return FindOutcome::kInvalidHeader;
  // Blobs lie side by side, so all of them together are no more than this.
  uint64_t bytes_left = index.region_bytes();
  for (uint32_t id = 0; id < header->next_id; ++id) {
    BlobRange range;
    if (index.Locate(*header, id, &range) != BlobOutcome::kBlob) continue;
    if (range.size_bytes != size_bytes) continue;
    if (size_bytes > bytes_left) return FindOutcome::kInvalidIndex;
    bytes_left -= size_bytes;
    if (!equals(range.offset)) continue;
    *ret_id = id;
    return FindOutcome::kFound;
  }
  return FindOutcome::kAbsent;
}

}  // namespace

absl::Status StatusOf(BlobOutcome outcome, uint32_t id) {
  switch (outcome) {
    case BlobOutcome::kBlob:
      return absl::OkStatus();
    case BlobOutcome::kInvalidHeader:
      return absl::DataLossError("the id allocator's header cannot be");
    case BlobOutcome::kUnallocatedId:
      return absl::NotFoundError(absl::StrCat("id ", id, " is not allocated"));
    case BlobOutcome::kUncommitted:
      return absl::UnavailableError(absl::StrCat("id ", id, " is still being filled; try again"));
    case BlobOutcome::kTombstone:
      return absl::NotFoundError(
          absl::StrCat("id ", id, " has no blob: the process that claimed it died"));
    case BlobOutcome::kInvalidIndex:
      return absl::DataLossError(absl::StrCat("the index slot of id ", id, " cannot be"));
    case BlobOutcome::kTooLarge:
      return absl::ResourceExhaustedError(
          absl::StrCat("the blob of id ", id, " is larger than asked for"));
  }
  IOB_CHECK(false);
}

absl::StatusOr<IdIndex> IdIndex::Map(const IdAllocatorLayout& layout, const SealedMemfd& memfd) {
  if (memfd.size_bytes() != layout.region_bytes()) {
    return absl::FailedPreconditionError(absl::StrCat("a section of ", memfd.size_bytes(),
                                                      " bytes is no id allocator of ",
                                                      layout.region_bytes(), " bytes"));
  }
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping region, ReadOnlyMapping::Map(memfd));
  return IdIndex(layout, std::move(region));
}

std::optional<IdHeader> IdIndex::LoadHeader() const {
  // Pairs with the writers' release: the slots that next_id counts are claimed, in a sealed region
  // committed.
  return IdHeader::Check(region_.Word<uint64_t>(kIdHeaderOffset).LoadAcquire(),
                         layout_.region_bytes());
}

BlobOutcome IdIndex::Locate(const IdHeader& header, uint32_t id, BlobRange* ret_range) const {
  if (id >= header.next_id) return BlobOutcome::kUnallocatedId;
  // Pairs with the release that commits a slot: the bytes of the blob are there.
  const IdSlot slot = IdSlot::Parse(region_.Word<uint64_t>(IdSlotOffset(id)).LoadAcquire());
  switch (slot.state) {
    case IdSlot::State::kEmpty:
    case IdSlot::State::kPending:
      return BlobOutcome::kUncommitted;
    case IdSlot::State::kTombstone:
      return BlobOutcome::kTombstone;
    case IdSlot::State::kBlob:
      break;
  }
  // The header may be older than the slot: an id that it counts was placed at or above its
  // blob_head.
  if (slot.claimed_offset < header.blob_head || slot.claimed_offset > region_bytes() ||
      slot.claimed_bytes > region_bytes() - slot.claimed_offset) {
    return BlobOutcome::kInvalidIndex;
  }
  *ret_range = {.offset = slot.claimed_offset, .size_bytes = slot.claimed_bytes};
  return BlobOutcome::kBlob;
}

BlobOutcome IdIndex::Locate(uint32_t id, BlobRange* ret_range) const {
  const std::optional<IdHeader> header = LoadHeader();
  if (!header) return BlobOutcome::kInvalidHeader;
  return Locate(*header, id, ret_range);
}

absl::StatusOr<IdAllocatorSealedReader> IdAllocatorSealedReader::Map(
    const IdAllocatorLayout& layout, const SealedMemfd& memfd) {
  const int seals = ::fcntl(memfd.fd(), F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) == 0) {
    return absl::FailedPreconditionError("an id allocator's section is not sealed against writers");
  }
  IOB_ASSIGN_OR_RETURN(IdIndex index, IdIndex::Map(layout, memfd));
  return IdAllocatorSealedReader(std::move(index));
}

BlobOutcome IdAllocatorSealedReader::GetView(uint32_t id,
                                             std::span<const std::byte>* ret_blob) const {
  BlobRange range;
  const BlobOutcome outcome = index_.Locate(id, &range);
  if (outcome == BlobOutcome::kBlob)
    *ret_blob = {index_.region().base() + range.offset, range.size_bytes};
  return outcome;
}

FindOutcome IdAllocatorSealedReader::Find(std::span<const std::byte> blob, uint32_t* ret_id) const {
  return Scan(index_, blob.size(), ret_id, [&](uint32_t offset) {
    return blob.empty() ||
           std::memcmp(index_.region().base() + offset, blob.data(), blob.size()) == 0;
  });
}

absl::StatusOr<IdAllocatorSharedReader> IdAllocatorSharedReader::Map(
    const IdAllocatorLayout& layout, const SealedMemfd& memfd) {
  IOB_ASSIGN_OR_RETURN(IdIndex index, IdIndex::Map(layout, memfd));
  return IdAllocatorSharedReader(std::move(index));
}

BlobOutcome IdAllocatorSharedReader::GetCopy(uint32_t id, uint32_t bytes_max,
                                             std::vector<std::byte>* ret_blob) const {
  BlobRange range;
  const BlobOutcome outcome = index_.Locate(id, &range);
  if (outcome != BlobOutcome::kBlob) return outcome;
  if (range.size_bytes > bytes_max) return BlobOutcome::kTooLarge;
  ret_blob->resize(range.size_bytes);
  index_.region().CopyOut(range.offset, *ret_blob);
  return BlobOutcome::kBlob;
}

FindOutcome IdAllocatorSharedReader::Find(std::span<const std::byte> blob, uint32_t* ret_id) const {
  return Scan(index_, blob.size(), ret_id,
              [&](uint32_t offset) { return HoldsBytes(offset, blob); });
}

bool IdAllocatorSharedReader::HoldsBytes(uint32_t offset, std::span<const std::byte> blob) const {
  std::array<std::byte, 4096> copy;
  while (!blob.empty()) {
    const size_t size_bytes = std::min(blob.size(), copy.size());
    index_.region().CopyOut(offset, std::span(copy).first(size_bytes));
    if (std::memcmp(copy.data(), blob.data(), size_bytes) != 0) return false;
    blob = blob.subspan(size_bytes);
    // The whole blob is inside the region (B2), so this cannot pass its end.
    offset += static_cast<uint32_t>(size_bytes);
  }
  return true;
}

}  // namespace iob::shm
