// RegionCopy: one region on its way into a snapshot.
//
//   still: only the broker writes it (mediated ring, sealed id allocator)
//
//       Look --pending runs--> copied beside the loop --Look--> ... --few pending--> the cut
//
//       ring, by position:        first        tail           copied        head
//                                   | stale     |     kept      |  pending    |
//
//   loose: endpoints may write it (all others): one run per section, copied as it is, once
//
//   R1  A byte that one Look has shown, from tail to head, keeps still until a tail beyond it was
//       seen: the writer needs the consumer's word, or its own, before it uses the place again. So
//       whatever was copied above the last Look's tail is right, whenever that was.
//   R2  What was copied below that tail may be anything. It is stale, and is cleared.
//   R3  An id's slot and blob never change once the header counts them.
//   R4  HEAD and header words are made from what the broker knows, never copied from shared pages.
//
// The mappings are its own: a region may go while it is copied. Look is for the loop; runs may be
// read by any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "iob/v1/snapshot.pb.h"
#include "server/region.h"
#include "shm/access.h"
#include "shm/mapping.h"

namespace iob::server {

// Bytes to be copied.
struct CopyRun {
  const std::byte* source = nullptr;
  uint64_t target_offset_bytes = 0;
  uint64_t size_bytes = 0;
  // The memory file that `source` is mapped from, and where in it; -1 for the broker's own memory.
  int source_fd = -1;
  uint64_t source_offset_bytes = 0;
};

// Bytes that the broker knows.
struct CopyPatch {
  uint64_t target_offset_bytes = 0;
  std::string bytes;
};

struct CopyHole {
  uint64_t target_offset_bytes = 0;
  uint64_t size_bytes = 0;
};

class RegionCopy {
 public:
  // Maps what there is to copy, for a target that begins at `target_offset_bytes`.
  // UNAVAILABLE or RESOURCE_EXHAUSTED when the kernel has no room.
  static absl::StatusOr<RegionCopy> Open(Region& region, uint64_t target_offset_bytes);

  bool still() const { return kind_ != Kind::kLoose; }
  uint64_t size_bytes() const { return size_bytes_; }

  // What is there now. The ring's mutex is held, if it is one.
  void Look(MediatedRing& ring);
  void Look(const SealedIds& ids);

  uint64_t pending_bytes() const;
  // What is pending; it counts as copied from here on. Once, for a loose region: all of it.
  std::vector<CopyRun> TakePending();

  // After the last TakePending.
  std::vector<CopyPatch> Patches() const;
  std::vector<CopyHole> Holes() const;
  // Sections, head and tail.
  void FillInfo(v1::SnapshotRegion& info) const;

 private:
  enum class Kind { kLoose, kRing, kIds };
  struct Section {
    shm::ReadOnlyMapping memory;
    shm::UniqueFd fd;  // Of its own: the buffer may be deleted meanwhile.
    uint64_t target_offset_bytes = 0;
    uint64_t size_bytes = 0;  // May be less than is mapped.
  };

  RegionCopy(Kind kind, uint64_t target_offset_bytes)
      : kind_(kind), target_offset_bytes_(target_offset_bytes) {}
  absl::Status AddSection(v1::SectionKind kind, uint32_t lane, const shm::SealedMemfd& memfd,
                          uint64_t size_bytes);
  // [low, high) of the ring as one or two ranges of the target.
  std::vector<CopyHole> RangesOf(uint64_t low, uint64_t high) const;
  CopyRun RunAt(const CopyHole& range) const;

  Kind kind_;
  uint64_t target_offset_bytes_;
  uint64_t size_bytes_ = 0;
  std::vector<Section> sections_;
  v1::SnapshotRegion told_;  // Its sections.

  // Loose: whether it was taken.
  bool taken_ = false;
  // Ring, positions. `first_` is the lowest that was ever copied.
  uint64_t first_ = 0;
  uint64_t copied_ = 0;
  uint64_t tail_ = 0;
  uint64_t head_ = 0;
  bool looked_ = false;
  // Ids, offsets: slots grow from the front, blobs from the back.
  uint64_t slots_copied_ = 0;
  uint64_t slots_end_ = 0;
  uint64_t blobs_copied_ = 0;
  uint64_t blobs_begin_ = 0;
};

// Whether a region's memory may leave the daemon's and its endpoints' hands at all.
bool MayBeCopied(const Region& region);

// Whether a holder with these rights may read all that a copy of the region would show.
bool MayReadCopy(const Region& region, shm::EndpointId endpoint, shm::HandleRights rights);

// Whether somebody but the broker may be writing the region now. `open`: endpoints that are not
// closed.
bool MayBeTorn(const Region& region, std::array<bool, 2> open);

// Bytes of a copy of the region.
uint64_t CopyBytesOf(const Region& region);

}  // namespace iob::server
