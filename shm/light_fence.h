// LightFence: a Dekker handshake whose frequent side pays nothing and whose rare side for both.
//
//   publisher, per record                        sleeper, per sleep
//     store position                               store flag (with `ask`)
//     Fast: only the compiler keeps the order      Heavy: membarrier, a full fence in every running
//     load flag, wake if set                              thread of every registered process
//                                                  look at position, sleep if nothing is new
//
//   L1  One of the two sees the other. Heavy puts a full fence somewhere into the publisher's
//       instructions. Before its store: then its load comes later too, and sees the flag. After its
//       store: then the sleeper's look sees the position. Between the two, both hold.
//   L2  Whoever uses Fast without a fence has registered its process, so that Heavy reaches it.
//       Registration ends with exec; a forked child maps its rings anew and registers with that.
//   L3  A publisher that cannot register fences fully in Fast; Heavy is a full fence for its caller
//       in any case, so the two are plain Dekker then.
//   L4  A sleeper that cannot call membarrier asks for fences: kFenceForMe stays in its word,
//       asleep or not, from its mapping on. A publisher that finds it fences and loads the word
//       again. What it had published just before the bit came leaves its store buffer within
//       nanoseconds.
//   L5  Who finds a flag fences and loads it again before the wake: a sleeper that is woken before
//       the position has arrived finds nothing new, and sleeps on.
//   L6  A sleeper that does neither (older, or hostile) can lose a wake, its own. A publisher that
//       does not wake is nothing new. Every wait has a deadline for both.
//
// Heavy costs 0.2 us when no registered thread runs elsewhere, and some 2 us when it has to
// interrupt one; the sleep that follows costs more than that. A full fence costs the publisher 5 ns
// when its stores are done, and as long as a cache line takes to come when they wait for one, which
// is what they do when the other side has just looked.
//
// Where membarrier is refused (seccomp, a kernel before 4.16) both sides fence as always. Under
// IOB_TEST_HOOKS and ThreadSanitizer, too: neither sees what the kernel orders.
//
// A value; each mapped side of a ring holds one. Owned by one thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace iob::shm {

// In the sleeper's word beside what else it says: "fence before you believe this word". Neither a
// way to be woken (ring_layout.h) nor part of a count of 8-aligned bytes.
inline constexpr uint32_t kFenceForMe = 4;

#if defined(__SANITIZE_THREAD__) || defined(IOB_TEST_HOOKS)
#define IOB_FENCE_ALWAYS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IOB_FENCE_ALWAYS 1
#endif
#endif
#ifdef IOB_FENCE_ALWAYS
inline constexpr bool kFenceAlways = true;
#else
inline constexpr bool kFenceAlways = false;
#endif

class LightFence {
 public:
  // Registers this process for the fences of others. Once per mapping, not per process: a process
  // that was forked has to do it again.
  static LightFence ForThisProcess();

  // The publisher's, between its store and its load.
  void Fast() const {
    if (registered_) [[likely]] {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    } else {
      FenceFully();
    }
  }

  // What the sleeper adds to its word, always: 0 or kFenceForMe.
  uint32_t ask() const { return ask_; }

  // The sleeper's, between its store and its look. False when the kernel has refused it for the
  // first time: store the word again, with what `ask` says now, and call again.
  [[nodiscard]] bool Heavy();

 private:
  // Out of line: Fast is inlined wherever something is published.
  [[gnu::cold]] static void FenceFully();

  bool registered_ = false;
  uint32_t ask_ = 0;
};

}  // namespace iob::shm
