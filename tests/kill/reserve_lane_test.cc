// A lane whose producer or consumer is killed at every instruction: its account is exact, its
// successor goes on where it was, and the other side, which sleeps, is woken by that.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "shm/ring_layout.h"
#include "tests/kill/kill_test.h"
#include "tests/support/shm_lane.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Expected;
using ::iob::test::Fill;
using ::iob::test::KillTable;
using ::iob::test::Lane;
using ::iob::test::Produce;
using ::iob::test::StepRun;
using ::iob::test::TextOf;

// ---- Producers ----------------------------------------------------------------------------------

// What of the victim's first publication is there.
const char* RemainsOf(const Lane& lane, const LaneCheckpoint& start) {
  if (lane.tail() != start.position) return "published";
  const auto slot_word = [&lane](uint64_t slot, uint64_t offset) {
    return lane.lane_section()
        .Word<uint64_t>(kLaneSlotsOffset + slot * 32 + offset)
        .LoadAcquire()
        .ForHintOnly();
  };
  const char* remains = "nothing stored";
  for (uint64_t slot = 0; slot < 2; ++slot) {
    const uint64_t position = slot_word(slot, 24);
    if (position != UINT64_MAX && position > start.position) return "slot complete";
    if (slot_word(slot, 0) > start.sequence) remains = "slot half filled";
  }
  return remains;
}

class LaneProducerKill : public test::KillTest {
 protected:
  using Operation = std::function<bool(LaneProducer&)>;

  // A lane with one record that was read (none if it is `fresh_`), a consumer that sleeps for more,
  // and a victim that does `operation`, whose records are of `candidates`. Gives what the account
  // of the dead says.
  void Attempt(uint64_t instructions, const std::vector<std::string>& candidates,
               const Operation& operation, KillTable& table, LaneAccount* ret_account,
               StepRun* ret_run) {
    Lane lane(PageBytes());
    LaneProducer first = lane.Producer();
    ASSERT_TRUE(fresh_ || Produce(first, "first") == LaneReserveOutcome::kReserved);
    const LaneCheckpoint start = first.finished();
    test::Turn asleep_soon;
    test::Child reader([&] { Read(lane, Expected(candidates), asleep_soon); });
    ASSERT_TRUE(asleep_soon.Take());
    *ret_run = test::KillAfter(instructions, [&] {
      LaneProducer victim = lane.Producer(start);
      test::Operate([&] { return operation(victim); });
    });
    table.Count(RemainsOf(lane, start));
    ASSERT_OK_AND_ASSIGN(*ret_account, ReadLaneAccount(lane.layout(), lane.sections().lane));
    const LaneCheckpoint& published = ret_account->published;
    const uint64_t visible = published.records() - start.records();
    EXPECT_EQ(published.position, lane.tail());
    LaneProducer successor = lane.Producer(published);
    ASSERT_EQ(Produce(successor, Expected::kLast), LaneReserveOutcome::kReserved);
    ASSERT_EQ(reader.Join(), test::kReaderGot + static_cast<int>(visible));
    // By the consumer's reading, the same.
    LaneConsumer consumer = lane.Consumer();
    ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer.SettleLedger());
    EXPECT_EQ(settled.position, successor.finished().position);
    EXPECT_EQ(settled.sequence, successor.finished().sequence);
    EXPECT_EQ(settled.discards, successor.finished().discards);
    EXPECT_EQ(settled.payload_bytes, successor.finished().payload_bytes);
    EXPECT_EQ(settled.records(), start.records() + visible + 1);
  }

  bool fresh_ = false;

 private:
  static void Read(const Lane& lane, Expected expected, test::Turn& asleep_soon) {
    LaneConsumer consumer = lane.Consumer();
    SharedRecord record;
    if (lane.tail() != 0) {
      ASSERT_EQ(consumer.Next(&record), LaneReadOutcome::kRecord);
      ASSERT_EQ(TextOf(record), "first");
      consumer.Release();
    }
    bool told = false;
    while (!HasFailure()) {
      while (consumer.Next(&record) == LaneReadOutcome::kRecord) {
        if (expected.Take(TextOf(record))) continue;
        consumer.Release();
        return expected.Tell();
      }
      ASSERT_THAT(consumer.status(), test::IsOk());
      consumer.Release();
      const bool sleeps = consumer.PrepareToWait(kWaitingOnFutex);
      if (!told) asleep_soon.Give();
      told = true;
      if (sleeps) test::SleepOn(consumer.TailWord());
      consumer.ClearWaiting();
    }
  }
};

