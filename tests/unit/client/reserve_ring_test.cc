// Reserve rings through libiob, against a real daemon: what is written in place arrives once and in
// order, producers may be killed or stopped at the worst moment, and the ledger adds up afterwards.
// Most tests run for lanes and for the shared ring.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "client/reserve_ring_reader.h"
#include "client/reserve_ring_writer.h"
#include "tests/unit/client/reserve_rings.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class BothModes : public ReserveRing, public ::testing::WithParamInterface<ReserveMode> {
 protected:
  void MakeRing(uint32_t producers = 1, uint64_t size_bytes = kRingBytes) {
    ReserveRingOptions options{.mode = GetParam()};
    if (lanes()) options.lanes = producers;
    ReserveRing::MakeRing(options, size_bytes);
  }
  bool lanes() const { return GetParam() == ReserveMode::kLanes; }
};
INSTANTIATE_TEST_SUITE_P(Modes, BothModes,
                         ::testing::Values(ReserveMode::kLanes, ReserveMode::kShared),
                         [](const auto& mode) { return ToString(mode.param); });

TEST_P(BothModes, DeliversWhatWasSubmittedInOrderAndNothingElse) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
  EXPECT_EQ(writer.mode(), GetParam());
  EXPECT_EQ(reader_->mode(), GetParam());

  Put(writer, "one");
  ASSERT_OK_AND_ASSIGN(const Reservation two, writer.Reserve(3));
  ASSERT_OK_AND_ASSIGN(const Reservation dropped, writer.Reserve(50));
  Put(writer, "four");
  EXPECT_THAT(Drain(), ElementsAre("one"));  // The rest waits for what is open before it.
  std::memcpy(two.bytes().data(), "two", 3);
  EXPECT_THAT(writer.Submit(two), IsOk());
  EXPECT_THAT(Drain(), ElementsAre("two"));
  EXPECT_THAT(writer.Discard(dropped), IsOk());
  Put(writer, "");
  EXPECT_THAT(Drain(), ElementsAre("four", ""));

  ReserveRecord record;
  EXPECT_THAT(writer.Write(AsBytes("six")), IsOk());
  ASSERT_OK_AND_ASSIGN(const bool read, reader_->TryRead(&record));
  EXPECT_TRUE(read);
  EXPECT_EQ(AsText(record.payload), "six");
  EXPECT_EQ(record.lane_or_owner, writer.seat());
  ASSERT_OK_AND_ASSIGN(const bool more, reader_->TryRead(&record));
  EXPECT_FALSE(more);

  const ReserveWriterStats stats = writer.stats();
  EXPECT_EQ(stats.stored_records, 5u);
  EXPECT_EQ(stats.stored_bytes, 13u);
  EXPECT_EQ(stats.discarded_records, 1u);
  const RingStats ring = Stats();
  EXPECT_EQ(ring.stored_records, 5u);
  EXPECT_EQ(ring.consumed_records, 5u);
}

