// Waiting for records of a mediated ring: the one loop that readers and followers share.
//
// Internal to the library. Thread-compatible, like the connection.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/futex.h"
#include "shm/result.h"
#include "shm/ring_layout.h"
#include "shm/waiter.h"

namespace iob {

// A sleep on memory does not see the connection: a broker that died wakes nobody.
inline constexpr std::chrono::milliseconds kSleepSlice{500};
// Without WAIT there is no word that changes with the peer: only the socket tells of an end.
inline constexpr std::chrono::milliseconds kBlindSleepSlice{10};

inline int64_t ToMonotonicNs(Deadline deadline) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
}

// Sleeps for at most a slice until the word or the peer may have changed. `prepare` asks for a wake
// and says what to sleep on; nothing when there is no reason to sleep any more.
template <typename Prepare>
void SleepASlice(Connection& connection, Deadline deadline, Prepare prepare) {
  // The change word first: a bit raised after this load makes the sleep return at once.
  const std::optional<shm::FutexWord> change = connection.ChangeWord();
  const Deadline slice = std::min(deadline, After(change ? kSleepSlice : kBlindSleepSlice));
  const std::optional<shm::FutexWord> word = prepare();
  if (!word) return;
  const shm::FutexOutcome outcome = change
                                        ? shm::Waiter::Sleep(*word, *change, ToMonotonicNs(slice))
                                        : shm::FutexWaitAny({&*word, 1}, ToMonotonicNs(slice));
  // What the broker says about this connection it says on the socket.
  if (outcome == shm::FutexOutcome::kDeadline) connection.Pump();
}

// RingReader::Wait for a MediatedRingReader or a MediatedRingFollower.
template <typename Ring>
absl::StatusOr<WaitOutcome> AwaitRecords(Ring& ring, Connection& connection, shm::Waiter& waiter,
                                         Deadline deadline) {
  if (waiter.Spin([&ring] { return ring.HasRecords(); }, ToMonotonicNs(deadline)))
    return WaitOutcome::kRecords;
  while (true) {
    // Before the ring: the broker publishes all of a writer's records before it raises the bit, so
    // an empty ring after a raised bit is empty for good.
    const bool closed = connection.peer_closed();
    if (ring.HasRecords()) return WaitOutcome::kRecords;
    if (absl::Status poisoned = ring.status(); !poisoned.ok())
      return WithReason(std::move(poisoned), "INTEGRITY");
    if (closed) return WaitOutcome::kPeerClosed;
    IOB_RETURN_IF_ERROR(connection.status());
    if (std::chrono::steady_clock::now() >= deadline) return WaitOutcome::kDeadline;
    SleepASlice(connection, deadline, [&ring, &connection]() -> std::optional<shm::FutexWord> {
      if (!ring.PrepareToWait(shm::kWaitingOnFutex) || connection.peer_closed())
        return std::nullopt;
      return ring.HeadWord();
    });
    ring.ClearWaiting();
  }
}

}  // namespace iob
