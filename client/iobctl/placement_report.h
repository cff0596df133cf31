// Placements for people and programs: what a region's memory got.
//
// Thread-safe: pure functions.
#pragma once

#include <string>

#include "client/iobctl/json.h"
#include "client/types.h"

namespace iob::ctl {

// A member "placement" of the object that is open.
void AddPlacement(const ObtainedPlacement& placement, JsonWriter* json);

// One line for what was obtained beyond the ordinary, and one for each shortfall; "" for memory
// like any other.
std::string DescribePlacement(const RegionInfo& region);

}  // namespace iob::ctl
