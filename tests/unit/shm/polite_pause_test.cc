// PolitePause: long between the looks of a stream, short between single records.

#include "shm/polite_pause.h"

#include <gtest/gtest.h>

namespace iob::shm {
namespace {

constexpr int64_t kMin = PolitePause::kPauseNsMin;
constexpr int64_t kMax = PolitePause::kPauseNsMax;

// Pauses in a stream with a record each `record_ns`; returns what the last of them lasts.
int64_t AfterStream(PolitePause& pause, uint64_t& taken, int64_t record_ns) {
  int64_t pause_ns = pause.NextNs(taken);
  for (int i = 0; i < 32; ++i) {
    taken += static_cast<uint64_t>(pause_ns / record_ns);
    pause_ns = pause.NextNs(taken);
  }
  return pause_ns;
}

TEST(PolitePause, GrowsInADenseStreamUntilARunIsLongEnough) {
  PolitePause pause;
  uint64_t taken = 0;
  const int64_t pause_ns = AfterStream(pause, taken, 20);
  EXPECT_GE(pause_ns / 20, static_cast<int64_t>(PolitePause::kRunRecords));
  EXPECT_LT(pause_ns / 20, 2 * static_cast<int64_t>(PolitePause::kRunRecords));
}

TEST(PolitePause, IsBoundedWhereRunsStayShort) {
  PolitePause pause;
  uint64_t taken = 0;
  EXPECT_EQ(AfterStream(pause, taken, 100), kMax);
}

TEST(PolitePause, StaysShortForRecordsThatComeOneByOne) {
  PolitePause pause;
  uint64_t taken = 0;
  EXPECT_EQ(AfterStream(pause, taken, 2'000), kMin);
  // In step with the pauses: one each, which at this length would be a dense stream.
  PolitePause in_step;
  for (uint64_t i = 0; i < 32; ++i) EXPECT_EQ(in_step.NextNs(i), kMin);
}

TEST(PolitePause, ForgetsAStreamThatHasEnded) {
  PolitePause pause;
  uint64_t taken = 0;
  ASSERT_EQ(AfterStream(pause, taken, 100), kMax);
  int64_t sum_ns = 0;
  for (int64_t pause_ns = kMax; pause_ns > kMin && sum_ns < kMax; sum_ns += pause_ns) {
    pause_ns = pause.NextNs(taken);
  }
  EXPECT_LT(sum_ns, kMax) << "half of it each time";
  EXPECT_EQ(pause.NextNs(taken), kMin);
}

TEST(PolitePause, TakesAnyCountForOne) {
  PolitePause pause;
  for (const uint64_t taken : {UINT64_MAX, uint64_t{0}, UINT64_MAX / 2, uint64_t{1}}) {
    const int64_t pause_ns = pause.NextNs(taken);
    EXPECT_GE(pause_ns, kMin);
    EXPECT_LE(pause_ns, kMax);
  }
}

}  // namespace
}  // namespace iob::shm
