// LaneConsumer: reads a lane whose producer may lie about everything.
//
//     head            released        next                tail (as last seen)
//      |  held back      | in the user's |  not read yet     |
//      |  (`clears`)     |     hands     |                   |
//
//   R1  head <= released <= next <= tail <= head + capacity; all are private, the shared head is a
//       copy of ours.
//   R2  A tail that moved back, is not 8-aligned or is more than a ring ahead of head, and a record
//       that is busy, out of sequence or longer than what is below tail, poison this lane: every
//       later call answers DATA_LOSS. No other lane is touched by that.
//   R3  A record's first word is fetched once; what is used is the copy. Payloads can be changed by
//       the producer at any time and are therefore only given out for copying (shared_record.h).
//   R4  A kill at any instruction loses no record and counts none twice: a successor resumes at the
//       last Release that was begun (reserve_lane_layout.h, P2). Records that Next returned and
//       nobody released come again.
//
// Option `clears`: zeroes what was released before it gives it back, in batches of an eighth of the
// ring. The producer's next pass over these cache lines is then several times cheaper, because they
// come to it from a writer and not from a reader. Room is given back late, but at once when the
// producer asks for it, before sleeping, and when the ring stays empty for a while. The section
// must then be writable for the consumer, who can spoil nothing but its own input by it.
//
// Per record: no atomic read-modify-write, no system call; per Release one release store, four
// relaxed ones and one load; no fence, but on whoever sleeps (light_fence.h). Owned by one thread;
// a forked child does not inherit the mapping.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/polite_pause.h"
#include "shm/reserve_lane_layout.h"
#include "shm/shared_record.h"

namespace iob::shm {

enum class LaneReadOutcome : uint8_t {
  kRecord,
  kEmpty,     // Nothing now; or a long run of discards was cut short (HasRecords is then true).
  kPoisoned,  // For good.
};

class LaneConsumer {
 public:
  struct Options {
    bool clears = false;
    uint32_t lane = 0;  // For SharedRecord.lane_or_owner.
  };

  // Maps CONTROL for writing and LANE for reading (its data for writing when it clears), and
  // resumes where the last consumer stopped. DATA_LOSS when the shared words cannot be.
  static absl::StatusOr<LaneConsumer> Map(const LaneLayout& layout, const SealedMemfd& lane_memfd,
                                          const SealedMemfd& control_memfd, Options options);

  // Inlined even into large callers: the record then stays in registers.
  [[gnu::always_inline]] LaneReadOutcome Next(SharedRecord* ret_record) {
    const LaneReadOutcome outcome = Fetch(ret_record);
    if (outcome == LaneReadOutcome::kRecord) [[likely]]
      MoveOverRecord(ret_record->payload.size());
    return outcome;
  }

  // The next record, without taking it: the same one again until Take.
  LaneReadOutcome Peek(SharedRecord* ret_record) {
    const LaneReadOutcome outcome = Fetch(ret_record);
    peeked_bytes_ = ret_record->payload.size();
    return outcome;
  }
  // Takes what the last Peek returned; it must have been kRecord.
  void Take() { MoveOverRecord(peeked_bytes_); }

  // As Next, with the payload copied: nothing in the copy changes any more.
  LaneReadOutcome TryRead(std::vector<std::byte>* ret_payload);

  // Gives everything that was taken back to the producer; records die. Wakes a producer that waits
  // for room when there is enough now.
  void Release() {
    const LaneCheckpoint taken = consumed();
    if (taken.position == released_.position) return;
    released_ = taken;
    if (clears_ && !MustGiveBack()) return;
    GiveBack();
  }

  // Why Peek and Next say kPoisoned. OK before that.
  absl::Status status() const;

  // Records may be there: one look, without taking anything.
  bool HasRecords() { return left_ != 0 || RefreshTail(); }

  // The same for a loop that polls. Where nothing is there it pauses, at most some microseconds,
  // and looks again: each look costs the producer its cache line (polite_pause.h).
  bool PollPolitely() {
    if (left_ != 0) return true;
    pause_.Take(sequence_);
    return RefreshTail();
  }

  // Before sleeping: says how to be woken (kWaitingOnFutex, kWaitingOnSocket), then looks once
  // more. True when nothing is there, so that sleeping is right; the flags stay until ClearWaiting.
  // Release first: a producer may be waiting for that room.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The word to sleep on: the low half of tail as last seen.
  FutexWord TailWord() const;

  uint32_t lane() const { return lane_; }
  uint64_t capacity_bytes() const { return capacity_; }

  // What was taken so far, by this consumer and those before it.
  LaneCheckpoint consumed() const {
    return {.position = tail_ - left_,
            .sequence = sequence_,
            .discards = discards_,
            .payload_bytes = payload_bytes_};
  }

  // What the producer claims about itself. Nothing when its slots do not go with its tail: then it
  // is in the middle of a publication, or lies.
  std::optional<LaneAccount> claimed_account() const { return LaneAccountIn(lane_page_); }

  // The account of a producer that is proven dead, once everything was taken and released: all that
  // it published, and where its successor goes on. Rests on the sequence numbers that were read and
  // on none of its counters: published = last sequence + 1, stored = published - discards seen.
  // FAILED_PRECONDITION while records are left, DATA_LOSS when poisoned.
  absl::StatusOr<LaneCheckpoint> SettleLedger();

