// LaneRing: a reserve ring in which each producer has a lane (shm/reserve_lane_layout.h).
//
//   LANE     producer RW, consumer RO (RW when it clears)      per lane
//   CONTROL  producer RO, consumer RW                          per lane
//
// A lane is given on when its producer is gone and its consumer has read everything: zeroed, with
// positions and counters going on where they were. See direct_ring.h. Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/direct_ring.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/reserve_lane_layout.h"

namespace iob::server {

// Bytes of records that each lane holds: an equal part, in whole pages.
uint64_t LaneCapacityBytes(const DirectRingSpec& spec);

class LaneRing final : public DirectRing {
 public:
  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const DirectRingSpec& spec);

  std::vector<SectionPlan> ProducerSections(uint32_t seat) const override;
  std::vector<SectionPlan> ConsumerSections() const override;
  std::optional<shm::LaneCheckpoint> StartOf(uint32_t seat) const override;
  v1::RingStats Stats() const override;

 private:
  struct Lane {
    shm::LaneSections sections;
    shm::Mapping page;          // The first page of LANE.
    shm::AddressRange control;  // For reading.
    shm::Ledger earlier;        // What producers before this one did not store.
    uint64_t earlier_discards = 0;
  };

  LaneRing(const shm::LaneLayout& layout, bool consumer_clears, std::vector<Lane> lanes)
      : DirectRing(/*first_seat=*/0, static_cast<uint32_t>(lanes.size())),
        layout_(layout),
        consumer_clears_(consumer_clears),
        lanes_(std::move(lanes)) {}

  Settled Settle(uint32_t seat) override;
  const char* SeatNoun() const override { return "lanes of the reserve ring"; }
  std::vector<const shm::SealedMemfd*> AllSections() const override;
  // What the consumer says it has read, of at most what was published.
  static shm::LaneCheckpoint ConsumedOf(const Lane& lane, uint64_t tail);
  static void ForgetRejected(Lane& lane, const shm::LaneAccount& account);

  shm::LaneLayout layout_;
  bool consumer_clears_;
  std::vector<Lane> lanes_;
};

}  // namespace iob::server
