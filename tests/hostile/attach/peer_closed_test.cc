// How an endpoint ends, as its peer hears of it: by raw sockets, with the exact reason in the event
// and in the signal page. The daemon is a process of its own, and so is the client that ends.

#include <signal.h>
#include <sys/wait.h>

#include "tests/hostile/attach/attach_test.h"
#include "tests/hostile/attach/peer_process.h"

namespace iob::test {
namespace {

constexpr uint32_t kPeerClosedBit = 4;
// Longer than the slow timer of the daemon's liveness: what it can find out, it has found out.
constexpr int64_t kNothingHappensMs = 1300;

class PeerClosed : public AttachTest {
 protected:
  void SetUp() override {
    StartDaemon(DaemonKind::kChild);
    if (!daemon_) return;
    made_ = MakeRingAndMemory();
    observer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(observer_->Attach(made_.ep0_ticket), "");
    peer_ = std::make_unique<PeerProcess>(attach_path(), made_.ep1_ticket);
    ASSERT_EQ(peer_->problem(), "");
  }
  void TearDown() override {
    observer_.reset();
    peer_.reset();
    AttachTest::TearDown();
  }

  void ExpectClosed(v1::CloseKind kind, int code) { ExpectClosed(*observer_, kind, code); }
  static void ExpectClosed(RawClient& observer, v1::CloseKind kind, int code) {
    const auto told = observer.ReceivePeerClosed();
    ASSERT_TRUE(told.has_value()) << "no peer_closed event";
    EXPECT_EQ(told->kind(), kind) << told->ShortDebugString();
    EXPECT_EQ(told->code(), code);
    EXPECT_EQ(observer.Signals() & kPeerClosedBit, kPeerClosedBit);
    EXPECT_EQ(observer.SignalReason().kind(), kind) << observer.SignalReason().ShortDebugString();
    EXPECT_EQ(observer.SignalReason().code(), code);
  }
  void ExpectStillOpen() {
    EXPECT_FALSE(observer_->Receive(kNothingHappensMs).has_value());
    EXPECT_TRUE(observer_->timed_out());
    EXPECT_EQ(observer_->Signals() & kPeerClosedBit, 0u);
    EXPECT_EQ(observer_->SignalReason().kind(), v1::CLOSE_KIND_UNSPECIFIED);
  }

