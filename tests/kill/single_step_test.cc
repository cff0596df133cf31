// The harness itself: a victim is cut short where it should be, and never somewhere else.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "shm/mapping.h"
#include "tests/kill/kill_test.h"
#include "tests/support/shm_ring.h"

namespace iob::test {
namespace {

class SingleStep : public KillTest {
 protected:
  SingleStep() : word_memfd_(MakeMemfd(shm::PageBytes())) {}

  shm::SealedMemfd word_memfd_;
};

TEST_F(SingleStep, MeetsEveryStateBetweenTwoStoresInOrder) {
  const shm::Mapping page = shm::Mapping::Map(word_memfd_).value();
  auto& word = page.Word<uint64_t>(0);
  std::vector<uint64_t> left;
  StepRun run{.end = StepEnd::kKilled, .instructions = 0};
  for (uint64_t n = 0; run.end == StepEnd::kKilled; ++n) {
    word.StoreRelease(0);
    run = KillAfter(n, [this] {
      const shm::Mapping mine = shm::Mapping::Map(word_memfd_).value();
      auto& shared = mine.Word<uint64_t>(0);
      Operate([&shared] {
        for (uint64_t value = 1; value <= 3; ++value) shared.StoreRelease(value);
        return true;
      });
    });
    ASSERT_FALSE(HasFailure()) << n;
    const uint64_t value = word.LoadAcquire().ForHintOnly();
    if (left.empty() || left.back() != value) left.push_back(value);
  }
  EXPECT_EQ(left, (std::vector<uint64_t>{0, 1, 2, 3}));
}

TEST_F(SingleStep, KillsAfterTheSameInstructionEachTime) {
  const auto body = [] { Operate([] { return ::getpid() > 0; }); };
  const StepRun whole = KillAfter(kVictimInstructionsMax, body);
  ASSERT_EQ(whole.end, StepEnd::kEnded);
  ASSERT_GT(whole.instructions, 5u);
  const StepRun all_but_one = KillAfter(whole.instructions - 1, body);
  EXPECT_EQ(all_but_one.end, StepEnd::kKilled);
  EXPECT_EQ(all_but_one.instructions, whole.instructions - 1);
  EXPECT_EQ(KillAfter(0, body).end, StepEnd::kKilled);
}

}  // namespace
}  // namespace iob::test
