#include "shm/mediated_ring_follower.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<MediatedRingFollower> MediatedRingFollower::Follow(const RingLayout& layout,
                                                                  const RingOptions& options,
                                                                  const SealedMemfd& data_memfd,
                                                                  const SealedMemfd& follow_memfd) {
  if (!options.followers)
    return absl::FailedPreconditionError("the ring was not made for followers");
  return Map(layout, options, follow_memfd, data_memfd, /*consuming=*/false);
}

absl::StatusOr<MediatedRingFollower> MediatedRingFollower::Consume(const RingLayout& layout,
                                                                   const RingOptions& options,
                                                                   const SealedMemfd& head_memfd,
                                                                   const SealedMemfd& data_memfd) {
  if (!options.overwrites()) {
    return absl::FailedPreconditionError(
        "the consumer of a ring that does not overwrite reads it in place");
  }
  return Map(layout, options, head_memfd, data_memfd, /*consuming=*/true);
}

absl::StatusOr<MediatedRingFollower> MediatedRingFollower::Map(const RingLayout& layout,
                                                               const RingOptions& options,
                                                               const SealedMemfd& own_memfd,
                                                               const SealedMemfd& data_memfd,
                                                               bool consuming) {
  if (own_memfd.size_bytes() != layout.page_bytes() ||
      data_memfd.size_bytes() != layout.data_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("ring sections of ", own_memfd.size_bytes(), " and ", data_memfd.size_bytes(),
                     " bytes do not make a region of ", layout.region_bytes()));
  }
  const uint64_t capacity = layout.capacity_bytes();
  const Part records{
      .memfd = &data_memfd, .offset_bytes = 0, .size_bytes = capacity, .writable = false};
  const std::array<Part, 4> parts = {
      Part{.memfd = &own_memfd,
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
  MediatedRingFollower follower(std::move(range), layout, options, consuming);
  IOB_RETURN_IF_ERROR(follower.Begin());
  return follower;
}

MediatedRingFollower::MediatedRingFollower(AddressRange range, const RingLayout& layout,
                                           const RingOptions& options, bool consuming)
    : range_(std::move(range)),
      options_(options),
      consuming_(consuming),
      own_page_(range_.base()),
      records_(own_page_ + layout.page_bytes()),
      ledger_page_(records_ + 2 * layout.capacity_bytes()),
      capacity_(layout.capacity_bytes()),
      copy_(std::min(options.payload_bytes_max(), layout.capacity_bytes())) {}

absl::Status MediatedRingFollower::Begin() {
  const std::optional<Window> oldest = LoadOldest();
  if (!oldest) return absl::DataLossError("the ring's oldest record keeps moving, or cannot be");
  next_ = head_ = oldest->position;
  next_record_ = oldest->records;
  next_bytes_ = oldest->bytes;
  RefreshHead();
  if (consuming_ && !poisoned_) IOB_RETURN_IF_ERROR(ResumeAtTail());
  first_record_ = next_record_;
  account_ = {};
  return status();
}

// Records between oldest and the tail were consumed by somebody before us. They are still whole, so
// walking over them numbers the first one that was not.
absl::Status MediatedRingFollower::ResumeAtTail() {
  std::optional<uint64_t> tail =
      OwnWord<uint64_t>(kTailOffset).LoadAcquire().AlignedBetween(0, head_, kRecordAlignBytes);
  if (!tail) {
    tail =
        LedgerWord(kLedgerTailAccepted).LoadAcquire().AlignedBetween(0, head_, kRecordAlignBytes);
  }
  if (!tail) return absl::DataLossError("no tail below the ring's head");
  for (uint64_t left = capacity_ / kRecordHeaderBytes; next_ < *tail && left != 0; --left) {
    const auto unit =
        ParseRecordUnit(records_ + next_ % capacity_, std::min(head_ - next_, capacity_), options_);
    RecordLoss overrun;
    if (!IsStillWhole()) {
      if (SkipToOldest(&overrun) == RingFollowOutcome::kPoisoned) return status();
    } else if (!unit) {
      Poison();
      return status();
    } else {
      MovePast(*unit);
    }
  }
  tail_ = next_;
  OwnWord<uint64_t>(kTailOffset).StoreRelease(tail_);
  return absl::OkStatus();
}

RingFollowOutcome MediatedRingFollower::Next(RecordView* ret_record) {
  if (next_ == head_ && !RefreshHead())
    return poisoned_ ? RingFollowOutcome::kPoisoned : RingFollowOutcome::kEmpty;
  const uint64_t offset = next_ % capacity_;
  const auto unit =
      ParseRecordUnit(records_ + offset, std::min(head_ - next_, capacity_), options_);
  if (unit) {
    SharedBytes(records_, 2 * capacity_)
        .CopyOut(offset + unit->payload_offset, {copy_.data(), unit->payload_bytes});
  }
  // F2. What was copied is judged only now, and so is what could not be copied.
  if (!IsStillWhole()) {
    *ret_record = {};
    return SkipToOldest(&ret_record->gap);
  }
  if (!unit || (options_.stamped && unit->sequence != next_record_)) return Poison();
  *ret_record = {.tag = unit->tag,
                 .payload = {copy_.data(), unit->payload_bytes},
                 .sequence = next_record_,
                 .time_ns = unit->time_ns,
                 .gap = unit->gap};
  account_.received_records += 1;
  account_.received_bytes += unit->payload_bytes;
  MovePast(*unit);
  return RingFollowOutcome::kRecord;
}

void MediatedRingFollower::MovePast(const RecordUnit& unit) {
  next_ += unit.ring_bytes;
  next_record_ += 1;
  next_bytes_ += unit.payload_bytes;
}

bool MediatedRingFollower::RefreshHead() {
  if (poisoned_) return false;
  // Pairs with the writer's release store: the records below are there, and whole unless oldest
  // says otherwise.
  const auto head =
      LedgerWord(kLedgerHead).LoadAcquire().AlignedBetween(head_, UINT64_MAX, kRecordAlignBytes);
  if (!head) {
    Poison();
    return false;
  }
  head_ = *head;
  return head_ != next_;
}

bool MediatedRingFollower::IsStillWhole() const {
  // Pairs with the writer's fence between oldest and the bytes: had one of the bytes that were
  // copied been new, this load would see the oldest that made room for it.
  std::atomic_thread_fence(std::memory_order_acquire);
  return LedgerWord(kLedgerOldest).LoadRelaxed().Between(0, next_).has_value();
}

std::optional<MediatedRingFollower::Window> MediatedRingFollower::LoadOldest() {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto settled = LedgerWord(kLedgerOldestSettled)
                             .LoadAcquire()
                             .AlignedBetween(next_, UINT64_MAX, kRecordAlignBytes);
    const auto records =
        LedgerWord(kLedgerOldestRecords).LoadRelaxed().Between(next_record_, UINT64_MAX);
    const auto bytes =
        LedgerWord(kLedgerOldestBytes).LoadRelaxed().Between(next_bytes_, UINT64_MAX);
    // The figures are those of `settled` if oldest had not moved on when they were read: its new
    // value is stored and fenced before theirs.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!settled || !LedgerWord(kLedgerOldest).LoadRelaxed().Between(*settled, *settled)) continue;
    if (!records || !bytes) {
      Poison();
      return std::nullopt;
    }
    return Window{.position = *settled, .records = *records, .bytes = *bytes};
  }
  return std::nullopt;
}

