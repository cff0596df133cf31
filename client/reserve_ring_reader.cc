#include "client/reserve_ring_reader.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/direct_wait.h"
#include "client/internal/grants.h"
#include "client/internal/ring_renewal.h"
#include "shm/result.h"

namespace iob {

// What AwaitDirectRecords needs.
struct ReserveRingReader::Waiting {
  ReserveRingReader& reader;

  shm::LaneMerge* lanes() { return std::get_if<shm::LaneMerge>(&reader.ring_); }
  shm::SharedConsumer& shared() { return *std::get_if<shm::SharedConsumer>(&reader.ring_); }

  bool HasRecords() {
    if (lanes() != nullptr) return lanes()->HasRecords(reader.NowIfNeeded());
    if (reader.GenerationWithRecords(reader.retired_.size() + 1)) return true;
    if (!shared().retired()) return false;
    reader.FollowRenewal(After(RingRenewal::kBriefWait));
    return reader.GenerationWithRecords(reader.retired_.size() + 1).has_value();
  }
  absl::Status status() const {
    return reader.status().ok() ? reader.follow_status_ : reader.status();
  }
  bool PollPolitely() {
    if (lanes() != nullptr) return lanes()->PollPolitely(reader.NowIfNeeded());
    return reader.retired_.empty() ? shared().PollPolitely() : HasRecords();
  }
  bool PrepareToWait(uint32_t how) {
    if (lanes() == nullptr) {
      const uint32_t generation = reader.generation_;
      bool nothing_there = shared().PrepareToWait(how);
      for (shm::SharedSalvage& retired : reader.retired_)
        nothing_there = retired.PrepareToWait(how) && nothing_there;
      // Behind the flags: whoever renews the ring from here on wakes us. New memory was not asked.
      nothing_there = nothing_there && !HasRecords() && reader.generation_ == generation;
      // Again each time the sleep ends, so that a record that stays unfinished is noticed.
      if (nothing_there) reader.TellStall();
      return nothing_there;
    }
    // Records that the merge knows already are no news to the lanes.
    return lanes()->PrepareToWait(how) && !HasRecords();
  }
  void ClearWaiting() {
    for (shm::SharedSalvage& retired : reader.retired_) retired.ClearWaiting();
    std::visit([](auto& ring) { ring.ClearWaiting(); }, reader.ring_);
  }
  size_t Words(std::span<shm::FutexWord> words) {
    if (lanes() != nullptr) return lanes()->TailWords(words);
    words[0] = shared().WaitWord();
    size_t count = 1;
    // One place is for the signals. What does not fit is looked at when the sleep ends (S3).
    const std::span<shm::FutexWord> room = words.first(words.size() - 1);
    for (const shm::SharedSalvage& retired : reader.retired_)
      count += retired.WaitWords(room.subspan(count));
    return count;
  }
  int64_t WakeTimeNs() {
    if (lanes() != nullptr) return lanes()->WakeTimeNs();
    const auto stall = reader.stalled();
    if (!stall) return INT64_MAX;
    return std::max(ToMonotonicNs(stall->since), reader.stall_told_ns_) + reader.stall_ns_;
  }
};

absl::StatusOr<ReserveRingReader> ReserveRingReader::Open(const GrantedRegion& region,
                                                          const ReserveReaderOptions& options,
                                                          std::shared_ptr<Connection> connection,
                                                          std::shared_ptr<void> claim) {
  const DirectGrant& grant = *region.direct;
  const bool by_stamp = options.order == LaneOrder::kByStamp;
  if (grant.reserve.mode == ReserveMode::kShared) {
    IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout, SharedLayoutOf(grant));
    absl::StatusOr<shm::SharedConsumer> shared = shm::SharedConsumer::Map(layout, *grant.shared);
    if (!shared.ok()) return WithIntegrity(shared.status());
    ReserveRingReader reader(std::move(*shared), region, /*by_stamp=*/false, std::move(connection),
                             std::move(claim));
    IOB_RETURN_IF_ERROR(reader.FollowFirst());
    return reader;
  }
  if (by_stamp && !grant.reserve.stamped) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("region ", region.index,
                                                ": its records carry no stamps to be ordered by")),
        "INVALID_ARGUMENT");
  }
  IOB_ASSIGN_OR_RETURN(const shm::LaneLayout layout, LaneLayoutOf(grant));
  shm::LaneMerge merge({.order = options.order,
                        .batch_records = options.batch_records,
                        .hold_back_ns = options.hold_back.count()});
  ReserveRingReader reader(std::move(merge), region, by_stamp, std::move(connection),
                           std::move(claim));
  for (const DirectGrant::Lane& granted : grant.lanes) {
    absl::StatusOr<shm::LaneConsumer> lane =
        shm::LaneConsumer::Map(layout, granted.data, granted.control,
                               {.clears = grant.reserve.consumer_clears, .lane = granted.lane});
    // One that was spoilt before this reader came does not keep it from the others (R2).
    if (absl::IsDataLoss(lane.status())) {
      reader.unmapped_[granted.lane] = lane.status();
      reader.untold_.push_back(granted.lane);
      continue;
    }
    IOB_RETURN_IF_ERROR(lane.status());
    IOB_RETURN_IF_ERROR(std::get_if<shm::LaneMerge>(&reader.ring_)->Add(std::move(*lane)));
  }
  IOB_RETURN_IF_ERROR(reader.status());
  return reader;
}

