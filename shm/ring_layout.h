// The mediated ring's layout: where its words are, how long its records are, and which sizes may
// be.
//
//   HEAD section, one page; the consumer may write it, so the broker believes none of it
//     0        8        16        64            4096
//     +--------+--------+---------+---------------+
//     | head   | tail   |         | waiting | ... |      u64 head    broker: bytes ever appended
//     +--------+--------+---------+---------------+      u64 tail    consumer: bytes ever released
//                                                        u32 waiting consumer: how to wake it
//   DATA section, sealed: the broker writes, nobody else can
//     0                                        capacity            capacity + page
//     +--------+--------+-----+--------+--------+------------------+
//     | record | record | ... | record |  free  |   ledger page    |
//     +--------+--------+-----+--------+--------+------------------+
//
//   record := u64 tag | u64 length (payload bytes) | payload | zeros up to a multiple of 8
//
//   FOLLOW section, one page, only with RingOptions::followers; any follower may write it
//     0         4096
//     +---------+
//     | waiting |   u32 waiting: some follower sleeps on the ledger page's head
//     +---------+
//
// What a ring may be asked to do more (RingOptions) changes neither the words above nor how records
// are walked: `length` counts whatever lies between it and the padding.
//
//   stamped  record := tag | length = 16 + n | u64 sequence | u64 time | n payload bytes | zeros
//            sequence  how many records were stored before this one
//            time      CLOCK_MONOTONIC, nanoseconds, when the broker stored it
//   gap      record := kGapTag | 24 | u64 records | u64 payload bytes | u64 at_record
//            Never stamped, never counted, never alone: the record that it precedes is stored with
//            it or not at all, and goes with it. One unit of a ring is a record with its gap.
//
// Positions are u64 byte counts that never wrap in practice; the offset of position p is p %
// capacity. A region of S bytes has capacity S - page; mapped side by side, HEAD and records read
// as Zircon's MEDIATED_WRITE_RING_BUFFER region, byte for byte. The ledger page is beyond the
// region's size.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace iob::shm {

static_assert(std::endian::native == std::endian::little,
              "shared layouts are little-endian, and futexes wait on the low half of a position");

// Zircon's limits: 16 + length fits in 16 bits, and zx_iob_writev takes 8 vectors.
inline constexpr uint64_t kRecordPayloadBytesMax = 65519;
inline constexpr size_t kRecordPartsMax = 8;

inline constexpr uint64_t kRecordHeaderBytes = 16;
inline constexpr uint64_t kRecordAlignBytes = 8;

// Ring bytes that a record takes. Never overflows for a payload within the limit.
constexpr uint64_t RecordBytes(uint64_t payload_bytes) {
  return (kRecordHeaderBytes + payload_bytes + kRecordAlignBytes - 1) & ~(kRecordAlignBytes - 1);
}

// Offsets in the HEAD page.
inline constexpr uint64_t kHeadOffset = 0;
inline constexpr uint64_t kTailOffset = 8;
inline constexpr uint64_t kWaitingOffset = 64;

// What a consumer puts into `waiting` before it sleeps. A hint: a lie costs one wake per publish.
inline constexpr uint32_t kWaitingOnFutex = 1;   // FUTEX_WAKE on the low half of head.
inline constexpr uint32_t kWaitingOnSocket = 2;  // An Event{readable} on the attach socket.

// Offsets in the ledger page, which starts at `capacity` in the DATA section. All written by the
// broker: the counters once per publish, tail_accepted when it looks at the tail, want_room when a
// writer starts or stops waiting.
inline constexpr uint64_t kLedgerStoredRecords = 0;
inline constexpr uint64_t kLedgerStoredBytes = 8;
inline constexpr uint64_t kLedgerRejectedRecords = 16;
inline constexpr uint64_t kLedgerRejectedBytes = 24;
inline constexpr uint64_t kLedgerTailAccepted =
    32;  // Where a new consumer resumes if tail is spoilt.
inline constexpr uint64_t kLedgerWantRoom =
    64;  // u32: free bytes that a writer waits for; 0: none.

// For those who follow (RingOptions::HasWindow); zero in every other ring. `head` is the one that
// no consumer can scribble over. The oldest unit that is whole: its position, and the records and
// payload bytes that were stored before it. `oldest` is stored before the figures and `settled`
// after them, with the same value: a reader that finds settled = oldest around the figures has
// figures of that position. Positions only grow, so no third word need tell two changes apart.
inline constexpr uint64_t kLedgerOverwrittenRecords = 40;
inline constexpr uint64_t kLedgerOverwrittenBytes = 48;
inline constexpr uint64_t kLedgerHead = 128;
inline constexpr uint64_t kLedgerOldest = 192;
inline constexpr uint64_t kLedgerOldestRecords = 200;
inline constexpr uint64_t kLedgerOldestBytes = 208;
inline constexpr uint64_t kLedgerOldestSettled = 216;

// Offset in the FOLLOW page.
inline constexpr uint64_t kFollowWaitingOffset = 0;

// The tag of gap records. The broker gives it to no writer.
inline constexpr uint64_t kGapTag = UINT64_MAX;
constexpr bool IsWriterTag(uint64_t tag) { return tag != kGapTag; }

inline constexpr uint64_t kStampBytes = 16;
inline constexpr uint64_t kGapPayloadBytes = 24;
inline constexpr uint64_t kGapRecordBytes = RecordBytes(kGapPayloadBytes);

// What happens to a record for which there is no room.
enum class RingPolicy : uint8_t {
  kDropNew,          // It is refused (Zircon's).
  kOverwriteOldest,  // The oldest ones make room; consumers copy, because nothing keeps still.
  kBlock,            // As kDropNew here; the mediator lets its writer wait.
};

// What a ring is made to do. Fixed for its life; writer and readers must agree on it.
struct RingOptions {
  RingPolicy policy = RingPolicy::kDropNew;
  bool gap_records = false;  // Tells rejected records in the stream, before the next stored one.
  bool stamped = false;      // Each record bears its number and its time.
  bool followers = false;  // Makes the FOLLOW section: any number of readers that consume nothing.

  bool overwrites() const { return policy == RingPolicy::kOverwriteOldest; }
  // Whether the ledger page tells head and oldest.
  bool HasWindow() const { return overwrites() || followers; }
  uint64_t stamp_bytes() const { return stamped ? kStampBytes : 0; }
  uint64_t payload_bytes_max() const { return kRecordPayloadBytesMax - stamp_bytes(); }
};

// Sizes of one ring, checked once; arithmetic on it needs no further checks.
class RingLayout {
 public:
  // INVALID_ARGUMENT unless `region_bytes` is whole pages, at least two; OUT_OF_RANGE above
  // kRegionBytesMax.
  static absl::StatusOr<RingLayout> ForRegion(uint64_t region_bytes);

  // Below 4 GiB, so that the low half of head, the futex word, never shows the same value for two
  // different amounts of data in the ring.
  static constexpr uint64_t kRegionBytesMax = uint64_t{2} << 30;

  uint64_t region_bytes() const { return page_bytes_ + capacity_bytes_; }
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t head_section_bytes() const { return page_bytes_; }
  uint64_t data_section_bytes() const { return capacity_bytes_ + page_bytes_; }
  uint64_t follow_section_bytes() const { return page_bytes_; }
  uint64_t page_bytes() const { return page_bytes_; }

 private:
  RingLayout(uint64_t page_bytes, uint64_t capacity_bytes)
      : page_bytes_(page_bytes), capacity_bytes_(capacity_bytes) {}
  uint64_t page_bytes_;
  uint64_t capacity_bytes_;
};

}  // namespace iob::shm
