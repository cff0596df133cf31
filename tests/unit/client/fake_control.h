// A control plane that a test writes: a real gRPC server on a real socket, whose answers are the
// test's functions. A call without one answers UNIMPLEMENTED.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "client/broker.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "iob/v1/broker.grpc.pb.h"
#include "shm/check.h"

namespace iob::test {

class FakeControl : public v1::BrokerService::Service {
 public:
  template <typename Request, typename Response>
  using Answer = std::function<grpc::Status(const Request&, Response*)>;
  using EventWriter = grpc::ServerWriter<v1::WatchEventsResponse>;
  using StatsWriter = grpc::ServerWriter<v1::WatchStatsResponse>;

  FakeControl() {
    std::string pattern = "/tmp/iob-control-XXXXXX";
    IOB_CHECK(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket_path(), grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    IOB_CHECK(server_ != nullptr);
  }
  ~FakeControl() override {
    // Streams that their clients left open are cancelled.
    if (server_ != nullptr) Stop();
    std::filesystem::remove_all(directory_);
  }

  // As a daemon that goes away.
  void Stop() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  std::string socket_path() const { return directory_ + "/grpc.sock"; }
  Broker Connect(std::chrono::milliseconds timeout = std::chrono::seconds(10)) const {
    return Broker::Connect({.grpc_socket_path = socket_path(), .timeout = timeout}).value();
  }

#define IOB_FAKE_CALL(name)                                                                      \
  Answer<v1::name##Request, v1::name##Response> on_##name;                                       \
  grpc::Status name(grpc::ServerContext*, const v1::name##Request* request,                      \
                    v1::name##Response* response) override {                                     \
    if (!on_##name) return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no answer to " #name); \
    return on_##name(*request, response);                                                        \
  }
  IOB_FAKE_CALL(CreateBuffer)
  IOB_FAKE_CALL(OpenBuffer)
  IOB_FAKE_CALL(GetBuffer)
  IOB_FAKE_CALL(ListBuffers)
  IOB_FAKE_CALL(CreateSharedRegion)
  IOB_FAKE_CALL(GetSharedRegion)
  IOB_FAKE_CALL(DuplicateHandle)
  IOB_FAKE_CALL(ReplaceHandle)
  IOB_FAKE_CALL(GetHandleInfo)
  IOB_FAKE_CALL(KeepAlive)
  IOB_FAKE_CALL(CloseHandle)
  IOB_FAKE_CALL(GetName)
  IOB_FAKE_CALL(SetName)
  IOB_FAKE_CALL(Signal)
  IOB_FAKE_CALL(SignalPeer)
  IOB_FAKE_CALL(AllocateId)
  IOB_FAKE_CALL(GetLimits)
#undef IOB_FAKE_CALL

  std::function<grpc::Status(grpc::ServerContext*, const v1::WatchEventsRequest&, EventWriter*)>
      on_WatchEvents;
  grpc::Status WatchEvents(grpc::ServerContext* context, const v1::WatchEventsRequest* request,
                           EventWriter* writer) override {
    if (!on_WatchEvents) return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no answer");
    return on_WatchEvents(context, *request, writer);
  }

  std::function<grpc::Status(grpc::ServerContext*, const v1::WatchStatsRequest&, StatsWriter*)>
      on_WatchStats;
  grpc::Status WatchStats(grpc::ServerContext* context, const v1::WatchStatsRequest* request,
                          StatsWriter* writer) override {
    if (!on_WatchStats) return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "no answer");
    return on_WatchStats(context, *request, writer);
  }

 private:
  std::string directory_;
  std::unique_ptr<grpc::Server> server_;
};

// An error as the daemon makes it.
inline grpc::Status DaemonError(grpc::StatusCode code, const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("iob");
  google::rpc::Status packed;
  packed.add_details()->PackFrom(info);
  return grpc::Status(code, "as told", packed.SerializeAsString());
}

}  // namespace iob::test
