// MediatedRingWriter: the broker's side of a mediated ring, the only one that writes records.
//
// Authority is private: positions, counters and the last good tail live in this object; what is
// stored to the shared pages is a mirror. The only word it ever loads from a page that somebody
// else may write is the consumer's tail (and, as a hint, how the consumer wants to be woken).
//
//   W1  0 <= head - tail <= capacity; both only grow.
//   W2  Bytes in [tail, head) are not written.
//   W3  The shared head is only ever stored from the private one, after the records below it.
//   W4  stored records = consumed + overwritten + resident, whatever the consumer claims.
//   W5  A tail that is behind the last good one, beyond head or not 8-aligned changes nothing: the
//       last good one stays in force and the write that met it is refused (kIntegrity). A ring that
//       overwrites asks nobody: there the violation is counted and the write goes on.
//   W6  With a window (RingOptions::HasWindow), no byte at or above the published oldest changes:
//       oldest is stored and fenced first. oldest <= the published head.
//   W7  A record that goes is overwritten if the last good tail had not passed its end, else
//       consumed. The tail is looked at before the first one is counted as overwritten.
//
//     overwriting:    oldest            tail                        head
//        ...  gone  |  consumed, still whole  |  resident, unread  |  free ...
//     else oldest is the first unit at or after tail.
//
// Per record of a plain ring: no atomic read-modify-write, no system call, no allocation, no shared
// load while the last known tail leaves room. Per Publish: one release store, one fence, one load.
// Rings with options take the long way for each record: a call, and the tail is looked at when a
// record that may be unread has to go. Owned by one thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/placement.h"
#include "shm/record_index.h"
#include "shm/record_unit.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// kBudget is never the ring's own answer: it comes from a writer's budget (writer_budget.h).
enum class AppendOutcome : uint8_t { kStored, kFull, kIntegrity, kTooLarge, kBudget };

// The ring at one moment. stored = consumed + overwritten + resident.
struct RingOccupancy {
  uint64_t consumed_records = 0;
  uint64_t resident_records = 0;
  uint64_t resident_bytes = 0;    // Ring bytes, headers and padding included.
  uint64_t high_water_bytes = 0;  // Most that was seen, whenever the tail was looked at.
  uint64_t capacity_bytes = 0;
  uint64_t tail_violations = 0;
  uint64_t overwritten_records = 0;  // Gone before the consumer's last good tail had passed them.
  uint64_t overwritten_bytes = 0;    // Of payload.
};

class MediatedRingWriter {
 public:
  // Makes the sections, maps them, and seals DATA against every writer but this mapping.
  static absl::StatusOr<MediatedRingWriter> Create(const RingLayout& layout,
                                                   const RingOptions& options = {},
                                                   const Placement& placement = {});

  const RingLayout& layout() const { return layout_; }
  const RingOptions& options() const { return options_; }
  const SealedMemfd& head_memfd() const { return head_memfd_; }
  const SealedMemfd& data_memfd() const { return data_memfd_; }
  // Nothing unless the ring was made for followers.
  const SealedMemfd* follow_memfd() const { return follow_ ? &follow_->memfd : nullptr; }

