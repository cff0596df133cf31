// EventStream: one WatchEvents call.
//
// Internal to the library; includes gRPC, so only .cc files include it. Thread-compatible.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/event_watch.h"
#include "client/internal/grpc_status.h"
#include "client/internal/message_stream.h"
#include "client/types.h"
#include "iob/v1/broker.pb.h"

namespace iob {

class EventStream {
 public:
  // The call is cancelled at the end.
  EventStream(std::shared_ptr<grpc::Channel> channel, const v1::WatchEventsRequest& request);

  // See MessageStream.
  CallError Start(Deadline deadline) { return messages_.Start(deadline); }
  // See EventWatch.
  absl::StatusOr<std::optional<WatchedEvent>> Next(Deadline deadline);
  const std::string& resume_token() const { return resume_token_; }

 private:
  MessageStream<v1::WatchEventsResponse> messages_;
  std::string resume_token_;
};

}  // namespace iob
