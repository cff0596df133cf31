// A lane with both sides in one process: records of every length at every offset, reservations
// finished in any order, full and empty rings, wishes to be woken, successors of either side.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_layout.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_lane.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Drain;
using ::iob::test::Fill;
using ::iob::test::Lane;
using ::iob::test::PatternText;
using ::iob::test::Produce;
using ::iob::test::StatusIs;
using ::iob::test::TextOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

LaneReservation MustReserve(LaneProducer& producer, const std::string& text) {
  LaneReservation reservation;
  IOB_CHECK(producer.Reserve(text.size(), &reservation) == LaneReserveOutcome::kReserved);
  Fill(reservation, text);
  return reservation;
}

TEST(LaneLayout, TakesWholePagesUpToTwoGiB) {
  EXPECT_THAT(LaneLayout::ForCapacity(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(LaneLayout::ForCapacity(PageBytes() + 8),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(LaneLayout::ForCapacity(LaneLayout::kCapacityBytesMax + PageBytes()),
              StatusIs(absl::StatusCode::kOutOfRange));
  ASSERT_OK_AND_ASSIGN(const LaneLayout small, LaneLayout::ForCapacity(3 * PageBytes()));
  EXPECT_EQ(small.payload_bytes_max(), 3 * PageBytes() - 16);
  EXPECT_EQ(small.lane_section_bytes(), 4 * PageBytes());
  ASSERT_OK_AND_ASSIGN(const LaneLayout large,
                       LaneLayout::ForCapacity(LaneLayout::kCapacityBytesMax));
  EXPECT_EQ(large.payload_bytes_max(), (uint64_t{1} << 30) - 1);
}

TEST(LaneLayout, RefusesSectionsOfAnotherSize) {
  Lane lane(PageBytes());
  const Lane other(2 * PageBytes());
  EXPECT_THAT(
      LaneProducer::Map(other.layout(), lane.sections().lane, lane.sections().control, {}, {}),
      StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(LaneConsumer::Map(other.layout(), lane.sections().lane, lane.sections().control, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(ReadLaneAccount(other.layout(), lane.sections().lane),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(Lane, GivesRecordsInOrderWithTheirNumbers) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer(/*clears=*/false, /*lane=*/7);
  EXPECT_EQ(Produce(producer, "one"), LaneReserveOutcome::kReserved);
  EXPECT_EQ(Produce(producer, ""), LaneReserveOutcome::kReserved);
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  EXPECT_EQ(TextOf(record), "one");
  EXPECT_EQ(record.sequence, 0u);
  EXPECT_EQ(record.stamp_ns, 0u);
  EXPECT_EQ(record.lane_or_owner, 7u);
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  EXPECT_EQ(TextOf(record), "");
  EXPECT_EQ(record.sequence, 1u);
  EXPECT_EQ(consumer.Next(&record), LaneReadOutcome::kEmpty);
}

TEST(Lane, StampsRecordsWhenReserved) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer({}, /*stamps=*/true);
  LaneConsumer consumer = lane.Consumer();
  const auto before_ns = static_cast<uint64_t>(MonotonicNs());
  const LaneReservation first = MustReserve(producer, "a");
  const LaneReservation second = MustReserve(producer, "b");
  const auto after_ns = static_cast<uint64_t>(MonotonicNs());
  producer.Submit(second);
  producer.Submit(first);
  SharedRecord record;
  uint64_t last_ns = before_ns;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
    EXPECT_LE(last_ns, record.stamp_ns);
    EXPECT_LE(record.stamp_ns, after_ns);
    last_ns = record.stamp_ns;
  }
}

TEST(Lane, PeeksWithoutTaking) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  Produce(producer, "x");
  SharedRecord record;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(consumer.Peek(&record), LaneReadOutcome::kRecord);
    EXPECT_EQ(TextOf(record), "x");
  }
  consumer.Release();
  EXPECT_EQ(lane.head(), 0u);
  consumer.Take();
  consumer.Release();
  EXPECT_EQ(lane.head(), 24u);
  EXPECT_EQ(consumer.Peek(&record), LaneReadOutcome::kEmpty);
}

class LaneSizes : public ::testing::TestWithParam<std::pair<uint64_t, bool>> {};
INSTANTIATE_TEST_SUITE_P(PagesAndClearing, LaneSizes,
                         ::testing::Values(std::pair(1, false), std::pair(1, true),
                                           std::pair(3, false), std::pair(7, true)));

TEST_P(LaneSizes, WrapsAtEveryOffsetAndLength) {
  Lane lane(GetParam().first * PageBytes());
  for (const uint64_t payload_bytes : {uint64_t{0}, uint64_t{1}, uint64_t{8}, uint64_t{100}}) {
    for (uint64_t shift = 8; shift <= RecordBytes(payload_bytes) + 8; shift += 8) {
      const LaneCheckpoint start = lane.StartAt(20 * lane.capacity() - shift);
      LaneProducer producer = lane.Producer(start);
      LaneConsumer consumer = lane.Consumer(GetParam().second);
      const std::string wrapping = PatternText(shift, payload_bytes);
      const std::string next = PatternText(shift + 1, 64);
      Produce(producer, wrapping);
      Produce(producer, next);
      ASSERT_THAT(Drain(consumer), ElementsAre(wrapping, next)) << shift;
    }
  }
}

TEST_P(LaneSizes, TakesARecordThatFillsTheRing) {
  Lane lane(GetParam().first * PageBytes());
  const LaneCheckpoint start = lane.StartAt(lane.capacity() + 40);
  LaneProducer producer = lane.Producer(start);
  LaneConsumer consumer = lane.Consumer(GetParam().second);
  for (uint64_t round = 0; round < 5; ++round) {
    const std::string whole = PatternText(round, lane.layout().payload_bytes_max());
    ASSERT_EQ(Produce(producer, whole), LaneReserveOutcome::kReserved);
    EXPECT_EQ(Produce(producer, ""), LaneReserveOutcome::kFull);
    ASSERT_THAT(Drain(consumer), ElementsAre(whole));
  }
  LaneReservation none;
  EXPECT_EQ(producer.Reserve(lane.layout().payload_bytes_max() + 1, &none),
            LaneReserveOutcome::kTooLarge);
  EXPECT_EQ(producer.Reserve(UINT64_MAX, &none), LaneReserveOutcome::kTooLarge);
  EXPECT_EQ(producer.rejected().rejected_records[static_cast<size_t>(LossCause::kFull)], 5u);
  EXPECT_EQ(producer.rejected().rejected_records[static_cast<size_t>(LossCause::kTooLarge)], 2u);
}

TEST(Lane, ReusesRoomOnlyAfterRelease) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const std::string half(PageBytes() / 2 - 16, 'h');
  ASSERT_EQ(Produce(producer, half), LaneReserveOutcome::kReserved);
  ASSERT_EQ(Produce(producer, half), LaneReserveOutcome::kReserved);
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  EXPECT_EQ(Produce(producer, ""), LaneReserveOutcome::kFull);
  consumer.Release();
  EXPECT_EQ(Produce(producer, half), LaneReserveOutcome::kReserved);
}

// ---- Reservations -----------------------------------------------------------------------------

TEST(Lane, ShowsNothingBeyondTheOldestOpenReservation) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const LaneReservation a = MustReserve(producer, "a");
  const LaneReservation b = MustReserve(producer, "b");
  const LaneReservation c = MustReserve(producer, "c");
  EXPECT_EQ(a.position(), 0u);
  EXPECT_EQ(b.position(), 24u);
  EXPECT_EQ(producer.open_reservations(), 3u);
  producer.Submit(c);
  EXPECT_THAT(Drain(consumer), IsEmpty());
  producer.Submit(a);
  EXPECT_THAT(Drain(consumer), ElementsAre("a"));
  EXPECT_EQ(producer.open_reservations(), 1u);
  producer.Submit(b);
  EXPECT_THAT(Drain(consumer), ElementsAre("b", "c"));
  EXPECT_EQ(producer.open_reservations(), 0u);
}

TEST(Lane, FinishesManyReservationsInReverse) {
  Lane lane(16 * PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  // More than the producer has places for at first, and again after it got more.
  for (const int count : {17, 1000, 33, 1000}) {
    std::vector<LaneReservation> open;
    std::vector<std::string> texts;
    for (int i = 0; i < count; ++i) {
      texts.push_back(std::to_string(count + i));
      open.push_back(MustReserve(producer, texts.back()));
    }
    for (size_t i = open.size(); --i > 0;) producer.Submit(open[i]);
    ASSERT_THAT(Drain(consumer), IsEmpty());
    producer.Submit(open.front());
    ASSERT_EQ(Drain(consumer), texts);
  }
}

TEST(Lane, TakesBackANewestReservationThatIsDiscarded) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const LaneReservation a = MustReserve(producer, "a");
  const LaneReservation b = MustReserve(producer, std::string(3000, 'b'));
  producer.Discard(b);
  EXPECT_EQ(producer.ProducerPosition(), b.position());
  const LaneReservation c = MustReserve(producer, std::string(3000, 'c'));
  EXPECT_EQ(c.position(), b.position());
  producer.Discard(c);
  producer.Discard(a);
  EXPECT_EQ(producer.ProducerPosition(), 0u);
  Produce(producer, "d");
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  EXPECT_EQ(TextOf(record), "d");
  EXPECT_EQ(record.sequence, 0u) << "its number was not given back";
  EXPECT_EQ(producer.discarded_records(), 3u);
}

TEST(Lane, SkipsDiscardsInTheMiddle) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const LaneReservation a = MustReserve(producer, "a");
  const LaneReservation b = MustReserve(producer, "b");
  const LaneReservation c = MustReserve(producer, "c");
  const LaneReservation d = MustReserve(producer, "d");
  producer.Discard(b);
  producer.Discard(a);
  producer.Submit(d);
  SharedRecord record;
  EXPECT_EQ(consumer.Next(&record), LaneReadOutcome::kEmpty);
  consumer.Release();
  EXPECT_EQ(lane.head(), c.position()) << "the room of discards goes back, too";
  producer.Discard(c);
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  EXPECT_EQ(TextOf(record), "d");
  EXPECT_EQ(record.sequence, 3u);
  EXPECT_EQ(consumer.consumed().discards, 3u);
}

