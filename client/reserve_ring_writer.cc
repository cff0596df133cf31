#include "client/reserve_ring_writer.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/direct_wait.h"
#include "client/internal/grants.h"
#include "client/internal/ring_renewal.h"
#include "shm/result.h"

namespace iob {
namespace {

template <typename One, typename Other>
constexpr bool Same(One one, Other other) {
  return static_cast<int>(one) == static_cast<int>(other);
}
// Outcomes and wishes are handed on by their values.
static_assert(Same(ReserveOutcome::kReserved, shm::LaneReserveOutcome::kReserved) &&
              Same(ReserveOutcome::kFull, shm::LaneReserveOutcome::kFull) &&
              Same(ReserveOutcome::kTooLarge, shm::LaneReserveOutcome::kTooLarge) &&
              Same(ReserveOutcome::kIntegrity, shm::LaneReserveOutcome::kIntegrity));
static_assert(Same(ReserveOutcome::kReserved, shm::SharedReserveOutcome::kReserved) &&
              Same(ReserveOutcome::kFull, shm::SharedReserveOutcome::kFull) &&
              Same(ReserveOutcome::kTooLarge, shm::SharedReserveOutcome::kTooLarge) &&
              Same(ReserveOutcome::kIntegrity, shm::SharedReserveOutcome::kCorrupt) &&
              Same(ReserveOutcome::kBusy, shm::SharedReserveOutcome::kBusy));
static_assert(Same(Wake::kNone, shm::LaneWake::kNone) &&
              Same(Wake::kDefault, shm::LaneWake::kDefault) &&
              Same(Wake::kForce, shm::LaneWake::kForce));

shm::SharedWake ToShared(Wake wake) {
  switch (wake) {
    case Wake::kNone:
      return shm::SharedWake::kNone;
    case Wake::kDefault:
      return shm::SharedWake::kDefault;
    case Wake::kForce:
      break;
  }
  return shm::SharedWake::kForce;
}

// Where the lane ends now. An earlier writer of this very attachment may have gone on from where
// the broker gave it out; further back it cannot be.
absl::StatusOr<shm::LaneCheckpoint> WhereLaneEnds(const DirectGrant& grant,
                                                  const shm::LaneLayout& layout) {
  IOB_ASSIGN_OR_RETURN(const shm::LaneAccount account,
                       shm::ReadLaneAccount(layout, grant.lanes.front().data));
  if (account.published.position < grant.lane_start.position) {
    return absl::DataLossError(absl::StrCat("the lane ends at ", account.published.position,
                                            ", the broker had seen it at ",
                                            grant.lane_start.position));
  }
  return account.published;
}

}  // namespace

absl::StatusOr<ReserveRingWriter> ReserveRingWriter::Open(const GrantedRegion& region,
                                                          std::shared_ptr<Connection> connection,
                                                          std::shared_ptr<void> claim) {
  const DirectGrant& grant = *region.direct;
  if (grant.reserve.mode == ReserveMode::kLanes) {
    IOB_ASSIGN_OR_RETURN(const shm::LaneLayout layout, LaneLayoutOf(grant));
    const absl::StatusOr<shm::LaneCheckpoint> start = WhereLaneEnds(grant, layout);
    if (!start.ok()) return WithIntegrity(start.status());
    absl::StatusOr<shm::LaneProducer> lane =
        shm::LaneProducer::Map(layout, grant.lanes.front().data, grant.lanes.front().control,
                               *start, {.stamps = grant.reserve.stamped});
    if (!lane.ok()) return WithIntegrity(lane.status());
    return ReserveRingWriter(std::move(*lane), region, layout.payload_bytes_max(),
                             std::move(connection), std::move(claim));
  }
  IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout, SharedLayoutOf(grant));
  absl::StatusOr<shm::SharedProducer> shared =
      shm::SharedProducer::Map(layout, *grant.shared, *grant.seat);
  if (!shared.ok()) return WithIntegrity(shared.status());
  return ReserveRingWriter(std::move(*shared), region, layout.payload_bytes_max(),
                           std::move(connection), std::move(claim));
}

