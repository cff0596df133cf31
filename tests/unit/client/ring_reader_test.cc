// RingReader against a real writer in this process: order, waiting, waking, and the end.
#include "client/ring_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

class RingReaderTest : public Attached {
 protected:
  RingReaderTest() { reader_.emplace(endpoint_->OpenReader(0).value()); }

  void Publish(const std::string& text, uint64_t tag = 1) {
    EXPECT_EQ(buffer_.ring.Append(tag, text), shm::AppendOutcome::kStored);
    if (buffer_.ring.Publish()) wanted_packet_ = true;
  }
  void ClosePeer() {
    buffer_.signal.RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kKilled, .code = 9});
  }
  std::vector<std::string> DrainAll() {
    std::vector<std::string> texts;
    const auto count = reader_->Drain(
        SIZE_MAX, [&texts](const RecordView& record) { texts.push_back(TextOf(record.payload)); });
    EXPECT_THAT(count, IsOk());
    EXPECT_EQ(*count, texts.size());
    return texts;
  }
  bool SocketReadable() {
    pollfd poller = {.fd = reader_->fd(), .events = POLLIN, .revents = 0};
    return ::poll(&poller, 1, 0) == 1;
  }

  std::optional<RingReader> reader_;
  bool wanted_packet_ = false;  // The writer was asked for a packet.
};

TEST_F(RingReaderTest, ReadsInOrderAndReleasesOnce) {
  for (int i = 0; i < 5; ++i) Publish(std::to_string(i));
  std::vector<std::string> texts;
  ASSERT_OK_AND_ASSIGN(const size_t first, reader_->Drain(3, [&](const RecordView& record) {
    texts.push_back(TextOf(record.payload));
  }));
  EXPECT_EQ(first, 3u);
  EXPECT_THAT(texts, ::testing::ElementsAre("0", "1", "2"));
  EXPECT_EQ(buffer_.ring.ring().Occupancy().consumed_records, 3u);
  EXPECT_THAT(DrainAll(), ::testing::ElementsAre("3", "4"));
  EXPECT_THAT(DrainAll(), ::testing::IsEmpty());
  EXPECT_EQ(reader_->ledger().stored_records, 5u);
}

TEST_F(RingReaderTest, KeepsViewsUntilRelease) {
  Publish("held", 77);
  RecordView view;
  ASSERT_EQ(reader_->Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.tag, 77u);
  Publish("next");
  EXPECT_EQ(TextOf(view.payload), "held");
  EXPECT_EQ(buffer_.ring.ring().Occupancy().consumed_records, 0u);
  reader_->Release();
  EXPECT_EQ(buffer_.ring.ring().Occupancy().consumed_records, 1u);
}

TEST_F(RingReaderTest, CopiesOneRecordAtATime) {
  Publish("mine", 5);
  Record record;
  ASSERT_OK_AND_ASSIGN(const bool there, reader_->TryRead(&record));
  EXPECT_TRUE(there);
  EXPECT_EQ(record.tag, 5u);
  EXPECT_EQ(TextOf(record.payload), "mine");
  ASSERT_OK_AND_ASSIGN(const bool more, reader_->TryRead(&record));
  EXPECT_FALSE(more);
  EXPECT_EQ(buffer_.ring.ring().Occupancy().consumed_records, 1u);
}

TEST_F(RingReaderTest, DoesNotWaitWhenRecordsAreThere) {
  Publish("there");
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(Deadline()));
  EXPECT_EQ(outcome, WaitOutcome::kRecords);
}

TEST_F(RingReaderTest, WaitsNoLongerThanItsDeadline) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(30ms)));
  EXPECT_EQ(outcome, WaitOutcome::kDeadline);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 30ms);
  ASSERT_OK_AND_ASSIGN(const WaitOutcome past, reader_->Wait(Deadline()));
  EXPECT_EQ(past, WaitOutcome::kDeadline);
}

TEST_F(RingReaderTest, WakesForARecord) {
  for (int i = 0; i < 100; ++i) {
    std::thread writer([&] { Publish("wake"); });
    // Far longer than a missed wake would take to be noticed as slow.
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(30s)));
    writer.join();
    EXPECT_EQ(outcome, WaitOutcome::kRecords);
    EXPECT_EQ(DrainAll().size(), 1u);
  }
}

TEST_F(RingReaderTest, WakesForAClosedPeer) {
  std::thread broker([&] { ClosePeer(); });
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(30s)));
  broker.join();
  EXPECT_EQ(outcome, WaitOutcome::kPeerClosed);
}

TEST_F(RingReaderTest, DeliversWhatWasCommittedBeforeThePeerWasGone) {
  Publish("last words");
  ClosePeer();
  ASSERT_OK_AND_ASSIGN(const WaitOutcome first, reader_->Wait(After(5s)));
  EXPECT_EQ(first, WaitOutcome::kRecords);
  EXPECT_THAT(DrainAll(), ::testing::ElementsAre("last words"));
  ASSERT_OK_AND_ASSIGN(const WaitOutcome second, reader_->Wait(After(5s)));
  EXPECT_EQ(second, WaitOutcome::kPeerClosed);
}

