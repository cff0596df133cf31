// DiesAt: a process that is killed before its n-th access to shared memory.
//
// For programs that are linked with iob_shm_hooked (shm/hostile.h): the child ends in the hook,
// which leaves the memory as kill -9 would.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>

#include "shm/hostile.h"
#include "tests/support/shm_process.h"

namespace iob::test {

inline constexpr int kDiedInHook = 42;

// Runs `body` in a child that dies before its `step`-th shared access. False when it got through.
inline bool DiesAt(uint64_t step, const std::function<void()>& body) {
  static thread_local uint64_t countdown = 0;
  Child child([&] {
    countdown = step;
    const auto tick = [](void*) {
      if (countdown-- == 0) ::_exit(kDiedInHook);
    };
    shm::before_shared_load = tick;
    shm::before_shared_store = tick;
    body();
    shm::before_shared_load = nullptr;
    shm::before_shared_store = nullptr;
  });
  const int status = child.Join();
  EXPECT_TRUE(status == 0 || status == kDiedInHook) << status;
  return status == kDiedInHook;
}

}  // namespace iob::test