ReserveRingWriter::ReserveRingWriter(Ring ring, const GrantedRegion& region,
                                     uint64_t payload_bytes_max,
                                     std::shared_ptr<Connection> connection,
                                     std::shared_ptr<void> claim)
    : ring_(std::move(ring)),
      grant_(region.direct),
      generation_(region.direct->generation),
      renewal_(std::make_shared<RingRenewal>(region.index, *region.direct)),
      region_index_(region.index),
      seat_(*region.direct->seat),
      payload_bytes_max_(payload_bytes_max),
      connection_(std::move(connection)),
      claim_(std::move(claim)),
      counted_before_(Counted()) {}

ReserveRingWriter& ReserveRingWriter::operator=(ReserveRingWriter&& other) noexcept {
  if (this == &other) return *this;
  if (connection_ != nullptr) Publish().IgnoreError();
  ring_ = std::move(other.ring_);
  grant_ = std::move(other.grant_);
  generation_ = other.generation_;
  open_ = other.open_;
  counted_formerly_ = other.counted_formerly_;
  renewal_ = std::move(other.renewal_);
  region_index_ = other.region_index_;
  seat_ = other.seat_;
  payload_bytes_max_ = other.payload_bytes_max_;
  connection_ = std::move(other.connection_);
  claim_ = std::move(other.claim_);
  deferred_ = other.deferred_;
  counted_before_ = other.counted_before_;
  waiter_ = other.waiter_;
  return *this;
}

ReserveRingWriter::~ReserveRingWriter() {
  // A moved-from writer has no connection, and no ring to touch.
  if (connection_ != nullptr) Publish().IgnoreError();
}

absl::StatusOr<Reservation> ReserveRingWriter::Reserve(uint64_t payload_bytes) {
  Reservation reservation;
  const ReserveOutcome outcome = TryReserve(payload_bytes, &reservation);
  if (outcome != ReserveOutcome::kReserved) [[unlikely]]
    return Refusal(outcome, payload_bytes);
  return reservation;
}

absl::Status ReserveRingWriter::Refusal(ReserveOutcome outcome, uint64_t payload_bytes) const {
  const std::string what = absl::StrCat("a record of ", payload_bytes, " bytes: ");
  switch (outcome) {
    case ReserveOutcome::kFull:
      if (connection_->peer_closed()) {
        return WithReason(
            absl::FailedPreconditionError(absl::StrCat(what, "the ring is full, and nobody reads")),
            "PEER_CLOSED");
      }
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(what, "the ring is full")),
                        "RING_FULL");
    case ReserveOutcome::kTooLarge:
      return WithReason(absl::InvalidArgumentError(absl::StrCat(
                            what, "the ring takes records of at most ", payload_bytes_max_)),
                        "INVALID_ARGUMENT");
    case ReserveOutcome::kBusy:
      return WithReason(
          absl::UnavailableError(absl::StrCat(what, "other producers were always quicker")),
          "BUSY");
    case ReserveOutcome::kReserved:
    case ReserveOutcome::kIntegrity:
      break;
  }
  return WithReason(absl::DataLossError(absl::StrCat(what, "the ring's shared words cannot be")),
                    "INTEGRITY");
}

void ReserveRingWriter::MoveOn(Deadline deadline) {
  // What is open is finished first, so that this producer's records stay in their order.
  if (deferred_) FlushDeferred(Wake::kDefault).IgnoreError();
  if (open_ != 0 || !renewal_->due()) return;
  absl::StatusOr<std::optional<DirectGrant>> next =
      renewal_->Ask(*connection_, generation_, deadline);
  // What was wrong shows when the old memory is full: nobody makes room there any more.
  if (!next.ok() || !next->has_value()) return;
  absl::StatusOr<shm::SharedProducer> producer =
      shm::SharedProducer::Map(Shared().layout(), *(*next)->shared, seat_);
  if (!producer.ok()) return;
  counted_formerly_.Add(Shared().ledger());
  ring_ = std::move(*producer);
  // Lets go of the old memory.
  *grant_ = std::move(**next);
  generation_ = grant_->generation;
}

void ReserveRingWriter::MoveOnBriefly() { MoveOn(After(RingRenewal::kBriefWait)); }

