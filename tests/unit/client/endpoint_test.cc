// An attached endpoint: rights in words, mapping, events from the socket and from memory, the end.
#include "client/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "client/error.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

using EndpointTest = Attached;

v1::BrokerPacket PeerClosedPacket(v1::CloseKind kind, int code) {
  v1::BrokerPacket packet;
  v1::CloseReason* const reason = packet.mutable_event()->mutable_peer_closed()->mutable_reason();
  reason->set_kind(kind);
  reason->set_code(code);
  return packet;
}

TEST_F(EndpointTest, MapsARegionForWriting) {
  ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint_->Map(1));
  EXPECT_TRUE(region.writable());
  ASSERT_EQ(region.bytes().size(), shm::PageBytes());
  region.writable_bytes()[17] = std::byte{42};
  const auto seen = shm::ReadOnlyMapping::Map(buffer_.raw).value();
  EXPECT_EQ(seen.base()[17], std::byte{42});
}

TEST_F(EndpointTest, SaysWhatCannotBeOpened) {
  EXPECT_THAT(endpoint_->Map(3), StatusIs(StatusCode::kOutOfRange, "region 3"));
  EXPECT_THAT(endpoint_->Map(UINT32_MAX), StatusIs(StatusCode::kOutOfRange));
  EXPECT_EQ(ReasonOf(endpoint_->Map(0).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(ReasonOf(endpoint_->OpenReader(1).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(ReasonOf(endpoint_->OpenReader(2).status()), "ACCESS_DENIED");
  EXPECT_EQ(ReasonOf(endpoint_->OpenWriter(0).status()), "ACCESS_DENIED");
  EXPECT_THAT(endpoint_->OpenWriter(2), IsOk());
}

TEST_F(EndpointTest, LetsOneReaderConsumeARing) {
  std::optional<RingReader> reader = endpoint_->OpenReader(0).value();
  EXPECT_EQ(ReasonOf(endpoint_->OpenReader(0).status()), "IN_USE");
  reader.reset();
  EXPECT_THAT(endpoint_->OpenReader(0), IsOk());
}

TEST_F(EndpointTest, WaitsNoLongerThanItsDeadline) {
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->WaitEvent(After(20ms)));
  EXPECT_FALSE(event.has_value());
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> none, endpoint_->PollEvents());
  EXPECT_FALSE(none.has_value());
}

TEST_F(EndpointTest, TellsOnceThatThePeerIsGone) {
  buffer_.signal.RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kKilled, .code = 9});
  SendPacket(broker_.peer(), PeerClosedPacket(v1::CLOSE_KIND_KILLED, 9));
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->WaitEvent(After(5s)));
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->kind, Event::Kind::kPeerClosed);
  EXPECT_EQ(ToString(event->reason), "killed(9)");
  EXPECT_TRUE(endpoint_->peer_closed());
  EXPECT_EQ(ToString(endpoint_->close_reason()), "killed(9)");
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> again, endpoint_->PollEvents());
  EXPECT_FALSE(again.has_value());
}

TEST_F(EndpointTest, LearnsFromMemoryWhatThePacketHasNotToldYet) {
  buffer_.signal.RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kExited, .code = 3});
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->PollEvents());
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(ToString(event->reason), "exited(3)");
  SendPacket(broker_.peer(), PeerClosedPacket(v1::CLOSE_KIND_EXITED, 3));
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> again, endpoint_->PollEvents());
  EXPECT_FALSE(again.has_value());
}

TEST_F(EndpointTest, TellsEventsBeforeTheEndOfTheConnection) {
  v1::BrokerPacket revoked;
  revoked.mutable_event()->mutable_revoked();
  SendPacket(broker_.peer(), revoked);
  broker_.peer()->Close();
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->WaitEvent(After(5s)));
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->kind, Event::Kind::kRevoked);
  const absl::Status end = endpoint_->WaitEvent(After(5s)).status();
  EXPECT_THAT(end, StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(end), kReasonRevoked);
}

TEST_F(EndpointTest, NoticesThatTheBrokerDied) {
  broker_.peer()->Close();
  const absl::Status end = endpoint_->WaitEvent(After(5s)).status();
  EXPECT_THAT(end, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(end), kReasonDisconnected);
}

TEST_F(EndpointTest, KeepsTheBrokersLastWords) {
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(7);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_ACCESS_DENIED);
  packet.mutable_error()->set_message("no");
  SendPacket(broker_.peer(), packet);
  broker_.peer()->Close();
  for (int i = 0; i < 2; ++i) {
    const absl::Status end = endpoint_->WaitEvent(After(5s)).status();
    EXPECT_THAT(end, StatusIs(StatusCode::kPermissionDenied, "no"));
    EXPECT_EQ(ReasonOf(end), "ACCESS_DENIED");
  }
}

