#include "server/owner_ring.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/ledger_proto.h"
#include "server/region_memory.h"
#include "shm/grant_lock.h"
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

bool Held(const shm::SealedMemfd& section, shm::GrantRange range) {
  // A question that fails is answered with "held".
  return shm::AnyGrantHeld(section.fd(), range).value_or(true);
}

bool AnyHeld(const shm::SharedSections& sections, shm::GrantRange range) {
  return Held(sections.ctl, range) || Held(sections.data, range) || Held(sections.cons, range);
}

}  // namespace

absl::StatusOr<OwnerRing::Generation> OwnerRing::MakeGeneration(const shm::SharedLayout& layout,
                                                                const shm::Placement& placement,
                                                                uint32_t number,
                                                                uint64_t first_position) {
  IOB_ASSIGN_OR_RETURN(shm::SharedSections sections,
                       shm::SharedSections::Create(layout, first_position, placement));
  for (const shm::SealedMemfd* section : {&sections.ctl, &sections.data, &sections.cons})
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*section));
  IOB_ASSIGN_OR_RETURN(shm::SharedRecovery recovery, shm::SharedRecovery::Map(layout, sections));
  return Generation{.number = number,
                    .sections = std::move(sections),
                    .recovery = std::move(recovery),
                    .over = false};
}

absl::StatusOr<std::unique_ptr<DirectRing>> OwnerRing::Make(const DirectRingSpec& spec) {
  IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout,
                       shm::SharedLayout::ForSize(spec.size_bytes, spec.reserve.granule_bytes()));
  IOB_ASSIGN_OR_RETURN(Generation first,
                       MakeGeneration(layout, spec.placement, /*number=*/0, /*first_position=*/0));
  return std::unique_ptr<DirectRing>(new OwnerRing(layout, spec.placement, std::move(first)));
}

std::vector<SectionPlan> OwnerRing::ProducerPlans(const Generation& generation) {
  const shm::SharedSections& sections = generation.sections;
  return {
      {.kind = v1::SECTION_KIND_RESERVE_CONTROL,
       .memfd = &sections.ctl,
       .mode = shm::FdMode::kReadWrite},
      {.kind = v1::SECTION_KIND_DATA, .memfd = &sections.data, .mode = shm::FdMode::kReadWrite},
      {.kind = v1::SECTION_KIND_CONSUMER, .memfd = &sections.cons, .mode = shm::FdMode::kReadOnly}};
}

std::vector<SectionPlan> OwnerRing::ConsumerPlans(const Generation& generation) {
  const shm::SharedSections& sections = generation.sections;
  return {{.kind = v1::SECTION_KIND_RESERVE_CONTROL,
           .memfd = &sections.ctl,
           .mode = shm::FdMode::kReadOnly},
          {.kind = v1::SECTION_KIND_DATA, .memfd = &sections.data, .mode = shm::FdMode::kReadOnly},
          {.kind = v1::SECTION_KIND_CONSUMER,
           .memfd = &sections.cons,
           .mode = shm::FdMode::kReadWrite}};
}

std::vector<SectionPlan> OwnerRing::ProducerSections(uint32_t /*seat*/) const {
  return ProducerPlans(generations_.back());
}

std::vector<SectionPlan> OwnerRing::ConsumerSections() const {
  return ConsumerPlans(generations_.front());
}

std::vector<std::vector<SectionPlan>> OwnerRing::GrantsOf(uint32_t /*seat*/) const {
  std::vector<std::vector<SectionPlan>> grants;
  for (const Generation& generation : generations_) grants.push_back(ProducerPlans(generation));
  return grants;
}

std::vector<const shm::SealedMemfd*> OwnerRing::AllSections() const {
  std::vector<const shm::SealedMemfd*> all;
  for (const auto& [number, sections, recovery, over] : generations_)
    all.insert(all.end(), {&sections.ctl, &sections.data, &sections.cons});
  return all;
}

std::optional<OwnerRing::Renewal> OwnerRing::NextForProducer(uint32_t generation) const {
  if (generation >= newest_generation()) return std::nullopt;
  return Renewal{.generation = newest_generation(), .sections = ProducerPlans(generations_.back())};
}

std::optional<OwnerRing::Renewal> OwnerRing::NextForConsumer(uint32_t generation) const {
  for (const Generation& next : generations_) {
    if (next.number > generation)
      return Renewal{.generation = next.number, .sections = ConsumerPlans(next)};
  }
  return std::nullopt;
}

