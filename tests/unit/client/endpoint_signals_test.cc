// Signals of an endpoint: seen in memory, waited for on one or many, told as events, and all of it
// denied to a handle without WAIT, whose endpoint works otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

constexpr uint32_t kOne = UserSignal(1);
constexpr uint32_t kTwo = UserSignal(2);

// One endpoint and the broker's side of it.
struct Party {
  explicit Party(HandleRights rights = HandleRights()) {
    endpoint.emplace(AttachTo(&broker, buffer.Give(rights)).value());
  }

  void Raise(uint32_t set, uint32_t clear = 0) {
    buffer.signal().ChangeUserSignals(EndpointId::kEp0, clear, set);
  }

  FakeBroker broker;
  TestBuffer buffer;
  uint32_t ring = buffer.AddRing(16 << 10, 0x8b);
  uint32_t raw = buffer.AddRaw(shm::PageBytes(), 0x13);
  std::optional<Endpoint> endpoint;
};

v1::BrokerPacket SignaledPacket(uint32_t signals) {
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_signaled()->set_signals(signals);
  return packet;
}

TEST(Signals, AreSeenInMemory) {
  Party party;
  EXPECT_EQ(party.endpoint->signals(), 0u);
  party.Raise(kOne | kTwo);
  EXPECT_EQ(party.endpoint->signals(), kOne | kTwo);
  party.Raise(0, kOne);
  EXPECT_EQ(party.endpoint->signals(), kTwo);
  party.buffer.signal().RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kClosed});
  EXPECT_EQ(party.endpoint->signals(), kTwo | kSignalPeerClosed);
  EXPECT_TRUE(party.endpoint->peer_closed());
  // The peer's own are none of ours.
  party.buffer.signal().ChangeUserSignals(EndpointId::kEp1, 0, kOne);
  EXPECT_EQ(party.endpoint->signals(), kTwo | kSignalPeerClosed);
  party.endpoint->Close();
  party.Raise(0, kTwo);
  EXPECT_EQ(party.endpoint->signals(), kTwo | kSignalPeerClosed);
}

TEST(Signals, AreThereBeforeAnyWait) {
  Party party;
  party.Raise(kOne | kTwo);
  ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, party.endpoint->WaitSignals(kTwo, Deadline()));
  EXPECT_FALSE(seen.timed_out);
  EXPECT_EQ(seen.signals, kOne | kTwo);
}

TEST(Signals, AreWaitedForNoLongerThanTheDeadline) {
  Party party;
  party.Raise(kOne);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, party.endpoint->WaitSignals(kTwo, After(30ms)));
  EXPECT_GE(std::chrono::steady_clock::now() - start, 30ms);
  EXPECT_TRUE(seen.timed_out);
  EXPECT_EQ(seen.signals, kOne);
  ASSERT_OK_AND_ASSIGN(const ObservedSignals past, party.endpoint->WaitSignals(kTwo, Deadline()));
  EXPECT_TRUE(past.timed_out);
  // Nothing that could end them but time; together they take less than a slice of sleep each.
  for (int i = 0; i < 40; ++i) {
    ASSERT_OK_AND_ASSIGN(const ObservedSignals none, party.endpoint->WaitSignals(0, After(1ms)));
    EXPECT_TRUE(none.timed_out);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST(Signals, WakeTheirWaiter) {
  Party party;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) {
    std::thread broker([&] {
      party.Raise(kOne);  // Not what it waits for.
      party.Raise(kTwo, kOne);
    });
    ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, party.endpoint->WaitSignals(kTwo, After(30s)));
    broker.join();
    EXPECT_FALSE(seen.timed_out);
    EXPECT_EQ(seen.signals, kTwo);
    party.Raise(0, kTwo);
  }
  // A missed wake costs half a second.
  EXPECT_LT(std::chrono::steady_clock::now() - start, 20s);
}

TEST(Signals, WakeForAClosedPeer) {
  Party party;
  std::thread broker([&] {
    party.buffer.signal().RaisePeerClosed(EndpointId::kEp0,
                                          {.kind = CloseKind::kKilled, .code = 9});
  });
  ASSERT_OK_AND_ASSIGN(const ObservedSignals seen,
                       party.endpoint->WaitSignals(kSignalPeerClosed, After(30s)));
  broker.join();
  EXPECT_EQ(seen.signals, kSignalPeerClosed);
}

TEST(Signals, ThatWereRaisedAreToldAfterTheBrokerDied) {
  Party party;
  party.Raise(kOne);
  party.broker.peer()->Close();
  ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, party.endpoint->WaitSignals(kOne, After(5s)));
  EXPECT_EQ(seen.signals, kOne);
  const absl::Status lost = party.endpoint->WaitSignals(kTwo, After(5s)).status();
  EXPECT_EQ(ReasonOf(lost), kReasonDisconnected);
}

