// A generation of the shared reserve ring that was given up because a producer stopped in the
// middle of a record: what was submitted behind it comes out, each owner's records in their order,
// each once, whatever the killed consumer had released; the late record comes when it is finished.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shm/reserve_shared_salvage.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/shm_steps.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Drain;
using test::Fill;
using test::IsOk;
using test::Put;
using test::SharedRing;
using test::TextOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

// The stopped producer has "s1" open, and "s2" behind it submitted; "a1", "a2", "b1" are of others.
struct Stopped {
  SharedRing<> ring{4096};
  SharedProducer stopped = ring.MakeProducer(3);
  SharedProducer a = ring.MakeProducer(1);
  SharedProducer b = ring.MakeProducer(2);
  SharedReservation late;
  uint64_t reserved = 5;

  Stopped() {
    EXPECT_TRUE(Put(a, "a1"));
    late = *Fill(stopped, "s1");
    EXPECT_TRUE(Put(a, "a2"));
    EXPECT_TRUE(Put(stopped, "s2"));
    EXPECT_TRUE(Put(b, "b1"));
  }
  SharedSalvage Salvage() const { return SharedSalvage(ring.MakeConsumer()); }
};

TEST(SharedSalvage, PassesTheUnfinishedRecordButNotItsOwnersLaterOnes) {
  Stopped stopped;
  SharedConsumer consumer = stopped.ring.MakeConsumer();
  EXPECT_THAT(Drain(consumer), ElementsAre("a1"));
  consumer.Release();
  SharedSalvage salvage(std::move(consumer));
  EXPECT_THAT(Drain(salvage), ElementsAre("a2", "b1"));
  EXPECT_FALSE(salvage.HasRecords());
  stopped.stopped.Submit(stopped.late);
  EXPECT_THAT(Drain(salvage), ElementsAre("s1", "s2"));
  salvage.Release();
  stopped.ring.ExpectAddsUp(stopped.reserved);
  EXPECT_EQ(stopped.ring.broker().Occupancy().resident_records, 0u);
}

TEST(SharedSalvage, GivesOutTheRestWhenTheBrokerTakesTheUnfinishedRecordBack) {
  Stopped stopped;
  SharedSalvage salvage = stopped.Salvage();
  EXPECT_THAT(Drain(salvage), ElementsAre("a1", "a2", "b1"));
  ASSERT_THAT(stopped.ring.broker().Recover(3), IsOk());
  EXPECT_THAT(Drain(salvage), ElementsAre("s2"));
  salvage.Release();
  stopped.ring.ExpectAddsUp(stopped.reserved);
}

TEST(SharedSalvage, GivesRecordsOutThatComeAfterTheRingWasGivenUp) {
  Stopped stopped;
  SharedSalvage salvage = stopped.Salvage();
  EXPECT_THAT(Drain(salvage), ElementsAre("a1", "a2", "b1"));
  EXPECT_TRUE(Put(stopped.a, "a3"));
  EXPECT_TRUE(Put(stopped.stopped, "s3"));
  EXPECT_THAT(Drain(salvage), ElementsAre("a3"));
  stopped.stopped.Discard(stopped.late);
  EXPECT_THAT(Drain(salvage), ElementsAre("s2", "s3"));
}

TEST(SharedSalvage, NeverGivesRoomBack) {
  // A producer that was stopped for a minute goes on writing into its old record: nobody may have
  // got that room meanwhile.
  Stopped stopped;
  SharedSalvage salvage = stopped.Salvage();
  EXPECT_THAT(Drain(salvage), ElementsAre("a1", "a2", "b1"));
  salvage.Release();
  uint64_t more = 0;
  while (Put(stopped.a, "more")) more += 1;
  EXPECT_EQ(more, 4096 / 64 - stopped.reserved);
  EXPECT_EQ(Drain(salvage).size(), more);
  EXPECT_FALSE(Put(stopped.a, "one more"));
}

TEST(SharedSalvage, TellsOverOnlyWhenNobodyIsLeftAndEverythingWasGivenOut) {
  Stopped stopped;
  SharedSalvage salvage = stopped.Salvage();
  Drain(salvage);
  salvage.Release();
  EXPECT_FALSE(salvage.Over()) << "the broker has not said that nobody is left";
  stopped.ring.broker().Retire(kSharedRetiredOver);
  EXPECT_FALSE(salvage.Over()) << "a record is open";
  stopped.stopped.Submit(stopped.late);
  EXPECT_FALSE(salvage.Over()) << "it is finished and not given out";
  EXPECT_THAT(Drain(salvage), ElementsAre("s1", "s2"));
  EXPECT_FALSE(salvage.Over()) << "and not released";
  salvage.Release();
  EXPECT_TRUE(salvage.Over());
}

TEST(SharedSalvage, AsksToBeWokenByTheRecordThatItWaitsFor) {
  Stopped stopped;
  SharedSalvage salvage = stopped.Salvage();
  EXPECT_FALSE(salvage.PrepareToWait(kWaitingOnSocket)) << "there are records";
  Drain(salvage);
  ASSERT_TRUE(salvage.PrepareToWait(kWaitingOnSocket));
  std::vector<FutexWord> words(8);
  // The stopped producer's record, and whatever comes next.
  EXPECT_EQ(salvage.WaitWords(words), 2u);
  EXPECT_EQ(salvage.WaitWords(std::span(words).first(1)), 1u);
  EXPECT_EQ(FutexWaitAny(std::span(words).first(1), MonotonicNs()), FutexOutcome::kDeadline);
  EXPECT_TRUE(stopped.stopped.Submit(stopped.late).tell_socket);
  EXPECT_EQ(FutexWaitAny(std::span(words).first(1), MonotonicNs()), FutexOutcome::kLook);
  salvage.ClearWaiting();
  EXPECT_FALSE(stopped.stopped.Submit(*Fill(stopped.stopped, "s3")).tell_socket);
}