ReserveRingReader::ReserveRingReader(Ring ring, const GrantedRegion& region, bool by_stamp,
                                     std::shared_ptr<Connection> connection,
                                     std::shared_ptr<void> claim)
    : ring_(std::move(ring)),
      grant_(region.direct),
      generation_(region.direct->generation),
      renewal_(std::make_shared<RingRenewal>(region.index, *region.direct)),
      region_index_(region.index),
      by_stamp_(by_stamp),
      stall_ns_(std::chrono::nanoseconds(region.direct->reserve.stall).count()),
      unmapped_(region.direct->lanes.size()),
      connection_(std::move(connection)),
      claim_(std::move(claim)) {}

ReserveRingReader::~ReserveRingReader() {
  // A moved-from reader has no connection, and no ring to touch.
  if (armed_ && connection_ != nullptr) Waiting{*this}.ClearWaiting();
}

void ReserveRingReader::Release() {
  if (armed_) {
    armed_ = false;
    Waiting{*this}.ClearWaiting();
  }
  std::visit([](auto& ring) { ring.Release(); }, ring_);
  if (!retired_.empty()) [[unlikely]]
    DropGenerations();
}

// The first before number `before`; ring_ is the last.
std::optional<size_t> ReserveRingReader::GenerationWithRecords(size_t before) {
  for (size_t i = 0; i < before; ++i) {
    if (i == retired_.size()) {
      if (std::get_if<shm::SharedConsumer>(&ring_)->HasRecords()) return i;
    } else if (retired_[i].HasRecords()) {
      return i;
    }
  }
  return std::nullopt;
}

ReadOutcome ReserveRingReader::NextOfGenerations(SharedRecord* ret_record) {
  auto& newest = *std::get_if<shm::SharedConsumer>(&ring_);
  if (newest.retired()) FollowRenewal(After(RingRenewal::kBriefWait));
  auto found = GenerationWithRecords(retired_.size() + 1);
  // A producer goes on into newer memory only, so what it put into the older before is there when
  // its first record in the newer is: looking there again keeps its order.
  while (found && *found != 0) {
    const auto earlier = GenerationWithRecords(*found);
    if (!earlier) break;
    found = earlier;
  }
  if (!status().ok()) return ReadOutcome::kPoisoned;
  if (!found) return ReadOutcome::kEmpty;
  const shm::SharedReadOutcome outcome =
      *found == retired_.size() ? std::get_if<shm::SharedConsumer>(&ring_)->Next(ret_record)
                                : retired_[*found].Next(ret_record);
  if (outcome == shm::SharedReadOutcome::kRecord) return ReadOutcome::kRecord;
  return outcome == shm::SharedReadOutcome::kEmpty ? ReadOutcome::kEmpty : ReadOutcome::kPoisoned;
}

void ReserveRingReader::FollowRenewal(Deadline deadline) {
  auto* newest = std::get_if<shm::SharedConsumer>(&ring_);
  // Records that are out lie in memory whose room would be given back.
  while (newest->retired() && newest->released_all()) {
    // After the peer's end there will be no other answer than the one that comes now.
    if (!renewal_->due() && !connection_->peer_closed()) return;
    auto next = renewal_->Ask(*connection_, generation_, deadline);
    follow_status_ = next.status();
    if (!next.ok() || !next->has_value()) return;
    auto layout = SharedLayoutOf(**next);
    auto consumer = layout.ok() ? shm::SharedConsumer::Map(*layout, *(*next)->shared)
                                : absl::StatusOr<shm::SharedConsumer>(layout.status());
    follow_status_ = WithIntegrity(consumer.status());
    if (!consumer.ok()) return;
    newest->ClearWaiting();
    retired_.emplace_back(std::move(*newest));
    generation_ = (*next)->generation;
    newer_.push_back(std::make_shared<DirectGrant>(std::move(**next)));
    ring_ = std::move(*consumer);
    newest = std::get_if<shm::SharedConsumer>(&ring_);
  }
}

