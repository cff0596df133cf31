// SharedProducer: reserves room in a ring that several processes write at once, fills it in place,
// and submits or discards it.
//
// The idea: a claim is one compare-and-swap on the control word of the position where the tail is.
// The word says at once who claims and how much, so there is no moment at which room is taken but
// nobody knows by whom or how far it goes. Moving the tail over a claim is bookkeeping that anybody
// does who finds it undone ("helping"), so nobody ever waits for another producer, dead or alive.
//
//   1 claim   control[slot(tail)]: old stamp -> {lap, BUSY, owner, bytes}   the record exists
//   2 swing   tail: p -> p + footprint                                     by anybody who sees 1
//   3 fill    the bytes, in place
//   4 submit  control[slot(p)]: BUSY -> COMMIT or DISCARD, a store          the consumer sees it
//
//   M1  tail and head only grow; head never passes the first unclaimed position.
//   M2  While tail is p, slot(p) is unclaimed or holds the claim of p. tail leaves p only after the
//       claim of p.
//   M3  At most one claimed record lies at or after tail.
//   M4  The live records tile [head, end) without gap or overlap; end is tail, or the end of the
//       one record of M3.
//   M5  A BUSY word is changed by its owner alone, or by the broker once the owner is dead.
//   M6  The bytes of p are written between claim and submit of p, by its owner, after it has seen
//       (acquire) a head of at least p + footprint - size.
//   M7  A stamp does not come back to a slot for 2^30 - 8 laps, and never to a slot that the broker
//       scrubs in time (SharedRecovery::Scrub).
//
// Why claims are exclusive: the swap expects the very word that was read while tail was p (tail is
// read before and after it, and only grows). Once somebody has claimed p that word is gone and does
// not come back (M7), so all other swaps fail.
//
//   killed                   left behind           others                recovery
//   before 1                 nothing               -                     -
//   between 1 and 2          BUSY, tail lags       help                  discard
//   before 4                 BUSY                  go on until full      discard, wake the consumer
//   in 4, before the count   the record            read it               counts it (S3)
//   before the wake          the record            -                     wakes, always
//   stopped, not killed      BUSY                  go on until full      never: it may go on too
//
// Producers of one ring trust each other not to scribble. One that does can stall or spoil the
// ring for all; what it cannot do is to make this class touch memory outside the ring, or not come
// back: kCorrupt for words that cannot be, kBusy for words that do not hold still, and for a claim
// that was overwritten a submit that is not done (4 looks before it stores, so it can miss one that
// comes in between). Of the consumer's words nothing is believed: a head that goes back,
// is not aligned, or is ahead of what was claimed leaves the last good one in force, and the wait
// word only ever names a slot to wake.
//
// Per record two read-modify-writes (1 and 2), no fence (light_fence.h), no allocation, and no
// system call while the consumer is awake. Thread-compatible; one object per owner, one owner per
// process or thread. A forked child does not inherit the mapping: it is another process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/mapping.h"
#include "shm/prefetch.h"
#include "shm/reserve_shared_layout.h"
#include "shm/room_wait.h"

namespace iob::shm {

enum class SharedReserveOutcome : uint8_t {
  kReserved,
  kFull,
  kTooLarge,  // Longer than the ring, or than a control word can say. It would never fit.
  kCorrupt,   // Shared words that cannot be.
  kBusy,      // Tried `tries_max` times, and met a change each time.
};

// Room for one record: the caller's until it is submitted or discarded.
struct SharedReservation {
  std::span<std::byte> bytes;
  uint64_t position = 0;
};

enum class SharedWake : uint8_t {
  kDefault,  // Wakes a consumer that sleeps until this very record is done, or that is owed a wake.
  kNone,     // Never; a wake that was due is paid by the next default submit of anybody, or by the
             // next one who waits for room.
  kForce,    // Wakes whoever sleeps.
};

struct SharedSubmitResult {
  // False: the claim was no longer there. Somebody has spoilt the ring, or recovered a live owner.
  bool done = false;
  // The consumer asked for a packet on its socket.
  bool tell_socket = false;
};

struct SharedProducerOptions {
  // Each failed try means that another producer got ahead, or plays games.
  uint32_t tries_max = 1000;
};

template <int kLapBits>
class BasicSharedProducer {
 public:
  // Maps CTL and DATA for writing and CONS for reading, and goes on counting where the owner's
  // ledger line stands. INVALID_ARGUMENT for an owner that is not in 1..63, FAILED_PRECONDITION for
  // sections of other sizes.
  static absl::StatusOr<BasicSharedProducer> Map(const SharedLayout& layout,
                                                 const SharedSections& sections, uint32_t owner,
                                                 SharedProducerOptions options = {});

  const SharedLayout& layout() const { return layout_; }
  uint32_t owner() const { return owner_; }

