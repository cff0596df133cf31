// Packets that break the protocol, in every phase of a connection: each is answered with one error
// packet and the end of the connection, and nothing else changes.

#include <fcntl.h>

#include <functional>

#include "tests/hostile/attach/attach_test.h"

namespace iob::test {
namespace {

enum class Phase { kTicket, kMapping, kLive };

class PacketTest : public AttachBothWays {
 protected:
  void SetUp() override { StartDaemon(GetParam()); }

  // A connection that got as far as `phase`.
  std::unique_ptr<RawClient> ClientIn(Phase phase) {
    auto client = std::make_unique<RawClient>(attach_path());
    if (phase == Phase::kTicket) return client;
    const MadeBuffer made = MakeRing();
    if (phase == Phase::kMapping) {
      EXPECT_EQ(client->Redeem(made.ep0_ticket), "");
    } else {
      EXPECT_EQ(client->Attach(made.ep0_ticket), "");
    }
    return client;
  }

  void ExpectProtocolError(RawClient& client, const std::string& what) {
    ExpectRefused(client.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT, v1::ERROR_REASON_PROTOCOL,
                  what);
    EXPECT_FALSE(client.timed_out()) << "the connection did not end";
  }

  static v1::ClientPacket Packet(const std::function<void(v1::ClientPacket&)>& fill) {
    v1::ClientPacket packet;
    fill(packet);
    return packet;
  }
};

constexpr Phase kPhases[] = {Phase::kTicket, Phase::kMapping, Phase::kLive};

INSTANTIATE_TEST_SUITE_P(Daemon, PacketTest,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(PacketTest, GarbageIsRefusedInEveryPhase) {
  for (const Phase phase : kPhases) {
    for (const std::string& garbage :
         {std::string(1, '\xff'), std::string(300, '\xff'), std::string(65536, '\x80'),
          std::string("GET / HTTP/1.1\r\n\r\n"), std::string(16, '\0')}) {
      auto client = ClientIn(phase);
      ASSERT_EQ(client->SendBytes(garbage), 0);
      ExpectProtocolError(*client, "that is no ClientPacket");
    }
  }
}

TEST_P(PacketTest, AnEmptyPacketIsRefusedInEveryPhase) {
  for (const Phase phase : kPhases) {
    auto client = ClientIn(phase);
    ASSERT_EQ(client->SendBytes(""), 0);
    ExpectProtocolError(*client, "empty packet");
  }
}

TEST_P(PacketTest, OneByteTooManyIsRefusedInEveryPhase) {
  for (const Phase phase : kPhases) {
    for (const size_t size : {65537, 131072}) {
      auto client = ClientIn(phase);
      ASSERT_EQ(client->SendBytes(std::string(size, '\0')), 0);
      ExpectProtocolError(*client, "more than 65536 bytes");
    }
  }
}

TEST_P(PacketTest, ATruncatedMessageIsRefusedInEveryPhase) {
  const std::string whole = Packet([](auto& packet) {
                              packet.mutable_write()->add_records(std::string(100, 'r'));
                            }).SerializeAsString();
  for (const Phase phase : kPhases) {
    for (const size_t size : {size_t{1}, size_t{2}, whole.size() / 2, whole.size() - 1}) {
      auto client = ClientIn(phase);
      ASSERT_EQ(client->SendBytes(whole.substr(0, size)), 0);
      ExpectProtocolError(*client, "that is no ClientPacket");
    }
  }
}

TEST_P(PacketTest, APacketOfAnUnknownKindIsRefusedInEveryPhase) {
  // Field 15, a length-delimited message: well-formed, from a later protocol.
  for (const Phase phase : kPhases) {
    auto client = ClientIn(phase);
    ASSERT_EQ(client->SendBytes(std::string("\x7a\x02\x08\x01", 4)), 0);
    ExpectProtocolError(*client, "does not know");
  }
}

TEST_P(PacketTest, PacketsOutOfTurnAreRefused) {
  const v1::ClientPacket redeem = Packet([](auto& packet) {
    packet.mutable_redeem()->set_protocol_version(1);
    packet.mutable_redeem()->set_ticket(std::string(16, 't'));
  });
  const v1::ClientPacket mapped = Packet([](auto& packet) { packet.mutable_mapped(); });
  const v1::ClientPacket write =
      Packet([](auto& packet) { packet.mutable_write()->add_records("r"); });
  const v1::ClientPacket room = Packet([](auto& packet) { packet.mutable_room_made(); });
  const std::vector<std::pair<Phase, v1::ClientPacket>> wrong = {
      {Phase::kTicket, mapped},  {Phase::kTicket, write},  {Phase::kTicket, room},
      {Phase::kMapping, redeem}, {Phase::kMapping, write}, {Phase::kMapping, room},
      {Phase::kLive, redeem},    {Phase::kLive, mapped}};
  for (const auto& [phase, packet] : wrong) {
    auto client = ClientIn(phase);
    ASSERT_EQ(client->Send(packet), 0);
    ExpectProtocolError(*client, "out of turn");
  }
}

TEST_P(PacketTest, DetachEndsAConnectionInEveryPhaseWithoutAnError) {
  for (const Phase phase : kPhases) {
    auto client = ClientIn(phase);
    ASSERT_EQ(client->SendDetach(), 0);
    EXPECT_FALSE(client->ReadToEnd().has_value());
    EXPECT_FALSE(client->timed_out());
  }
}

TEST_P(PacketTest, ABrokenPacketRevokesTheEndpointAndThePeerIsTold) {
  const MadeBuffer made = MakeRing();
  RawClient observer(attach_path());
  ASSERT_EQ(observer.Attach(made.ep0_ticket), "");
  {
    RawClient vandal(attach_path());
    ASSERT_EQ(vandal.Attach(made.ep1_ticket), "");
    ASSERT_EQ(vandal.SendBytes("\xff"), 0);
    ExpectProtocolError(vandal, "no ClientPacket");
  }
  const auto reason = observer.ReceivePeerClosed();
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_REVOKED);
}

TEST_P(PacketTest, DescriptorsAreRefusedAndNotKept) {
  const shm::UniqueFd sent(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (const Phase phase : kPhases) {
    for (const size_t count : {1, 10, 253}) {
      auto client = ClientIn(phase);
      const int error = client->SendBytes(
          Packet([](auto& packet) { packet.mutable_detach(); }).SerializeAsString(),
          std::vector<int>(count, sent.get()));
      if (error == EPERM) {
        // The kernel refused them for the daemon; the connection is as before.
        ASSERT_EQ(client->SendDetach(), 0);
        EXPECT_FALSE(client->ReadToEnd().has_value());
        EXPECT_FALSE(client->timed_out());
        continue;
      }
      ASSERT_EQ(error, 0);
      ExpectProtocolError(*client, "descriptors in a packet");
    }
  }
}

TEST_P(PacketTest, DescriptorsSentBeforeTheDaemonAcceptsAreNotKept) {
  // The kernel's refusal begins with accept; this gets in before it, if it is fast.
  const shm::UniqueFd sent(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::string detach =
      Packet([](auto& packet) { packet.mutable_detach(); }).SerializeAsString();
  for (int i = 0; i < 200; ++i) {
    RawClient client(attach_path());
    ASSERT_TRUE(client.valid());
    const int error = client.SendBytes(detach, std::vector<int>(100, sent.get()));
    ASSERT_TRUE(error == 0 || error == EPERM) << error;
  }
  EXPECT_TRUE(Eventually([this] { return Metric("iob_attach_connections") == 0; }));
}

TEST_P(PacketTest, ManyTinyRecordsInOnePacketAreServedUpToTheLimit) {
  const MadeBuffer made = MakeRing(1 << 20);
  RawClient writer(attach_path());
  ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
  ASSERT_EQ(writer.SendWrite(0, std::vector<std::string>(4096, "")), 0);
  const auto result = writer.ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 4096u);
  ASSERT_EQ(writer.SendWrite(0, std::vector<std::string>(4097, "")), 0);
  ExpectRefused(writer.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT,
                v1::ERROR_REASON_INVALID_ARGUMENT, "records: 4097 in one batch, at most 4096");
  EXPECT_EQ(Stats(made.koid).attempted_records(), 4096u);
}

class SilenceTest : public AttachTest {};

TEST_F(SilenceTest, WhoSaysNothingIsTimedOutAndTheNumberIsBounded) {
  StartDaemon(DaemonKind::kChild,
              {.flags = {"--attach-step-ms=1000", "--attach-pending-max=4"}, .open_files_max = {}});
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 4; ++i) silent.push_back(std::make_unique<RawClient>(attach_path()));
  EXPECT_TRUE(Eventually([this] { return Metric("iob_attach_connections") == 4; }));
  RawClient fifth(attach_path());
  ExpectRefused(fifth.ReadToEnd(), grpc::StatusCode::UNAVAILABLE, v1::ERROR_REASON_BUSY,
                "4 connections without a ticket");
  EXPECT_EQ(Metric("iob_attach_turned_away_total"), 1);
  for (auto& client : silent) {
    ExpectRefused(client->ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT,
                  v1::ERROR_REASON_PROTOCOL, "no ticket within 1000 ms");
  }
  // Their places are free again.
  const MadeBuffer made = MakeRing();
  RawClient next(attach_path());
  EXPECT_EQ(next.Attach(made.ep0_ticket), "");
}

TEST_F(SilenceTest, WhoNeverAcksIsTimedOutAndThePeerIsTold) {
  StartDaemon(DaemonKind::kThread, {.flags = {"--attach-step-ms=300"}, .open_files_max = {}});
  const MadeBuffer made = MakeRing();
  RawClient observer(attach_path());
  ASSERT_EQ(observer.Attach(made.ep0_ticket), "");
  {
    RawClient client(attach_path());
    ASSERT_EQ(client.Redeem(made.ep1_ticket), "");
    ExpectRefused(client.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT, v1::ERROR_REASON_PROTOCOL,
                  "are mapped within 300 ms");
  }
  const auto reason = observer.ReceivePeerClosed();
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_REVOKED);
}

TEST_F(SilenceTest, ALiveConnectionMayBeSilentForAsLongAsItLikes) {
  StartDaemon(DaemonKind::kThread, {.flags = {"--attach-step-ms=100"}, .open_files_max = {}});
  const MadeBuffer made = MakeRing();
  RawClient client(attach_path());
  ASSERT_EQ(client.Attach(made.ep0_ticket), "");
  EXPECT_FALSE(client.Receive(400).has_value());
  EXPECT_TRUE(client.timed_out());
}

}  // namespace
}  // namespace iob::test
