// Mapping and ReadOnlyMapping: address ranges over sealed memory, with guard pages around them.
//
//     guard | part 0 | part 1 | ... | guard         every part is a window of one SealedMemfd
//
// Parts lie side by side, so that sections with different rights read as one range, and the same
// window can be placed twice in a row, so that a record that wraps is contiguous. The guards are
// PROT_NONE: running off either end faults instead of hitting a stranger's memory.
//
//   A1  A read-only part is mapped PROT_READ; nothing here ever raises a protection.
//   A2  Only SealedMemfds are mapped, so no access inside a part can end in SIGBUS (memfd.h, M1).
//   A3  The destructor unmaps everything; references into it die with it.
//
// Read-only is a type, not a flag: a ReadOnlyMapping has no way to hand out a writable reference.
// Thread-compatible. See hostile.h for the files to audit for memory safety.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/check.h"
#include "shm/hostile.h"
#include "shm/memfd.h"

namespace iob::shm {

// Bytes of a page here. Sizes and offsets of parts are multiples of it.
uint64_t PageBytes();

// `value` rounded up to whole pages; UINT64_MAX rounded down to a page when that overflows.
uint64_t RoundUpToPages(uint64_t value);

// One window of one section, at the next free address of a range.
struct Part {
  const SealedMemfd* memfd = nullptr;
  uint64_t offset_bytes = 0;  // In the memfd.
  uint64_t size_bytes = 0;
  bool writable = false;
};

// What a forked child gets.
enum class OnFork {
  kShare,  // The same mapping; it counts as held until the child is gone too.
  kDrop,   // Nothing: for mappings with private positions, which two processes must not both move.
};

// The range itself. Users want Mapping, ReadOnlyMapping or a ring's own class.
class AddressRange {
 public:
  // Maps `parts` one after the other, each as the policy of its memfd says. INVALID_ARGUMENT for a
  // part outside its memfd or off a page boundary (of its pages), UNAVAILABLE or RESOURCE_EXHAUSTED
  // when the kernel has no room.
  static absl::StatusOr<AddressRange> MapParts(std::span<const Part> parts, OnFork on_fork);
  // All of them as `policy` says.
  static absl::StatusOr<AddressRange> MapParts(std::span<const Part> parts, OnFork on_fork,
                                               const MapPolicy& policy);

  AddressRange() = default;
  AddressRange(AddressRange&& other) noexcept
      : reserved_(std::exchange(other.reserved_, nullptr)),
        reserved_bytes_(std::exchange(other.reserved_bytes_, 0)),
        base_(std::exchange(other.base_, nullptr)),
        content_bytes_(std::exchange(other.content_bytes_, 0)) {}
  AddressRange& operator=(AddressRange&& other) noexcept;
  ~AddressRange() { Unmap(); }

  // First byte of the first part. Valid until the range dies.
  std::byte* base() const { return base_; }
  uint64_t size_bytes() const { return content_bytes_; }

 private:
  static absl::StatusOr<AddressRange> Reserve(std::span<const Part> parts, bool huge);
  void Unmap();
  std::byte* reserved_ = nullptr;  // The leading guard.
  uint64_t reserved_bytes_ = 0;    // Guards included; more than two pages of them for huge pages.
  std::byte* base_ = nullptr;
  uint64_t content_bytes_ = 0;
};

// All of one section, for reading and writing.
class Mapping {
 public:
  static absl::StatusOr<Mapping> Map(const SealedMemfd& memfd, OnFork on_fork = OnFork::kShare);
  // [offset, offset + size) of it, `times` times in a row.
  static absl::StatusOr<Mapping> MapWindow(const SealedMemfd& memfd, uint64_t offset_bytes,
                                           uint64_t size_bytes, int times, OnFork on_fork);

  uint64_t size_bytes() const { return range_.size_bytes(); }
  SharedBytes bytes() const { return {range_.base(), range_.size_bytes()}; }

  // A shared word at an aligned offset inside the mapping.
  template <SharedWord T>
  SharedAtomic<T>& Word(uint64_t offset_bytes) const {
    IOB_CHECK(offset_bytes % sizeof(T) == 0 && sizeof(T) <= size_bytes() &&
              offset_bytes <= size_bytes() - sizeof(T));
    return SharedWordAt<T>(range_.base() + offset_bytes);
  }

  // For code that owns every byte of it (the broker's side of a sealed section), and for a user who
  // asked for the raw memory of a region.
  std::byte* base() const { return range_.base(); }

 private:
  explicit Mapping(AddressRange range) : range_(std::move(range)) {}
  AddressRange range_;
};

// All of one section, for reading.
class ReadOnlyMapping {
 public:
  static absl::StatusOr<ReadOnlyMapping> Map(const SealedMemfd& memfd,
                                             OnFork on_fork = OnFork::kShare);

  uint64_t size_bytes() const { return range_.size_bytes(); }

  template <SharedWord T>
  const SharedAtomic<T>& Word(uint64_t offset_bytes) const {
    IOB_CHECK(offset_bytes % sizeof(T) == 0 && sizeof(T) <= size_bytes() &&
              offset_bytes <= size_bytes() - sizeof(T));
    return SharedWordAt<T>(range_.base() + offset_bytes);
  }

  void CopyOut(uint64_t offset_bytes, std::span<std::byte> target) const {
    SharedBytes(range_.base(), range_.size_bytes()).CopyOut(offset_bytes, target);
  }

  // The raw memory. Another process may change it at any moment unless it is sealed.
  const std::byte* base() const { return range_.base(); }

 private:
  explicit ReadOnlyMapping(AddressRange range) : range_(std::move(range)) {}
  AddressRange range_;
};

}  // namespace iob::shm
