// IdAllocatorSealedWriter: the broker's side of an id allocator that nobody else may write.
//
// Authority is private: the next id and the head of the blobs live in this object. What is stored
// to the region is a mirror, and no word of it is ever read back.
//
//   E1  The bytes of a blob are stored first, then its slot, then a header that counts it; the last
//       two with release. A reader that finds id < next_id finds the blob complete: no reader of a
//       sealed region ever meets an uncommitted id.
//   E2  Ids are 0, 1, 2, ... without a gap; an id's blob never moves or changes.
//   E3  Anything but kAllocated leaves region and object as they were.
//   E4  The region is sealed before a descriptor can leave, so what was stored stays what it is,
//       and comparing a new blob with it (interning) compares with our own bytes.
//
// Interning, when asked for: a blob that is equal to an earlier one gets the earlier one's id
// (Zircon stores it again). Bounded, hence best effort: see InternTable.
//
// A broker that is killed at any point leaves a region whose header counts complete blobs only.
// Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/id_allocator_intern.h"
#include "shm/id_allocator_layout.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::shm {

class IdAllocatorSealedWriter {
 public:
  struct Options {
    uint32_t interned_max = 0;  // Blobs to remember; 0: equal blobs get ids of their own.
    Placement placement = {};
  };

  // Makes the section, maps it, and seals it against every writer but this mapping.
  static absl::StatusOr<IdAllocatorSealedWriter> Create(const IdAllocatorLayout& layout,
                                                        const Options& options);

  const IdAllocatorLayout& layout() const { return layout_; }
  const SealedMemfd& memfd() const { return memfd_; }
  uint32_t next_id() const { return header_.next_id; }
  uint64_t free_bytes() const { return header_.free_bytes(); }

  // Stores `blob`, which must lie in memory that nobody else writes. kAllocated or kInterned with
  // its id, or kOutOfMemory.
  AllocateOutcome Allocate(std::span<const std::byte> blob, uint32_t* ret_id);

 private:
  IdAllocatorSealedWriter(const IdAllocatorLayout& layout, SealedMemfd memfd, Mapping region,
                          InternTable interned)
      : layout_(layout),
        memfd_(std::move(memfd)),
        region_(std::move(region)),
        interned_(std::move(interned)),
        header_{.next_id = 0, .blob_head = layout.region_bytes()} {}

  bool SameBytes(const InternTable::Entry& entry, std::span<const std::byte> blob) const;

  IdAllocatorLayout layout_;
  SealedMemfd memfd_;
  Mapping region_;
  InternTable interned_;
  IdHeader header_;  // Ours alone; the region only ever gets copies of it.
};

}  // namespace iob::shm
