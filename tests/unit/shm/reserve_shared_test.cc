// The shared reserve ring with one hand on every side: order, room, wakes, counts, and a random
// walk against a model that is too simple to be wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Drain;
using test::Fill;
using test::PatternText;
using test::Put;
using test::SharedRing;
using test::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Texts = std::vector<std::string>;

TEST(SharedLayout, RefusesImpossibleGeometry) {
  EXPECT_THAT(SharedLayout::ForSize(3 * 4096), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(2048), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(4096, 8), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(4096, 48), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(8192, 8192), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedLayout::ForSize(uint64_t{4} << 30), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(SharedLayout::ForSize(SharedLayout::kSizeBytesMax, 4096), test::IsOk());
}

TEST(SharedLayout, RefusesForeignSectionsAndOwners) {
  SharedRing<> ring(4096);
  const SharedLayout larger = SharedLayout::ForSize(8192).value();
  EXPECT_THAT(SharedProducer::Map(larger, ring.sections(), 1),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(SharedConsumer::Map(larger, ring.sections()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(SharedProducer::Map(ring.layout(), ring.sections(), 0),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SharedProducer::Map(ring.layout(), ring.sections(), 64),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ring.broker().Recover(64), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(SharedReserve, DeliversInTheOrderOfReserveOnceAllBeforeAreDone) {
  SharedRing<> ring(4096);
  SharedProducer one = ring.MakeProducer(1);
  SharedProducer two = ring.MakeProducer(2);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto first = Fill(one, "first");
  const auto second = Fill(two, "second");
  const auto third = Fill(one, "third");
  EXPECT_TRUE(one.Submit(*third).done);
  EXPECT_TRUE(two.Submit(*second).done);
  EXPECT_THAT(Drain(consumer), IsEmpty());
  EXPECT_TRUE(one.Submit(*first).done);
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  EXPECT_EQ(test::TextOf(record), "first");
  EXPECT_EQ(record.lane_or_owner, 1u);
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  EXPECT_EQ(record.lane_or_owner, 2u);
  EXPECT_EQ(record.sequence, 64u);
  EXPECT_THAT(Drain(consumer), ElementsAre("third"));
  ring.ExpectAddsUp(3);
}

TEST(SharedReserve, SkipsWhatWasDiscardedFirstMiddleAndLast) {
  for (size_t discarded = 0; discarded < 8; ++discarded) {
    SharedRing<> ring(4096);
    SharedProducer producer = ring.MakeProducer(1);
    SharedConsumer consumer = ring.MakeConsumer();
    Texts expected;
    for (size_t i = 0; i < 3; ++i) {
      const auto reservation = Fill(producer, "r" + std::to_string(i));
      if ((discarded >> i & 1) != 0) {
        EXPECT_TRUE(producer.Discard(*reservation).done);
      } else {
        EXPECT_TRUE(producer.Submit(*reservation).done);
        expected.push_back("r" + std::to_string(i));
      }
    }
    EXPECT_EQ(Drain(consumer), expected);
    consumer.Release();
    ring.ExpectAddsUp(3);
    EXPECT_EQ(ring.broker().Occupancy().ring_bytes, 0u);
  }
}

TEST(SharedReserve, IsSpentOnce) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto reservation = Fill(producer, "once");
  EXPECT_TRUE(producer.Submit(*reservation).done);
  EXPECT_FALSE(producer.Submit(*reservation).done);
  EXPECT_FALSE(producer.Discard(*reservation).done);
  EXPECT_EQ(producer.ledger().lost_records, 2u);
  EXPECT_THAT(Drain(consumer), ElementsAre("once"));
}

TEST(SharedReserve, FillsTheRingToTheLastGranuleAndCountsWhatDoesNotFit) {
  SharedRing<> ring(4096, 16);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  EXPECT_TRUE(Put(producer, std::string(4080, 'a')));
  EXPECT_FALSE(Put(producer, std::string(17, 'b')));
  EXPECT_TRUE(Put(producer, ""));
  SharedReservation reservation;
  EXPECT_EQ(producer.Reserve(0, &reservation), SharedReserveOutcome::kFull);
  EXPECT_EQ(producer.Reserve(4097, &reservation), SharedReserveOutcome::kTooLarge);
  EXPECT_EQ(producer.AvailableDataBytes(), 4096u);
  EXPECT_THAT(Drain(consumer), ElementsAre(std::string(4080, 'a'), ""));
  // Read is not released.
  EXPECT_EQ(producer.Reserve(0, &reservation), SharedReserveOutcome::kFull);
  consumer.Release();
  EXPECT_EQ(producer.ConsumerPosition(), 4096u);
  // As long as the ring.
  EXPECT_TRUE(Put(producer, PatternText(1, 4096)));
  EXPECT_THAT(Drain(consumer), ElementsAre(PatternText(1, 4096)));
  EXPECT_EQ(producer.ledger().full_records, 3u);
  EXPECT_EQ(producer.ledger().full_bytes, 17u);
  EXPECT_EQ(producer.ledger().too_large_records, 1u);
  EXPECT_EQ(producer.ledger().too_large_bytes, 4097u);
  ring.ExpectAddsUp(3);
}

TEST(SharedReserve, SaysTooLargeToWhatAControlWordCannotSay) {
  SharedRing<> ring(8 << 20, 4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  SharedReservation reservation;
  EXPECT_EQ(producer.Reserve(uint64_t{1} << 22, &reservation), SharedReserveOutcome::kTooLarge);
  EXPECT_EQ(producer.Reserve(UINT64_MAX, &reservation), SharedReserveOutcome::kTooLarge);
  EXPECT_TRUE(Put(producer, PatternText(2, (1 << 22) - 1)));
  EXPECT_THAT(Drain(consumer), ElementsAre(PatternText(2, (1 << 22) - 1)));
}

TEST(SharedReserve, KeepsRecordsWholeAcrossEveryWrap) {
  SharedRing<> ring(4096, 64);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string text = PatternText(i, i * 61 % 4097);
    ASSERT_TRUE(Put(producer, text));
    ASSERT_EQ(Drain(consumer), Texts{text}) << i;
    consumer.Release();
  }
  ring.ExpectAddsUp(1000);
}

// ---- Sleeping and waking ----------------------------------------------------------------------

// Whether a sleeper on the word would sleep.
bool Sleeps(const FutexWord& word) {
  return FutexWaitAny({&word, 1}, MonotonicNs() + 1'000'000) == FutexOutcome::kDeadline;
}

TEST(SharedReserveWake, MakesNoSystemCallWhileTheConsumerIsAwake) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Put(producer, "x"));
  EXPECT_EQ(producer.ledger().wakes, 0u);
}

TEST(SharedReserveWake, WakesForTheAwaitedRecordOnly) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto awaited = Fill(producer, "awaited");
  const auto later = Fill(producer, "later");
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
  const FutexWord word = consumer.WaitWord();
  EXPECT_TRUE(Sleeps(word));
  EXPECT_FALSE(producer.Submit(*later).tell_socket);
  EXPECT_EQ(producer.ledger().wakes, 0u);
  EXPECT_TRUE(Sleeps(word));
  EXPECT_TRUE(producer.Submit(*awaited).done);
  EXPECT_EQ(producer.ledger().wakes, 1u);
  EXPECT_FALSE(Sleeps(word));
  EXPECT_FALSE(consumer.PrepareToWait(kWaitingOnFutex)) << "there is something";
  consumer.ClearWaiting();
  EXPECT_THAT(Drain(consumer), ElementsAre("awaited", "later"));
}

TEST(SharedReserveWake, FindsWhatComesWhileTheConsumerPollsPolitely) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  EXPECT_FALSE(consumer.PollPolitely());
  const auto reservation = Fill(producer, "late");
  EXPECT_FALSE(consumer.PollPolitely()) << "claimed only";
  EXPECT_TRUE(producer.Submit(*reservation).done);
  EXPECT_TRUE(consumer.PollPolitely());
  EXPECT_TRUE(consumer.PollPolitely()) << "nobody has taken it";
  EXPECT_THAT(Drain(consumer), ElementsAre("late"));
  EXPECT_FALSE(consumer.PollPolitely());
}

TEST(SharedReserveWake, TakesAConsumerThatAsksForFencesForAwakeUntilItSleeps) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  const SharedConsumer consumer = ring.MakeConsumer();
  Mapping cons = Mapping::Map(ring.sections().cons).value();
  cons.Word<uint32_t>(kSharedHow).StoreRelaxed(kWaitingOnSocket);
  auto& wait = cons.Word<uint64_t>(kSharedWait);
  wait.StoreRelease(kFenceForMe);
  const auto first = Fill(producer, "first");
  EXPECT_FALSE(producer.Submit(*first, SharedWake::kForce).tell_socket) << "it is awake";
  const auto second = Fill(producer, "second");
  wait.StoreRelease(second->position | kSharedWaits | kFenceForMe);
  EXPECT_TRUE(producer.Submit(*second).tell_socket);
  EXPECT_EQ(producer.ledger().wakes, 1u);
  EXPECT_TRUE(ring.broker().Recover(2).value().tell_socket) << "it sleeps";
  wait.StoreRelease(kFenceForMe);
  EXPECT_FALSE(ring.broker().Recover(2).value().tell_socket);
}