  MadeBuffer made_;
  std::unique_ptr<RawClient> observer_;
  std::unique_ptr<PeerProcess> peer_;
};

TEST_F(PeerClosed, DetachIsClosed) {
  ASSERT_TRUE(peer_->Do(Order::kDetach));
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
}

TEST_F(PeerClosed, AClosedSocketOfALivingProcessIsClosed) {
  ASSERT_TRUE(peer_->Do(Order::kUnmap));
  ASSERT_TRUE(peer_->Do(Order::kCloseFds));
  ASSERT_TRUE(peer_->Do(Order::kCloseSocket));
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
}

TEST_F(PeerClosed, ExitIsExitedWithItsStatusBeforeAnybodyReaps) {
  ASSERT_TRUE(peer_->Do(Order::kExitThree));
  ExpectClosed(v1::CLOSE_KIND_EXITED, 3);
}

TEST_F(PeerClosed, ExitIsExitedWithItsStatusAlsoWhenReapedAtOnce) {
  ASSERT_TRUE(peer_->Do(Order::kExitThree));
  EXPECT_EQ(WEXITSTATUS(peer_->Reap()), 3);
  ExpectClosed(v1::CLOSE_KIND_EXITED, 3);
}

TEST_F(PeerClosed, SigkillIsKilledBeforeAnybodyReaps) {
  peer_->Kill(SIGKILL);
  ExpectClosed(v1::CLOSE_KIND_KILLED, SIGKILL);
}

TEST_F(PeerClosed, SigkillIsKilledAlsoWhenReapedAtOnce) {
  peer_->Kill(SIGKILL);
  EXPECT_EQ(WTERMSIG(peer_->Reap()), SIGKILL);
  ExpectClosed(v1::CLOSE_KIND_KILLED, SIGKILL);
}

TEST_F(PeerClosed, AStoppedProcessIsNeverClosed) {
  peer_->Kill(SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(peer_->pid(), &status, WUNTRACED), peer_->pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  ExpectStillOpen();
  peer_->Kill(SIGCONT);
  ASSERT_TRUE(peer_->Do(Order::kDetach));
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
}

TEST_F(PeerClosed, AForkedChildThatHoldsTheSocketKeepsItOpen) {
  ASSERT_TRUE(peer_->Do(Order::kFork));
  peer_->Kill(SIGKILL);
  EXPECT_EQ(WTERMSIG(peer_->Reap()), SIGKILL);
  ExpectStillOpen();
  peer_->ReleaseFork();
  // Whose ticket it was is who ended it: the first process.
  ExpectClosed(v1::CLOSE_KIND_KILLED, SIGKILL);
}

TEST_F(PeerClosed, AMappingAloneKeepsItOpen) {
  ASSERT_TRUE(peer_->Do(Order::kCloseSocket));
  ASSERT_TRUE(peer_->Do(Order::kCloseFds));
  EXPECT_TRUE(Eventually([this] { return Metric("iob_endpoints_waiting") == 1; }));
  ExpectStillOpen();
  ASSERT_TRUE(peer_->Do(Order::kUnmap));
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
  EXPECT_EQ(Metric("iob_endpoints_waiting"), 0);
}

TEST_F(PeerClosed, ADescriptorAloneKeepsItOpen) {
  ASSERT_TRUE(peer_->Do(Order::kUnmap));
  ASSERT_TRUE(peer_->Do(Order::kCloseSocket));
  EXPECT_TRUE(Eventually([this] { return Metric("iob_endpoints_waiting") == 1; }));
  ExpectStillOpen();
  ASSERT_TRUE(peer_->Do(Order::kCloseFds));
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
}

TEST_F(PeerClosed, AMappingInAForkedChildKeepsItOpenAfterDetach) {
  ASSERT_TRUE(peer_->Do(Order::kFork));
  ASSERT_TRUE(peer_->Do(Order::kDetach));
  EXPECT_TRUE(Eventually([this] { return Metric("iob_endpoints_waiting") == 1; }));
  ExpectStillOpen();
  peer_->ReleaseFork();
  ExpectClosed(v1::CLOSE_KIND_CLOSED, 0);
}

TEST_F(PeerClosed, WhoAttachesLateIsToldAfterMapped) {
  const MadeBuffer made = MakeRingAndMemory();
  PeerProcess early(attach_path(), made.ep1_ticket);
  ASSERT_EQ(early.problem(), "");
  early.Kill(SIGTERM);
  EXPECT_EQ(WTERMSIG(early.Reap()), SIGTERM);
  EXPECT_TRUE(Eventually([this] { return Metric("iob_endpoints_closed_total") == 1; }));
  RawClient late(attach_path());
  ASSERT_EQ(late.Attach(made.ep0_ticket), "");
  ExpectClosed(late, v1::CLOSE_KIND_KILLED, SIGTERM);
}

TEST_F(PeerClosed, TheConsumerEndsAndTheProducerHearsOfIt) {
  const MadeBuffer made = MakeRingAndMemory();
  RawClient producer(attach_path());
  ASSERT_EQ(producer.Attach(made.ep1_ticket), "");
  PeerProcess consumer(attach_path(), made.ep0_ticket);
  ASSERT_EQ(consumer.problem(), "");
  consumer.Kill(SIGKILL);
  ExpectClosed(producer, v1::CLOSE_KIND_KILLED, SIGKILL);
}

TEST_F(PeerClosed, ADeletedBufferIsRevokedForBoth) {
  v1::DeleteBufferRequest request;
  request.set_koid(made_.koid);
  v1::DeleteBufferResponse response;
  const grpc::Status in_use = Call(daemon_->stub(), &Service::DeleteBuffer, request, &response);
  EXPECT_EQ(ReasonOf(in_use), "IN_USE");
  EXPECT_EQ(observer_->Signals() & kPeerClosedBit, 0u);
  request.set_force(true);
  ASSERT_TRUE(Call(daemon_->stub(), &Service::DeleteBuffer, request, &response).ok());
  const auto packet = observer_->Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_TRUE(packet->event().has_revoked()) << packet->ShortDebugString();
  EXPECT_FALSE(observer_->ReadToEnd().has_value());
  EXPECT_FALSE(observer_->timed_out());
  // The peer process holds its mapping on: only after that is its endpoint closed, as revoked.
  ASSERT_TRUE(peer_->Do(Order::kCloseFds));
  ASSERT_TRUE(peer_->Do(Order::kUnmap));
  ASSERT_TRUE(Eventually([this] { return (observer_->Signals() & kPeerClosedBit) != 0; }));
  EXPECT_EQ(observer_->SignalReason().kind(), v1::CLOSE_KIND_REVOKED);
}

}  // namespace
}  // namespace iob::test