absl::Status ReserveRingWriter::FinishClaim(const Deferred& finished, Wake wake) {
  open_ -= 1;
  const shm::SharedSubmitResult result = finished.discard
                                             ? Shared().Discard(finished.claim, ToShared(wake))
                                             : Shared().Submit(finished.claim, ToShared(wake));
  if (result.tell_socket) [[unlikely]]
    SendKick();
  if (result.done) [[likely]]
    return absl::OkStatus();
  return WithReason(absl::DataLossError(absl::StrCat("the record at ", finished.claim.position,
                                                     " of the shared ring is no longer ours")),
                    "INTEGRITY");
}

absl::Status ReserveRingWriter::FlushDeferred(Wake wake) {
  return FinishClaim(*std::exchange(deferred_, std::nullopt), wake);
}

absl::Status ReserveRingWriter::FinishShared(const Reservation& reservation, bool discard,
                                             Wake wake) {
  const auto* const claim = std::get_if<shm::SharedReservation>(&reservation.claim_);
  IOB_CHECK(claim != nullptr);
  absl::Status deferred;
  if (deferred_) [[unlikely]]
    deferred = FlushDeferred(Wake::kNone);
  absl::Status finished = FinishClaim({.claim = *claim, .discard = discard}, wake);
  return finished.ok() ? deferred : finished;
}

absl::Status ReserveRingWriter::Defer(const Reservation& reservation, bool discard) {
  if (auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
    discard ? lane->DiscardDeferred(LaneClaim(reservation))
            : lane->SubmitDeferred(LaneClaim(reservation));
    return absl::OkStatus();
  }
  const auto* const claim = std::get_if<shm::SharedReservation>(&reservation.claim_);
  IOB_CHECK(claim != nullptr);
  // A shared ring has no publication of its own: the last record of a batch is what wakes, so it
  // waits for Publish, and the one before it need not.
  absl::Status earlier;
  if (deferred_) earlier = FlushDeferred(Wake::kNone);
  deferred_ = Deferred{.claim = *claim, .discard = discard};
  return earlier;
}

absl::Status ReserveRingWriter::Publish(Wake wake) {
  if (auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
    if (lane->Publish(static_cast<shm::LaneWake>(wake))) SendKick();
    return absl::OkStatus();
  }
  return deferred_ ? FlushDeferred(wake) : absl::OkStatus();
}

absl::Status ReserveRingWriter::Write(std::span<const std::byte> payload, Wake wake) {
  IOB_ASSIGN_OR_RETURN(const Reservation reservation, Reserve(payload.size()));
  const std::span<std::byte> room = reservation.bytes();
  shm::SharedBytes(room.data(), room.size()).CopyIn(0, payload);
  return Submit(reservation, wake);
}

bool ReserveRingWriter::IsRetired() const {
  const auto* const shared = std::get_if<shm::SharedProducer>(&ring_);
  return shared != nullptr && shared->retired();
}

bool ReserveRingWriter::HasRoom(uint64_t payload_bytes) {
  const auto* const shared = std::get_if<shm::SharedProducer>(&ring_);
  const uint64_t record_bytes = shared != nullptr ? shared->layout().Footprint(payload_bytes)
                                                  : shm::RecordBytes(payload_bytes);
  // A head ahead of the tail, or a tail that cannot be: no room, and nothing to subtract.
  const uint64_t used = std::min(AvailableDataBytes(), SizeBytes());
  return record_bytes <= SizeBytes() - used;
}

absl::StatusOr<bool> ReserveRingWriter::WaitForRoom(uint64_t payload_bytes, Deadline deadline) {
  if (payload_bytes > payload_bytes_max_) {
    return Refusal(ReserveOutcome::kTooLarge, payload_bytes);
  }
  IOB_RETURN_IF_ERROR(Publish());
  const auto look = [this, payload_bytes] { return HasRoom(payload_bytes); };
  if (waiter_.Spin(look, ToMonotonicNs(deadline))) return true;
  while (true) {
    // Before the ring: what the consumer released before its end is seen behind the bit.
    const bool closed = connection_->peer_closed();
    if (HasRoom(payload_bytes)) return true;
    if (closed) return Refusal(ReserveOutcome::kFull, payload_bytes);
    IOB_RETURN_IF_ERROR(connection_->status());
    if (std::chrono::steady_clock::now() >= deadline) return false;
    if (IsRetired()) {
      MoveOn(deadline);
      if (HasRoom(payload_bytes)) return true;
    }
    if (SleepForRoom(payload_bytes, deadline)) return true;
  }
}

