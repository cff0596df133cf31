#include "shm/mediated_ring_writer.h"

#include <algorithm>

#include "shm/futex.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<MediatedRingWriter> MediatedRingWriter::Create(const RingLayout& layout) {
  IOB_ASSIGN_OR_RETURN(Memfd fresh_head, Memfd::Create("iob-head"));
  IOB_ASSIGN_OR_RETURN(SealedMemfd head_memfd,
                       std::move(fresh_head).SealSize(layout.head_section_bytes()));
  IOB_ASSIGN_OR_RETURN(Mapping head_section, Mapping::Map(head_memfd));
  IOB_ASSIGN_OR_RETURN(Memfd fresh_data, Memfd::Create("iob-data"));
  IOB_ASSIGN_OR_RETURN(SealedMemfd data_memfd,
                       std::move(fresh_data).SealSize(layout.data_section_bytes()));
  IOB_ASSIGN_OR_RETURN(Mapping records, Mapping::MapWindow(data_memfd, 0, layout.capacity_bytes(),
                                                           2, OnFork::kShare));
  IOB_ASSIGN_OR_RETURN(Mapping ledger_page,
                       Mapping::MapWindow(data_memfd, layout.capacity_bytes(), layout.page_bytes(),
                                          1, OnFork::kShare));
  // After our own mappings, before any descriptor leaves: from here on nobody else can ever write.
  IOB_RETURN_IF_ERROR(data_memfd.SealAgainstWriters());
  return MediatedRingWriter(layout, std::move(head_memfd), std::move(data_memfd),
                            std::move(head_section), std::move(records), std::move(ledger_page));
}

AppendOutcome MediatedRingWriter::MakeRoom(uint64_t record_bytes) {
  // Before the tail is looked at, as in zx_iob_writev: a record that could never fit is NO_SPACE.
  if (record_bytes > capacity_) return AppendOutcome::kTooLarge;
  if (!RefreshTail()) return AppendOutcome::kIntegrity;
  return record_bytes <= capacity_ - (head_ - tail_) ? AppendOutcome::kStored
                                                     : AppendOutcome::kFull;
}

bool MediatedRingWriter::RefreshTail() {
  // Pairs with the consumer's release store: what it read before is no longer needed.
  const auto tail = head_section_.Word<uint64_t>(kTailOffset)
                        .LoadAcquire()
                        .AlignedBetween(tail_, head_, kRecordAlignBytes);
  if (tail) tail_ = *tail;
  high_water_bytes_ = std::max(high_water_bytes_, head_ - tail_);
  if (!tail) {
    tail_violations_ += 1;
    return false;
  }
  // Now and not at the next Publish: a consumer that comes in between must not get records again
  // that were counted as consumed.
  ledger_page_.Word<uint64_t>(kLedgerTailAccepted).StoreRelease(tail_);
  index_.MoveTail(tail_, head_, stored_records_, [this](uint64_t position) {
    // Our own bytes: DATA is sealed, and everything from the last good tail on is intact (W2).
    uint64_t payload_bytes = 0;
    std::memcpy(&payload_bytes, data_ + position % capacity_ + sizeof(uint64_t),
                sizeof(payload_bytes));
    return RecordBytes(payload_bytes);
  });
  return true;
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
  return {.consumed_records = index_.consumed_records(),
          .resident_records = stored_records_ - index_.consumed_records(),
          .resident_bytes = head_ - tail_,
          .high_water_bytes = high_water_bytes_,
          .capacity_bytes = capacity_,
          .tail_violations = tail_violations_};
}

}  // namespace iob::shm
