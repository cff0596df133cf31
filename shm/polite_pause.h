// PolitePause: how long a consumer leaves its producer alone after it has found nothing.
//
//   look: empty   pause   look: 40 records, empty   pause (longer)   look: 80 records, empty ...
//
// The word that a consumer polls lies in a line that its producer writes for each record. Each look
// takes that line away; getting it back costs the producer more than a record does. So in a stream
// the consumer should come seldom and find many, and between single records it should look often:
// a record waits for the end of the pause. What came since the last pause tells which of the two
// it is.
//
//   Q1  A pause is between kPauseNsMin and kPauseNsMax, and a little more for the clock.
//   Q2  It doubles while records come more densely than kDenseNs and fewer than kRunRecords come
//       at a time; it halves when they come less densely than that.
//
// A value; each consumer holds one. It knows nothing of shared memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "shm/futex.h"
#include "shm/waiter.h"

namespace iob::shm {

class PolitePause {
 public:
  static constexpr int64_t kPauseNsMin = 250;
  static constexpr int64_t kPauseNsMax = 4'000;
  // A producer that a consumer disturbs with each record gets on about that fast.
  static constexpr int64_t kDenseNs = 150;
  // So many at a time share the cost of a look; more would only make them wait.
  static constexpr uint64_t kRunRecords = 128;

  // What to pause for, when `taken_records` were taken in all by now.
  int64_t NextNs(uint64_t taken_records) {
    const uint64_t run = taken_records - std::exchange(paused_at_records_, taken_records);
    // Bounded before it is multiplied.
    const bool dense = run >= kRunRecords || static_cast<int64_t>(run) * kDenseNs > pause_ns_;
    if (!dense || run < 2) {
      pause_ns_ = std::max(pause_ns_ / 2, kPauseNsMin);
    } else if (run < kRunRecords) {
      pause_ns_ = std::min(pause_ns_ * 2, kPauseNsMax);
    }
    return pause_ns_;
  }

  void Take(uint64_t taken_records) {
    const int64_t end_ns = MonotonicNs() + NextNs(taken_records);
    do {
      for (int i = 0; i < kPausesPerClockRead; ++i) CpuRelax();
    } while (MonotonicNs() < end_ns);
  }

 private:
  static constexpr int kPausesPerClockRead = 4;

  int64_t pause_ns_ = kPauseNsMin;
  uint64_t paused_at_records_ = 0;
};

}  // namespace iob::shm
