// LaneMerge: one stream of records out of up to 32 lanes.
//
//     lane 3  [r][r][r]----.
//     lane 8  [r]-----------+--> Next: kFair      a batch from each lane in turn
//     lane 9  (poisoned)    |          kByStamp   the smallest stamp among the lanes' first records
//     lane 12 [r][r]-------'
//
//   G1  Records of one lane come in its order, whatever the order between lanes is.
//   G2  A poisoned lane is told of once (TakePoisoned) and read no more; the others go on.
//   G3  No lane can starve another: kFair gives each its batch; by stamp, a lane that has delivered
//       a whole ring in a row while another had a record waiting lets that one go first. What a
//       ring held when the other record came is less than that, so honest lanes lose no order by
//       it; a producer that refills its ring with old stamps for ever does.
//   G4  A stamp later than the look that found it is taken for the time of that look.
//
// By stamp the order is exact among records that are there. A lane that is empty now may still show
// an older stamp: its producer stamped a record when it reserved it and submits it later. With a
// hold-back a record is given out only when every lane has one, or when it is that old; then what
// is submitted within the hold-back of its reservation comes in order. Lanes must be stamped.
//
// Lanes are added and removed between calls. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "shm/futex.h"
#include "shm/polite_pause.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/shared_record.h"

namespace iob::shm {

enum class LaneOrder : uint8_t { kFair, kByStamp };

class LaneMerge {
 public:
  static constexpr size_t kLanesMax = 32;

  struct Options {
    LaneOrder order = LaneOrder::kFair;
    uint32_t batch_records = 32;  // kFair: in a row from one lane while others wait; at least 1.
    int64_t hold_back_ns = 0;     // kByStamp; 0: none.
  };

  explicit LaneMerge(Options options);

  // RESOURCE_EXHAUSTED with 32 lanes, ALREADY_EXISTS when one has this number.
  absl::Status Add(LaneConsumer lane);
  // Gives the lane back with everything released that was taken from it. Nothing when there is no
  // lane of this number.
  std::optional<LaneConsumer> Remove(uint32_t lane);
  size_t lanes() const { return entries_.size(); }
  // For its account and status; nullptr when there is none. Valid until lanes change.
  const LaneConsumer* Find(uint32_t lane) const;

  // The next record: kRecord or kEmpty, which can mean that every record is held back.
  // `now_ns` (CLOCK_MONOTONIC) matters by stamp only.
  LaneReadOutcome Next(SharedRecord* ret_record, int64_t now_ns);
  // Next would give a record: a look at each lane, without taking anything. (Also true when a long
  // run of discards was cut short.)
  bool HasRecords(int64_t now_ns);
  // The same for a loop that polls. Where nothing is there it pauses, at most some microseconds,
  // and looks again: each look costs the producers their cache lines (polite_pause.h).
  bool PollPolitely(int64_t now_ns);
  // Gives everything that was taken back to the producers; records die.
  void Release();

  // The number of a lane that was found poisoned and not told of yet.
  std::optional<uint32_t> TakePoisoned();

  // As LaneConsumer, for all lanes: true when nothing new has come, so that sleeping is right if
  // HasRecords says no behind it, until `WakeTimeNs` at the latest.
  bool PrepareToWait(uint32_t how);
  void ClearWaiting();
  // Writes the words to sleep on into `words`, which has room for all healthy lanes, and returns
  // how many there are.
  size_t TailWords(std::span<FutexWord> words) const;
  // When the first record that Next or HasRecords held back is old enough; INT64_MAX for none.
  int64_t WakeTimeNs() const { return wake_time_ns_; }

 private:
  struct Entry {
    LaneConsumer consumer;
    std::optional<SharedRecord> first;  // Peeked, not taken.
    bool poisoned = false;
    bool told = false;
  };

  LaneReadOutcome NextInTurn(SharedRecord* ret_record);
  LaneReadOutcome NextByStamp(SharedRecord* ret_record, int64_t now_ns);
  void Look(Entry& entry, int64_t now_ns);
  size_t ChooseByStamp() const;
  bool MustHoldBack(const SharedRecord& record, int64_t now_ns);
  void GoToNextTurn();

  Options options_;
  std::vector<Entry> entries_;
  size_t turn_ = 0;  // kFair: whose batch this is. By stamp: whose records come in a row.
  uint64_t taken_in_turn_ = 0;  // Records (kFair) or ring bytes (by stamp).
  int64_t wake_time_ns_ = INT64_MAX;
  PolitePause pause_;
  bool polled_in_vain_ = false;
};

}  // namespace iob::shm