 private:
  LaneConsumer(AddressRange range, const LaneLayout& layout, const LaneCheckpoint& resume,
               uint64_t head, uint64_t tail, LaneSlots slots, Options options);

  // The next record, which is not taken by this.
  [[gnu::always_inline]] LaneReadOutcome Fetch(SharedRecord* ret_record) {
    if (left_ == 0 && !RefreshTail()) [[unlikely]]
      return OutcomeOfNone();
    // All 64 bits are a record's, or nothing is: checked from this copy, field by field.
    uint64_t claimed_word =
        *SharedWordAt<uint64_t>(data_ + offset_).LoadRelaxed().Between(0, UINT64_MAX);
    // Not discarded, and the number that is due: one comparison.
    if ((claimed_word & ~kLaneLengthMask) != LaneWord(0, 0, sequence_)) [[unlikely]] {
      const std::optional<uint64_t> claimed_later_word = MoveOverDiscards(claimed_word);
      if (!claimed_later_word) return OutcomeOfNone();
      claimed_word = *claimed_later_word;
    }
    const uint64_t claimed_bytes = claimed_word & kLaneLengthMask;
    if (RecordBytes(claimed_bytes) > left_) [[unlikely]]
      return Poison();
    std::byte* const record = data_ + offset_;
    *ret_record = {
        .payload = {record + kRecordHeaderBytes, claimed_bytes},
        .sequence = sequence_,
        .stamp_ns = SharedWordAt<uint64_t>(record + sizeof(uint64_t)).LoadRelaxed().ForHintOnly(),
        .lane_or_owner = lane_};
    return LaneReadOutcome::kRecord;
  }
  // The word of the first record from taken_ on that is not discarded, its length unchecked;
  // nothing when there is none, or not within one call's share, or when the lane is poisoned.
  std::optional<uint64_t> MoveOverDiscards(uint64_t claimed_word);
  // `payload_bytes` has been checked, and is ours.
  void MoveOverRecord(uint64_t payload_bytes) {
    MoveNext(payload_bytes);
    payload_bytes_ += payload_bytes;
  }
  LaneReadOutcome OutcomeOfNone();
  LaneReadOutcome Poison();
  void MoveNext(uint64_t payload_bytes) {
    const uint64_t record_bytes = RecordBytes(payload_bytes);
    const uint64_t end = offset_ + record_bytes;
    offset_ = end < capacity_ ? end : end - capacity_;
    left_ -= record_bytes;
    sequence_ += 1;
  }
  bool RefreshTail() {
    if (poisoned_) return false;
    // Pairs with the producer's release store in Publish: the records below are there.
    const uint64_t highest = head_ > UINT64_MAX - capacity_ ? UINT64_MAX : head_ + capacity_;
    const auto tail = SharedWordAt<uint64_t>(lane_page_ + kLaneTailOffset)
                          .LoadAcquire()
                          .AlignedBetween(tail_, highest, kRecordAlignBytes);
    if (!tail) [[unlikely]] {
      Poison();
      return false;
    }
    left_ += *tail - tail_;
    tail_ = *tail;
    return left_ != 0;
  }
  bool MustGiveBack() const {
    return released_.position - head_ >= clear_batch_bytes_ || WantsRoom();
  }
  // Bytes, and kFenceForMe.
  uint32_t WantedRoom() const {
    return SharedWordAt<uint32_t>(lane_page_ + kLaneWantRoomOffset).LoadAcquire().ForHintOnly();
  }
  bool WantsRoom() const { return (WantedRoom() & ~kFenceForMe) != 0; }
  void GiveBack() {
    slots_.Store(released_);
    if (clears_) Clear();
    head_ = released_.position;
    // Pairs with the acquire in the producer's RefreshHead: we are done with what lies below.
    SharedWordAt<uint64_t>(control_page_ + kLaneHeadOffset).StoreRelease(head_);
    // The producer stores want_room, fences heavily, then looks at head; we have stored head, and
    // look at want_room next: one of the two sees the other (light_fence.h, L1).
    fence_.Fast();
    if (WantedRoom() != 0) [[unlikely]]
      WakeProducer();
  }
  void Clear();
  void WakeProducer();

  // [CONTROL page, writable][LANE page][data][data again]
  AddressRange range_;
  std::byte* control_page_;
  std::byte* lane_page_;
  std::byte* data_;
  LaneSlots slots_;
  uint64_t capacity_;
  uint64_t clear_batch_bytes_;
  uint64_t head_;            // As the producer knows it.
  LaneCheckpoint released_;  // By the user; beyond head while a batch to clear is gathered.
  uint64_t tail_;            // As last seen and checked; where the next record is when poisoned.
  uint64_t left_;            // From the next record to tail_.
  uint64_t offset_;          // Of the next record in the data.
  uint64_t sequence_;        // Of the next record.
  uint64_t payload_bytes_;   // Taken so far.
  uint64_t discards_;        // Passed so far.
  uint64_t peeked_bytes_ = 0;
  uint64_t poisoned_below_ = 0;  // Tail as it was when the poison was found, for status().
  uint32_t lane_;
  uint32_t empty_looks_ = 0;
  LightFence fence_ = LightFence::ForThisProcess();
  PolitePause pause_;
  bool clears_;
  bool poisoned_ = false;
};

}  // namespace iob::shm
