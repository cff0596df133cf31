// The submission queue's layout: how an endpoint hands records to the broker without a system call.
//
//   SUBMIT section: the client writes; the broker maps it too and believes none of it
//     0        64                128       page                                  page + capacity
//     +--------+-----------------+---------+-------+-------+-----+-------+-----------+
//     | tail   | completion_head | waiting | entry | entry | ... | entry |   free    |
//     +--------+-----------------+---------+-------+-------+-----+-------+-----------+
//       u64 tail             client: entry bytes ever published
//       u64 completion_head  client: completions ever taken
//       u32 waiting          client: sleeps on the low half of head
//
//   COMPLETE section, sealed: the broker writes, nobody else can
//     0        64                128           192             page
//     +--------+-----------------+-------------+---------------+------------+------------+-----+
//     | head   | completion_tail | need_wakeup | totals        | completion | completion | ... |
//     +--------+-----------------+-------------+---------------+------------+------------+-----+
//       u64 head             broker: entry bytes ever decided; the client may reuse what is below
//       u64 completion_tail  broker: completions ever posted
//       u32 need_wakeup      broker: does not look by itself, kick it
//
//   entry      := u32 length | u16 wait_ms | u8 op | u8 flags | u64 cookie | payload | pad to 8
//   completion := u64 cookie | u32 result | u32 length | u64 entry number | u64 reserved (0)
//
// One queue belongs to one attachment and one region. Entries lie inline in a byte ring: a small
// record costs one cache line, not one for a descriptor and one for its bytes. Positions are u64
// byte counts that never wrap in practice; completions are counted the same way.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// Offsets in the first page of SUBMIT. A cache line each: the client writes them at its own pace.
inline constexpr uint64_t kSubmitTailOffset = 0;
inline constexpr uint64_t kSubmitCompletionHeadOffset = 64;
inline constexpr uint64_t kSubmitWaitingOffset = 128;

// Offsets in the first page of COMPLETE.
inline constexpr uint64_t kCompleteHeadOffset = 0;
inline constexpr uint64_t kCompleteTailOffset = 64;
inline constexpr uint64_t kCompleteNeedWakeupOffset = 128;
inline constexpr uint64_t kCompleteStoredRecordsOffset = 192;
inline constexpr uint64_t kCompleteStoredBytesOffset = 200;
inline constexpr uint64_t kCompleteRejectedRecordsOffset = 208;
inline constexpr uint64_t kCompleteRejectedBytesOffset = 216;

// ---- Entries ------------------------------------------------------------------------------------

inline constexpr uint64_t kEntryHeaderBytes = 16;
inline constexpr uint64_t kEntryAlignBytes = 8;

// Queue bytes that an entry takes. Never overflows for a payload within a record's limit.
constexpr uint64_t EntryBytes(uint64_t payload_bytes) {
  return (kEntryHeaderBytes + payload_bytes + kEntryAlignBytes - 1) & ~(kEntryAlignBytes - 1);
}

inline constexpr uint8_t kEntryOpWrite = 1;
inline constexpr uint8_t kEntryWantCompletion = 1;  // A flag. Rejected entries always get one.

// The first word of an entry, without its cookie.
struct EntryHeader {
  uint32_t length_bytes = 0;  // Of the payload.
  uint16_t wait_ms = 0;       // For room in the ring. 0: a full ring rejects at once.
  uint8_t op = kEntryOpWrite;
  uint8_t flags = 0;

  friend constexpr bool operator==(const EntryHeader&, const EntryHeader&) = default;
};

constexpr uint64_t EncodeEntryHeader(const EntryHeader& header) {
  return uint64_t{header.length_bytes} | uint64_t{header.wait_ms} << 32 |
         uint64_t{header.op} << 48 | uint64_t{header.flags} << 56;
}

// The header in `claimed_word`, a private copy of what a client wrote, if it can be one. Whether
// the payload fits below the tail is not known here.
constexpr std::optional<EntryHeader> DecodeEntryHeader(uint64_t claimed_word) {
  const EntryHeader claimed{.length_bytes = static_cast<uint32_t>(claimed_word),
                            .wait_ms = static_cast<uint16_t>(claimed_word >> 32),
                            .op = static_cast<uint8_t>(claimed_word >> 48),
                            .flags = static_cast<uint8_t>(claimed_word >> 56)};
  if (claimed.length_bytes > kRecordPayloadBytesMax || claimed.op != kEntryOpWrite ||
      (claimed.flags & ~kEntryWantCompletion) != 0) {
    return std::nullopt;
  }
  return claimed;
}

// ---- Completions --------------------------------------------------------------------------------

inline constexpr uint64_t kCompletionBytes = 32;
inline constexpr uint64_t kCompletionCookieOffset = 0;
inline constexpr uint64_t kCompletionResultOffset = 8;  // u32 result, u32 length: one word.
inline constexpr uint64_t kCompletionEntryOffset = 16;
inline constexpr uint64_t kCompletionReservedOffset = 24;

inline constexpr uint32_t kCompletionStored = 0;  // Any other result is a LossCause.

// ---- Sizes --------------------------------------------------------------------------------------

// Sizes of one queue, checked once; arithmetic on it needs no further checks.
class SubmissionLayout {
 public:
  static constexpr uint64_t kCapacityBytesDefault = uint64_t{128} << 10;
  static constexpr uint64_t kCapacityBytesMax = uint64_t{64} << 20;
  static constexpr uint64_t kCompletionsDefault = 1024;
  static constexpr uint64_t kCompletionsMin = 2;
  static constexpr uint64_t kCompletionsMax = uint64_t{64} << 10;

  struct Sizes {
    uint64_t capacity_bytes = kCapacityBytesDefault;  // Of entries; whole pages.
    uint64_t completions = kCompletionsDefault;       // A power of two.
  };
  // INVALID_ARGUMENT for sizes that are off a page boundary, no power of two, or too small;
  // OUT_OF_RANGE above the limits.
  static absl::StatusOr<SubmissionLayout> ForQueue(const Sizes& sizes);

  uint64_t page_bytes() const { return page_bytes_; }
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t completions() const { return completions_; }
  uint64_t submit_section_bytes() const { return page_bytes_ + capacity_bytes_; }
  uint64_t complete_section_bytes() const { return complete_section_bytes_; }

  // Where completion number `number` is, in COMPLETE.
  uint64_t CompletionOffset(uint64_t number) const {
    return page_bytes_ + (number & (completions_ - 1)) * kCompletionBytes;
  }

 private:
  SubmissionLayout(uint64_t page_bytes, const Sizes& sizes);
  uint64_t page_bytes_;
  uint64_t capacity_bytes_;
  uint64_t completions_;
  uint64_t complete_section_bytes_;
};

}  // namespace iob::shm
