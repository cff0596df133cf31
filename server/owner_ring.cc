#include "server/owner_ring.h"

#include <algorithm>

#include "server/ledger_proto.h"
#include "server/region_memory.h"
#include "shm/ledger.h"
#include "shm/result.h"

namespace iob::server {
namespace {

// In the words of the ledger that all rings have. A reservation that was given up, or that died
// with its owner, was never a record.
shm::Ledger LedgerFrom(const shm::SharedLedger& line) {
  shm::Ledger ledger;
  const auto reject = [&ledger](shm::LossCause cause, uint64_t records, uint64_t bytes) {
    ledger.rejected_records[static_cast<size_t>(cause)] += records;
    ledger.rejected_bytes[static_cast<size_t>(cause)] += bytes;
    ledger.attempted_records += records;
    ledger.attempted_bytes += bytes;
  };
  ledger.stored_records = ledger.attempted_records = line.stored_records;
  ledger.stored_bytes = ledger.attempted_bytes = line.stored_bytes;
  reject(shm::LossCause::kFull, line.full_records, line.full_bytes);
  reject(shm::LossCause::kTooLarge, line.too_large_records, line.too_large_bytes);
  reject(shm::LossCause::kIntegrity, line.integrity_records + line.lost_records, 0);
  return ledger;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DirectRing>> OwnerRing::Make(const DirectRingSpec& spec) {
  IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout,
                       shm::SharedLayout::ForSize(spec.size_bytes, spec.reserve.granule_bytes()));
  IOB_ASSIGN_OR_RETURN(shm::SharedSections sections, shm::SharedSections::Create(layout));
  for (const shm::SealedMemfd* section : {&sections.ctl, &sections.data, &sections.cons})
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*section));
  IOB_ASSIGN_OR_RETURN(shm::SharedRecovery recovery, shm::SharedRecovery::Map(layout, sections));
  return std::unique_ptr<DirectRing>(
      new OwnerRing(layout, std::move(sections), std::move(recovery)));
}

std::vector<SectionPlan> OwnerRing::ProducerSections(uint32_t /*seat*/) const {
  return {
      {.kind = v1::SECTION_KIND_RESERVE_CONTROL,
       .memfd = &sections_.ctl,
       .mode = shm::FdMode::kReadWrite},
      {.kind = v1::SECTION_KIND_DATA, .memfd = &sections_.data, .mode = shm::FdMode::kReadWrite},
      {.kind = v1::SECTION_KIND_CONSUMER,
       .memfd = &sections_.cons,
       .mode = shm::FdMode::kReadOnly}};
}

std::vector<SectionPlan> OwnerRing::ConsumerSections() const {
  return {{.kind = v1::SECTION_KIND_RESERVE_CONTROL,
           .memfd = &sections_.ctl,
           .mode = shm::FdMode::kReadOnly},
          {.kind = v1::SECTION_KIND_DATA, .memfd = &sections_.data, .mode = shm::FdMode::kReadOnly},
          {.kind = v1::SECTION_KIND_CONSUMER,
           .memfd = &sections_.cons,
           .mode = shm::FdMode::kReadWrite}};
}

std::optional<StalledSeat> OwnerRing::FirstBusy() const {
  const auto busy = recovery_.FirstBusy();
  if (!busy) return std::nullopt;
  return StalledSeat{.seat = busy->owner, .position = busy->position};
}

void OwnerRing::Maintain() {
  if (recovery_.ScrubDue()) recovery_.Scrub();
}

DirectRing::Settled OwnerRing::Settle(uint32_t seat) {
  const auto recovered = recovery_.Recover(seat);
  if (!recovered.ok()) return Settled::kBurned;
  packet_owed_ = packet_owed_ || recovered->tell_socket;
  return Settled::kFree;
}

v1::RingStats OwnerRing::Stats() const {
  v1::RingStats stats;
  for (const uint32_t seat : seats_used()) {
    const shm::SharedLedger line = recovery_.LedgerOf(seat);
    v1::WriterStats& writer = *stats.add_writers();
    writer.set_seat(seat);
    writer.set_discarded_records(line.discarded_records + line.recovered_records);
    FillLedger(LedgerFrom(line), writer);
  }
  FillLedger(LedgerFrom(recovery_.TotalLedger()), stats);
  const shm::SharedOccupancy now = recovery_.Occupancy();
  stats.set_consumed_records(now.consumed_records);
  stats.set_resident_records(now.resident_records);
  stats.set_resident_bytes(now.ring_bytes);
  stats.set_capacity_bytes(layout_.size_bytes());
  stats.set_tail_violations(now.consistent ? 0 : 1);
  return stats;
}

}  // namespace iob::server