  // Claims room for `payload_bytes`. Any number may be open at once; the consumer gets them in the
  // order of Reserve, and none that lies behind one that is open.
  SharedReserveOutcome Reserve(uint64_t payload_bytes, SharedReservation* ret_reservation) {
    if (payload_bytes > layout_.payload_bytes_max()) return RefuseTooLarge(payload_bytes);
    const uint64_t footprint = layout_.Footprint(payload_bytes);
    uint64_t ahead_at = UINT64_MAX;  // Where a head ahead of the tail was met once.
    for (uint32_t tries = 0; tries < options_.tries_max; ++tries) {
      const auto position = LoadTail();
      if (!position) return RefuseIntegrity(SharedReserveOutcome::kCorrupt);
      SharedAtomic<uint64_t>& slot = Slot(*position);
      const ControlWord seen = ControlWord::Load(slot);
      if (Lap::Claims(layout_, *position, seen)) {
        if (!Help(*position, seen)) return RefuseIntegrity(SharedReserveOutcome::kCorrupt);
        continue;
      }
      // With the tail where it was, `seen` is an old stamp and not a later one (M2).
      const auto again = LoadTail();
      if (!again || *again != *position) {
        CountRetry();
        continue;
      }
      if (*position - head_ > layout_.size_bytes() - footprint) [[unlikely]] {
        const Room room = LookForRoom(*position, footprint, &ahead_at);
        if (room == Room::kNone) return RefuseFull(payload_bytes);
        if (room == Room::kLookAgain) continue;
      }
      // Acquire and release: pairs with the help of others, and the bytes are not written before.
      if (!slot.CompareExchange(seen.bits(), Claim(*position, payload_bytes).bits())) {
        CountRetry();
        continue;
      }
      // A failure means that somebody has helped.
      (void)ctl_words_.tail->CompareExchange(*position, *position + footprint);
      AskForLinesAhead(*position, footprint);
      *ret_reservation = {.bytes = {data_ + layout_.OffsetOf(*position), payload_bytes},
                          .position = *position};
      return SharedReserveOutcome::kReserved;
    }
    return RefuseIntegrity(SharedReserveOutcome::kBusy);
  }

  // Gives the record to the consumer. The reservation is spent, whatever the result.
  SharedSubmitResult Submit(const SharedReservation& reservation,
                            SharedWake wake = SharedWake::kDefault) {
    const uint64_t records = ledger_.stored_records + 1;
    const uint64_t bytes = ledger_.stored_bytes + reservation.bytes.size();
    Intend(reservation.position, SlotState::kCommit, records, bytes);
    const bool done = Finish(reservation, SlotState::kCommit);
    if (done) {
      line_.Set(SharedLedgerLine::kStoredRecords, ledger_.stored_records = records);
      line_.Set(SharedLedgerLine::kStoredBytes, ledger_.stored_bytes = bytes);
    }
    return AfterFinish(reservation.position, done, wake);
  }

  // Takes the record back: the consumer skips it.
  SharedSubmitResult Discard(const SharedReservation& reservation,
                             SharedWake wake = SharedWake::kDefault) {
    const uint64_t records = ledger_.discarded_records + 1;
    Intend(reservation.position, SlotState::kDiscard, records, 0);
    const bool done = Finish(reservation, SlotState::kDiscard);
    if (done) line_.Set(SharedLedgerLine::kDiscarded, ledger_.discarded_records = records);
    return AfterFinish(reservation.position, done, wake);
  }

  // Before sleeping until `payload_bytes` fit: pays a wake that anybody owes, asks the consumer to
  // tell, then looks once more. The wish stays until ClearWantRoom. A fulfilled wish is a hint:
  // another producer may take the room first.
  RoomWait PrepareToWaitForRoom(uint64_t payload_bytes);
  void ClearWantRoom();
  // The low half of the head, as last seen.
  FutexWord RoomWord() const {
    return {.address = cons_words_.head->address(), .expected = head_seen_low_};
  }

  // The broker may have made new sections for this ring, in which producers go on: see
  // SharedSalvage.
  bool retired() const { return ctl_words_.retired->LoadAcquire().ForHintOnly() != 0; }

  // What eBPF's ring_buffer__query tells. Snapshots, for display and pacing.
  uint64_t SizeBytes() const { return layout_.size_bytes(); }
  uint64_t ProducerPosition() const { return LoadTail().value_or(0); }
  uint64_t ConsumerPosition();
  uint64_t AvailableDataBytes();

  const SharedLedger& ledger() const { return ledger_; }
  // Heads that could not be.
  uint64_t head_violations() const { return head_violations_; }

 private:
  using Lap = SharedLap<kLapBits>;
  static constexpr uint64_t kAheadBytes = 1024;
  enum class Room { kEnough, kNone, kLookAgain };

  struct CtlWords {
    SharedAtomic<uint64_t>* tail;
    SharedAtomic<uint32_t>* owed;
    SharedAtomic<uint64_t>* want_room;
    SharedAtomic<uint32_t>* wanted;
    const SharedAtomic<uint32_t>* retired;
    SharedAtomic<uint64_t>* control;  // The first of slots().
  };
  struct ConsWords {
    const SharedAtomic<uint64_t>* head;
    const SharedAtomic<uint64_t>* wait;
    const SharedAtomic<uint32_t>* how;
  };

