// What Broker does without a daemon: where it looks for one, what it says when there is none, and
// how a daemon's errors read.
#include "client/broker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "client/error.h"
#include "client/internal/grpc_status.h"
#include "client/internal/request_id.h"
#include "google/rpc/error_details.pb.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;

class RuntimeDir : public ::testing::Test {
 protected:
  RuntimeDir() {
    std::string pattern = "/tmp/iob-dir-XXXXXX";
    xdg_ = ::mkdtemp(pattern.data());
    ::unsetenv("IOB_RUNTIME_DIR");
    ::setenv("XDG_RUNTIME_DIR", xdg_.c_str(), 1);
  }
  ~RuntimeDir() override { std::filesystem::remove_all(xdg_); }
  std::string xdg_;
};

TEST_F(RuntimeDir, IsTheOneThatWasNamed) {
  ::setenv("IOB_RUNTIME_DIR", "/from/environment", 1);
  EXPECT_EQ(ResolveRuntimeDir("/named"), "/named");
  EXPECT_EQ(ResolveRuntimeDir(""), "/from/environment");
}

TEST_F(RuntimeDir, IsTheUsersOwnWhereThereIsOne) {
  EXPECT_EQ(ResolveRuntimeDir(""), "/run/iob");
  ::mkdir((xdg_ + "/iob").c_str(), 0700);
  EXPECT_EQ(ResolveRuntimeDir(""), xdg_ + "/iob");
}

TEST_F(RuntimeDir, WithoutADaemonSaysSoAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = Broker::Connect({.runtime_dir = xdg_}).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kUnavailable, xdg_ + "/grpc.sock"));
  EXPECT_EQ(ReasonOf(status), kReasonDisconnected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST_F(RuntimeDir, WithALongPathIsRefused) {
  EXPECT_THAT(Broker::Connect({.runtime_dir = std::string(200, 'd')}).status(),
              StatusIs(StatusCode::kInvalidArgument, "107"));
}

grpc::Status WithDetails(grpc::StatusCode code, const std::string& message,
                         const std::vector<google::protobuf::Any>& details) {
  google::rpc::Status packed;
  for (const google::protobuf::Any& detail : details) *packed.add_details() = detail;
  return grpc::Status(code, message, packed.SerializeAsString());
}

google::protobuf::Any Info(const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("iob");
  google::protobuf::Any any;
  any.PackFrom(info);
  return any;
}

TEST(CallErrorTest, KeepsCodeMessageAndReason) {
  const CallError error = ToCallError(
      WithDetails(grpc::StatusCode::RESOURCE_EXHAUSTED, "no room", {Info("RING_FULL")}));
  EXPECT_THAT(error.status, StatusIs(StatusCode::kResourceExhausted, "no room"));
  EXPECT_EQ(ReasonOf(error.status), "RING_FULL");
}

TEST(CallErrorTest, HonoursARetryDelay) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(250'000'000);
  google::protobuf::Any any;
  any.PackFrom(retry);
  const CallError error =
      ToCallError(WithDetails(grpc::StatusCode::UNAVAILABLE, "busy", {Info("BUSY"), any}));
  EXPECT_EQ(error.retry_delay, std::chrono::milliseconds(250));
  retry.mutable_retry_delay()->set_seconds(INT64_MAX);
  any.PackFrom(retry);
  EXPECT_EQ(ToCallError(WithDetails(grpc::StatusCode::UNAVAILABLE, "", {any})).retry_delay,
            std::chrono::milliseconds(0));
}

TEST(CallErrorTest, NamesWhatDidNotComeFromTheDaemon) {
  EXPECT_EQ(ReasonOf(ToCallError(grpc::Status(grpc::StatusCode::UNAVAILABLE, "connect")).status),
            kReasonDisconnected);
  EXPECT_EQ(ReasonOf(ToCallError(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "")).status),
            "DEADLINE");
  EXPECT_EQ(ReasonOf(ToCallError(grpc::Status(grpc::StatusCode::INTERNAL, "", "junk")).status), "");
}

TEST(CallErrorTest, TellsAReasonOfANewerDaemon) {
  const CallError error =
      ToCallError(WithDetails(grpc::StatusCode::ABORTED, "", {Info("FROM_THE_FUTURE")}));
  EXPECT_EQ(ReasonOf(error.status), "UNKNOWN");
  EXPECT_EQ(ReasonText(error.status), "FROM_THE_FUTURE");
}

TEST(RequestId, IsNewEachTime) {
  const std::string id = NewRequestId();
  EXPECT_EQ(id.size(), 32u);
  EXPECT_NE(id, NewRequestId());
}

}  // namespace
}  // namespace iob::test
