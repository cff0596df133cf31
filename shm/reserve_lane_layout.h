// A lane: the ring of one producer process and one consumer that do not trust each other.
//
//   LANE section: the producer writes; the consumer reads (and writes the data if it `clears`)
//     0      64          128       192              256     page                page + capacity
//     +------+-----------+---------+----------------+-------+--------+--------+-------------+
//     | tail | want_room | 2 slots | not stored     |  ...  | record | record |    free     |
//     +------+-----------+---------+----------------+-------+--------+--------+-------------+
//   CONTROL section, one page: the consumer writes, the producer reads
//     0      64          128
//     +------+-----------+---------+-----+
//     | head | waiting   | 2 slots | ... |
//     +------+-----------+---------+-----+
//
//   record := u64 word | u64 stamp_ns | payload | up to a multiple of 8
//   word   := payload length (30 bits) | DISCARD << 30 | 0 << 31 | record number << 32
//   slot   := u64 sequence | u64 discards | u64 payload bytes | u64 position
//
// Positions are u64 byte counts that never wrap in practice; the offset of position p in the data
// is p % capacity, and the data is mapped twice in a row, so that every record is contiguous.
//
// There is no mark for a record that is being written: tail does not move over it.
//
// A slot is what its side counted up to a position. A side fills the slot that is not in force,
// position last, and only then moves its word (tail or head), so that a kill between any two
// stores leaves one slot that is complete:
//   P1  The producer's slot in force is the one whose position is tail: what lies beyond was never
//       published.
//   P2  The consumer's slot in force is the one with the higher position from head to tail: its
//       records were released, though head may not say so yet.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "shm/hostile.h"
#include "shm/ledger.h"
#include "shm/memfd.h"
#include "shm/placement.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// Offsets in the LANE page.
inline constexpr uint64_t kLaneTailOffset = 0;
// u32: the bytes that a producer waits for, 0 for none, and kFenceForMe (light_fence.h).
inline constexpr uint64_t kLaneWantRoomOffset = 64;
inline constexpr uint64_t kLaneSlotsOffset = 128;
inline constexpr uint64_t kLaneFullRecordsOffset = 192;
inline constexpr uint64_t kLaneFullBytesOffset = 200;
inline constexpr uint64_t kLaneTooLargeRecordsOffset = 208;
inline constexpr uint64_t kLaneTooLargeBytesOffset = 216;
inline constexpr uint64_t kLaneIntegrityRecordsOffset = 224;
inline constexpr uint64_t kLaneIntegrityBytesOffset = 232;
inline constexpr uint64_t kLaneDiscardedRecordsOffset = 240;

// Offsets in the CONTROL page. `waiting` holds kWaitingOnFutex and kWaitingOnSocket
// (ring_layout.h), and kFenceForMe.
inline constexpr uint64_t kLaneHeadOffset = 0;
inline constexpr uint64_t kLaneWaitingOffset = 64;
inline constexpr uint64_t kLaneConsumedSlotsOffset = 128;

// The first word of a record.
inline constexpr uint64_t kLaneLengthMask = (uint64_t{1} << 30) - 1;
inline constexpr uint64_t kLaneDiscarded = uint64_t{1} << 30;
constexpr uint64_t LaneWord(uint64_t payload_bytes, uint64_t state, uint64_t sequence) {
  return payload_bytes | state | (sequence << 32);
}

// Everything up to `position`: how many record numbers were used, how many of these were discards,
// and the payload bytes of the others. Where a successor of either side goes on.
struct LaneCheckpoint {
  uint64_t position = 0;
  uint64_t sequence = 0;
  uint64_t discards = 0;
  uint64_t payload_bytes = 0;

  uint64_t records() const { return sequence - discards; }
};

// The two slots of one side.
class LaneSlots {
 public:
  explicit LaneSlots(std::byte* first) : first_(first) {}

