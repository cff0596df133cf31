#include "shm/reserve_shared_salvage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iob::shm {

template <int kLapBits>
BasicSharedSalvage<kLapBits>::BasicSharedSalvage(BasicSharedConsumer<kLapBits> consumer)
    : layout_(consumer.layout_),
      ctl_(std::move(consumer.ctl_)),
      data_section_(std::move(consumer.data_section_)),
      cons_(std::move(consumer.cons_)),
      control_(consumer.control_),
      data_(consumer.data_),
      head_(consumer.released_),
      frontier_(consumer.released_),
      poisoned_(consumer.poisoned_),
      poison_(consumer.poison_) {
  Resume();
}

// V4: the words of an earlier salvage of this process's own user. Whatever they are, they are
// positions in the ring or they do not count.
template <int kLapBits>
void BasicSharedSalvage<kLapBits>::Resume() {
  const uint64_t end = head_ + layout_.size_bytes();
  frontier_ = cons_.Word<uint64_t>(kSharedFrontier)
                  .LoadAcquire()
                  .AlignedBetween(head_, end, layout_.granule_bytes())
                  .value_or(head_);
  for (uint32_t owner = 0; owner < kSharedOwners; ++owner) {
    const SharedHold hold = SharedHold::Load(cons_.Word<uint64_t>(SharedHold::OffsetOf(owner)));
    const bool aligned = hold.position() % layout_.granule_bytes() == 0;
    if (aligned && hold.KeepsFrom(head_, frontier_)) {
      holds_[owner] = Hold{.position = hold.position(), .seen_low = 0};
    }
  }
}

template <int kLapBits>
std::optional<uint64_t> BasicSharedSalvage<kLapBits>::EndOf(uint64_t position, ControlWord word) {
  const uint64_t footprint = layout_.Footprint(word.payload_bytes());
  if (footprint > layout_.size_bytes() - (position - head_)) {
    Poison("a record does not fit into what is left of the ring");
    return std::nullopt;
  }
  return position + footprint;
}

// The next record of this owner behind the one that its hold is at; no hold when there is none
// below the frontier.
template <int kLapBits>
void BasicSharedSalvage<kLapBits>::MoveHold(uint32_t owner) {
  uint64_t position = holds_[owner]->position;
  ControlWord word = ControlWord::Load(Slot(position));
  while (true) {
    const auto end = EndOf(position, word);
    if (!end) return;
    if (*end > frontier_) return Poison("a record's length has changed");
    position = *end;
    if (position == frontier_) break;
    word = ControlWord::Load(Slot(position));
    if (!Lap::Claims(layout_, position, word)) return Poison("a claim is gone");
    if (word.owner() == owner) {
      holds_[owner] = Hold{.position = position, .seen_low = word.low_half()};
      return;
    }
  }
  holds_[owner].reset();
}

template <int kLapBits>
auto BasicSharedSalvage<kLapBits>::FindHeld(uint32_t owner) -> std::optional<Found> {
  while (holds_[owner] && !poisoned_) {
    Hold& hold = *holds_[owner];
    const ControlWord word = ControlWord::Load(Slot(hold.position));
    hold.seen_low = word.low_half();
    if (!Lap::Claims(layout_, hold.position, word) || word.owner() != owner) {
      Poison("a claim is gone");
      return std::nullopt;
    }
    if (word.state() == SlotState::kBusy) return std::nullopt;
    if (word.state() == SlotState::kCommit) {
      return Found{.position = hold.position, .word = word, .held = true};
    }
    MoveHold(owner);
  }
  return std::nullopt;
}

template <int kLapBits>
auto BasicSharedSalvage<kLapBits>::FindAtFrontier() -> std::optional<Found> {
  // Each step takes a granule at least, and EndOf stops at the ring's size (V5).
  while (frontier_ - head_ < layout_.size_bytes()) {
    const ControlWord word = ControlWord::Load(Slot(frontier_));
    frontier_seen_low_ = word.low_half();
    if (!Lap::Claims(layout_, frontier_, word)) return std::nullopt;
    const uint32_t owner = word.owner();
    if (owner >= kSharedOwners) {
      Poison("a claim of nobody");
      return std::nullopt;
    }
    if (word.state() == SlotState::kCommit && !holds_[owner]) {
      return Found{.position = frontier_, .word = word, .held = false};
    }
    const auto end = EndOf(frontier_, word);
    if (!end) return std::nullopt;
    if (word.state() == SlotState::kBusy && !holds_[owner]) {
      holds_[owner] = Hold{.position = frontier_, .seen_low = word.low_half()};
    }
    frontier_ = *end;
    moved_ = true;
  }
  return std::nullopt;
}

