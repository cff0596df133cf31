// SharedRecovery: the broker's side of a shared reserve ring. It is not on the way of any record.
//
// The idea: an owner's claims are found by looking at every control word once. Neither head nor
// tail nor the chain of records is believed, so a spoilt ring costs no more than a good one.
//
//   R1  Every walk is bounded by the number of slots.
//   R2  Recover changes BUSY words of that owner only; nobody else's record is touched, whatever
//       the others are doing meanwhile.
//   R3  The intent of a dead owner is settled before its words are discarded, so that what a word
//       says is still what its owner made of it. A broker that dies in between leaves all of it to
//       be done again; only recovered_records may then be short.
//   R4  After Recover the consumer has been woken if it sleeps: the dead may have owed it a wake.
//   R5  Scrub replaces stamps more than 4 laps old by one that is 3 laps old. It changes no word
//       that is claimed at a position between head and tail, and a claim that runs into it fails
//       its swap and tries again. The word is read before the tail, so its true age is known.
//
// A generation that was retired is recovered and counted like the current one.
//
// Recover is for owners that are proven dead: a live one would lose its records (kLost). One that
// is only stopped is reported by FirstBusy and must be killed first, or waited for.
//
// What somebody wrote into CTL who should not have can make the figures wrong; it cannot make a
// call here touch memory outside the ring, or not come back. Owned by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/mapping.h"
#include "shm/reserve_shared_layout.h"

namespace iob::shm {

struct SharedRecovered {
  uint64_t discarded_records = 0;  // Claims that were never submitted.
  bool settled_submit = false;     // One submit was made and not yet counted; now it is.
  bool tell_socket = false;        // The consumer asked for a packet on its socket.
};

// A claim that is not submitted.
struct SharedBusy {
  uint32_t owner = 0;
  uint64_t position = 0;
};

// The ring at one moment; exact when nobody is at work.
struct SharedOccupancy {
  uint64_t consumed_records = 0;
  uint64_t consumed_bytes = 0;
  uint64_t resident_records = 0;  // Committed, not released. stored = consumed + resident.
  uint64_t resident_bytes = 0;    // Of payload.
  uint64_t busy_records = 0;
  uint64_t discarded_records = 0;  // Not yet skipped.
  uint64_t ring_bytes = 0;         // From head to the last claim: footprints, gaps included.
  bool consistent = true;          // False: the head or a length cannot be.
};

template <int kLapBits>
class BasicSharedRecovery {
 public:
  static absl::StatusOr<BasicSharedRecovery> Map(const SharedLayout& layout,
                                                 const SharedSections& sections);

  // Discards what `owner` has claimed and not submitted, and makes its ledger line exact. Costs one
  // load per slot. After it no word but old stamps names the owner, and its number may be given
  // to another process. INVALID_ARGUMENT for an owner that is not in 1..63.
  absl::StatusOr<SharedRecovered> Recover(uint32_t owner);

  // Once every 2^28 laps at the least (M7): replaces stamps that are about to look new again.
  // Returns how many. One load per slot.
  uint64_t Scrub();
  // True from a quarter of that on.
  bool ScrubDue() const;

  // The first claim from head on that is not submitted: what the consumer waits for, or will.
  std::optional<SharedBusy> FirstBusy() const;

  // Says in CTL that this generation of the ring is given up (SharedSalvage), or that nobody is
  // left who could write to it, and wakes all who sleep. True when the consumer wants a packet.
  bool Retire(uint32_t retired) const;
  // A position that no claim of this generation reaches, for the next one to begin at.
  uint64_t PositionBeyond() const;

  SharedLedger LedgerOf(uint32_t owner) const;
  SharedLedger TotalLedger() const;
  SharedOccupancy Occupancy() const;

 private:
  using Lap = SharedLap<kLapBits>;

  BasicSharedRecovery(const SharedLayout& layout, Mapping ctl, ReadOnlyMapping cons)
      : layout_(layout),
        ctl_(std::move(ctl)),
        cons_(std::move(cons)),
        control_(&ctl_.template Word<uint64_t>(layout.ControlOffset())) {}

  SharedAtomic<uint64_t>& Slot(uint64_t position) const {
    return control_[layout_.SlotOf(position)];
  }
  std::optional<uint64_t> LoadTail() const;
  bool SettleIntent(uint32_t owner) const;
  uint64_t DiscardClaims(uint32_t owner) const;
  void HelpTail() const;
  void ForgetWish(uint32_t owner) const;
  bool WakeConsumer() const;
  bool TakenOut(uint32_t owner, uint64_t position, uint64_t head, uint64_t frontier) const;
  // Calls `visit(position, word)` for each claimed record from head on until it returns false.
  // False when head or a length cannot be.
  template <typename Visit>
  bool ForEachRecord(Visit visit) const;

  SharedLayout layout_;
  Mapping ctl_;
  ReadOnlyMapping cons_;
  SharedAtomic<uint64_t>* control_;
  std::optional<uint64_t> scrubbed_turn_;
};

extern template class BasicSharedRecovery<kSharedLapBits>;
using SharedRecovery = BasicSharedRecovery<kSharedLapBits>;

}  // namespace iob::shm
