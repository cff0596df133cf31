// Window: a bounded view of a region's memory that checks every access and says what was wrong.
//
//     absl::StatusOr<iob::Window> window = endpoint.OpenWindow(0);
//     window->WriteOnce<uint64_t>(8, 42);
//     absl::StatusOr<uint64_t> value = window->ReadOnce<uint64_t>(8);
//     absl::StatusOr<iob::Window> table = window->Slice(4096, 65536);
//     table->Read(0, buffer);  // Byte 4096 of the region.
//
// Whatever offset a program computes, from whatever a peer wrote, a window reads and writes its own
// bytes or answers an error; nothing faults. Offsets are relative to the window, in bytes.
//
//   D1  Read, Write: all or nothing. The bytes may still mix what a peer wrote before and after.
//   D2  ReadOnce, WriteOnce: numbers of 1, 2, 4 or 8 bytes in one machine access, which does not
//       tear. The absolute address must be a multiple of the size; regions start at a page. A read
//       acquires and a write releases: who reads what WriteOnce wrote sees all that was written
//       before it. Nothing is swapped: numbers are in the machine's byte order.
//   D3  ReadFallible, WriteFallible: where the memory itself may be gone they say how much was
//       moved before it was, and the process lives. Regions cannot shrink; but huge pages can run
//       out when a hole was punched into them, and pages can be poisoned. By system call, without
//       any signal handler: about a microsecond more, see shm/fallible_copy.h.
//   D4  A slice, or a copy, aliases the same bytes, and is read-only if its window is. A slice of a
//       slice is relative to the slice.
//   D5  A window without map-write writes nothing and says so, before anything else is looked at.
//
// A window keeps its memory mapped, also when its Endpoint is closed first; for the broker and the
// peer the endpoint is closed when the last window, slice or copy is gone too. A forked child
// shares the memory.
//
// Errors of all calls, in the order of the checks:
//   PERMISSION_DENIED / ACCESS_DENIED     writing through a window for reading (D5)
//   INVALID_ARGUMENT / INVALID_ARGUMENT   not all inside; or, for D2, not aligned
//   DATA_LOSS / FAULT                     D3 alone: the memory is not there
//
// After ostd's IoMem, whose InvalidArgs is INVALID_ARGUMENT here and whose PageFault is FAULT. A
// slice that cannot be is an error, where IoMem panics.
//
// Thread-safe, other than the rest of an Endpoint: a window has no state of its own. Two threads
// that write the same bytes race as two processes do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/mapping.h"
#include "shm/window.h"

namespace iob {

using shm::WindowWord;

// How far something got, and why no further.
struct Moved {
  uint64_t moved_bytes = 0;
  absl::Status status;

  bool ok() const { return status.ok(); }
};

class Window {
 public:
  // Of no bytes.
  Window() = default;
  // All of `range`, which begins at `offset_bytes` of its region; `writable` if it was mapped so.
  // Endpoint::OpenWindow is what a user wants.
  Window(shm::AddressRange range, uint64_t offset_bytes, bool writable);

  uint64_t size_bytes() const { return bytes_.size_bytes(); }
  bool writable() const { return writable_; }
  // Where the window begins, in the region.
  uint64_t offset_bytes() const { return offset_bytes_; }

  // [offset, offset + length) of this window (D4). INVALID_ARGUMENT also for no bytes.
  absl::StatusOr<Window> Slice(uint64_t offset_bytes, uint64_t length_bytes) const;
  // The same bytes, for reading only.
  Window ReadOnly() const;

  // D1. Without bytes they are fine up to the end, `size_bytes` included.
  absl::Status Read(uint64_t offset_bytes, std::span<std::byte> target) const;
  absl::Status Write(uint64_t offset_bytes, std::span<const std::byte> source) const;

  // D2.
  template <WindowWord T>
  absl::StatusOr<T> ReadOnce(uint64_t offset_bytes) const {
    if (!HasWord<T>(offset_bytes)) [[unlikely]]
      return WordError(bytes_.base(), bytes_.size_bytes(), offset_bytes, sizeof(T));
    return bytes_.template LoadOnce<T>(offset_bytes);
  }
  template <WindowWord T>
  absl::Status WriteOnce(uint64_t offset_bytes, std::type_identity_t<T> value) const {
    if (!writable_) [[unlikely]]
      return ReadOnlyError();
    if (!HasWord<T>(offset_bytes)) [[unlikely]]
      return WordError(bytes_.base(), bytes_.size_bytes(), offset_bytes, sizeof(T));
    bytes_.template StoreOnce<T>(offset_bytes, value);
    return absl::OkStatus();
  }

  // D3. Nothing is moved when the range is not all inside.
  Moved ReadFallible(uint64_t offset_bytes, std::span<std::byte> target) const;
  Moved WriteFallible(uint64_t offset_bytes, std::span<const std::byte> source) const;

  // Zeroes [offset, offset + length), or as much of it as is inside: then INVALID_ARGUMENT, and how
  // much that was. A length of 0 is fine at any offset at all.
  Moved FillZeros(uint64_t offset_bytes, uint64_t length_bytes) const;

  // The memory itself, without any check: for code that has to hand an address on. The peer may
  // change every byte at any moment; valid as long as this window or one that aliases it.
  const std::byte* UnsafeData() const { return bytes_.base(); }
  // nullptr through a window for reading.
  std::byte* UnsafeWritableData() const { return writable_ ? bytes_.base() : nullptr; }

 private:
  template <WindowWord T>
  bool HasWord(uint64_t offset_bytes) const {
    return bytes_.HasAlignedWord(offset_bytes, sizeof(T)) ||
           HasWordAnywhere(bytes_.base(), bytes_.size_bytes(), offset_bytes, sizeof(T));
  }
  // By values, so that the compiler can keep a window of the caller's in registers; cold, so that
  // the way of an aligned word falls through.
  [[gnu::cold]] static bool HasWordAnywhere(std::byte* base, uint64_t size_bytes,
                                            uint64_t offset_bytes, uint64_t word_bytes);
  [[gnu::cold]] static absl::Status WordError(std::byte* base, uint64_t size_bytes,
                                              uint64_t offset_bytes, uint64_t word_bytes);
  static absl::Status ReadOnlyError();

  shm::WindowBytes bytes_;
  bool writable_ = false;
  uint64_t offset_bytes_ = 0;
  std::shared_ptr<const shm::AddressRange> memory_;  // What bytes_ lies in.
};

}  // namespace iob
