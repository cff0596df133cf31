// The id allocator's layout: where its words are, what they may hold, and which sizes may be.
//
//   0        8        16             index_end          blob_head                     region size
//   +--------+--------+--------+-----+------------------+---------+-----+--------+--------+
//   | header | slot 0 | slot 1 | ... |       free       | blob n  | ... | blob 1 | blob 0 |
//   +--------+--------+--------+-----+------------------+---------+-----+--------+--------+
//     u64      u64 each, one per id  ->              <-  back to back, at any alignment
//
//   header := u32 next_id  | u32 blob_head << 32        starts as {0, region size}
//   slot   := u32 size     | u32 offset << 32           starts as {0, 0}: nothing committed
//
// Byte for byte Zircon's ID_ALLOCATOR. Both words are always read and written whole, as one atomic.
// A header is valid when index_end = 8 + 8 * next_id <= blob_head <= region size.
//
// A region is whole pages and at most UINT32_MAX bytes, hence at most 2^32 - 4096. So no blob
// starts above 0xfffff000, and the offsets above it are free to say what Zircon has no word for:
//
//   slot := u32 size | 0xfffff000 + owner   PENDING: claimed by `owner` (1..4094), not yet there
//   slot := u32 size | 0xffffffff           TOMBSTONE: its claimant died; there will be no blob
//
// Both exist in shared regions only. A reader made for Zircon finds the offset beyond the region
// and answers kInvalidIndex, where in Zircon it would see {0, 0} and answer kUncommittedIndex: the
// one difference it can see. {0, 0} cannot name an owner, and a claim that names nobody could never
// be told from one that is still being filled.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/hostile.h"

namespace iob::shm {

static_assert(std::endian::native == std::endian::little,
              "the halves of a word are where Zircon has them");

inline constexpr uint64_t kIdHeaderOffset = 0;
inline constexpr uint64_t kIdHeaderBytes = 8;
inline constexpr uint64_t kIdSlotBytes = 8;

// Offset of the slot of `id`.
constexpr uint64_t IdSlotOffset(uint32_t id) { return kIdHeaderBytes + kIdSlotBytes * id; }

// Beyond it, 8 + 8 * next_id does not fit in 32 bits.
inline constexpr uint32_t kNextIdMax =
    (std::numeric_limits<uint32_t>::max() - kIdHeaderBytes) / kIdSlotBytes;

// Who claims: one number per process that may write, for as long as it lives.
using IdOwner = uint32_t;
inline constexpr IdOwner kIdOwnerBroker = 1;
inline constexpr IdOwner kIdOwnersMax = 4094;

inline constexpr uint32_t kPendingOffsetBase = 0xfffff000;  // + owner.
inline constexpr uint32_t kTombstoneOffset = 0xffffffff;

// Sizes of one region, checked once; arithmetic on it needs no further checks.
class IdAllocatorLayout {
 public:
  // OUT_OF_RANGE when `region_bytes`, rounded up to pages, is above UINT32_MAX; INVALID_ARGUMENT
  // unless it is whole pages, at least one.
  static absl::StatusOr<IdAllocatorLayout> ForRegion(uint64_t region_bytes);

  uint32_t region_bytes() const { return region_bytes_; }

 private:
  explicit IdAllocatorLayout(uint32_t region_bytes) : region_bytes_(region_bytes) {}
  uint32_t region_bytes_;
};

// A header that is valid for its region.
struct IdHeader {
  uint32_t next_id = 0;
  uint32_t blob_head = 0;

  // The header word of a region of that many bytes, or nullopt.
  static constexpr std::optional<IdHeader> Check(Untrusted<uint64_t>&& claimed,
                                                 uint32_t region_bytes) {
    // Any word is two halves; it is the halves that are checked.
    const uint64_t word = *std::move(claimed).Between(0, UINT64_MAX);
    const auto claimed_next_id = static_cast<uint32_t>(word);
    const auto claimed_blob_head = static_cast<uint32_t>(word >> 32);
    if (claimed_next_id > kNextIdMax || claimed_blob_head > region_bytes) return std::nullopt;
    if (IdSlotOffset(claimed_next_id) > claimed_blob_head) return std::nullopt;
    return IdHeader{.next_id = claimed_next_id, .blob_head = claimed_blob_head};
  }

  constexpr uint64_t word() const { return next_id | uint64_t{blob_head} << 32; }

  // What is left for slots and blobs together.
  constexpr uint64_t free_bytes() const { return blob_head - IdSlotOffset(next_id); }
  constexpr bool HasSlot() const { return free_bytes() >= kIdSlotBytes; }
  constexpr bool HasRoomFor(uint64_t blob_bytes) const {
    return HasSlot() && blob_bytes <= free_bytes() - kIdSlotBytes;
  }

  // After one more blob, for which there must be room.
  constexpr IdHeader Plus(uint32_t blob_bytes) const {
    return {.next_id = next_id + 1, .blob_head = blob_head - blob_bytes};
  }

  friend constexpr bool operator==(const IdHeader&, const IdHeader&) = default;
};

// What a slot says. Nothing here has been compared with a header or a region.
struct IdSlot {
  enum class State : uint8_t { kEmpty, kPending, kTombstone, kBlob };

  State state = State::kEmpty;
  uint32_t claimed_bytes = 0;   // All but kEmpty.
  uint32_t claimed_offset = 0;  // kBlob.
  IdOwner owner = 0;            // kPending; 1..kIdOwnersMax.

  static constexpr IdSlot Parse(Untrusted<uint64_t>&& claimed) {
    const uint64_t word = *std::move(claimed).Between(0, UINT64_MAX);
    if (word == 0) return {};
    const auto bytes = static_cast<uint32_t>(word);
    const auto offset = static_cast<uint32_t>(word >> 32);
    if (offset == kTombstoneOffset) return {.state = State::kTombstone, .claimed_bytes = bytes};
    if (offset > kPendingOffsetBase) {
      return {
          .state = State::kPending, .claimed_bytes = bytes, .owner = offset - kPendingOffsetBase};
    }
    return {.state = State::kBlob, .claimed_bytes = bytes, .claimed_offset = offset};
  }

  static constexpr uint64_t PendingWord(IdOwner owner, uint32_t bytes) {
    return bytes | uint64_t{kPendingOffsetBase + owner} << 32;
  }
  static constexpr uint64_t TombstoneWord(uint32_t bytes) {
    return bytes | uint64_t{kTombstoneOffset} << 32;
  }
  // Never 0: no blob starts at offset 0.
  static constexpr uint64_t BlobWord(uint32_t bytes, uint32_t offset) {
    return bytes | uint64_t{offset} << 32;
  }
};

// How an allocation ended. Everything but the first two leaves no id behind that has a blob.
enum class AllocateOutcome : uint8_t {
  kAllocated,
  kInterned,       // An earlier id has the same bytes; nothing was stored.
  kOutOfMemory,    // No room for the blob and its slot. Nothing has changed.
  kBusy,           // The words changed all the time. Nothing of ours was left; try again later.
  kInvalidHeader,  // The header cannot be.
  kNonEmptyIndex,  // The slot of a fresh id holds what nobody can have put there.
};

// OK for kAllocated and kInterned, RESOURCE_EXHAUSTED (REGION_FULL), UNAVAILABLE, DATA_LOSS.
absl::Status StatusOf(AllocateOutcome outcome);

}  // namespace iob::shm
