// Waiting until signals of endpoints are raised, in memory.
//
// The change words of all of them are the futex: a change wakes the waiter, and needs no packet. A
// broker that died wakes nobody, though, and the socket alone tells of it: sleeps are cut into
// slices, and the sockets are read before each.
//
// Internal to the library. Thread-compatible, like the connections.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "client/internal/connection.h"
#include "client/types.h"

namespace iob {

// futex_waitv could take more, shm::FutexWaitAny does not.
inline constexpr size_t kSignalWaitsMax = 8;

struct SignalWait {
  Connection* connection = nullptr;
  uint32_t signals = 0;   // Any of them ends the wait.
  uint32_t observed = 0;  // Answer: all that are raised.
};

// How many are satisfied; 0 when the deadline passed. 1 to kSignalWaitsMax of them. `observed` is
// filled also on failure: PERMISSION_DENIED / ACCESS_DENIED without WAIT, or what ended a
// connection whose signals are not raised; `ret_failed` then says which one it is.
absl::StatusOr<size_t> AwaitSignals(std::span<SignalWait> waits, Deadline deadline,
                                    size_t* ret_failed);

}  // namespace iob
