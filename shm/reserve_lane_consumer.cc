#include "shm/reserve_lane_consumer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// Discards that one call walks over. A ring of nothing but discards is thus walked in steps, and
// the caller gets a word in between.
constexpr uint32_t kDiscardsPerCall = 1024;

// Looks at an empty ring before held-back room is given back: a consumer that keeps pace looks
// often, and giving back record by record would undo what batches are for.
constexpr uint32_t kEmptyLooksMax = 64;

constexpr uint64_t kClearBatchesPerRing = 8;

}  // namespace

absl::StatusOr<LaneConsumer> LaneConsumer::Map(const LaneLayout& layout,
                                               const SealedMemfd& lane_memfd,
                                               const SealedMemfd& control_memfd, Options options) {
  IOB_RETURN_IF_ERROR(layout.CheckSections(lane_memfd, control_memfd));
  const uint64_t page_bytes = layout.page_bytes();
  const uint64_t capacity = layout.capacity_bytes();
  const Part data{.memfd = &lane_memfd,
                  .offset_bytes = page_bytes,
                  .size_bytes = capacity,
                  .writable = options.clears};
  const std::array<Part, 4> parts = {
      Part{.memfd = &control_memfd, .offset_bytes = 0, .size_bytes = page_bytes, .writable = true},
      Part{.memfd = &lane_memfd, .offset_bytes = 0, .size_bytes = page_bytes, .writable = false},
      data,
      data,
  };
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts(parts, OnFork::kDrop));
  const auto tail = SharedWordAt<uint64_t>(range.base() + page_bytes + kLaneTailOffset)
                        .LoadAcquire()
                        .AlignedBetween(0, UINT64_MAX, kRecordAlignBytes);
  if (!tail) return absl::DataLossError("the lane's tail is not 8-aligned");
  const uint64_t oldest = *tail > capacity ? *tail - capacity : 0;
  const auto head = SharedWordAt<uint64_t>(range.base() + kLaneHeadOffset)
                        .LoadAcquire()
                        .AlignedBetween(oldest, *tail, kRecordAlignBytes);
  if (!head) {
    return absl::DataLossError(
        absl::StrCat("no head within ", capacity, " bytes of the lane's tail at ", *tail));
  }
  LaneSlots slots(range.base() + kLaneConsumedSlotsOffset);
  const auto resume = slots.Recover(*head, *tail);
  if (!resume) {
    return absl::DataLossError(absl::StrCat("no slot of the consumer's lies between head at ",
                                            *head, " and tail at ", *tail));
  }
  return LaneConsumer(std::move(range), layout, *resume, *head, *tail, slots, options);
}

LaneConsumer::LaneConsumer(AddressRange range, const LaneLayout& layout,
                           const LaneCheckpoint& resume, uint64_t head, uint64_t tail,
                           LaneSlots slots, Options options)
    : range_(std::move(range)),
      control_page_(range_.base()),
      lane_page_(control_page_ + layout.page_bytes()),
      data_(lane_page_ + layout.page_bytes()),
      slots_(slots),
      capacity_(layout.capacity_bytes()),
      clear_batch_bytes_(capacity_ / kClearBatchesPerRing),
      head_(head),
      released_(resume),
      tail_(tail),
      left_(tail - resume.position),
      offset_(resume.position % capacity_),
      sequence_(resume.sequence),
      payload_bytes_(resume.payload_bytes),
      discards_(resume.discards),
      lane_(options.lane),
      clears_(options.clears) {
  ClearWaiting();
  slots_.DropOther();
  // What a predecessor released and did not live to give back (R4).
  if (head_ != released_.position) GiveBack();
}

LaneReadOutcome LaneConsumer::OutcomeOfNone() {
  if (poisoned_) return LaneReadOutcome::kPoisoned;
  if (released_.position != head_ && (++empty_looks_ >= kEmptyLooksMax || WantsRoom())) {
    empty_looks_ = 0;
    GiveBack();
  }
  return LaneReadOutcome::kEmpty;
}