TEST(SharedReserveWake, WakesWhenTheAwaitedRecordIsDiscarded) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto awaited = Fill(producer, "awaited");
  EXPECT_TRUE(Put(producer, "later"));
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
  EXPECT_TRUE(producer.Discard(*awaited).done);
  EXPECT_EQ(producer.ledger().wakes, 1u);
  EXPECT_FALSE(Sleeps(consumer.WaitWord()));
  EXPECT_THAT(Drain(consumer), ElementsAre("later"));
}

TEST(SharedReserveWake, WaitsForTheRecordBehindTheDiscarded) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto first = Fill(producer, "first");
  EXPECT_TRUE(producer.Discard(*first).done);
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
  EXPECT_EQ(consumer.position(), 64u);
  EXPECT_TRUE(Put(producer, "second"));
  EXPECT_EQ(producer.ledger().wakes, 1u);
}

TEST(SharedReserveWake, ToldNotToWakeOwesItToTheNextSubmitOfAnybody) {
  SharedRing<> ring(4096);
  SharedProducer one = ring.MakeProducer(1);
  SharedProducer two = ring.MakeProducer(2);
  SharedConsumer consumer = ring.MakeConsumer();
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex | kWaitingOnSocket));
  EXPECT_FALSE(one.Submit(*Fill(one, "a"), SharedWake::kNone).tell_socket);
  EXPECT_FALSE(one.Submit(*Fill(one, "b"), SharedWake::kNone).tell_socket);
  EXPECT_TRUE(two.Submit(*Fill(two, "c")).tell_socket);
  EXPECT_FALSE(two.Submit(*Fill(two, "d")).tell_socket) << "paid once";
  EXPECT_TRUE(two.Submit(*Fill(two, "e"), SharedWake::kForce).tell_socket);
  EXPECT_EQ(one.ledger().wakes, 0u);
  EXPECT_EQ(two.ledger().wakes, 2u);
  consumer.ClearWaiting();
  EXPECT_FALSE(two.Submit(*Fill(two, "f"), SharedWake::kForce).tell_socket) << "nobody sleeps";
}

