#include "tests/fuzz/hand_writer.h"

namespace iob::fuzz {
namespace {

uint64_t TagOf(uint64_t number) { return number * 3 + 1; }
bool HasGap(uint64_t number) { return number % 5 == 3; }

}  // namespace

HandWriter::HandWriter(const MediatedRing& ring, const shm::RingOptions& options, uint64_t start)
    : ring_(ring),
      options_(options),
      capacity_(ring.layout.capacity_bytes()),
      head_(start),
      oldest_(start) {
  ring_.head.mapping.Word<uint64_t>(shm::kTailOffset).StoreRelease(start);
  SetLedger(shm::kLedgerTailAccepted, start);
  SetLedger(shm::kLedgerOldest, start);
  SetLedger(shm::kLedgerOldestSettled, start);
  Publish();
}

void HandWriter::Append(uint64_t payload_bytes) {
  const uint64_t number = sizes_.size();
  const bool gap = options_.gap_records && HasGap(number);
  const uint64_t record_bytes = shm::RecordBytes(options_.stamp_bytes() + payload_bytes);
  const uint64_t unit_bytes = record_bytes + (gap ? shm::kGapRecordBytes : 0);
  if (!MakeRoom(unit_bytes)) return;
  if (gap) {
    const std::array<uint64_t, 3> told = {1, 100, number};
    StoreRecord(shm::kGapTag, told, {});
  }
  const std::array<uint64_t, 2> stamp = {number, 1000 + number};
  std::vector<std::byte> payload(payload_bytes);
  FillPattern(number, payload);
  StoreRecord(TagOf(number), std::span(stamp).first(options_.stamped ? 2 : 0), payload);
  units_.push_back({.ring_bytes = unit_bytes, .payload_bytes = payload_bytes});
  sizes_.push_back(payload_bytes);
}

bool HandWriter::MakeRoom(uint64_t bytes) {
  if (bytes > capacity_) return false;
  // What was released goes; a ring that overwrites asks nobody, and one that does not believes a
  // tail only if it is one of its own.
  const uint64_t tail =
      ring_.head.mapping.Word<uint64_t>(shm::kTailOffset).LoadAcquire().ForHintOnly();
  const uint64_t oldest_before = oldest_;
  while (!units_.empty() && head_ + bytes - oldest_ > capacity_) {
    const Unit& unit = units_.front();
    const bool released = tail <= head_ && oldest_ + unit.ring_bytes <= tail;
    if (!released && !options_.overwrites()) break;
    oldest_ += unit.ring_bytes;
    oldest_records_ += 1;
    oldest_bytes_ += unit.payload_bytes;
    units_.pop_front();
  }
  if (oldest_ != oldest_before) {
    SetLedger(shm::kLedgerOldest, oldest_);
    SetLedger(shm::kLedgerOldestRecords, oldest_records_);
    SetLedger(shm::kLedgerOldestBytes, oldest_bytes_);
    SetLedger(shm::kLedgerOldestSettled, oldest_);
    // What is published is never behind the oldest.
    Publish();
  }
  return head_ + bytes - oldest_ <= capacity_;
}

void HandWriter::StoreRecord(uint64_t tag, std::span<const uint64_t> words,
                             std::span<const std::byte> payload) {
  const uint64_t length = words.size() * sizeof(uint64_t) + payload.size();
  const uint64_t record_bytes = shm::RecordBytes(length);
  StoreWord(head_ + record_bytes - sizeof(uint64_t), 0);
  StoreWord(head_, tag);
  StoreWord(head_ + 8, length);
  uint64_t position = head_ + shm::kRecordHeaderBytes;
  for (const uint64_t word : words) {
    StoreWord(position, word);
    position += sizeof(word);
  }
  for (const std::byte byte : payload) ring_.data.mapping.base()[position++ % capacity_] = byte;
  head_ += record_bytes;
}

void HandWriter::Publish() {
  ring_.head.mapping.Word<uint64_t>(shm::kHeadOffset).StoreRelease(head_);
  SetLedger(shm::kLedgerStoredRecords, sizes_.size());
  SetLedger(shm::kLedgerHead, head_);
}

bool HandWriter::IsRecord(uint64_t number, const shm::RecordView& view) const {
  if (number >= sizes_.size() || view.payload.size() != sizes_[number]) return false;
  if (view.tag != TagOf(number) || !HasPattern(number, view.payload)) return false;
  if (options_.stamped && (view.sequence != number || view.time_ns != 1000 + int64_t(number))) {
    return false;
  }
  const bool gap = options_.gap_records && HasGap(number);
  return view.gap == (gap ? shm::RecordLoss{.records = 1, .bytes = 100, .at_record = number}
                          : shm::RecordLoss{});
}

void HandWriter::StoreWord(uint64_t position, uint64_t value) const {
  ring_.data.mapping.Word<uint64_t>(position % capacity_).StoreRelaxed(value);
}
void HandWriter::SetLedger(uint64_t offset, uint64_t value) const {
  ring_.data.mapping.Word<uint64_t>(capacity_ + offset).StoreRelease(value);
}

}  // namespace iob::fuzz