RingFollowOutcome MediatedRingFollower::SkipToOldest(RecordLoss* ret_loss) {
  const std::optional<Window> oldest = LoadOldest();
  // A writer that is too fast to be followed even by three words, or one that died between them:
  // there is nothing to read now, and only its attachment can tell which.
  if (!oldest) return poisoned_ ? RingFollowOutcome::kPoisoned : RingFollowOutcome::kEmpty;
  *ret_loss = {.records = oldest->records - next_record_,
               .bytes = oldest->bytes - next_bytes_,
               .at_record = next_record_};
  account_.lost_records += ret_loss->records;
  account_.lost_bytes += ret_loss->bytes;
  next_ = oldest->position;
  next_record_ = oldest->records;
  next_bytes_ = oldest->bytes;
  // Not ahead of the shared head, which was stored before oldest.
  head_ = std::max(head_, next_);
  return RingFollowOutcome::kLost;
}

void MediatedRingFollower::Release() {
  if (!consuming_ || tail_ == next_) return;
  tail_ = next_;
  OwnWord<uint64_t>(kTailOffset).StoreRelease(tail_);
}

RingFollowOutcome MediatedRingFollower::Poison() {
  poisoned_ = true;
  // With nothing left below head, Next comes to RefreshHead, which knows of the poison.
  head_ = next_;
  return RingFollowOutcome::kPoisoned;
}

absl::Status MediatedRingFollower::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the ring's words cannot be: head ", head_,
                                          ", next record ", next_record_, " at ", next_,
                                          ", capacity ", capacity_, " bytes"));
}

bool MediatedRingFollower::HasRecords() { return next_ != head_ || RefreshHead(); }

bool MediatedRingFollower::PrepareToWait(uint32_t how) {
  // FOLLOW's word is everybody's, so it says no more than that there is somebody.
  OwnWord<uint32_t>(consuming_ ? kWaitingOffset : kFollowWaitingOffset)
      .StoreRelaxed(consuming_ ? how : kWaitingOnFutex);
  // Dekker with the writer's Publish: our flag, fence, its head.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !HasRecords() && !poisoned_;
}

void MediatedRingFollower::ClearWaiting() {
  // A follower's flag is cleared by the broker: another follower may be sleeping on it.
  if (consuming_) OwnWord<uint32_t>(kWaitingOffset).StoreRelaxed(0);
}

FutexWord MediatedRingFollower::HeadWord() const {
  // The broker wakes a consumer on the head of its own page, and followers on the ledger's.
  return {.address = consuming_ ? OwnWord<uint64_t>(kHeadOffset).address()
                                : LedgerWord(kLedgerHead).address(),
          .expected = static_cast<uint32_t>(head_)};
}

}  // namespace iob::shm