// Memory that an earlier reader has begun to take out is not read like the newest.
absl::Status ReserveRingReader::FollowFirst() {
  constexpr std::chrono::seconds kPatience{5};
  if (!std::get_if<shm::SharedConsumer>(&ring_)->salvaged()) return absl::OkStatus();
  FollowRenewal(After(kPatience));
  IOB_RETURN_IF_ERROR(follow_status_);
  if (!retired_.empty()) return absl::OkStatus();
  return WithReason(absl::DataLossError(absl::StrCat(
                        "region ", region_index_,
                        ": an earlier reader's words say that the ring was renewed; it was not")),
                    "INTEGRITY");
}

// Those that are read out, and in which nobody writes any more.
void ReserveRingReader::DropGenerations() {
  for (shm::SharedSalvage& retired : retired_) retired.Release();
  while (!retired_.empty() && retired_.front().Over()) {
    retired_.erase(retired_.begin());
    *grant_ = std::move(*newer_.front());
    newer_.erase(newer_.begin());
  }
}

absl::StatusOr<bool> ReserveRingReader::TryRead(ReserveRecord* ret_record) {
  SharedRecord record;
  switch (Next(&record)) {
    case ReadOutcome::kEmpty:
      return false;
    case ReadOutcome::kPoisoned:
      return status();
    case ReadOutcome::kRecord:
      break;
  }
  ret_record->lane_or_owner = record.lane_or_owner;
  ret_record->sequence = record.sequence;
  ret_record->stamp_ns = record.stamp_ns;
  ret_record->payload.resize(record.payload.size());
  record.payload.CopyOut(0, ret_record->payload);
  Release();
  return true;
}

absl::StatusOr<WaitOutcome> ReserveRingReader::Wait(Deadline deadline) {
  armed_ = false;
  Waiting waiting{*this};
  return AwaitDirectRecords(waiting, *connection_, waiter_, deadline);
}

bool ReserveRingReader::ArmFd() {
  Waiting waiting{*this};
  armed_ = true;
  return ArmForDirectRecords(waiting, *connection_, region_index_);
}

int ReserveRingReader::fd() const { return connection_->fd(); }

std::optional<ProducerStall> ReserveRingReader::stalled() {
  auto* const shared = std::get_if<shm::SharedConsumer>(&ring_);
  if (shared == nullptr) return std::nullopt;
  const std::optional<shm::SharedStall> stall = shared->Stalled(shm::MonotonicNs());
  if (!stall) return std::nullopt;
  return ProducerStall{
      .owner = stall->owner,
      .since = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(stall->since_ns))};
}

void ReserveRingReader::TellStall() {
  const std::optional<ProducerStall> stall = stalled();
  if (!stall) return;
  const int64_t now_ns = shm::MonotonicNs();
  if (now_ns - std::max(ToMonotonicNs(stall->since), stall_told_ns_) < stall_ns_) return;
  stall_told_ns_ = now_ns;
  connection_->SendNotice(Connection::Notice::kStalled, region_index_);
}

std::optional<uint32_t> ReserveRingReader::TakePoisonedLane() {
  auto* const lanes = std::get_if<shm::LaneMerge>(&ring_);
  if (lanes == nullptr) return std::nullopt;
  if (untold_.empty()) return lanes->TakePoisoned();
  const uint32_t lane = untold_.back();
  untold_.pop_back();
  return lane;
}

absl::Status ReserveRingReader::lane_status(uint32_t lane) const {
  const auto* const lanes = std::get_if<shm::LaneMerge>(&ring_);
  if (lanes == nullptr || lane >= unmapped_.size()) {
    return WithReason(absl::OutOfRangeError(absl::StrCat("lane ", lane, " of ", unmapped_.size())),
                      "OUT_OF_RANGE");
  }
  const shm::LaneConsumer* const found = lanes->Find(lane);
  return WithIntegrity(found != nullptr ? found->status() : unmapped_[lane]);
}

absl::Status ReserveRingReader::status() const {
  if (const auto* const shared = std::get_if<shm::SharedConsumer>(&ring_)) {
    for (const shm::SharedSalvage& retired : retired_) {
      if (absl::Status status = retired.status(); !status.ok()) return WithIntegrity(status);
    }
    return WithIntegrity(shared->status());
  }
  absl::Status status;
  for (uint32_t lane = 0; lane < unmapped_.size(); ++lane) {
    status = lane_status(lane);
    if (status.ok()) return status;
  }
  return status;
}

}  // namespace iob
