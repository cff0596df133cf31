// WindowBytes: a bounded view of mapped memory, each access of which is checked against its bounds.
//
//     base                                base + size
//      |  ...   | offset ... offset + length |  ...  |
//
//   W1  An access lies inside as a whole, or does nothing. offset + length is never computed, so it
//       cannot overflow.
//   W2  LoadOnce and StoreOnce are one machine access each: they do not tear, are not repeated and
//       not left out. So the absolute address, base + offset, is a multiple of the size. A load
//       acquires and a store releases.
//   W3  A copy is final when it returns (hostile.h, H4), but not one access: it can mix what a peer
//       wrote before and after.
//   W4  A slice is relative to its window and aliases it. Its base has moved and its offsets start
//       at 0 again; the offset is added once.
//
// Does not own the memory. Thread-safe: a value without state. This file, fallible_copy.*,
// hostile.h and mapping.* are the ones to audit for memory safety.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "shm/check.h"
#include "shm/fallible_copy.h"
#include "shm/hostile.h"

namespace iob::shm {

// What one access can move: a number of 1, 2, 4 or 8 bytes. No bool: a peer's byte of 2 would be
// undefined.
template <typename T>
concept WindowWord = (std::integral<T> ||
                      std::floating_point<T>)&&!std::same_as<std::remove_cv_t<T>, bool> &&
                     sizeof(T) <= 8;

class WindowBytes {
 public:
  WindowBytes() = default;
  // The memory outlives the view and all its slices.
  WindowBytes(std::byte* base, uint64_t size_bytes) : base_(base), size_bytes_(size_bytes) {
    if (Misalignment(0, kAlignment) == 0) aligned_bytes_ = size_bytes / kAlignment * kAlignment;
  }

  uint64_t size_bytes() const { return size_bytes_; }
  // No check watches over what is done with it.
  std::byte* base() const { return base_; }

  // The end is inside for a length of 0, as in W1 of ostd's check_range.
  bool Contains(uint64_t offset_bytes, uint64_t length_bytes) const {
    return offset_bytes <= size_bytes_ && length_bytes <= size_bytes_ - offset_bytes;
  }

  // How far the address of this byte is beyond a multiple of `alignment`.
  uint64_t Misalignment(uint64_t offset_bytes, uint64_t alignment) const {
    return (reinterpret_cast<uintptr_t>(base_) + offset_bytes) % alignment;
  }

  // The four below: the range must be inside (Contains), which the caller has checked.
  WindowBytes Slice(uint64_t offset_bytes, uint64_t length_bytes) const {
    IOB_CHECK(Contains(offset_bytes, length_bytes));
    return {base_ + offset_bytes, length_bytes};
  }
  void CopyOut(uint64_t offset_bytes, std::span<std::byte> target) const {
    SharedBytes(base_, size_bytes_).CopyOut(offset_bytes, target);
  }
  void CopyIn(uint64_t offset_bytes, std::span<const std::byte> source) const {
    SharedBytes(base_, size_bytes_).CopyIn(offset_bytes, source);
  }
  void FillZeros(uint64_t offset_bytes, uint64_t length_bytes) const;

  // As CopyOut and CopyIn, where the memory may be gone.
  FallibleCopy CopyOutFallible(uint64_t offset_bytes, std::span<std::byte> target) const {
    IOB_CHECK(Contains(offset_bytes, target.size()));
    return CopyFrom(base_ + offset_bytes, target.data(), target.size());
  }
  FallibleCopy CopyInFallible(uint64_t offset_bytes, std::span<const std::byte> source) const {
    IOB_CHECK(Contains(offset_bytes, source.size()));
    return CopyTo(base_ + offset_bytes, source.data(), source.size());
  }

  // Whether a word lies inside and its absolute address is a multiple of its size.
  bool HasWord(uint64_t offset_bytes, uint64_t word_bytes) const {
    return Contains(offset_bytes, word_bytes) && Misalignment(offset_bytes, word_bytes) == 0;
  }
  // Says so of most words at the least cost, and nothing of the others: where the base is not
  // aligned for every word, and of the last bytes of an odd size.
  bool HasAlignedWord(uint64_t offset_bytes, uint64_t word_bytes) const {
    return offset_bytes < aligned_bytes_ && offset_bytes % word_bytes == 0;
  }

  // W2. The word must be there (HasWord), which the caller has checked.
  template <WindowWord T>
  T LoadOnce(uint64_t offset_bytes) const {
    RunSharedLoadHook();
    return std::bit_cast<T>(
        __atomic_load_n(reinterpret_cast<const Raw<T>*>(base_ + offset_bytes), __ATOMIC_ACQUIRE));
  }
  template <WindowWord T>
  void StoreOnce(uint64_t offset_bytes, T value) const {
    RunSharedStoreHook();
    __atomic_store_n(reinterpret_cast<Raw<T>*>(base_ + offset_bytes), std::bit_cast<Raw<T>>(value),
                     __ATOMIC_RELEASE);
  }

 private:
  static constexpr uint64_t kAlignment = 8;

  // The unsigned integer of that size, which is what is moved.
  template <typename T>
  using Raw = std::conditional_t<
      sizeof(T) == 1, uint8_t,
      std::conditional_t<sizeof(T) == 2, uint16_t,
                         std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

  std::byte* base_ = nullptr;
  uint64_t size_bytes_ = 0;
  // With a base that is aligned for every word: the size, rounded down to the largest. So an
  // aligned word that begins below it ends below it. Else 0.
  uint64_t aligned_bytes_ = 0;
};

}  // namespace iob::shm
