// MediatedRingWriter: the broker's side of a mediated ring, the only one that writes records.
//
// Authority is private: positions, counters and the last good tail live in this object; what is
// stored to the shared pages is a mirror. The only word it ever loads from a page that somebody
// else may write is the consumer's tail (and, as a hint, how the consumer wants to be woken).
//
//   W1  0 <= head - tail <= capacity; both only grow.
//   W2  Bytes in [tail, head) are not written.
//   W3  The shared head is only ever stored from the private one, after the records below it.
//   W4  stored records = consumed + resident, whatever the consumer claims.
//   W5  A tail that is behind the last good one, beyond head or not 8-aligned changes nothing: the
//       last good one stays in force and the write that met it is refused (kIntegrity).
//
// Per record: no atomic read-modify-write, no system call, no allocation, no shared load while the
// last known tail leaves room. Per Publish: one release store, one fence, one load.
// Owned by one thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/record_index.h"
#include "shm/ring_layout.h"

namespace iob::shm {

enum class AppendOutcome : uint8_t { kStored, kFull, kIntegrity, kTooLarge };

// The ring at one moment. stored = consumed + resident (this ring overwrites nothing).
struct RingOccupancy {
  uint64_t consumed_records = 0;
  uint64_t resident_records = 0;
  uint64_t resident_bytes = 0;    // Ring bytes, headers and padding included.
  uint64_t high_water_bytes = 0;  // Most that was seen, whenever the tail was looked at.
  uint64_t capacity_bytes = 0;
  uint64_t tail_violations = 0;
};

class MediatedRingWriter {
 public:
  // Makes both sections, maps them, and seals DATA against every writer but this mapping.
  static absl::StatusOr<MediatedRingWriter> Create(const RingLayout& layout);

  const RingLayout& layout() const { return layout_; }
  const SealedMemfd& head_memfd() const { return head_memfd_; }
  const SealedMemfd& data_memfd() const { return data_memfd_; }

  // Appends one record, visible to the consumer after the next Publish. Everything but kStored
  // leaves the ring as it was. Counts nothing: the caller does, once the record's fate is final.
  AppendOutcome Append(uint64_t tag, std::span<const std::byte> payload) {
    if (payload.size() > kRecordPayloadBytesMax) return AppendOutcome::kTooLarge;
    const uint64_t record_bytes = RecordBytes(payload.size());
    if (record_bytes > capacity_ - (head_ - tail_)) [[unlikely]] {
      const AppendOutcome outcome = MakeRoom(record_bytes);
      if (outcome != AppendOutcome::kStored) return outcome;
    }
    index_.NoteRecord(head_, stored_records_);
    std::byte* const record = data_ + offset_;
    // The last word first: its bytes beyond the payload are the padding, and must not be stale.
    std::memset(record + record_bytes - sizeof(uint64_t), 0, sizeof(uint64_t));
    const std::array<uint64_t, 2> header = {tag, payload.size()};
    std::memcpy(record, header.data(), sizeof(header));
    if (!payload.empty()) std::memcpy(record + kRecordHeaderBytes, payload.data(), payload.size());
    head_ += record_bytes;
    offset_ += record_bytes;
    if (offset_ >= capacity_) offset_ -= capacity_;
    stored_records_ += 1;
    return AppendOutcome::kStored;
  }

  // Makes what was appended visible, mirrors `ledger` for readers, and wakes a consumer that sleeps
  // on the futex. Once per batch. Returns true when the consumer asked for a packet on its socket.
  bool Publish(const Ledger& ledger) {
    shared_.head->StoreRelease(head_);
    MirrorLedger(ledger);
    // The consumer stores `waiting`, fences, then looks at head; we store head, fence, then look at
    // `waiting`: one of the two sees the other (Dekker).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t waiting = shared_.waiting->LoadRelaxed().ForHintOnly();
    return waiting != 0 && Wake(waiting);
  }

  // Takes the consumer's tail if it is one; else W5. True when it was.
  bool RefreshTail();

  // Asks the consumer to tell when it has released: `room_bytes` free bytes are wanted; 0 ends it.
  // The caller must call RefreshTail and try again afterwards, for room made in between.
  void WantRoom(uint64_t room_bytes);

  // Loads the tail, so that the figures are of now.
  RingOccupancy Occupancy();

 private:
  MediatedRingWriter(const RingLayout& layout, SealedMemfd head_memfd, SealedMemfd data_memfd,
                     Mapping head_section, Mapping records, Mapping ledger_page)
      : layout_(layout),
        head_memfd_(std::move(head_memfd)),
        data_memfd_(std::move(data_memfd)),
        head_section_(std::move(head_section)),
        records_(std::move(records)),
        ledger_page_(std::move(ledger_page)),
        index_(layout.capacity_bytes()),
        shared_(SharedWordsOf(head_section_, ledger_page_)),
        data_(records_.base()),
        capacity_(layout.capacity_bytes()) {}

  // The words that are touched per publish, found once. They live as long as the mappings.
  struct SharedWords {
    SharedAtomic<uint64_t>* head;
    SharedAtomic<uint32_t>* waiting;
    SharedAtomic<uint64_t>* stored_records;
    SharedAtomic<uint64_t>* stored_bytes;
    SharedAtomic<uint64_t>* rejected_records;
    SharedAtomic<uint64_t>* rejected_bytes;
  };
  static SharedWords SharedWordsOf(const Mapping& head_section, const Mapping& ledger_page) {
    return {.head = &head_section.Word<uint64_t>(kHeadOffset),
            .waiting = &head_section.Word<uint32_t>(kWaitingOffset),
            .stored_records = &ledger_page.Word<uint64_t>(kLedgerStoredRecords),
            .stored_bytes = &ledger_page.Word<uint64_t>(kLedgerStoredBytes),
            .rejected_records = &ledger_page.Word<uint64_t>(kLedgerRejectedRecords),
            .rejected_bytes = &ledger_page.Word<uint64_t>(kLedgerRejectedBytes)};
  }

  AppendOutcome MakeRoom(uint64_t record_bytes);
  void MirrorLedger(const Ledger& ledger) {
    shared_.stored_records->StoreRelaxed(ledger.stored_records);
    shared_.stored_bytes->StoreRelaxed(ledger.stored_bytes);
    shared_.rejected_records->StoreRelaxed(ledger.attempted_records - ledger.stored_records);
    shared_.rejected_bytes->StoreRelaxed(ledger.attempted_bytes - ledger.stored_bytes);
  }
  bool Wake(uint32_t waiting);

  RingLayout layout_;
  SealedMemfd head_memfd_;
  SealedMemfd data_memfd_;
  Mapping head_section_;
  Mapping records_;  // Twice in a row: a record that wraps is contiguous here.
  Mapping ledger_page_;
  RecordIndex index_;
  SharedWords shared_;
  std::byte* data_;
  uint64_t capacity_;
  uint64_t head_ = 0;
  uint64_t offset_ = 0;  // head_ % capacity_.
  uint64_t tail_ = 0;    // The last good one.
  uint64_t stored_records_ = 0;
  uint64_t high_water_bytes_ = 0;
  uint64_t tail_violations_ = 0;
};

}  // namespace iob::shm
