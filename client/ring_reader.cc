#include "client/ring_reader.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "client/error.h"
#include "client/internal/connection.h"
#include "shm/result.h"

namespace iob {
namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;

// A sleep on memory does not see the connection: a broker that died wakes nobody.
constexpr std::chrono::milliseconds kSleepSlice{500};
// Without WAIT there is no word that changes with the peer: only the socket tells of an end.
constexpr std::chrono::milliseconds kBlindSleepSlice{10};

int64_t ToMonotonicNs(Deadline deadline) {
  return duration_cast<nanoseconds>(deadline.time_since_epoch()).count();
}

}  // namespace

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
  const auto look = [this] { return ring_.HasRecords(); };
  if (waiter_.Spin(look, ToMonotonicNs(deadline))) return WaitOutcome::kRecords;
  while (true) {
    // Before the ring: the broker publishes all of a writer's records before it raises the bit, so
    // an empty ring after a raised bit is empty for good.
    const bool closed = connection_->peer_closed();
    if (ring_.HasRecords()) return WaitOutcome::kRecords;
    IOB_RETURN_IF_ERROR(status());
    if (closed) return WaitOutcome::kPeerClosed;
    IOB_RETURN_IF_ERROR(connection_->status());
    if (std::chrono::steady_clock::now() >= deadline) return WaitOutcome::kDeadline;
    Sleep(deadline);
  }
}

void RingReader::Sleep(Deadline deadline) {
  // The change word first: a bit raised after this load makes the sleep return at once.
  const std::optional<shm::FutexWord> change = connection_->ChangeWord();
  const Deadline slice = std::min(deadline, After(change ? kSleepSlice : kBlindSleepSlice));
  armed_ = false;
  if (ring_.PrepareToWait(shm::kWaitingOnFutex) && !connection_->peer_closed()) {
    const shm::FutexWord head = ring_.HeadWord();
    const shm::FutexOutcome outcome = change
                                          ? shm::Waiter::Sleep(head, *change, ToMonotonicNs(slice))
                                          : shm::FutexWaitAny({&head, 1}, ToMonotonicNs(slice));
    // What the broker says about this connection it says on the socket.
    if (outcome == shm::FutexOutcome::kDeadline) connection_->Pump();
  }
  ring_.ClearWaiting();
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
