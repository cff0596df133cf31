#include "shm/mediated_ring_writer.h"

#include <algorithm>

#include "shm/check.h"
#include "shm/futex.h"
#include "shm/result.h"
#include "shm/section.h"

namespace iob::shm {

absl::StatusOr<MediatedRingWriter> MediatedRingWriter::Create(const RingLayout& layout,
                                                              const RingOptions& options,
                                                              const Placement& placement) {
  IOB_ASSIGN_OR_RETURN(SealedMemfd head_memfd,
                       MakeSection("iob-head", layout.head_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(Mapping head_section, Mapping::Map(head_memfd));
  IOB_ASSIGN_OR_RETURN(SealedMemfd data_memfd,
                       MakeSection("iob-data", layout.data_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(Mapping records, Mapping::MapWindow(data_memfd, 0, layout.capacity_bytes(),
                                                           2, OnFork::kShare));
  IOB_ASSIGN_OR_RETURN(Mapping ledger_page,
                       Mapping::MapWindow(data_memfd, layout.capacity_bytes(), layout.page_bytes(),
                                          1, OnFork::kShare));
  IOB_ASSIGN_OR_RETURN(std::optional<FollowSection> follow,
                       MakeFollowSection(layout, options, placement));
  // After our own mappings, before any descriptor leaves: from here on nobody else can ever write.
  IOB_RETURN_IF_ERROR(data_memfd.SealAgainstWriters());
  return MediatedRingWriter(layout, options,
                            {.head_memfd = std::move(head_memfd),
                             .data_memfd = std::move(data_memfd),
                             .head_section = std::move(head_section),
                             .records = std::move(records),
                             .ledger_page = std::move(ledger_page),
                             .follow = std::move(follow)});
}

absl::StatusOr<std::optional<MediatedRingWriter::FollowSection>>
MediatedRingWriter::MakeFollowSection(const RingLayout& layout, const RingOptions& options,
                                      const Placement& placement) {
  std::optional<FollowSection> follow;
  if (!options.followers) return follow;
  IOB_ASSIGN_OR_RETURN(SealedMemfd memfd,
                       MakeSection("iob-follow", layout.follow_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(Mapping page, Mapping::Map(memfd));
  follow = FollowSection{.memfd = std::move(memfd), .page = std::move(page)};
  return follow;
}

AppendOutcome MediatedRingWriter::MakeRoom(uint64_t bytes) {
  // Before the tail is looked at, as in zx_iob_writev: a record that could never fit is NO_SPACE.
  if (bytes > capacity_) return AppendOutcome::kTooLarge;
  if (options_.overwrites()) {
    Overwrite(bytes);
    return AppendOutcome::kStored;
  }
  if (bytes <= capacity_ - (head_ - tail_)) return AppendOutcome::kStored;
  if (!RefreshTail()) return AppendOutcome::kIntegrity;
  return bytes <= capacity_ - (head_ - tail_) ? AppendOutcome::kStored : AppendOutcome::kFull;
}

AppendOutcome MediatedRingWriter::MakeRoomAndStore(uint64_t tag, std::span<const std::byte> payload,
                                                   int64_t now_ns) {
  // The broker's own numbers, never a client's.
  IOB_CHECK(!options_.gap_records || IsWriterTag(tag));
  if (payload.size() > options_.payload_bytes_max()) return AppendOutcome::kTooLarge;
  const uint64_t record_bytes = RecordBytes(options_.stamp_bytes() + payload.size());
  bool tells_gap = gap_.records != 0;
  AppendOutcome outcome = MakeRoom(record_bytes + (tells_gap ? kGapRecordBytes : 0));
  if (tells_gap && (outcome == AppendOutcome::kFull || outcome == AppendOutcome::kTooLarge)) {
    // What is stored is worth more than the news of what is not: that waits for a roomier time.
    tells_gap = false;
    outcome = MakeRoom(record_bytes);
  }
  if (outcome != AppendOutcome::kStored) return outcome;
  // The gap has no entry of its own: record and gap are one unit.
  index_.NoteRecord(head_, stored_records_);
  if (tells_gap) {
    const std::array<uint64_t, 3> gap = {gap_.records, gap_.bytes, gap_.at_record};
    static_assert(sizeof(gap) == kGapPayloadBytes);
    StoreRecord(kGapTag, {}, std::as_bytes(std::span(gap)));
    gap_ = {};
  }
  std::array<uint64_t, 2> stamp = {};
  static_assert(sizeof(stamp) == kStampBytes);
  if (options_.stamped)
    stamp = {stored_records_, static_cast<uint64_t>(now_ns != 0 ? now_ns : MonotonicNs())};
  StoreRecord(tag, std::as_bytes(std::span(stamp)).first(options_.stamp_bytes()), payload);
  stored_records_ += 1;
  return AppendOutcome::kStored;
}

void MediatedRingWriter::StoreRecord(uint64_t tag, std::span<const std::byte> stamp,
                                     std::span<const std::byte> payload) {
  // Not as Append does it: a follower may be copying what is written over, and its check
  // afterwards is worth something only if no store was moved up or split in ways of the compiler's.
  SharedBytes ring = records_.bytes();
  const uint64_t length = stamp.size() + payload.size();
  const uint64_t record_bytes = RecordBytes(length);
  const uint64_t padding = 0;
  ring.CopyIn(offset_ + record_bytes - sizeof(padding), std::as_bytes(std::span(&padding, 1)));
  const std::array<uint64_t, 2> header = {tag, length};
  ring.CopyIn(offset_, std::as_bytes(std::span(header)));
  ring.CopyIn(offset_ + kRecordHeaderBytes, stamp);
  ring.CopyIn(offset_ + kRecordHeaderBytes + stamp.size(), payload);
  head_ += record_bytes;
  offset_ += record_bytes;
  if (offset_ >= capacity_) offset_ -= capacity_;
}

RecordUnit MediatedRingWriter::UnitAt(uint64_t position) const {
  // Our own bytes: DATA is sealed, and everything from oldest on is intact.
  const auto unit = ParseRecordUnit(data_ + position % capacity_, capacity_, options_);
  IOB_CHECK(unit.has_value());
  return *unit;
}

bool MediatedRingWriter::RefreshTail() {
  // Pairs with the consumer's release store: what it read before is no longer needed.
  const auto tail = head_section_.Word<uint64_t>(kTailOffset)
                        .LoadAcquire()
                        .AlignedBetween(consumer_tail_, head_, kRecordAlignBytes);
  if (tail) {
    consumer_tail_ = *tail;
    // Where records were overwritten, a good tail may still be behind them.
    MoveTail(std::max(tail_, consumer_tail_));
  }
  high_water_bytes_ = std::max(high_water_bytes_, head_ - tail_);
  if (!tail) tail_violations_ += 1;
  return tail.has_value();
}

void MediatedRingWriter::MoveTail(uint64_t tail) {
  tail_ = tail;
  if (!takes_long_way_) plain_end_ = tail_ + capacity_;
  // Now and not at the next Publish: a consumer that comes in between must not get records again
  // that were counted as consumed.
  ledger_page_.Word<uint64_t>(kLedgerTailAccepted).StoreRelease(tail_);
  index_.MoveTail(tail_, head_, stored_records_, [this](uint64_t position) {
    if (takes_long_way_) return UnitAt(position).ring_bytes;
    // Our own bytes: DATA is sealed, and everything from the last good tail on is intact (W2).
    uint64_t payload_bytes = 0;
    std::memcpy(&payload_bytes, data_ + position % capacity_ + sizeof(uint64_t),
                sizeof(payload_bytes));
    return RecordBytes(payload_bytes);
  });
  if (!window_ || options_.overwrites() || oldest_ >= tail_) return;
  // What the consumer has released may be written over from here on.
  while (oldest_ < tail_) DropOldest(UnitAt(oldest_));
  if (oldest_ > window_head_) StoreWindowHead();
  StoreWindowOldest();
}

void MediatedRingWriter::Overwrite(uint64_t bytes) {
  if (bytes <= capacity_ - (head_ - oldest_)) return;
  bool looked = false;
  while (bytes > capacity_ - (head_ - oldest_)) {
    const RecordUnit unit = UnitAt(oldest_);
    const uint64_t end = oldest_ + unit.ring_bytes;
    // One look is enough: a consumer that is quick enough to save the next record as well will
    // be seen by the next write.
    if (end > tail_ && !std::exchange(looked, true)) (void)RefreshTail();
    if (end > tail_) {
      overwritten_records_ += 1;
      overwritten_bytes_ += unit.payload_bytes;
    }
    DropOldest(unit);
  }
  // While the bytes are still whole: the index may walk over them.
  if (oldest_ > tail_) MoveTail(oldest_);
  // A batch of more than a whole ring: oldest <= published head has to hold all the same (W6).
  if (oldest_ > window_head_) StoreWindowHead();
  StoreWindowOldest();
}

void MediatedRingWriter::DropOldest(const RecordUnit& unit) {
  oldest_ += unit.ring_bytes;
  oldest_records_ += 1;
  oldest_bytes_ += unit.payload_bytes;
}

void MediatedRingWriter::StoreWindowHead() {
  window_head_ = head_;
  ledger_page_.Word<uint64_t>(kLedgerHead).StoreRelease(head_);
}

void MediatedRingWriter::StoreWindowOldest() {
  // Release, for the head that was stored before it. Then the fence of W6, which pairs with the
  // one between a follower's copy and its second look at oldest: who has copied one new byte, or
  // one new figure, sees the new oldest.
  ledger_page_.Word<uint64_t>(kLedgerOldest).StoreRelease(oldest_);
  std::atomic_thread_fence(std::memory_order_release);
  ledger_page_.Word<uint64_t>(kLedgerOldestRecords).StoreRelaxed(oldest_records_);
  ledger_page_.Word<uint64_t>(kLedgerOldestBytes).StoreRelaxed(oldest_bytes_);
  ledger_page_.Word<uint64_t>(kLedgerOldestSettled).StoreRelease(oldest_);
}

bool MediatedRingWriter::PublishWindow() {
  ledger_page_.Word<uint64_t>(kLedgerOverwrittenRecords).StoreRelaxed(overwritten_records_);
  ledger_page_.Word<uint64_t>(kLedgerOverwrittenBytes).StoreRelaxed(overwritten_bytes_);
  if (head_ == window_head_) return false;
  // Cleared before the head moves, and never without that: a follower whose flag is lost here has
  // looked at the old head, so either it is woken below or the futex refuses to let it sleep.
  bool asleep = false;
  if (follow_) {
    auto& waiting = follow_->page.Word<uint32_t>(kFollowWaitingOffset);
    asleep = waiting.LoadRelaxed().ForHintOnly() != 0;
    if (asleep) waiting.StoreRelaxed(0);
  }
  StoreWindowHead();
  return asleep;
}

bool MediatedRingWriter::PublishToFollowers(const Ledger& ledger) {
  shared_.head->StoreRelease(head_);
  MirrorLedger(ledger);
  const bool asleep = PublishWindow();
  // Dekker as in Publish, with the consumer and with each follower.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (follow_) {
    auto& flag = follow_->page.Word<uint32_t>(kFollowWaitingOffset);
    if (asleep || flag.LoadRelaxed().ForHintOnly() != 0)
      FutexWakeAll(ledger_page_.Word<uint64_t>(kLedgerHead).address());
  }
  const uint32_t waiting = shared_.waiting->LoadRelaxed().ForHintOnly();
  return waiting != 0 && Wake(waiting);
}

void MediatedRingWriter::WantRoom(uint64_t room_bytes) {
  ledger_page_.Word<uint32_t>(kLedgerWantRoom).StoreRelease(static_cast<uint32_t>(room_bytes));
  // The consumer stores tail, fences, then looks at want_room; the caller looks at tail next.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

bool MediatedRingWriter::Wake(uint32_t waiting) {
  if ((waiting & kWaitingOnFutex) != 0) {
    FutexWakeAll(shared_.head->address());
  }
  return (waiting & kWaitingOnSocket) != 0;
}

RingOccupancy MediatedRingWriter::Occupancy() {
  RefreshTail();
  // The index counts what is below the tail, which is what was consumed and what was overwritten.
  return {.consumed_records = index_.consumed_records() - overwritten_records_,
          .resident_records = stored_records_ - index_.consumed_records(),
          .resident_bytes = head_ - tail_,
          .high_water_bytes = high_water_bytes_,
          .capacity_bytes = capacity_,
          .tail_violations = tail_violations_,
          .overwritten_records = overwritten_records_,
          .overwritten_bytes = overwritten_bytes_};
}

}  // namespace iob::shm
