// SharedSalvage: takes what is left out of a generation of a shared reserve ring that was given up.
//
// A producer that is stopped in the middle of a record holds up the ring for everybody, and as long
// as it may go on, its room cannot be given to anybody else. So the broker can retire the sections
// as they are, and make new ones into which everybody goes on. What was submitted behind the
// unfinished record is still in the old ones: this class takes it out, and the unfinished record
// too, when its producer goes on one day.
//
//       head             hold of owner 3            frontier            end of claims
//   -----|==owner 1======|xx owner 3 xx|==owner 1====|--------------------|
//         given out       not finished   given out     not looked at yet
//
//   V1  The head never moves: no room is given back, so no producer that still writes here harms
//       a record. Payloads stay readable for as long as this object lives.
//   V2  The records of one owner come in their order: behind one that is not finished, those of
//       its own owner wait (its hold), those of others do not.
//   V3  What is below the frontier was given out; of an owner with a hold, what is below that.
//   V4  Release publishes frontier and holds in CONS, one word each, holds first. A successor of a
//       consumer that was killed between any two of these stores gets what was not released again,
//       and nothing else; broker and successor count as consumed what V3 says.
//   V5  Every walk is bounded by the ring's size; words that cannot be poison, as in the consumer.
//
// One at a time per generation, made from the consumer that read it before. Thread-compatible; a
// forked child does not inherit the mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "shm/futex.h"
#include "shm/light_fence.h"
#include "shm/mapping.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_layout.h"
#include "shm/shared_record.h"

namespace iob::shm {

template <int kLapBits>
class BasicSharedSalvage {
 public:
  // Goes on where `consumer` or an earlier salvage released. Nothing that the consumer's Next gave
  // out may be unreleased: SharedConsumer::released_all.
  explicit BasicSharedSalvage(BasicSharedConsumer<kLapBits> consumer);

  // The next record that may be given out, holds first.
  SharedReadOutcome Next(SharedRecord* ret_record);
  // V4. Payloads stay readable.
  void Release();

  bool HasRecords() { return Find().has_value(); }

  // As SharedConsumer. Producers wake the one who waits for the first of WaitWords; a change of the
  // others ends a sleep that has not begun yet.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // The words behind which records may appear, as last seen; as many as fit into `words`.
  size_t WaitWords(std::span<FutexWord> words) const;

  // Everything was given out and released, and the broker says that nobody can write any more.
  bool Over();

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

 private:
  using Lap = SharedLap<kLapBits>;
  struct Found {
    uint64_t position = 0;
    ControlWord word{0};
    bool held = false;  // Found behind a hold, not at the frontier.
  };
  struct Hold {
    uint64_t position = 0;
    uint32_t seen_low = 0;
  };

  const SharedAtomic<uint64_t>& Slot(uint64_t position) const {
    return control_[layout_.SlotOf(position)];
  }
  std::optional<Found> Find();
  std::optional<Found> FindHeld(uint32_t owner);
  std::optional<Found> FindAtFrontier();
  std::optional<uint64_t> EndOf(uint64_t position, ControlWord word);
  void Take(const Found& found);
  void MoveHold(uint32_t owner);
  void Resume();
  void StoreHold(uint32_t owner);
  void Poison(const char* why);

  SharedLayout layout_;
  ReadOnlyMapping ctl_;
  AddressRange data_section_;
  Mapping cons_;
  const SharedAtomic<uint64_t>* control_;
  std::byte* data_;
  uint64_t head_;
  uint64_t frontier_;
  uint32_t frontier_seen_low_ = 0;
  std::array<std::optional<Hold>, kSharedOwners> holds_;
  LightFence fence_ = LightFence::ForThisProcess();
  bool moved_ = false;      // Since the last Release: frontier or holds.
  bool given_out_ = false;  // Since then, by Next.
  bool poisoned_ = false;
  const char* poison_ = "";
};

extern template class BasicSharedSalvage<kSharedLapBits>;
using SharedSalvage = BasicSharedSalvage<kSharedLapBits>;

}  // namespace iob::shm
