// LaneProducer: reserve room in a lane, write the record in place, submit or discard it.
//
//     reserve A   reserve B   submit B              submit A: both become visible, in order
//     [A busy]    [A busy][B busy]  [A busy][B]     [A][B]|<- tail
//
// Several reservations may be open; tail moves only over the oldest finished ones, so the consumer
// meets neither gaps nor unfinished records, and a kill at any instruction leaves nothing visible
// that was not submitted.
//
//   N1  head <= tail <= finished <= reserved <= head + capacity; all but `head` are private, and
//       `head` is the last good value that the consumer's word had.
//   N2  Bytes in [head, reserved) are written only by whoever holds the reservation.
//   N3  Nothing is ever read back from the lane: whoever scribbles over it spoils the consumer's
//       input, not this object.
//   N4  A head that is behind the last good one, beyond tail or not 8-aligned changes nothing but
//       violations(); a Reserve that needed it answers kIntegrity.
//   N5  A discarded reservation that is the newest gives its room and its record number back;
//       another one stays in the ring as a record that consumers skip.
//
// Wakes: the default wakes a consumer that sleeps and costs no system call otherwise. kNone only
// publishes, and the wake that may be owed is paid by the next publication that is not kNone, or
// before waiting for room; a record submitted out of order takes its wish along to the publication
// that makes it visible.
//
// Accounting: attempted = stored + rejected, where a record is stored when tail may move over it,
// and a discarded one was never attempted. In shared memory, `stored` is exact after a kill at any
// instruction (reserve_lane_layout.h, P1). The counters of records that were not stored can be one
// call behind: a kill between two of their stores leaves records counted and bytes not.
//
// Per record: no atomic read-modify-write, no system call, no allocation (but for more reservations
// finished out of order than ever before), no shared load while the last known head leaves room.
// Per publication: five stores (one release) and one load; no fence, but on whoever sleeps
// (light_fence.h). Owned by one thread; a forked child does not inherit the mapping.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "shm/check.h"
#include "shm/futex.h"
#include "shm/ledger.h"
#include "shm/light_fence.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/reserve_lane_layout.h"
#include "shm/room_wait.h"

namespace iob::shm {

enum class LaneReserveOutcome : uint8_t { kReserved, kFull, kTooLarge, kIntegrity };

// In rising order: of two wishes for one publication the stronger one counts.
enum class LaneWake : uint8_t {
  kNone,     // Publish only; the wake is owed.
  kDefault,  // Wake the consumer if it sleeps.
  kForce,    // Wake it whatever it says.
};

// Room for one record. To be given back to its producer exactly once, by Submit or Discard. A value
// that fits into registers: hand it on as one.
class LaneReservation {
 public:
  // Uninitialised memory of the ring. The consumer may look at it already; it will not believe it.
  std::span<std::byte> bytes() const { return bytes_; }
  uint64_t position() const { return position_; }

 private:
  friend class LaneProducer;
  std::span<std::byte> bytes_;
  uint64_t position_ = 0;
  uint64_t sequence_ = 0;
};

class LaneProducer {
 public:
  struct Options {
    // CLOCK_MONOTONIC in each record, read at Reserve, so that the stamps of a lane rise with its
    // positions. The clock costs more than the rest of a small record.
    bool stamps = false;
  };

  // Maps LANE for writing and CONTROL for reading. `start` is where the lane ends: all zero for a
  // fresh one, for the successor of a dead producer what SettleLedger or ReadLaneAccount say.
  // DATA_LOSS when the consumer's head cannot be with that.
  static absl::StatusOr<LaneProducer> Map(const LaneLayout& layout, const SealedMemfd& lane_memfd,
                                          const SealedMemfd& control_memfd,
                                          const LaneCheckpoint& start, Options options);

