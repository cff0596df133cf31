// OwnerRing: a reserve ring that all producers share (shm/reserve_shared_layout.h); a seat is an
// owner number.
//
//   CTL   producers RW, consumer RO, broker RW
//   DATA  producers RW, consumer RO
//   CONS  producers RO, consumer RW
//
// What a dead producer had reserved and not submitted is discarded, so that the consumer goes on.
// See direct_ring.h. Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/direct_ring.h"
#include "shm/reserve_shared_layout.h"
#include "shm/reserve_shared_recovery.h"

namespace iob::server {

class OwnerRing final : public DirectRing {
 public:
  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const DirectRingSpec& spec);

  std::vector<SectionPlan> ProducerSections(uint32_t seat) const override;
  std::vector<SectionPlan> ConsumerSections() const override;
  std::optional<StalledSeat> FirstBusy() const override;
  void Maintain() override;
  bool needs_maintenance() const override { return true; }
  bool TakeOwedPacket() override { return std::exchange(packet_owed_, false); }
  v1::RingStats Stats() const override;

 private:
  OwnerRing(const shm::SharedLayout& layout, shm::SharedSections sections,
            shm::SharedRecovery recovery)
      : DirectRing(/*first_seat=*/1, shm::kSharedOwners - 1),
        layout_(layout),
        sections_(std::move(sections)),
        recovery_(std::move(recovery)) {}

  Settled Settle(uint32_t seat) override;
  const char* SeatNoun() const override { return "producers of the reserve ring"; }
  std::vector<const shm::SealedMemfd*> AllSections() const override {
    return {&sections_.ctl, &sections_.data, &sections_.cons};
  }

  shm::SharedLayout layout_;
  shm::SharedSections sections_;
  shm::SharedRecovery recovery_;
  bool packet_owed_ = false;
};

}  // namespace iob::server