TEST_P(BothModes, TellsAFullRingFromARecordThatNeverFits) {
  ASSERT_NO_FATAL_FAILURE(MakeRing(1, 4096));
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
  const auto too_large = writer.Reserve(writer.payload_bytes_max() + 1);
  EXPECT_THAT(too_large, StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(writer.WaitForRoom(writer.payload_bytes_max() + 1, Deadline()),
              StatusIs(StatusCode::kInvalidArgument));

  const std::string half(2000, 'h');
  Put(writer, half);
  Put(writer, half);
  const auto full = writer.Reserve(2000);
  EXPECT_THAT(full, StatusIs(StatusCode::kResourceExhausted));
  EXPECT_EQ(iob::ReasonOf(full.status()), "RING_FULL");
  EXPECT_EQ(writer.SizeBytes(), 4096u);
  EXPECT_GE(writer.AvailableDataBytes(), 4000u);
  ASSERT_OK_AND_ASSIGN(const bool room_yet, writer.WaitForRoom(2000, After(20ms)));
  EXPECT_FALSE(room_yet);

  EXPECT_THAT(Drain(), ElementsAre(half, half));
  ASSERT_OK_AND_ASSIGN(const bool room_now, writer.WaitForRoom(2000, Deadline()));
  EXPECT_TRUE(room_now);
  EXPECT_EQ(writer.ConsumerPosition(), writer.ProducerPosition());
  EXPECT_EQ(writer.AvailableDataBytes(), 0u);

  Put(writer, half);
  Put(writer, half);
  reader_.reset();
  consumer_.reset();
  const auto closed = writer.WaitForRoom(2000, After(kPatience));
  EXPECT_THAT(closed, StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_EQ(iob::ReasonOf(closed.status()), "PEER_CLOSED");
  const ReserveWriterStats stats = writer.stats();
  EXPECT_EQ(stats.stored_records, 4u);
  EXPECT_EQ(stats.rejected_records[static_cast<size_t>(LossCause::kFull)], 1u);
  EXPECT_EQ(stats.rejected_records[static_cast<size_t>(LossCause::kTooLarge)], 1u);
}

TEST_P(BothModes, ShowsABatchAtItsPublication) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Endpoint producer = AttachProducer().value();
  {
    ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
    std::vector<Reservation> rooms;
    for (int i = 0; i < 3; ++i) {
      rooms.push_back(writer.Reserve(1).value());
      rooms.back().bytes()[0] = std::byte{'a'};
    }
    EXPECT_THAT(writer.SubmitDeferred(rooms[0]), IsOk());
    EXPECT_THAT(writer.DiscardDeferred(rooms[1]), IsOk());
    EXPECT_THAT(writer.SubmitDeferred(rooms[2]), IsOk());
    const size_t early = Drain().size();
    EXPECT_EQ(early, lanes() ? 0u : 1u);
    EXPECT_THAT(writer.Publish(), IsOk());
    EXPECT_EQ(early + Drain().size(), 2u);

    // What comes behind a deferred record shows it too; and so does the writer's end.
    EXPECT_THAT(writer.SubmitDeferred(writer.Reserve(1).value()), IsOk());
    Put(writer, "z");
    EXPECT_EQ(Drain().size(), 2u);
    EXPECT_THAT(writer.SubmitDeferred(writer.Reserve(1).value()), IsOk());
    EXPECT_THAT(Drain(), IsEmpty());
  }
  EXPECT_EQ(Drain().size(), 1u);

  // The next writer of the attachment goes on behind it.
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter again, producer.OpenReserveWriter(0));
  Put(again, "again");
  EXPECT_THAT(Drain(), ElementsAre("again"));
  EXPECT_EQ(again.stats().stored_records, 1u);
}

// Rings so small that everybody has to wait for everybody.
TEST_P(BothModes, BringsEveryRecordOfManyProcesses) {
  constexpr uint32_t kProducers = 3;
  constexpr int kRecords = 2'000;
  ASSERT_NO_FATAL_FAILURE(MakeRing(kProducers));
  std::vector<std::unique_ptr<Producer>> children;
  for (uint32_t i = 0; i < kProducers; ++i) {
    const Ticket ticket = ProducerTicket();
    children.push_back(std::make_unique<Producer>([&ticket, i] {
      Endpoint endpoint = Endpoint::Attach(ticket).value();
      ReserveRingWriter writer = endpoint.OpenReserveWriter(0).value();
      for (int n = 0; n < kRecords; ++n) {
        const std::string text = std::to_string(i) + ":" + std::to_string(n) +
                                 std::string(static_cast<size_t>(n % 500), '.');
        Reservation room;
        while (writer.TryReserve(text.size(), &room) != ReserveOutcome::kReserved) {
          ASSERT_TRUE(writer.WaitForRoom(text.size(), After(kPatience)).value());
        }
        std::memcpy(room.bytes().data(), text.data(), text.size());
        ASSERT_THAT(writer.Submit(room), IsOk());
      }
    }));
  }
  DropProducers();
  std::map<char, int> next;
  while (true) {
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(kPatience)));
    ASSERT_NE(outcome, WaitOutcome::kDeadline);
    if (outcome == WaitOutcome::kPeerClosed) break;
    for (const std::string& text : Drain()) {
      const int number = std::stoi(text.substr(2));
      ASSERT_EQ(number, next[text[0]]++) << text;
      ASSERT_EQ(text, text.substr(0, 2) + std::to_string(number) +
                          std::string(static_cast<size_t>(number % 500), '.'));
    }
  }
  for (const auto& child : children) EXPECT_EQ(child->Join(), 0);
  EXPECT_THAT(next, ElementsAre(std::pair('0', kRecords), std::pair('1', kRecords),
                                std::pair('2', kRecords)));
  const RingStats stats = Stats();
  EXPECT_EQ(stats.stored_records, kProducers * kRecords);
  EXPECT_EQ(stats.consumed_records, kProducers * kRecords);
}