  BasicSharedProducer(const SharedLayout& layout, uint32_t owner, SharedProducerOptions options,
                      Mapping ctl, Mapping data, ReadOnlyMapping cons);

  SharedAtomic<uint64_t>& Slot(uint64_t position) const {
    return ctl_words_.control[layout_.SlotOf(position)];
  }
  ControlWord Claim(uint64_t position, uint64_t payload_bytes) const {
    return ControlWord::Make(SlotState::kBusy, Lap::Of(layout_, position), payload_bytes, owner_);
  }
  std::optional<uint64_t> LoadTail() const {
    return ctl_words_.tail->LoadAcquire().AlignedBetween(0, SharedLayout::kPositionMax,
                                                         layout_.granule_bytes());
  }

  // While we are the only one at work, the lines ahead will be ours: our next locked instructions
  // then need not wait until a record has taken its line back from the consumer. Not beyond what is
  // known to be free: the consumer reads there.
  void AskForLinesAhead(uint64_t position, uint64_t footprint) {
    const uint64_t end = position + footprint;
    if (position == claimed_end_ && end + kAheadBytes - head_ < layout_.size_bytes()) {
      PrefetchForWrite(data_ + layout_.OffsetOf(end + kAheadBytes));
      PrefetchForWrite(Slot(end + kAheadBytes).address());
    }
    claimed_end_ = end;
  }

  // Says what is about to happen, for the broker to settle should we die on the way (S3).
  void Intend(uint64_t position, SlotState state, uint64_t records, uint64_t bytes) {
    line_.Set(SharedLedgerLine::kIntentRecords, records);
    line_.Set(SharedLedgerLine::kIntentBytes, bytes);
    line_.SetAfterAll(SharedLedgerLine::kIntent, position | static_cast<uint64_t>(state));
  }
  bool Finish(const SharedReservation& reservation, SlotState state) {
    const ControlWord claim = Claim(reservation.position, reservation.bytes.size());
    SharedAtomic<uint64_t>& slot = Slot(reservation.position);
    // A look and a store, not a swap: nobody else changes a BUSY word (M5), and a store does not
    // wait for the lines of the payload. Who changes it all the same has spoilt the ring already;
    // mostly we see it.
    if (ControlWord::Load(slot).bits() != claim.bits()) return false;
    // Pairs with the consumer's acquire: the bytes are there when it sees the word.
    slot.StoreRelease(claim.With(state).bits());
    // No count may come before it in the order that a kill can see (S3).
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return true;
  }
  SharedSubmitResult AfterFinish(uint64_t position, bool done, SharedWake wake) {
    if (!done) [[unlikely]]
      CountLost();
    line_.SetAfterAll(SharedLedgerLine::kIntent, 0);
    // The consumer stores `wait`, fences heavily, then looks at the slot; we have stored the slot,
    // and look at `wait` next: one of the two sees the other (light_fence.h, L1).
    fence_.Fast();
    if (cons_words_.wait->LoadAcquire().ForHintOnly() == 0) [[likely]]
      return {.done = done, .tell_socket = false};
    return {.done = done, .tell_socket = WakeConsumer(position, wake)};
  }

  bool Help(uint64_t position, ControlWord claim);
  Room LookForRoom(uint64_t position, uint64_t footprint, uint64_t* ret_ahead_at);
  bool WakeConsumer(uint64_t position, SharedWake wake);
  // Whether somebody sleeps, and until which record.
  uint64_t LoadWait() const {
    return cons_words_.wait->LoadAcquire().ForHintOnly() & ~uint64_t{kFenceForMe};
  }
  bool TakeOwed();
  bool WakeSleeper(uint64_t claimed_wait);
  SharedReserveOutcome RefuseTooLarge(uint64_t payload_bytes);
  SharedReserveOutcome RefuseFull(uint64_t payload_bytes);
  SharedReserveOutcome RefuseIntegrity(SharedReserveOutcome outcome);
  void CountRetry();
  void CountLost();
  bool SetWantRoom(bool wanted);

  SharedLayout layout_;
  uint32_t owner_;
  SharedProducerOptions options_;
  Mapping ctl_;
  Mapping data_section_;
  ReadOnlyMapping cons_;
  CtlWords ctl_words_;
  ConsWords cons_words_;
  SharedLedgerLine line_;
  std::byte* data_;
  SharedLedger ledger_;  // The line is a copy of it.
  uint64_t head_ = 0;    // The last good one.
  uint32_t head_seen_low_ = 0;
  uint64_t head_violations_ = 0;
  uint64_t claimed_end_ = UINT64_MAX;  // Of our last claim.
  LightFence fence_ = LightFence::ForThisProcess();
};

extern template class BasicSharedProducer<kSharedLapBits>;
using SharedProducer = BasicSharedProducer<kSharedLapBits>;

}  // namespace iob::shm
