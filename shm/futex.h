// Waiting for shared words to change, and waking those who wait.
//
// A futex is found by inode and offset, so waiting and waking both work through read-only mappings
// and across processes. A wait names the value it saw: if the word differs by then, it returns at
// once, so no wake is lost between looking and sleeping. Every wait has a deadline, because a peer
// may never wake anybody.
//
// Kernel: futex_waitv (5.16) waits on several words; before that, FutexWaitAny watches the first
// word and looks at the others every 10 ms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace iob::shm {

struct FutexWord {
  const void* address = nullptr;  // 4-aligned, in a shared mapping.
  uint32_t expected = 0;
};

enum class FutexOutcome {
  kLook,      // Woken, or a word had changed already, or a signal came: look again.
  kDeadline,  // Nothing until the deadline.
};

// CLOCK_MONOTONIC now, in nanoseconds.
int64_t MonotonicNs();

// What futex_waitv takes.
inline constexpr size_t kFutexWordsMax = 128;

#ifdef IOB_TEST_HOOKS
// Waits and wakes in place of the kernel for the threads that set it; nullptr for none. So that a
// test can see who sleeps, and let go of deadlines.
class FutexHook {
 public:
  virtual ~FutexHook() = default;
  virtual FutexOutcome WaitAny(std::span<const FutexWord> words, int64_t deadline_ns) = 0;
  virtual void WakeAll(const void* address) = 0;
};
inline thread_local FutexHook* futex_hook = nullptr;
#endif

// Sleeps until one of up to kFutexWordsMax words may have changed, or until `deadline_ns`
// (CLOCK_MONOTONIC).
FutexOutcome FutexWaitAny(std::span<const FutexWord> words, int64_t deadline_ns);

// Wakes everybody who waits on the word.
void FutexWakeAll(const void* address);

}  // namespace iob::shm