TEST_F(EndpointTest, BreaksWithABrokerThatSendsGarbage) {
  SendRaw(broker_.peer(), "\xff\xff\xff");
  EXPECT_EQ(ReasonOf(endpoint_->WaitEvent(After(5s)).status()), "PROTOCOL");
}

TEST_F(EndpointTest, BreaksWithABrokerThatSendsDescriptors) {
  const int open_before = OpenFds();
  SendPacket(broker_.peer(), PeerClosedPacket(v1::CLOSE_KIND_CLOSED, 0), buffer_.Fds());
  EXPECT_EQ(ReasonOf(endpoint_->WaitEvent(After(5s)).status()), "PROTOCOL");
  EXPECT_EQ(OpenFds(), open_before);
}

TEST_F(EndpointTest, BreaksWithABrokerThatAnswersWhatNobodyAsked) {
  v1::BrokerPacket packet;
  packet.mutable_write_result()->set_stored(1);
  SendPacket(broker_.peer(), packet);
  EXPECT_EQ(ReasonOf(endpoint_->WaitEvent(After(5s)).status()), "PROTOCOL");
}

TEST_F(EndpointTest, KeepsItsQueueOfEventsBounded) {
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_readable()->set_region_index(0);
  for (int i = 0; i < 100; ++i) SendPacket(broker_.peer(), packet);
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->WaitEvent(After(5s)));
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->kind, Event::Kind::kReadable);
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> again, endpoint_->PollEvents());
  EXPECT_FALSE(again.has_value());
}

// Mappings of signal pages in this process; the broker's own is one of them.
int SignalPagesMapped() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find("iob-signal") != std::string::npos ? 1 : 0;
  }
  return count;
}

TEST_F(EndpointTest, SaysGoodbyeAndLetsGoOfAllItHolds) {
  const int open_before = OpenFds();
  EXPECT_EQ(SignalPagesMapped(), 2);
  endpoint_->Close();
  // Socket, head, data, raw.
  EXPECT_EQ(OpenFds(), open_before - 4);
  // The page counts as held: mapped, it would keep the peer from being told.
  EXPECT_EQ(SignalPagesMapped(), 1);
  EXPECT_EQ(endpoint_->fd(), -1);
  const auto detach = ReceivePacket(broker_.peer());
  ASSERT_TRUE(detach.has_value());
  EXPECT_TRUE(detach->has_detach());
  EXPECT_FALSE(ReceivePacket(broker_.peer()).has_value());
  EXPECT_EQ(ReasonOf(endpoint_->Map(1).status()), kReasonDetached);
  EXPECT_EQ(ReasonOf(endpoint_->PollEvents().status()), kReasonDetached);
  endpoint_->Close();
}

TEST_F(EndpointTest, RemembersHowThePeerEndedAfterItClosed) {
  buffer_.signal.RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kKilled, .code = 9});
  endpoint_->Close();
  EXPECT_TRUE(endpoint_->peer_closed());
  EXPECT_EQ(ToString(endpoint_->close_reason()), "killed(9)");
}

TEST_F(EndpointTest, ClosesWhenItIsDestroyedAndMoves) {
  Endpoint moved = std::move(*endpoint_);
  endpoint_.reset();
  EXPECT_EQ(moved.info().name, "honest");
  { const Endpoint last = std::move(moved); }
  const auto detach = ReceivePacket(broker_.peer());
  EXPECT_TRUE(detach && detach->has_detach());
}

TEST(TicketTest, HidesItsSecretUntilAsked) {
  const Ticket ticket(TestSecret(), EndpointId::kEp1, "/run/iob/attach.sock", 1s);
  std::ostringstream printed;
  printed << ticket << ' ' << Handle(TestSecret());
  EXPECT_EQ(printed.str(), "ticket:<redacted> handle:<redacted>");
  EXPECT_EQ(ticket.ToHex(), std::string("5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"));
}

TEST(TicketTest, TravelsAsHex) {
  const Ticket ticket(TestSecret(), EndpointId::kEp1, "/s", 1s);
  ASSERT_OK_AND_ASSIGN(const Ticket back, Ticket::FromHex(ticket.ToHex(), EndpointId::kEp1, "/s"));
  EXPECT_EQ(back.secret(), ticket.secret());
  EXPECT_EQ(back.socket_path(), "/s");
  for (const char* wrong :
       {"", "5a", "zz5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a", "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}) {
    const absl::Status status = Ticket::FromHex(wrong, EndpointId::kEp0, "/s").status();
    EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument));
    // Not even a broken secret is repeated.
    EXPECT_EQ(status.message().find("5a5a"), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace iob::test