// "Producers that submit without waking fill the ring, then wait for room. Nobody submits any more,
// so nobody pays, and all of them sleep beside a consumer that sleeps over a full ring."
TEST(SharedReserveWake, WhoeverWaitsForRoomPaysTheWakeThatIsOwed) {
  SharedRing<> ring(4096);
  SharedProducer one = ring.MakeProducer(1);
  SharedProducer two = ring.MakeProducer(2);
  SharedConsumer consumer = ring.MakeConsumer();
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex | kWaitingOnSocket));
  const std::string half(ring.layout().size_bytes() / 2, 'h');
  EXPECT_FALSE(one.Submit(*Fill(one, half), SharedWake::kNone).tell_socket);
  EXPECT_FALSE(one.Submit(*Fill(one, half), SharedWake::kNone).tell_socket);
  const RoomWait wait = two.PrepareToWaitForRoom(1);
  EXPECT_TRUE(wait.sleep);
  EXPECT_TRUE(wait.tell_socket) << "everybody asleep";
  EXPECT_EQ(two.ledger().wakes, 1u);
  EXPECT_FALSE(one.PrepareToWaitForRoom(1).tell_socket) << "paid twice";
}

TEST(SharedReserveWake, AsksForRoomAndIsToldWhenThereIsEnough) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(Put(producer, "x"));
  ASSERT_TRUE(producer.PrepareToWaitForRoom(128).sleep);
  const FutexWord word = producer.RoomWord();
  EXPECT_TRUE(Sleeps(word));
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  consumer.Release();
  EXPECT_FALSE(Sleeps(word));
  EXPECT_FALSE(producer.PrepareToWaitForRoom(128).sleep);
  producer.ClearWantRoom();
  EXPECT_TRUE(Put(producer, std::string(128, 'y')));
  EXPECT_FALSE(producer.PrepareToWaitForRoom(5000).sleep) << "would never fit";
}