TEST_P(BothModes, LosesNothingThatAKilledProducerSubmitted) {
  ASSERT_NO_FATAL_FAILURE(MakeRing(2));
  Endpoint other_end = AttachProducer().value();
  std::optional<ReserveRingWriter> other = other_end.OpenReserveWriter(0).value();
  Turn reserved;
  const Ticket ticket = ProducerTicket();
  Producer child([&] { DieInTheMiddle(ticket, {"a", "b", "c"}, &reserved); });
  ASSERT_TRUE(reserved.Take());
  // Behind the open record, if all have one order.
  Put(*other, "other");
  child.Kill();
  EXPECT_EQ(child.Join(), 128 + SIGKILL);

  std::vector<std::string> texts = Await(4);
  std::sort(texts.begin(), texts.end());
  EXPECT_THAT(texts, ElementsAre("a", "b", "c", "other"));

  // The place is free again, and goes on where it was.
  Endpoint next_end = AttachInTime(ProducerTicket());
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter next, next_end.OpenReserveWriter(0));
  EXPECT_NE(next.seat(), other->seat());
  Put(next, "next");
  EXPECT_THAT(Await(1), ElementsAre("next"));
  EXPECT_EQ(next.stats().stored_records, 1u);

  const RingStats stats = Stats();
  EXPECT_EQ(stats.stored_records, 5u);
  EXPECT_EQ(stats.consumed_records, 5u);
  EXPECT_EQ(stats.resident_records, 0u);
}

TEST_P(BothModes, IsToldOfTheEndAfterTheLastRecord) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Turn reserved;
  const Ticket ticket = ProducerTicket();
  Producer child([&] { DieInTheMiddle(ticket, {"last"}, &reserved); });
  DropProducers();
  ASSERT_TRUE(reserved.Take());
  child.Kill();
  ASSERT_TRUE(Eventually([&] { return consumer_->peer_closed(); }));
  EXPECT_THAT(Await(1), ElementsAre("last"));
  ExpectPeerClosed({.kind = CloseKind::kKilled, .code = SIGKILL});
}

TEST_P(BothModes, SendsAPacketToAConsumerThatPolls) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Turn go;
  const Ticket ticket = ProducerTicket();
  Producer child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    ReserveRingWriter writer = endpoint.OpenReserveWriter(0).value();
    ASSERT_TRUE(go.Take());
    Put(writer, "polled");
    while (true) ::pause();
  });
  ASSERT_TRUE(reader_->ArmFd());
  EXPECT_FALSE(ReadableBy(reader_->fd(), 0ms));
  go.Give();
  ASSERT_TRUE(ReadableBy(reader_->fd(), kPatience));
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> event, consumer_->PollEvents());
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->kind, Event::Kind::kReadable);
  EXPECT_FALSE(reader_->ArmFd());
  EXPECT_THAT(Drain(), ElementsAre("polled"));
  EXPECT_TRUE(reader_->ArmFd());
}