template <int kLapBits>
auto BasicSharedSalvage<kLapBits>::Find() -> std::optional<Found> {
  for (uint32_t owner = 0; owner < kSharedOwners && !poisoned_; ++owner) {
    if (const auto found = FindHeld(owner)) return found;
  }
  if (poisoned_) return std::nullopt;
  return FindAtFrontier();
}

template <int kLapBits>
void BasicSharedSalvage<kLapBits>::Take(const Found& found) {
  moved_ = true;
  given_out_ = true;
  if (found.held) return MoveHold(found.word.owner());
  if (const auto end = EndOf(frontier_, found.word)) frontier_ = *end;
}

template <int kLapBits>
SharedReadOutcome BasicSharedSalvage<kLapBits>::Next(SharedRecord* ret_record) {
  const auto found = Find();
  if (found) Take(*found);
  if (poisoned_) return SharedReadOutcome::kPoisoned;
  if (!found) return SharedReadOutcome::kEmpty;
  *ret_record = {.payload = SharedBytes(data_ + layout_.OffsetOf(found->position),
                                        found->word.payload_bytes()),
                 .sequence = found->position,
                 .stamp_ns = 0,
                 .lane_or_owner = found->word.owner()};
  return SharedReadOutcome::kRecord;
}

template <int kLapBits>
void BasicSharedSalvage<kLapBits>::StoreHold(uint32_t owner) {
  const auto& hold = holds_[owner];
  const auto position = hold ? std::optional(hold->position) : std::nullopt;
  cons_.Word<uint64_t>(SharedHold::OffsetOf(owner)).StoreRelease(SharedHold::BitsFor(position));
}

template <int kLapBits>
void BasicSharedSalvage<kLapBits>::Release() {
  given_out_ = false;
  if (!std::exchange(moved_, false)) return;
  for (uint32_t owner = 0; owner < kSharedOwners; ++owner) StoreHold(owner);
  cons_.Word<uint64_t>(kSharedFrontier).StoreRelease(frontier_);
}

template <int kLapBits>
bool BasicSharedSalvage<kLapBits>::PrepareToWait(uint32_t how) {
  if (HasRecords() || poisoned_) return false;
  cons_.Word<uint32_t>(kSharedHow).StoreRelaxed(how);
  const auto held =
      std::find_if(holds_.begin(), holds_.end(), [](const auto& hold) { return hold.has_value(); });
  const uint64_t awaited = held != holds_.end() ? (*held)->position : frontier_;
  // Dekker with the producers' submits: our flag, fence, their word (light_fence.h, L1).
  do {
    cons_.Word<uint64_t>(kSharedWait).StoreRelease(awaited | kSharedWaits | fence_.ask());
  } while (!fence_.Heavy());
  return !HasRecords() && !poisoned_;
}

template <int kLapBits>
void BasicSharedSalvage<kLapBits>::ClearWaiting() {
  cons_.Word<uint64_t>(kSharedWait).StoreRelease(fence_.ask());
}

template <int kLapBits>
size_t BasicSharedSalvage<kLapBits>::WaitWords(std::span<FutexWord> words) const {
  size_t count = 0;
  const auto add = [&](uint64_t position, uint32_t seen_low) {
    if (count == words.size()) return;
    words[count++] = {.address = Slot(position).address(), .expected = seen_low};
  };
  for (const auto& hold : holds_) {
    if (hold) add(hold->position, hold->seen_low);
  }
  add(frontier_, frontier_seen_low_);
  return count;
}

template <int kLapBits>
bool BasicSharedSalvage<kLapBits>::Over() {
  // Before the words: what was submitted before nobody was left is seen behind it.
  const bool over =
      ctl_.Word<uint32_t>(kSharedRetired).LoadAcquire().ForHintOnly() == kSharedRetiredOver;
  if (!over || Find() || poisoned_ || given_out_) return false;
  Release();
  return std::none_of(holds_.begin(), holds_.end(),
                      [](const auto& hold) { return hold.has_value(); });
}

template <int kLapBits>
void BasicSharedSalvage<kLapBits>::Poison(const char* why) {
  poisoned_ = true;
  poison_ = why;
}

template <int kLapBits>
absl::Status BasicSharedSalvage<kLapBits>::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("a retired shared reserve ring of ", layout_.size_bytes(),
                                          " bytes, at ", frontier_, ": ", poison_));
}

template class BasicSharedSalvage<kSharedLapBits>;
#ifdef IOB_TEST_HOOKS
template class BasicSharedSalvage<4>;
template class BasicSharedSalvage<6>;
template class BasicSharedSalvage<10>;
#endif

}  // namespace iob::shm
