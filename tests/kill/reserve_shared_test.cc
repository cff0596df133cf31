// A shared ring whose producers and consumer are killed at every instruction.
//
//   owner 1, the living one   stores the first record, and one after each death, before recovery
//   owners 2 and 3            the victims
//   the reader                sleeps in its own process on the record behind the first
//
// Whatever a victim leaves: the living one stores at once, recovery lets the reader go on and wakes
// it, and every record that was committed arrives, once and in order.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"
#include "shm/reserve_shared_recovery.h"
#include "shm/ring_layout.h"
#include "tests/kill/kill_test.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Expected;
using ::iob::test::Fill;
using ::iob::test::KillTable;
using ::iob::test::Put;
using ::iob::test::SharedRing;
using ::iob::test::StepRun;
using ::iob::test::TextOf;

constexpr uint32_t kLiving = 1;
constexpr uint32_t kVictim = 2;
constexpr uint32_t kSecondVictim = 3;
constexpr uint64_t kRingBytes = 4096;
constexpr uint64_t kGranuleBytes = 64;

using Operation = std::function<bool(SharedProducer&)>;

// CTL as somebody sees it who changes nothing.
class Look {
 public:
  explicit Look(const SharedRing<>& ring)
      : layout_(ring.layout()), ctl_(Mapping::Map(ring.sections().ctl).value()) {}

  uint64_t tail() const { return ctl_.Word<uint64_t>(kSharedTail).LoadAcquire().ForHintOnly(); }
  ControlWord At(uint64_t position) const {
    return ControlWord::Load(
        ctl_.Word<uint64_t>(layout_.ControlOffset() + layout_.SlotOf(position) * 8));
  }
  bool Claimed(uint64_t position) const {
    return SharedLap<kSharedLapBits>::Claims(layout_, position, At(position));
  }
  uint64_t intent(uint32_t owner) const {
    return SharedLedgerLine(ctl_, layout_, owner).Get(SharedLedgerLine::kIntent);
  }

 private:
  SharedLayout layout_;
  Mapping ctl_;
};

// What became of the claim that `kVictim` was to make at `position`.
std::string RemainsOf(const SharedRing<>& ring, uint64_t position) {
  const Look look(ring);
  const bool intends = look.intent(kVictim) != 0;
  if (!look.Claimed(position)) return "unclaimed";
  switch (look.At(position).state()) {
    case SlotState::kNever:
      break;
    case SlotState::kBusy:
      if (look.tail() == position) return "claimed, tail behind";
      return intends ? "open, about to be finished" : "open";
    case SlotState::kCommit:
    case SlotState::kDiscard:
      return intends ? "finished, being counted" : "finished and counted";
  }
  return "nothing that can be";
}

// Reads to the record of the living, asleep in between.
void ReadToLast(const SharedRing<>& ring, Expected expected, test::Turn& asleep_soon) {
  SharedConsumer consumer = ring.MakeConsumer();
  SharedRecord record;
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  ASSERT_EQ(TextOf(record), "first");
  consumer.Release();
  bool told = false;
  while (!::testing::Test::HasFailure()) {
    while (consumer.Next(&record) == SharedReadOutcome::kRecord) {
      if (expected.Take(TextOf(record))) continue;
      consumer.Release();
      return expected.Tell();
    }
    ASSERT_THAT(consumer.status(), test::IsOk());
    consumer.Release();
    const bool sleeps = consumer.PrepareToWait(kWaitingOnFutex);
    if (!told) asleep_soon.Give();
    told = true;
    if (sleeps) test::SleepOn(consumer.WaitWord());
    consumer.ClearWaiting();
  }
}

// One ring, one reader, one living producer. The first record is at position 0.
struct Scene {
  explicit Scene(std::vector<std::string> candidates)
      : ring(kRingBytes),
        living(ring.MakeProducer(kLiving)),
        first_is_there(Put(living, "first")),
        reader([&] { ReadToLast(ring, Expected(std::move(candidates)), asleep_soon); }) {
    EXPECT_TRUE(first_is_there);
    EXPECT_TRUE(asleep_soon.Take());
  }

  StepRun Kill(uint32_t owner, uint64_t instructions, const Operation& operation) {
    return test::KillAfter(instructions, [&] {
      SharedProducer victim = ring.MakeProducer(owner);
      test::Operate([&] { return operation(victim); });
    });
  }
  void ExpectRead(uint64_t records) {
    EXPECT_EQ(reader.Join(), test::kReaderGot + static_cast<int>(records));
  }

  SharedRing<> ring;
  SharedProducer living;
  bool first_is_there;
  test::Turn asleep_soon;
  test::Child reader;
};