TEST_P(BothModes, GoesOnWhereTheLastConsumerReleased) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
  Put(writer, "released");
  EXPECT_THAT(Drain(), ElementsAre("released"));
  Put(writer, "seen");
  SharedRecord record;
  EXPECT_EQ(reader_->Next(&record), ReadOutcome::kRecord);
  EXPECT_THAT(consumer_->OpenReserveReader(0), StatusIs(StatusCode::kFailedPrecondition));
  reader_.reset();
  reader_.emplace(consumer_->OpenReserveReader(0).value());
  EXPECT_THAT(Drain(), ElementsAre("seen"));
}

TEST_P(BothModes, KeepsEverybodyToHisRole) {
  ASSERT_NO_FATAL_FAILURE(MakeRing());
  Endpoint producer = AttachProducer().value();
  const auto reason = [](const auto& result) { return iob::ReasonOf(result.status()); };
  EXPECT_EQ(reason(producer.OpenReserveReader(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenReserveWriter(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenReader(0)), "WRONG_DISCIPLINE");
  EXPECT_EQ(reason(consumer_->OpenSlotReader(0)), "WRONG_DISCIPLINE");
  EXPECT_EQ(reason(consumer_->OpenReserveReader(1)), "OUT_OF_RANGE");
  EXPECT_EQ(reason(consumer_->OpenReserveReader(0)), "IN_USE");
  EXPECT_THAT(producer.Map(0, 0, 4096, Prot::kRead), StatusIs(StatusCode::kUnimplemented));
  ASSERT_OK_AND_ASSIGN(const ReserveRingWriter writer, producer.OpenReserveWriter(0));
  EXPECT_EQ(reason(producer.OpenReserveWriter(0)), "IN_USE");
}

TEST_F(ReserveRing, HasNoLaneForOneProducerTooMany) {
  ASSERT_NO_FATAL_FAILURE(MakeRing({.mode = ReserveMode::kLanes, .lanes = 2}));
  std::optional<Endpoint> one = AttachProducer().value();
  const Endpoint two = AttachProducer().value();
  const Ticket ticket = ProducerTicket();
  const auto three = Endpoint::Attach(ticket);
  EXPECT_THAT(three, StatusIs(StatusCode::kResourceExhausted, "lanes"));
  EXPECT_EQ(iob::ReasonOf(three.status()), "QUOTA");
  one.reset();
  AttachInTime(ticket);
}

TEST_F(ReserveRing, OrdersLanesByTime) {
  ASSERT_NO_FATAL_FAILURE(MakeRing({.mode = ReserveMode::kLanes, .lanes = 2, .stamped = true}));
  reader_.reset();
  reader_.emplace(
      consumer_->OpenReserveReader(0, {.order = LaneOrder::kByStamp, .hold_back = 50ms}).value());
  Endpoint end_a = AttachProducer().value();
  Endpoint end_b = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter a, end_a.OpenReserveWriter(0));
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter b, end_b.OpenReserveWriter(0));
  Put(b, "1");
  Put(a, "2");
  Put(a, "3");
  Put(b, "4");
  // 4 is alone: the other lane may still show something older.
  EXPECT_THAT(Drain(), ElementsAre("1", "2", "3"));
  const Deadline began = std::chrono::steady_clock::now();
  EXPECT_THAT(Await(1), ElementsAre("4"));
  EXPECT_LT(std::chrono::steady_clock::now() - began, kPatience);
  EXPECT_THAT(reader_->Wait(After(1ms)), IsOk());
}

TEST_F(ReserveRing, HasNoOrderByTimeWithoutStamps) {
  ASSERT_NO_FATAL_FAILURE(MakeRing({.mode = ReserveMode::kLanes}));
  reader_.reset();
  EXPECT_THAT(consumer_->OpenReserveReader(0, {.order = LaneOrder::kByStamp}),
              StatusIs(StatusCode::kInvalidArgument));
}