TEST(Signals, OfABrokerThatDiesWhileOneWaitsAreNotWaitedForLong) {
  Party party;
  const auto start = std::chrono::steady_clock::now();
  std::thread broker([&] { party.broker.peer()->Close(); });
  const absl::Status lost = party.endpoint->WaitSignals(kTwo, After(30s)).status();
  broker.join();
  EXPECT_EQ(ReasonOf(lost), kReasonDisconnected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST(Signals, OfAClosedEndpointAreNotWaitedFor) {
  Party party;
  party.Raise(kOne);
  party.endpoint->Close();
  EXPECT_EQ(ReasonOf(party.endpoint->WaitSignals(kOne, After(5s)).status()), kReasonDetached);
}

TEST(Signals, AreOneUnreadEventAtMost) {
  Party party;
  v1::BrokerPacket readable;
  readable.mutable_event()->mutable_readable()->set_region_index(0);
  for (uint32_t i = 1; i <= 100; ++i) SendPacket(party.broker.peer(), SignaledPacket(i << 24));
  SendPacket(party.broker.peer(), readable);
  SendPacket(party.broker.peer(), SignaledPacket(kTwo));
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> first, party.endpoint->WaitEvent(After(5s)));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->kind, Event::Kind::kReadable);
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> second, party.endpoint->PollEvents());
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->kind, Event::Kind::kSignaled);
  EXPECT_EQ(second->signals, kTwo);
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> none, party.endpoint->PollEvents());
  EXPECT_FALSE(none.has_value());
}

class ManyTest : public ::testing::Test {
 protected:
  ManyTest() {
    for (auto& party : parties_) party = std::make_unique<Party>();
    for (size_t i = 0; i < parties_.size(); ++i) {
      items_[i] = {.endpoint = &*parties_[i]->endpoint, .signals = kOne, .observed = 0xdead};
    }
  }
  std::array<std::unique_ptr<Party>, Endpoint::kWaitItemsMax> parties_;
  std::array<WaitItem, Endpoint::kWaitItemsMax> items_;
};

TEST_F(ManyTest, FillsWhatEachItemShows) {
  parties_[2]->Raise(kTwo);
  parties_[5]->Raise(kOne | kTwo);
  parties_[7]->Raise(kOne);
  ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(items_, Deadline()));
  EXPECT_EQ(satisfied, 2u);
  const std::vector<uint32_t> expected = {0, 0, kTwo, 0, 0, kOne | kTwo, 0, kOne};
  for (size_t i = 0; i < items_.size(); ++i) EXPECT_EQ(items_[i].observed, expected[i]) << i;
}

TEST_F(ManyTest, FillsItWhenTheDeadlinePasses) {
  parties_[2]->Raise(kTwo);
  ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(items_, After(20ms)));
  EXPECT_EQ(satisfied, 0u);
  EXPECT_EQ(items_[2].observed, kTwo);
  EXPECT_EQ(items_[0].observed, 0u);
}

TEST_F(ManyTest, WakesForAnyOfThem) {
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < 10 * parties_.size(); ++i) {
    Party& party = *parties_[i % parties_.size()];
    std::thread broker([&] { party.Raise(kOne); });
    ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(items_, After(30s)));
    broker.join();
    EXPECT_EQ(satisfied, 1u);
    EXPECT_EQ(items_[i % parties_.size()].observed, kOne);
    party.Raise(0, kOne);
  }
  // A missed wake costs half a second.
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST_F(ManyTest, TakesOneEndpointTwice) {
  WaitItem twice[] = {{.endpoint = &*parties_[0]->endpoint, .signals = kOne},
                      {.endpoint = &*parties_[0]->endpoint, .signals = kTwo}};
  parties_[0]->Raise(kTwo);
  ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(twice, After(5s)));
  EXPECT_EQ(satisfied, 1u);
  EXPECT_EQ(twice[0].observed, kTwo);
}

TEST_F(ManyTest, SaysWhichItemFailed) {
  parties_[1]->Raise(kTwo);
  parties_[4]->broker.peer()->Close();
  const absl::Status lost = Endpoint::WaitMany(items_, After(5s)).status();
  EXPECT_THAT(lost, StatusIs(StatusCode::kUnavailable, "item 4"));
  EXPECT_EQ(ReasonOf(lost), kReasonDisconnected);
  EXPECT_EQ(items_[1].observed, kTwo);
  // Not while there is something to tell.
  parties_[1]->Raise(kOne);
  ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(items_, After(5s)));
  EXPECT_EQ(satisfied, 1u);
}

