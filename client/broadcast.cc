#include "client/broadcast.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/direct_wait.h"
#include "client/internal/grants.h"
#include "shm/result.h"

namespace iob {
namespace {

// What TryRead begins with; a longer record tells how much it needs.
constexpr size_t kFirstBufferBytes = 256;

absl::Status TooLong(uint64_t payload_bytes, uint64_t payload_bytes_max) {
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat("a record of ", payload_bytes, " bytes: at most ",
                                              payload_bytes_max, " can be")),
      "INVALID_ARGUMENT");
}

}  // namespace

// ---- Writer -------------------------------------------------------------------------------------

absl::StatusOr<BroadcastWriter> BroadcastWriter::Open(const GrantedRegion& region,
                                                      std::shared_ptr<Connection> connection,
                                                      std::shared_ptr<void> claim) {
  IOB_ASSIGN_OR_RETURN(const shm::BroadcastLayout layout, BroadcastLayoutOf(*region.direct));
  absl::StatusOr<shm::BroadcastWriter> ring =
      shm::BroadcastWriter::Map(layout, *region.direct->data, *region.direct->follow);
  if (!ring.ok()) return WithIntegrity(ring.status());
  return BroadcastWriter(std::move(*ring), region, std::move(connection), std::move(claim));
}

BroadcastWriter::BroadcastWriter(shm::BroadcastWriter ring, const GrantedRegion& region,
                                 std::shared_ptr<Connection> connection,
                                 std::shared_ptr<void> claim)
    : ring_(std::move(ring)),
      region_index_(region.index),
      tag_(region.tag),
      connection_(std::move(connection)),
      claim_(std::move(claim)) {}

absl::Status BroadcastWriter::Append(std::span<const std::byte> payload) {
  reserved_bytes_ = 0;
  if (ring_.Append(tag_, payload)) [[likely]]
    return absl::OkStatus();
  return TooLong(payload.size(), payload_bytes_max());
}

absl::Status BroadcastWriter::Write(std::span<const std::byte> payload) {
  IOB_RETURN_IF_ERROR(Append(payload));
  Publish();
  return absl::OkStatus();
}

void BroadcastWriter::Publish() {
  if (ring_.Publish()) [[unlikely]]
    connection_->SendNotice(Connection::Notice::kKick, region_index_);
}

absl::StatusOr<std::span<std::byte>> BroadcastWriter::Reserve(uint64_t payload_bytes) {
  if (payload_bytes > payload_bytes_max()) return TooLong(payload_bytes, payload_bytes_max());
  reserved_bytes_ = payload_bytes;
  return ring_.Reserve(payload_bytes);
}

absl::Status BroadcastWriter::Submit(uint64_t payload_bytes) {
  if (payload_bytes > reserved_bytes_) return TooLong(payload_bytes, reserved_bytes_);
  // Of nothing reserved, nothing is an empty record.
  if (reserved_bytes_ == 0) return Append({});
  reserved_bytes_ = 0;
  ring_.Submit(tag_, payload_bytes);
  return absl::OkStatus();
}

// ---- Follower -----------------------------------------------------------------------------------

struct BroadcastFollower::Waiting {
  shm::BroadcastFollower& ring;

  bool HasRecords() { return ring.HasRecords(); }
  absl::Status status() const { return WithIntegrity(ring.status()); }
  bool PrepareToWait(uint32_t how) { return ring.PrepareToWait(how); }
  // The word is not ours alone (wait_hint.h, T2).
  void ClearWaiting() {}
  size_t Words(std::span<shm::FutexWord> words) {
    words[0] = ring.HeadWord();
    return 1;
  }
  int64_t WakeTimeNs() const { return INT64_MAX; }
};

absl::StatusOr<BroadcastFollower> BroadcastFollower::Open(const GrantedRegion& region,
                                                          FollowFrom from,
                                                          std::shared_ptr<Connection> connection) {
  using From = shm::BroadcastFollower::From;
  IOB_ASSIGN_OR_RETURN(const shm::BroadcastLayout layout, BroadcastLayoutOf(*region.direct));
  absl::StatusOr<shm::BroadcastFollower> ring =
      shm::BroadcastFollower::Map(layout, *region.direct->data, *region.direct->follow,
                                  from == FollowFrom::kOldest ? From::kOldest : From::kNewest);
  if (!ring.ok()) return WithIntegrity(ring.status());
  return BroadcastFollower(std::move(*ring), region.index, layout.payload_bytes_max(),
                           std::move(connection));
}

BroadcastFollower::BroadcastFollower(shm::BroadcastFollower ring, uint32_t region_index,
                                     uint64_t payload_bytes_max,
                                     std::shared_ptr<Connection> connection)
    : ring_(std::move(ring)),
      region_index_(region_index),
      payload_bytes_max_(payload_bytes_max),
      connection_(std::move(connection)) {}

absl::StatusOr<bool> BroadcastFollower::TryRead(BroadcastRecord* ret_record) {
  std::vector<std::byte>& payload = ret_record->payload;
  payload.resize(std::max(payload.capacity(), kFirstBufferBytes));
  Followed followed;
  while (true) {
    switch (ring_.Next(payload, &followed)) {
      case FollowOutcome::kRecord:
        payload.resize(followed.payload_bytes);
        ret_record->sequence = followed.sequence;
        ret_record->tag = followed.tag;
        ret_record->lost_records = std::exchange(untold_losses_, 0);
        return true;
      case FollowOutcome::kLost:
        untold_losses_ += followed.lost_records;
        break;
      case FollowOutcome::kTooSmall:
        // Checked against the ring: not more than that.
        payload.resize(followed.payload_bytes);
        break;
      case FollowOutcome::kEmpty:
        return false;
      case FollowOutcome::kPoisoned:
        return status();
    }
  }
}

absl::StatusOr<WaitOutcome> BroadcastFollower::Wait(Deadline deadline) {
  Waiting waiting{ring_};
  return AwaitDirectRecords(waiting, *connection_, waiter_, deadline);
}

bool BroadcastFollower::ArmFd() {
  Waiting waiting{ring_};
  return ArmForDirectRecords(waiting, *connection_, region_index_);
}

int BroadcastFollower::fd() const { return connection_->fd(); }

absl::Status BroadcastFollower::status() const { return WithIntegrity(ring_.status()); }

}  // namespace iob
