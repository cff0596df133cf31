#include "shm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>

#include "shm/check.h"

namespace iob::shm {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kPollSliceNs = 10'000'000;

timespec ToTimespec(int64_t ns) {
  return {.tv_sec = ns / kNsPerSecond, .tv_nsec = ns % kNsPerSecond};
}

// One word, absolute deadline (FUTEX_WAIT_BITSET takes one; FUTEX_WAIT does not).
FutexOutcome WaitOne(const FutexWord& word, int64_t deadline_ns) {
  const timespec deadline = ToTimespec(deadline_ns);
  const long result = ::syscall(SYS_futex, word.address, FUTEX_WAIT_BITSET, word.expected,
                                &deadline, nullptr, FUTEX_BITSET_MATCH_ANY);
  return result != 0 && errno == ETIMEDOUT ? FutexOutcome::kDeadline : FutexOutcome::kLook;
}

// For kernels without futex_waitv: changes of the other words are seen one slice late.
FutexOutcome WaitInSlices(const FutexWord& first, int64_t deadline_ns) {
  const int64_t slice_ns = MonotonicNs() + kPollSliceNs;
  if (slice_ns >= deadline_ns) return WaitOne(first, deadline_ns);
  WaitOne(first, slice_ns);
  return FutexOutcome::kLook;
}

}  // namespace

int64_t MonotonicNs() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

FutexOutcome FutexWaitAny(std::span<const FutexWord> words, int64_t deadline_ns) {
  IOB_CHECK(!words.empty() && words.size() <= kFutexWordsMax);
#ifdef IOB_TEST_HOOKS
  if (futex_hook != nullptr) return futex_hook->WaitAny(words, deadline_ns);
#endif
  deadline_ns = std::max<int64_t>(deadline_ns, 0);
  // Only what is used is written: 128 of these are 3 KiB.
  std::array<futex_waitv, kFutexWordsMax> waiters;
  for (size_t i = 0; i < words.size(); ++i) {
    waiters[i] = {.val = words[i].expected,
                  .uaddr = reinterpret_cast<uint64_t>(words[i].address),
                  .flags = FUTEX_32,
                  .__reserved = 0};
  }
  const timespec deadline = ToTimespec(deadline_ns);
  const long result =
      ::syscall(SYS_futex_waitv, waiters.data(), words.size(), 0, &deadline, CLOCK_MONOTONIC);
  if (result >= 0) return FutexOutcome::kLook;
  if (errno == ETIMEDOUT) return FutexOutcome::kDeadline;
  if (errno == ENOSYS || errno == EPERM) return WaitInSlices(words.front(), deadline_ns);
  return FutexOutcome::kLook;
}

void FutexWakeAll(const void* address) {
#ifdef IOB_TEST_HOOKS
  if (futex_hook != nullptr) return futex_hook->WakeAll(address);
#endif
  ::syscall(SYS_futex, address, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace iob::shm
