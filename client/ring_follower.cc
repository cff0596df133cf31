#include "client/ring_follower.h"

#include <utility>

#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/ring_wait.h"
#include "shm/ring_layout.h"

namespace iob {

RingFollower::~RingFollower() {
  // A moved-from follower has no connection, and no ring to touch.
  if (armed_ && connection_ != nullptr) ring_.ClearWaiting();
}

void RingFollower::Release() {
  if (armed_) {
    armed_ = false;
    ring_.ClearWaiting();
  }
  ring_.Release();
}

absl::StatusOr<WaitOutcome> RingFollower::Wait(Deadline deadline) {
  return AwaitRecords(ring_, *connection_, waiter_, deadline);
}

bool RingFollower::ArmFd() {
  connection_->Pump();
  if (claim_ == nullptr || !connection_->ChangeWord()) return false;
  connection_->DropReadable(region_index_);
  armed_ = true;
  const bool nothing_there = ring_.PrepareToWait(shm::kWaitingOnSocket);
  return nothing_there && connection_->status().ok() && !connection_->has_event();
}

int RingFollower::fd() const { return connection_->fd(); }

absl::Status RingFollower::status() const {
  absl::Status status = ring_.status();
  return status.ok() ? status : WithReason(std::move(status), "INTEGRITY");
}

}  // namespace iob