// ---- Queries and stalls -----------------------------------------------------------------------

TEST(SharedReserve, AnswersQueries) {
  SharedRing<> ring(8192);
  SharedProducer producer = ring.MakeProducer(3);
  SharedConsumer consumer = ring.MakeConsumer();
  EXPECT_TRUE(Put(producer, std::string(100, 'x')));
  EXPECT_EQ(producer.SizeBytes(), 8192u);
  EXPECT_EQ(producer.ProducerPosition(), 128u);
  EXPECT_EQ(producer.ConsumerPosition(), 0u);
  EXPECT_EQ(producer.AvailableDataBytes(), 128u);
  Drain(consumer);
  consumer.Release();
  EXPECT_EQ(producer.ConsumerPosition(), 128u);
  EXPECT_EQ(producer.AvailableDataBytes(), 0u);
}

TEST(SharedReserve, TellsWhoHoldsUpTheRingAndSinceWhen) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(7);
  SharedConsumer consumer = ring.MakeConsumer();
  EXPECT_FALSE(consumer.Stalled(1).has_value());
  EXPECT_FALSE(ring.broker().FirstBusy().has_value());
  EXPECT_TRUE(Put(producer, "fine"));
  const auto stuck = Fill(producer, "stuck");
  Drain(consumer);
  ASSERT_TRUE(consumer.Stalled(100).has_value());
  const SharedStall stall = *consumer.Stalled(250);
  EXPECT_EQ(stall.owner, 7u);
  EXPECT_EQ(stall.position, 64u);
  EXPECT_EQ(stall.since_ns, 100);
  ASSERT_TRUE(ring.broker().FirstBusy().has_value());
  EXPECT_EQ(ring.broker().FirstBusy()->owner, 7u);
  EXPECT_EQ(ring.broker().FirstBusy()->position, 64u);
  EXPECT_TRUE(producer.Submit(*stuck).done);
  EXPECT_FALSE(consumer.Stalled(300).has_value());
}

TEST(SharedReserve, ResumesAtWhatWasReleasedWithExactCounts) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  {
    SharedConsumer consumer = ring.MakeConsumer();
    EXPECT_TRUE(Put(producer, "one"));
    EXPECT_TRUE(Put(producer, "two"));
    EXPECT_EQ(Drain(consumer).size(), 2u);
    consumer.Release();
    EXPECT_TRUE(Put(producer, "three"));
    EXPECT_EQ(Drain(consumer).size(), 1u);  // And dies with it.
  }
  SharedConsumer successor = ring.MakeConsumer();
  EXPECT_EQ(successor.consumed_records(), 2u);
  EXPECT_EQ(successor.consumed_bytes(), 6u);
  EXPECT_THAT(Drain(successor), ElementsAre("three"));
  successor.Release();
  EXPECT_EQ(successor.consumed_records(), 3u);
  ring.ExpectAddsUp(3);
}