TEST(SharedSalvage, WakesConsumerAndProducersWhenTheRingIsGivenUp) {
  Stopped stopped;
  SharedConsumer consumer = stopped.ring.MakeConsumer();
  Drain(consumer);
  ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
  EXPECT_FALSE(consumer.retired());
  EXPECT_FALSE(stopped.a.retired());
  EXPECT_TRUE(stopped.ring.broker().Retire(kSharedRetiredOpen));
  EXPECT_TRUE(consumer.retired());
  EXPECT_TRUE(stopped.a.retired());
}

TEST(SharedSalvage, TheNextGenerationsPositionsAreBeyondAllOfThisOne) {
  Stopped stopped;
  while (Put(stopped.a, "more")) {
  }
  const uint64_t beyond = stopped.ring.broker().PositionBeyond();
  EXPECT_GT(beyond, 2 * stopped.ring.layout().size_bytes());
  ASSERT_OK_AND_ASSIGN(const SharedSections sections,
                       SharedSections::Create(stopped.ring.layout(), beyond));
  ASSERT_OK_AND_ASSIGN(SharedProducer producer,
                       SharedProducer::Map(stopped.ring.layout(), sections, 1));
  ASSERT_OK_AND_ASSIGN(SharedConsumer consumer,
                       SharedConsumer::Map(stopped.ring.layout(), sections));
  // Round the ring, from there.
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(Put(producer, "next"));
    SharedRecord record;
    ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
    EXPECT_GE(record.sequence, beyond);
    consumer.Release();
  }
}

// Kills a consumer before each step of its life, in a ring whose stopped producer goes on between
// the first records and the last ones, or never.
void KillConsumers(bool goes_on) {
  uint64_t steps = 0;
  for (bool died = true; died; ++steps) {
    Stopped stopped;
    if (goes_on) {
      SharedSalvage first = stopped.Salvage();
      Drain(first);
      first.Release();
      stopped.stopped.Submit(stopped.late);
    }
    died = test::DiesAt(steps, [&] {
      SharedSalvage salvage = stopped.Salvage();
      SharedRecord record;
      salvage.Next(&record);
      salvage.Release();
      Drain(salvage);
      salvage.Release();
      salvage.PrepareToWait(kWaitingOnSocket);
    });
    stopped.ring.ExpectAddsUp(stopped.reserved);
    const SharedOccupancy before = stopped.ring.broker().Occupancy();
    SharedSalvage successor = stopped.Salvage();
    // All that is there, but what waits behind the open record.
    EXPECT_EQ(Drain(successor).size(), before.resident_records - before.busy_records);
    successor.Release();
    stopped.ring.ExpectAddsUp(stopped.reserved);
    EXPECT_EQ(stopped.ring.broker().Occupancy().resident_records, before.busy_records);
    ASSERT_FALSE(::testing::Test::HasFailure()) << "killed at step " << steps;
  }
  EXPECT_GT(steps, 100u);
}

TEST(SharedSalvage, AConsumerKilledAtAnyStepLosesNothingAndTheCountsStayExact) {
  KillConsumers(/*goes_on=*/false);
  KillConsumers(/*goes_on=*/true);
}

TEST(SharedSalvage, SurvivesEveryWordChangedAtEveryMoment) {
  const uint64_t values[] = {0, 1, 64, 4097, UINT64_MAX, uint64_t{1} << 63};
  Stopped model;
  std::vector<uint64_t> offsets;
  for (uint64_t slot = 0; slot < 8; ++slot) {
    offsets.push_back(model.ring.layout().ControlOffset() + slot * 8);
  }
  offsets.push_back(kSharedTail);
  uint64_t poisoned = 0;
  for (const uint64_t offset : offsets) {
    for (const uint64_t value : values) {
      for (uint64_t moment = 0; moment < 24; ++moment) {
        Stopped stopped;
        const Mapping evil = Mapping::Map(stopped.ring.sections().ctl).value();
        SharedSalvage salvage = stopped.Salvage();
        const test::Ambush ambush(
            test::At(moment, [&] { evil.Word<uint64_t>(offset).StoreRelease(value); }));
        uint64_t records = 0;
        SharedRecord record;
        for (int call = 0; call < 10; ++call) {
          if (salvage.Next(&record) != SharedReadOutcome::kRecord) continue;
          records += 1;
          (void)TextOf(record);  // Stays in the ring, or the sanitizer and the kernel say so.
        }
        salvage.Release();
        (void)salvage.Over();
        poisoned += salvage.status().ok() ? 0 : 1;
        EXPECT_LE(records, 64u);
      }
    }
  }
  EXPECT_GT(poisoned, 50u);
}

TEST(SharedSalvage, BelievesNoProgressThatCannotBe) {
  const uint64_t values[] = {1, 63, 65, 4096 + 64, UINT64_MAX};
  for (const uint64_t value : values) {
    for (const uint64_t offset : {kSharedFrontier, SharedHold::OffsetOf(3)}) {
      Stopped stopped;
      const Mapping cons = Mapping::Map(stopped.ring.sections().cons).value();
      cons.Word<uint64_t>(kSharedFrontier).StoreRelease(offset == kSharedFrontier ? value : 128);
      cons.Word<uint64_t>(offset).StoreRelease(value);
      SharedSalvage salvage = stopped.Salvage();
      const std::vector<std::string> texts = Drain(salvage);
      EXPECT_LE(texts.size(), 4u);
      salvage.Release();
      (void)stopped.ring.broker().Occupancy();
    }
  }
}

}  // namespace
}  // namespace iob::shm
