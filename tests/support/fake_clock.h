// A clock whose hands the test turns.
#pragma once

#include <atomic>
#include <cstdint>

#include "server/clock.h"

namespace iob::test {

class FakeClock final : public server::Clock {
 public:
  int64_t MonotonicNs() const override { return now_ns_.load(std::memory_order_relaxed); }
  absl::Time WallTime() const override {
    return absl::FromUnixSeconds(1'700'000'000) + absl::Nanoseconds(MonotonicNs());
  }

  void AdvanceNs(int64_t ns) { now_ns_.fetch_add(ns, std::memory_order_relaxed); }
  void AdvanceMs(int64_t ms) { AdvanceNs(ms * 1'000'000); }

 private:
  std::atomic<int64_t> now_ns_ = 1'000'000'000;
};

}  // namespace iob::test