class SharedKill : public test::KillTest {
 protected:
  // One victim. What it claims, if it does, is at kGranuleBytes.
  static void Attempt(uint64_t instructions, const std::string& text, const Operation& operation,
                      KillTable& table, StepRun* ret_run) {
    Scene scene({text});
    *ret_run = scene.Kill(kVictim, instructions, operation);
    const std::string remains = RemainsOf(scene.ring, kGranuleBytes);
    table.Count(remains);
    const bool claimed = remains != "unclaimed";
    const SlotState state =
        claimed ? Look(scene.ring).At(kGranuleBytes).state() : SlotState::kNever;
    const bool committed = state == SlotState::kCommit;
    const bool busy = state == SlotState::kBusy;
    // Nobody waits for the dead.
    ASSERT_TRUE(Put(scene.living, Expected::kLast));
    if (!claimed) scene.ExpectRead(0);
    ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, scene.ring.broker().Recover(kVictim));
    EXPECT_EQ(recovered.discarded_records, busy ? 1u : 0u);
    if (claimed) scene.ExpectRead(committed ? 1 : 0);
    scene.ring.ExpectAddsUp(claimed ? 3 : 2);
    const SharedLedger ledger = scene.ring.broker().LedgerOf(kVictim);
    EXPECT_EQ(ledger.stored_records, committed ? 1u : 0u);
    EXPECT_EQ(ledger.stored_bytes, committed ? text.size() : 0u);
    EXPECT_EQ(ledger.discarded_records, state == SlotState::kDiscard ? 1u : 0u);
    EXPECT_EQ(ledger.recovered_records, busy ? 1u : 0u);
    EXPECT_FALSE(scene.ring.broker().FirstBusy().has_value());
    // The number of the dead is free for another, who goes on counting.
    SharedProducer successor = scene.ring.MakeProducer(kVictim);
    EXPECT_TRUE(Put(successor, "of the successor"));
    scene.ring.ExpectAddsUp(claimed ? 4 : 3);
  }
};

Operation SubmitOf(const std::string& text) {
  return [text](SharedProducer& producer) { return Put(producer, text); };
}

TEST_F(SharedKill, ASubmittedRecordIsThereOrNot) {
  KillTable table("shared: reserve, submit",
                  {"unclaimed", "claimed, tail behind", "open", "open, about to be finished",
                   "finished, being counted", "finished and counted"});
  const std::string text = test::PatternText(1, 150);
  const Operation operation = SubmitOf(text);
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    Attempt(instructions, text, operation, table, ret_run);
  });
}

TEST_F(SharedKill, ADiscardedRecordIsSkipped) {
  KillTable table("shared: reserve, discard",
                  {"unclaimed", "claimed, tail behind", "open", "open, about to be finished",
                   "finished, being counted", "finished and counted"});
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    Attempt(
        instructions, "never seen",
        [](SharedProducer& producer) {
          const auto reservation = Fill(producer, "never seen");
          return reservation && producer.Discard(*reservation).done;
        },
        table, ret_run);
  });
}

// ---- Two victims --------------------------------------------------------------------------------

// The claims that lie behind the first record.
struct Remains {
  uint64_t claims = 0;
  uint64_t busy = 0;
  uint64_t committed = 0;
  bool tail_behind = false;
};

Remains RemainsOfTwo(const SharedRing<>& ring) {
  const Look look(ring);
  Remains remains;
  uint64_t position = kGranuleBytes;
  while (look.Claimed(position)) {
    const ControlWord word = look.At(position);
    remains.claims += 1;
    remains.busy += word.state() == SlotState::kBusy ? 1 : 0;
    remains.committed += word.state() == SlotState::kCommit ? 1 : 0;
    position += ring.layout().Footprint(word.payload_bytes());
  }
  remains.tail_behind = look.tail() != position;
  return remains;
}

// How many of its `instructions` an operation needs for its claim and nothing more.
uint64_t InstructionsToClaim(const Operation& operation, uint64_t instructions) {
  uint64_t too_few = 0;
  uint64_t enough = instructions;
  while (enough - too_few > 1) {
    const uint64_t middle = too_few + (enough - too_few) / 2;
    SharedRing<> ring(kRingBytes);
    SharedProducer living = ring.MakeProducer(kLiving);
    EXPECT_TRUE(Put(living, "first"));
    (void)test::KillAfter(middle, [&] {
      SharedProducer victim = ring.MakeProducer(kVictim);
      test::Operate([&] { return operation(victim); });
    });
    (RemainsOf(ring, kGranuleBytes) == "unclaimed" ? too_few : enough) = middle;
  }
  return enough;
}

class TwoVictimsKill : public SharedKill {
 protected:
  struct Runs {
    StepRun first;
    StepRun second;
  };
  void AttemptTwo(uint64_t first_instructions, uint64_t second_instructions, Runs* ret_runs) {
    Scene scene({texts_[0], texts_[1]});
    ret_runs->first = scene.Kill(kVictim, first_instructions, SubmitOf(texts_[0]));
    const bool was_behind = RemainsOfTwo(scene.ring).tail_behind;
    ret_runs->second = scene.Kill(kSecondVictim, second_instructions, SubmitOf(texts_[1]));
    const Remains remains = RemainsOfTwo(scene.ring);
    open_.Count(remains.busy == 0 ? "none" : remains.busy == 1 ? "one" : "both");
    if (was_behind) helped_.Count(remains.claims == 2 ? "and claimed" : "or not yet");
    ASSERT_TRUE(Put(scene.living, Expected::kLast));
    // The later death is noticed first.
    ASSERT_OK_AND_ASSIGN(const SharedRecovered second, scene.ring.broker().Recover(kSecondVictim));
    ASSERT_OK_AND_ASSIGN(const SharedRecovered first, scene.ring.broker().Recover(kVictim));
    EXPECT_EQ(first.discarded_records + second.discarded_records, remains.busy);
    scene.ExpectRead(remains.committed);
    scene.ring.ExpectAddsUp(2 + remains.claims);
    EXPECT_EQ(scene.ring.broker().TotalLedger().stored_records, 2 + remains.committed);
  }

