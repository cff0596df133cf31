// IdAllocatorSharedWriter: ids and blobs in a region that several processes write at once.
//
// For every endpoint that may map-write, and for the broker on behalf of those that may not. The
// idea: a claim is one compare-and-swap on the slot of the next id, and the word it puts there says
// at once who claims and how many bytes. There is no moment at which something is taken but nobody
// knows by whom or how much, so whoever comes next can finish the bookkeeping of one who died.
//
//   with header {n, b}, for a blob of s bytes, by owner o:
//     1 claim   slot n   0 -> PENDING{o, s}            here the allocation is decided
//     2 swing   header   {n, b} -> {n + 1, b - s}      by anybody who sees 1 ("helping")
//     3 fill    bytes [b - s, b)
//     4 commit  slot n   PENDING{o, s} -> {s, b - s}   readers see the blob from here on
//
//            claimant, with CAS            claimant, with CAS
//   {0, 0} ----------------------> PENDING ------------------> {size, offset}
//                                     |
//                                     +----------------------> TOMBSTONE
//               broker, when the owner is proven dead; claimant, when step 2 met corruption
//
//   P1  A slot moves along these edges only, each by compare-and-swap: it is 0 once, claimed once,
//       and its low half, the size, never changes after the claim.
//   P2  The header moves only from {n, b} to {n + 1, b - size of slot n}, by compare-and-swap,
//       after slot n was claimed. So next_id only grows, and b is a function of n.
//   P3  Slot n is committed only after the header has passed n. (So is a tombstone, unless it marks
//       corruption; it keeps its size, and is passed like a claim.)
//   P4  A slot is looked at only when it lies below the blob_head of a header with that next_id or
//       a later one; no byte of a blob is ever taken for a slot.
//   P5  [b - s, b) of id n is written by the claimant of n alone, between its claim and its commit,
//       and by nobody ever again.
//   P6  next_id only counts slots that are not 0: the header is swung with release after the claim
//       was seen with acquire, so no reader finds {0, 0} below next_id.
//
// Why it is right:
//   - A claim is exclusive, and never stale. Whoever claims n has loaded {n, b}. While slot n is 0
//     nobody has swung the header past n (P2), so when the claim succeeds the header is still
//     {n, b}; afterwards the slot is never 0 again (P1), so every later claim of n fails.
//   - Extents do not overlap. By P2 and P1 the pair (n, b) is unique, whoever swings; blob n is
//     [b - s, b) and everything below is for later ids. The room was checked against {n, b}, the
//     very header that was in force, so slots and blobs do not meet (P4).
//   - No ABA: next_id is in every header word and only grows.
//   - Nobody waits for anybody. A stopped or dead claimant leaves at most PENDING, which others
//     pass by doing step 2 for it. A failed compare-and-swap means that another one's succeeded.
//   - A blob is complete when seen: commit is a release, and pairs with the reader's acquire.
//   - Recovery loses nobody's work. A dead owner claims nothing more, and all it ever claimed has
//     n <= next_id of a header loaded after its death; each slot of others fails the comparison.
//
// Killed at any instruction (tests kill before every shared load, and after every instruction):
//   killed                     left behind            others                recovery
//   before the claim           nothing                -                     -
//   claim .. swing             PENDING, header lags   swing it themselves   tombstone
//   swing .. commit            PENDING                go on                 tombstone
//   after the commit           the blob, readable     read it               -
//   helping somebody           nothing of its own     -                     -
//   broker, in TombstoneOwner  some of them done      go on                 ends with the broker
//   stopped, not killed        PENDING                go on                 never: it may go on too
// A tombstone costs an id, its slot and the size that was claimed.
//
// Somebody with the region mapped for writing can write anything. What a caller of this class then
// meets (it touches nothing outside the region, and always comes back):
//   word, and what was done to it            answer
//   header that is not valid, or punched     kInvalidHeader; readers kInvalidHeader
//   header valid but moved back              kNonEmptyIndex: a blob is there already
//   header valid but moved on                honoured, as in Zircon: ids and room are lost
//   header or slot flipping all the time     kBusy after kTriesMax tries
//   slot of the next id: an impossible word  kNonEmptyIndex, until somebody mends it
//   slot of the next id: a forged PENDING    passed like anybody's; the id stays uncommitted until
//                                            its owner, real or not, is tombstoned
//   our PENDING changed under us             kNonEmptyIndex; the id is lost
//   another's slot, or bytes of a blob       its readers get an error, or other bytes
// Processes that distrust each other do not share a region for writing.
//
// Where this differs from Zircon, and why:
//   - Step 1 comes before step 2. There, the header is swung first, and a process killed before its
//     slot is set leaves an id uncommitted for ever, indistinguishable from one still being filled.
//   - A slot in between is PENDING or TOMBSTONE instead of {0, 0} (id_allocator_layout.h), which a
//     reader made for Zircon reports as kInvalidIndex. Once committed, every byte is as there.
//   - All writers of a region must follow the steps above. A writer made for Zircon takes a slot
//     without looking at it: an allocation that runs beside it can get the same bytes.
//
// Thread-safe: nothing but the region changes. One owner number per process; its threads share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/id_allocator_layout.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::shm {

class IdAllocatorSharedWriter {
 public:
  // Each failed try means that another process has allocated, or plays games. More than this in
  // one call is a game, and a caller who is told so can do something else.
  static constexpr int kTriesMax = 1000;

  // Makes the section and its empty header: the broker's writer, owner kIdOwnerBroker.
  static absl::StatusOr<std::pair<SealedMemfd, IdAllocatorSharedWriter>> Create(
      const IdAllocatorLayout& layout, const Placement& placement = {});

  // A writer to a section that exists. `owner` is this process's own, given by the broker. A forked
  // child does not inherit the mapping: it is another process. INVALID_ARGUMENT for an owner
  // outside 1..kIdOwnersMax, FAILED_PRECONDITION for a section of another size.
  static absl::StatusOr<IdAllocatorSharedWriter> Map(const IdAllocatorLayout& layout,
                                                     const SealedMemfd& memfd, IdOwner owner);

  const IdAllocatorLayout& layout() const { return layout_; }
  IdOwner owner() const { return owner_; }

  // Stores `blob`; kAllocated with its id, or what went wrong (never kInterned). The bytes are read
  // once.
  AllocateOutcome Allocate(std::span<const std::byte> blob, uint32_t* ret_id) const;

  // Turns every claim of `owner` that was not committed into a tombstone; how many there were. For
  // the broker, once it is proven that the owner's process is gone and so is every mapping made
  // for it: a live claimant would lose its blob. Costs one load per id of the region. After OK no
  // word names the owner any more, and the number may be given to another process. DATA_LOSS for
  // words that cannot be: then the number must not be used again in this region.
  absl::StatusOr<uint32_t> TombstoneOwner(IdOwner owner) const;

  // What the header says now, if it can be.
  std::optional<IdHeader> LoadHeader() const;

 private:
  IdAllocatorSharedWriter(const IdAllocatorLayout& layout, Mapping region, IdOwner owner)
      : layout_(layout), region_(std::move(region)), owner_(owner) {}

  IdSlot LoadSlot(uint32_t id) const;
  bool ExchangeSlot(uint32_t id, uint64_t expected, uint64_t desired) const;
  AllocateOutcome FillClaim(const IdHeader& header, std::span<const std::byte> blob,
                            uint32_t* ret_id) const;
  bool PassHeader(const IdHeader& header, uint32_t claimed_bytes) const;

  IdAllocatorLayout layout_;
  Mapping region_;
  IdOwner owner_;
};

}  // namespace iob::shm
