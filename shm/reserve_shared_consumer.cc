#include "shm/reserve_shared_consumer.h"

#include <array>
#include <atomic>
#include <bit>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {

template <int kLapBits>
absl::StatusOr<BasicSharedConsumer<kLapBits>> BasicSharedConsumer<kLapBits>::Map(
    const SharedLayout& layout, const SharedSections& sections) {
  IOB_RETURN_IF_ERROR(sections.Match(layout));
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping ctl, ReadOnlyMapping::Map(sections.ctl, OnFork::kDrop));
  const Part payload{.memfd = &sections.data,
                     .offset_bytes = 0,
                     .size_bytes = layout.size_bytes(),
                     .writable = false};
  const std::array<Part, 2> twice = {payload, payload};
  IOB_ASSIGN_OR_RETURN(AddressRange data, AddressRange::MapParts(twice, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping cons, Mapping::Map(sections.cons, OnFork::kDrop));
  // Head first: it is never more than one lagging claim ahead of a tail that is loaded later.
  const auto head = cons.Word<uint64_t>(kSharedHead)
                        .LoadAcquire()
                        .AlignedBetween(0, SharedLayout::kPositionMax, layout.granule_bytes());
  if (!head) return absl::DataLossError("the head of the shared reserve ring cannot be");
  return BasicSharedConsumer(layout, std::move(ctl), std::move(data), std::move(cons), *head);
}

template <int kLapBits>
BasicSharedConsumer<kLapBits>::BasicSharedConsumer(const SharedLayout& layout, ReadOnlyMapping ctl,
                                                   AddressRange data, Mapping cons, uint64_t head)
    : layout_(layout),
      ctl_(std::move(ctl)),
      data_section_(std::move(data)),
      cons_(std::move(cons)),
      control_(&ctl_.Word<uint64_t>(layout.ControlOffset())),
      tail_(&ctl_.Word<uint64_t>(kSharedTail)),
      want_room_(&ctl_.Word<uint64_t>(kSharedWantRoom)),
      retired_(&ctl_.Word<uint32_t>(kSharedRetired)),
      head_(&cons_.Word<uint64_t>(kSharedHead)),
      data_(data_section_.base()),
      released_(head),
      next_(head) {
  ResumeCounts();
  ClearWaiting();
  CheckTail();
}

template <int kLapBits>
void BasicSharedConsumer<kLapBits>::ResumeCounts() {
  const auto counter = [this](uint64_t offset_bytes) {
    return *cons_.Word<uint64_t>(offset_bytes).LoadAcquire().Between(0, UINT64_MAX);
  };
  // C4. Counting goes on from there, whatever it is: numbers of the consumer about itself.
  const bool intent_holds = counter(kSharedIntentHead) == released_;
  consumed_records_ = counter(intent_holds ? kSharedIntentRecords : kSharedConsumedRecords);
  consumed_bytes_ = counter(intent_holds ? kSharedIntentBytes : kSharedConsumedBytes);
  cons_.Word<uint64_t>(kSharedConsumedRecords).StoreRelease(consumed_records_);
  cons_.Word<uint64_t>(kSharedConsumedBytes).StoreRelease(consumed_bytes_);
}

// The word at next_, with discarded records behind us. nullopt when that went beyond one ring.
template <int kLapBits>
std::optional<ControlWord> BasicSharedConsumer<kLapBits>::SkipDiscards() {
  for (uint64_t steps = 0; steps <= layout_.slots(); ++steps) {
    const ControlWord word = ControlWord::Load(Slot(next_));
    if (word.state() != SlotState::kDiscard || !Lap::Claims(layout_, next_, word)) return word;
    if (!StepOver(layout_.Footprint(word.payload_bytes()))) break;
  }
  Poison("discarded records go round the ring");
  return std::nullopt;
}

template <int kLapBits>
SharedReadOutcome BasicSharedConsumer<kLapBits>::NextSlowly(SharedRecord* ret_record) {
  if (poisoned_) return SharedReadOutcome::kPoisoned;
  const std::optional<ControlWord> word = SkipDiscards();
  if (!word) return SharedReadOutcome::kPoisoned;
  if (word->state() != SlotState::kCommit || !Lap::Claims(layout_, next_, *word)) {
    SawNothing();
    return SharedReadOutcome::kEmpty;
  }
  return Deliver(*word, ret_record);
}

template <int kLapBits>
void BasicSharedConsumer<kLapBits>::Release() {
  if (released_ == next_) return;
  consumed_records_ += std::exchange(taken_records_, 0);
  consumed_bytes_ += std::exchange(taken_bytes_, 0);
  released_ = next_;
  // The order is C4's: the intent, then the head that makes it true, then the counters themselves.
  // The first store is a release so that it follows the counters of the last Release.
  cons_.Word<uint64_t>(kSharedIntentHead).StoreRelease(released_);
  cons_.Word<uint64_t>(kSharedIntentRecords).StoreRelease(consumed_records_);
  cons_.Word<uint64_t>(kSharedIntentBytes).StoreRelease(consumed_bytes_);
  // Pairs with the acquire before a claim: what was read here is read (M6).
  head_->StoreRelease(released_);
  cons_.Word<uint64_t>(kSharedConsumedRecords).StoreRelease(consumed_records_);
  cons_.Word<uint64_t>(kSharedConsumedBytes).StoreRelease(consumed_bytes_);
  // A producer sets want_room, fences, then looks at head; we have stored head, fence, then look at
  // want_room.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t claimed_owners = want_room_->LoadAcquire().ForHintOnly();
  if (claimed_owners != 0) [[unlikely]]
    WakeProducers(claimed_owners);
}

