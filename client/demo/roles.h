// Roles: the three parties of the main job, each run in a process of its own.
//
//   creator  makes the buffer, hands out both endpoints as tickets, answers for its ledger
//   writer   ep1: may not map anything; streams a file record by record through the broker
//   reader   ep0: maps the ring, drains it, rebuilds the file, says how the writer ended
//
// They talk to the driver in lines of text over pipes; tickets travel there too, never on a command
// line.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace iob::demo {

// What the reader reports when its peer is gone.
struct ReaderReport {
  uint64_t records = 0;
  uint64_t bytes = 0;
  std::string reason;
  int64_t closed_ns = 0;  // CLOCK_MONOTONIC.
  int64_t busy_ns = 0;    // From the first record to the last.
  std::string enforcement;

  std::string ToLine() const;
  static absl::StatusOr<ReaderReport> FromLine(const std::string& line);
};

// What the creator reports about the ring.
struct LedgerReport {
  uint64_t attempted_records = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  uint64_t consumed_records = 0;
  uint64_t resident_records = 0;
  std::string losses;  // "full=1,closed=2"; "none".
  std::string ep0_enforcement;
  std::string ep1_enforcement;

  std::string ToLine() const;
  static absl::StatusOr<LedgerReport> FromLine(const std::string& line);
};

struct Channel {
  int in = -1;
  int out = -1;
};

// Says "tickets EP0 EP1 SOCKET"; then answers each "ledger" with a LedgerReport, until its input
// ends.
int RunCreator(const std::string& runtime_dir, const std::string& buffer_name, uint64_t ring_bytes,
               uint32_t reader_uid, Channel channel);

// Streams `input` once, or over and over until killed; says "streaming" after the first batches,
// and in the end "wrote RECORDS BYTES LOST".
int RunWriter(const std::string& ticket_hex, const std::string& socket_path,
              std::span<const std::byte> input, bool for_ever, Channel channel);

// Drains into descriptor `output` until the peer is gone, says a ReaderReport, keeps the endpoint
// open until its input ends.
int RunReader(const std::string& ticket_hex, const std::string& socket_path, int output,
              Channel channel);

}  // namespace iob::demo
