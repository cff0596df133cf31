#include "client/ring_reader.h"

#include <utility>

#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/ring_wait.h"
#include "shm/result.h"

namespace iob {
RingReader::~RingReader() {
  // A moved-from reader has no connection, and no ring to touch.
  if (armed_ && connection_ != nullptr) ring_.ClearWaiting();
}

void RingReader::Release() {
  if (armed_) {
    armed_ = false;
    ring_.ClearWaiting();
  }
  if (ring_.Release()) [[unlikely]]
    connection_->SendRoomMade(region_index_);
}

absl::StatusOr<bool> RingReader::TryRead(Record* ret_record) {
  RecordView view;
  switch (ring_.Next(&view)) {
    case ReadOutcome::kEmpty:
      return false;
    case ReadOutcome::kPoisoned:
      return status();
    case ReadOutcome::kRecord:
      break;
  }
  ret_record->tag = view.tag;
  ret_record->payload.assign(view.payload.begin(), view.payload.end());
  Release();
  return true;
}

absl::StatusOr<WaitOutcome> RingReader::Wait(Deadline deadline) {
  return AwaitRecords(ring_, *connection_, waiter_, deadline);
}

bool RingReader::ArmFd() {
  connection_->Pump();
  if (!connection_->ChangeWord()) return false;
  connection_->DropReadable(region_index_);
  armed_ = true;
  const bool nothing_there = ring_.PrepareToWait(shm::kWaitingOnSocket);
  return nothing_there && connection_->status().ok() && !connection_->has_event();
}

int RingReader::fd() const { return connection_->fd(); }

absl::Status RingReader::status() const {
  absl::Status status = ring_.status();
  return status.ok() ? status : WithReason(std::move(status), "INTEGRITY");
}

}  // namespace iob
