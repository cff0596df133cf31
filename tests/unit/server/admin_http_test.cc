// The admin port: what it serves, what it does not, and how it says that it cannot.

#include "server/admin_http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/daemon_fixture.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using test::HttpGet;
using test::IsOk;
using test::StatusIs;

class AdminHttpTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<AdminHttp>> Start(const std::string& address) {
    return AdminHttp::Start(*loop_, address,
                            [] { return std::vector<prometheus::MetricFamily>(); });
  }
  void SetUp() override {
    runner_ = std::thread([this] { loop_->Run(); });
  }
  void TearDown() override {
    loop_->Quit();
    runner_.join();
  }
  SystemClock clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(clock_).value();
  std::thread runner_;
};

TEST_F(AdminHttpTest, ServesMetricsAndHealthAndNothingElse) {
  const auto admin = Start("127.0.0.1:0");
  ASSERT_THAT(admin, IsOk());
  const std::string& address = (*admin)->address();
  EXPECT_EQ(HttpGet(address, "/metrics").status, 200);
  EXPECT_EQ(HttpGet(address, "/healthz").status, 200);
  EXPECT_EQ(HttpGet(address, "/healthz").body, "ok\n");
  EXPECT_THAT(HttpGet(address, "/").body, ::testing::HasSubstr("/metrics"));
  for (const char* path : {"/nothing", "/metrics/x", "/..", "/../../etc/passwd", "/METRICS"}) {
    EXPECT_EQ(HttpGet(address, path).status, 404) << path;
  }
}

TEST_F(AdminHttpTest, APortInUseIsNamed) {
  const auto first = Start("127.0.0.1:0");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Start((*first)->address()),
              StatusIs(absl::StatusCode::kFailedPrecondition, (*first)->address()));
  EXPECT_EQ(HttpGet((*first)->address(), "/healthz").status, 200);
}

TEST_F(AdminHttpTest, AddressesThatCannotBeAreNamed) {
  for (const char* address : {"", "9464", ":9464", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                              "127.0.0.1:-1", "localhost"}) {
    EXPECT_THAT(Start(address), StatusIs(absl::StatusCode::kInvalidArgument,
                                         "admin address \"" + std::string(address) + "\""));
  }
  EXPECT_THAT(Start("192.0.2.1:9464"),
              StatusIs(absl::StatusCode::kFailedPrecondition, "192.0.2.1"));
}

// A daemon that was told to stop the moment it had started hung for ever.
TEST_F(AdminHttpTest, StopsRightAfterItStarted) {
  for (int i = 0; i < 50; ++i) {
    const auto admin = Start("127.0.0.1:0");
    ASSERT_THAT(admin, IsOk());
    (*admin)->Stop();
    (*admin)->Stop();
  }
}

}  // namespace
}  // namespace iob::server
