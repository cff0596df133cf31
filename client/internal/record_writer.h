// RecordWriter: one way to the broker for the records of a RingWriter, which has checked them.
//
// Internal to the library. Thread-compatible, together with its Connection.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/ring_writer.h"
#include "client/types.h"

namespace iob {

// At most kRecordPartsMax parts, and kRecordPayloadBytesMax bytes.
struct OutgoingRecord {
  std::span<const std::span<const std::byte>> parts;
  size_t payload_bytes = 0;
  uint32_t wait_ms = 0;  // For room in the ring; 0: not at all.
  uint64_t cookie = 0;   // For the completion, if the writer was made to give any.
};

class RecordWriter {
 public:
  virtual ~RecordWriter() = default;
  virtual WriterTransport transport() const = 0;

  // The contracts of RingWriter. `patience`: with a broker that accepts nothing; not a deadline,
  // because most calls need no clock.
  virtual absl::Status Add(const OutgoingRecord& record, std::chrono::milliseconds patience) = 0;
  // Waits for the fate of the record that was added last: lost by this cause, or stored. Its
  // completion is not among the others, unless this gave up.
  virtual absl::StatusOr<std::optional<LossCause>> AwaitNewest(Deadline deadline) = 0;
  virtual absl::Status Flush(Deadline deadline) = 0;
  virtual absl::Status Finish(Deadline deadline) = 0;
  virtual std::optional<WriteCompletion> TakeCompletion() = 0;
  virtual const WriterStats& stats() = 0;
  virtual absl::Status Poll() = 0;
};

}  // namespace iob
