// What stock gRPC tools expect of a server: health by service name, and reflection that names the
// services. Both are called over the wire by method name, as grpcurl would, without generated code.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/daemon_fixture.h"

namespace iob::test {
namespace {

using testing::HasSubstr;

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  buffer.Dump(&slices).IgnoreError();
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

class GrpcExtras : public testing::Test {
 protected:
  void SetUp() override {
    daemon_ = TestDaemon::Start(DaemonKind::kChild);
    ASSERT_NE(daemon_, nullptr);
    channel_ =
        grpc::CreateChannel("unix:" + daemon_->grpc_path(), grpc::InsecureChannelCredentials());
  }
  void TearDown() override { EXPECT_EQ(daemon_->Stop(), ""); }

  // Sends one message, half-closes, takes one answer.
  grpc::Status CallOnce(const std::string& method, const std::string& request,
                        std::string* answer) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(&context, method, &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    if (!wait()) return {grpc::StatusCode::UNAVAILABLE, "no call"};
    call->WriteLast(ToBuffer(request), grpc::WriteOptions(), nullptr);
    wait();
    grpc::ByteBuffer received;
    call->Read(&received, nullptr);
    if (wait()) *answer = ToString(received);
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    return status;
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(GrpcExtras, HealthServesEachServiceByName) {
  // HealthCheckRequest{service = 1}; HealthCheckResponse{status = 1: SERVING}.
  for (const std::string& service : {std::string(), std::string("iob.v1.BrokerService")}) {
    std::string request;
    if (!service.empty())
      request = std::string("\x0a") + static_cast<char>(service.size()) + service;
    std::string answer;
    const grpc::Status status = CallOnce("/grpc.health.v1.Health/Check", request, &answer);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(answer, "\x08\x01");
  }
}

TEST_F(GrpcExtras, HealthDoesNotKnowAStranger) {
  std::string answer;
  const grpc::Status status = CallOnce("/grpc.health.v1.Health/Check",
                                       "\x0a\x03"
                                       "xyz",
                                       &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcExtras, ReflectionNamesTheServices) {
  // ServerReflectionRequest{list_services = 7}.
  std::string answer;
  const grpc::Status status = CallOnce(
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*", &answer);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(answer, HasSubstr("iob.v1.BrokerService"));
  EXPECT_THAT(answer, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(GrpcExtras, AnUnknownMethodIsUnimplemented) {
  std::string answer;
  EXPECT_EQ(CallOnce("/iob.v1.BrokerService/Nothing", "", &answer).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace iob::test
