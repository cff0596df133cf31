// The runtime directory: one daemon each, nobody's socket is taken, nothing is left behind.

#include "server/runtime_dir.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;

bool Exists(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0;
}

shm::UniqueFd BindSocket(const std::string& path, int type, bool listening) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  shm::UniqueFd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  if (listening) {
    EXPECT_EQ(::listen(socket.get(), 1), 0);
  }
  return socket;
}

class RuntimeDirTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  const std::string path_ = temp_.path() + "/run";
};

TEST_F(RuntimeDirTest, IsMadeAndRemoved) {
  {
    const auto dir = RuntimeDir::Open(path_);
    ASSERT_THAT(dir, IsOk());
    struct stat status = {};
    ASSERT_EQ(::stat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0022, 0u) << "others could add files";
    const auto socket = (*dir)->Listen((*dir)->grpc_socket_path(), SOCK_STREAM, 0666);
    ASSERT_THAT(socket, IsOk());
    ASSERT_EQ(::stat((*dir)->grpc_socket_path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0666u);
  }
  EXPECT_FALSE(Exists(path_));
}

TEST_F(RuntimeDirTest, OneThatWasThereStaysWithWhatWasInIt) {
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  std::ofstream(path_ + "/notes") << "mine";
  {
    const auto dir = RuntimeDir::Open(path_);
    ASSERT_THAT(dir, IsOk());
    ASSERT_THAT((*dir)->Listen((*dir)->attach_socket_path(), SOCK_SEQPACKET, 0600), IsOk());
  }
  EXPECT_TRUE(Exists(path_ + "/notes"));
  EXPECT_FALSE(Exists(path_ + "/iobd.lock"));
  EXPECT_FALSE(Exists(path_ + "/attach.sock"));
}

TEST_F(RuntimeDirTest, ASecondDaemonIsRefusedAndToldWhoHasIt) {
  const auto first = RuntimeDir::Open(path_);
  ASSERT_THAT(first, IsOk());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(RuntimeDir::Open(path_),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         absl::StrCat("belongs to a running iobd (pid ", ::getpid(), ")")));
  }
  EXPECT_TRUE(Exists(path_ + "/iobd.lock"));
}

TEST_F(RuntimeDirTest, ALockFileOfADeadDaemonIsTakenOver) {
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  std::ofstream(path_ + "/iobd.lock") << "4194304999\n";
  const auto dir = RuntimeDir::Open(path_);
  ASSERT_THAT(dir, IsOk());
  std::string text;
  std::ifstream(path_ + "/iobd.lock") >> text;
  EXPECT_EQ(text, absl::StrCat(::getpid()));
}

TEST_F(RuntimeDirTest, AStaleSocketIsTakenOver) {
  const auto dir = RuntimeDir::Open(path_);
  ASSERT_THAT(dir, IsOk());
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const std::string path = absl::StrCat(path_, "/s", type);
    BindSocket(path, type, true).Close();
    ASSERT_TRUE(Exists(path));
    EXPECT_THAT((*dir)->Listen(path, SOCK_STREAM, 0600), IsOk());
  }
}

TEST_F(RuntimeDirTest, ALiveSocketIsNeverUnlinked) {
  const auto dir = RuntimeDir::Open(path_);
  ASSERT_THAT(dir, IsOk());
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    const std::string path = absl::StrCat(path_, "/s", type);
    const shm::UniqueFd live = BindSocket(path, type, true);
    struct stat before = {};
    ASSERT_EQ(::stat(path.c_str(), &before), 0);
    EXPECT_THAT((*dir)->Listen(path, SOCK_STREAM, 0600),
                StatusIs(absl::StatusCode::kFailedPrecondition, "was left alone"));
    struct stat after = {};
    ASSERT_EQ(::stat(path.c_str(), &after), 0);
    EXPECT_EQ(before.st_ino, after.st_ino);
  }
  // Not even when its queue is full.
  const std::string busy = path_ + "/busy";
  const shm::UniqueFd live = BindSocket(busy, SOCK_STREAM, true);
  std::vector<shm::UniqueFd> queued;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, busy.data(), busy.size());
  do {
    queued.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  } while (::connect(queued.back().get(), reinterpret_cast<const sockaddr*>(&address),
                     sizeof(address)) == 0);
  EXPECT_THAT((*dir)->Listen(busy, SOCK_STREAM, 0600),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(Exists(busy));
}

TEST_F(RuntimeDirTest, WhatIsNoSocketIsLeftAlone) {
  const auto dir = RuntimeDir::Open(path_);
  ASSERT_THAT(dir, IsOk());
  const std::string file = path_ + "/grpc.sock";
  std::ofstream(file) << "precious";
  EXPECT_THAT((*dir)->Listen(file, SOCK_STREAM, 0600),
              StatusIs(absl::StatusCode::kFailedPrecondition, file));
  std::string text;
  std::ifstream(file) >> text;
  EXPECT_EQ(text, "precious");
  const std::string link = path_ + "/attach.sock";
  ASSERT_EQ(::symlink(file.c_str(), link.c_str()), 0);
  EXPECT_THAT((*dir)->Listen(link, SOCK_SEQPACKET, 0600),
              StatusIs(absl::StatusCode::kFailedPrecondition, link));
  EXPECT_TRUE(Exists(link));
}

TEST_F(RuntimeDirTest, PathsThatCannotBeAreNamed) {
  const std::string longest = temp_.path() + "/" + std::string(200, 'd');
  EXPECT_THAT(RuntimeDir::Open(longest),
              StatusIs(absl::StatusCode::kInvalidArgument, "a socket path allows"));
  EXPECT_FALSE(Exists(longest));
  EXPECT_THAT(RuntimeDir::Open(temp_.path() + "/missing/run"),
              StatusIs(absl::StatusCode::kInvalidArgument, "cannot be made"));
  const std::string file = temp_.path() + "/file";
  std::ofstream(file) << "x";
  EXPECT_THAT(RuntimeDir::Open(file), StatusIs(absl::StatusCode::kInvalidArgument, file));
  EXPECT_THAT(RuntimeDir::Open(""), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(RuntimeDirTest, TheLongestPathThatIsAllowedWorks) {
  const size_t most = sizeof(sockaddr_un::sun_path) - sizeof("/attach.sock");
  std::string path = temp_.path() + "/";
  path.append(most - path.size(), 'p');
  {
    const auto dir = RuntimeDir::Open(path);
    ASSERT_THAT(dir, IsOk());
    EXPECT_THAT((*dir)->Listen((*dir)->attach_socket_path(), SOCK_SEQPACKET, 0600), IsOk());
  }
  EXPECT_THAT(RuntimeDir::Open(path + "p"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(RuntimeDirTest, AnUnwritableDirectoryIsNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "other uids need root";
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(9);
    const auto there = RuntimeDir::Open(path_);
    const bool named =
        absl::IsInvalidArgument(there.status()) &&
        std::string(there.status().message()).find(path_) != std::string::npos &&
        std::string(there.status().message()).find("Permission denied") != std::string::npos;
    const auto missing = RuntimeDir::Open(temp_.path() + "/other");
    ::_exit(named && absl::IsInvalidArgument(missing.status()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace iob::server