TEST_F(ManyTest, RefusesWhatCannotBeWaitedFor) {
  EXPECT_EQ(ReasonOf(Endpoint::WaitMany({}, After(5s)).status()), "INVALID_ARGUMENT");
  std::array<WaitItem, Endpoint::kWaitItemsMax + 1> nine;
  nine.fill(items_[0]);
  EXPECT_THAT(Endpoint::WaitMany(nine, After(5s)), StatusIs(StatusCode::kOutOfRange, "9"));
  items_[3].endpoint = nullptr;
  EXPECT_THAT(Endpoint::WaitMany(items_, After(5s)),
              StatusIs(StatusCode::kInvalidArgument, "item 3"));
  items_[3] = items_[0];
  parties_[6]->endpoint->Close();
  const absl::Status closed = Endpoint::WaitMany(items_, After(5s)).status();
  EXPECT_THAT(closed, StatusIs(StatusCode::kFailedPrecondition, "item 6"));
  EXPECT_EQ(ReasonOf(closed), kReasonDetached);
}

class WithoutWaitTest : public ::testing::Test {
 protected:
  Party party_{RightsWithout(HandleRights::kWait)};
};

TEST_F(WithoutWaitTest, NoSignalIsSeen) {
  party_.Raise(kOne);
  party_.buffer.signal().RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kClosed});
  EXPECT_EQ(party_.endpoint->info().rights, RightsWithout(HandleRights::kWait));
  EXPECT_EQ(party_.endpoint->signals(), 0u);
  EXPECT_FALSE(party_.endpoint->peer_closed());
  EXPECT_EQ(party_.endpoint->close_reason().kind, CloseKind::kOpen);
  const absl::Status denied = party_.endpoint->WaitSignals(kOne, After(5s)).status();
  EXPECT_THAT(denied, StatusIs(StatusCode::kPermissionDenied, "WAIT"));
  EXPECT_EQ(ReasonOf(denied), "ACCESS_DENIED");
  WaitItem item{.endpoint = &*party_.endpoint, .signals = kOne};
  EXPECT_EQ(ReasonOf(Endpoint::WaitMany({&item, 1}, After(5s)).status()), "ACCESS_DENIED");
  party_.endpoint->Close();
  EXPECT_FALSE(party_.endpoint->peer_closed());
}

TEST_F(WithoutWaitTest, AnItemOfManyIsDenied) {
  Party other;
  WaitItem items[] = {{.endpoint = &*other.endpoint, .signals = kOne},
                      {.endpoint = &*party_.endpoint, .signals = kOne}};
  EXPECT_THAT(Endpoint::WaitMany(items, After(5s)),
              StatusIs(StatusCode::kPermissionDenied, "item 1"));
}

TEST_F(WithoutWaitTest, MemoryAndRecordsAreThere) {
  EXPECT_THAT(party_.endpoint->Map(party_.raw), IsOk());
  RingReader reader = party_.endpoint->OpenReader(party_.ring).value();
  CountingWriter& ring = party_.buffer.ring(party_.ring);
  for (int i = 0; i < 20; ++i) {
    std::thread writer([&] {
      EXPECT_EQ(ring.Append(1, std::string("r")), shm::AppendOutcome::kStored);
      ring.Publish();
    });
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(30s)));
    writer.join();
    EXPECT_EQ(outcome, WaitOutcome::kRecords);
    Record record;
    EXPECT_TRUE(reader.TryRead(&record).value());
  }
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(30ms)));
  EXPECT_EQ(outcome, WaitOutcome::kDeadline);
}

TEST_F(WithoutWaitTest, AReaderIsNotToldOfItsPeerButOfItsBroker) {
  RingReader reader = party_.endpoint->OpenReader(party_.ring).value();
  party_.buffer.signal().RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kClosed});
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(30ms)));
  EXPECT_EQ(outcome, WaitOutcome::kDeadline);
  // No packet would come: it is never right to sleep on the socket.
  EXPECT_FALSE(reader.ArmFd());
  const auto start = std::chrono::steady_clock::now();
  std::thread broker([&] { party_.broker.peer()->Close(); });
  EXPECT_EQ(ReasonOf(reader.Wait(After(30s)).status()), kReasonDisconnected);
  broker.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(WithoutWaitTest, WritesAndEventsWork) {
  RingWriter writer = party_.endpoint->OpenWriter(party_.ring).value();
  ASSERT_THAT(writer.Write(BytesOf("r")), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  EXPECT_TRUE(ReceivePacket(party_.broker.peer())->has_write());
  v1::BrokerPacket answer;
  answer.mutable_write_result()->set_stored(1);
  SendPacket(party_.broker.peer(), answer);
  EXPECT_THAT(writer.Finish(After(5s)), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> none, party_.endpoint->WaitEvent(After(1ms)));
  EXPECT_FALSE(none.has_value());
}

}  // namespace
}  // namespace iob::test
