// OwnerRing: a reserve ring that all producers share (shm/reserve_shared_layout.h); a seat is an
// owner number.
//
//   CTL   producers RW, consumer RO, broker RW
//   DATA  producers RW, consumer RO
//   CONS  producers RO, consumer RW
//
// What a dead producer had reserved and not submitted is discarded, so that the consumer goes on.
//
// A producer that is merely stopped can be left behind: the ring then gets a new generation of
// these three sections, and the old one is read out (shm/reserve_shared_salvage.h).
//
//   newest --Renew--> retired --no producer's grant is held--> over --read out, let go of--> gone
//
//   O1  Owner numbers are of the ring, not of a generation: a number is free when its holder has
//       let go of all generations and each was recovered from it.
//   O2  Producers are given the newest generation, a consumer the oldest, and from each the next.
//   O3  The books are the sum over all generations, also of those that are gone.
//
// See direct_ring.h. Owned by the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/direct_ring.h"
#include "server/quota.h"
#include "shm/placement.h"
#include "shm/reserve_shared_layout.h"
#include "shm/reserve_shared_recovery.h"

namespace iob::server {

class OwnerRing final : public DirectRing {
 public:
  static constexpr size_t kGenerationsMax = 4;

  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const DirectRingSpec& spec);

  OwnerRing* owner_ring() override { return this; }
  std::vector<SectionPlan> ProducerSections(uint32_t seat) const override;
  std::vector<SectionPlan> ConsumerSections() const override;
  std::optional<StalledSeat> FirstBusy() const override;
  void Maintain() override;
  bool needs_maintenance() const override { return true; }
  bool TakeOwedPacket() override { return std::exchange(packet_owed_, false); }
  v1::RingStats Stats() const override;

  // A new generation, paid for by `charge`, which goes home when there is one generation less.
  // RESOURCE_EXHAUSTED / QUOTA when there are kGenerationsMax, UNAVAILABLE.
  absl::Status Renew(Charge charge);
  // Retired generations: says of those that no producer holds that they are over, and drops those
  // that are read out and that the consumer let go of. True when none is left.
  bool ReapGenerations(shm::GrantRange producers, shm::GrantRange consumers);

  uint32_t newest_generation() const { return generations_.back().number; }
  uint32_t oldest_generation() const { return generations_.front().number; }
  // O2. Nothing when `generation` is the newest.
  struct Renewal {
    uint32_t generation = 0;
    std::vector<SectionPlan> sections;
  };
  std::optional<Renewal> NextForProducer(uint32_t generation) const;
  std::optional<Renewal> NextForConsumer(uint32_t generation) const;

 private:
  struct Generation {
    uint32_t number = 0;
    shm::SharedSections sections;
    shm::SharedRecovery recovery;
    bool over = false;
  };

  static absl::StatusOr<Generation> MakeGeneration(const shm::SharedLayout& layout,
                                                   const shm::Placement& placement, uint32_t number,
                                                   uint64_t first_position);
  OwnerRing(const shm::SharedLayout& layout, const shm::Placement& placement, Generation first)
      : DirectRing(/*first_seat=*/1, shm::kSharedOwners - 1),
        layout_(layout),
        placement_(placement) {
    generations_.push_back(std::move(first));
  }

  static std::vector<SectionPlan> ProducerPlans(const Generation& generation);
  static std::vector<SectionPlan> ConsumerPlans(const Generation& generation);
  Settled Settle(uint32_t seat) override;
  std::vector<std::vector<SectionPlan>> GrantsOf(uint32_t seat) const override;
  const char* SeatNoun() const override { return "producers of the reserve ring"; }
  std::vector<const shm::SealedMemfd*> AllSections() const override;
  bool ReapGeneration(Generation& generation, shm::GrantRange producers, shm::GrantRange consumers);
  void KeepBooks(const Generation& generation);
  shm::SharedLedger LedgerOf(uint32_t seat) const;

  shm::SharedLayout layout_;
  shm::Placement placement_;
  std::deque<Generation> generations_;  // Oldest first; never empty.
  std::vector<Charge> charges_;         // One per generation but one: that is the buffer's.
  bool packet_owed_ = false;
  // Of generations that are gone (O3).
  absl::btree_map<uint32_t, shm::SharedLedger> gone_by_seat_;
  uint64_t gone_consumed_records_ = 0;
};

}  // namespace iob::server