TEST(Lane, WalksALongRunOfDiscardsInSteps) {
  Lane lane(16 * PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  std::vector<LaneReservation> open;
  for (int i = 0; i < 3000; ++i) open.push_back(MustReserve(producer, ""));
  const LaneReservation last = MustReserve(producer, "last");
  for (const LaneReservation& reservation : open) producer.Discard(reservation);
  producer.Submit(last);
  SharedRecord record;
  int empty = 0;
  while (consumer.Next(&record) == LaneReadOutcome::kEmpty) {
    ASSERT_TRUE(consumer.HasRecords());
    ASSERT_FALSE(consumer.PrepareToWait(kWaitingOnFutex));
    consumer.ClearWaiting();
    ++empty;
  }
  EXPECT_GE(empty, 2);
  EXPECT_EQ(TextOf(record), "last");
}

TEST(LaneDeathTest, AbortsWhenAReservationIsGivenBackTwice) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  const LaneReservation a = MustReserve(producer, "a");
  const LaneReservation b = MustReserve(producer, "b");
  producer.Submit(b);
  EXPECT_DEATH(producer.Submit(b), "broken");
  producer.Submit(a);
  EXPECT_DEATH(producer.Submit(a), "broken");
}

TEST(Lane, PublishesABatchAtOnce) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  producer.SubmitDeferred(MustReserve(producer, "a"));
  const LaneReservation b = MustReserve(producer, "b");
  producer.SubmitDeferred(MustReserve(producer, "c"));
  producer.DiscardDeferred(b);
  EXPECT_THAT(Drain(consumer), IsEmpty());
  producer.Publish();
  EXPECT_THAT(Drain(consumer), ElementsAre("a", "c"));
}

