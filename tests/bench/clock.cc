#include "tests/bench/clock.h"

#include <fstream>
#include <string>

namespace iob::bench {
namespace {

// Whether the counter runs at one rate, on every processor, whatever they do.
bool CounterIsInvariant() {
#if defined(__x86_64__)
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flags")) {
      return line.find(" constant_tsc") != line.npos && line.find(" nonstop_tsc") != line.npos &&
             line.find(" rdtscp") != line.npos;
    }
  }
#endif
  return false;
}

}  // namespace

TickClock TickClock::Calibrate() {
  constexpr int64_t kCalibrationNs = 20'000'000;
  TickClock clock;
  if (!CounterIsInvariant()) return clock;
  clock.counter_ = true;
  const int64_t start_ns = shm::MonotonicNs();
  const uint64_t start_ticks = clock.Now();
  int64_t now_ns = start_ns;
  while (now_ns - start_ns < kCalibrationNs) now_ns = shm::MonotonicNs();
  clock.ns_per_tick_ =
      static_cast<double>(now_ns - start_ns) / static_cast<double>(clock.Now() - start_ticks);
  return clock;
}

}  // namespace iob::bench
