// What the kill tests share: a sweep over every instruction of an operation, and a table of what
// the kills have hit.
//
//   for n = 0, 1, 2, ...:   attempt(n) := make a ring; kill a victim n instructions into its
//                           operation; name what it left behind; check all that must hold
//   until a victim is through.
//
//   A1  Every class of remains that a table names is met at least once, or the sweep has missed the
//       window that it is there for, and fails.
//   A2  An attempt shares nothing with the one before it: a failure names its instruction, and that
//       alone brings it back.
//
// An operation whose sweep would take too many steps is killed at every k-th instruction only. A
// class that is one instruction wide may then be missed, so two classes of those named will do.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "tests/support/shm_process.h"
#include "tests/support/single_step.h"

namespace iob::test {

// Longer than any wait takes that is going to end.
inline constexpr int64_t kPatienceNs = 5'000'000'000;

// How often each class of remains was met.
class KillTable {
 public:
  KillTable(std::string operation, std::initializer_list<const char*> classes)
      : operation_(std::move(operation)) {
    for (const char* name : classes) counts_.emplace_back(name, 0);
  }

  void Count(const std::string& name) {
    for (auto& [known, count] : counts_) {
      if (known == name) {
        count += 1;
        return;
      }
    }
    ADD_FAILURE() << operation_ << " left what no class is known for: " << name;
  }

  // Prints the table, behind `how` the kills were done, and holds it to A1 if so much can be asked.
  void Close(const std::string& how, bool every_class) const {
    std::string line;
    size_t met = 0;
    for (const auto& [name, count] : counts_) {
      line += (line.empty() ? "" : "; ") + std::to_string(count) + " " + name;
      met += count != 0 ? 1 : 0;
      EXPECT_TRUE(count != 0 || !every_class) << operation_ << " never left: " << name;
    }
    EXPECT_GE(met, std::min<size_t>(counts_.size(), 2)) << operation_;
    std::printf("%s (%s): %s\n", operation_.c_str(), how.c_str(), line.c_str());
  }

 private:
  std::string operation_;
  std::vector<std::pair<std::string, uint64_t>> counts_;
};

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = WhyNoSingleStep()) GTEST_SKIP() << why;
  }

  // `attempt(instructions, &run)` is one attempt, from making the ring to the last check. The first
  // one is not killed at all: what holds for the dead holds for those who live to the end.
  template <typename Attempt>
  void Sweep(std::initializer_list<const KillTable*> tables, Attempt attempt) {
    constexpr uint64_t kStepsMax = 200'000;  // A few seconds of them.
    StepRun run;
    attempt(kVictimInstructionsMax, &run);
    ASSERT_FALSE(HasFailure()) << "and nothing was killed";
    ASSERT_EQ(run.end, StepEnd::kEnded);
    const uint64_t instructions = run.instructions;
    const uint64_t stride = 1 + instructions * instructions / 2 / kStepsMax;
    uint64_t n = 0;
    do {
      attempt(n, &run);
      ASSERT_FALSE(HasFailure()) << "killed after " << n << " instructions";
      n += stride;
    } while (run.end == StepEnd::kKilled);
    const std::string how = std::to_string(instructions) + " instructions" +
                            (stride == 1 ? "" : ", every " + std::to_string(stride));
    for (const KillTable* table : tables) table->Close(how, stride == 1);
  }
};

// ---- Readers that sleep in another process ------------------------------------------------------

// A reader says which records it got by how it ends: kReaderGot + how many came before the last.
inline constexpr int kReaderGot = 10;

// What a reader gets that reads to the record of the living, kLast: records of `candidates` before
// it, in that order, none of them twice.
class Expected {
 public:
  explicit Expected(std::vector<std::string> candidates) : candidates_(std::move(candidates)) {}

  // False once kLast has come, or what should not.
  bool Take(const std::string& text) {
    if (text == kLast) return false;
    while (next_ < candidates_.size() && candidates_[next_] != text) ++next_;
    EXPECT_LT(next_, candidates_.size()) << "torn, twice or out of order: " << text;
    ++next_;
    ++taken_;
    return !::testing::Test::HasFailure();
  }
  // The child's way to say it. Nothing when an expectation failed.
  void Tell() const {
    std::fflush(nullptr);
    if (!::testing::Test::HasFailure()) ::_exit(kReaderGot + static_cast<int>(taken_));
  }

  static constexpr const char* kLast = "of the living";

 private:
  std::vector<std::string> candidates_;
  size_t next_ = 0;
  uint64_t taken_ = 0;
};

// Sleeps on `word`. Being left asleep is a failure.
inline void SleepOn(const shm::FutexWord& word) {
  EXPECT_EQ(shm::FutexWaitAny({&word, 1}, shm::MonotonicNs() + kPatienceNs),
            shm::FutexOutcome::kLook)
      << "left asleep";
}

}  // namespace iob::test
