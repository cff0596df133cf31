// Range locks: who has which bytes of a section to himself, kept by the kernel.
//
// A range is held by OFD locks (Linux 3.15) of the holder's own description of the section, its
// grant. No process is asked, and the kernel drops them when the description goes: when the holder
// dies, however it dies. Two places in the lock offsets, which need no data behind them, are used:
//
//     0                      2^40 ..  2^60 ..        2^62 + pid * 2^40
//     +------------------------+------+---------------+----------------+--------------------------+
//     | the bytes themselves   |      | grant locks   |                | "pid holds these bytes"  |
//     +------------------------+------+---------------+----------------+--------------------------+
//       exclusive or shared: what                                        the same range and mode:
//       keeps others out (L1)                                            for people to read (L2)
//
//   L1  Two descriptions never hold overlapping bytes, unless both hold them shared. Within one
//       description the kernel sees no conflict, so RangeLocks remembers what it holds.
//   L2  The kernel does not tell the owner of an OFD lock (l_pid is -1). So a holder says who it is
//       by where it locks, which also dies with it: its pid as it sees it itself. That is a claim.
//       It is believed only for bytes that are locked, and nothing depends on it.
//   L3  An exclusive lock needs a description that is open for writing, a shared one one for
//       reading.
//   L4  Advisory: whoever has a mapping can write regardless. It binds those who ask.
//   L5  A description is kept by its descriptors and mappings, also those of a forked child: a
//       child that outlives a killed holder keeps its ranges until it execs or ends. A child that
//       destroys its copy of a RangeLocks, or unlocks there, changes nothing for its parent.
//
// Any program that locks the same bytes with F_OFD_SETLK takes part. Thread-compatible.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/unique_fd.h"

namespace iob::shm {

enum class RangeMode : uint8_t {
  kShared,     // With others who hold it shared.
  kExclusive,  // With nobody.
};

struct ByteRange {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;

  uint64_t end_bytes() const { return offset_bytes + length_bytes; }
  bool Overlaps(const ByteRange& other) const {
    return offset_bytes < other.end_bytes() && other.offset_bytes < end_bytes();
  }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Ranges end at or before this.
inline constexpr uint64_t kRangeEndMax = uint64_t{1} << 40;

// What is known of a range that somebody holds.
struct RangeHold {
  ByteRange range;
  RangeMode mode = RangeMode::kShared;
  pid_t claimed_pid = 0;  // L2; 0: whoever it is does not say.

  friend bool operator==(const RangeHold&, const RangeHold&) = default;
};

// The ranges of one description of a section.
class RangeLocks {
 public:
  // `fd` is a descriptor of the grant; dups share its locks.
  explicit RangeLocks(UniqueFd fd) : fd_(std::move(fd)) {}
  RangeLocks(const RangeLocks&) = delete;
  RangeLocks& operator=(const RangeLocks&) = delete;

  // Takes `range`, of one byte or more, if it is free; false when somebody holds a part of it, this
  // description included. Never waits. INTERNAL also for a description of the wrong mode (L3).
  absl::StatusOr<bool> TryLock(const ByteRange& range, RangeMode mode);

  // Gives back one range as it was taken.
  void Unlock(const ByteRange& range, RangeMode mode);

  // Who holds what of `within`, by offset, this description included; at most kHoldsMax. Ranges of
  // one pid that are shared and overlap are told as one. It is old when it is told: ranges come and
  // go meanwhile.
  absl::StatusOr<std::vector<RangeHold>> List(const ByteRange& within) const;
  static constexpr size_t kHoldsMax = 1024;

 private:
  struct Held {
    ByteRange range;
    RangeMode mode = RangeMode::kShared;
    pid_t pid = 0;
  };

  UniqueFd fd_;
  std::vector<Held> held_;
};

}  // namespace iob::shm
