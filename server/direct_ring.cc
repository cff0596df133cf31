#include "server/direct_ring.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/lane_ring.h"
#include "server/latest_ring.h"
#include "server/logging.h"
#include "server/owner_ring.h"
#include "shm/broadcast_layout.h"
#include "shm/mapping.h"
#include "shm/reserve_shared_layout.h"
#include "shm/result.h"
#include "shm/slot_layout.h"

namespace iob::server {
namespace {

constexpr uint32_t kLanesMax = 32;
constexpr uint32_t kStallMsDefault = 1'000;
constexpr uint32_t kStallMsMax = 60'000;

absl::Status CheckLanes(DirectRingSpec& spec) {
  v1::ReserveRingOptions& reserve = spec.reserve;
  if (reserve.lanes() == 0) reserve.set_lanes(1);
  if (reserve.lanes() > kLanesMax) {
    return absl::InvalidArgumentError(absl::StrCat("reserve_ring.lanes: ", reserve.lanes(),
                                                   ", at most ", kLanesMax, " are allowed"));
  }
  if (reserve.granule_bytes() != 0) {
    return absl::InvalidArgumentError("reserve_ring.granule_bytes is for mode SHARED");
  }
  if (reserve.on_stall() != v1::STALL_POLICY_UNSPECIFIED || reserve.stall_ms() != 0) {
    return absl::InvalidArgumentError(
        "reserve_ring.on_stall is for mode SHARED: a producer that stops holds up its own lane "
        "only");
  }
  if (spec.size_bytes < reserve.lanes() * shm::PageBytes()) {
    return absl::InvalidArgumentError(absl::StrCat(spec.size_bytes, " bytes do not make ",
                                                   reserve.lanes(), " lanes of a page at least"));
  }
  return shm::LaneLayout::ForCapacity(LaneCapacityBytes(spec)).status();
}

absl::Status CheckShared(DirectRingSpec& spec) {
  v1::ReserveRingOptions& reserve = spec.reserve;
  if (reserve.lanes() > 1 || reserve.consumer_clears() || reserve.stamped()) {
    return absl::InvalidArgumentError(
        "reserve_ring.lanes, consumer_clears and stamped are for mode LANES");
  }
  reserve.set_lanes(0);
  if (reserve.granule_bytes() == 0)
    reserve.set_granule_bytes(shm::SharedLayout::kGranuleBytesDefault);
  if (!v1::StallPolicy_IsValid(reserve.on_stall())) {
    return absl::InvalidArgumentError("reserve_ring.on_stall is unknown");
  }
  if (reserve.on_stall() == v1::STALL_POLICY_UNSPECIFIED)
    reserve.set_on_stall(v1::STALL_POLICY_WAIT);
  if (reserve.stall_ms() == 0) reserve.set_stall_ms(kStallMsDefault);
  if (reserve.stall_ms() > kStallMsMax) {
    return absl::InvalidArgumentError(absl::StrCat("reserve_ring.stall_ms: ", reserve.stall_ms(),
                                                   ", at most ", kStallMsMax, " are allowed"));
  }
  return shm::SharedLayout::ForSize(spec.size_bytes, reserve.granule_bytes()).status();
}

absl::Status CheckReserve(DirectRingSpec& spec) {
  switch (spec.reserve.mode()) {
    case v1::RESERVE_MODE_UNSPECIFIED:
    case v1::RESERVE_MODE_LANES:
      spec.reserve.set_mode(v1::RESERVE_MODE_LANES);
      return CheckLanes(spec);
    case v1::RESERVE_MODE_SHARED:
      return CheckShared(spec);
    case v1::ReserveMode_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::ReserveMode_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return absl::InvalidArgumentError("reserve_ring.mode is unknown");
}

absl::Status CheckSlot(DirectRingSpec& spec) {
  if (spec.slot_value_bytes == 0) {
    IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout, shm::SlotLayout::ForRegion(spec.size_bytes));
    spec.slot_value_bytes = layout.value_bytes_max();
    return absl::OkStatus();
  }
  IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout,
                       shm::SlotLayout::ForValue(spec.slot_value_bytes));
  if (spec.size_bytes == 0) spec.size_bytes = layout.section_bytes();
  // Attached endpoints lay the cells out by the size of the region.
  IOB_RETURN_IF_ERROR(shm::SlotLayout::ForRegion(shm::RoundUpToPages(spec.size_bytes)).status());
  if (layout.section_bytes() <= spec.size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("four values of ", spec.slot_value_bytes, " bytes take ", layout.section_bytes(),
                   " bytes, size_bytes is ", spec.size_bytes, "; give 0 to have it chosen"));
}

}  // namespace

absl::Status CheckDirectRing(DirectRingSpec& spec) {
  if (spec.discipline == v1::DISCIPLINE_RESERVE_RING) return CheckReserve(spec);
  if (spec.discipline == v1::DISCIPLINE_SLOT) return CheckSlot(spec);
  return shm::BroadcastLayout::ForRegion(spec.size_bytes).status();
}

