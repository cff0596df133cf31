// Grant locks: how the broker knows that a descriptor it gave away is held, wherever it went.
//
// Each grant is an open file description of its own, and carries one OFD read lock on a byte far
// behind the data. The kernel drops the lock when the description goes: after the last descriptor
// (dups, forks, copies in flight) AND the last mapping made from it. So "is any byte of this
// endpoint locked?" answers "does anybody still hold or map what this endpoint was given?".
//
//   byte = 2^60 + endpoint * 2^32 + grant number      (offsets beyond the data are legal)
//
// A holder can drop its own lock with F_UNLCK, and so lie about itself, to its own loss: its peer
// is told that it is gone. It cannot touch another description's lock. Linux 3.15.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/access.h"

namespace iob::shm {

// Locks a fresh grant (descriptor `fd`) for `endpoint`. FAILED_PRECONDITION when somebody who may
// write the section holds a lock of his own over that byte.
absl::Status LockGrant(int fd, EndpointId endpoint, uint32_t grant_number);

// Whether any grant of `endpoint` is still held. `fd` is the broker's own description of the
// section.
absl::StatusOr<bool> AnyGrantHeld(int fd, EndpointId endpoint);

}  // namespace iob::shm
