// RingRenewal: asks the broker for newer memory of a shared reserve ring whose word says that it
// was given up.
//
//     hint in CTL --Ask--> the broker grants the next generation   go on there
//                     '--> it has none: the hint is false          do not ask for half a second
//                     '--> it does not answer                      the error; likewise
//
// The word is a hint because every producer can write it (shm/reserve_shared_layout.h).
//
// Internal to the library. Thread-compatible, together with its Connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "client/internal/connection.h"
#include "client/internal/direct_grant.h"
#include "client/types.h"

namespace iob {

class RingRenewal {
 public:
  // How long a call that never blocks otherwise waits for the broker, once per generation.
  static constexpr std::chrono::milliseconds kBriefWait{250};

  // `granted` is what this attachment has, of a region that it may produce to or consume from.
  RingRenewal(uint32_t region_index, const DirectGrant& granted);

  // Whether the next Ask would put the question.
  bool due() const { return std::chrono::steady_clock::now() >= not_before_; }

  // What comes after `generation`; nothing when the broker has nothing newer. The connection's
  // error, DEADLINE_EXCEEDED, DATA_LOSS / PROTOCOL for a ring of another shape.
  absl::StatusOr<std::optional<DirectGrant>> Ask(Connection& connection, uint32_t generation,
                                                 Deadline deadline);

 private:
  absl::Status CheckSameRing(const DirectGrant& next, uint32_t generation) const;

  uint32_t region_index_;
  uint64_t size_bytes_;
  ReserveRingOptions options_;
  std::optional<uint32_t> seat_;
  std::chrono::steady_clock::time_point not_before_;
};

}  // namespace iob
