// RingWriter: streams records into a mediated ring through the broker, without touching memory.
//
//     iob::RingWriter writer = ...;
//     for (...) if (absl::Status s = writer.Write(bytes); !s.ok()) return s;
//     absl::Status s = writer.Finish(iob::After(5s));       // now stats() is final
//
// Write appends to a batch of up to 64 KiB; a full batch is sent, and up to 32 batches travel
// unanswered, so that neither side waits for the other. Each answer says which records were stored
// and why the others were not: stats() always adds up.
//
//   A1  attempted = stored + rejected + pending. Pending are the records whose fate is not known
//       yet; none after Finish was OK. After the connection broke, pending stay so.
//   A2  An error means that the record was not taken, and is not counted.
//   A3  Records of one writer are stored in the order of the calls. Where one is rejected, later
//       ones may still be stored.
//   A4  Nothing waits without a deadline.
//
// Thread-compatible, together with its Endpoint and everything else opened from that.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "client/types.h"

namespace iob {

class Connection;

// Records and payload bytes: what was asked for, and what became of it (A1).
struct WriterStats {
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  // Indexed by LossCause.
  std::array<uint64_t, shm::kLossCauses> rejected_records = {};
  std::array<uint64_t, shm::kLossCauses> rejected_bytes = {};

  uint64_t lost_records() const;
  uint64_t lost_bytes() const;
  uint64_t pending_records() const;
};

struct RingWriterOptions {
  // How long a batch waits for room in the ring. Zero: what finds no room is rejected (kFull). Else
  // what is left then is rejected (kDeadline). Whole milliseconds, at most one minute.
  std::chrono::milliseconds wait{0};
  // How long the broker may take to accept or answer a batch, `wait` not included, before a call
  // gives up with DEADLINE_EXCEEDED.
  std::chrono::milliseconds stall_timeout{10'000};
};

class RingWriter {
 public:
  RingWriter(RingWriter&& other) noexcept;
  RingWriter& operator=(RingWriter&& other) noexcept;
  // Sends what is buffered if the socket takes it at once. Finish is the way to know.
  ~RingWriter();

  // Takes one record of at most 65519 bytes; may be empty. Blocks only when the batch is full and
  // 32 are unanswered. A closed peer is no error here: the broker decides record by record, and
  // rejects with kClosed what nobody is left to consume; see Endpoint::peer_closed.
  //   INVALID_ARGUMENT                        longer than 65519 bytes
  //   DEADLINE_EXCEEDED / DEADLINE            the broker stalls (A2: try again)
  //   PERMISSION_DENIED / ACCESS_DENIED, ...  what the broker said when it ended the connection
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED
  absl::Status Write(std::span<const std::byte> payload);

  // The same for one record made of up to 8 parts. INVALID_ARGUMENT also for more parts.
  absl::Status WriteParts(std::span<const std::span<const std::byte>> parts);

  // Sends what is buffered. Errors as Write, which leave it buffered; OK when nothing is.
  absl::Status Flush();

  // Flush, then waits until every batch is answered. DEADLINE_EXCEEDED after `deadline`; errors as
  // Write.
  absl::Status Finish(Deadline deadline);

  // Of all records so far. Answers are counted as calls read them: exact after Finish.
  const WriterStats& stats() const;

  // Reads answers that have arrived. For a writer that has nothing to write, but fd() is readable.
  absl::Status Poll();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

 private:
  friend class Endpoint;
  class Impl;
  RingWriter(uint32_t region_index, const RingWriterOptions& options,
             std::shared_ptr<Connection> connection);
  std::shared_ptr<Impl> impl_;
};

}  // namespace iob
