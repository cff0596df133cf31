// What a region is made of, by discipline: its sections, and the broker's own side of them.
//
//   none           PlainMemory   endpoints map it as their access bits say; the broker never does
//   mediated ring  MediatedRing  the broker writes; positions and books are its own
//   id allocator   SealedIds     only the broker writes
//                  SharedIds     endpoints that may map-write allocate too (id_owners.h)
//
// Owned by the loop thread, but for mediated rings.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/synchronization/mutex.h"
#include "iob/v1/placement.pb.h"
#include "server/id_owners.h"
#include "shm/id_allocator_sealed_writer.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::server {

struct PlainMemory {
  std::optional<shm::SealedMemfd> data;  // Empty for a region of 0 bytes.
};

// Written by the loop (sockets, gRPC) and by a mediator thread (submission queues): whoever touches
// it holds its mutex, for one batch at most.
struct MediatedRing {
  // Who waits for room.
  enum class Waiter { kConnections, kQueues };

  shm::MediatedRingWriter writer;
  shm::Ledger ledger = {};
  std::unique_ptr<absl::Mutex> mutex = std::make_unique<absl::Mutex>();
  // Somebody is left who can move the tail.
  bool consumer_left = true;
  // A message that this shared region got records is on its way to the loop.
  bool update_posted = false;

  // `who` waits for this much, or with 0 no more. The ring's word tells the smaller wish.
  void Want(Waiter who, uint64_t room_bytes) {
    wants[static_cast<size_t>(who)] = room_bytes;
    const uint64_t least = std::min(wants[0], wants[1]);
    writer.WantRoom(least != 0 ? least : std::max(wants[0], wants[1]));
  }
  uint64_t FreeBytes() const {
    return writer.layout().capacity_bytes() - (writer.head_position() - writer.released_position());
  }

  std::array<uint64_t, 2> wants = {};  // By Waiter.
};

struct SealedIds {
  shm::IdAllocatorSealedWriter writer;
};

// A holder of a writable descriptor could otherwise add F_SEAL_FUTURE_WRITE, and so take from
// everybody else the right to map for writing.
absl::Status SealAgainstSeals(const shm::SealedMemfd& memfd);

// `size_bytes` must make a ring (shm::RingLayout).
absl::StatusOr<MediatedRing> MakeMediatedRing(uint64_t size_bytes,
                                              const shm::RingOptions& options = {},
                                              const shm::Placement& placement = {});

// The same, as well placed as this machine can.
struct PlacedRing {
  MediatedRing ring;
  v1::ObtainedPlacement placement;
};
absl::StatusOr<PlacedRing> MakePlacedRing(uint64_t size_bytes, const v1::Placement& wish);

}  // namespace iob::server
