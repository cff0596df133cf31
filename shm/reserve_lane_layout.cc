#include "shm/reserve_lane_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/section.h"

namespace iob::shm {

std::optional<LaneCheckpoint> LaneSlots::Recover(uint64_t low, uint64_t high) {
  std::optional<LaneCheckpoint> found;
  for (uint64_t which = 0; which < 2; ++which) {
    std::byte* const slot = first_ + which * kSlotBytes;
    const auto position = SharedWordAt<uint64_t>(slot + kPosition)
                              .LoadAcquire()
                              .AlignedBetween(low, high, kRecordAlignBytes);
    if (!position || (found && found->position >= *position)) continue;
    // Each number took a record's header at least; so none that is found is near wrapping.
    const auto sequence = SharedWordAt<uint64_t>(slot + kSequence)
                              .LoadRelaxed()
                              .Between(0, *position / kRecordHeaderBytes);
    if (!sequence) continue;
    const auto discards =
        SharedWordAt<uint64_t>(slot + kDiscards).LoadRelaxed().Between(0, *sequence);
    if (!discards) continue;
    // Bytes that were never in the ring cannot have been its payload.
    const auto payload_bytes =
        SharedWordAt<uint64_t>(slot + kPayloadBytes).LoadRelaxed().Between(0, *position);
    if (!payload_bytes) continue;
    found = {.position = *position,
             .sequence = *sequence,
             .discards = *discards,
             .payload_bytes = *payload_bytes};
    in_force_ = which;
  }
  return found;
}

absl::StatusOr<LaneLayout> LaneLayout::ForCapacity(uint64_t capacity_bytes) {
  const uint64_t page_bytes = PageBytes();
  if (capacity_bytes > kCapacityBytesMax) {
    return absl::OutOfRangeError(absl::StrCat("a lane of ", capacity_bytes, " bytes: at most ",
                                              kCapacityBytesMax, " are allowed"));
  }
  if (capacity_bytes % page_bytes != 0 || capacity_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("a lane of ", capacity_bytes,
                                                   " bytes: it takes whole pages of ", page_bytes,
                                                   " bytes, at least one"));
  }
  return LaneLayout(page_bytes, capacity_bytes);
}

absl::Status LaneLayout::CheckSections(const SealedMemfd& lane_memfd,
                                       const SealedMemfd& control_memfd) const {
  if (lane_memfd.size_bytes() == lane_section_bytes() &&
      control_memfd.size_bytes() == control_section_bytes()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("lane sections of ", lane_memfd.size_bytes(), " and ",
                   control_memfd.size_bytes(), " bytes do not make a lane of ", capacity_bytes_));
}

absl::StatusOr<LaneSections> CreateLaneSections(const LaneLayout& layout,
                                                const Placement& placement) {
  IOB_ASSIGN_OR_RETURN(SealedMemfd lane,
                       MakeSection("iob-lane", layout.lane_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(SealedMemfd control,
                       MakeSection("iob-lane-control", layout.control_section_bytes(), placement));
  return LaneSections{.lane = std::move(lane), .control = std::move(control)};
}

std::optional<LaneAccount> LaneAccountIn(std::byte* lane_page) {
  const auto tail = SharedWordAt<uint64_t>(lane_page + kLaneTailOffset)
                        .LoadAcquire()
                        .AlignedBetween(0, UINT64_MAX, kRecordAlignBytes);
  if (!tail) return std::nullopt;
  const auto published = LaneSlots(lane_page + kLaneSlotsOffset).Recover(*tail, *tail);
  if (!published) return std::nullopt;
  const auto counter = [lane_page](uint64_t offset_bytes) {
    return SharedWordAt<uint64_t>(lane_page + offset_bytes).LoadRelaxed().ForHintOnly();
  };
  LaneAccount account{.published = *published,
                      .ledger = {},
                      .discarded_records = counter(kLaneDiscardedRecordsOffset)};
  Ledger& ledger = account.ledger;
  ledger.stored_records = ledger.attempted_records = published->records();
  ledger.stored_bytes = ledger.attempted_bytes = published->payload_bytes;
  const auto add = [&](LossCause cause, uint64_t records_offset, uint64_t bytes_offset) {
    const auto index = static_cast<size_t>(cause);
    ledger.rejected_records[index] = counter(records_offset);
    ledger.rejected_bytes[index] = counter(bytes_offset);
    // Sums of what a peer claims: they may wrap, and then they say nothing. Shown, never used.
    ledger.attempted_records += ledger.rejected_records[index];
    ledger.attempted_bytes += ledger.rejected_bytes[index];
  };
  add(LossCause::kFull, kLaneFullRecordsOffset, kLaneFullBytesOffset);
  add(LossCause::kTooLarge, kLaneTooLargeRecordsOffset, kLaneTooLargeBytesOffset);
  add(LossCause::kIntegrity, kLaneIntegrityRecordsOffset, kLaneIntegrityBytesOffset);
  return account;
}

absl::StatusOr<LaneAccount> ReadLaneAccount(const LaneLayout& layout,
                                            const SealedMemfd& lane_memfd) {
  if (lane_memfd.size_bytes() != layout.lane_section_bytes()) {
    return absl::FailedPreconditionError(absl::StrCat("a section of ", lane_memfd.size_bytes(),
                                                      " bytes does not hold a lane of ",
                                                      layout.capacity_bytes()));
  }
  const Part page{.memfd = &lane_memfd,
                  .offset_bytes = 0,
                  .size_bytes = layout.page_bytes(),
                  .writable = false};
  IOB_ASSIGN_OR_RETURN(AddressRange range, AddressRange::MapParts({&page, 1}, OnFork::kShare));
  const std::optional<LaneAccount> account = LaneAccountIn(range.base());
  if (!account) return absl::DataLossError("no slot of the lane belongs to its tail");
  return *account;
}

}  // namespace iob::shm
