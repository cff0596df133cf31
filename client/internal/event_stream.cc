#include "client/internal/event_stream.h"

#include <utility>

#include "client/error.h"
#include "client/internal/wire_types.h"

namespace iob {

EventStream::EventStream(std::shared_ptr<grpc::Channel> channel,
                         const v1::WatchEventsRequest& request)
    : channel_(std::move(channel)),
      stub_(v1::BrokerService::NewStub(channel_)),
      reader_(stub_->PrepareAsyncWatchEvents(&context_, request, &queue_)),
      under_way_(Operation::kStart),
      resume_token_(request.resume_token()) {
  reader_->StartCall(this);
}

EventStream::~EventStream() {
  context_.TryCancel();
  queue_.Shutdown();
  // What is under way ends at once when it is cancelled, and must be gone before its memory is.
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

CallError EventStream::Start(Deadline deadline) {
  if (!Advance(deadline)) {
    return {.status = WithReason(absl::DeadlineExceededError(
                                     "the daemon did not begin the stream of events in time"),
                                 "DEADLINE")};
  }
  if (!end_) return {};
  if (!end_->status.ok()) return *end_;
  // The object went while the stream was made.
  return {.status = EndOfWatch()};
}

absl::StatusOr<std::optional<WatchedEvent>> EventStream::Next(Deadline deadline) {
  while (Advance(deadline)) {
    if (!has_message_) return end_->status.ok() ? EndOfWatch() : end_->status;
    has_message_ = false;
    resume_token_ = message_.resume_token();
    // One of a newer daemon has no native form; its place in the stream counts all the same.
    std::optional<WatchedEvent> event = FromWire(message_);
    if (event) return event;
  }
  return std::optional<WatchedEvent>();
}

bool EventStream::Advance(Deadline deadline) {
  while (!has_message_ && !end_) {
    if (under_way_ == Operation::kNone) {
      under_way_ = Operation::kRead;
      reader_->Read(&message_, this);
    }
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, ToGrpcDeadline(deadline)) != grpc::CompletionQueue::GOT_EVENT) {
      return false;
    }
    OnDone(std::exchange(under_way_, Operation::kNone), ok);
  }
  return true;
}

void EventStream::OnDone(Operation operation, bool ok) {
  if (operation == Operation::kFinish) {
    end_ = ToCallError(grpc_status_);
    return;
  }
  if (!ok) {
    under_way_ = Operation::kFinish;
    reader_->Finish(&grpc_status_, this);
    return;
  }
  has_message_ = operation == Operation::kRead;
}

}  // namespace iob
