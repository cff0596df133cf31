// EventStream: one WatchEvents call, read with deadlines.
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
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/event_watch.h"
#include "client/internal/grpc_status.h"
#include "client/types.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "iob/v1/broker.grpc.pb.h"

namespace iob {

class EventStream {
 public:
  EventStream(std::shared_ptr<grpc::Channel> channel, const v1::WatchEventsRequest& request);
  // Cancels the call.
  ~EventStream();
  EventStream(const EventStream&) = delete;
  EventStream& operator=(const EventStream&) = delete;

  // Waits for the first message, which Next returns. Not OK: the call ended instead, or the
  // deadline passed.
  CallError Start(Deadline deadline);

  // See EventWatch.
  absl::StatusOr<std::optional<WatchedEvent>> Next(Deadline deadline);
  const std::string& resume_token() const { return resume_token_; }

 private:
  enum class Operation : uint8_t { kNone, kStart, kRead, kFinish };

  // Until there is a message in message_, or the end. False when the deadline passed before either.
  bool Advance(Deadline deadline);
  void OnDone(Operation operation, bool ok);

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::BrokerService::Stub> stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::WatchEventsResponse>> reader_;
  Operation under_way_ = Operation::kNone;
  v1::WatchEventsResponse message_;
  bool has_message_ = false;
  grpc::Status grpc_status_;
  std::optional<CallError> end_;  // OK is an end too.
  std::string resume_token_;
};

}  // namespace iob