TEST_F(RingReaderTest, NoticesALostBrokerOnlyWhenTheRingIsEmpty) {
  Publish("still there");
  broker_.peer()->Close();
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(5s)));
  EXPECT_EQ(outcome, WaitOutcome::kRecords);
  EXPECT_EQ(DrainAll().size(), 1u);
  const auto start = std::chrono::steady_clock::now();
  const absl::Status lost = reader_->Wait(After(30s)).status();
  EXPECT_THAT(lost, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(lost), kReasonDisconnected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(RingReaderTest, DrainsAfterItsEndpointWasClosed) {
  Publish("after");
  endpoint_.reset();
  EXPECT_THAT(DrainAll(), ::testing::ElementsAre("after"));
  EXPECT_EQ(ReasonOf(reader_->Wait(After(5s)).status()), kReasonDetached);
}

TEST_F(RingReaderTest, TellsTheBrokerThatAWriterHasRoom) {
  const std::string big(30'000, 'b');
  Publish(big);
  Publish(big);
  buffer_.ring.ring().WantRoom(shm::RecordBytes(big.size()));
  DrainAll();
  const auto packet = ReceivePacket(broker_.peer());
  ASSERT_TRUE(packet && packet->has_room_made());
  EXPECT_EQ(packet->room_made().region_index(), 0u);
  // Nobody waits any more: no second packet, which the goodbye would follow.
  buffer_.ring.ring().WantRoom(0);
  Publish("x");
  DrainAll();
  endpoint_->Close();
  const auto next = ReceivePacket(broker_.peer());
  EXPECT_TRUE(next && next->has_detach());
}

TEST_F(RingReaderTest, ArmsItsSocketOnlyWhenNothingIsThere) {
  Publish("there");
  EXPECT_FALSE(reader_->ArmFd());
  DrainAll();
  EXPECT_TRUE(reader_->ArmFd());
  EXPECT_FALSE(SocketReadable());
  Publish("new");
  EXPECT_TRUE(wanted_packet_);
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_readable()->set_region_index(0);
  SendPacket(broker_.peer(), packet);
  EXPECT_TRUE(SocketReadable());
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->PollEvents());
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->kind, Event::Kind::kReadable);
  EXPECT_THAT(DrainAll(), ::testing::ElementsAre("new"));
  // Draining asked for no more packets.
  wanted_packet_ = false;
  Publish("quiet");
  EXPECT_FALSE(wanted_packet_);
}

TEST_F(RingReaderTest, DoesNotArmOverAnEventOrABrokenConnection) {
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_peer_closed();
  SendPacket(broker_.peer(), packet);
  EXPECT_FALSE(reader_->ArmFd());
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, endpoint_->PollEvents());
  EXPECT_TRUE(event.has_value());
  EXPECT_TRUE(reader_->ArmFd());
  broker_.peer()->Close();
  EXPECT_TRUE(SocketReadable());
  EXPECT_FALSE(reader_->ArmFd());
}

TEST_F(RingReaderTest, LosesNothingBetweenTwoThreads) {
  constexpr uint64_t kRecords = 200'000;
  std::thread writer([&] {
    for (uint64_t i = 0; i < kRecords;) {
      const shm::AppendOutcome outcome = buffer_.ring.Append(i, std::to_string(i));
      i += outcome == shm::AppendOutcome::kStored ? 1 : 0;
      buffer_.ring.Publish();
    }
    ClosePeer();
  });
  uint64_t next = 0;
  absl::StatusOr<WaitOutcome> outcome = WaitOutcome::kRecords;
  while ((outcome = reader_->Wait(After(30s))).ok() && *outcome == WaitOutcome::kRecords) {
    const auto drained = reader_->Drain(1000, [&next](const RecordView& record) {
      EXPECT_EQ(record.tag, next);
      ++next;
    });
    ASSERT_THAT(drained, IsOk());
  }
  writer.join();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(*outcome, WaitOutcome::kPeerClosed);
  EXPECT_EQ(next, kRecords);
}

TEST_F(RingReaderTest, IsPoisonedByAHeadThatCannotBe) {
  RogueConsumer(buffer_.ring.ring()).SetHead(12345);
  const absl::Status status = reader_->Wait(After(5s)).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(status), "INTEGRITY");
  EXPECT_THAT(reader_->Drain(1, [](const RecordView&) {}), StatusIs(StatusCode::kDataLoss));
  Record record;
  EXPECT_THAT(reader_->TryRead(&record), StatusIs(StatusCode::kDataLoss));
  EXPECT_FALSE(reader_->ArmFd());
}

}  // namespace
}  // namespace iob::test
