// Tickets: one use, short life, one uid. Unknown, spent, expired and somebody else's get one
// answer.

#include <signal.h>
#include <unistd.h>

#include <thread>

#include "tests/hostile/attach/attach_test.h"
#include "tests/hostile/attach/peer_process.h"

namespace iob::test {
namespace {

void ExpectBadTicket(const std::optional<v1::AttachError>& error) {
  ExpectRefused(error, grpc::StatusCode::UNAUTHENTICATED, v1::ERROR_REASON_BAD_HANDLE,
                "no such handle or ticket");
}

class TicketTest : public AttachBothWays {};

INSTANTIATE_TEST_SUITE_P(Daemon, TicketTest,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(TicketTest, UnknownIsRefused) {
  StartDaemon(GetParam());
  RawClient client(attach_path());
  ASSERT_EQ(client.SendRedeem(std::string(16, '\x5a')), 0);
  ExpectBadTicket(client.ReadToEnd());
  EXPECT_EQ(Metric("iob_attach_refused_total"), 1);
}

TEST_P(TicketTest, WrongLengthIsRefusedByName) {
  StartDaemon(GetParam());
  for (const size_t size : {0, 15, 17, 60000}) {
    RawClient client(attach_path());
    ASSERT_EQ(client.SendRedeem(std::string(size, 'x')), 0);
    ExpectRefused(client.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT,
                  v1::ERROR_REASON_INVALID_ARGUMENT, "ticket: " + std::to_string(size));
  }
}

TEST_P(TicketTest, SpentIsRefused) {
  StartDaemon(GetParam());
  const MadeBuffer made = MakeRing();
  RawClient first(attach_path());
  ASSERT_EQ(first.Attach(made.ep0_ticket), "");
  RawClient second(attach_path());
  ASSERT_EQ(second.SendRedeem(made.ep0_ticket), 0);
  ExpectBadTicket(second.ReadToEnd());
  EXPECT_TRUE(second.fds().empty());
  // The first is not disturbed.
  RawClient writer(attach_path());
  ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
  ASSERT_EQ(writer.SendWrite(0, {"x"}), 0);
  EXPECT_EQ(writer.ReceiveResult()->stored(), 1u);
  EXPECT_TRUE(Eventually([&] { return first.Head(0) == 24; }));
}

TEST_P(TicketTest, ExpiredIsRefusedAndItsEndpointCloses) {
  StartDaemon(GetParam(), {.flags = {"--ticket-lifetime-ms=1000"}, .open_files_max = {}});
  const MadeBuffer made = MakeRing();
  RawClient observer(attach_path());
  ASSERT_EQ(observer.Attach(made.ep0_ticket), "");
  // ep1's ticket is never redeemed in time.
  const auto reason = observer.ReceivePeerClosed();
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_EXPIRED);
  EXPECT_EQ(observer.SignalReason().kind(), v1::CLOSE_KIND_EXPIRED);
  RawClient late(attach_path());
  ASSERT_EQ(late.SendRedeem(made.ep1_ticket), 0);
  ExpectBadTicket(late.ReadToEnd());
}

TEST_P(TicketTest, OfTwoRacingAttachesExactlyOneWins) {
  StartDaemon(GetParam());
  for (int round = 0; round < 20; ++round) {
    const MadeBuffer made = MakeRing();
    RawClient clients[2] = {RawClient(attach_path()), RawClient(attach_path())};
    std::string problems[2];
    std::thread racer([&] { problems[1] = clients[1].Redeem(made.ep0_ticket); });
    problems[0] = clients[0].Redeem(made.ep0_ticket);
    racer.join();
    const int loser = problems[0].empty() ? 1 : 0;
    EXPECT_EQ(problems[1 - loser], "");
    EXPECT_THAT(problems[loser], ::testing::HasSubstr("no such handle or ticket"));
    EXPECT_TRUE(clients[loser].fds().empty());
  }
  EXPECT_EQ(Metric("iob_attached_total"), 20);
}

TEST_P(TicketTest, WrongProtocolVersionIsRefusedAndTheTicketStays) {
  StartDaemon(GetParam());
  const MadeBuffer made = MakeRing();
  for (const uint32_t version : {0u, 2u, UINT32_MAX}) {
    RawClient client(attach_path());
    ASSERT_EQ(client.SendRedeem(made.ep0_ticket, version), 0);
    ExpectRefused(client.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT, v1::ERROR_REASON_PROTOCOL,
                  "protocol_version: " + std::to_string(version));
  }
  RawClient client(attach_path());
  EXPECT_EQ(client.Attach(made.ep0_ticket), "");
}

class TicketUid : public AttachTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other uids need root";
    StartDaemon(DaemonKind::kChild);
  }
  std::string TicketFor(const std::string& handle, uint32_t uid) {
    v1::AttachRequest request;
    request.set_handle(handle);
    request.set_recipient_uid(uid);
    v1::AttachResponse response;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::Attach, request, &response).ok());
    return response.ticket().ticket();
  }
};

TEST_F(TicketUid, AnotherUidIsRefusedAndTheTicketStays) {
  const MadeBuffer made = MakeRing();
  PeerProcess thief(attach_path(), made.ep0_ticket, kNobodyUid);
  EXPECT_THAT(thief.problem(), ::testing::HasSubstr("no such handle or ticket"));
  RawClient owner(attach_path());
  EXPECT_EQ(owner.Attach(made.ep0_ticket), "");
}

TEST_F(TicketUid, ATicketForAnotherUidIsForThatUidAlone) {
  v1::CreateBufferResponse made;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, RingRequest(kSmallRing), &made).ok());
  const std::string ticket = TicketFor(made.ep0_handle(), kNobodyUid);
  RawClient giver(attach_path());
  ASSERT_EQ(giver.SendRedeem(ticket), 0);
  ExpectBadTicket(giver.ReadToEnd());
  PeerProcess wrong(attach_path(), ticket, 12345);
  EXPECT_THAT(wrong.problem(), ::testing::HasSubstr("no such handle or ticket"));
  PeerProcess recipient(attach_path(), ticket, kNobodyUid);
  EXPECT_EQ(recipient.problem(), "");
}

TEST_F(TicketUid, RequiredEnforcementRefusesTheWeakHolderAndKeepsTheTicket) {
  // Plain memory that ep1 may only read: file modes bind nobody, but not root.
  v1::CreateBufferRequest request;
  v1::RegionSpec& region = *request.add_regions();
  region.set_type(v1::REGION_TYPE_PRIVATE);
  region.set_discipline(v1::DISCIPLINE_NONE);
  region.set_size_bytes(4096);
  region.set_access_bits(0x13);
  region.set_required_enforcement(v1::ENFORCEMENT_DAC);
  v1::CreateBufferResponse made;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, request, &made).ok());
  const std::string for_root = TicketFor(made.ep1_handle(), 0);
  for (int again = 0; again < 2; ++again) {
    RawClient root(attach_path());
    ASSERT_EQ(root.SendRedeem(for_root), 0);
    ExpectRefused(root.ReadToEnd(), grpc::StatusCode::FAILED_PRECONDITION,
                  v1::ERROR_REASON_ENFORCEMENT, "regions[0]: ENFORCEMENT_DAC is required");
  }
  const std::string for_nobody = TicketFor(made.ep0_handle(), kNobodyUid);
  PeerProcess nobody(attach_path(), for_nobody, kNobodyUid);
  EXPECT_EQ(nobody.problem(), "");
}

}  // namespace
}  // namespace iob::test
