// Broker's connection: one gRPC channel, and calls that are retried until their deadline.
//
// Internal to the library; includes gRPC, so only .cc files include it. Thread-safe: nothing
// changes after construction.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/broker.h"
#include "client/internal/grpc_status.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "iob/v1/broker.grpc.pb.h"

namespace iob {

class Broker::Impl {
 public:
  Impl(std::string socket_path, std::chrono::milliseconds timeout);

  const std::string& socket_path() const { return socket_path_; }
  std::chrono::milliseconds timeout() const { return timeout_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // One call by its deadline. Every call of ours can be repeated: it changes nothing, or the second
  // time changes nothing more, or it carries a request_id.
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::BrokerService::Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                    const Request& request, Response* response) {
    const Deadline deadline = After(timeout_);
    for (int attempt = 0;; ++attempt) {
      grpc::ClientContext context;
      context.set_deadline(ToGrpcDeadline(deadline));
      const CallError error = ToCallError(((*stub_).*method)(&context, request, response));
      if (!PauseBeforeRetry(attempt, error, deadline)) return error.status;
    }
  }

  // A stream that has begun, retried until the same deadline.
  template <typename Stream, typename Request>
  absl::StatusOr<std::unique_ptr<Stream>> OpenStream(const Request& request) {
    const Deadline deadline = After(timeout_);
    for (int attempt = 0;; ++attempt) {
      auto stream = std::make_unique<Stream>(channel_, request);
      const CallError error = stream->Start(deadline);
      if (error.status.ok()) return stream;
      stream.reset();
      if (!PauseBeforeRetry(attempt, error, deadline)) return error.status;
    }
  }

  // After a call that ended like this: true when it is to be repeated, after a pause that was made.
  static bool PauseBeforeRetry(int attempt, const CallError& error, Deadline deadline);

  absl::StatusOr<Health> CheckHealth();

 private:
  std::string socket_path_;
  std::chrono::milliseconds timeout_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::BrokerService::Stub> stub_;
};

}  // namespace iob
