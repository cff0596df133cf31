// RecordSplitter: cuts a stream of bytes into records.
//
// The stream comes in chunks of any size; what is not yet a whole record is kept for the next
// chunk. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace iob::ctl {

enum class Framing {
  kLines,           // Each line without its newline; a last line without one counts.
  kWholeLines,      // Each line with its newline.
  kFixed,           // Every N bytes; what is left at the end is a shorter record.
  kLengthPrefixed,  // u32 little-endian length, then that many bytes.
};

class RecordSplitter {
 public:
  using Emit = std::function<absl::Status(std::string_view record)>;

  // `record_bytes` is for kFixed: 1 to 65519. `for_binary`: the option that whoever has no lines
  // should use.
  RecordSplitter(Framing framing, size_t record_bytes,
                 std::string_view for_binary = "--record-bytes N")
      : framing_(framing), record_bytes_(record_bytes), for_binary_(for_binary) {}

  // Emits every record that is whole by now. An error of `emit` is returned, and ends it.
  // INVALID_ARGUMENT for a record longer than 65519 bytes, with its position.
  absl::Status Feed(std::string_view chunk, const Emit& emit);

  // The stream is over. INVALID_ARGUMENT when it ends inside a length-prefixed record.
  absl::Status End(const Emit& emit);

 private:
  // Bytes at the front of `input` that make one record with its framing; 0: not whole yet.
  size_t WholeRecord(std::string_view input) const;
  absl::Status CheckLength(std::string_view input) const;
  std::string_view PayloadOf(std::string_view framed) const;

  Framing framing_;
  size_t record_bytes_;
  std::string_view for_binary_;  // A literal.
  std::string carry_;            // The start of a record.
  uint64_t records_ = 0;
  uint64_t consumed_bytes_ = 0;
};

}  // namespace iob::ctl
