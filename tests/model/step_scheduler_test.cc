// The scheduler itself: that it finds what is wrong with small protocols that are wrong in known
// ways, with as few pre-emptions as it takes, and nothing in those that are right.
#include "tests/support/step_scheduler.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "shm/futex.h"
#include "shm/hostile.h"
#include "tests/support/shm_ring.h"

namespace iob::test {
namespace {

using shm::SharedAtomic;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

uint32_t Get(const SharedAtomic<uint32_t>& word) { return word.LoadAcquire().ForHintOnly(); }

// Two roles that add one to a word, by load and store.
void AddTwice(StepRun& run) {
  SharedAtomic<uint32_t> word;
  word.StoreRelaxed(0);
  const auto add = [&word] { word.StoreRelease(Get(word) + 1); };
  run.AddRole("first", add);
  run.AddRole("second", add);
  if (run.Go()) run.Expect(Get(word) == 2, "an addition got lost");
}

TEST(StepScheduler, FindsALostUpdateWithOnePreemption) {
  EXPECT_EQ(Explore({.preemptions_max = 0, .deaths_max = 0}, AddTwice).failure, "");
  ExpectFinds({.preemptions_max = 1, .deaths_max = 0}, AddTwice, "an addition got lost");
}

// Two roles of two steps. Without pre-emptions either goes first; with one, it may also stop before
// either of its steps, and then goes on behind the other.
TEST(StepScheduler, VisitsEveryOrderOnce) {
  const auto body = [](StepRun& run) {
    const auto two = [&run] {
      run.Step();
      run.Step();
    };
    run.AddRole("first", two);
    run.AddRole("second", two);
    run.Go();
  };
  EXPECT_EQ(Explore({.preemptions_max = 0, .deaths_max = 0}, body).schedules, 2u);
  EXPECT_EQ(Explore({.preemptions_max = 1, .deaths_max = 0}, body).schedules, 6u);
}

// A waiter and a waker of a word, the waiter with a look after its flag or without.
void Doze(StepRun& run, bool looks_again) {
  SharedAtomic<uint32_t> word;
  SharedAtomic<uint32_t> waiting;
  word.StoreRelaxed(0);
  waiting.StoreRelaxed(0);
  run.AddRole("waiter", [&] {
    uint32_t seen = Get(word);
    if (seen != 0) return;
    waiting.StoreRelaxed(1);
    if (looks_again) seen = Get(word);
    if (seen != 0) return;
    const shm::FutexWord futex = {.address = waiting.address(), .expected = 1};
    shm::FutexWaitAny({&futex, 1}, kNever);
  });
  run.AddRole("waker", [&] {
    word.StoreRelease(1);
    if (Get(waiting) != 0) shm::FutexWakeAll(waiting.address());
  });
  run.Go();
}

TEST(StepScheduler, FindsWhoIsLeftAsleep) {
  const StepLimits limits{.preemptions_max = 1, .deaths_max = 0};
  ExpectFinds(
      limits, [](StepRun& run) { Doze(run, false); }, "waiter left asleep");
}

// The wake may still come between the last look and the sleep, and the futex does not compare with
// what is looked at: right protocols sleep on the word that changes.
TEST(StepScheduler, FindsTheGapBetweenLookAndSleep) {
  const StepLimits limits{.preemptions_max = 1, .deaths_max = 0};
  ExpectFinds(
      limits, [](StepRun& run) { Doze(run, true); }, "waiter left asleep");
}

TEST(StepScheduler, WakesOnlyWhoWaitsForThatWord) {
  // Of two sections, both words at offset 0: their addresses differ by pages only.
  const shm::SealedMemfd one = MakeMemfd(shm::PageBytes());
  const shm::SealedMemfd other = MakeMemfd(shm::PageBytes());
  const shm::Mapping writing = shm::Mapping::Map(one).value();
  const shm::ReadOnlyMapping reading = shm::ReadOnlyMapping::Map(one).value();
  const shm::Mapping elsewhere = shm::Mapping::Map(other).value();
  const auto wake = [&](const shm::Mapping& woken) {
    return [&](StepRun& run) {
      writing.Word<uint32_t>(0).StoreRelaxed(0);
      run.AddRole("sleeper", [&] {
        const shm::FutexWord futex = {.address = reading.Word<uint32_t>(0).address(),
                                      .expected = 0};
        shm::FutexWaitAny({&futex, 1}, kNever);
      });
      run.AddRole("waker", [&] {
        writing.Word<uint32_t>(0).StoreRelease(1);
        shm::FutexWakeAll(woken.Word<uint32_t>(0).address());
      });
      run.Go();
    };
  };
  const StepLimits limits{.preemptions_max = 2, .deaths_max = 0};
  ExpectHolds(limits, wake(writing));
  ExpectFinds(limits, wake(elsewhere), "sleeper left asleep");
}

TEST(StepScheduler, KillsBeforeEveryStoreAndAtTheEnd) {
  uint64_t counts_seen = 0;  // A bit for each count that a death has left.
  const auto body = [&](StepRun& run) {
    SharedAtomic<uint32_t> word;
    word.StoreRelaxed(0);
    run.AddRole(
        "victim",
        [&] {
          for (uint32_t i = 1; i <= 3; ++i) word.StoreRelease(i);
        },
        StepRun::Mortal::kYes);
    run.AddRole("heir", [&] {
      if (run.AwaitEnd(0)) counts_seen |= uint64_t{1} << Get(word);
    });
    run.Go();
  };
  ExpectHolds({.preemptions_max = 0, .deaths_max = 1}, body);
  EXPECT_EQ(counts_seen, 0b1111u);
}

TEST(StepScheduler, TellsWhenARunGoesRoundInCircles) {
  ExpectFinds(
      {.preemptions_max = 1, .deaths_max = 0},
      [](StepRun& run) {
        run.AddRole("spinner", [&run] {
          for (;;) run.Step();
        });
        run.Go();
      },
      "does not come to an end");
}

TEST(StepScheduler, TellsWhenARunIsNotRepeatable) {
  int runs = 0;
  const auto body = [&runs](StepRun& run) {
    runs += 1;
    run.AddRole("first", [&run] { run.Step(); });
    run.AddRole("second", [] {});
    if (runs > 1) run.AddRole("third", [] {});
    run.Go();
  };
  EXPECT_EQ(Explore({.preemptions_max = 1, .deaths_max = 0}, body).failure,
            "goes another way than before");
}

}  // namespace
}  // namespace iob::test