TEST(Lane, AnswersTheQueriesOfEbpf) {
  Lane lane(2 * PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  EXPECT_EQ(producer.SizeBytes(), 2 * PageBytes());
  Produce(producer, "12345678");
  const LaneReservation open = MustReserve(producer, "");
  EXPECT_EQ(producer.ProducerPosition(), 40u);
  EXPECT_EQ(producer.AvailableDataBytes(), 40u);
  Drain(consumer);
  EXPECT_EQ(producer.ConsumerPosition(), 24u);
  EXPECT_EQ(producer.AvailableDataBytes(), 16u);
  producer.Discard(open);
  EXPECT_EQ(producer.AvailableDataBytes(), 0u);
}

// ---- Waking: what the words say. The processes test does it with real sleepers. ----------------

TEST(Lane, AsksForAPacketWhenTheConsumerSleepsOnItsSocket) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  EXPECT_FALSE(producer.Submit(MustReserve(producer, "a")));
  Drain(consumer);
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
  EXPECT_FALSE(producer.Submit(MustReserve(producer, "b"), LaneWake::kNone));
  // The wake is owed, with or without something new.
  EXPECT_TRUE(producer.Publish());
  EXPECT_FALSE(producer.Publish()) << "paid twice";
  EXPECT_TRUE(producer.Publish(LaneWake::kForce));
  consumer.ClearWaiting();
  EXPECT_FALSE(producer.Submit(MustReserve(producer, "c")));
}