  // Room for a payload of `payload_bytes`. Everything but kReserved leaves the ring as it was and
  // is counted as rejected.
  LaneReserveOutcome Reserve(uint64_t payload_bytes, LaneReservation* ret_reservation) {
    const uint64_t record_bytes = RecordBytes(payload_bytes);
    // A length that a word cannot hold might overflow the other comparison.
    if (payload_bytes > kLaneLengthMask || record_bytes > room_) [[unlikely]] {
      const LaneReserveOutcome outcome = MakeRoom(payload_bytes);
      if (outcome != LaneReserveOutcome::kReserved) return outcome;
    }
    std::byte* const record = data_ + offset_;
    SharedWordAt<uint64_t>(record + sizeof(uint64_t))
        .StoreRelaxed(stamps_ ? static_cast<uint64_t>(MonotonicNs()) : 0);
    ret_reservation->bytes_ = {record + kRecordHeaderBytes, payload_bytes};
    ret_reservation->position_ = reserved();
    ret_reservation->sequence_ = next_sequence_++;
    room_ -= record_bytes;
    const uint64_t end = offset_ + record_bytes;
    offset_ = end < capacity_ ? end : end - capacity_;
    return LaneReserveOutcome::kReserved;
  }

  // The record becomes visible as soon as no older reservation is open. Returns true when the
  // consumer asked for a packet on its socket.
  bool Submit(const LaneReservation& reservation, LaneWake wake = LaneWake::kDefault) {
    Finish(reservation, wake);
    return Publish(wake);
  }
  // The record will never be seen.
  bool Discard(const LaneReservation& reservation, LaneWake wake = LaneWake::kDefault) {
    FinishDiscarded(reservation, wake);
    return Publish(wake);
  }

  // The same, but visible after the next Publish only: for batches, which share its cost.
  void SubmitDeferred(const LaneReservation& reservation) { Finish(reservation, LaneWake::kNone); }
  void DiscardDeferred(const LaneReservation& reservation) {
    FinishDiscarded(reservation, LaneWake::kNone);
  }

  // Makes every finished record visible that has no open one before it, and wakes. Inlined wherever
  // it is called: with `wake` known, most of it falls away.
  [[gnu::always_inline]] bool Publish(LaneWake wake = LaneWake::kDefault) {
    if (wish_ != LaneWake::kNone) [[unlikely]]
      wake = TakeWish(wake);
    const bool moves = finished_.position != tail_;
    if (moves) [[likely]] {
      slots_.Store(finished_);
      tail_ = finished_.position;
      // Pairs with the acquire in LaneConsumer: the records below are there.
      tail_word_->StoreRelease(tail_);
    }
    if (wake == LaneWake::kNone) {
      owed_ = owed_ || moves;
      return false;
    }
    if (!moves && !owed_ && wake != LaneWake::kForce) return false;
    owed_ = false;
    // The consumer stores `waiting`, fences heavily, then looks at tail; we have stored tail, and
    // look at `waiting` next: one of the two sees the other (light_fence.h, L1).
    fence_.Fast();
    const bool nobody_sleeps = waiting_word_->LoadRelaxed().ForHintOnly() == 0;
    if (nobody_sleeps && wake != LaneWake::kForce) [[likely]]
      return false;
    return Wake(wake);
  }

  // Ring bytes from head to the newest reservation, headers and padding included, and the other
  // figures of eBPF's ring_buffer__query. A head is looked for first, so that they are of now; a
  // consumer that clears may hold back up to an eighth of the ring.
  uint64_t AvailableDataBytes();
  uint64_t ConsumerPosition();
  uint64_t ProducerPosition() const { return reserved(); }
  uint64_t SizeBytes() const { return capacity_; }

  // Before sleeping until there is room for a payload of `payload_bytes`: publishes what is
  // finished and pays the wake that is owed, says what is wanted to the consumer, then looks once
  // more. The wish stays until ClearWantRoom. Submit or discard what you hold first: nobody else
  // can.
  RoomWait PrepareToWaitForRoom(uint64_t payload_bytes);
  void ClearWantRoom();
  FutexWord RoomWord() const;

  // Up to the oldest open reservation. After a Publish this is what the consumer can see.
  const LaneCheckpoint& finished() const { return finished_; }
  // Of this producer, not of those before it.
  const Ledger& rejected() const { return rejected_; }
  // Discards in the ring and taken back, of this producer.
  uint64_t discarded_records() const { return discarded_records_; }
  uint64_t open_reservations() const {
    return next_sequence_ - finished_.sequence - parked_records_;
  }
  // Heads that could not be.
  uint64_t violations() const { return violations_; }

