// Time as the daemon sees it: two clocks behind one interface, so that tests turn the hands.
#pragma once

#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "shm/futex.h"

namespace iob::server {

class Clock {
 public:
  virtual ~Clock() = default;
  // Never goes back; for deadlines.
  virtual int64_t MonotonicNs() const = 0;
  // What people call time; for display only.
  virtual absl::Time WallTime() const = 0;
};

class SystemClock final : public Clock {
 public:
  int64_t MonotonicNs() const override { return shm::MonotonicNs(); }
  absl::Time WallTime() const override { return absl::Now(); }
};

}  // namespace iob::server
