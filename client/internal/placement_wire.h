// Placements, to and from the wire format.
//
// Internal to the library. Thread-safe: pure functions.
#pragma once

#include "client/placement.h"
#include "iob/v1/placement.pb.h"

namespace iob {

void ToWire(const Placement& placement, v1::Placement* ret_placement);

// Values that this version does not know become the weakest that it does.
ObtainedPlacement FromWire(const v1::ObtainedPlacement& placement);

}  // namespace iob
