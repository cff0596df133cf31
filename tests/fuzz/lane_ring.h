// One lane for fuzzers, and what an honest producer put into it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "shm/reserve_lane_layout.h"
#include "shm/reserve_lane_producer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {

// The sections of a lane of one page, made once.
class LaneRing {
 public:
  static constexpr uint64_t kCapacityBytes = 4096;

  LaneRing()
      : layout_(shm::LaneLayout::ForCapacity(shm::RoundUpToPages(kCapacityBytes)).value()),
        lane_(layout_.lane_section_bytes()),
        control_(layout_.control_section_bytes()) {}

  // An empty lane that begins at `position`.
  shm::LaneCheckpoint Begin(uint64_t position) {
    lane_.Clear();
    control_.Clear();
    const shm::LaneCheckpoint start{
        .position = position, .sequence = 0, .discards = 0, .payload_bytes = 0};
    lane_.mapping.Word<uint64_t>(shm::kLaneTailOffset).StoreRelease(position);
    control_.mapping.Word<uint64_t>(shm::kLaneHeadOffset).StoreRelease(position);
    shm::LaneSlots(control_.mapping.base() + shm::kLaneConsumedSlotsOffset).Store(start);
    return start;
  }

  const shm::LaneLayout& layout() const { return layout_; }
  const Section& lane() const { return lane_; }
  const Section& control() const { return control_; }
  // Where the first words of the data are, in LANE.
  uint64_t data_offset() const { return layout_.page_bytes(); }

 private:
  shm::LaneLayout layout_;
  Section lane_;
  Section control_;
};

// Reservations in the order of the lane. The payload of each follows from its place in here.
class LaneJournal {
 public:
  enum class State : uint8_t { kOpen, kStored, kDiscarded };
  struct Entry {
    shm::LaneReservation reservation;
    uint64_t payload_bytes = 0;
    State state = State::kOpen;
  };

  void Reserved(const shm::LaneReservation& reservation) {
    FillPattern(entries_.size(), reservation.bytes());
    entries_.push_back({.reservation = reservation,
                        .payload_bytes = reservation.bytes().size(),
                        .state = State::kOpen});
  }

  uint64_t open() const {
    uint64_t count = 0;
    for (const Entry& entry : entries_) count += entry.state == State::kOpen ? 1 : 0;
    return count;
  }
  uint64_t stored() const {
    uint64_t count = 0;
    for (const Entry& entry : entries_) count += entry.state == State::kStored ? 1 : 0;
    return count;
  }
  // The `index`-th that is open, to be finished as `state`.
  shm::LaneReservation Finish(uint64_t index, State state) {
    for (Entry& entry : entries_) {
      if (entry.state != State::kOpen || index-- != 0) continue;
      entry.state = state;
      return entry.reservation;
    }
    IOB_CHECK(false);
  }
  // Whether `payload` is that of the `index`-th record that was stored. What is stored before an
  // open reservation has its place for good.
  bool IsStored(uint64_t index, std::span<const std::byte> payload) const {
    for (size_t seed = 0; seed < entries_.size(); ++seed) {
      const Entry& entry = entries_[seed];
      if (entry.state == State::kDiscarded) continue;
      if (index-- != 0) continue;
      return entry.state == State::kStored && entry.payload_bytes == payload.size() &&
             HasPattern(seed, payload);
    }
    return false;
  }
  void Forget() { entries_.clear(); }

 private:
  std::vector<Entry> entries_;
};

}  // namespace iob::fuzz