std::optional<StalledSeat> OwnerRing::FirstBusy() const {
  const auto busy = generations_.back().recovery.FirstBusy();
  if (!busy) return std::nullopt;
  return StalledSeat{.seat = busy->owner, .position = busy->position};
}

void OwnerRing::Maintain() {
  shm::SharedRecovery& newest = generations_.back().recovery;
  if (newest.ScrubDue()) newest.Scrub();
}

absl::Status OwnerRing::Renew(Charge charge) {
  if (generations_.size() == kGenerationsMax) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("generations of the reserve ring: ", generations_.size(), " of ",
                                  kGenerationsMax, " in use; their producers are still stopped"));
  }
  const shm::SharedRecovery& old = generations_.back().recovery;
  IOB_ASSIGN_OR_RETURN(Generation next, MakeGeneration(layout_, placement_, newest_generation() + 1,
                                                       old.PositionBeyond()));
  charges_.push_back(std::move(charge));
  generations_.push_back(std::move(next));
  // After there is something to go on into.
  const shm::SharedRecovery& retired = generations_[generations_.size() - 2].recovery;
  packet_owed_ = retired.Retire(shm::kSharedRetiredOpen) || packet_owed_;
  return absl::OkStatus();
}

bool OwnerRing::ReapGenerations(shm::GrantRange producers, shm::GrantRange consumers) {
  // Whoever is proven dead is no reason to wait.
  Reap();
  for (auto it = generations_.begin(); it + 1 != generations_.end();) {
    if (!ReapGeneration(*it, producers, consumers)) {
      ++it;
      continue;
    }
    KeepBooks(*it);
    it = generations_.erase(it);
    charges_.pop_back();
  }
  return generations_.size() == 1;
}

// True when it can go.
bool OwnerRing::ReapGeneration(Generation& generation, shm::GrantRange producers,
                               shm::GrantRange consumers) {
  if (!generation.over) {
    if (AnyHeld(generation.sections, producers)) return false;
    generation.over = true;
    packet_owed_ = generation.recovery.Retire(shm::kSharedRetiredOver) || packet_owed_;
  }
  const shm::SharedOccupancy left = generation.recovery.Occupancy();
  // What is spoilt will never be read out.
  if (left.consistent && left.resident_records + left.busy_records != 0) return false;
  return !AnyHeld(generation.sections, consumers);
}

void OwnerRing::KeepBooks(const Generation& generation) {
  for (const uint32_t seat : seats_used())
    gone_by_seat_[seat].Add(generation.recovery.LedgerOf(seat));
  gone_consumed_records_ += generation.recovery.Occupancy().consumed_records;
}

DirectRing::Settled OwnerRing::Settle(uint32_t seat) {
  Settled settled = Settled::kFree;
  for (Generation& generation : generations_) {
    const auto recovered = generation.recovery.Recover(seat);
    if (!recovered.ok()) settled = Settled::kBurned;
    packet_owed_ = packet_owed_ || (recovered.ok() && recovered->tell_socket);
  }
  return settled;
}

shm::SharedLedger OwnerRing::LedgerOf(uint32_t seat) const {
  shm::SharedLedger ledger;
  const auto gone = gone_by_seat_.find(seat);
  if (gone != gone_by_seat_.end()) ledger = gone->second;
  for (const Generation& generation : generations_) ledger.Add(generation.recovery.LedgerOf(seat));
  return ledger;
}

v1::RingStats OwnerRing::Stats() const {
  v1::RingStats stats;
  shm::SharedLedger total;
  for (const uint32_t seat : seats_used()) {
    const shm::SharedLedger line = LedgerOf(seat);
    total.Add(line);
    v1::WriterStats& writer = *stats.add_writers();
    writer.set_seat(seat);
    writer.set_discarded_records(line.discarded_records + line.recovered_records);
    FillLedger(LedgerFrom(line), writer);
  }
  FillLedger(LedgerFrom(total), stats);
  shm::SharedOccupancy now;
  now.consumed_records = gone_consumed_records_;
  for (const Generation& generation : generations_) {
    const shm::SharedOccupancy more = generation.recovery.Occupancy();
    now.consumed_records += more.consumed_records;
    now.resident_records += more.resident_records;
    now.ring_bytes += more.ring_bytes;
    now.consistent = now.consistent && more.consistent;
  }
  stats.set_consumed_records(now.consumed_records);
  stats.set_resident_records(now.resident_records);
  stats.set_resident_bytes(now.ring_bytes);
  stats.set_capacity_bytes(layout_.size_bytes() * generations_.size());
  stats.set_tail_violations(now.consistent ? 0 : 1);
  return stats;
}

}  // namespace iob::server
