#include "shm/broadcast_follower.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr uint64_t kAlignBytes = 8;

}  // namespace

absl::StatusOr<BroadcastFollower> BroadcastFollower::Map(const BroadcastLayout& layout,
                                                         const SealedMemfd& data,
                                                         const SealedMemfd& wait, From from) {
  if (data.size_bytes() != layout.data_section_bytes() ||
      wait.size_bytes() != layout.wait_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("broadcast sections of ", data.size_bytes(), " and ", wait.size_bytes(),
                     " bytes do not make a region of ", layout.region_bytes()));
  }
  const Part records_once = {.memfd = &data,
                             .offset_bytes = layout.page_bytes(),
                             .size_bytes = layout.capacity_bytes(),
                             .writable = false};
  const std::array<Part, 2> parts = {records_once, records_once};
  IOB_ASSIGN_OR_RETURN(AddressRange records, AddressRange::MapParts(parts, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping words, ReadOnlyMapping::Map(data, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping wait_page, Mapping::Map(wait, OnFork::kDrop));
  BroadcastFollower follower(layout, std::move(words), std::move(records), std::move(wait_page));
  follower.Join(from);
  IOB_RETURN_IF_ERROR(follower.status());
  return follower;
}

BroadcastFollower::BroadcastFollower(const BroadcastLayout& layout, ReadOnlyMapping data,
                                     AddressRange records, Mapping wait_page)
    : layout_(layout),
      data_(std::move(data)),
      records_mapping_(std::move(records)),
      wait_page_(std::move(wait_page)),
      records_(records_mapping_.base(), records_mapping_.size_bytes()) {}

void BroadcastFollower::Join(From from) {
  // The counter before the position that goes with it: it can be behind, never ahead (B3), and the
  // first record mends that.
  const uint64_t counter =
      from == From::kOldest ? kBroadcastOverwrittenRecords : kBroadcastNextSequence;
  const auto sequence = Word(counter).LoadAcquire().Between(0, kBroadcastSequenceMax - 1);
  if (!sequence) return Poison("a sequence number");
  first_sequence_ = next_sequence_ = *sequence;
  Refresh();
  if (poison_ != nullptr) return;
  MoveTo(from == From::kOldest ? oldest_ : head_);
  overtaken_ = false;
}

bool BroadcastFollower::Refresh() {
  if (poison_ != nullptr) return false;
  // Oldest before head: head only grows and was never below oldest, so whatever the writer does in
  // between, an honest head is not below this oldest. Both acquire: the records are complete.
  const auto oldest = Word(kBroadcastOldest)
                          .LoadAcquire()
                          .AlignedBetween(oldest_, kBroadcastPositionMax, kAlignBytes);
  if (!oldest) {
    Poison("oldest");
    return false;
  }
  const auto head =
      Word(kBroadcastHead)
          .LoadAcquire()
          .AlignedBetween(std::max(head_, *oldest), kBroadcastPositionMax, kAlignBytes);
  if (!head) {
    Poison("head");
    return false;
  }
  oldest_ = *oldest;
  head_ = *head;
  if (next_ < oldest_) {
    MoveTo(oldest_);
    overtaken_ = true;
  }
  return next_ != head_;
}

void BroadcastFollower::MoveTo(uint64_t position) {
  next_ = position;
  offset_ = position % layout_.capacity_bytes();
}

FollowOutcome BroadcastFollower::Next(std::span<std::byte> buffer, Followed* ret_followed) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    if (next_ == head_ && !Refresh()) {
      if (poison_ != nullptr) return FollowOutcome::kPoisoned;
      const uint64_t lost_below = LostBelow();
      return lost_below > next_sequence_ ? Lose(lost_below, ret_followed) : FollowOutcome::kEmpty;
    }
    BroadcastHeader header;
    switch (CopyNext(buffer, &header)) {
      case CopyOutcome::kIntact:
        return Take(header, buffer.size(), ret_followed);
      case CopyOutcome::kPoisoned:
        return FollowOutcome::kPoisoned;
      case CopyOutcome::kOvertaken:
        Refresh();
    }
  }
  if (poison_ != nullptr) return FollowOutcome::kPoisoned;
  // Each attempt saw oldest move on, and the counter that goes with all but the last of these moves
  // was stored before the next of them.
  const uint64_t lost_below = LostBelow();
  if (lost_below > next_sequence_) return Lose(lost_below, ret_followed);
  Poison("the count of overwritten records");
  return FollowOutcome::kPoisoned;
}

