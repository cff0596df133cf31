// Waiter: when it spins, how long at most, and that it sleeps on both words.

#include "shm/waiter.h"

#include <gtest/gtest.h>

#include "shm/mapping.h"
#include "shm/memfd.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

constexpr int64_t kFarNs = INT64_MAX;

// How often a wait that is never met looks.
int LooksOfAMiss(Waiter& waiter) {
  int looks = 0;
  EXPECT_FALSE(waiter.Spin(
      [&looks] {
        ++looks;
        return false;
      },
      kFarNs));
  return looks;
}

// A wait that is met at the second look.
void Hit(Waiter& waiter) {
  int looks = 0;
  EXPECT_TRUE(waiter.Spin([&looks] { return ++looks == 2; }, kFarNs));
}

TEST(Waiter, LooksBeforeAnythingElse) {
  Waiter waiter(true);
  EXPECT_TRUE(waiter.Spin([] { return true; }, 0));
}

TEST(Waiter, NeverSpinsOnOneProcessor) {
  Waiter waiter(false);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(LooksOfAMiss(waiter), 1);
}

TEST(Waiter, StopsSpinningWhereItNeverPays) {
  Waiter waiter(true);
  EXPECT_GT(LooksOfAMiss(waiter), 1);  // The first wait is a probe.
  for (uint32_t i = 1; i < Waiter::kProbeEvery; ++i) EXPECT_EQ(LooksOfAMiss(waiter), 1);
  EXPECT_GT(LooksOfAMiss(waiter), 1);  // And so is one in kProbeEvery.
}

TEST(Waiter, SpinsAgainAfterAHitAndGivesUpAfterMisses) {
  Waiter waiter(true);
  Hit(waiter);
  EXPECT_GT(LooksOfAMiss(waiter), 1);
  EXPECT_GT(LooksOfAMiss(waiter), 1);
  // One hit is worth two misses.
  EXPECT_EQ(LooksOfAMiss(waiter), 1);
}

TEST(Waiter, DoesNotSpinPastTheDeadline) {
  Waiter waiter(true);
  Hit(waiter);
  int looks = 0;
  EXPECT_FALSE(waiter.Spin(
      [&looks] {
        ++looks;
        return false;
      },
      MonotonicNs() - 1));
  // One round between two looks at the clock, and the first look.
  EXPECT_LE(looks, 33);
}

TEST(Waiter, SleepsOnBothWords) {
  auto fresh = Memfd::Create("waiter");
  ASSERT_TRUE(fresh.ok());
  const auto memfd = (*std::move(fresh)).SealSize(PageBytes());
  ASSERT_TRUE(memfd.ok());
  const auto mapping = Mapping::Map(*memfd);
  ASSERT_TRUE(mapping.ok());
  SharedAtomic<uint32_t>& data = mapping->Word<uint32_t>(0);
  SharedAtomic<uint32_t>& signal = mapping->Word<uint32_t>(64);
  const FutexWord same_data{.address = data.address(), .expected = 0};
  const FutexWord same_signal{.address = signal.address(), .expected = 0};
  EXPECT_EQ(Waiter::Sleep(same_data, same_signal, MonotonicNs() + 1'000'000),
            FutexOutcome::kDeadline);
  // Either word having changed already ends the sleep at once.
  data.StoreRelease(1);
  EXPECT_EQ(Waiter::Sleep(same_data, same_signal, kFarNs), FutexOutcome::kLook);
  data.StoreRelease(0);
  signal.StoreRelease(1);
  EXPECT_EQ(Waiter::Sleep(same_data, same_signal, kFarNs), FutexOutcome::kLook);
}

}  // namespace
}  // namespace iob::shm