// "I publish without waking, as the header suggests for bursts. When the ring is full I wait for
// room, and nothing happens until my deadline: the consumer sleeps, too, with a full ring."
TEST(Lane, PaysTheWakeItOwesBeforeItWaitsForRoom) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const std::string half(lane.capacity() / 2 - 16, 'h');
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
  EXPECT_FALSE(producer.Submit(MustReserve(producer, half), LaneWake::kNone));
  EXPECT_FALSE(producer.Submit(MustReserve(producer, half), LaneWake::kNone));
  const RoomWait wait = producer.PrepareToWaitForRoom(1);
  EXPECT_TRUE(wait.sleep);
  EXPECT_TRUE(wait.tell_socket) << "both asleep";
  EXPECT_FALSE(producer.PrepareToWaitForRoom(1).tell_socket) << "paid twice";
}

// The same with records that were submitted and never published: the consumer cannot even see them.
TEST(Lane, PublishesWhatIsFinishedBeforeItWaitsForRoom) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const std::string whole(lane.layout().payload_bytes_max(), 'w');
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
  producer.SubmitDeferred(MustReserve(producer, whole));
  const RoomWait wait = producer.PrepareToWaitForRoom(1);
  EXPECT_TRUE(wait.sleep);
  EXPECT_TRUE(wait.tell_socket);
  EXPECT_TRUE(consumer.HasRecords());
}

TEST(Lane, CarriesTheWishOfARecordSubmittedOutOfOrder) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
  const LaneReservation a = MustReserve(producer, "a");
  const LaneReservation b = MustReserve(producer, "b");
  EXPECT_FALSE(producer.Submit(b, LaneWake::kDefault));
  EXPECT_TRUE(producer.Submit(a, LaneWake::kNone));
}

TEST(Lane, DoesNotSleepOverRecordsOrRoomThatCameInBetween) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer();
  const std::string whole(lane.layout().payload_bytes_max(), 'w');
  Produce(producer, whole);
  EXPECT_FALSE(consumer.PrepareToWait(kWaitingOnFutex));
  consumer.ClearWaiting();
  EXPECT_TRUE(producer.PrepareToWaitForRoom(whole.size()).sleep);
  EXPECT_EQ(lane.want_room(), lane.capacity());
  const FutexWord room = producer.RoomWord();
  EXPECT_EQ(room.expected, 0u);
  Drain(consumer);
  EXPECT_FALSE(producer.PrepareToWaitForRoom(whole.size()).sleep);
  producer.ClearWantRoom();
  EXPECT_EQ(lane.want_room(), 0u);
  EXPECT_FALSE(producer.PrepareToWaitForRoom(whole.size() + 1).sleep) << "that will never be";
}

// ---- Clearing ---------------------------------------------------------------------------------

TEST(LaneClearing, ZeroesWhatItGivesBackInBatches) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer(/*clears=*/true);
  const std::string text(104, 't');  // 120 ring bytes: the fifth completes an eighth of 4096.
  for (int i = 1; i <= 5; ++i) {
    Produce(producer, text);
    SharedRecord record;
    ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
    consumer.Release();
    ASSERT_EQ(lane.head(), i < 5 ? 0u : 600u);
  }
  std::string bytes(600, 'x');
  lane.lane_section().bytes().CopyOut(PageBytes(), std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(bytes, std::string(600, '\0'));
}

