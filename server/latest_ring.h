// LatestRing: broadcast and slot, which keep the newest and let any number of readers follow
// (shm/broadcast_layout.h, shm/slot_layout.h). There is one seat, the writer's.
//
//   DATA    writer RW, followers RO
//   FOLLOW  writer RW, followers RW: who sleeps says so
//
// A successor of a dead writer goes on by itself from what it finds. See direct_ring.h. Owned by
// the loop thread.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/direct_ring.h"

namespace iob::server {

absl::StatusOr<std::unique_ptr<DirectRing>> MakeBroadcastRing(const DirectRingSpec& spec);
absl::StatusOr<std::unique_ptr<DirectRing>> MakeSlotRing(const DirectRingSpec& spec);

}  // namespace iob::server