  const std::string texts_[2] = {test::PatternText(2, 30), test::PatternText(3, 200)};
  KillTable open_{"shared: two victims, reservations left open", {"none", "one", "both"}};
  KillTable helped_{"the second helped the first's claim", {"or not yet", "and claimed"}};
};

TEST_F(TwoVictimsKill, HoldUpNobody) {
  constexpr uint64_t kFirstPoints = 7;
  constexpr uint64_t kSecondPoints = 30;
  Runs whole;
  AttemptTwo(test::kVictimInstructionsMax, test::kVictimInstructionsMax, &whole);
  ASSERT_FALSE(HasFailure());
  // A window of its own: too narrow to be met by chance.
  std::vector<uint64_t> first_points = {
      InstructionsToClaim(SubmitOf(texts_[0]), whole.first.instructions)};
  for (uint64_t point = 1; point <= kFirstPoints; ++point)
    first_points.push_back(point * whole.first.instructions / kFirstPoints);
  for (const uint64_t first : first_points) {
    for (uint64_t point = 0; point <= kSecondPoints; ++point) {
      const uint64_t second = point * whole.second.instructions / kSecondPoints;
      Runs runs;
      AttemptTwo(first, second, &runs);
      ASSERT_FALSE(HasFailure()) << "after " << first << " and " << second << " instructions";
    }
  }
  const std::string how = std::to_string(first_points.size() * (kSecondPoints + 1)) + " pairs";
  open_.Close(how, true);
  helped_.Close(how, true);
}

// ---- Consumers ----------------------------------------------------------------------------------

// The victim's operation: one record, given back, and another, with a discarded one in between.
bool ReadAll(SharedConsumer& consumer) {
  SharedRecord record;
  if (consumer.Next(&record) != SharedReadOutcome::kRecord) return false;
  consumer.Release();
  if (consumer.Next(&record) != SharedReadOutcome::kRecord) return false;
  consumer.Release();
  return true;
}

std::string RemainsOfConsumer(const SharedRing<>& ring, uint64_t consumed_records) {
  const Mapping cons = Mapping::Map(ring.sections().cons).value();
  const auto word = [&cons](uint64_t offset) {
    return cons.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
  };
  if (word(kSharedIntentHead) > word(kSharedHead)) return "about to release";
  if (word(kSharedConsumedRecords) != consumed_records) return "released, not counted";
  return consumed_records == 0   ? "nothing released"
         : consumed_records == 1 ? "one released"
                                 : "two released";
}

using SharedConsumerKill = test::KillTest;

TEST_F(SharedConsumerKill, WhatWasGivenBackStaysSoAndTheRestComesAgain) {
  KillTable table("shared: next, release",
                  {"nothing released", "about to release", "released, not counted", "one released",
                   "two released"});
  const std::vector<std::string> texts = {test::PatternText(4, 100), test::PatternText(5, 700)};
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    SharedRing<> ring(kRingBytes);
    SharedProducer living = ring.MakeProducer(kLiving);
    ASSERT_TRUE(Put(living, texts[0]));
    const auto discarded = Fill(living, "no");
    ASSERT_TRUE(discarded && living.Discard(*discarded).done);
    ASSERT_TRUE(Put(living, texts[1]));
    *ret_run = test::KillAfter(instructions, [&] {
      SharedConsumer victim = ring.MakeConsumer();
      test::Operate([&] { return ReadAll(victim); });
    });
    ring.ExpectAddsUp(3);
    const uint64_t consumed = ring.broker().Occupancy().consumed_records;
    table.Count(RemainsOfConsumer(ring, consumed));
    ASSERT_LE(consumed, texts.size());
    SharedConsumer successor = ring.MakeConsumer();
    ASSERT_EQ(successor.consumed_records(), consumed);
    const std::vector<std::string> rest(texts.begin() + static_cast<int64_t>(consumed),
                                        texts.end());
    ASSERT_EQ(test::Drain(successor), rest);
    successor.Release();
    ring.ExpectAddsUp(3);
    EXPECT_EQ(ring.broker().Occupancy().consumed_records, texts.size());
    // The living producer gets all of its room back, and finds nothing wrong.
    SharedReservation whole;
    EXPECT_EQ(living.Reserve(ring.layout().payload_bytes_max(), &whole),
              SharedReserveOutcome::kReserved);
    EXPECT_EQ(living.head_violations(), 0u);
  });
}

}  // namespace
}  // namespace iob::shm
