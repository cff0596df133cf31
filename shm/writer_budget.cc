#include "shm/writer_budget.h"

#include <algorithm>

#include "shm/check.h"

namespace iob::shm {
namespace {

uint64_t RecordBytesIn(const MediatedRingWriter& ring, uint64_t payload_bytes) {
  return RecordBytes(ring.options().stamp_bytes() + payload_bytes);
}

// How many records the limits let be resident at once; 0 for no limits.
uint64_t RecordsAtOnce(const BudgetLimits& limits, const RingLayout& layout) {
  if (limits.records_max == 0 && limits.bytes_max == 0) return 0;
  // One more than ever fits, so that limits too small for any record are limits all the same.
  uint64_t records = layout.capacity_bytes() / kRecordHeaderBytes;
  if (limits.records_max != 0) records = std::min(records, limits.records_max);
  if (limits.bytes_max != 0) records = std::min(records, limits.bytes_max / kRecordHeaderBytes);
  return records + 1;
}

}  // namespace

WriterBudget::WriterBudget(const BudgetLimits& limits, const RingLayout& layout)
    : limits_(limits), ends_(RecordsAtOnce(limits, layout)) {}

bool WriterBudget::AdmitWithin(MediatedRingWriter& ring, uint64_t payload_bytes) {
  // The ring refuses it under its proper cause, and a sum of it need not be thought about.
  if (payload_bytes > ring.options().payload_bytes_max()) return true;
  const uint64_t record_bytes = RecordBytesIn(ring, payload_bytes);
  ReleaseUpTo(ring.released_position());
  if (HasRoomFor(record_bytes)) return true;
  // A tail that cannot be leaves the last good one in force, here as everywhere.
  (void)ring.RefreshTail();
  ReleaseUpTo(ring.released_position());
  return HasRoomFor(record_bytes);
}

void WriterBudget::ChargeWithin(const MediatedRingWriter& ring, uint64_t payload_bytes) {
  // Appending may have moved the tail, or overwritten some of ours.
  ReleaseUpTo(ring.released_position());
  IOB_CHECK(count_ < ends_.size());
  const uint64_t record_bytes = RecordBytesIn(ring, payload_bytes);
  ends_[(first_ + count_) % ends_.size()] = {.end = ring.head_position(), .bytes = record_bytes};
  count_ += 1;
  bytes_ += record_bytes;
}

bool WriterBudget::HasRoomFor(uint64_t record_bytes) const {
  return (limits_.records_max == 0 || count_ < limits_.records_max) &&
         (limits_.bytes_max == 0 ||
          (record_bytes <= limits_.bytes_max && bytes_ <= limits_.bytes_max - record_bytes));
}

void WriterBudget::ReleaseUpTo(uint64_t position) {
  while (count_ != 0 && ends_[first_].end <= position) {
    bytes_ -= ends_[first_].bytes;
    first_ = first_ + 1 == ends_.size() ? 0 : first_ + 1;
    count_ -= 1;
  }
}

}  // namespace iob::shm
