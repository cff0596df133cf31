#include "shm/waiter.h"

#include <sched.h>

#include <algorithm>
#include <array>

namespace iob::shm {

bool Waiter::SeveralProcessors() {
  static const bool several = [] {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    // With more than 1024 processors the call fails, and there are many.
    return ::sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) > 1;
  }();
  return several;
}

int64_t Waiter::BeginSpin(int64_t deadline_ns) {
  waits_ += 1;
  const bool probe = waits_ % kProbeEvery == 1;
  if (!spinning_can_pay_ || (score_ == 0 && !probe)) return 0;
  const int64_t budget_ns = probe ? kSpinNsMax : kSpinNsMax * score_ / kScoreMax;
  return std::min(MonotonicNs() + budget_ns, deadline_ns);
}

void Waiter::Hit() { score_ = std::min(score_ + 2, kScoreMax); }

void Waiter::Miss() { score_ = std::max(score_ - 1, 0); }

FutexOutcome Waiter::Sleep(const FutexWord& data, const FutexWord& signal, int64_t deadline_ns) {
  const std::array<FutexWord, 2> words = {data, signal};
  return FutexWaitAny(words, deadline_ns);
}

}  // namespace iob::shm
