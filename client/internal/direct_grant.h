// DirectGrant: the memory of a ring that its producers write by themselves (reserve ring,
// broadcast, slot), as an attachment got it.
//
// Which sections there are, how large and in which mode follows from the discipline, its options
// and the role; so the broker's list is compared with that one, and anything else is refused.
//
//                        producer: map-write         consumer: map-read only
//     lanes              LANE rw, CONTROL ro, own    all LANE ro (rw to clear), all CONTROL rw
//     shared             CTL rw, DATA rw, CONS ro    CTL ro, DATA ro, CONS rw
//     broadcast, slot    DATA rw, FOLLOW rw          DATA ro, FOLLOW rw
//
//   Y1  Whoever produces has a seat, and nobody else has.
//   Y2  No section is sealed against writers: its writer is an endpoint that maps it later. What is
//       read there is checked by the ring's own class, at each read.
//
// Internal to the library. Values: thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/types.h"
#include "shm/broadcast_layout.h"
#include "shm/memfd.h"
#include "shm/reserve_lane_layout.h"
#include "shm/reserve_shared_layout.h"
#include "shm/slot_layout.h"

namespace iob::v1 {
class RegionGrant;
}  // namespace iob::v1

namespace iob {

struct DirectGrant {
  struct Lane {
    uint32_t lane = 0;
    shm::SealedMemfd data;
    shm::SealedMemfd control;
  };

  uint64_t size_bytes = 0;     // Of the region.
  ReserveRingOptions reserve;  // Of a reserve ring.
  uint64_t slot_value_bytes = 0;
  std::optional<uint32_t> seat;  // Y1: the lane, the owner number, or 0 for the one writer.
  // Where the broker saw the lane end: nothing is behind that any more.
  shm::LaneCheckpoint lane_start;
  // What there is of these follows from discipline and mode; nothing without a map right.
  std::vector<Lane> lanes;  // A producer's own one, or all of them in their order.
  std::optional<shm::SharedSections> shared;
  uint32_t generation = 0;  // Of `shared`.
  std::optional<shm::SealedMemfd> data;
  std::optional<shm::SealedMemfd> follow;

  bool mapped() const { return !lanes.empty() || shared || data; }
};

// A section whose descriptor has been confirmed: a memfd of that size that cannot be resized.
struct ConfirmedSection {
  int kind = 0;  // iob.v1.SectionKind.
  uint32_t lane = 0;
  bool writable = false;
  shm::SealedMemfd memfd;
};

// The layouts, of a region that MakeDirectGrant has accepted or is about to.
absl::StatusOr<shm::LaneLayout> LaneLayoutOf(const DirectGrant& grant);
absl::StatusOr<shm::SharedLayout> SharedLayoutOf(const DirectGrant& grant);
absl::StatusOr<shm::BroadcastLayout> BroadcastLayoutOf(const DirectGrant& grant);
// Cells are as large as the region has room for; values at most slot_value_bytes.
absl::StatusOr<shm::SlotLayout> SlotLayoutOf(const DirectGrant& grant);

// A ring's own DATA_LOSS with the reason INTEGRITY; everything else as it is.
absl::Status WithIntegrity(absl::Status status);

// DATA_LOSS, reason PROTOCOL when sections, seat or options do not go with each other, INTEGRITY
// for a section that is sealed against its writer. `rights` are this endpoint's effective ones.
absl::StatusOr<DirectGrant> MakeDirectGrant(const v1::RegionGrant& claimed, RegionRights rights,
                                            std::vector<ConfirmedSection> sections);

}  // namespace iob
