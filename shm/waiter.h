// Waiter: a short spin where that has paid off, then a futex.
//
//     if (waiter.Spin(look, deadline)) ...            // no system call at all
//     else Waiter::Sleep(data, signal, deadline);     // on the data word and the signal word
//
// A sleeping waiter costs its waker a system call and itself some 15 us, whatever the mechanism; a
// spin that is met costs neither. A spin that is not met burns a processor that the other side may
// need. So:
//   - never on one processor, never longer than a sleep would cost (kSpinNsMax);
//   - the budget follows success: hits raise it, misses shrink it to nothing;
//   - one wait in kProbeEvery spins all the same, in case the other side got faster.
//
// Every wait has a deadline; the signal word is always beside the data word, because a dead or
// silent peer wakes nobody. Thread-compatible; one per waiting side.
#pragma once

#include <cstdint>

#include "shm/futex.h"

namespace iob::shm {

// Tells the processor that this is a spin.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Waiter {
 public:
  // About what a sleep and its wake cost together: spinning longer cannot win.
  static constexpr int64_t kSpinNsMax = 20'000;
  static constexpr int kScoreMax = 8;
  static constexpr uint32_t kProbeEvery = 32;

  // Whether spinning can pay at all: with one, the spinner keeps the other side from running.
  static bool SeveralProcessors();

  Waiter() = default;
  // For tests: as if the machine had one processor, or several.
  explicit Waiter(bool spinning_can_pay) : spinning_can_pay_(spinning_can_pay) {}

  // Calls `look` at least once, then again and again within the budget and until `deadline_ns`
  // (CLOCK_MONOTONIC). True as soon as it is.
  template <typename Look>
  bool Spin(Look look, int64_t deadline_ns) {
    if (look()) return true;
    const int64_t end_ns = BeginSpin(deadline_ns);
    if (end_ns == 0) return false;
    do {
      for (int i = 0; i < kLooksPerClockRead; ++i) {
        if (look()) {
          Hit();
          return true;
        }
        CpuRelax();
      }
    } while (MonotonicNs() < end_ns);
    Miss();
    return false;
  }

  // Sleeps until one of the words may have changed from what it was when the caller read it.
  static FutexOutcome Sleep(const FutexWord& data, const FutexWord& signal, int64_t deadline_ns);

 private:
  static constexpr int kLooksPerClockRead = 32;

  // When this spin ends; 0 for none.
  int64_t BeginSpin(int64_t deadline_ns);
  void Hit();
  void Miss();

  bool spinning_can_pay_ = SeveralProcessors();
  int score_ = 0;  // How well spinning has paid off lately; 0 to kScoreMax.
  uint32_t waits_ = 0;
};

}  // namespace iob::shm
