// The waiting hint of a section that many sleep on and one wakes: a word that asks for a wake.
//
//   WAIT section, one page; every waiter may write it, so the waker believes none of it
//     0             64
//     +---------+---+-----+
//     | waiting | (free)  |      u32 waiting  kWaitingOnFutex | kWaitingOnSocket (ring_layout.h)
//     +---------+---------+
//
//   waiter:  waiting |= how;  fence;  look at the position;  sleep on it if nothing is new
//   waker:   asked = take(waiting);  store the position;  fence;  asked |= waiting;  wake if asked
//
//   T1  The waker takes the hint before it stores the position. Who asked before that and is wiped
//       is woken by this publish, or sees its position and does not sleep; who asks after it is
//       seen behind the fence, or by the next publish. Taken after the store, a hint could be that
//       of somebody who has seen this position already and sleeps for the next one.
//   T2  Waiters never take their bits back: the word is not theirs alone. A bit that nobody needs
//       any more costs one wake.
//   T3  A lie costs the waker one exchange and one system call per publish, and other waiters their
//       wake: hence every wait has a deadline.
//
// Thread-safe: that is what it is for.
#pragma once

#include <atomic>
#include <cstdint>

#include "shm/hostile.h"
#include "shm/ring_layout.h"

namespace iob::shm {

inline constexpr uint64_t kWaitHintOffset = 0;
inline constexpr uint32_t kWaitingAnyhow = kWaitingOnFutex | kWaitingOnSocket;

// Asks for a wake. Whoever looks at the position after this will be woken by what it did not see.
inline void AskForWake(SharedAtomic<uint32_t>& waiting, uint32_t how) {
  // Others' bits stay. An exchange fails only when somebody else was quicker; after a few of those
  // every bit is set instead, which contains ours and costs a needless wake.
  constexpr int kAttemptsMax = 4;
  bool asked = false;
  for (int attempt = 0; attempt < kAttemptsMax && !asked; ++attempt) {
    const uint32_t seen = waiting.LoadRelaxed().ForHintOnly();
    asked = waiting.CompareExchange(seen, (seen | how) & kWaitingAnyhow);
  }
  if (!asked) waiting.StoreRelaxed(kWaitingAnyhow);
  // Dekker with PublishAndTakeAsked: our flag, fence, its position.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

// Stores the position by calling `publish`, and gives what was asked for (bits of kWaitingAnyhow).
// No read-modify-write unless somebody asked.
template <typename Publish>
uint32_t PublishAndTakeAsked(SharedAtomic<uint32_t>& waiting, Publish publish) {
  uint32_t asked = waiting.LoadRelaxed().ForHintOnly();
  // Exchanged and not stored: a bit that came since the load must be answered, too.
  if (asked != 0) [[unlikely]]
    asked = waiting.Exchange(0).ForHintOnly();
  publish();
  // Dekker with AskForWake: our position, fence, its flag.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return (asked | waiting.LoadRelaxed().ForHintOnly()) & kWaitingAnyhow;
}

}  // namespace iob::shm
