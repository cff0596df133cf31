#include "shm/reserve_shared_producer.h"

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::shm {
namespace {

// Tries to set or clear one's own bit of want_room while other owners do the same. There are 63 of
// them, each with one thread.
constexpr int kBitTriesMax = 256;

}  // namespace

template <int kLapBits>
absl::StatusOr<BasicSharedProducer<kLapBits>> BasicSharedProducer<kLapBits>::Map(
    const SharedLayout& layout, const SharedSections& sections, uint32_t owner,
    SharedProducerOptions options) {
  if (owner == 0 || owner >= kSharedOwners) {
    return absl::InvalidArgumentError(
        absl::StrCat("owner ", owner, ": producers have 1 to ", kSharedOwners - 1));
  }
  IOB_RETURN_IF_ERROR(sections.Match(layout));
  IOB_ASSIGN_OR_RETURN(Mapping ctl, Mapping::Map(sections.ctl, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping data,
                       Mapping::MapWindow(sections.data, 0, layout.size_bytes(), 2, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping cons, ReadOnlyMapping::Map(sections.cons, OnFork::kDrop));
  return BasicSharedProducer(layout, owner, options, std::move(ctl), std::move(data),
                             std::move(cons));
}

template <int kLapBits>
BasicSharedProducer<kLapBits>::BasicSharedProducer(const SharedLayout& layout, uint32_t owner,
                                                   SharedProducerOptions options, Mapping ctl,
                                                   Mapping data, ReadOnlyMapping cons)
    : layout_(layout),
      owner_(owner),
      options_(options),
      ctl_(std::move(ctl)),
      data_section_(std::move(data)),
      cons_(std::move(cons)),
      ctl_words_({.tail = &ctl_.Word<uint64_t>(kSharedTail),
                  .owed = &ctl_.Word<uint32_t>(kSharedOwed),
                  .want_room = &ctl_.Word<uint64_t>(kSharedWantRoom),
                  .wanted = &ctl_.Word<uint32_t>(kSharedWanted + owner * sizeof(uint32_t)),
                  .retired = &ctl_.Word<uint32_t>(kSharedRetired),
                  .control = &ctl_.Word<uint64_t>(layout.ControlOffset())}),
      cons_words_({.head = &cons_.Word<uint64_t>(kSharedHead),
                   .wait = &cons_.Word<uint64_t>(kSharedWait),
                   .how = &cons_.Word<uint32_t>(kSharedHow)}),
      line_(ctl_, layout, owner),
      data_(data_section_.base()),
      ledger_(line_.Read()) {}

template <int kLapBits>
bool BasicSharedProducer<kLapBits>::Help(uint64_t position, ControlWord claim) {
  const uint64_t footprint = layout_.Footprint(claim.payload_bytes());
  if (footprint > layout_.size_bytes()) return false;
  if (ctl_words_.tail->CompareExchange(position, position + footprint)) {
    line_.Set(SharedLedgerLine::kHelps, ++ledger_.helps);
  }
  return true;
}

// The last good head leaves no room at `position`, which was unclaimed a moment ago.
template <int kLapBits>
auto BasicSharedProducer<kLapBits>::LookForRoom(uint64_t position, uint64_t footprint,
                                                uint64_t* ret_ahead_at) -> Room {
  // Pairs with the consumer's release store: it is done with everything below (M6).
  const auto head =
      cons_words_.head->LoadAcquire().AlignedBetween(head_, UINT64_MAX, layout_.granule_bytes());
  if (head && *head > position) {
    // Honest when position was claimed and consumed since we looked; then we see the claim, or a
    // later tail, on the next try. If not, the consumer is ahead of what was ever claimed.
    if (*ret_ahead_at != position) {
      *ret_ahead_at = position;
      return Room::kLookAgain;
    }
    head_violations_ += 1;
  } else if (head) {
    head_ = *head;
  } else {
    head_violations_ += 1;
  }
  // A tail behind the last good head can only be a forged one.
  const uint64_t used = position - head_;
  return used <= layout_.size_bytes() - footprint ? Room::kEnough : Room::kNone;
}

// True when the consumer asked for a packet on its socket.
template <int kLapBits>
bool BasicSharedProducer<kLapBits>::WakeConsumer(uint64_t position, SharedWake wake) {
  // The record must have arrived before its wake does (light_fence.h, L5).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t claimed_wait = LoadWait();
  if (claimed_wait == 0) return false;
  // The lowest bit says that somebody waits; the rest, which record for.
  const bool awaited = claimed_wait == (position | kSharedWaits);
  switch (wake) {
    case SharedWake::kNone:
      if (awaited) ctl_words_.owed->StoreRelease(1);
      return false;
    case SharedWake::kDefault:
      if (!awaited && !TakeOwed()) return false;
      break;
    case SharedWake::kForce:
      break;
  }
  return WakeSleeper(claimed_wait);
}

template <int kLapBits>
bool BasicSharedProducer<kLapBits>::TakeOwed() {
  // Looked at before it is taken, so that nobody else's line moves when nothing is owed.
  return ctl_words_.owed->LoadAcquire().ForHintOnly() != 0 &&
         ctl_words_.owed->Exchange(0).ForHintOnly() != 0;
}

// True when the consumer asked for a packet on its socket.
template <int kLapBits>
bool BasicSharedProducer<kLapBits>::WakeSleeper(uint64_t claimed_wait) {
  const uint32_t how = cons_words_.how->LoadRelaxed().ForHintOnly();
  line_.Set(SharedLedgerLine::kWakes, ++ledger_.wakes);
  // Slot() masks: whatever the consumer wrote names one of our own words.
  if ((how & kWaitingOnFutex) != 0) FutexWakeAll(Slot(claimed_wait).address());
  return (how & kWaitingOnSocket) != 0;
}

template <int kLapBits>
RoomWait BasicSharedProducer<kLapBits>::PrepareToWaitForRoom(uint64_t payload_bytes) {
  // What can never fit has nothing to wait for; Reserve says so.
  if (payload_bytes > layout_.payload_bytes_max()) return {.sleep = false, .tell_socket = false};
  RoomWait wait;
  // Room comes from a consumer that is awake. One that sleeps over a record it was not told of
  // would leave everybody asleep. A consumer that does not wait now will look before it does.
  if (TakeOwed()) {
    const uint64_t claimed_wait = LoadWait();
    wait.tell_socket = claimed_wait != 0 && WakeSleeper(claimed_wait);
  }
  const uint64_t footprint = layout_.Footprint(payload_bytes);
  ctl_words_.wanted->StoreRelaxed(static_cast<uint32_t>(footprint));
  if (!SetWantRoom(true)) return wait;
  // The consumer stores head, fences, then looks at want_room; we have set it, fence, then look at
  // head.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t claimed_head = *cons_words_.head->LoadAcquire().Between(0, UINT64_MAX);
  head_seen_low_ = static_cast<uint32_t>(claimed_head);
  const uint64_t tail = ProducerPosition();
  const uint64_t head =
      Untrusted(claimed_head).AlignedBetween(head_, tail, layout_.granule_bytes()).value_or(head_);
  wait.sleep = tail - head > layout_.size_bytes() - footprint;
  return wait;
}

template <int kLapBits>
void BasicSharedProducer<kLapBits>::ClearWantRoom() {
  ctl_words_.wanted->StoreRelaxed(0);
  (void)SetWantRoom(false);
}

template <int kLapBits>
bool BasicSharedProducer<kLapBits>::SetWantRoom(bool wanted) {
  const uint64_t bit = uint64_t{1} << owner_;
  for (int tries = 0; tries < kBitTriesMax; ++tries) {
    const uint64_t owners = *ctl_words_.want_room->LoadRelaxed().Between(0, UINT64_MAX);
    const uint64_t desired = wanted ? owners | bit : owners & ~bit;
    if (desired == owners || ctl_words_.want_room->CompareExchange(owners, desired)) return true;
  }
  return false;
}

template <int kLapBits>
uint64_t BasicSharedProducer<kLapBits>::ConsumerPosition() {
  return cons_words_.head->LoadAcquire()
      .AlignedBetween(head_, SharedLayout::kPositionMax, layout_.granule_bytes())
      .value_or(head_);
}

template <int kLapBits>
uint64_t BasicSharedProducer<kLapBits>::AvailableDataBytes() {
  // Head first: it is never ahead of a tail that is loaded later, but for a lagging one.
  const uint64_t head = ConsumerPosition();
  const uint64_t tail = ProducerPosition();
  return tail > head ? tail - head : 0;
}

template <int kLapBits>
SharedReserveOutcome BasicSharedProducer<kLapBits>::RefuseTooLarge(uint64_t payload_bytes) {
  line_.Set(SharedLedgerLine::kTooLargeRecords, ++ledger_.too_large_records);
  line_.Set(SharedLedgerLine::kTooLargeBytes, ledger_.too_large_bytes += payload_bytes);
  return SharedReserveOutcome::kTooLarge;
}

template <int kLapBits>
SharedReserveOutcome BasicSharedProducer<kLapBits>::RefuseFull(uint64_t payload_bytes) {
  line_.Set(SharedLedgerLine::kFullRecords, ++ledger_.full_records);
  line_.Set(SharedLedgerLine::kFullBytes, ledger_.full_bytes += payload_bytes);
  return SharedReserveOutcome::kFull;
}

template <int kLapBits>
SharedReserveOutcome BasicSharedProducer<kLapBits>::RefuseIntegrity(SharedReserveOutcome outcome) {
  line_.Set(SharedLedgerLine::kIntegrity, ++ledger_.integrity_records);
  return outcome;
}

template <int kLapBits>
void BasicSharedProducer<kLapBits>::CountRetry() {
  line_.Set(SharedLedgerLine::kRetries, ++ledger_.retries);
}

template <int kLapBits>
void BasicSharedProducer<kLapBits>::CountLost() {
  line_.Set(SharedLedgerLine::kLost, ++ledger_.lost_records);
}

template class BasicSharedProducer<kSharedLapBits>;
#ifdef IOB_TEST_HOOKS
template class BasicSharedProducer<4>;
template class BasicSharedProducer<6>;
template class BasicSharedProducer<10>;
#endif

}  // namespace iob::shm