 private:
  // A record that was finished while an older one was open.
  struct Parked {
    uint64_t sequence = UINT64_MAX;  // UINT64_MAX: no record.
    uint64_t payload_bytes = 0;
    uint64_t state = 0;  // 0 or kLaneDiscarded.
    LaneWake wake = LaneWake::kNone;
  };

  LaneProducer(AddressRange range, const LaneLayout& layout, const LaneCheckpoint& start,
               uint64_t head, LaneSlots slots, Options options);

  // A record that is to be seen.
  void Finish(const LaneReservation& reservation, LaneWake wake) {
    const uint64_t sequence = reservation.sequence_;
    const uint64_t payload_bytes = reservation.bytes_.size();
    // In scalars, so that a reservation that stays in registers need not leave them for this.
    if (sequence != finished_.sequence || sequence + 1 != next_sequence_) [[unlikely]] {
      return FinishOneOfSeveral(reservation.bytes_.data(), payload_bytes, sequence, 0, wake);
    }
    // The only one that is open: nothing is parked, and what is known of it needs no looking up.
    StoreWord(reservation.bytes_.data(), payload_bytes, sequence, 0);
    finished_.position = reservation.position_ + RecordBytes(payload_bytes);
    finished_.sequence = sequence + 1;
    finished_.payload_bytes += payload_bytes;
  }
  static void StoreWord(std::byte* payload, uint64_t payload_bytes, uint64_t sequence,
                        uint64_t state) {
    SharedWordAt<uint64_t>(payload - kRecordHeaderBytes)
        .StoreRelaxed(LaneWord(payload_bytes, state, sequence));
  }
  void MoveFinished(uint64_t payload_bytes, uint64_t state) {
    finished_.position += RecordBytes(payload_bytes);
    finished_.sequence += 1;
    if (state == kLaneDiscarded) {
      finished_.discards += 1;
    } else {
      finished_.payload_bytes += payload_bytes;
    }
  }
  void FinishOneOfSeveral(std::byte* payload, uint64_t payload_bytes, uint64_t sequence,
                          uint64_t state, LaneWake wake);
  void FinishDiscarded(const LaneReservation& reservation, LaneWake wake);
  void Park(uint64_t payload_bytes, uint64_t sequence, uint64_t state, LaneWake wake);
  void GrowParked(uint64_t distance);
  void MoveOverParked();
  LaneWake TakeWish(LaneWake wake);
  bool Wake(LaneWake wake);
  // End of the newest reservation.
  uint64_t reserved() const { return limit_ - room_; }
  uint64_t head() const { return limit_ - capacity_; }
  LaneReserveOutcome MakeRoom(uint64_t payload_bytes);
  LaneReserveOutcome Reject(LaneReserveOutcome outcome, uint64_t payload_bytes);
  void CountRejected(LossCause cause, uint64_t payload_bytes, uint64_t offset_bytes);
  bool RefreshHead();
  SharedAtomic<uint64_t>& LanePageWord(uint64_t offset_bytes) const {
    return SharedWordAt<uint64_t>(range_.base() + offset_bytes);
  }

  // [LANE page][data][data again][CONTROL page, read-only]
  AddressRange range_;
  std::byte* data_;
  SharedAtomic<uint64_t>* tail_word_;
  const SharedAtomic<uint32_t>* waiting_word_;
  const SharedAtomic<uint64_t>* head_word_;
  LaneSlots slots_;
  uint64_t capacity_;
  uint64_t payload_bytes_max_;
  uint64_t limit_;              // The last good head + capacity_.
  uint64_t room_;               // From the end of the newest reservation to limit_.
  uint64_t offset_;             // Of that end in the data.
  uint64_t next_sequence_;      // Of the next reservation.
  LaneCheckpoint finished_;     // Up to the oldest open reservation; its sequence is that one's.
  uint64_t tail_;               // As published.
  std::vector<Parked> parked_;  // By sequence modulo its size, a power of two.
  uint64_t parked_records_ = 0;
  uint64_t discarded_records_ = 0;
  uint64_t violations_ = 0;
  Ledger rejected_;
  LightFence fence_ = LightFence::ForThisProcess();
  bool stamps_;
  bool owed_ = false;                // Published without a wake.
  LaneWake wish_ = LaneWake::kNone;  // Of parked records that finished_ has passed since.
};

}  // namespace iob::shm