  // Into the slot that is not in force. The caller then moves its word; no store of the caller's
  // passes this one, in either direction, in the order a kill can see.
  void Store(const LaneCheckpoint& checkpoint) {
    // What the last word store made visible must not be overtaken by this slot's first.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    in_force_ ^= 1;
    std::byte* const slot = first_ + in_force_ * kSlotBytes;
    SharedWordAt<uint64_t>(slot + kSequence).StoreRelaxed(checkpoint.sequence);
    SharedWordAt<uint64_t>(slot + kDiscards).StoreRelaxed(checkpoint.discards);
    SharedWordAt<uint64_t>(slot + kPayloadBytes).StoreRelaxed(checkpoint.payload_bytes);
    SharedWordAt<uint64_t>(slot + kPosition).StoreRelease(checkpoint.position);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  // Before the first Store of an owner: leaves the slot in force as the only one. Two slots of the
  // same position (a fresh page has them) would make a half-filled one look complete.
  void DropOther() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    SharedWordAt<uint64_t>(first_ + (in_force_ ^ 1) * kSlotBytes + kPosition)
        .StoreRelease(UINT64_MAX);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  // The slot with the highest position within [low, high], and makes it the one in force. Nothing
  // when there is none, or when it counts more discards than record numbers.
  std::optional<LaneCheckpoint> Recover(uint64_t low, uint64_t high);

 private:
  static constexpr uint64_t kSlotBytes = 32;
  static constexpr uint64_t kSequence = 0;
  static constexpr uint64_t kDiscards = 8;
  static constexpr uint64_t kPayloadBytes = 16;
  static constexpr uint64_t kPosition = 24;

  std::byte* first_;
  uint64_t in_force_ = 0;
};

// Sizes of one lane, checked once; arithmetic on it needs no further checks.
class LaneLayout {
 public:
  // At most 2 GiB, below 4 GiB for the futexes' sake: the low half of tail or head, on which the
  // sides sleep, never shows one value for two different amounts of data in the ring.
  static constexpr uint64_t kCapacityBytesMax = uint64_t{2} << 30;

  // INVALID_ARGUMENT unless `capacity_bytes` is whole pages, at least one; OUT_OF_RANGE above
  // kCapacityBytesMax.
  static absl::StatusOr<LaneLayout> ForCapacity(uint64_t capacity_bytes);

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t page_bytes() const { return page_bytes_; }
  uint64_t lane_section_bytes() const { return page_bytes_ + capacity_bytes_; }
  uint64_t control_section_bytes() const { return page_bytes_; }

  // A record may fill the ring; its length must fit into its word.
  uint64_t payload_bytes_max() const {
    const uint64_t room = capacity_bytes_ - kRecordHeaderBytes;
    return room < kLaneLengthMask ? room : kLaneLengthMask;
  }

  // FAILED_PRECONDITION unless the sections have the sizes of this layout.
  absl::Status CheckSections(const SealedMemfd& lane_memfd, const SealedMemfd& control_memfd) const;

 private:
  LaneLayout(uint64_t page_bytes, uint64_t capacity_bytes)
      : page_bytes_(page_bytes), capacity_bytes_(capacity_bytes) {}
  uint64_t page_bytes_;
  uint64_t capacity_bytes_;
};

// Fresh, zeroed sections: an empty lane.
struct LaneSections {
  SealedMemfd lane;
  SealedMemfd control;
};
absl::StatusOr<LaneSections> CreateLaneSections(const LaneLayout& layout,
                                                const Placement& placement = {});

// What a producer says of itself in its page.
struct LaneAccount {
  LaneCheckpoint published;  // Exact after a kill at any instruction (P1).
  Ledger ledger;
  uint64_t discarded_records = 0;
};

// Reads the account of a lane, for the broker or for whoever starts the successor of a dead
// producer. It is as honest as whoever can write the section: an account by the consumer's own
// reading is LaneConsumer::SettleLedger. DATA_LOSS when no slot belongs to tail.
absl::StatusOr<LaneAccount> ReadLaneAccount(const LaneLayout& layout,
                                            const SealedMemfd& lane_memfd);

// The same from a page that is mapped already.
std::optional<LaneAccount> LaneAccountIn(std::byte* lane_page);

}  // namespace iob::shm