BroadcastFollower::CopyOutcome BroadcastFollower::CopyNext(std::span<std::byte> buffer,
                                                           BroadcastHeader* ret_header) {
  records_.CopyOut(offset_, std::as_writable_bytes(std::span(ret_header, 1)));
  // Our own copy from here on. It may be torn, so that nothing is concluded from it before oldest
  // is looked at, but it is bounded before it is used.
  const BroadcastHeader& header = *ret_header;
  const bool plausible =
      layout_.Plausible(header, head_ - next_) && header.sequence >= next_sequence_;
  if (plausible && header.payload_bytes <= buffer.size()) {
    records_.CopyOut(offset_ + kBroadcastHeaderBytes, buffer.first(header.payload_bytes));
  }
  // Pairs with the writer's fence behind its store of oldest: if the copy holds one byte that was
  // written after that, this load sees it.
  std::atomic_thread_fence(std::memory_order_acquire);
  const auto oldest = Word(kBroadcastOldest)
                          .LoadRelaxed()
                          .AlignedBetween(oldest_, kBroadcastPositionMax, kAlignBytes);
  if (oldest && *oldest > next_) return CopyOutcome::kOvertaken;
  if (oldest && plausible) return CopyOutcome::kIntact;
  Poison(oldest ? "a record" : "oldest");
  return CopyOutcome::kPoisoned;
}

FollowOutcome BroadcastFollower::Take(const BroadcastHeader& header, uint64_t buffer_bytes,
                                      Followed* ret_followed) {
  // Where it joined, the follower has missed nothing, whatever the counter said.
  if (joining_ && !overtaken_) first_sequence_ = next_sequence_ = header.sequence;
  if (header.sequence > next_sequence_) return Lose(header.sequence, ret_followed);
  joining_ = false;
  *ret_followed = {.sequence = header.sequence,
                   .tag = header.tag,
                   .payload_bytes = header.payload_bytes,
                   .lost_records = 0};
  if (header.payload_bytes > buffer_bytes) return FollowOutcome::kTooSmall;
  const uint64_t record_bytes = BroadcastRecordBytes(header.payload_bytes);
  next_ += record_bytes;
  offset_ += record_bytes;
  if (offset_ >= layout_.capacity_bytes()) offset_ -= layout_.capacity_bytes();
  next_sequence_ += 1;
  received_records_ += 1;
  overtaken_ = false;
  return FollowOutcome::kRecord;
}

FollowOutcome BroadcastFollower::Lose(uint64_t sequence, Followed* ret_followed) {
  joining_ = false;
  *ret_followed = {.sequence = next_sequence_,
                   .tag = 0,
                   .payload_bytes = 0,
                   .lost_records = sequence - next_sequence_};
  next_sequence_ = sequence;
  return FollowOutcome::kLost;
}

uint64_t BroadcastFollower::LostBelow() const {
  if (!overtaken_) return next_sequence_;
  // Every record below this is gone, and the position is beyond them: the counter is stored after
  // the oldest that goes with it. A counter that cannot be tells nothing; the next record will.
  return Word(kBroadcastOverwrittenRecords)
      .LoadAcquire()
      .Between(next_sequence_, kBroadcastSequenceMax - 1)
      .value_or(next_sequence_);
}

void BroadcastFollower::Poison(const char* what) {
  poison_ = what;
  // With nothing left below head, Next comes to Refresh, which knows of the poison.
  head_ = next_;
}

absl::Status BroadcastFollower::status() const {
  if (poison_ == nullptr) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the broadcast ring holds what cannot be: ", poison_,
                                          "; next record ", next_sequence_, " at ", next_,
                                          ", capacity ", layout_.capacity_bytes(), " bytes"));
}

bool BroadcastFollower::HasRecords() {
  return next_ != head_ || Refresh() || (poison_ == nullptr && LostBelow() > next_sequence_);
}

bool BroadcastFollower::PrepareToWait(uint32_t how) {
  AskForWake(wait_page_.Word<uint32_t>(kWaitHintOffset), how);
  return !HasRecords() && poison_ == nullptr;
}

FutexWord BroadcastFollower::HeadWord() const {
  return {.address = Word(kBroadcastHead).address(), .expected = static_cast<uint32_t>(head_)};
}

}  // namespace iob::shm
