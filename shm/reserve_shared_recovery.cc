#include "shm/reserve_shared_recovery.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::shm {
namespace {

constexpr int kBitTriesMax = 256;

// Stamps older than this are replaced, by one that is a little younger. No claimed word between
// head and tail is more than one lap behind the tail.
constexpr uint64_t kScrubAgeMax = 4;
constexpr uint64_t kScrubbedAge = 3;

}  // namespace

template <int kLapBits>
absl::StatusOr<BasicSharedRecovery<kLapBits>> BasicSharedRecovery<kLapBits>::Map(
    const SharedLayout& layout, const SharedSections& sections) {
  IOB_RETURN_IF_ERROR(sections.Match(layout));
  IOB_ASSIGN_OR_RETURN(Mapping ctl, Mapping::Map(sections.ctl, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping cons, ReadOnlyMapping::Map(sections.cons, OnFork::kDrop));
  return BasicSharedRecovery(layout, std::move(ctl), std::move(cons));
}

template <int kLapBits>
std::optional<uint64_t> BasicSharedRecovery<kLapBits>::LoadTail() const {
  return ctl_.Word<uint64_t>(kSharedTail)
      .LoadAcquire()
      .AlignedBetween(0, SharedLayout::kPositionMax, layout_.granule_bytes());
}

template <int kLapBits>
absl::StatusOr<SharedRecovered> BasicSharedRecovery<kLapBits>::Recover(uint32_t owner) {
  if (owner == 0 || owner >= kSharedOwners) {
    return absl::InvalidArgumentError(
        absl::StrCat("owner ", owner, ": producers have 1 to ", kSharedOwners - 1));
  }
  SharedRecovered recovered;
  recovered.settled_submit = SettleIntent(owner);
  recovered.discarded_records = DiscardClaims(owner);
  SharedLedgerLine line(ctl_, layout_, owner);
  line.Set(SharedLedgerLine::kRecovered,
           line.Get(SharedLedgerLine::kRecovered) + recovered.discarded_records);
  HelpTail();
  ForgetWish(owner);
  recovered.tell_socket = WakeConsumer();
  return recovered;
}

// S3: true when the dead owner changed its word and had not counted it.
template <int kLapBits>
bool BasicSharedRecovery<kLapBits>::SettleIntent(uint32_t owner) const {
  SharedLedgerLine line(ctl_, layout_, owner);
  const uint64_t intent = line.Get(SharedLedgerLine::kIntent);
  if (intent == 0) return false;
  const auto state = static_cast<SlotState>(intent & 3);
  const uint64_t position = intent & ~uint64_t{3};
  const ControlWord word = ControlWord::Load(Slot(position));
  // A word that is of another lap by now was consumed, so it was submitted before.
  const bool is_there = Lap::Claims(layout_, position, word) && word.owner() == owner;
  const bool done = !is_there || word.state() == state;
  bool counted_late = false;
  if (done && state == SlotState::kCommit) {
    const uint64_t records = line.Get(SharedLedgerLine::kIntentRecords);
    counted_late = line.Get(SharedLedgerLine::kStoredRecords) != records;
    line.Set(SharedLedgerLine::kStoredRecords, records);
    line.Set(SharedLedgerLine::kStoredBytes, line.Get(SharedLedgerLine::kIntentBytes));
  }
  if (done && state == SlotState::kDiscard) {
    line.Set(SharedLedgerLine::kDiscarded, line.Get(SharedLedgerLine::kIntentRecords));
  }
  line.SetAfterAll(SharedLedgerLine::kIntent, 0);
  return counted_late;
}

template <int kLapBits>
uint64_t BasicSharedRecovery<kLapBits>::DiscardClaims(uint32_t owner) const {
  uint64_t discarded = 0;
  for (uint64_t slot = 0; slot < layout_.slots(); ++slot) {
    const ControlWord word = ControlWord::Load(control_[slot]);
    if (word.state() != SlotState::kBusy || word.owner() != owner) continue;
    // Fails only when somebody else has claimed the slot over it: then there is nothing to do.
    if (control_[slot].CompareExchange(word.bits(), word.With(SlotState::kDiscard).bits())) {
      discarded += 1;
    }
  }
  return discarded;
}

// So that positions that are shown are right; producers would do it themselves.
template <int kLapBits>
void BasicSharedRecovery<kLapBits>::HelpTail() const {
  const auto tail = LoadTail();
  if (!tail) return;
  const ControlWord word = ControlWord::Load(Slot(*tail));
  if (!Lap::Claims(layout_, *tail, word)) return;
  const uint64_t footprint = layout_.Footprint(word.payload_bytes());
  if (footprint > layout_.size_bytes()) return;
  (void)ctl_.Word<uint64_t>(kSharedTail).CompareExchange(*tail, *tail + footprint);
}

// The dead wait for no room.
template <int kLapBits>
void BasicSharedRecovery<kLapBits>::ForgetWish(uint32_t owner) const {
  ctl_.Word<uint32_t>(kSharedWanted + owner * sizeof(uint32_t)).StoreRelaxed(0);
  auto& want_room = ctl_.Word<uint64_t>(kSharedWantRoom);
  for (int tries = 0; tries < kBitTriesMax; ++tries) {
    const uint64_t owners = *want_room.LoadRelaxed().Between(0, UINT64_MAX);
    const uint64_t others = owners & ~(uint64_t{1} << owner);
    if (others == owners || want_room.CompareExchange(owners, others)) return;
  }
}

template <int kLapBits>
bool BasicSharedRecovery<kLapBits>::WakeConsumer() const {
  // As after a submit: words first, fence, then the flag (Dekker).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t claimed_wait = cons_.Word<uint64_t>(kSharedWait).LoadAcquire().ForHintOnly();
  if ((claimed_wait & ~uint64_t{kFenceForMe}) == 0) return false;
  const uint32_t how = cons_.Word<uint32_t>(kSharedHow).LoadRelaxed().ForHintOnly();
  if ((how & kWaitingOnFutex) != 0) FutexWakeAll(Slot(claimed_wait).address());
  return (how & kWaitingOnSocket) != 0;
}

template <int kLapBits>
uint64_t BasicSharedRecovery<kLapBits>::Scrub() {
  uint64_t scrubbed = 0;
  for (uint64_t slot = 0; slot < layout_.slots(); ++slot) {
    const ControlWord word = ControlWord::Load(control_[slot]);
    if (word.state() == SlotState::kNever || word.state() == SlotState::kBusy) continue;
    const auto tail = LoadTail();
    if (!tail) return scrubbed;
    const uint64_t lap = Lap::Of(layout_, *tail);
    if (((lap - word.lap()) & Lap::kMask) <= kScrubAgeMax) continue;
    const ControlWord stamp =
        ControlWord::Make(SlotState::kDiscard, (lap - kScrubbedAge) & Lap::kMask, 0, 0);
    if (control_[slot].CompareExchange(word.bits(), stamp.bits())) scrubbed += 1;
  }
  if (const auto tail = LoadTail()) scrubbed_turn_ = layout_.TurnOf(*tail);
  return scrubbed;
}

template <int kLapBits>
bool BasicSharedRecovery<kLapBits>::ScrubDue() const {
  const auto tail = LoadTail();
  if (!tail) return false;
  const uint64_t turn = layout_.TurnOf(*tail);
  // A broker that finds a ring does not know when it was scrubbed last.
  if (!scrubbed_turn_) return turn > kScrubAgeMax;
  return turn - *scrubbed_turn_ >= uint64_t{1} << (kLapBits - 4);
}

template <int kLapBits>
template <typename Visit>
bool BasicSharedRecovery<kLapBits>::ForEachRecord(Visit visit) const {
  const auto head = cons_.Word<uint64_t>(kSharedHead)
                        .LoadAcquire()
                        .AlignedBetween(0, SharedLayout::kPositionMax, layout_.granule_bytes());
  if (!head) return false;
  // Each record takes a granule at least, so the ring's size bounds the steps (R1).
  for (uint64_t walked = 0; walked < layout_.size_bytes();) {
    const ControlWord word = ControlWord::Load(Slot(*head + walked));
    if (!Lap::Claims(layout_, *head + walked, word)) return true;
    const uint64_t footprint = layout_.Footprint(word.payload_bytes());
    if (footprint > layout_.size_bytes() - walked) return false;
    if (!visit(*head + walked, word)) return true;
    walked += footprint;
  }
  return true;
}

template <int kLapBits>
std::optional<SharedBusy> BasicSharedRecovery<kLapBits>::FirstBusy() const {
  std::optional<SharedBusy> busy;
  ForEachRecord([&busy](uint64_t position, ControlWord word) {
    if (word.state() != SlotState::kBusy) return true;
    busy = SharedBusy{.owner = word.owner(), .position = position};
    return false;
  });
  return busy;
}

template <int kLapBits>
bool BasicSharedRecovery<kLapBits>::Retire(uint32_t retired) const {
  ctl_.Word<uint32_t>(kSharedRetired).StoreRelease(retired);
  const bool tell_socket = WakeConsumer();
  FutexWakeAll(cons_.Word<uint64_t>(kSharedHead).address());
  return tell_socket;
}

template <int kLapBits>
uint64_t BasicSharedRecovery<kLapBits>::PositionBeyond() const {
  // The tail may go on for one ring more, and lag by one claim. One that cannot be is of a ring
  // that is spoilt anyway: only the numbers of records would overlap.
  const uint64_t tail = std::min(LoadTail().value_or(0), SharedLayout::kPositionMax / 2);
  return (layout_.TurnOf(tail) + 3) * layout_.size_bytes();
}

template <int kLapBits>
SharedLedger BasicSharedRecovery<kLapBits>::LedgerOf(uint32_t owner) const {
  IOB_CHECK(owner < kSharedOwners);
  return SharedLedgerLine(ctl_, layout_, owner).Read();
}

template <int kLapBits>
SharedLedger BasicSharedRecovery<kLapBits>::TotalLedger() const {
  SharedLedger total;
  for (uint32_t owner = 0; owner < kSharedOwners; ++owner) total.Add(LedgerOf(owner));
  return total;
}

// By a salvage (its V3).
template <int kLapBits>
bool BasicSharedRecovery<kLapBits>::TakenOut(uint32_t owner, uint64_t position, uint64_t head,
                                             uint64_t frontier) const {
  if (position >= frontier || owner >= kSharedOwners) return false;
  const SharedHold hold = SharedHold::Load(cons_.Word<uint64_t>(SharedHold::OffsetOf(owner)));
  return !hold.KeepsFrom(head, frontier) || position < hold.position();
}

template <int kLapBits>
SharedOccupancy BasicSharedRecovery<kLapBits>::Occupancy() const {
  const auto counter = [this](uint64_t offset_bytes) {
    return *cons_.Word<uint64_t>(offset_bytes).LoadAcquire().Between(0, UINT64_MAX);
  };
  SharedOccupancy occupancy;
  // As a successor of the consumer would count.
  const bool intent_holds = counter(kSharedIntentHead) == counter(kSharedHead);
  occupancy.consumed_records =
      counter(intent_holds ? kSharedIntentRecords : kSharedConsumedRecords);
  occupancy.consumed_bytes = counter(intent_holds ? kSharedIntentBytes : kSharedConsumedBytes);
  const uint64_t head = counter(kSharedHead);
  const uint64_t frontier = counter(kSharedFrontier);
  occupancy.consistent = ForEachRecord([&](uint64_t position, ControlWord word) {
    if (word.state() == SlotState::kCommit && TakenOut(word.owner(), position, head, frontier)) {
      occupancy.consumed_records += 1;
      occupancy.consumed_bytes += word.payload_bytes();
      return true;
    }
    occupancy.ring_bytes += layout_.Footprint(word.payload_bytes());
    switch (word.state()) {
      case SlotState::kNever:
        break;
      case SlotState::kBusy:
        occupancy.busy_records += 1;
        break;
      case SlotState::kCommit:
        occupancy.resident_records += 1;
        occupancy.resident_bytes += word.payload_bytes();
        break;
      case SlotState::kDiscard:
        occupancy.discarded_records += 1;
        break;
    }
    return true;
  });
  return occupancy;
}

template class BasicSharedRecovery<kSharedLapBits>;
#ifdef IOB_TEST_HOOKS
template class BasicSharedRecovery<4>;
template class BasicSharedRecovery<6>;
template class BasicSharedRecovery<10>;
#endif

}  // namespace iob::shm
