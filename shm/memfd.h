// Memfd -> SealedMemfd: memory that cannot shrink under anybody who maps it.
//
//     Memfd::Create(name) --SealSize(size)--> SealedMemfd --SealAgainstWriters()--> read-only
//                                                 |           but for mappings that exist
//            a descriptor from elsewhere --Adopt--+--OpenGrant(mode)--> UniqueFd
//
// What the kernel enforces, and what not (all measured on Linux 6.18):
//   M1  F_SEAL_SHRINK | F_SEAL_GROW: nobody can resize, so no load of ours ends in SIGBUS. Holds
//       against root. (Linux 3.17)
//   M2  F_SEAL_FUTURE_WRITE: mappings that exist keep writing; new writable ones, write() and
//       punched holes are refused to everybody, broker and root included. (Linux 5.1)
//   M3  An O_RDONLY descriptor alone is no right: /proc/self/fd/N reopens it read-write. Mode 0600
//       stops other uids without CAP_DAC_OVERRIDE; only M2 stops the same uid and root.
//   M4  The description that memfd_create returned is invisible to leases and inotify, so it is
//       reopened at once and closed. Each peer gets a description of its own (a grant).
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "shm/unique_fd.h"

namespace iob::shm {

enum class FdMode { kReadOnly, kReadWrite };

class SealedMemfd;
class SectionKeeper;

// When the pages of a memfd are taken from the machine.
enum class Allocation {
  kNow,    // Before anybody sees it: touching it cannot fail.
  kLater,  // By whoever allocates or touches it.
};

// How this process maps a section, wherever it does.
struct MapPolicy {
  bool prefault = false;  // Page tables filled at once.
  bool secret = false;    // Left out of core dumps and of forked children.
  bool huge = false;      // At addresses that transparent huge pages fit.
};

// A fresh memfd: no size, no seals, mode 0600, close-on-exec, not executable where the kernel can
// say so (MFD_NOEXEC_SEAL, Linux 6.3). Can only become a SealedMemfd.
class Memfd {
 public:
  // `name` shows up in /proc/PID/maps; at most 249 bytes.
  // UNAVAILABLE (descriptors), RESOURCE_EXHAUSTED (memory), INTERNAL.
  static absl::StatusOr<Memfd> Create(absl::string_view name);
  // The same in huge pages of the machine's pool. `page_bytes` is a power of two that PoolOf knows.
  static absl::StatusOr<Memfd> CreateInPool(absl::string_view name, uint64_t page_bytes);

  // The descriptor alone, for a memory file with rules of its own (frozen_memfd.h).
  static absl::StatusOr<UniqueFd> CreateUnsized(absl::string_view name, unsigned int flags = 0);

  // Sizes it, allocates every page (so that touching it later cannot fail), and seals the size.
  // Consumes the Memfd. RESOURCE_EXHAUSTED when the memory is not there; nothing stays allocated.
  absl::StatusOr<SealedMemfd> SealSize(uint64_t size_bytes,
                                       Allocation allocation = Allocation::kNow) &&;

 private:
  static absl::StatusOr<Memfd> CreateWith(absl::string_view name, unsigned int flags);
  explicit Memfd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// A memfd of fixed size. Only this can be mapped or handed out.
class SealedMemfd {
 public:
  // Believes nothing about `fd`: it must be a memfd with SHRINK and GROW sealed and exactly
  // `size_bytes` long, and when `writers_sealed` is asked for, with FUTURE_WRITE (or WRITE) too.
  // FAILED_PRECONDITION says which of these does not hold.
  static absl::StatusOr<SealedMemfd> Adopt(UniqueFd fd, uint64_t size_bytes, bool writers_sealed);

  SealedMemfd(SealedMemfd&& other) noexcept;
  SealedMemfd& operator=(SealedMemfd&& other) noexcept;
  ~SealedMemfd();

  uint64_t size_bytes() const { return size_bytes_; }
  // Of the pages that it consists of: windows begin and end at multiples of it.
  uint64_t page_bytes() const { return page_bytes_; }
  int fd() const { return fd_.get(); }

  const MapPolicy& map_policy() const { return map_policy_; }
  void set_map_policy(const MapPolicy& policy) { map_policy_ = policy; }
  // Holds a lock on its memory, or will wipe it.
  void set_keeper(std::unique_ptr<SectionKeeper> keeper);

  // No further writable mapping for anybody, ever (M2), and no further seal. Map first.
  absl::Status SealAgainstWriters();

  // Makes [offset_bytes, offset_bytes + length_bytes), whole pages, zero again, at the cost of
  // freeing and allocating them. RESOURCE_EXHAUSTED when the memory is not there any more.
  absl::Status Clear(uint64_t offset_bytes, uint64_t length_bytes);

  // A description of its own for one peer (M4).
  absl::StatusOr<UniqueFd> OpenGrant(FdMode mode) const;

 private:
  friend class Memfd;
  SealedMemfd(UniqueFd fd, uint64_t size_bytes);
  UniqueFd fd_;
  uint64_t size_bytes_;
  uint64_t page_bytes_;
  MapPolicy map_policy_;
  std::unique_ptr<SectionKeeper> keeper_;  // Borrows fd_, so it goes first.
};

}  // namespace iob::shm
