// SnapshotRecords: the records of a ring, out of a snapshot.
//
//     IOB_ASSIGN_OR_RETURN(iob::SnapshotRecords records, iob::SnapshotRecords::Open(snapshot, 0));
//     iob::RecordView record;
//     while (records.Next(&record) == iob::ReadOutcome::kRecord) ...
//
// Oldest first: of a mediated ring what lies between tail and head; of a lane of a reserve ring
// what was submitted and not consumed, without what was discarded. A lane's words and records were
// written by others and are believed as far as they can be: kPoisoned where they cannot (a torn
// tail), and everything before that is good.
//
// It has a copy of the records; views are valid until it is destroyed. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "client/ring_reader.h"
#include "client/snapshot.h"

namespace iob {

class SnapshotRecords {
 public:
  // Of the region, and for a reserve ring of the lane, that is asked for.
  //   NOT_FOUND            the region, or lane, is not in the snapshot
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE  neither a mediated ring nor a reserve ring with lanes
  //   DATA_LOSS / INTEGRITY  head and tail of a lane that cannot be
  static absl::StatusOr<SnapshotRecords> Open(const Snapshot& snapshot, uint32_t region_index,
                                              uint32_t lane = 0);

  ReadOutcome Next(RecordView* ret_record);

 private:
  enum class Format : uint8_t { kMediated, kLane };

  SnapshotRecords(Format format, std::span<const std::byte> ring, uint64_t tail, uint64_t head);
  ReadOutcome NextOfLane(RecordView* ret_record);
  // The rest of the records, with what lies beyond.
  std::span<const std::byte> Rest() const;

  Format format_;
  shm::RingOptions options_ = {};
  std::unique_ptr<uint64_t[]> words_;  // Records, and zeros for a header that would lie beyond.
  uint64_t size_bytes_ = 0;            // Of records.
  uint64_t next_bytes_ = 0;
};

}  // namespace iob