bool ReserveAndFill(LaneProducer& producer, const std::string& text,
                    LaneReservation* ret_reservation) {
  if (producer.Reserve(text.size(), ret_reservation) != LaneReserveOutcome::kReserved) return false;
  Fill(*ret_reservation, text);
  return true;
}

class LaneSubmitKill : public LaneProducerKill {
 protected:
  void SweepSubmit(const char* name) {
    KillTable table(name, {"nothing stored", "slot half filled", "slot complete", "published"});
    const std::string text = test::PatternText(1, 100);
    Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
      LaneAccount account;
      Attempt(
          instructions, {text},
          [&text](LaneProducer& victim) {
            LaneReservation reservation;
            if (!ReserveAndFill(victim, text, &reservation)) return false;
            victim.Submit(reservation);
            return true;
          },
          table, &account, ret_run);
      EXPECT_EQ(account.discarded_records, 0u);
    });
  }
};

TEST_F(LaneSubmitKill, ARecordIsThereOrNot) { SweepSubmit("lane: reserve, submit"); }

// Both slots say position 0 then: only one of them may count.
TEST_F(LaneSubmitKill, TheFirstRecordOfALaneIsThereOrNot) {
  fresh_ = true;
  SweepSubmit("lane: reserve, submit, the first ever");
}

TEST_F(LaneProducerKill, ADiscardLeavesNothingOrARecordToSkip) {
  KillTable table("lane: reserve two, discard the first, submit the second",
                  {"nothing stored", "slot half filled", "slot complete", "published"});
  KillTable records("of these", {"nothing", "the discard", "both"});
  const std::string text = test::PatternText(2, 60);
  Sweep({&table, &records}, [&](uint64_t instructions, StepRun* ret_run) {
    LaneAccount account;
    Attempt(
        instructions, {text},
        [&text](LaneProducer& victim) {
          LaneReservation discarded;
          LaneReservation submitted;
          if (!ReserveAndFill(victim, "no", &discarded)) return false;
          if (!ReserveAndFill(victim, text, &submitted)) return false;
          victim.Discard(discarded);
          victim.Submit(submitted);
          return true;
        },
        table, &account, ret_run);
    const LaneCheckpoint& published = account.published;
    records.Count(published.records() == 2  ? "both"
                  : published.discards == 1 ? "the discard"
                                            : "nothing");
    EXPECT_LE(published.records() - 1, published.discards)
        << "the first was open before the second";
  });
}

TEST_F(LaneProducerKill, TheNewestIsTakenBackWithoutATrace) {
  KillTable table("lane: reserve, discard", {"nothing stored"});
  KillTable counts("of these", {"not counted", "counted"});
  Sweep({&table, &counts}, [&](uint64_t instructions, StepRun* ret_run) {
    LaneAccount account;
    Attempt(
        instructions, {},
        [](LaneProducer& victim) {
          LaneReservation reservation;
          if (!ReserveAndFill(victim, "taken back", &reservation)) return false;
          victim.Discard(reservation);
          return true;
        },
        table, &account, ret_run);
    EXPECT_EQ(account.published.sequence, 1u);
    EXPECT_EQ(account.published.discards, 0u);
    counts.Count(account.discarded_records == 1 ? "counted" : "not counted");
  });
}

