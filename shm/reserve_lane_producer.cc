#include "shm/reserve_lane_producer.h"

#include <array>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

// Parked reservations before the table must grow.
constexpr size_t kParkedAtFirst = 16;

absl::Status CheckStart(const LaneCheckpoint& start) {
  if (start.position % kRecordAlignBytes == 0 && start.discards <= start.sequence &&
      start.sequence <= start.position / kRecordHeaderBytes &&
      start.payload_bytes <= start.position) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a lane cannot start at ", start.position,
                                                 " with ", start.discards, " discards of ",
                                                 start.sequence, " numbers"));
}

}  // namespace

absl::StatusOr<LaneProducer> LaneProducer::Map(const LaneLayout& layout,
                                               const SealedMemfd& lane_memfd,
                                               const SealedMemfd& control_memfd,
                                               const LaneCheckpoint& start, Options options) {
  IOB_RETURN_IF_ERROR(layout.CheckSections(lane_memfd, control_memfd));
  IOB_RETURN_IF_ERROR(CheckStart(start));
  const uint64_t page_bytes = layout.page_bytes();
  const uint64_t capacity = layout.capacity_bytes();
  const Part data{
      .memfd = &lane_memfd, .offset_bytes = page_bytes, .size_bytes = capacity, .writable = true};
  const std::array<Part, 4> parts = {
      Part{.memfd = &lane_memfd, .offset_bytes = 0, .size_bytes = page_bytes, .writable = true},
      data,
      data,
      Part{.memfd = &control_memfd, .offset_bytes = 0, .size_bytes = page_bytes, .writable = false},
  };
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts(parts, OnFork::kDrop));
  const uint64_t oldest = start.position > capacity ? start.position - capacity : 0;
  const auto head =
      SharedWordAt<uint64_t>(range.base() + page_bytes + 2 * capacity + kLaneHeadOffset)
          .LoadAcquire()
          .AlignedBetween(oldest, start.position, kRecordAlignBytes);
  if (!head) {
    return absl::DataLossError(absl::StrCat("no head within ", capacity,
                                            " bytes of the lane's start at ", start.position));
  }
  LaneSlots slots(range.base() + kLaneSlotsOffset);
  // So that the slot in force is not the one that the first publication writes. A lane that
  // restarts elsewhere has none, and gets one below.
  slots.Recover(start.position, start.position);
  return LaneProducer(std::move(range), layout, start, *head, slots, options);
}

LaneProducer::LaneProducer(AddressRange range, const LaneLayout& layout,
                           const LaneCheckpoint& start, uint64_t head, LaneSlots slots,
                           Options options)
    : range_(std::move(range)),
      data_(range_.base() + layout.page_bytes()),
      tail_word_(&SharedWordAt<uint64_t>(range_.base() + kLaneTailOffset)),
      waiting_word_(
          &SharedWordAt<uint32_t>(data_ + 2 * layout.capacity_bytes() + kLaneWaitingOffset)),
      head_word_(&SharedWordAt<uint64_t>(data_ + 2 * layout.capacity_bytes() + kLaneHeadOffset)),
      slots_(slots),
      capacity_(layout.capacity_bytes()),
      payload_bytes_max_(layout.payload_bytes_max()),
      limit_(head + capacity_),
      room_(limit_ - start.position),
      offset_(start.position % capacity_),
      next_sequence_(start.sequence),
      finished_(start),
      tail_(start.position),
      parked_(kParkedAtFirst),
      stamps_(options.stamps) {
  slots_.Store(start);
  slots_.DropOther();
  tail_word_->StoreRelease(start.position);
  // What a predecessor waited for and was refused was its own affair.
  ClearWantRoom();
  for (uint64_t offset = kLaneFullRecordsOffset; offset <= kLaneDiscardedRecordsOffset;
       offset += sizeof(uint64_t)) {
    LanePageWord(offset).StoreRelaxed(0);
  }
}

LaneReserveOutcome LaneProducer::MakeRoom(uint64_t payload_bytes) {
  if (payload_bytes > payload_bytes_max_) {
    return Reject(LaneReserveOutcome::kTooLarge, payload_bytes);
  }
  const bool head_is_good = RefreshHead();
  if (RecordBytes(payload_bytes) <= room_) return LaneReserveOutcome::kReserved;
  return Reject(head_is_good ? LaneReserveOutcome::kFull : LaneReserveOutcome::kIntegrity,
                payload_bytes);
}

LaneReserveOutcome LaneProducer::Reject(LaneReserveOutcome outcome, uint64_t payload_bytes) {
  switch (outcome) {
    case LaneReserveOutcome::kReserved:
      break;
    case LaneReserveOutcome::kFull:
      CountRejected(LossCause::kFull, payload_bytes, kLaneFullRecordsOffset);
      break;
    case LaneReserveOutcome::kTooLarge:
      CountRejected(LossCause::kTooLarge, payload_bytes, kLaneTooLargeRecordsOffset);
      break;
    case LaneReserveOutcome::kIntegrity:
      CountRejected(LossCause::kIntegrity, payload_bytes, kLaneIntegrityRecordsOffset);
      break;
  }
  return outcome;
}

void LaneProducer::CountRejected(LossCause cause, uint64_t payload_bytes, uint64_t offset_bytes) {
  const auto index = static_cast<size_t>(cause);
  rejected_.CountRejected(cause, payload_bytes);
  LanePageWord(offset_bytes).StoreRelaxed(rejected_.rejected_records[index]);
  LanePageWord(offset_bytes + sizeof(uint64_t)).StoreRelaxed(rejected_.rejected_bytes[index]);
}

