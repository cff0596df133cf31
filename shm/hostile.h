// Reading and writing memory that another process can change at any moment.
//
//   H1  One fetch: a shared word is loaded once per decision, by SharedAtomic. Two loads in the
//       source are two fetches; there is no other way to fetch.
//   H2  Untrusted until checked: a load of a peer's word gives an Untrusted<T>, which has no
//       conversion, comparison or arithmetic. Checks consume it.
//   H3  No pointers out: SharedBytes copies in and copies out.
//   H4  Copy means copy: the target is final when the call returns; the compiler may not go back to
//       the source.
//   H5  Only lock-free integers of fixed width live in shared memory (SharedWord).
//
// Under IOB_TEST_HOOKS each shared load first calls the hook of the calling thread, so that a test
// can play the peer between any two loads; each shared store calls a hook of its own, so that a
// test can run threads in an order that it chooses, or stop one at any step.
//
// This file, mapping.*, window.* and fallible_copy.* are the ones to audit for memory safety.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "shm/check.h"

namespace iob::shm {

// What may live in a region as a word of its own. No bool (a byte of 2 would be undefined), no
// pointer, nothing whose atomic needs a lock.
template <typename T>
concept SharedWord = std::unsigned_integral<T> && !std::same_as<T, bool> &&
                     (sizeof(T) == 4 || sizeof(T) == 8) && std::atomic<T>::is_always_lock_free;

#ifdef IOB_TEST_HOOKS
// Called before each shared load of this thread; nullptr for none.
inline thread_local void (*before_shared_load)(void* context) = nullptr;
inline thread_local void* before_shared_load_context = nullptr;
inline void RunSharedLoadHook() {
  if (before_shared_load != nullptr) before_shared_load(before_shared_load_context);
}
// Called before each shared store and exchange of this thread; nullptr for none.
inline thread_local void (*before_shared_store)(void* context) = nullptr;
inline thread_local void* before_shared_store_context = nullptr;
inline void RunSharedStoreHook() {
  if (before_shared_store != nullptr) before_shared_store(before_shared_store_context);
}
#else
inline void RunSharedLoadHook() {}
inline void RunSharedStoreHook() {}
#endif

// A value that a peer chose. Gives itself up only to a check.
template <SharedWord T>
class [[nodiscard]] Untrusted {
 public:
  constexpr explicit Untrusted(T value) : value_(value) {}
  Untrusted(const Untrusted&) = delete;
  Untrusted& operator=(const Untrusted&) = delete;

  // The value if low <= value <= high.
  constexpr std::optional<T> Between(T low, T high) && {
    if (low <= value_ && value_ <= high) return value_;
    return std::nullopt;
  }

  // As Between, and a multiple of `alignment` (a power of two).
  constexpr std::optional<T> AlignedBetween(T low, T high, T alignment) && {
    if ((value_ & (alignment - 1)) != 0) return std::nullopt;
    return Untrusted(value_).Between(low, high);
  }

  // For values that no arithmetic, no index and no decision but "zero or not" depends on.
  constexpr T ForHintOnly() && { return value_; }

 private:
  const T value_;
};

// A word in shared memory. Lives in a mapping; never constructed over memory in use.
template <SharedWord T>
class SharedAtomic {
 public:
  SharedAtomic() = default;
  SharedAtomic(const SharedAtomic&) = delete;
  SharedAtomic& operator=(const SharedAtomic&) = delete;

  // A peer's word, ordered: what it wrote before its release store is visible after this.
  Untrusted<T> LoadAcquire() const {
    RunSharedLoadHook();
    return Untrusted<T>(word_.load(std::memory_order_acquire));
  }
  // A peer's word, unordered.
  Untrusted<T> LoadRelaxed() const {
    RunSharedLoadHook();
    return Untrusted<T>(word_.load(std::memory_order_relaxed));
  }
  void StoreRelease(T value) {
    RunSharedStoreHook();
    word_.store(value, std::memory_order_release);
  }
  void StoreRelaxed(T value) {
    RunSharedStoreHook();
    word_.store(value, std::memory_order_relaxed);
  }

  // Replaces `expected` by `desired`; false when the word holds something else. Acquire and release
  // when it succeeds, acquire when not. What a failed exchange found is not given out: who needs
  // it loads it, checked, like any other shared word.
  bool CompareExchange(T expected, T desired) {
    RunSharedLoadHook();
    RunSharedStoreHook();
    return word_.compare_exchange_strong(expected, desired, std::memory_order_acq_rel,
                                         std::memory_order_acquire);
  }

  // The same, and a full fence when it succeeds: what is loaded after it was not loaded before it.
  bool CompareExchangeFenced(T expected, T desired) {
    RunSharedLoadHook();
    RunSharedStoreHook();
    return word_.compare_exchange_strong(expected, desired, std::memory_order_seq_cst,
                                         std::memory_order_acquire);
  }

  // What was there before, and a full fence.
  Untrusted<T> Exchange(T value) {
    RunSharedLoadHook();
    RunSharedStoreHook();
    return Untrusted<T>(word_.exchange(value, std::memory_order_seq_cst));
  }

  // For the futex call only, which compares the word itself. Never dereferenced by us.
  const void* address() const { return &word_; }

 private:
  std::atomic<T> word_;
};

// The shared word at an aligned address that the caller has bounded.
template <SharedWord T>
SharedAtomic<T>& SharedWordAt(std::byte* address) {
  return *reinterpret_cast<SharedAtomic<T>*>(address);
}
template <SharedWord T>
const SharedAtomic<T>& SharedWordAt(const std::byte* address) {
  return *reinterpret_cast<const SharedAtomic<T>*>(address);
}

// A bounded range of shared memory whose bytes a peer may be changing.
class SharedBytes {
 public:
  SharedBytes() = default;
  SharedBytes(std::byte* data, size_t size) : data_(data), size_(size) {}

  size_t size() const { return size_; }

  // [offset, offset + target.size()) into `target`. The range must lie inside: a caller that has
  // not checked an offset against its own geometry has a bug.
  void CopyOut(size_t offset, std::span<std::byte> target) const {
    IOB_CHECK(offset <= size_ && target.size() <= size_ - offset);
    RunSharedLoadHook();
    CopyBytes(target.data(), data_ + offset, target.size());
    // The target escapes into this barrier, so the copy cannot be dropped and the source read
    // again.
    asm volatile("" : : "r"(target.data()) : "memory");
  }

  void CopyIn(size_t offset, std::span<const std::byte> source) {
    IOB_CHECK(offset <= size_ && source.size() <= size_ - offset);
    RunSharedStoreHook();
    CopyBytes(data_ + offset, source.data(), source.size());
    asm volatile("" : : "r"(data_) : "memory");
  }

 private:
#if defined(__SANITIZE_THREAD__)
#define IOB_COPY_BYTEWISE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IOB_COPY_BYTEWISE 1
#endif
#endif
  static void CopyBytes(std::byte* target, const std::byte* source, size_t size) {
#ifdef IOB_COPY_BYTEWISE
    // The race with a hostile peer is intended; as relaxed atomics it is defined, and the sanitizer
    // keeps its eyes for the others.
    for (size_t i = 0; i < size; ++i) {
      __atomic_store_n(
          reinterpret_cast<unsigned char*>(target) + i,
          __atomic_load_n(reinterpret_cast<const unsigned char*>(source) + i, __ATOMIC_RELAXED),
          __ATOMIC_RELAXED);
    }
#else
    if (size != 0) std::memcpy(target, source, size);
#endif
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace iob::shm
