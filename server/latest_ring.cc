#include "server/latest_ring.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "server/ledger_proto.h"
#include "server/region_memory.h"
#include "shm/broadcast_layout.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/section.h"
#include "shm/slot_layout.h"

namespace iob::server {
namespace {

absl::StatusOr<shm::SealedMemfd> MakeSealedSection(const char* name, uint64_t size_bytes,
                                                   const shm::Placement& placement) {
  IOB_ASSIGN_OR_RETURN(shm::SealedMemfd section, shm::MakeSection(name, size_bytes, placement));
  IOB_RETURN_IF_ERROR(SealAgainstSeals(section));
  return section;
}

// What both kinds have in common: sections, seat, and a look at the first page.
class LatestRing : public DirectRing {
 public:
  std::vector<SectionPlan> ProducerSections(uint32_t /*seat*/) const override {
    return Plans(shm::FdMode::kReadWrite);
  }
  std::vector<SectionPlan> ConsumerSections() const override {
    return Plans(shm::FdMode::kReadOnly);
  }

 protected:
  LatestRing(shm::SealedMemfd data, shm::SealedMemfd follow, shm::AddressRange page)
      : DirectRing(/*first_seat=*/0, /*seat_count=*/1),
        data_(std::move(data)),
        follow_(std::move(follow)),
        page_(std::move(page)) {}

  template <typename Ring, typename Layout>
  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const Layout& layout, uint64_t data_bytes,
                                                          const shm::Placement& placement) {
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd data,
                         MakeSealedSection("iob-latest", data_bytes, placement));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd follow,
                         MakeSealedSection("iob-follow", layout.wait_section_bytes(), placement));
    const shm::Part part{
        .memfd = &data, .offset_bytes = 0, .size_bytes = shm::PageBytes(), .writable = false};
    IOB_ASSIGN_OR_RETURN(shm::AddressRange page,
                         shm::AddressRange::MapParts({&part, 1}, shm::OnFork::kShare));
    return std::unique_ptr<DirectRing>(
        new Ring(layout, std::move(data), std::move(follow), std::move(page)));
  }

  // What the writer says of itself: shown, never used.
  uint64_t Claimed(uint64_t offset_bytes) const {
    return shm::SharedWordAt<uint64_t>(page_.base() + offset_bytes).LoadAcquire().ForHintOnly();
  }
  // One writer that stores everything; what is gone was overwritten.
  v1::RingStats StatsFrom(uint64_t stored_records, uint64_t stored_bytes,
                          uint64_t overwritten_records) const {
    shm::Ledger ledger;
    ledger.stored_records = ledger.attempted_records = stored_records;
    ledger.stored_bytes = ledger.attempted_bytes = stored_bytes;
    v1::RingStats stats;
    FillLedger(ledger, stats);
    for (const uint32_t seat : seats_used()) {
      v1::WriterStats& writer = *stats.add_writers();
      writer.set_seat(seat);
      FillLedger(ledger, writer);
    }
    stats.set_overwritten_records(std::min(overwritten_records, stored_records));
    stats.set_resident_records(stored_records - stats.overwritten_records());
    return stats;
  }

 private:
  std::vector<SectionPlan> Plans(shm::FdMode mode) const {
    return {{.kind = v1::SECTION_KIND_DATA, .memfd = &data_, .mode = mode},
            {.kind = v1::SECTION_KIND_FOLLOW, .memfd = &follow_, .mode = shm::FdMode::kReadWrite}};
  }
  Settled Settle(uint32_t /*seat*/) override { return Settled::kFree; }
  const char* SeatNoun() const override { return "writers, of which there is one"; }
  std::vector<const shm::SealedMemfd*> AllSections() const override { return {&data_, &follow_}; }

  shm::SealedMemfd data_;
  shm::SealedMemfd follow_;
  shm::AddressRange page_;  // The first page of DATA, for reading.
};

class BroadcastRing final : public LatestRing {
 public:
  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const shm::BroadcastLayout& layout,
                                                          const shm::Placement& placement) {
    return LatestRing::Make<BroadcastRing>(layout, layout.data_section_bytes(), placement);
  }
  v1::RingStats Stats() const override {
    v1::RingStats stats =
        StatsFrom(Claimed(shm::kBroadcastNextSequence), Claimed(shm::kBroadcastStoredBytes),
                  Claimed(shm::kBroadcastOverwrittenRecords));
    const uint64_t head = Claimed(shm::kBroadcastHead);
    const uint64_t oldest = Claimed(shm::kBroadcastOldest);
    stats.set_resident_bytes(head - std::min(oldest, head));
    stats.set_overwritten_bytes(oldest);
    stats.set_capacity_bytes(layout_.capacity_bytes());
    return stats;
  }

 private:
  friend class LatestRing;
  BroadcastRing(const shm::BroadcastLayout& layout, shm::SealedMemfd data, shm::SealedMemfd follow,
                shm::AddressRange page)
      : LatestRing(std::move(data), std::move(follow), std::move(page)), layout_(layout) {}
  shm::BroadcastLayout layout_;
};

class SlotRing final : public LatestRing {
 public:
  static absl::StatusOr<std::unique_ptr<DirectRing>> Make(const shm::SlotLayout& layout,
                                                          uint64_t size_bytes,
                                                          const shm::Placement& placement) {
    return LatestRing::Make<SlotRing>(layout, size_bytes, placement);
  }
  v1::RingStats Stats() const override {
    const uint64_t latest = Claimed(shm::kSlotLatest);
    v1::RingStats stats = StatsFrom(latest, 0, latest - std::min<uint64_t>(latest, 1));
    stats.set_capacity_bytes(layout_.value_bytes_max());
    return stats;
  }

 private:
  friend class LatestRing;
  SlotRing(const shm::SlotLayout& layout, shm::SealedMemfd data, shm::SealedMemfd follow,
           shm::AddressRange page)
      : LatestRing(std::move(data), std::move(follow), std::move(page)), layout_(layout) {}
  shm::SlotLayout layout_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DirectRing>> MakeBroadcastRing(const DirectRingSpec& spec) {
  IOB_ASSIGN_OR_RETURN(const shm::BroadcastLayout layout,
                       shm::BroadcastLayout::ForRegion(spec.size_bytes));
  return BroadcastRing::Make(layout, spec.placement);
}

absl::StatusOr<std::unique_ptr<DirectRing>> MakeSlotRing(const DirectRingSpec& spec) {
  IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout,
                       shm::SlotLayout::ForValue(spec.slot_value_bytes));
  return SlotRing::Make(layout, spec.size_bytes, spec.placement);
}

}  // namespace iob::server