  // Appends one record, visible to the consumer after the next Publish. Everything but kStored
  // leaves the ring as it was. Counts nothing: the caller does, once the record's fate is final.
  // `now_ns` is CLOCK_MONOTONIC for the stamp; 0 has the clock read if the ring is stamped at all.
  // With gap records, `tag` must be a writer's (IsWriterTag).
  AppendOutcome Append(uint64_t tag, std::span<const std::byte> payload, int64_t now_ns = 0) {
    if (payload.size() > kRecordPayloadBytesMax) return AppendOutcome::kTooLarge;
    const uint64_t record_bytes = RecordBytes(payload.size());
    if (head_ + record_bytes > plain_end_) [[unlikely]] {
      if (takes_long_way_) return MakeRoomAndStore(tag, payload, now_ns);
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
    if (window_) [[unlikely]]
      return PublishToFollowers(ledger);
    shared_.head->StoreRelease(head_);
    MirrorLedger(ledger);
    // The consumer stores `waiting`, fences, then looks at head; we store head, fence, then look at
    // `waiting`: one of the two sees the other (Dekker).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t waiting = shared_.waiting->LoadRelaxed().ForHintOnly();
    return waiting != 0 && Wake(waiting);
  }

  // `records` were rejected, whatever the cause: the next record that is stored, and beside which
  // there is room, is preceded by a gap record that tells of them. Nothing without gap records.
  void NoteRejected(uint64_t records, uint64_t payload_bytes) {
    if (!options_.gap_records || records == 0) return;
    if (gap_.records == 0) gap_.at_record = stored_records_;
    gap_.records += records;
    gap_.bytes += payload_bytes;
  }

  // Where the next record will begin, and up to where nothing is unread any more, as last known.
  uint64_t head_position() const { return head_; }
  uint64_t released_position() const { return tail_; }

  // Takes the consumer's tail if it is one; else W5. True when it was.
  bool RefreshTail();

  // Asks the consumer to tell when it has released: `room_bytes` free bytes are wanted; 0 ends it.
  // The caller must call RefreshTail and try again afterwards, for room made in between.
  void WantRoom(uint64_t room_bytes);

  // Loads the tail, so that the figures are of now.
  RingOccupancy Occupancy();

 private:
  // The third section of a ring that is made for followers.
  struct FollowSection {
    SealedMemfd memfd;
    Mapping page;
  };
  struct Sections {
    SealedMemfd head_memfd;
    SealedMemfd data_memfd;
    Mapping head_section;
    Mapping records;
    Mapping ledger_page;
    std::optional<FollowSection> follow;
  };
  static absl::StatusOr<std::optional<FollowSection>> MakeFollowSection(const RingLayout& layout,
                                                                        const RingOptions& options,
                                                                        const Placement& placement);

  MediatedRingWriter(const RingLayout& layout, const RingOptions& options, Sections sections)
      : layout_(layout),
        options_(options),
        head_memfd_(std::move(sections.head_memfd)),
        data_memfd_(std::move(sections.data_memfd)),
        head_section_(std::move(sections.head_section)),
        records_(std::move(sections.records)),
        ledger_page_(std::move(sections.ledger_page)),
        follow_(std::move(sections.follow)),
        index_(layout.capacity_bytes()),
        shared_(SharedWordsOf(head_section_, ledger_page_)),
        data_(records_.base()),
        capacity_(layout.capacity_bytes()),
        window_(options.HasWindow()),
        takes_long_way_(window_ || options.stamped || options.gap_records),
        plain_end_(takes_long_way_ ? 0 : capacity_) {}

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

  AppendOutcome MakeRoom(uint64_t bytes);
  // Append for rings with options.
  AppendOutcome MakeRoomAndStore(uint64_t tag, std::span<const std::byte> payload, int64_t now_ns);
  void StoreRecord(uint64_t tag, std::span<const std::byte> stamp,
                   std::span<const std::byte> payload);
  RecordUnit UnitAt(uint64_t position) const;
  void MoveTail(uint64_t tail);
  void Overwrite(uint64_t bytes);
  void DropOldest(const RecordUnit& unit);
  void StoreWindowHead();
  void StoreWindowOldest();
  // Publish for rings with a window, and its part before the fence: true when a follower has said
  // that it sleeps.
  bool PublishToFollowers(const Ledger& ledger);
  bool PublishWindow();
  void MirrorLedger(const Ledger& ledger) {
    shared_.stored_records->StoreRelaxed(ledger.stored_records);
    shared_.stored_bytes->StoreRelaxed(ledger.stored_bytes);
    shared_.rejected_records->StoreRelaxed(ledger.attempted_records - ledger.stored_records);
    shared_.rejected_bytes->StoreRelaxed(ledger.attempted_bytes - ledger.stored_bytes);
  }
  bool Wake(uint32_t waiting);

  RingLayout layout_;
  RingOptions options_;
  SealedMemfd head_memfd_;
  SealedMemfd data_memfd_;
  Mapping head_section_;
  Mapping records_;  // Twice in a row: a record that wraps is contiguous here.
  Mapping ledger_page_;
  std::optional<FollowSection> follow_;
  RecordIndex index_;
  SharedWords shared_;
  std::byte* data_;
  uint64_t capacity_;
  bool window_;
  bool takes_long_way_;
  // Up to where a plain record may reach without a look at the tail; 0 sends every record the long
  // way.
  uint64_t plain_end_;
  uint64_t head_ = 0;
  uint64_t offset_ = 0;         // head_ % capacity_.
  uint64_t tail_ = 0;           // The last good one, or oldest_ where that has overtaken it.
  uint64_t consumer_tail_ = 0;  // The last good one.
  uint64_t stored_records_ = 0;
  uint64_t high_water_bytes_ = 0;
  uint64_t tail_violations_ = 0;
  // With a window only: the oldest unit that is whole, and what was stored before it.
  uint64_t oldest_ = 0;
  uint64_t oldest_records_ = 0;
  uint64_t oldest_bytes_ = 0;
  uint64_t window_head_ = 0;  // As last stored for followers.
  uint64_t overwritten_records_ = 0;
  uint64_t overwritten_bytes_ = 0;
  RecordLoss gap_;  // Rejected, and not yet told.
};

}  // namespace iob::shm
