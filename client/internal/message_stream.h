// MessageStream: one call whose answer is a stream of messages, read with deadlines.
//
// gRPC's blocking Read has no deadline, so the stream is driven through a completion queue of its
// own. One operation is under way at a time; a deadline that passes leaves it under way, and the
// next call goes on waiting for it:
//
//     start --> read --> read --> ... --> finish --> ended
//
// No thread is involved: gRPC works in whoever waits for the queue.
//
// Internal to the library; includes gRPC, so only .cc files include it. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/error.h"
#include "client/internal/grpc_status.h"
#include "client/internal/wire_types.h"
#include "client/types.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "iob/v1/broker.grpc.pb.h"

namespace iob {

template <typename Message>
class MessageStream {
 public:
  // One of the stub's PrepareAsync functions.
  template <typename Request>
  using Prepare = std::unique_ptr<grpc::ClientAsyncReader<Message>> (v1::BrokerService::Stub::*)(
      grpc::ClientContext*, const Request&, grpc::CompletionQueue*);

  template <typename Request>
  MessageStream(std::shared_ptr<grpc::Channel> channel, Prepare<Request> prepare,
                const Request& request)
      : channel_(std::move(channel)),
        stub_(v1::BrokerService::NewStub(channel_)),
        reader_(((*stub_).*prepare)(&context_, request, &queue_)),
        under_way_(Operation::kStart) {
    reader_->StartCall(this);
  }
  // Cancels the call.
  ~MessageStream() {
    context_.TryCancel();
    queue_.Shutdown();
    // What is under way ends at once when it is cancelled, and must be gone before its memory is.
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  MessageStream(const MessageStream&) = delete;
  MessageStream& operator=(const MessageStream&) = delete;

  // Waits for the first message, which Next returns. Not OK: the call ended instead, or the
  // deadline passed.
  CallError Start(Deadline deadline) {
    if (!Advance(deadline)) {
      return {.status = WithReason(
                  absl::DeadlineExceededError("the daemon did not begin the stream in time"),
                  "DEADLINE")};
    }
    if (!end_) return {};
    if (!end_->status.ok()) return *end_;
    // The object went while the stream was made.
    return {.status = EndOfWatch()};
  }

  // The next message, good until the next call; nullptr when none came until `deadline`. The end,
  // from then on: what the call ended with, NOT_FOUND when that was OK.
  absl::StatusOr<const Message*> Next(Deadline deadline) {
    if (!Advance(deadline)) return nullptr;
    if (!has_message_) return end_->status.ok() ? EndOfWatch() : end_->status;
    has_message_ = false;
    return &message_;
  }

 private:
  enum class Operation : uint8_t { kNone, kStart, kRead, kFinish };

  // Until there is a message in message_, or the end. False when the deadline passed before either.
  bool Advance(Deadline deadline) {
    while (!has_message_ && !end_) {
      if (under_way_ == Operation::kNone) {
        under_way_ = Operation::kRead;
        reader_->Read(&message_, this);
      }
      void* tag = nullptr;
      bool ok = false;
      if (queue_.AsyncNext(&tag, &ok, ToGrpcDeadline(deadline)) !=
          grpc::CompletionQueue::GOT_EVENT) {
        return false;
      }
      OnDone(std::exchange(under_way_, Operation::kNone), ok);
    }
    return true;
  }

  void OnDone(Operation operation, bool ok) {
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

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::BrokerService::Stub> stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<Message>> reader_;
  Operation under_way_ = Operation::kNone;
  Message message_;
  bool has_message_ = false;
  grpc::Status grpc_status_;
  std::optional<CallError> end_;  // OK is an end too.
};

}  // namespace iob