TEST_F(ReserveRing, WaitsForAnyLaneAfterReadingPartOfAnother) {
  ASSERT_NO_FATAL_FAILURE(MakeRing({.mode = ReserveMode::kLanes, .lanes = 2, .stamped = true}));
  reader_.reset();
  reader_.emplace(consumer_->OpenReserveReader(0, {.order = LaneOrder::kByStamp}).value());
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
  Endpoint other_end = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter other, other_end.OpenReserveWriter(0));
  Put(writer, "1");
  Put(other, "2");
  ReserveRecord record;
  EXPECT_TRUE(reader_->TryRead(&record).value());
  // The merge has seen the second one already; no lane has news.
  ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader_->Wait(After(kPatience)));
  EXPECT_EQ(outcome, WaitOutcome::kRecords);
  EXPECT_FALSE(reader_->ArmFd());
  EXPECT_TRUE(reader_->TryRead(&record).value());
  ASSERT_OK_AND_ASSIGN(const WaitOutcome none, reader_->Wait(Deadline()));
  EXPECT_EQ(none, WaitOutcome::kDeadline);
}

TEST_F(ReserveRing, ConsumerThatClearsGivesRoomBackInTime) {
  ASSERT_NO_FATAL_FAILURE(MakeRing({.mode = ReserveMode::kLanes, .consumer_clears = true}, 4096));
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter writer, producer.OpenReserveWriter(0));
  for (int i = 0; i < 100; ++i) {
    const std::string text(500 + static_cast<size_t>(i), 'c');
    ASSERT_OK_AND_ASSIGN(const bool room, writer.WaitForRoom(text.size(), After(kPatience)));
    ASSERT_TRUE(room);
    Put(writer, text);
    ASSERT_THAT(Drain(), ElementsAre(text));
    ASSERT_OK_AND_ASSIGN(const WaitOutcome none, reader_->Wait(Deadline()));
    ASSERT_EQ(none, WaitOutcome::kDeadline);
  }
}

TEST_F(StalledRing, IsToldOfAndGoesOnWhenItsProducerDoes) {
  ASSERT_NO_FATAL_FAILURE(MakeShared(StallPolicy::kWait, 50ms));
  Turn reserved;
  Turn go;
  const Ticket ticket = ProducerTicket();
  Producer child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    ReserveRingWriter writer = endpoint.OpenReserveWriter(0).value();
    const Reservation room = writer.Reserve(4).value();
    reserved.Give();
    ASSERT_TRUE(go.Take());
    std::memcpy(room.bytes().data(), "slow", 4);
    ASSERT_THAT(writer.Submit(room), IsOk());
  });
  ASSERT_TRUE(reserved.Take());
  ASSERT_EQ(::kill(child.pid(), SIGSTOP), 0);
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_->Watch());
  ASSERT_OK_AND_ASSIGN(const std::optional<WatchedEvent> started, watch.Next(After(kPatience)));
  const auto event = WaitUntilTold(watch);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->holder.pid, child.pid());
  EXPECT_EQ(event->region_index, 0u);
  EXPECT_FALSE(event->killed);
  go.Give();
  ASSERT_EQ(::kill(child.pid(), SIGCONT), 0);
  EXPECT_THAT(Await(1), ElementsAre("slow"));
  EXPECT_FALSE(reader_->stalled().has_value());
  EXPECT_EQ(child.Join(), 0);
}

TEST_F(StalledRing, GetsRidOfItsProducerWhenItsPolicySaysSo) {
  ASSERT_NO_FATAL_FAILURE(MakeShared(StallPolicy::kKill, 50ms));
  Endpoint other_end = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(ReserveRingWriter other, other_end.OpenReserveWriter(0));
  Turn reserved;
  const Ticket ticket = ProducerTicket();
  Producer child([&] { DieInTheMiddle(ticket, {}, &reserved); });
  ASSERT_TRUE(reserved.Take());
  ASSERT_EQ(::kill(child.pid(), SIGSTOP), 0);
  Put(other, "behind it");
  ASSERT_THAT(Await(1), ElementsAre("behind it"));
  EXPECT_EQ(child.Join(), 128 + SIGKILL);
}

}  // namespace
}  // namespace iob::test
