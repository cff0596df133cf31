// The daemon as a whole: it starts or says why not, stops whenever it is told, and leaves nothing.

#include "server/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "server/logging.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/leak_check.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;

class DaemonTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { StartLogging(LogLevel::kOff, /*json=*/false); }

  Options OptionsHere() const {
    Options options;
    options.runtime_dir = temp_.path() + "/run";
    options.admin_address = "127.0.0.1:0";
    FillMemoryLimits(options.limits);
    return options;
  }
  bool Exists(const std::string& path) const {
    struct stat status = {};
    return ::lstat(path.c_str(), &status) == 0;
  }

  test::TempDir temp_;
  SystemClock clock_;
};

TEST_F(DaemonTest, StopsRightAfterItStarted) {
  for (int i = 0; i < 10; ++i) {
    auto daemon = Daemon::Start(OptionsHere(), clock_);
    ASSERT_THAT(daemon, IsOk());
    (*daemon)->Stop();
    (*daemon)->Stop();
    (*daemon)->Run();
    daemon->reset();
    EXPECT_FALSE(Exists(temp_.path() + "/run"));
  }
}

TEST_F(DaemonTest, EndsWithoutHavingRun) {
  auto daemon = Daemon::Start(OptionsHere(), clock_);
  ASSERT_THAT(daemon, IsOk());
  daemon->reset();
  EXPECT_FALSE(Exists(temp_.path() + "/run"));
}

// SIGTERM came while 4096 calls were waiting, and the daemon span for ever instead of stopping.
TEST_F(DaemonTest, StopsWhenToldOnItsOwnLoopWithAFullQueue) {
  auto daemon = Daemon::Start(OptionsHere(), clock_);
  ASSERT_THAT(daemon, IsOk());
  ASSERT_TRUE((*daemon)->loop().Post([&daemon] {
    while ((*daemon)->loop().Post([] {})) {
    }
    (*daemon)->Stop();
  }));
  (*daemon)->Run();
}

TEST_F(DaemonTest, ASecondOneOnTheSameDirectoryIsRefused) {
  const auto first = Daemon::Start(OptionsHere(), clock_);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Daemon::Start(OptionsHere(), clock_),
              StatusIs(absl::StatusCode::kFailedPrecondition, "belongs to a running iobd"));
  EXPECT_TRUE(Exists(temp_.path() + "/run/grpc.sock"));
}

TEST_F(DaemonTest, AFailedStartLeavesNothing) {
  const auto first = Daemon::Start(OptionsHere(), clock_);
  ASSERT_THAT(first, IsOk());
  const int fds = test::OpenDescriptors(::getpid());
  Options port_in_use = OptionsHere();
  port_in_use.runtime_dir = temp_.path() + "/other";
  port_in_use.admin_address = (*first)->admin_address();
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(Daemon::Start(port_in_use, clock_),
                StatusIs(absl::StatusCode::kFailedPrecondition, (*first)->admin_address()));
    EXPECT_FALSE(Exists(port_in_use.runtime_dir));
  }
  Options file_in_the_way = OptionsHere();
  file_in_the_way.runtime_dir = temp_.path() + "/file";
  ASSERT_EQ(::mkdir(file_in_the_way.runtime_dir.c_str(), 0755), 0);
  std::ofstream(file_in_the_way.runtime_dir + "/grpc.sock") << "x";
  EXPECT_THAT(Daemon::Start(file_in_the_way, clock_),
              StatusIs(absl::StatusCode::kFailedPrecondition, "grpc.sock"));
  EXPECT_TRUE(Exists(file_in_the_way.runtime_dir + "/grpc.sock"));
  EXPECT_FALSE(Exists(file_in_the_way.runtime_dir + "/attach.sock"));
  EXPECT_TRUE(test::Eventually([&] { return test::OpenDescriptors(::getpid()) <= fds; }));
}

TEST_F(DaemonTest, WithoutAdminItServesAllTheSame) {
  Options options = OptionsHere();
  options.admin_address = "off";
  auto daemon = Daemon::Start(options, clock_);
  ASSERT_THAT(daemon, IsOk());
  EXPECT_EQ((*daemon)->admin_address(), "");
  std::thread runner([&] { (*daemon)->Run(); });
  (*daemon)->Stop();
  runner.join();
}

TEST_F(DaemonTest, ReasonsReadAsTheyAreDocumented) {
  EXPECT_EQ(ReasonText({.kind = shm::CloseKind::kKilled, .code = 9}), "killed(9)");
  EXPECT_EQ(ReasonText({.kind = shm::CloseKind::kExited, .code = 0}), "exited(0)");
  EXPECT_EQ(ReasonText({.kind = shm::CloseKind::kClosed}), "closed");
  EXPECT_EQ(ReasonText({.kind = shm::CloseKind::kRevoked}), "revoked");
}

}  // namespace
}  // namespace iob::server
