#include "server/lane_ring.h"

#include <array>

#include "server/ledger_proto.h"
#include "server/region_memory.h"
#include "shm/result.h"

namespace iob::server {
namespace {

// No honest lane gets there; beyond it sums of positions and sizes could wrap.
constexpr uint64_t kPositionMax = uint64_t{1} << 62;

}  // namespace

uint64_t LaneCapacityBytes(const DirectRingSpec& spec) {
  const uint64_t page = shm::PageBytes();
  return spec.size_bytes / spec.reserve.lanes() / page * page;
}

absl::StatusOr<std::unique_ptr<DirectRing>> LaneRing::Make(const DirectRingSpec& spec) {
  IOB_ASSIGN_OR_RETURN(const shm::LaneLayout layout,
                       shm::LaneLayout::ForCapacity(LaneCapacityBytes(spec)));
  std::vector<Lane> lanes;
  for (uint32_t i = 0; i < spec.reserve.lanes(); ++i) {
    IOB_ASSIGN_OR_RETURN(shm::LaneSections sections,
                         shm::CreateLaneSections(layout, spec.placement));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(sections.lane));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(sections.control));
    IOB_ASSIGN_OR_RETURN(
        shm::Mapping page,
        shm::Mapping::MapWindow(sections.lane, 0, layout.page_bytes(), 1, shm::OnFork::kShare));
    const shm::Part part{.memfd = &sections.control,
                         .offset_bytes = 0,
                         .size_bytes = layout.control_section_bytes(),
                         .writable = false};
    IOB_ASSIGN_OR_RETURN(shm::AddressRange control,
                         shm::AddressRange::MapParts({&part, 1}, shm::OnFork::kShare));
    lanes.push_back({.sections = std::move(sections),
                     .page = std::move(page),
                     .control = std::move(control),
                     .earlier = {},
                     .earlier_discards = 0});
  }
  return std::unique_ptr<DirectRing>(
      new LaneRing(layout, spec.reserve.consumer_clears(), std::move(lanes)));
}

std::vector<SectionPlan> LaneRing::ProducerSections(uint32_t seat) const {
  const shm::LaneSections& sections = lanes_[seat].sections;
  return {{.kind = v1::SECTION_KIND_LANE,
           .memfd = &sections.lane,
           .mode = shm::FdMode::kReadWrite,
           .lane = seat},
          {.kind = v1::SECTION_KIND_LANE_CONTROL,
           .memfd = &sections.control,
           .mode = shm::FdMode::kReadOnly,
           .lane = seat}};
}

std::vector<SectionPlan> LaneRing::ConsumerSections() const {
  const shm::FdMode lane_mode = consumer_clears_ ? shm::FdMode::kReadWrite : shm::FdMode::kReadOnly;
  std::vector<SectionPlan> plans;
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    const shm::LaneSections& sections = lanes_[i].sections;
    plans.push_back(
        {.kind = v1::SECTION_KIND_LANE, .memfd = &sections.lane, .mode = lane_mode, .lane = i});
    plans.push_back({.kind = v1::SECTION_KIND_LANE_CONTROL,
                     .memfd = &sections.control,
                     .mode = shm::FdMode::kReadWrite,
                     .lane = i});
  }
  return plans;
}

std::optional<shm::LaneCheckpoint> LaneRing::StartOf(uint32_t seat) const {
  const auto account = shm::LaneAccountIn(lanes_[seat].page.base());
  if (!account) return std::nullopt;
  return account->published;
}

std::vector<const shm::SealedMemfd*> LaneRing::AllSections() const {
  std::vector<const shm::SealedMemfd*> sections;
  for (const Lane& lane : lanes_) {
    sections.push_back(&lane.sections.lane);
    sections.push_back(&lane.sections.control);
  }
  return sections;
}

shm::LaneCheckpoint LaneRing::ConsumedOf(const Lane& lane, uint64_t tail) {
  const auto head = shm::SharedWordAt<uint64_t>(lane.control.base() + shm::kLaneHeadOffset)
                        .LoadAcquire()
                        .Between(0, tail);
  if (!head) return {};
  shm::LaneSlots slots(lane.control.base() + shm::kLaneConsumedSlotsOffset);
  return slots.Recover(*head, tail).value_or(shm::LaneCheckpoint());
}

void LaneRing::ForgetRejected(Lane& lane, const shm::LaneAccount& account) {
  for (size_t cause = 0; cause < shm::kLossCauses; ++cause) {
    lane.earlier.rejected_records[cause] += account.ledger.rejected_records[cause];
    lane.earlier.rejected_bytes[cause] += account.ledger.rejected_bytes[cause];
  }
  lane.earlier_discards += account.discarded_records;
  constexpr std::array<uint64_t, 7> kCounters = {
      shm::kLaneFullRecordsOffset,      shm::kLaneFullBytesOffset,
      shm::kLaneTooLargeRecordsOffset,  shm::kLaneTooLargeBytesOffset,
      shm::kLaneIntegrityRecordsOffset, shm::kLaneIntegrityBytesOffset,
      shm::kLaneDiscardedRecordsOffset};
  for (const uint64_t offset : kCounters) lane.page.Word<uint64_t>(offset).StoreRelaxed(0);
  // Nor does a wish for room outlive who had it.
  lane.page.Word<uint32_t>(shm::kLaneWantRoomOffset).StoreRelaxed(0);
}

DirectRing::Settled LaneRing::Settle(uint32_t seat) {
  Lane& lane = lanes_[seat];
  const auto account = shm::LaneAccountIn(lane.page.base());
  if (!account || account->published.position > kPositionMax) return Settled::kBurned;
  ForgetRejected(lane, *account);
  const uint64_t tail = account->published.position;
  if (ConsumedOf(lane, tail).position != tail) return Settled::kUndrained;
  const absl::Status cleared =
      lane.sections.lane.Clear(layout_.page_bytes(), layout_.capacity_bytes());
  return cleared.ok() ? Settled::kFree : Settled::kBurned;
}

v1::RingStats LaneRing::Stats() const {
  v1::RingStats stats;
  shm::Ledger total;
  uint64_t consumed = 0;
  uint64_t resident_bytes = 0;
  for (const uint32_t seat : seats_used()) {
    const Lane& lane = lanes_[seat];
    const auto account = shm::LaneAccountIn(lane.page.base());
    if (!account) continue;  // In the middle of a publication, or spoilt.
    shm::Ledger ledger = account->ledger;
    for (size_t cause = 0; cause < shm::kLossCauses; ++cause) {
      ledger.rejected_records[cause] += lane.earlier.rejected_records[cause];
      ledger.rejected_bytes[cause] += lane.earlier.rejected_bytes[cause];
      ledger.attempted_records += lane.earlier.rejected_records[cause];
      ledger.attempted_bytes += lane.earlier.rejected_bytes[cause];
    }
    total.Add(ledger);
    const shm::LaneCheckpoint read = ConsumedOf(lane, account->published.position);
    consumed += std::min(read.records(), ledger.stored_records);
    resident_bytes += account->published.position - read.position;
    v1::WriterStats& writer = *stats.add_writers();
    writer.set_seat(seat);
    writer.set_discarded_records(account->discarded_records + lane.earlier_discards);
    FillLedger(ledger, writer);
  }
  FillLedger(total, stats);
  stats.set_consumed_records(consumed);
  stats.set_resident_records(total.stored_records - std::min(consumed, total.stored_records));
  stats.set_resident_bytes(resident_bytes);
  stats.set_capacity_bytes(layout_.capacity_bytes() * lanes_.size());
  return stats;
}

}  // namespace iob::server
