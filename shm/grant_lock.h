// Grant locks: how the broker knows that a descriptor it gave away is held, wherever it went.
//
// Each grant is an open file description of its own, and carries one OFD read lock on a byte far
// behind the data. The kernel drops the lock when the description goes: after the last descriptor
// (dups, forks, copies in flight) AND the last mapping made from it. So "is any byte of this
// endpoint locked?" answers "does anybody still hold or map what this endpoint was given?".
//
//   byte = 2^60 + user * 2^21 + endpoint * 2^20 + grant number mod 2^20
//
// (Offsets beyond the data are legal.) `user` tells apart the buffers that use one shared region; a
// private region has one user, 0. Two grants with the same byte are only found held or free
// together.
//
// A holder can drop its own lock with F_UNLCK, and so lie about itself, to its own loss: its peer
// is told that it is gone. It cannot touch another description's lock. Linux 3.15.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/access.h"

namespace iob::shm {

// The bytes of one endpoint of one user of a section.
class GrantRange {
 public:
  static constexpr uint64_t kUsersMax = uint64_t{1} << 40;

  // `user` below kUsersMax.
  constexpr explicit GrantRange(EndpointId endpoint, uint64_t user = 0)
      : first_byte_(kBase + (user << 21) + (endpoint == EndpointId::kEp0 ? 0 : kBytes)) {}

  constexpr int64_t first_byte() const { return static_cast<int64_t>(first_byte_); }
  constexpr int64_t byte_count() const { return static_cast<int64_t>(kBytes); }
  constexpr int64_t ByteOf(uint32_t grant_number) const {
    return static_cast<int64_t>(first_byte_ + grant_number % kBytes);
  }

 private:
  static constexpr uint64_t kBase = uint64_t{1} << 60;
  static constexpr uint64_t kBytes = uint64_t{1} << 20;
  uint64_t first_byte_;
};

// Locks a fresh grant (descriptor `fd`). FAILED_PRECONDITION when somebody who may write the
// section holds a lock of his own over that byte.
absl::Status LockGrant(int fd, GrantRange range, uint32_t grant_number);

// Whether any grant of the range is still held. `fd` is the broker's own description of the
// section.
absl::StatusOr<bool> AnyGrantHeld(int fd, GrantRange range);

// Whether this one is.
absl::StatusOr<bool> GrantHeld(int fd, GrantRange range, uint32_t grant_number);

}  // namespace iob::shm
