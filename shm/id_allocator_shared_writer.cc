#include "shm/id_allocator_shared_writer.h"

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "shm/section.h"

namespace iob::shm {

absl::StatusOr<std::pair<SealedMemfd, IdAllocatorSharedWriter>> IdAllocatorSharedWriter::Create(
    const IdAllocatorLayout& layout, const Placement& placement) {
  IOB_ASSIGN_OR_RETURN(SealedMemfd memfd, MakeSection("iob-ids", layout.region_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(IdAllocatorSharedWriter writer, Map(layout, memfd, kIdOwnerBroker));
  const IdHeader empty{.next_id = 0, .blob_head = layout.region_bytes()};
  writer.region_.Word<uint64_t>(kIdHeaderOffset).StoreRelease(empty.word());
  return std::pair(std::move(memfd), std::move(writer));
}

absl::StatusOr<IdAllocatorSharedWriter> IdAllocatorSharedWriter::Map(
    const IdAllocatorLayout& layout, const SealedMemfd& memfd, IdOwner owner) {
  if (owner == 0 || owner > kIdOwnersMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("owner ", owner, " of an id allocator is not in 1..", kIdOwnersMax));
  }
  if (memfd.size_bytes() != layout.region_bytes()) {
    return absl::FailedPreconditionError(absl::StrCat("a section of ", memfd.size_bytes(),
                                                      " bytes is no id allocator of ",
                                                      layout.region_bytes(), " bytes"));
  }
  IOB_ASSIGN_OR_RETURN(Mapping region, Mapping::Map(memfd, OnFork::kDrop));
  return IdAllocatorSharedWriter(layout, std::move(region), owner);
}

AllocateOutcome IdAllocatorSharedWriter::Allocate(std::span<const std::byte> blob,
                                                  uint32_t* ret_id) const {
  for (int attempt = 0; attempt < kTriesMax; ++attempt) {
    const std::optional<IdHeader> header = LoadHeader();
    if (!header) return AllocateOutcome::kInvalidHeader;
    // Room only shrinks, so a header that is out of date gives the right answer here too. Without
    // room for a slot there is none to look at (P4).
    if (!header->HasRoomFor(blob.size())) return AllocateOutcome::kOutOfMemory;
    const IdSlot slot = LoadSlot(header->next_id);
    switch (slot.state) {
      case IdSlot::State::kEmpty: {
        const auto size_bytes = static_cast<uint32_t>(blob.size());
        if (ExchangeSlot(header->next_id, 0, IdSlot::PendingWord(owner_, size_bytes)))
          return FillClaim(*header, blob, ret_id);
        break;
      }
      case IdSlot::State::kPending:
      case IdSlot::State::kTombstone:
        // A claim is made only where it fits, and its size never changes (P1).
        if (!header->HasRoomFor(slot.claimed_bytes)) return AllocateOutcome::kNonEmptyIndex;
        // Failing is as good: somebody else has helped.
        region_.Word<uint64_t>(kIdHeaderOffset)
            .CompareExchange(header->word(), header->Plus(slot.claimed_bytes).word());
        break;
      case IdSlot::State::kBlob: {
        // The header passed it before it was committed (P3), so ours must have been out of date:
        // the acquire load of the slot makes the newer one visible to the next load.
        const std::optional<IdHeader> newer = LoadHeader();
        if (!newer) return AllocateOutcome::kInvalidHeader;
        if (newer->next_id <= header->next_id) return AllocateOutcome::kNonEmptyIndex;
        break;
      }
    }
  }
  return AllocateOutcome::kBusy;
}

AllocateOutcome IdAllocatorSharedWriter::FillClaim(const IdHeader& header,
                                                   std::span<const std::byte> blob,
                                                   uint32_t* ret_id) const {
  const uint32_t id = header.next_id;
  const auto size_bytes = static_cast<uint32_t>(blob.size());
  const uint64_t pending = IdSlot::PendingWord(owner_, size_bytes);
  if (!PassHeader(header, size_bytes)) {
    // Nobody can tell any more which bytes are ours. A claim that stayed behind would look like one
    // in progress for as long as we live.
    ExchangeSlot(id, pending, IdSlot::TombstoneWord(size_bytes));
    return AllocateOutcome::kInvalidHeader;
  }
  // From our own copy of the header: whatever is in the region by now, this lies inside it.
  const uint32_t offset = header.Plus(size_bytes).blob_head;
  region_.bytes().CopyIn(offset, blob);
  // Pairs with the reader's acquire load of the slot.
  if (!ExchangeSlot(id, pending, IdSlot::BlobWord(size_bytes, offset)))
    return AllocateOutcome::kNonEmptyIndex;
  *ret_id = id;
  return AllocateOutcome::kAllocated;
}

// Swings `header` past its next id, which was claimed with that many bytes, unless somebody has
// done so. False when the header then found cannot come from it (P2).
bool IdAllocatorSharedWriter::PassHeader(const IdHeader& header, uint32_t claimed_bytes) const {
  const IdHeader target = header.Plus(claimed_bytes);
  if (region_.Word<uint64_t>(kIdHeaderOffset).CompareExchange(header.word(), target.word()))
    return true;
  const std::optional<IdHeader> newer = LoadHeader();
  if (!newer) return false;
  if (newer->next_id == target.next_id) return newer->blob_head == target.blob_head;
  return newer->next_id > target.next_id && newer->blob_head <= target.blob_head;
}

absl::StatusOr<uint32_t> IdAllocatorSharedWriter::TombstoneOwner(IdOwner owner) const {
  if (owner == 0 || owner > kIdOwnersMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("owner ", owner, " of an id allocator is not in 1..", kIdOwnersMax));
  }
  // After the owner's death: nothing it claimed lies beyond this next_id.
  const std::optional<IdHeader> header = LoadHeader();
  if (!header) return StatusOf(AllocateOutcome::kInvalidHeader);
  uint32_t tombstones = 0;
  const auto entomb = [&](uint32_t id, uint32_t bytes) {
    // Failing means that somebody has scribbled: the owner is dead and the broker is one.
    const bool done =
        ExchangeSlot(id, IdSlot::PendingWord(owner, bytes), IdSlot::TombstoneWord(bytes));
    tombstones += done ? 1 : 0;
    return done;
  };
  bool intact = true;
  for (uint32_t id = 0; id < header->next_id; ++id) {
    const IdSlot slot = LoadSlot(id);
    if (slot.state == IdSlot::State::kPending && slot.owner == owner)
      intact &= entomb(id, slot.claimed_bytes);
  }
  // The one claim that the header may not have passed yet; it must, before the slot is settled
  // (P3).
  if (header->HasSlot()) {
    const IdSlot slot = LoadSlot(header->next_id);
    if (slot.state == IdSlot::State::kPending && slot.owner == owner) {
      intact &= header->HasRoomFor(slot.claimed_bytes) && PassHeader(*header, slot.claimed_bytes) &&
                entomb(header->next_id, slot.claimed_bytes);
    }
  }
  if (!intact) return StatusOf(AllocateOutcome::kNonEmptyIndex);
  return tombstones;
}

std::optional<IdHeader> IdAllocatorSharedWriter::LoadHeader() const {
  // Pairs with the release in CompareExchange: what next_id counts is claimed (P6).
  return IdHeader::Check(region_.Word<uint64_t>(kIdHeaderOffset).LoadAcquire(),
                         layout_.region_bytes());
}

IdSlot IdAllocatorSharedWriter::LoadSlot(uint32_t id) const {
  return IdSlot::Parse(region_.Word<uint64_t>(IdSlotOffset(id)).LoadAcquire());
}

bool IdAllocatorSharedWriter::ExchangeSlot(uint32_t id, uint64_t expected, uint64_t desired) const {
  return region_.Word<uint64_t>(IdSlotOffset(id)).CompareExchange(expected, desired);
}

}  // namespace iob::shm
