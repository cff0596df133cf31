// ImmutableMapping: memory that can be read, and that nobody will ever change.
//
//   M1  What is mapped is a memory file sealed WRITE, GROW, SHRINK and SEAL. Map looks for itself,
//       and believes nobody: not the sender, not the access mode of the descriptor.
//   M2  Empty for 0 bytes: nothing is mapped, and no descriptor is needed.
//   M3  Unmapping is all the clean-up there is: the descriptor is closed when it is mapped, and
//       when the last mapping goes, in whatever process, the memory goes, and its charge.
//
// Zircon's ImmutableMapping, which maps a child of a VMO. A forked child shares the mapping.
// Thread-compatible; reading is safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/mapping.h"
#include "shm/unique_fd.h"

namespace iob {

enum class Populate : uint8_t {
  kLazy,   // Pages are mapped as they are touched.
  kEager,  // All pages are mapped before Map returns: no first touch takes a fault.
};

class ImmutableMapping {
 public:
  // Nothing.
  ImmutableMapping() = default;

  // Takes `fd`. FAILED_PRECONDITION when it is not sealed as in M1 or not `size_bytes` long;
  // UNAVAILABLE, RESOURCE_EXHAUSTED when the kernel has no room.
  static absl::StatusOr<ImmutableMapping> Map(shm::UniqueFd fd, uint64_t size_bytes,
                                              Populate populate = Populate::kLazy);

  bool empty() const { return range_.size_bytes() == 0; }
  uint64_t size_bytes() const { return range_.size_bytes(); }
  // Valid until this is destroyed or assigned to.
  std::span<const std::byte> bytes() const {
    if (empty()) return {};
    return {range_.base(), range_.size_bytes()};
  }

 private:
  explicit ImmutableMapping(shm::AddressRange range) : range_(std::move(range)) {}
  shm::AddressRange range_;
};

}  // namespace iob