std::optional<uint64_t> LaneConsumer::MoveOverDiscards(uint64_t claimed_word) {
  for (uint32_t skipped = 0; skipped < kDiscardsPerCall; ++skipped) {
    const uint64_t claimed_rest = claimed_word & ~kLaneLengthMask;
    if (claimed_rest == LaneWord(0, 0, sequence_)) return claimed_word;
    const uint64_t claimed_bytes = claimed_word & kLaneLengthMask;
    if (claimed_rest != LaneWord(0, kLaneDiscarded, sequence_) ||
        RecordBytes(claimed_bytes) > left_) {
      Poison();
      return std::nullopt;
    }
    MoveNext(claimed_bytes);
    discards_ += 1;
    if (left_ == 0 && !RefreshTail()) return std::nullopt;
    claimed_word = *SharedWordAt<uint64_t>(data_ + offset_).LoadRelaxed().Between(0, UINT64_MAX);
  }
  return std::nullopt;
}

LaneReadOutcome LaneConsumer::Poison() {
  poisoned_ = true;
  poisoned_below_ = tail_;
  // With nothing left below tail, Peek comes to RefreshTail, which knows of the poison.
  tail_ -= std::exchange(left_, 0);
  return LaneReadOutcome::kPoisoned;
}

LaneReadOutcome LaneConsumer::TryRead(std::vector<std::byte>* ret_payload) {
  SharedRecord record;
  const LaneReadOutcome outcome = Peek(&record);
  if (outcome != LaneReadOutcome::kRecord) return outcome;
  ret_payload->resize(record.payload.size());
  record.payload.CopyOut(0, *ret_payload);
  Take();
  return outcome;
}

void LaneConsumer::Clear() {
  // Twice mapped, so a range that wraps is contiguous.
  std::memset(data_ + head_ % capacity_, 0, released_.position - head_);
}

void LaneConsumer::WakeProducer() {
  // Head must have arrived before the wake does (light_fence.h, L5).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint32_t wanted = WantedRoom() & ~kFenceForMe;
  if (wanted == 0) return;
  // A fresh tail: what the producer added since counts against the room. A tail that cannot be is
  // left for Next to find; a wake too many is harmless.
  auto& head_word = SharedWordAt<uint64_t>(control_page_ + kLaneHeadOffset);
  const auto tail =
      SharedWordAt<uint64_t>(lane_page_ + kLaneTailOffset).LoadAcquire().Between(head_, UINT64_MAX);
  if (tail && *tail - head_ <= capacity_ && capacity_ - (*tail - head_) < wanted) return;
  FutexWakeAll(head_word.address());
}

absl::Status LaneConsumer::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("lane ", lane_, " cannot be: tail ", poisoned_below_,
                                          ", head ", head_, ", record ", sequence_, " at ", tail_,
                                          ", capacity ", capacity_, " bytes"));
}

bool LaneConsumer::PrepareToWait(uint32_t how) {
  if (released_.position != head_) GiveBack();
  // Dekker with the producer's Publish: our flag, fence, its tail (light_fence.h, L1).
  do {
    SharedWordAt<uint32_t>(control_page_ + kLaneWaitingOffset).StoreRelaxed(how | fence_.ask());
  } while (!fence_.Heavy());
  return !HasRecords() && !poisoned_;
}

void LaneConsumer::ClearWaiting() {
  SharedWordAt<uint32_t>(control_page_ + kLaneWaitingOffset).StoreRelaxed(fence_.ask());
}

FutexWord LaneConsumer::TailWord() const {
  return {.address = SharedWordAt<uint64_t>(lane_page_ + kLaneTailOffset).address(),
          .expected = static_cast<uint32_t>(tail_)};
}

absl::StatusOr<LaneCheckpoint> LaneConsumer::SettleLedger() {
  if (HasRecords() || (!poisoned_ && released_.position != consumed().position)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "lane ", lane_, " has records that nobody has taken and released, from ", head_));
  }
  IOB_RETURN_IF_ERROR(status());
  if (released_.position != head_) GiveBack();
  return consumed();
}

}  // namespace iob::shm
