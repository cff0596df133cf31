// MediatedRingReader: the consumer's side of a mediated ring.
//
// Records are read in place: DATA is sealed, so nobody but the broker can change them, and the
// broker does not touch what was not released. Records come out in the order of the ring; memory
// goes back to the writer only at Release, so views stay valid until then.
//
//   C1  tail <= next <= head; our positions are private, the shared tail is a copy of ours.
//   C2  A head that moved back, is not 8-aligned or is more than a ring ahead of the tail, and a
//       record that does not fit below head, poison the reader: every later call answers DATA_LOSS.
//   C3  Nothing is dereferenced before its length was checked against C1.
//
// A ring that overwrites has no such reader: its records do not keep still under a view. There the
// consumer is a MediatedRingFollower, which copies.
//
// One consumer per ring. Thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/record_unit.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// One record. The payload is valid until the reader releases it.
struct RecordView {
  uint64_t tag = 0;  // Who wrote it, as the broker stamped it.
  std::span<const std::byte> payload;
  uint64_t sequence = 0;  // How many records the ring had stored before; 0 unless stamped.
  int64_t time_ns = 0;    // CLOCK_MONOTONIC when it was stored; 0 unless stamped.
  RecordLoss gap = {};    // What was rejected since the record before; only with gap records.
};

enum class ReadOutcome { kRecord, kEmpty, kPoisoned };

class MediatedRingReader {
 public:
  // Maps HEAD (for writing) and DATA (for reading) as the consumer and resumes at the shared tail,
  // or at the last tail that the broker accepted if the shared one cannot be. `options` are those
  // that the ring was made with; INVALID_ARGUMENT if it overwrites.
  static absl::StatusOr<MediatedRingReader> Map(const RingLayout& layout,
                                                const SealedMemfd& head_memfd,
                                                const SealedMemfd& data_memfd,
                                                const RingOptions& options = {});

  // The next record, if there is one.
  ReadOutcome Next(RecordView* ret_record) {
    if (next_ == plain_head_) [[unlikely]] {
      if (annotated_) return NextUnit(ret_record);
      if (!RefreshHead()) return poisoned_ ? ReadOutcome::kPoisoned : ReadOutcome::kEmpty;
    }
    const std::byte* const record = records_ + offset_;
    // Loaded once, though DATA is sealed: where the consumer may write it, so may its other
    // threads.
    const auto payload_bytes = SharedWordAt<uint64_t>(record + sizeof(uint64_t))
                                   .LoadRelaxed()
                                   .Between(0, kRecordPayloadBytesMax);
    if (!payload_bytes || RecordBytes(*payload_bytes) > plain_head_ - next_) [[unlikely]] {
      Poison();
      return ReadOutcome::kPoisoned;
    }
    *ret_record = {.tag = SharedWordAt<uint64_t>(record).LoadRelaxed().ForHintOnly(),
                   .payload = {record + kRecordHeaderBytes, *payload_bytes},
                   .sequence = 0,
                   .time_ns = 0,
                   .gap = {}};
    const uint64_t record_bytes = RecordBytes(*payload_bytes);
    next_ += record_bytes;
    offset_ += record_bytes;
    if (offset_ >= capacity_) offset_ -= capacity_;
    return ReadOutcome::kRecord;
  }

  // Gives everything that Next returned back to the writer; views die. Returns true when a writer
  // waits for room and there is enough of it now: then the broker must be told
  // (ClientPacket.room_made).
  bool Release() {
    if (tail_ == next_) return false;
    tail_ = next_;
    HeadPageWord(kTailOffset).StoreRelease(tail_);
    // The broker stores want_room, fences, then looks at tail; we store tail, fence, then look at
    // want_room: one of the two sees the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t wanted = LedgerWord<uint32_t>(kLedgerWantRoom).LoadAcquire().ForHintOnly();
    return wanted != 0 && HasRoomFor(wanted);
  }

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

  // Records may be there: one look, without taking anything.
  bool HasRecords();

  // Before sleeping: says how to be woken (kWaitingOnFutex, kWaitingOnSocket), then looks once
  // more. True when nothing is there, so that sleeping is right; the flags stay until ClearWaiting.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The word to sleep on: the low half of head as last seen.
  FutexWord HeadWord() const;

  // What the broker counted, as of its last publish.
  struct LedgerMirror {
    uint64_t stored_records = 0;
    uint64_t stored_bytes = 0;
    uint64_t rejected_records = 0;
    uint64_t rejected_bytes = 0;
  };
  LedgerMirror ledger() const;

 private:
  MediatedRingReader(AddressRange range, uint64_t page_bytes, uint64_t capacity_bytes,
                     const RingOptions& options, uint64_t tail);

  // Next for a ring with stamps or gap records.
  ReadOutcome NextUnit(RecordView* ret_record);

  bool RefreshHead() {
    if (poisoned_) return false;
    // Pairs with the writer's release store in Publish: the records below are there. A tail near
    // the top of the position space cannot happen; saturating keeps the bound honest all the same.
    const uint64_t highest = tail_ > UINT64_MAX - capacity_ ? UINT64_MAX : tail_ + capacity_;
    const auto head =
        HeadPageWord(kHeadOffset).LoadAcquire().AlignedBetween(head_, highest, kRecordAlignBytes);
    if (!head) {
      Poison();
      return false;
    }
    head_ = *head;
    if (!annotated_) plain_head_ = head_;
    return head_ != next_;
  }
  bool HasRoomFor(uint64_t wanted) const;
  void Poison();
  SharedAtomic<uint64_t>& HeadPageWord(uint64_t offset_bytes) const {
    return SharedWordAt<uint64_t>(head_page_ + offset_bytes);
  }
  template <SharedWord T>
  const SharedAtomic<T>& LedgerWord(uint64_t offset_bytes) const {
    return SharedWordAt<T>(ledger_page_ + offset_bytes);
  }

  // [HEAD page, writable][records][records again][ledger page]
  AddressRange range_;
  std::byte* head_page_;
  const std::byte* records_;
  const std::byte* ledger_page_;
  uint64_t capacity_;
  RingOptions options_;
  bool annotated_;       // Something stands around the records.
  uint64_t tail_;        // Released.
  uint64_t next_;        // Next to return.
  uint64_t offset_;      // next_ % capacity_.
  uint64_t head_;        // As last seen and checked; next_ when poisoned.
  uint64_t plain_head_;  // head_; next_ in an annotated ring, where each record is looked up.
  uint64_t poisoned_below_ = 0;  // Head as it was when the poison was found, for status().
  bool poisoned_ = false;
};

}  // namespace iob::shm
