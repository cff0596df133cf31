// A daemon for tests: in a thread of this process (sanitizers see both sides) or as the real iobd
// in a child process (it has limits, signals and descriptors of its own). Each lives in a fresh
// directory with a short path, serves gRPC, the attach socket and the admin port, and must stop
// cleanly: exit code 0, runtime directory gone.
#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "iob/v1/broker.grpc.pb.h"

namespace iob::test {

// /tmp/iob-XXXXXX, open to every uid; removed with everything in it.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct DaemonSettings {
  std::vector<std::string> flags = {};          // As on iobd's command line.
  std::optional<uint64_t> open_files_max = {};  // RLIMIT_NOFILE; child process only.
};

enum class DaemonKind { kThread, kChild };

using Stub = v1::BrokerService::Stub;

class TestDaemon {
 public:
  // Serves when it returns; nullptr after a failed expectation.
  static std::unique_ptr<TestDaemon> Start(DaemonKind kind, const DaemonSettings& settings = {});
  virtual ~TestDaemon() = default;

  std::string runtime_dir() const { return directory_.path() + "/run"; }
  std::string grpc_path() const { return runtime_dir() + "/grpc.sock"; }
  std::string attach_path() const { return runtime_dir() + "/attach.sock"; }
  // host:port.
  const std::string& admin_address() const { return admin_address_; }
  virtual pid_t pid() const = 0;

  Stub& stub() { return *stub_; }
  // Over a connection of its own.
  std::unique_ptr<Stub> NewStub() const;

  // The daemon answers on all three sockets.
  bool Healthy();

  // Ends it as an operator would and checks what it leaves: an error text, empty when all is well.
  // A second call does nothing.
  virtual std::string Stop() = 0;

 protected:
  bool Connect(std::string admin_address);
  std::string CheckGone() const;
  TempDir directory_;
  std::unique_ptr<Stub> stub_;

 private:
  std::string admin_address_;
};

// One call with a deadline.
template <typename Request, typename Response>
grpc::Status Call(Stub& stub,
                  grpc::Status (v1::BrokerService::StubInterface::*method)(grpc::ClientContext*,
                                                                           const Request&,
                                                                           Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::BrokerService::StubInterface& interface = stub;
  return (interface.*method)(&context, request, response);
}

// The reason in a call's ErrorInfo; empty without one, or when its domain is not iob.
std::string ReasonOf(const grpc::Status& status);

struct HttpAnswer {
  int status = 0;
  std::string body;
};
// GET over a plain socket. Status 0 when there is no answer.
HttpAnswer HttpGet(const std::string& address, const std::string& path);

// A request for a buffer with one mediated ring: ep0 consumes, ep1 writes through the broker.
v1::CreateBufferRequest RingRequest(uint64_t size_bytes);

}  // namespace iob::test
