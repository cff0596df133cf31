// What a region is made of, by discipline: its sections, and the broker's own side of them.
//
//   none           PlainMemory   endpoints map it as their access bits say; the broker never does
//   mediated ring  MediatedRing  the broker writes; positions and books are its own
//   id allocator   SealedIds     only the broker writes
//                  SharedIds     endpoints that may map-write allocate too (id_owners.h)
//
// Owned by the loop thread.
#pragma once

#include <optional>

#include "server/id_owners.h"
#include "shm/id_allocator_sealed_writer.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"

namespace iob::server {

struct PlainMemory {
  std::optional<shm::SealedMemfd> data;  // Empty for a region of 0 bytes.
};

struct MediatedRing {
  shm::MediatedRingWriter writer;
  shm::Ledger ledger;
};

struct SealedIds {
  shm::IdAllocatorSealedWriter writer;
};

// A holder of a writable descriptor could otherwise add F_SEAL_FUTURE_WRITE, and so take from
// everybody else the right to map for writing.
absl::Status SealAgainstSeals(const shm::SealedMemfd& memfd);

// `size_bytes` must make a ring (shm::RingLayout).
absl::StatusOr<MediatedRing> MakeMediatedRing(uint64_t size_bytes);

}  // namespace iob::server
