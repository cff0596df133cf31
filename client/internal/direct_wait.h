// How the consumers of direct rings wait: spin a little, then sleep on the ring's words and the
// word that changes with the signals.
//
//     look; closed?; ask to be woken; look again; sleep
//
//   S1  `closed` is read before the ring: the broker settles what the peer left before it raises
//       the bit, so an empty ring after a raised bit is empty for good.
//   S2  The change word is read before the ring is asked, and the ring's words after it: whatever
//       changes in between makes the sleep return at once.
//   S3  A sleep ends after half a second: a broker, or a producer between its record and its wake,
//       that died wakes nobody.
//
// A Ring has
//   bool HasRecords();              something to take
//   bool PollPolitely();            the same for a spin; optional
//   absl::Status status();          why there is nothing any more
//   bool PrepareToWait(uint32_t);   flags set, and still nothing
//   void ClearWaiting();
//   size_t Words(std::span<shm::FutexWord>);
//   int64_t WakeTimeNs();           when to look in any case; INT64_MAX for never
//
// Internal to the library.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "client/internal/connection.h"
#include "client/internal/ring_wait.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/futex.h"
#include "shm/result.h"
#include "shm/ring_layout.h"
#include "shm/waiter.h"

namespace iob {

// When a sleep that began now ends at the latest (S3).
inline int64_t SliceEndNs(bool signals_wake, Deadline deadline) {
  const Deadline slice = After(signals_wake ? kSleepSlice : kBlindSleepSlice);
  return ToMonotonicNs(std::min(deadline, slice));
}

// One sleep (S2, S3). Words for 32 lanes and the signals fit.
template <typename Ring>
void SleepForDirectRecords(Ring& ring, Connection& connection, Deadline deadline) {
  std::array<shm::FutexWord, shm::kFutexWordsMax> words;
  const std::optional<shm::FutexWord> change = connection.ChangeWord();
  if (ring.PrepareToWait(shm::kWaitingOnFutex) && !connection.peer_closed()) {
    size_t count = ring.Words(words);
    if (change) words[count++] = *change;
    const int64_t end_ns = std::min(SliceEndNs(change.has_value(), deadline), ring.WakeTimeNs());
    const shm::FutexOutcome outcome = shm::FutexWaitAny(std::span(words).first(count), end_ns);
    // What the broker says about this connection it says on the socket.
    if (outcome == shm::FutexOutcome::kDeadline) connection.Pump();
  }
  ring.ClearWaiting();
}

template <typename Ring>
absl::StatusOr<WaitOutcome> AwaitDirectRecords(Ring& ring, Connection& connection,
                                               shm::Waiter& waiter, Deadline deadline) {
  const auto look = [&ring] {
    if constexpr (requires { ring.PollPolitely(); }) {
      return ring.PollPolitely();
    } else {
      return ring.HasRecords();
    }
  };
  if (waiter.Spin(look, ToMonotonicNs(deadline))) return WaitOutcome::kRecords;
  while (true) {
    const bool closed = connection.peer_closed();  // S1.
    if (ring.HasRecords()) return WaitOutcome::kRecords;
    IOB_RETURN_IF_ERROR(ring.status());
    if (closed) return WaitOutcome::kPeerClosed;
    IOB_RETURN_IF_ERROR(connection.status());
    if (std::chrono::steady_clock::now() >= deadline) return WaitOutcome::kDeadline;
    SleepForDirectRecords(ring, connection, deadline);
  }
}

// For a poll loop: asks for a packet with the next record. True when it is right to sleep.
template <typename Ring>
bool ArmForDirectRecords(Ring& ring, Connection& connection, uint32_t region_index) {
  connection.Pump();
  if (!connection.ChangeWord()) return false;
  connection.DropReadable(region_index);
  const bool nothing_there = ring.PrepareToWait(shm::kWaitingOnSocket);
  return nothing_there && connection.status().ok() && !connection.has_event() &&
         !connection.peer_closed();
}

}  // namespace iob