bool LaneProducer::RefreshHead() {
  // Pairs with the consumer's release store: what it read (or cleared) before is ours again.
  const auto found = head_word_->LoadAcquire().AlignedBetween(head(), tail_, kRecordAlignBytes);
  if (!found) {
    violations_ += 1;
    return false;
  }
  room_ += *found - head();
  limit_ = *found + capacity_;
  return true;
}

void LaneProducer::FinishDiscarded(const LaneReservation& reservation, LaneWake wake) {
  const uint64_t sequence = reservation.sequence_;
  discarded_records_ += 1;
  LanePageWord(kLaneDiscardedRecordsOffset).StoreRelaxed(discarded_records_);
  if (sequence + 1 != next_sequence_) {
    return FinishOneOfSeveral(reservation.bytes_.data(), reservation.bytes_.size(), sequence,
                              kLaneDiscarded, wake);
  }
  IOB_CHECK(sequence >= finished_.sequence);
  // The newest one: as if it had never been (N5).
  next_sequence_ = sequence;
  room_ = limit_ - reservation.position_;
  offset_ = reservation.position_ % capacity_;
}

void LaneProducer::FinishOneOfSeveral(std::byte* payload, uint64_t payload_bytes, uint64_t sequence,
                                      uint64_t state, LaneWake wake) {
  // Given back twice, or not ours: the caller's bug, and nothing that a peer has a part in.
  IOB_CHECK(sequence >= finished_.sequence && sequence < next_sequence_);
  const bool is_oldest = sequence == finished_.sequence;
  if (!is_oldest) Park(payload_bytes, sequence, state, wake);
  StoreWord(payload, payload_bytes, sequence, state);
  if (!is_oldest) return;
  MoveFinished(payload_bytes, state);
  if (parked_records_ != 0) MoveOverParked();
}

void LaneProducer::Park(uint64_t payload_bytes, uint64_t sequence, uint64_t state, LaneWake wake) {
  const uint64_t distance = sequence - finished_.sequence;
  if (distance >= parked_.size()) GrowParked(distance);
  Parked& parked = parked_[sequence & (parked_.size() - 1)];
  IOB_CHECK(parked.sequence == UINT64_MAX);
  parked = {.sequence = sequence, .payload_bytes = payload_bytes, .state = state, .wake = wake};
  parked_records_ += 1;
}

void LaneProducer::GrowParked(uint64_t distance) {
  std::vector<Parked> larger(std::bit_ceil(distance + 1));
  for (const Parked& parked : parked_) {
    if (parked.sequence != UINT64_MAX) larger[parked.sequence & (larger.size() - 1)] = parked;
  }
  parked_ = std::move(larger);
}

void LaneProducer::MoveOverParked() {
  for (;;) {
    Parked& parked = parked_[finished_.sequence & (parked_.size() - 1)];
    if (parked.sequence != finished_.sequence) return;
    MoveFinished(parked.payload_bytes, parked.state);
    wish_ = std::max(wish_, parked.wake);
    parked = Parked{};
    parked_records_ -= 1;
  }
}

LaneWake LaneProducer::TakeWish(LaneWake wake) {
  return std::max(wake, std::exchange(wish_, LaneWake::kNone));
}

bool LaneProducer::Wake(LaneWake wake) {
  // Tail must have arrived before the wake does (light_fence.h, L5).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint32_t waiting = waiting_word_->LoadRelaxed().ForHintOnly();
  if ((waiting & kWaitingOnFutex) != 0 || wake == LaneWake::kForce) {
    FutexWakeAll(tail_word_->address());
  }
  return (waiting & kWaitingOnSocket) != 0;
}

uint64_t LaneProducer::AvailableDataBytes() {
  RefreshHead();
  return capacity_ - room_;
}

uint64_t LaneProducer::ConsumerPosition() {
  RefreshHead();
  return head();
}

RoomWait LaneProducer::PrepareToWaitForRoom(uint64_t payload_bytes) {
  if (payload_bytes > payload_bytes_max_) return {.sleep = false, .tell_socket = false};
  // Room comes from a consumer that is awake. One that sleeps over what it was not told of, or
  // cannot see, would leave both sides asleep.
  const bool tell_socket = Publish();
  const uint64_t record_bytes = RecordBytes(payload_bytes);
  // The consumer sees tail and not what is reserved beyond it, so that counts as wanted too.
  const uint64_t wanted = std::min(record_bytes + (reserved() - tail_), capacity_);
  // The consumer stores head, then looks at want_room; we look at head next (light_fence.h, L1).
  do {
    SharedWordAt<uint32_t>(range_.base() + kLaneWantRoomOffset)
        .StoreRelease(static_cast<uint32_t>(wanted) | fence_.ask());
  } while (!fence_.Heavy());
  // A head that cannot be is for Reserve to report, not to sleep on.
  const bool sleep = RefreshHead() && record_bytes > room_;
  return {.sleep = sleep, .tell_socket = tell_socket};
}

void LaneProducer::ClearWantRoom() {
  SharedWordAt<uint32_t>(range_.base() + kLaneWantRoomOffset).StoreRelaxed(fence_.ask());
}

FutexWord LaneProducer::RoomWord() const {
  return {.address = head_word_->address(), .expected = static_cast<uint32_t>(head())};
}

}  // namespace iob::shm