bool ReserveRingWriter::SleepForRoom(uint64_t payload_bytes, Deadline deadline) {
  const std::optional<shm::FutexWord> change = connection_->ChangeWord();
  return std::visit(
      [&](auto& ring) {
        const shm::RoomWait wait = ring.PrepareToWaitForRoom(payload_bytes);
        // Before the sleep: the consumer may be asleep as well, and owed this packet.
        if (wait.tell_socket) SendKick();
        if (wait.sleep && !connection_->peer_closed()) {
          const int64_t end_ns = SliceEndNs(change.has_value(), deadline);
          const shm::FutexWord room = ring.RoomWord();
          const shm::FutexOutcome outcome = change ? shm::Waiter::Sleep(room, *change, end_ns)
                                                   : shm::FutexWaitAny({&room, 1}, end_ns);
          // What the broker says about this connection it says on the socket.
          if (outcome == shm::FutexOutcome::kDeadline) connection_->Pump();
        }
        ring.ClearWantRoom();
        return !wait.sleep;
      },
      ring_);
}

uint64_t ReserveRingWriter::AvailableDataBytes() {
  return std::visit([](auto& ring) { return ring.AvailableDataBytes(); }, ring_);
}
uint64_t ReserveRingWriter::SizeBytes() const {
  return std::visit([](const auto& ring) { return ring.SizeBytes(); }, ring_);
}
uint64_t ReserveRingWriter::ConsumerPosition() {
  return std::visit([](auto& ring) { return ring.ConsumerPosition(); }, ring_);
}
uint64_t ReserveRingWriter::ProducerPosition() const {
  return std::visit([](const auto& ring) { return ring.ProducerPosition(); }, ring_);
}

ReserveWriterStats ReserveRingWriter::Counted() const {
  if (const auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
    return {.stored_records = lane->finished().records(),
            .stored_bytes = lane->finished().payload_bytes,
            .discarded_records = lane->discarded_records(),
            .rejected_records = lane->rejected().rejected_records,
            .rejected_bytes = lane->rejected().rejected_bytes};
  }
  shm::SharedLedger line = counted_formerly_;
  line.Add(std::get_if<shm::SharedProducer>(&ring_)->ledger());
  ReserveWriterStats counted{.stored_records = line.stored_records,
                             .stored_bytes = line.stored_bytes,
                             .discarded_records = line.discarded_records,
                             .rejected_records = {},
                             .rejected_bytes = {}};
  const auto reject = [&counted](LossCause cause, uint64_t records, uint64_t bytes) {
    counted.rejected_records[static_cast<size_t>(cause)] = records;
    counted.rejected_bytes[static_cast<size_t>(cause)] = bytes;
  };
  reject(LossCause::kFull, line.full_records, line.full_bytes);
  reject(LossCause::kTooLarge, line.too_large_records, line.too_large_bytes);
  reject(LossCause::kIntegrity, line.integrity_records + line.lost_records, 0);
  return counted;
}

ReserveWriterStats ReserveRingWriter::stats() const {
  ReserveWriterStats now = Counted();
  const ReserveWriterStats& before = counted_before_;
  now.stored_records -= before.stored_records;
  now.stored_bytes -= before.stored_bytes;
  now.discarded_records -= before.discarded_records;
  for (size_t cause = 0; cause < shm::kLossCauses; ++cause) {
    now.rejected_records[cause] -= before.rejected_records[cause];
    now.rejected_bytes[cause] -= before.rejected_bytes[cause];
  }
  return now;
}

void ReserveRingWriter::SendKick() {
  connection_->SendNotice(Connection::Notice::kKick, region_index_);
}

}  // namespace iob
