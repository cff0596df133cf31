// SharedConsumer: the reading side of a shared reserve ring.
//
// A record is there when the control word of its position says COMMIT at the position's lap; one
// load decides, and gives the length as well. The word that the consumer sleeps on is that very
// word, so that only the record that lets it go on wakes it, and any change between looking and
// sleeping is seen by the kernel.
//
//   C1  released <= next; next - released <= size. Both are private; the shared head is a copy.
//   C2  A length beyond the ring, a walk beyond one ring, and a tail that has passed an unclaimed
//       position or is more than a ring ahead poison the consumer: every later call says so.
//   C3  Lengths are bounded by what one word can say and by the ring; nothing here reads outside.
//   C4  consumed is exact also after kill -9: the intent says what it will be at which head, and
//       a successor takes the one that belongs to the head it finds.
//
// A record that stays BUSY holds up all behind it: see Stalled. What was read but not released when
// a consumer died is delivered again to its successor.
//
// One consumer per ring. Thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/mapping.h"
#include "shm/polite_pause.h"
#include "shm/reserve_shared_layout.h"
#include "shm/shared_record.h"

namespace iob::shm {

enum class SharedReadOutcome : uint8_t { kRecord, kEmpty, kPoisoned };

// The record that everything waits for.
struct SharedStall {
  uint32_t owner = 0;
  uint64_t position = 0;
  int64_t since_ns = 0;  // When Stalled first saw it there.
};

template <int kLapBits>
class BasicSharedSalvage;

template <int kLapBits>
class BasicSharedConsumer {
 public:
  // Maps CTL and DATA for reading and CONS for writing, and resumes at the shared head. DATA_LOSS
  // for a head that cannot be.
  static absl::StatusOr<BasicSharedConsumer> Map(const SharedLayout& layout,
                                                 const SharedSections& sections);

  // The next record. Its sequence is its position: it grows, by the ring bytes in between.
  SharedReadOutcome Next(SharedRecord* ret_record) {
    const ControlWord word = ControlWord::Load(Slot(next_));
    if (word.state() != SlotState::kCommit || !Lap::Claims(layout_, next_, word) || poisoned_) {
      return NextSlowly(ret_record);
    }
    return Deliver(word, ret_record);
  }

  // Gives everything that Next returned back to the producers; payloads die. Wakes producers that
  // wait for room when what they want is there.
  void Release();

  // Something is there for Next. Skips what was discarded.
  bool HasRecords();
  // The same for a loop that polls. Where nothing is there it pauses, at most some microseconds,
  // and looks again: each look costs the producers their cache line (polite_pause.h).
  bool PollPolitely();

  // Before sleeping: says how to be woken (kWaitingOnFutex, kWaitingOnSocket), then looks once
  // more. True when nothing is there, so that sleeping on WaitWord is right; the flags stay until
  // ClearWaiting. Release first, or producers may wait for room that you hold.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The low half of the awaited control word, as last seen.
  FutexWord WaitWord() const { return {.address = Slot(next_).address(), .expected = seen_low_}; }

  // Who holds up the ring, if the next record is claimed and not submitted.
  std::optional<SharedStall> Stalled(int64_t now_ns);

  // The broker may have made new sections for this ring: see SharedSalvage.
  bool retired() const { return retired_->LoadAcquire().ForHintOnly() != 0; }
  // Records of this ring were taken out by a salvage: only another one may go on.
  bool salvaged() const {
    return cons_.template Word<uint64_t>(kSharedFrontier).LoadAcquire().ForHintOnly() > released_;
  }
  // Nothing that Next gave out is unreleased.
  bool released_all() const { return released_ == next_; }

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

  uint64_t consumed_records() const { return consumed_records_; }
  uint64_t consumed_bytes() const { return consumed_bytes_; }
  uint64_t position() const { return next_; }

 private:
  friend class BasicSharedSalvage<kLapBits>;
  using Lap = SharedLap<kLapBits>;

  BasicSharedConsumer(const SharedLayout& layout, ReadOnlyMapping ctl, AddressRange data,
                      Mapping cons, uint64_t head);

  const SharedAtomic<uint64_t>& Slot(uint64_t position) const {
    return control_[layout_.SlotOf(position)];
  }
  void SawNothing() { empty_at_ = next_; }
  bool StepOver(uint64_t footprint) {
    const uint64_t held = next_ - released_;
    if (footprint > layout_.size_bytes() || held > layout_.size_bytes() - footprint) return false;
    next_ += footprint;
    return true;
  }
  SharedReadOutcome Deliver(ControlWord word, SharedRecord* ret_record) {
    const uint64_t position = next_;
    if (!StepOver(layout_.Footprint(word.payload_bytes()))) [[unlikely]] {
      Poison("a record does not fit into the ring");
      return SharedReadOutcome::kPoisoned;
    }
    *ret_record = {.payload = SharedBytes(data_ + layout_.OffsetOf(position), word.payload_bytes()),
                   .sequence = position,
                   .stamp_ns = 0,
                   .lane_or_owner = word.owner()};
    taken_records_ += 1;
    taken_bytes_ += word.payload_bytes();
    return SharedReadOutcome::kRecord;
  }

  SharedReadOutcome NextSlowly(SharedRecord* ret_record);
  std::optional<ControlWord> SkipDiscards();
  void CheckTail();
  void WakeProducers(uint64_t claimed_owners);
  void ResumeCounts();
  void Poison(const char* why);

  SharedLayout layout_;
  ReadOnlyMapping ctl_;
  AddressRange data_section_;  // Twice in a row, read-only: a record that wraps is contiguous.
  Mapping cons_;
  const SharedAtomic<uint64_t>* control_;
  const SharedAtomic<uint64_t>* tail_;
  const SharedAtomic<uint64_t>* want_room_;
  const SharedAtomic<uint32_t>* retired_;
  SharedAtomic<uint64_t>* head_;
  std::byte* data_;
  uint64_t released_;
  uint64_t next_;
  uint64_t taken_records_ = 0;  // By Next, since the last Release.
  uint64_t taken_bytes_ = 0;
  uint64_t consumed_records_ = 0;
  uint64_t consumed_bytes_ = 0;
  uint32_t seen_low_ = 0;
  uint64_t empty_at_ = UINT64_MAX;  // Where nothing was there when we looked last.
  PolitePause pause_;
  LightFence fence_ = LightFence::ForThisProcess();
  std::optional<SharedStall> stall_;
  bool poisoned_ = false;
  const char* poison_ = "";
};

extern template class BasicSharedConsumer<kSharedLapBits>;
using SharedConsumer = BasicSharedConsumer<kSharedLapBits>;

}  // namespace iob::shm
