// FrozenMemfd: memory that nobody will ever change again, made in two steps.
//
//     FreshMemfd::Create(size) --Write, Clear--> FreshMemfd --Freeze--> FrozenMemfd
//                       a descriptor from elsewhere --Adopt--> FrozenMemfd
//
//   Z1  Frozen means sealed WRITE, GROW, SHRINK and SEAL: the bytes, the size and the seals
//       themselves hold against everybody, root included. (Linux 3.17)
//   Z2  What is fresh is written by write calls alone, never through a mapping: Freeze would be
//       refused as long as there is a writable one, and filling a new memfd is fastest this way.
//   Z3  Freeze allocates what was never written: touching frozen memory cannot fail later.
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/unique_fd.h"

namespace iob::shm {

class FrozenMemfd {
 public:
  // Believes nothing about `fd`: FAILED_PRECONDITION unless it is a memfd with all four seals of
  // Z1, and exactly `size_bytes` long.
  static absl::StatusOr<FrozenMemfd> Adopt(UniqueFd fd, uint64_t size_bytes);

  uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }
  UniqueFd Release() && { return std::move(fd_); }

 private:
  friend class FreshMemfd;
  FrozenMemfd(UniqueFd fd, uint64_t size_bytes) : fd_(std::move(fd)), size_bytes_(size_bytes) {}
  UniqueFd fd_;  // Read-only.
  uint64_t size_bytes_;
};

// Private to whoever makes it.
class FreshMemfd {
 public:
  // All zero. UNAVAILABLE (descriptors), RESOURCE_EXHAUSTED (memory), INTERNAL.
  static absl::StatusOr<FreshMemfd> Create(uint64_t size_bytes);

  uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }

  // Writes `source` at `offset_bytes`; the range must lie inside. `source` may be memory that
  // others change meanwhile. RESOURCE_EXHAUSTED when there is no memory for it.
  absl::Status Write(uint64_t offset_bytes, std::span<const std::byte> source);
  // The same from a file, in the kernel alone (copy_file_range). Where that is refused (pages of
  // the pool of huge ones, seccomp), from `mapped`, the same bytes in memory: for a mapping that is
  // read once, the page tables cost a third of the copy. A `fd` of -1 stands for no file.
  absl::Status CopyFrom(uint64_t offset_bytes, int fd, uint64_t fd_offset_bytes,
                        std::span<const std::byte> mapped);
  // Zeroes a range again.
  absl::Status Clear(uint64_t offset_bytes, uint64_t length_bytes);

  absl::StatusOr<FrozenMemfd> Freeze() &&;

 private:
  absl::Status WriteMapped(uint64_t offset_bytes, std::span<const std::byte> source);
  FreshMemfd(UniqueFd fd, uint64_t size_bytes) : fd_(std::move(fd)), size_bytes_(size_bytes) {}
  UniqueFd fd_;
  uint64_t size_bytes_;
};

}  // namespace iob::shm