uint64_t DirectRingMemoryBytes(const DirectRingSpec& spec) {
  const uint64_t page = shm::PageBytes();
  if (spec.discipline != v1::DISCIPLINE_RESERVE_RING) return spec.size_bytes + page;
  if (spec.reserve.mode() == v1::RESERVE_MODE_LANES) {
    return spec.reserve.lanes() * (LaneCapacityBytes(spec) + 2 * page);
  }
  const auto layout = shm::SharedLayout::ForSize(spec.size_bytes, spec.reserve.granule_bytes());
  if (!layout.ok()) return UINT64_MAX;  // Not checked before: no quota will do.
  return layout->ctl_section_bytes() + layout->data_section_bytes() + layout->cons_section_bytes();
}

uint64_t DirectRingSections(const DirectRingSpec& spec) {
  if (spec.discipline != v1::DISCIPLINE_RESERVE_RING) return 2;
  return spec.reserve.mode() == v1::RESERVE_MODE_LANES ? uint64_t{2} * spec.reserve.lanes() : 3;
}

absl::StatusOr<std::unique_ptr<DirectRing>> DirectRing::Create(const DirectRingSpec& spec) {
  if (spec.discipline == v1::DISCIPLINE_BROADCAST) return MakeBroadcastRing(spec);
  if (spec.discipline == v1::DISCIPLINE_SLOT) return MakeSlotRing(spec);
  if (spec.reserve.mode() == v1::RESERVE_MODE_SHARED) return OwnerRing::Make(spec);
  return LaneRing::Make(spec);
}

DirectRing::DirectRing(uint32_t first_seat, uint32_t seat_count) : seat_count_(seat_count) {
  // The lowest is taken first.
  for (uint32_t i = seat_count; i > 0; --i) free_.push_back(first_seat + i - 1);
}

std::vector<const shm::SealedMemfd*> DirectRing::Sections() const { return AllSections(); }

std::optional<uint32_t> DirectRing::FindSeat(uint32_t uid) {
  // A producer that died a moment ago may not have been noticed yet.
  if (free_.empty()) Reap();
  if (!free_.empty()) {
    const uint32_t seat = free_.back();
    free_.pop_back();
    return seat;
  }
  // Whoever runs as the same uid may see what his predecessor wrote, and goes on behind it.
  for (auto it = left_.begin(); it != left_.end(); ++it) {
    if (!it->second.undrained || it->second.uid != uid) continue;
    const uint32_t seat = it->first;
    left_.erase(it);
    return seat;
  }
  return std::nullopt;
}

absl::StatusOr<uint32_t> DirectRing::Take(uint32_t uid, shm::GrantRange range,
                                          uint32_t grant_number) {
  const std::optional<uint32_t> seat = FindSeat(uid);
  if (!seat) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat(SeatNoun(), ": ", live_.size(), " in use and ", left_.size(),
                                  " not yet let go of or not yet drained, of ", seat_count_));
  }
  live_.insert(
      {*seat, {.uid = uid, .range = range, .grant_number = grant_number, .undrained = false}});
  used_.insert(*seat);
  return *seat;
}

void DirectRing::Leave(uint32_t seat) {
  const auto found = live_.find(seat);
  if (found == live_.end()) return;
  left_.insert(*found);
  live_.erase(found);
}

std::optional<uint32_t> DirectRing::GrantNumberOf(uint32_t seat) const {
  const auto found = live_.find(seat);
  if (found == live_.end()) return std::nullopt;
  return found->second.grant_number;
}

bool DirectRing::Held(uint32_t seat, const Seat& holder) const {
  // A question that fails is answered with "held": a record of somebody alive must stay.
  for (const std::vector<SectionPlan>& sections : GrantsOf(seat)) {
    uint32_t number = holder.grant_number;
    for (const SectionPlan& section : sections) {
      if (shm::GrantHeld(section.memfd->fd(), holder.range, number++).value_or(true)) return true;
    }
  }
  return false;
}

bool DirectRing::Reap() {
  bool done = true;
  for (auto it = left_.begin(); it != left_.end();) {
    const uint32_t seat = it->first;
    if (Held(seat, it->second)) {
      done = false;
      ++it;
      continue;
    }
    switch (Settle(seat)) {
      case Settled::kUndrained:
        // Waits for the consumer, not for the dead: nothing to watch for.
        it->second.undrained = true;
        ++it;
        continue;
      case Settled::kBurned:
        LogWarn("seat_burned", {{"seat", absl::StrCat(seat)}, {"of", SeatNoun()}});
        break;
      case Settled::kFree:
        free_.push_back(seat);
        break;
    }
    it = left_.erase(it);
  }
  return done;
}

}  // namespace iob::server