TEST_F(LaneProducerKill, RecordsSubmittedOutOfOrderAppearTogether) {
  KillTable table("lane: reserve two, submit in reverse",
                  {"nothing stored", "slot half filled", "slot complete", "published"});
  const std::vector<std::string> texts = {test::PatternText(3, 40), test::PatternText(4, 90)};
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    LaneAccount account;
    Attempt(
        instructions, texts,
        [&texts](LaneProducer& victim) {
          LaneReservation older;
          LaneReservation newer;
          if (!ReserveAndFill(victim, texts[0], &older)) return false;
          if (!ReserveAndFill(victim, texts[1], &newer)) return false;
          victim.Submit(newer);
          victim.Submit(older);
          return true;
        },
        table, &account, ret_run);
    EXPECT_NE(account.published.records(), 2u) << "one without the other";
  });
}

// ---- Consumers ----------------------------------------------------------------------------------

class LaneConsumerKill : public test::KillTest, public ::testing::WithParamInterface<bool> {
 protected:
  static bool clears() { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Clearing, LaneConsumerKill, ::testing::Bool());

// Submits `texts`, with a record that is discarded behind the first.
void ProduceAll(LaneProducer& producer, const std::vector<std::string>& texts) {
  std::vector<LaneReservation> open(texts.size());
  LaneReservation discarded;
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_TRUE(ReserveAndFill(producer, texts[i], &open[i]));
    if (i != 0) continue;
    ASSERT_TRUE(ReserveAndFill(producer, "no", &discarded));
  }
  producer.Discard(discarded);
  for (const LaneReservation& reservation : open) producer.Submit(reservation);
}

// The victim's operation: two records, given back, and one more.
bool ReadAll(LaneConsumer& consumer) {
  SharedRecord record;
  if (consumer.Next(&record) != LaneReadOutcome::kRecord) return false;
  if (consumer.Next(&record) != LaneReadOutcome::kRecord) return false;
  consumer.Release();
  if (consumer.Next(&record) != LaneReadOutcome::kRecord) return false;
  consumer.Release();
  return true;
}

TEST_P(LaneConsumerKill, WhatWasGivenBackStaysSoAndTheRestComesAgain) {
  KillTable table(
      clears() ? "lane: next, release, clearing" : "lane: next, release",
      {"nothing released", "slot complete, head behind", "two released", "three released"});
  // Each longer than a batch that is cleared at once.
  const std::vector<std::string> texts = {test::PatternText(5, 600), test::PatternText(6, 700),
                                          test::PatternText(7, 800)};
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    ProduceAll(producer, texts);
    *ret_run = test::KillAfter(instructions, [&] {
      LaneConsumer victim = lane.Consumer(clears());
      test::Operate([&] { return ReadAll(victim); });
    });
    const uint64_t head = lane.head();
    LaneConsumer successor = lane.Consumer(clears());
    const LaneCheckpoint resumed = successor.consumed();
    ASSERT_GE(resumed.position, head);
    ASSERT_EQ(lane.head(), resumed.position) << "the dead one's release is given back";
    ASSERT_NE(resumed.records(), 1u) << "a release counts as a whole";
    table.Count(head != resumed.position ? "slot complete, head behind"
                : resumed.records() == 0 ? "nothing released"
                : resumed.records() == 2 ? "two released"
                                         : "three released");
    ASSERT_EQ(resumed.discards, resumed.records() == 0 ? 0u : 1u);
    const std::vector<std::string> rest(texts.begin() + static_cast<int64_t>(resumed.records()),
                                        texts.end());
    ASSERT_EQ(test::Drain(successor), rest);
    ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, successor.SettleLedger());
    EXPECT_EQ(settled.records(), producer.finished().records());
    EXPECT_EQ(settled.payload_bytes, producer.finished().payload_bytes);
    // The living producer gets all of its room back, and finds nothing wrong.
    EXPECT_FALSE(successor.PrepareToWait(kWaitingOnFutex) && clears() &&
                 successor.consumed().position != lane.head())
        << "room is held back by a sleeper";
    LaneReservation whole;
    EXPECT_EQ(producer.Reserve(lane.layout().payload_bytes_max(), &whole),
              LaneReserveOutcome::kReserved);
    EXPECT_EQ(producer.violations(), 0u);
  });
}

}  // namespace
}  // namespace iob::shm