TEST(SharedReserve, GoesOnCountingForASuccessorOfTheSameOwner) {
  SharedRing<> ring(4096);
  {
    SharedProducer producer = ring.MakeProducer(1);
    EXPECT_TRUE(Put(producer, "one"));
  }
  SharedProducer successor = ring.MakeProducer(1);
  EXPECT_TRUE(Put(successor, "two"));
  EXPECT_EQ(ring.broker().LedgerOf(1).stored_records, 2u);
  ring.ExpectAddsUp(2);
}

// ---- Against a model --------------------------------------------------------------------------

// What a ring is: records in order, each open, done or discarded, and the bytes they take.
class Model {
 public:
  enum class Fate { kOpen, kStored, kDiscarded };
  struct Record {
    std::string text;
    uint64_t footprint = 0;
    Fate fate = Fate::kOpen;
    bool read = false;
  };
  explicit Model(const SharedLayout& layout) : layout_(layout) {}

  bool Fits(size_t payload_bytes) const {
    return used_ + layout_.Footprint(payload_bytes) <= layout_.size_bytes();
  }
  Record* Add(const std::string& text) {
    records_.push_back({text, layout_.Footprint(text.size()), Fate::kOpen, false});
    used_ += records_.back().footprint;
    return &records_.back();
  }
  Texts Read() {
    Texts texts;
    for (Record& record : records_) {
      if (record.fate == Fate::kOpen) break;
      if (!record.read && record.fate == Fate::kStored) texts.push_back(record.text);
      record.read = true;
    }
    return texts;
  }
  void Release() {
    while (!records_.empty() && records_.front().read) {
      used_ -= records_.front().footprint;
      records_.pop_front();
    }
  }
  uint64_t used() const { return used_; }

 private:
  SharedLayout layout_;
  std::deque<Record> records_;  // Grows and shrinks at its ends: pointers into it stay good.
  uint64_t used_ = 0;
};

class SharedReserveModel : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Granules, SharedReserveModel, ::testing::Values(16, 64, 1024, 4096));

TEST_P(SharedReserveModel, AgreesAtEveryStep) {
  SharedRing<> ring(8192, GetParam());
  std::array producers = {ring.MakeProducer(1), ring.MakeProducer(2), ring.MakeProducer(63)};
  SharedConsumer consumer = ring.MakeConsumer();
  Model model(ring.layout());
  struct Open {
    size_t producer;
    SharedReservation reservation;
    Model::Record* record;
  };
  std::vector<Open> open;
  std::mt19937_64 random(GetParam());
  uint64_t reserved = 0;
  uint64_t refused = 0;
  for (int step = 0; step < 20'000; ++step) {
    switch (random() % 5) {
      case 0:
      case 1: {
        const size_t which = random() % producers.size();
        const std::string text = PatternText(random(), random() % (random() % 9 == 0 ? 3000 : 300));
        const bool fits = model.Fits(text.size());
        const auto reservation = Fill(producers[which], text);
        ASSERT_EQ(reservation.has_value(), fits) << "step " << step;
        refused += fits ? 0 : 1;
        if (!fits) break;
        reserved += 1;
        open.push_back({which, *reservation, model.Add(text)});
        break;
      }
      case 2:
      case 3: {
        if (open.empty()) break;
        std::swap(open[random() % open.size()], open.back());
        const Open last = open.back();
        open.pop_back();
        const bool stored = random() % 4 != 0;
        SharedProducer& producer = producers[last.producer];
        ASSERT_TRUE(stored ? producer.Submit(last.reservation).done
                           : producer.Discard(last.reservation).done);
        last.record->fate = stored ? Model::Fate::kStored : Model::Fate::kDiscarded;
        break;
      }
      default:
        ASSERT_EQ(Drain(consumer), model.Read()) << "step " << step;
        if (random() % 2 == 0) {
          consumer.Release();
          model.Release();
        }
    }
    if (step % 16 == 0) ring.ExpectAddsUp(reserved);
    ASSERT_FALSE(HasFailure()) << "step " << step;
  }
  EXPECT_EQ(ring.broker().TotalLedger().full_records, refused);
  EXPECT_GT(refused, 100u);
  EXPECT_GT(reserved, 1000u);
}

}  // namespace
}  // namespace iob::shm
