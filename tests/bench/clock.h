// Ticks: the cheapest clock that both processors read alike.
//
// On x86 with an invariant time stamp counter a tick is one count of it: reading it takes a tenth
// of what is measured. Elsewhere a tick is a nanosecond of CLOCK_MONOTONIC. A TickClock is made
// before processes fork, so that all of them convert alike.
#pragma once

#include <cstdint>

#include "shm/futex.h"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace iob::bench {

class TickClock {
 public:
  // Takes 20 ms to learn how long a tick is.
  static TickClock Calibrate();

  uint64_t Now() const {
#if defined(__x86_64__)
    if (counter_) {
      unsigned processor = 0;
      // Unlike the plain form it waits until the loads before it are done.
      return __rdtscp(&processor);
    }
#endif
    return static_cast<uint64_t>(shm::MonotonicNs());
  }
  double ToNs(uint64_t ticks) const { return static_cast<double>(ticks) * ns_per_tick_; }
  bool IsCounter() const { return counter_; }

 private:
  bool counter_ = false;
  double ns_per_tick_ = 1;
};

}  // namespace iob::bench
