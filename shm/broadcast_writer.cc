#include "shm/broadcast_writer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr uint64_t kAlignBytes = 8;

}  // namespace

absl::StatusOr<BroadcastWriter> BroadcastWriter::Map(const BroadcastLayout& layout,
                                                     const SealedMemfd& data,
                                                     const SealedMemfd& wait) {
  if (data.size_bytes() != layout.data_section_bytes() ||
      wait.size_bytes() != layout.wait_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("broadcast sections of ", data.size_bytes(), " and ", wait.size_bytes(),
                     " bytes do not make a region of ", layout.region_bytes()));
  }
  const uint64_t page_bytes = layout.page_bytes();
  IOB_ASSIGN_OR_RETURN(Mapping positions,
                       Mapping::MapWindow(data, 0, page_bytes, 1, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(
      Mapping records,
      Mapping::MapWindow(data, page_bytes, layout.capacity_bytes(), 2, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping wait_page, Mapping::Map(wait, OnFork::kDrop));
  BroadcastWriter writer(layout, std::move(positions), std::move(records), std::move(wait_page));
  IOB_RETURN_IF_ERROR(writer.Resume());
  return writer;
}

BroadcastWriter::SharedWords BroadcastWriter::SharedWordsOf(const Mapping& positions,
                                                            const Mapping& wait_page) {
  return {.head = &positions.Word<uint64_t>(kBroadcastHead),
          .next_sequence = &positions.Word<uint64_t>(kBroadcastNextSequence),
          .stored_bytes = &positions.Word<uint64_t>(kBroadcastStoredBytes),
          .oldest = &positions.Word<uint64_t>(kBroadcastOldest),
          .overwritten_records = &positions.Word<uint64_t>(kBroadcastOverwrittenRecords),
          .overwritten_bytes = &positions.Word<uint64_t>(kBroadcastOverwrittenBytes),
          .waiting = &wait_page.Word<uint32_t>(kWaitHintOffset)};
}

BroadcastWriter::BroadcastWriter(const BroadcastLayout& layout, Mapping positions, Mapping records,
                                 Mapping wait_page)
    : layout_(layout),
      positions_(std::move(positions)),
      records_mapping_(std::move(records)),
      wait_page_(std::move(wait_page)),
      shared_(SharedWordsOf(positions_, wait_page_)),
      records_(records_mapping_.bytes()) {}

absl::Status BroadcastWriter::Resume() {
  const auto head =
      shared_.head->LoadAcquire().AlignedBetween(0, kBroadcastPositionMax, kAlignBytes);
  if (!head) return absl::DataLossError("the broadcast ring's head cannot be");
  const uint64_t lowest = *head > layout_.capacity_bytes() ? *head - layout_.capacity_bytes() : 0;
  const auto oldest = shared_.oldest->LoadAcquire().AlignedBetween(lowest, *head, kAlignBytes);
  const auto next_sequence =
      shared_.next_sequence->LoadAcquire().Between(0, kBroadcastSequenceMax - 1);
  if (!oldest || !next_sequence) {
    return absl::DataLossError(absl::StrCat("the broadcast ring's words cannot be: head ", *head));
  }
  head_ = published_ = *head;
  oldest_ = *oldest;
  write_offset_ = head_ % layout_.capacity_bytes();
  uint64_t resident_bytes = 0;
  const bool intact = CountResident(*next_sequence, &resident_bytes);
  // At most one of the two counters is behind: a publish starts when the last overwriting is
  // counted, and an overwriting when the last publish is. So the larger claim is the true one.
  const auto count = [](const SharedAtomic<uint64_t>* word) {
    return word->LoadRelaxed().Between(0, kBroadcastPositionMax).value_or(0);
  };
  stored_bytes_ =
      std::max(count(shared_.stored_bytes), count(shared_.overwritten_bytes) + resident_bytes);
  overwritten_bytes_ = stored_bytes_ - resident_bytes;
  if (!intact) DropAll();
  StoreOldest();
  StoreHead();
  // The predecessor may have died between its publish and the wake. Who asked for a packet still
  // has its bit: the next Publish tells.
  Wake(kWaitingOnFutex);
  return absl::OkStatus();
}

bool BroadcastWriter::CountResident(uint64_t next_sequence, uint64_t* ret_payload_bytes) {
  next_sequence_ = oldest_sequence_ = next_sequence;
  uint64_t sequence = next_sequence;
  for (uint64_t position = oldest_; position != head_;) {
    const BroadcastHeader header = HeaderAt(position);
    if (position == oldest_) sequence = header.sequence;
    if (!layout_.Plausible(header, head_ - position) || header.sequence != sequence) return false;
    // The shared counter is behind by one publish at most, which is all in the ring (B1, B3).
    if (position == oldest_ && sequence > next_sequence) return false;
    if (position == oldest_) oldest_sequence_ = sequence;
    sequence += 1;
    *ret_payload_bytes += header.payload_bytes;
    position += BroadcastRecordBytes(header.payload_bytes);
  }
  if (sequence < next_sequence) return false;
  next_sequence_ = sequence;
  return true;
}

BroadcastHeader BroadcastWriter::HeaderAt(uint64_t position) const {
  BroadcastHeader header;
  records_.CopyOut(position % layout_.capacity_bytes(),
                   std::as_writable_bytes(std::span(&header, 1)));
  return header;
}

void BroadcastWriter::DropOldest(uint64_t record_bytes) {
  while (record_bytes > layout_.capacity_bytes() - (head_ - oldest_)) {
    const BroadcastHeader header = HeaderAt(oldest_);
    if (header.sequence != oldest_sequence_ || !layout_.Plausible(header, head_ - oldest_))
        [[unlikely]] {
      DropAll();
      break;
    }
    oldest_ += BroadcastRecordBytes(header.payload_bytes);
    oldest_sequence_ += 1;
    // At most: with a length that somebody forged, the sum could exceed what was stored.
    overwritten_bytes_ = std::min(overwritten_bytes_ + header.payload_bytes, stored_bytes_);
  }
  // Records may be overwritten before they were published; oldest must not pass head all the same
  // (B1).
  if (oldest_ > published_) StoreHead();
  StoreOldest();
}

void BroadcastWriter::DropAll() {
  restarts_ += 1;
  oldest_ = head_;
  oldest_sequence_ = next_sequence_;
  overwritten_bytes_ = stored_bytes_;
}

void BroadcastWriter::StoreOldest() {
  // Release, so that a follower that sees it and then looks at head finds none below it (B1).
  shared_.oldest->StoreRelease(oldest_);
  shared_.overwritten_records->StoreRelease(oldest_sequence_);
  shared_.overwritten_bytes->StoreRelaxed(overwritten_bytes_);
  // Pairs with the followers' fence behind their copies: who has seen a byte that is written from
  // here on sees this oldest as well (B2).
  std::atomic_thread_fence(std::memory_order_release);
}

std::span<std::byte> BroadcastWriter::Reserve(uint64_t payload_bytes) {
  reserved_bytes_ = 0;
  if (payload_bytes > layout_.payload_bytes_max()) return {};
  MakeRoom(BroadcastRecordBytes(payload_bytes));
  reserved_bytes_ = BroadcastRecordBytes(payload_bytes);
  return {records_mapping_.base() + write_offset_ + kBroadcastHeaderBytes, payload_bytes};
}

void BroadcastWriter::Submit(uint64_t tag, uint64_t payload_bytes) {
  IOB_CHECK(payload_bytes <= layout_.payload_bytes_max());
  const uint64_t record_bytes = BroadcastRecordBytes(payload_bytes);
  IOB_CHECK(record_bytes <= reserved_bytes_);
  reserved_bytes_ = 0;
  const uint64_t end_bytes = kBroadcastHeaderBytes + payload_bytes;
  records_.CopyIn(write_offset_ + end_bytes, std::span(kZeros).first(record_bytes - end_bytes));
  Complete(tag, payload_bytes);
}

bool BroadcastWriter::Wake(uint32_t asked) {
  if ((asked & kWaitingOnFutex) != 0) FutexWakeAll(shared_.head->address());
  return (asked & kWaitingOnSocket) != 0;
}

BroadcastFigures BroadcastWriter::figures() const {
  return {.stored_records = next_sequence_,
          .stored_bytes = stored_bytes_,
          .overwritten_records = oldest_sequence_,
          .overwritten_bytes = overwritten_bytes_,
          .restarts = restarts_};
}

}  // namespace iob::shm