template <int kLapBits>
void BasicSharedConsumer<kLapBits>::WakeProducers(uint64_t claimed_owners) {
  const auto tail = tail_->LoadAcquire().Between(released_, released_ + layout_.size_bytes());
  // With a tail that cannot be, or that lags, nobody knows; waking once too often is harmless.
  const uint64_t room = tail ? layout_.size_bytes() - (*tail - released_) : layout_.size_bytes();
  while (claimed_owners != 0) {
    const auto owner = static_cast<uint32_t>(std::countr_zero(claimed_owners));
    claimed_owners &= claimed_owners - 1;
    const uint32_t wanted =
        ctl_.Word<uint32_t>(kSharedWanted + owner * sizeof(uint32_t)).LoadRelaxed().ForHintOnly();
    if (wanted <= room) {
      FutexWakeAll(head_->address());
      return;
    }
  }
}

template <int kLapBits>
bool BasicSharedConsumer<kLapBits>::HasRecords() {
  if (poisoned_) return false;
  const std::optional<ControlWord> word = SkipDiscards();
  if (!word) return false;
  seen_low_ = word->low_half();
  if (word->state() == SlotState::kCommit && Lap::Claims(layout_, next_, *word)) return true;
  SawNothing();
  return false;
}

template <int kLapBits>
bool BasicSharedConsumer<kLapBits>::PollPolitely() {
  // Not the same look twice.
  if (empty_at_ != next_ && HasRecords()) return true;
  pause_.Take(consumed_records_ + taken_records_);
  return HasRecords();
}

template <int kLapBits>
bool BasicSharedConsumer<kLapBits>::PrepareToWait(uint32_t how) {
  if (poisoned_) return false;
  cons_.Word<uint32_t>(kSharedHow).StoreRelaxed(how);
  // Again when records were discarded in the meantime: we wait for the one behind them. Each turn
  // moves next_, which C1 stops.
  uint64_t awaited = 0;
  do {
    awaited = next_;
    // Dekker with the producers' submits: our flag, fence, their word (light_fence.h, L1).
    do {
      cons_.Word<uint64_t>(kSharedWait).StoreRelease(awaited | kSharedWaits | fence_.ask());
    } while (!fence_.Heavy());
    if (HasRecords()) return false;
  } while (next_ != awaited && !poisoned_);
  CheckTail();
  return !poisoned_;
}

template <int kLapBits>
void BasicSharedConsumer<kLapBits>::ClearWaiting() {
  cons_.Word<uint64_t>(kSharedWait).StoreRelease(fence_.ask());
}

// Whether what we wait for can ever come. Not per record: the tail is the producers' busiest line.
template <int kLapBits>
void BasicSharedConsumer<kLapBits>::CheckTail() {
  const uint64_t size_bytes = layout_.size_bytes();
  const auto tail =
      tail_->LoadAcquire().AlignedBetween(0, SharedLayout::kPositionMax, layout_.granule_bytes());
  if (!tail) return Poison("the tail is not a position");
  // The tail may lag, but by one claim only (M3).
  if (*tail < next_ ? next_ - *tail > size_bytes : *tail - released_ > size_bytes) {
    return Poison("tail and head are more than a ring apart");
  }
  // After the tail has passed it, a position is claimed for good (M2).
  if (*tail > next_ && !Lap::Claims(layout_, next_, ControlWord::Load(Slot(next_)))) {
    Poison("the tail has passed a position that nobody claimed");
  }
}

template <int kLapBits>
std::optional<SharedStall> BasicSharedConsumer<kLapBits>::Stalled(int64_t now_ns) {
  const ControlWord word = ControlWord::Load(Slot(next_));
  if (poisoned_ || word.state() != SlotState::kBusy || !Lap::Claims(layout_, next_, word)) {
    stall_.reset();
    return std::nullopt;
  }
  if (!stall_ || stall_->position != next_ || stall_->owner != word.owner()) {
    stall_ = SharedStall{.owner = word.owner(), .position = next_, .since_ns = now_ns};
  }
  return stall_;
}

template <int kLapBits>
void BasicSharedConsumer<kLapBits>::Poison(const char* why) {
  poisoned_ = true;
  poison_ = why;
}

template <int kLapBits>
absl::Status BasicSharedConsumer<kLapBits>::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("a shared reserve ring of ", layout_.size_bytes(),
                                          " bytes, at ", next_, ", released ", released_, ": ",
                                          poison_));
}

template class BasicSharedConsumer<kSharedLapBits>;
#ifdef IOB_TEST_HOOKS
template class BasicSharedConsumer<4>;
template class BasicSharedConsumer<6>;
template class BasicSharedConsumer<10>;
#endif

}  // namespace iob::shm
