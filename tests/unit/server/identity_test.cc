// Who is on the other side of a socket, and how it ended, with real processes.

#include "server/identity.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/process_end.h"
#include "tests/support/fake_clock.h"
#include "tests/support/leak_check.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;

// A child on the other end of a connected socket, that ends as it is told.
class Peer {
 public:
  explicit Peer(std::optional<uid_t> uid = std::nullopt) {
    int listening_pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, listening_pair), 0);
    orders_ = shm::UniqueFd(listening_pair[0]);
    shm::UniqueFd child_orders(listening_pair[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      if (uid && (::setgid(*uid) != 0 || ::setuid(*uid) != 0)) ::_exit(99);
      // Made in here, so that the credentials are the child's.
      int pair[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) ::_exit(98);
      char control[CMSG_SPACE(sizeof(int))] = {};
      char byte = 0;
      iovec part = {.iov_base = &byte, .iov_len = 1};
      msghdr message = {};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      cmsghdr* const rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      *reinterpret_cast<int*>(CMSG_DATA(rights)) = pair[0];
      if (::sendmsg(child_orders.get(), &message, 0) != 1) ::_exit(97);
      if (::recv(child_orders.get(), &byte, 1, 0) == 1) ::_exit(byte);
      ::_exit(96);
    }
    char control[CMSG_SPACE(sizeof(int))] = {};
    char byte = 0;
    iovec part = {.iov_base = &byte, .iov_len = 1};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    EXPECT_EQ(::recvmsg(orders_.get(), &message, MSG_CMSG_CLOEXEC), 1);
    socket_ = shm::UniqueFd(*reinterpret_cast<int*>(CMSG_DATA(CMSG_FIRSTHDR(&message))));
  }
  ~Peer() {
    if (pid_ <= 0) return;
    Kill(SIGKILL);
    Reap();
  }

  pid_t pid() const { return pid_; }
  Identity identity() const { return IdentityOfPeer(socket_.get()).value(); }
  void Exit(char status) { EXPECT_EQ(::send(orders_.get(), &status, 1, 0), 1); }
  void Kill(int signal) { ::kill(pid_, signal); }
  void Reap() { EXPECT_EQ(::waitpid(std::exchange(pid_, -1), nullptr, 0) > 0, true); }

 private:
  pid_t pid_ = -1;
  shm::UniqueFd orders_;
  shm::UniqueFd socket_;
};

TEST(Identity, IsTheOneWhoMadeTheSocket) {
  Peer peer;
  const Identity identity = peer.identity();
  EXPECT_EQ(identity.peer_uid, ::getuid());
  EXPECT_EQ(identity.peer_gid, ::getgid());
  EXPECT_EQ(identity.peer_pid, peer.pid());
  EXPECT_TRUE(identity.pidfd.valid());
  EXPECT_FALSE(HasEnded(identity.pidfd.get()));
  EXPECT_EQ(HowItEnded(identity).kind, CloseKind::kOpen);
}

TEST(Identity, ShowsAnotherUid) {
  if (::getuid() != 0) GTEST_SKIP() << "other uids need root";
  Peer peer(65534);
  EXPECT_EQ(peer.identity().peer_uid, 65534u);
  EXPECT_EQ(peer.identity().peer_gid, 65534u);
}

TEST(Identity, OfSomethingThatIsNoUnixSocketIsAnError) {
  EXPECT_FALSE(IdentityOfPeer(STDIN_FILENO).ok());
}

// How a process ended, as ProcessEnd reports it on a loop.
CloseReason ReportOf(const Identity& identity) {
  SystemClock clock;
  const auto loop = EventLoop::Create(clock).value();
  CloseReason reported;
  int reports = 0;
  ProcessEnd end;
  end.Watch(*loop, identity, [&](CloseReason reason) {
    reported = reason;
    ++reports;
    loop->Quit();
  });
  const Registration too_late = loop->RunAfterMs(10'000, [&] { loop->Quit(); });
  loop->Run();
  EXPECT_EQ(reports, 1);
  return reported;
}

TEST(ProcessEnd, TellsTheExitStatusOfAZombie) {
  Peer peer;
  const Identity identity = peer.identity();
  peer.Exit(3);
  EXPECT_EQ(ReportOf(identity), (CloseReason{.kind = CloseKind::kExited, .code = 3}));
}

TEST(ProcessEnd, TellsTheExitStatusOfAReapedProcess) {
  Peer peer;
  const Identity identity = peer.identity();
  peer.Exit(7);
  peer.Reap();
  EXPECT_TRUE(HasEnded(identity.pidfd.get()));
  EXPECT_EQ(ReportOf(identity), (CloseReason{.kind = CloseKind::kExited, .code = 7}));
}

TEST(ProcessEnd, TellsAnExitStatusOfZero) {
  Peer peer;
  const Identity identity = peer.identity();
  peer.Exit(0);
  EXPECT_EQ(ReportOf(identity), (CloseReason{.kind = CloseKind::kExited, .code = 0}));
}

TEST(ProcessEnd, TellsTheSignal) {
  for (const bool reaped : {false, true}) {
    for (const int signal : {SIGKILL, SIGTERM, SIGUSR1}) {
      Peer peer;
      const Identity identity = peer.identity();
      peer.Kill(signal);
      if (reaped) peer.Reap();
      EXPECT_EQ(ReportOf(identity), (CloseReason{.kind = CloseKind::kKilled, .code = signal}));
    }
  }
}

TEST(ProcessEnd, SaysNothingAboutAStoppedProcess) {
  Peer peer;
  const Identity identity = peer.identity();
  peer.Kill(SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(peer.pid(), &status, WUNTRACED), peer.pid());
  SystemClock clock;
  const auto loop = EventLoop::Create(clock).value();
  ProcessEnd end;
  bool reported = false;
  end.Watch(*loop, identity, [&](CloseReason) { reported = true; });
  const Registration enough = loop->RunAfterMs(300, [&] { loop->Quit(); });
  loop->Run();
  EXPECT_FALSE(reported);
  EXPECT_FALSE(HasEnded(identity.pidfd.get()));
}

TEST(ProcessEnd, ADestroyedWatchIsSilent) {
  Peer peer;
  const Identity identity = peer.identity();
  SystemClock clock;
  const auto loop = EventLoop::Create(clock).value();
  bool reported = false;
  {
    ProcessEnd end;
    end.Watch(*loop, identity, [&](CloseReason) { reported = true; });
    peer.Kill(SIGKILL);
  }
  ASSERT_TRUE(test::Eventually([&] { return HasEnded(identity.pidfd.get()); }));
  ASSERT_TRUE(loop->Post([&] { loop->Quit(); }));
  loop->Run();
  EXPECT_FALSE(reported);
}

}  // namespace
}  // namespace iob::server
