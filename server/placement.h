// Placement: what may be wished for a region's memory, and what it got.
//
//   P1  A wish is checked before anything is made: what cannot be meant is INVALID_ARGUMENT.
//   P2  A wish that this machine cannot grant falls short, and the reply says which, why, and how
//       to mend it; a wish that is named in `require` fails instead, with the same words.
//   P3  What is told as obtained was found out after the memory was made, never assumed.
//
// Values and rules only. Owned by the loop thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iob/v1/placement.pb.h"
#include "iob/v1/types.pb.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::server {

// The region that a wish is about.
struct PlacedRegion {
  std::string argument;  // What errors call it: "regions[0]".
  v1::Discipline discipline = v1::DISCIPLINE_NONE;
  uint64_t size_bytes = 0;
  bool shared = false;  // Its memory was placed with its object.
};

// P1. INVALID_ARGUMENT.
absl::Status CheckPlacement(const v1::Placement& wish, const PlacedRegion& region);

// Whether `wish` would rather fail than go without `item`.
bool Requires(const v1::Placement& wish, v1::PlacementItem item);

// Whether memory so placed comes out of what the daemon may use, as far as can be said before it is
// made; else whoever touches it pays, or it is set aside in the pool already.
bool TakesOrdinaryMemory(const v1::Placement& wish, uint64_t size_bytes);

// Tries a wish, with less and less of it:
//
//   make with now() --fails about one item--> FallBack: is it required?  yes: the call fails
//         ^                                      | no: written down, and left out
//         '--------------------------------------'
//   made --> Measure: what was obtained, which fails too if something required is missing
//
// Huge pages go down step by step: 1 GiB, 2 MiB, transparent, none.
class PlacementPlan {
 public:
  // `wish` was checked.
  explicit PlacementPlan(const v1::Placement& wish);

  // What to try.
  const shm::Placement& now() const { return now_; }

  // `failure`, unless it is about an item that can be left out; then OK, and now() is without it.
  // FAILED_PRECONDITION / PLACEMENT when that item was required.
  absl::Status FallBack(const absl::Status& failure);

  // Looks at what was made. FAILED_PRECONDITION / PLACEMENT.
  absl::StatusOr<v1::ObtainedPlacement> Measure(std::span<const shm::SealedMemfd* const> sections);

 private:
  absl::Status FallShort(shm::PlacementItem item, absl::string_view why);
  absl::Status MeasureHugePages(std::span<const shm::SealedMemfd* const> sections);
  absl::Status MeasureNode(std::span<const shm::SealedMemfd* const> sections);

  const v1::Placement wish_;
  shm::Placement now_;
  v1::ObtainedPlacement obtained_;
};

}  // namespace iob::server
