#include "client/snapshot_records.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "shm/mapping.h"
#include "shm/record_unit.h"
#include "shm/reserve_lane_layout.h"

namespace iob {
namespace {

// What ParseRecordUnit may look at beyond its limit.
constexpr uint64_t kSlackBytes = shm::kGapRecordBytes + shm::kRecordHeaderBytes;
// u64 word | u64 stamp.
constexpr uint64_t kLaneHeaderBytes = 16;

absl::Status NotThere(uint32_t region_index) {
  return WithReason(
      absl::NotFoundError(absl::StrCat("region ", region_index, " is not in the snapshot")),
      "NOT_FOUND");
}

uint64_t WordAt(std::span<const std::byte> bytes, uint64_t offset_bytes) {
  uint64_t word = 0;
  std::memcpy(&word, bytes.data() + offset_bytes, sizeof(word));
  return word;
}

const SnapshotSection* Find(const SnapshotRegion& region, SectionKind kind, uint32_t lane) {
  const auto found = std::find_if(
      region.sections.begin(), region.sections.end(),
      [&](const SnapshotSection& section) { return section.kind == kind && section.lane == lane; });
  return found == region.sections.end() ? nullptr : &*found;
}

}  // namespace

SnapshotRecords::SnapshotRecords(Format format, std::span<const std::byte> ring, uint64_t tail,
                                 uint64_t head)
    : format_(format),
      words_(std::make_unique<uint64_t[]>((head - tail + kSlackBytes) / sizeof(uint64_t))),
      size_bytes_(head - tail) {
  std::byte* target =
      std::as_writable_bytes(std::span(words_.get(), size_bytes_ / sizeof(uint64_t))).data();
  while (tail < head) {
    const uint64_t offset = tail % ring.size();
    const uint64_t bytes = std::min(head - tail, ring.size() - offset);
    std::memcpy(target, ring.data() + offset, bytes);
    target += bytes;
    tail += bytes;
  }
}

absl::StatusOr<SnapshotRecords> SnapshotRecords::Open(const Snapshot& snapshot,
                                                      uint32_t region_index, uint32_t lane) {
  const SnapshotRegion* const region = snapshot.region(region_index);
  if (region == nullptr || region->sections.empty()) return NotThere(region_index);
  std::span<const std::byte> ring;
  uint64_t head = region->head;
  uint64_t tail = region->tail;
  Format format = Format::kMediated;
  if (region->discipline == Discipline::kMediatedRing) {
    ring = snapshot.bytes(region->sections.back());
  } else if (region->discipline == Discipline::kReserveRing &&
             region->reserve_ring.mode == ReserveMode::kLanes) {
    const SnapshotSection* const lane_section = Find(*region, SectionKind::kLane, lane);
    const SnapshotSection* const control = Find(*region, SectionKind::kLaneControl, lane);
    if (lane_section == nullptr || control == nullptr) return NotThere(region_index);
    format = Format::kLane;
    const std::span<const std::byte> memory = snapshot.bytes(*lane_section);
    // In a lane the producer's word is the tail and the consumer's the head.
    head = WordAt(memory, shm::kLaneTailOffset);
    tail = WordAt(snapshot.bytes(*control), shm::kLaneHeadOffset);
    ring = memory.subspan(std::min<uint64_t>(shm::PageBytes(), memory.size()));
  } else {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "region ", region_index, " is ", ToString(region->discipline),
                          "; records come from mediated rings and reserve rings with lanes")),
                      "WRONG_DISCIPLINE");
  }
  if (tail > head || head - tail > ring.size() || head % 8 != 0 || tail % 8 != 0) {
    return WithReason(absl::DataLossError(absl::StrCat("head ", head, " and tail ", tail,
                                                       " cannot be in a ring of ", ring.size())),
                      "INTEGRITY");
  }
  SnapshotRecords records(format, ring, tail, head);
  records.options_ = {.policy = shm::RingPolicy::kDropNew,
                      .gap_records = region->mediated_ring.gap_records,
                      .stamped = region->mediated_ring.stamped,
                      .followers = false};
  return records;
}

std::span<const std::byte> SnapshotRecords::Rest() const {
  const size_t words = (size_bytes_ + kSlackBytes) / sizeof(uint64_t);
  return std::as_bytes(std::span(words_.get(), words)).subspan(next_bytes_);
}

ReadOutcome SnapshotRecords::Next(RecordView* ret_record) {
  if (next_bytes_ == size_bytes_) return ReadOutcome::kEmpty;
  if (format_ == Format::kLane) return NextOfLane(ret_record);
  const std::byte* const at = Rest().data();
  const std::optional<shm::RecordUnit> unit =
      shm::ParseRecordUnit(at, size_bytes_ - next_bytes_, options_);
  if (!unit) return ReadOutcome::kPoisoned;
  *ret_record = {.tag = unit->tag,
                 .payload = {at + unit->payload_offset, unit->payload_bytes},
                 .sequence = unit->sequence,
                 .time_ns = unit->time_ns,
                 .gap = unit->gap};
  next_bytes_ += unit->ring_bytes;
  return ReadOutcome::kRecord;
}

ReadOutcome SnapshotRecords::NextOfLane(RecordView* ret_record) {
  while (next_bytes_ < size_bytes_) {
    const uint64_t left_bytes = size_bytes_ - next_bytes_;
    if (left_bytes < kLaneHeaderBytes) return ReadOutcome::kPoisoned;
    const std::byte* const at = Rest().data();
    const uint64_t word = WordAt(Rest(), 0);
    const uint64_t payload_bytes = word & shm::kLaneLengthMask;
    // A multiple of 8, and without a sum that could overflow: 30 bits of length.
    const uint64_t record_bytes = (kLaneHeaderBytes + payload_bytes + 7) & ~uint64_t{7};
    if (record_bytes > left_bytes) return ReadOutcome::kPoisoned;
    next_bytes_ += record_bytes;
    if ((word & shm::kLaneDiscarded) != 0) continue;
    *ret_record = {.tag = 0,
                   .payload = {at + kLaneHeaderBytes, payload_bytes},
                   .sequence = word >> 32,
                   .time_ns = static_cast<int64_t>(WordAt(Rest(), 8)),
                   .gap = {}};
    return ReadOutcome::kRecord;
  }
  return ReadOutcome::kEmpty;
}

}  // namespace iob
