// The broadcast ring's layout: one writer, any number of followers that it does not know.
//
//   DATA section; the writer writes it, followers only read
//     0      8           16       64       72          80          page                 region
//     +------+-----------+--------+--------+-----------+-----------+--------+--------+-----+
//     | head | next_     | stored | oldest | over-     | over-     | record | record | ... |
//     |      | sequence  | _bytes |        | written   | written   |        |        |     |
//     |      |           |        |        | _records  | _bytes    |        |        |     |
//     +------+-----------+--------+--------+-----------+-----------+--------+--------+-----+
//     written at each publish .....written before records are overwritten
//
//   record := u64 sequence | u32 length (payload bytes) | u32 0 | u64 tag | payload | zeros to 8
//
//   WAIT section: wait_hint.h.
//
// Positions are u64 byte counts that never wrap in practice; position p is at p % capacity, and
// records are mapped twice in a row. Records have consecutive sequence numbers, from 0: so
// next_sequence is also how many were ever stored, and overwritten_records the sequence number of
// the oldest that is left.
//
//   B1  oldest <= head <= oldest + capacity in the writer's order; both only grow.
//   B2  Records in [oldest, head) are complete. `oldest` moves before a byte below it changes, so
//       whoever finds it not beyond a record after copying it has an intact copy.
//   B3  head is stored first, then next_sequence and stored_bytes; oldest first, then
//       overwritten_records and overwritten_bytes. A writer killed in between leaves counters that
//       are behind, never ahead, and its successor sets them right from the records.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace iob::shm {

inline constexpr uint64_t kBroadcastHeaderBytes = 24;

// Ring bytes that a record takes. Never overflows for a payload within a ring.
constexpr uint64_t BroadcastRecordBytes(uint64_t payload_bytes) {
  return (kBroadcastHeaderBytes + payload_bytes + 7) & ~uint64_t{7};
}

// Offsets in the first page of DATA. One cache line for each of the two moments of writing.
inline constexpr uint64_t kBroadcastHead = 0;
inline constexpr uint64_t kBroadcastNextSequence = 8;
inline constexpr uint64_t kBroadcastStoredBytes = 16;
inline constexpr uint64_t kBroadcastOldest = 64;
inline constexpr uint64_t kBroadcastOverwrittenRecords = 72;
inline constexpr uint64_t kBroadcastOverwrittenBytes = 80;

// No honest writer gets there; below it, no sum of a position and a size wraps.
inline constexpr uint64_t kBroadcastPositionMax = uint64_t{1} << 62;
inline constexpr uint64_t kBroadcastSequenceMax = uint64_t{1} << 62;

// A record's first words, copied out of the ring before they are looked at.
struct BroadcastHeader {
  uint64_t sequence;
  uint32_t payload_bytes;
  uint32_t zero;
  uint64_t tag;
};
static_assert(sizeof(BroadcastHeader) == kBroadcastHeaderBytes);

// Sizes of one ring, checked once; arithmetic on it needs no further checks.
class BroadcastLayout {
 public:
  // INVALID_ARGUMENT unless `region_bytes` is whole pages, at least two; OUT_OF_RANGE above
  // kRegionBytesMax.
  static absl::StatusOr<BroadcastLayout> ForRegion(uint64_t region_bytes);

  // Below 4 GiB: the low half of head, the futex word, differs between any two states of the ring
  // that lie less than a full lap apart. A follower that is further behind when it goes to sleep
  // has its deadline.
  static constexpr uint64_t kRegionBytesMax = uint64_t{2} << 30;

  uint64_t region_bytes() const { return page_bytes_ + capacity_bytes_; }
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t payload_bytes_max() const { return capacity_bytes_ - kBroadcastHeaderBytes; }
  uint64_t data_section_bytes() const { return page_bytes_ + capacity_bytes_; }
  uint64_t wait_section_bytes() const { return page_bytes_; }
  uint64_t page_bytes() const { return page_bytes_; }

  // Whether a copied header can be that of a record which ends at most `room_bytes` further on.
  bool Plausible(const BroadcastHeader& claimed, uint64_t room_bytes) const {
    return claimed.zero == 0 && claimed.payload_bytes <= payload_bytes_max() &&
           BroadcastRecordBytes(claimed.payload_bytes) <= room_bytes &&
           claimed.sequence < kBroadcastSequenceMax;
  }

 private:
  BroadcastLayout(uint64_t page_bytes, uint64_t capacity_bytes)
      : page_bytes_(page_bytes), capacity_bytes_(capacity_bytes) {}
  uint64_t page_bytes_;
  uint64_t capacity_bytes_;
};

}  // namespace iob::shm