TEST(LaneClearing, GivesBackWhatItHoldsWhenAskedOrIdle) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneConsumer consumer = lane.Consumer(/*clears=*/true);
  const auto take_one = [&] {
    Produce(producer, "x");
    SharedRecord record;
    ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
    consumer.Release();
    ASSERT_LT(lane.head(), lane.tail());
  };
  take_one();
  EXPECT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
  EXPECT_EQ(lane.head(), lane.tail()) << "before sleeping";
  consumer.ClearWaiting();
  take_one();
  SharedRecord record;
  for (int i = 0; i < 64; ++i) ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kEmpty);
  EXPECT_EQ(lane.head(), lane.tail()) << "after looking at an empty ring for long";
  take_one();
  ASSERT_TRUE(producer.PrepareToWaitForRoom(lane.layout().payload_bytes_max()).sleep);
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kEmpty);
  EXPECT_EQ(lane.head(), lane.tail()) << "when room is wanted";
}

// ---- Successors -------------------------------------------------------------------------------

TEST(LaneSuccession, ResumesAConsumerAtItsLastRelease) {
  for (const bool clears : {false, true}) {
    Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    for (const char* text : {"a", "b", "c"}) Produce(producer, text);
    {
      LaneConsumer first = lane.Consumer(clears);
      SharedRecord record;
      first.Next(&record);
      first.Release();
      first.PrepareToWait(kWaitingOnFutex);
      first.Next(&record);  // Taken, not released: it comes again.
    }
    EXPECT_NE(lane.waiting(), 0u);
    LaneConsumer second = lane.Consumer(clears);
    EXPECT_EQ(lane.waiting(), 0u);
    EXPECT_EQ(second.consumed().records(), 1u);
    EXPECT_THAT(Drain(second), ElementsAre("b", "c"));
    EXPECT_EQ(second.consumed().records(), 3u);
    EXPECT_EQ(second.consumed().payload_bytes, 3u);
  }
}

TEST(LaneSuccession, SettlesADeadProducersAccountAndGoesOn) {
  Lane lane(PageBytes());
  LaneConsumer consumer = lane.Consumer();
  {
    LaneProducer dead = lane.Producer();
    Produce(dead, "one");
    const LaneReservation discarded = MustReserve(dead, "no");
    dead.SubmitDeferred(MustReserve(dead, "two"));
    dead.Discard(discarded);
    MustReserve(dead, "never submitted");
    dead.SubmitDeferred(MustReserve(dead, "submitted behind an open one"));
    dead.Publish();
  }
  EXPECT_THAT(consumer.SettleLedger(), StatusIs(absl::StatusCode::kFailedPrecondition));
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
  ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kEmpty);
  EXPECT_THAT(consumer.SettleLedger(), StatusIs(absl::StatusCode::kFailedPrecondition));
  consumer.Release();
  ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer.SettleLedger());
  EXPECT_EQ(settled.sequence, 3u);
  EXPECT_EQ(settled.records(), 2u);
  EXPECT_EQ(settled.payload_bytes, 6u);
  ASSERT_OK_AND_ASSIGN(const LaneAccount account,
                       ReadLaneAccount(lane.layout(), lane.sections().lane));
  EXPECT_EQ(account.published.position, settled.position);
  EXPECT_EQ(account.published.sequence, settled.sequence);
  EXPECT_EQ(account.ledger.stored_records, settled.records());
  EXPECT_EQ(account.discarded_records, 1u);

  LaneProducer successor = lane.Producer(settled);
  Produce(successor, "three");
  EXPECT_THAT(Drain(consumer), ElementsAre("three"));
  EXPECT_EQ(consumer.consumed().records(), 3u);
  EXPECT_EQ(successor.finished().records(), 3u);
}

TEST(LaneSuccession, RefusesAStartThatCannotBe) {
  Lane lane(PageBytes());
  const auto start = [](uint64_t position, uint64_t sequence, uint64_t discards) {
    return LaneCheckpoint{
        .position = position, .sequence = sequence, .discards = discards, .payload_bytes = 0};
  };
  EXPECT_THAT(lane.TryProducer(start(4, 0, 0)), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(lane.TryProducer(start(8, 1, 2)), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(lane.TryProducer(start(lane.capacity() + 8, 0, 0)),
              StatusIs(absl::StatusCode::kDataLoss));
  lane.SetHead(16);
  EXPECT_THAT(lane.TryProducer(start(8, 0, 0)), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace iob::shm
