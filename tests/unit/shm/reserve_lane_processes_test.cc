// A lane between two processes: both sides sleep and wake each other, wishes to be woken are kept,
// and either side is killed at random moments with a successor that goes on, every record checked.
// Every wait has a deadline, and reaching one is a failure.
#include <gtest/gtest.h>
#include <signal.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "shm/futex.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_lane.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Fill;
using ::iob::test::Lane;
using ::iob::test::PatternText;
using ::iob::test::TextOf;

constexpr int64_t kPatienceNs = 20'000'000'000;

std::string PayloadOf(uint64_t sequence) { return PatternText(sequence, sequence * 37 % 300); }
// Every fifth record number is discarded behind an open reservation.
bool IsDiscarded(uint64_t sequence) { return sequence % 5 == 3; }
uint64_t DiscardsBelow(uint64_t sequence) { return (sequence + 1) / 5; }

// Room for the record, sleeping until there is.
void ReserveOrWait(LaneProducer& producer, const std::string& payload,
                   LaneReservation* ret_reservation) {
  while (producer.Reserve(payload.size(), ret_reservation) != LaneReserveOutcome::kReserved) {
    ASSERT_EQ(producer.violations(), 0u);
    if (producer.PrepareToWaitForRoom(payload.size()).sleep) {
      const FutexWord room = producer.RoomWord();
      ASSERT_EQ(FutexWaitAny({&room, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
          << "nobody told of room at " << producer.ProducerPosition();
    }
    producer.ClearWantRoom();
  }
  Fill(*ret_reservation, payload);
}

// Produces numbers from `sequence` on, for ever or up to `end`: now and then two reservations at
// once, finished in reverse.
void ProduceFrom(LaneProducer& producer, uint64_t sequence, uint64_t end) {
  while (sequence < end && !::testing::Test::HasFailure()) {
    LaneReservation first;
    ReserveOrWait(producer, PayloadOf(sequence), &first);
    if (!IsDiscarded(sequence)) {
      producer.Submit(first, sequence % 3 == 0 ? LaneWake::kNone : LaneWake::kDefault);
      ++sequence;
      continue;
    }
    // A discard that is not the newest: the next one is reserved before.
    LaneReservation second;
    if (producer.Reserve(PayloadOf(sequence + 1).size(), &second) !=
        LaneReserveOutcome::kReserved) {
      producer.Discard(first);
      if (producer.PrepareToWaitForRoom(600).sleep) {
        const FutexWord room = producer.RoomWord();
        ASSERT_EQ(FutexWaitAny({&room, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
      }
      producer.ClearWantRoom();
      continue;
    }
    Fill(second, PayloadOf(sequence + 1));
    producer.Submit(second);
    producer.Discard(first);
    sequence += 2;
  }
  producer.Publish();
}

// What a consumer must see after the record numbers below `expected`.
void CheckRecord(const SharedRecord& record, uint64_t* expected) {
  if (IsDiscarded(*expected)) ++*expected;
  ASSERT_EQ(record.sequence, *expected);
  ASSERT_EQ(TextOf(record), PayloadOf(*expected));
  ++*expected;
}

void WaitForRecords(LaneConsumer& consumer) {
  if (consumer.PrepareToWait(kWaitingOnFutex)) {
    const FutexWord tail = consumer.TailWord();
    ASSERT_EQ(FutexWaitAny({&tail, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
        << "left asleep at record " << consumer.consumed().sequence;
  }
  consumer.ClearWaiting();
}

class LaneProcesses : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  uint64_t capacity() const { return static_cast<uint64_t>(std::get<0>(GetParam())) * PageBytes(); }
  bool clears() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(PagesAndClearing, LaneProcesses,
                         ::testing::Combine(::testing::Values(1, 3), ::testing::Bool()));

// Streams `numbers` from a child that begins with `producer_begins`.
void Stream(const Lane& lane, bool clears, uint64_t numbers,
            const std::function<void()>& producer_begins) {
  test::Child child([&] {
    producer_begins();
    LaneProducer producer = lane.Producer();
    ProduceFrom(producer, 0, numbers);
    EXPECT_EQ(producer.finished().sequence, numbers);
    EXPECT_EQ(producer.violations(), 0u);
  });
  LaneConsumer consumer = lane.Consumer(clears);
  uint64_t expected = 0;
  while (expected < numbers && !::testing::Test::HasFailure()) {
    SharedRecord record;
    while (consumer.Next(&record) == LaneReadOutcome::kRecord) {
      CheckRecord(record, &expected);
      if (::testing::Test::HasFailure() || expected % 7 == 0) break;
    }
    ASSERT_TRUE(consumer.status().ok()) << consumer.status();
    consumer.Release();
    if (expected < numbers) WaitForRecords(consumer);
  }
  ASSERT_EQ(child.Join(), 0);
  ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer.SettleLedger());
  EXPECT_EQ(settled.sequence, numbers);
  EXPECT_EQ(settled.discards, DiscardsBelow(numbers));
}

TEST_P(LaneProcesses, StreamsEveryRecordWithoutLosingAWake) {
  constexpr uint64_t kNumbers = 30'000;  // Ends behind a record that is not discarded.
  Stream(Lane(capacity()), clears(), kNumbers, [] {});
}

// "In our sandbox the daemon's clients may not call membarrier, and now and then one hangs."
TEST_P(LaneProcesses, StreamsEveryRecordWhereMembarrierIsRefusedToOneSideOrBoth) {
  constexpr uint64_t kNumbers = 10'000;
  Stream(Lane(capacity()), clears(), kNumbers, [] { test::RefuseMembarrier(EPERM); });
  test::ExpectInChild([&] {
    const Lane lane(capacity());
    // A filter is inherited: this is both sides.
    test::RefuseMembarrier(ENOSYS);
    Stream(lane, clears(), kNumbers, [] {});
  });
}

TEST_P(LaneProcesses, SurvivesProducersKilledAtRandomMoments) {
  Lane lane(capacity());
  LaneConsumer consumer = lane.Consumer(clears());
  std::mt19937_64 random(static_cast<uint64_t>(std::get<0>(GetParam())) * 2 + clears());
  LaneCheckpoint start;
  uint64_t expected = 0;
  uint64_t kills_in_mid_stream = 0;
  for (int round = 0; round < 60; ++round) {
    test::Child child([&] {
      LaneProducer producer = lane.Producer(start);
      ProduceFrom(producer, start.sequence, UINT64_MAX);
    });
    SharedRecord record;
    const auto read = [&](uint64_t records_max) {
      uint64_t records = 0;
      while (records < records_max && consumer.Next(&record) == LaneReadOutcome::kRecord) {
        CheckRecord(record, &expected);
        ++records;
      }
      consumer.Release();
      return records;
    };
    const uint64_t records_before_kill = random() % 300;
    for (uint64_t records = 0; records < records_before_kill && !HasFailure();) {
      const uint64_t more = read(1 + random() % 20);
      if (more == 0) WaitForRecords(consumer);
      records += more;
    }
    ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
    ASSERT_EQ(child.Join(), 128 + SIGKILL);
    while (consumer.HasRecords() && !HasFailure()) read(UINT64_MAX);
    ASSERT_TRUE(consumer.status().ok()) << consumer.status();
    // By the consumer's reading and by the dead producer's own words, the same.
    ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer.SettleLedger());
    ASSERT_OK_AND_ASSIGN(const LaneAccount account,
                         ReadLaneAccount(lane.layout(), lane.sections().lane));
    ASSERT_EQ(account.published.position, settled.position);
    ASSERT_EQ(account.published.sequence, settled.sequence);
    ASSERT_EQ(account.published.discards, settled.discards);
    ASSERT_EQ(account.published.payload_bytes, settled.payload_bytes);
    ASSERT_EQ(settled.discards, DiscardsBelow(settled.sequence));
    kills_in_mid_stream += settled.sequence > start.sequence;
    start = settled;
    expected = settled.sequence;
  }
  EXPECT_GT(kills_in_mid_stream, 30u);
}

TEST_P(LaneProcesses, SurvivesConsumersKilledAtRandomMoments) {
  Lane lane(capacity());
  LaneProducer producer = lane.Producer();
  std::mt19937_64 random(static_cast<uint64_t>(std::get<0>(GetParam())) * 2 + clears());
  uint64_t sequence = 0;
  uint64_t resumed_in_mid_stream = 0;
  for (int round = 0; round < 60; ++round) {
    test::Child child([&] {
      LaneConsumer consumer = lane.Consumer(clears());
      uint64_t expected = consumer.consumed().sequence;
      while (!HasFailure()) {
        SharedRecord record;
        while (consumer.Next(&record) == LaneReadOutcome::kRecord) {
          CheckRecord(record, &expected);
          if (HasFailure()) return;
          consumer.Release();
        }
        ASSERT_TRUE(consumer.status().ok()) << consumer.status();
        consumer.Release();
        WaitForRecords(consumer);
      }
    });
    const uint64_t until = sequence + random() % 300;
    while (sequence < until && !HasFailure()) {
      // Whole steps of the pattern, so that nothing is open at the end of one.
      const uint64_t next = sequence + (IsDiscarded(sequence) ? 2 : 1);
      ProduceFrom(producer, sequence, next);
      sequence = next;
    }
    ::kill(child.pid(), SIGKILL);
    ASSERT_EQ(child.Join(), 128 + SIGKILL) << "a record was wrong, or lost";
    LaneConsumer looker = lane.Consumer(clears());
    const LaneCheckpoint& resumed = looker.consumed();
    ASSERT_LE(resumed.sequence, sequence);
    // Trailing discards may not have been walked over.
    ASSERT_EQ(resumed.discards, DiscardsBelow(resumed.sequence));
    resumed_in_mid_stream += resumed.position > 0 && resumed.position < lane.tail();
  }
  EXPECT_EQ(producer.violations(), 0u);
  EXPECT_GT(resumed_in_mid_stream, 5u);
}

// ---- Wishes to be woken, with a consumer that really sleeps ------------------------------------

TEST(LaneWakes, PaysTheSleeperAWakeThatWasOwed) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  test::Turn asleep_soon;
  test::Child child([&] {
    LaneConsumer consumer = lane.Consumer();
    ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
    const FutexWord tail = consumer.TailWord();
    asleep_soon.Give();
    ASSERT_EQ(FutexWaitAny({&tail, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
    consumer.ClearWaiting();
    ASSERT_TRUE(consumer.HasRecords());
  });
  ASSERT_TRUE(asleep_soon.Take());
  ASSERT_NE(lane.waiting(), 0u);
  LaneReservation reservation;
  ASSERT_EQ(producer.Reserve(0, &reservation), LaneReserveOutcome::kReserved);
  producer.Submit(reservation, LaneWake::kNone);
  producer.Publish();
  EXPECT_EQ(child.Join(), 0);
}

TEST(LaneWakes, MakesNoSystemCallWhileTheOtherSideIsAwake) {
  test::ExpectInChild([] {
    Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    LaneConsumer consumer = lane.Consumer();
    test::DenyFutex();
    for (uint64_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(test::Produce(producer, "x"), LaneReserveOutcome::kReserved);
      ASSERT_EQ(test::Drain(consumer).size(), 1u);
    }
  });
  // The same with a sleeper's flag up dies of it, so that this test is known to see calls.
  test::Child child([] {
    Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    LaneConsumer consumer = lane.Consumer();
    consumer.PrepareToWait(kWaitingOnFutex);
    test::DenyFutex();
    test::Produce(producer, "x");
  });
  EXPECT_EQ(child.Join(), 128 + SIGSYS);
}

}  // namespace
}  // namespace iob::shm
