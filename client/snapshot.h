// Snapshot: an immutable copy of one region, or of all that a handle may read.
//
//     absl::StatusOr<iob::Snapshot> snapshot = broker.TakeSnapshot(handle, {.region_index = 0});
//     for (std::byte byte : snapshot->bytes(0)) ...
//
// Records of the mediated rings in it: SnapshotRecords (snapshot_records.h). What a copy promises:
//   - What only the broker writes (mediated rings, sealed id allocators) is as of one instant, all
//     of it together, between two records. Of a ring: head, tail, and the records from tail to
//     head; zero beyond that.
//   - Memory that an endpoint may map for writing is copied while it may be written: may_be_torn.
//     With every such endpoint closed it is exact.
//
// It is a value without ties: it needs neither Broker nor buffer any more. Its memory is charged to
// whoever asked for it, until it is unmapped. Thread-compatible.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "client/immutable_mapping.h"
#include "client/types.h"

namespace iob {

struct SnapshotOptions {
  std::optional<uint32_t> region_index = std::nullopt;  // Unset: all that the handle may read.
  // Fail rather than give memory that may be torn.
  bool require_consistent = false;
  Populate populate = Populate::kLazy;
};

// Why a region, or the memory of an autopsy, is not there.
enum class Omission : uint8_t {
  kNone = 0,       // It is there.
  kAccess = 1,     // The handle may not read it.
  kSensitive = 2,  // It is never copied.
  kTooLarge = 3,   // Alone it is larger than its owner's crash store.
  kQuota = 4,      // No quota was left for it.
  kEvicted = 5,    // It made room for newer ones.
  kFailed = 6,     // It could not be made.
};
std::string ToString(Omission omission);  // "none", "access", "too-large", ...

enum class SectionKind : uint8_t {
  kUnknown = 0,
  kData = 1,
  kHead = 2,
  kLane = 6,
  kLaneControl = 7,
  kReserveControl = 8,
  kConsumer = 9,
};

// Whole pages of the snapshot.
struct SnapshotSection {
  SectionKind kind = SectionKind::kUnknown;
  uint32_t lane = 0;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

// A reservation that its dead producer neither submitted nor discarded.
struct UnfinishedReservation {
  uint32_t seat = 0;
  uint64_t position = 0;
};

struct SnapshotRegion {
  uint32_t index = 0;
  Discipline discipline = Discipline::kNone;
  uint64_t koid = 0;
  Omission omission = Omission::kNone;
  bool may_be_torn = false;
  std::vector<SnapshotSection> sections;  // In address order, one after the other.
  MediatedRingOptions mediated_ring = {};
  ReserveRingOptions reserve_ring = {};
  uint64_t slot_value_bytes = 0;
  uint64_t head = 0;  // Of a mediated ring: positions.
  uint64_t tail = 0;
  // Of an autopsy only.
  std::optional<RingStats> stats = std::nullopt;
  std::optional<UnfinishedReservation> unfinished = std::nullopt;
};

struct SnapshotInfo {
  uint64_t buffer_koid = 0;
  std::string buffer_name;                     // Empty for a handle without GET_PROPERTY.
  std::chrono::system_clock::time_point time;  // The daemon's, at the instant of the snapshot.
  std::vector<SnapshotRegion> regions;         // Those that were asked for.
  uint64_t size_bytes = 0;
  bool may_be_torn = false;
};

class Snapshot {
 public:
  Snapshot() = default;
  // INTERNAL when sections lie outside of the memory: the daemon is not one of ours.
  static absl::StatusOr<Snapshot> Make(SnapshotInfo info, ImmutableMapping memory);

  const SnapshotInfo& info() const { return info_; }
  bool may_be_torn() const { return info_.may_be_torn; }
  // nullptr for one that was not asked for.
  const SnapshotRegion* region(uint32_t region_index) const;
  // All of it, regions one after the other.
  std::span<const std::byte> bytes() const { return memory_.bytes(); }
  // Of one region; empty for one that is not there.
  std::span<const std::byte> bytes(uint32_t region_index) const;
  std::span<const std::byte> bytes(const SnapshotSection& section) const {
    return memory_.bytes().subspan(section.offset_bytes, section.size_bytes);
  }

 private:
  Snapshot(SnapshotInfo info, ImmutableMapping memory)
      : info_(std::move(info)), memory_(std::move(memory)) {}
  SnapshotInfo info_;
  ImmutableMapping memory_;
};

// The end of one endpoint of a buffer with CreateOptions::snapshot_on_crash.
struct AutopsyInfo {
  uint64_t id = 0;
  uint64_t buffer_koid = 0;
  std::string buffer_name;
  uint32_t owner_uid = 0;
  EndpointId endpoint = EndpointId::kEp0;
  CloseReason reason;
  std::chrono::system_clock::time_point time;
  uint64_t size_bytes = 0;  // Of the copy.
  Omission omission = Omission::kNone;
};

struct Autopsy {
  AutopsyInfo info;
  Snapshot state;  // Ledgers and unfinished reservations are there without memory, too.
};

}  // namespace iob
