#include "shm/mediated_ring_reader.h"

#include <array>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// The position to resume at: the shared tail if it can be, else the one that the broker last
// accepted.
absl::StatusOr<uint64_t> ResumePosition(const std::byte* head_page, const std::byte* ledger_page,
                                        uint64_t capacity) {
  const auto head = SharedWordAt<uint64_t>(head_page + kHeadOffset)
                        .LoadAcquire()
                        .AlignedBetween(0, UINT64_MAX, kRecordAlignBytes);
  if (!head) return absl::DataLossError("the ring's head is not 8-aligned");
  const uint64_t oldest = *head > capacity ? *head - capacity : 0;
  for (const SharedAtomic<uint64_t>* word :
       {&SharedWordAt<uint64_t>(head_page + kTailOffset),
        &SharedWordAt<uint64_t>(ledger_page + kLedgerTailAccepted)}) {
    if (const auto tail = word->LoadAcquire().AlignedBetween(oldest, *head, kRecordAlignBytes))
      return *tail;
  }
  return absl::DataLossError(
      absl::StrCat("no tail within ", capacity, " bytes of the ring's head"));
}

}  // namespace

absl::StatusOr<MediatedRingReader> MediatedRingReader::Map(const RingLayout& layout,
                                                           const SealedMemfd& head_memfd,
                                                           const SealedMemfd& data_memfd,
                                                           const RingOptions& options) {
  if (options.overwrites())
    return absl::InvalidArgumentError("a ring that overwrites cannot be read in place");
  if (head_memfd.size_bytes() != layout.head_section_bytes() ||
      data_memfd.size_bytes() != layout.data_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("ring sections of ", head_memfd.size_bytes(), " and ", data_memfd.size_bytes(),
                     " bytes do not make a region of ", layout.region_bytes()));
  }
  const uint64_t capacity = layout.capacity_bytes();
  const Part records{
      .memfd = &data_memfd, .offset_bytes = 0, .size_bytes = capacity, .writable = false};
  const std::array<Part, 4> parts = {
      Part{.memfd = &head_memfd,
           .offset_bytes = 0,
           .size_bytes = layout.page_bytes(),
           .writable = true},
      records,
      records,
      Part{.memfd = &data_memfd,
           .offset_bytes = capacity,
           .size_bytes = layout.page_bytes(),
           .writable = false},
  };
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts(parts, OnFork::kDrop));
  const std::byte* const ledger_page = range.base() + layout.page_bytes() + 2 * capacity;
  IOB_ASSIGN_OR_RETURN(const uint64_t tail, ResumePosition(range.base(), ledger_page, capacity));
  return MediatedRingReader(std::move(range), layout.page_bytes(), capacity, options, tail);
}

MediatedRingReader::MediatedRingReader(AddressRange range, uint64_t page_bytes,
                                       uint64_t capacity_bytes, const RingOptions& options,
                                       uint64_t tail)
    : range_(std::move(range)),
      head_page_(range_.base()),
      records_(head_page_ + page_bytes),
      ledger_page_(records_ + 2 * capacity_bytes),
      capacity_(capacity_bytes),
      options_(options),
      annotated_(options.stamped || options.gap_records),
      tail_(tail),
      next_(tail),
      offset_(tail % capacity_bytes),
      head_(tail),
      plain_head_(tail) {
  HeadPageWord(kTailOffset).StoreRelease(tail_);
}

ReadOutcome MediatedRingReader::NextUnit(RecordView* ret_record) {
  if (next_ == head_ && !RefreshHead())
    return poisoned_ ? ReadOutcome::kPoisoned : ReadOutcome::kEmpty;
  const std::byte* const start = records_ + offset_;
  // C1 and C2: no more than a ring is below head.
  const auto unit = ParseRecordUnit(start, head_ - next_, options_);
  if (!unit) {
    Poison();
    return ReadOutcome::kPoisoned;
  }
  *ret_record = {.tag = unit->tag,
                 .payload = {start + unit->payload_offset, unit->payload_bytes},
                 .sequence = unit->sequence,
                 .time_ns = unit->time_ns,
                 .gap = unit->gap};
  next_ += unit->ring_bytes;
  plain_head_ = next_;
  offset_ += unit->ring_bytes;
  if (offset_ >= capacity_) offset_ -= capacity_;
  return ReadOutcome::kRecord;
}

void MediatedRingReader::Poison() {
  poisoned_ = true;
  poisoned_below_ = head_;
  // With nothing left below head, Next comes to RefreshHead, which knows of the poison.
  head_ = plain_head_ = next_;
}

bool MediatedRingReader::HasRecords() { return next_ != head_ || RefreshHead(); }

bool MediatedRingReader::HasRoomFor(uint64_t wanted) const {
  // A fresh head: what the broker added since counts against the room. A head that cannot be is
  // left for Next to find; telling the broker once too often is harmless.
  const auto head = HeadPageWord(kHeadOffset).LoadAcquire().Between(tail_, UINT64_MAX);
  return !head || *head - tail_ > capacity_ || capacity_ - (*head - tail_) >= wanted;
}

absl::Status MediatedRingReader::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the ring's shared words cannot be: head ",
                                          poisoned_below_, ", tail ", tail_, ", next record at ",
                                          next_, ", capacity ", capacity_, " bytes"));
}

bool MediatedRingReader::PrepareToWait(uint32_t how) {
  SharedWordAt<uint32_t>(range_.base() + kWaitingOffset).StoreRelaxed(how);
  // Dekker with the writer's Publish: our flag, fence, its head.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !HasRecords() && !poisoned_;
}

void MediatedRingReader::ClearWaiting() {
  SharedWordAt<uint32_t>(range_.base() + kWaitingOffset).StoreRelaxed(0);
}

FutexWord MediatedRingReader::HeadWord() const {
  return {.address = HeadPageWord(kHeadOffset).address(), .expected = static_cast<uint32_t>(head_)};
}

MediatedRingReader::LedgerMirror MediatedRingReader::ledger() const {
  const auto counter = [this](uint64_t offset_bytes) {
    return LedgerWord<uint64_t>(offset_bytes).LoadRelaxed().ForHintOnly();
  };
  return {.stored_records = counter(kLedgerStoredRecords),
          .stored_bytes = counter(kLedgerStoredBytes),
          .rejected_records = counter(kLedgerRejectedRecords),
          .rejected_bytes = counter(kLedgerRejectedBytes)};
}

}  // namespace iob::shm
