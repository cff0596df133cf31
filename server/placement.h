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
#include <string>

#include "absl/status/status.h"
#include "iob/v1/placement.pb.h"
#include "iob/v1/types.pb.h"

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

// What memory got for which nothing was done.
v1::ObtainedPlacement Unplaced(const v1::Placement& wish);

}  // namespace iob::server
