// DirectRing: the broker's side of a ring whose producers write by themselves: reserve ring,
// broadcast, slot.
//
// The broker is not on the way of any record. It makes the memory, gives each attachment that
// produces a seat (a lane, an owner number, or the place of the one writer), and takes the seat
// back.
//
//   free --Take--> live --Leave--> left --Reap: nobody holds its grants, nothing is left--> free
//                    ^              | '-- its words cannot be --> burned
//                    '--Take, the same uid goes on--'
//
//   D1  A seat belongs to one attachment. While any of that attachment's grants is held by anybody,
//       in any process, the seat is nobody else's: it may still be written.
//   D2  What a dead producer left unfinished is settled before its seat is free again, and without
//       touching what others have committed.
//       Another uid gets it empty, and finds nothing of what the dead one wrote.
//   D3  A seat whose words cannot be is never given again.
//   D4  Figures are read from memory that producers and consumer write: claims about themselves,
//       and reported as such.
//
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/statusor.h"
#include "iob/v1/types.pb.h"
#include "server/section_plan.h"
#include "shm/grant_lock.h"
#include "shm/memfd.h"
#include "shm/placement.h"
#include "shm/reserve_lane_layout.h"

namespace iob::server {

class OwnerRing;

// What a direct ring is made from. Validated by CheckDirectRing.
struct DirectRingSpec {
  v1::Discipline discipline = v1::DISCIPLINE_RESERVE_RING;
  uint64_t size_bytes = 0;
  v1::ReserveRingOptions reserve;  // Defaults filled in.
  uint64_t slot_value_bytes = 0;
  shm::Placement placement = {};
};

// A producer that has stopped in the middle of a record.
struct StalledSeat {
  uint32_t seat = 0;
  uint64_t position = 0;
};

class DirectRing {
 public:
  // UNAVAILABLE, RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<DirectRing>> Create(const DirectRingSpec& spec);
  virtual ~DirectRing() = default;

  // A seat for an attachment of `uid` whose first grant in this region will be number
  // `grant_number` of `range`. RESOURCE_EXHAUSTED / QUOTA when none is free.
  absl::StatusOr<uint32_t> Take(uint32_t uid, shm::GrantRange range, uint32_t grant_number);
  // Its attachment is over. Without effect for a seat that is not live.
  void Leave(uint32_t seat);
  // Settles the seats that were left and whose grants nobody holds. True when none is left over.
  bool Reap();
  size_t live_count() const { return live_.size(); }
  // Which grants a live seat's attachment has: numbers from this one on. Nothing for others.
  std::optional<uint32_t> GrantNumberOf(uint32_t seat) const;
  // nullptr for rings of other kinds.
  virtual OwnerRing* owner_ring() { return nullptr; }

  // In address order.
  virtual std::vector<SectionPlan> ProducerSections(uint32_t seat) const = 0;
  virtual std::vector<SectionPlan> ConsumerSections() const = 0;
  // Where a lane goes on; nothing for other rings.
  virtual std::optional<shm::LaneCheckpoint> StartOf(uint32_t /*seat*/) const {
    return std::nullopt;
  }
  // The live producer that keeps the consumer waiting, if there is one.
  virtual std::optional<StalledSeat> FirstBusy() const { return std::nullopt; }
  // Work that comes due with the amount of data that passed, once a minute while seats are live.
  virtual void Maintain() {}
  virtual bool needs_maintenance() const { return false; }
  // Once: the consumer asked for a packet, and somebody who owed it died.
  virtual bool TakeOwedPacket() { return false; }
  // Totals and one line per seat that was ever taken, without region_index.
  virtual v1::RingStats Stats() const = 0;

  // All sections, for asking whether grants are held.
  std::vector<const shm::SealedMemfd*> Sections() const;

 protected:
  explicit DirectRing(uint32_t first_seat, uint32_t seat_count);

  enum class Settled {
    kFree,
    kUndrained,  // The consumer has not read everything yet.
    kBurned,
  };
  // Nobody holds the seat's grants any more.
  virtual Settled Settle(uint32_t seat) = 0;
  // All that a seat may have been given: each list was numbered from the seat's first grant on.
  virtual std::vector<std::vector<SectionPlan>> GrantsOf(uint32_t seat) const {
    return {ProducerSections(seat)};
  }
  // "lanes", "producers", ...
  virtual const char* SeatNoun() const = 0;
  virtual std::vector<const shm::SealedMemfd*> AllSections() const = 0;

  const absl::btree_set<uint32_t>& seats_used() const { return used_; }

 private:
  struct Seat {
    uint32_t uid = 0;
    shm::GrantRange range;
    uint32_t grant_number = 0;
    bool undrained = false;  // Settled, but for what the consumer has not read.
  };
  bool Held(uint32_t seat, const Seat& holder) const;
  std::optional<uint32_t> FindSeat(uint32_t uid);

  const uint32_t seat_count_;
  std::vector<uint32_t> free_;
  absl::btree_map<uint32_t, Seat> live_;
  absl::btree_map<uint32_t, Seat> left_;
  absl::btree_set<uint32_t> used_;
};

// Sizes and options of one direct ring, with defaults filled in, or what is wrong with them.
// INVALID_ARGUMENT, OUT_OF_RANGE.
absl::Status CheckDirectRing(DirectRingSpec& spec);

// Of a checked spec.
uint64_t DirectRingMemoryBytes(const DirectRingSpec& spec);
uint64_t DirectRingSections(const DirectRingSpec& spec);

}  // namespace iob::server
