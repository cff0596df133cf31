// RecordUnit: one record of a ring with what the ring's options put around it, taken apart.
//
//     +--------------------+------------------------------------------+
//     | gap record, 40 B   | tag | length | stamp, 16 B | payload | 0 |
//     +--------------------+------------------------------------------+
//      only after a loss                    only if stamped
//
//   U1  Every word is loaded once, and no address beyond `limit_bytes` plus one gap and one header
//       is looked at: with records mapped twice in a row, that is inside the mapping.
//   U2  What comes out lies within `limit_bytes`: ring_bytes <= limit_bytes, and the payload ends
//       within ring_bytes. Nothing is copied or dereferenced before that is known.
//
// A pure function of the bytes; whoever reads bytes that may change under it checks afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "shm/hostile.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// Records that are not in the stream.
struct RecordLoss {
  uint64_t records = 0;
  uint64_t bytes = 0;      // Of payload.
  uint64_t at_record = 0;  // Records that had been stored when the first of them was lost.

  friend bool operator==(const RecordLoss&, const RecordLoss&) = default;
};

struct RecordUnit {
  uint64_t tag = 0;
  uint64_t sequence = 0;  // 0 unless stamped, and so is the time.
  int64_t time_ns = 0;
  RecordLoss gap;               // No records when none precedes it.
  uint64_t payload_offset = 0;  // From the beginning of the unit.
  uint64_t payload_bytes = 0;
  uint64_t ring_bytes = 0;
};

// The unit at `start`, or nothing if no unit of at most `limit_bytes` can be there.
std::optional<RecordUnit> ParseRecordUnit(const std::byte* start, uint64_t limit_bytes,
                                          const RingOptions& options);

}  // namespace iob::shm
