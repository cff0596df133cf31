// AcquiredRange: bytes of a region that this holder has to itself, or shares with other readers.
//
//     absl::StatusOr<iob::AcquiredRange> range =
//         endpoint.Acquire(0, 4096, 4096, iob::RangeMode::kExclusive);
//     if (iob::ReasonOf(range.status()) == iob::kReasonRangeTaken) return TryAnother();
//     range->window().WriteOnce<uint64_t>(0, 42);  // Byte 4096 of the region.
//
// Overlapping ranges of one region are never held at once, unless all hold them shared: not by two
// processes, not by two Endpoints of one process, not twice by one Endpoint. Single bytes count.
//
//   X1  The kernel keeps it (OFD locks, shm/range_lock.h): nobody is asked, and when the holder
//       dies, however it dies, its ranges are free. A stopped process keeps its own.
//   X2  It binds those who acquire. Whoever has the region mapped can write regardless, and whoever
//       may map it can hold ranges for as long as it lives: this is for parties that cooperate.
//   X3  An exclusive range needs the right to write the region. A shared range has a window for
//       reading; who may only read can hold one, and so keep writers out.
//   X4  Nothing waits and nothing is queued: a range that is taken is refused, at once.
//   X5  A child forked meanwhile shares the kernel's lock: a holder that is killed keeps its ranges
//       until such a child execs or ends too. When the child alone ends, nothing changes.
//   X6  A shared range cannot become exclusive, nor the other way round: release, and acquire.
//
// Released when destroyed, and then its window is empty. Copies and slices of the window live on
// and keep the memory mapped, but the bytes are not theirs any more. A range that outlives its
// Endpoint's Close stays held, and counts as a hold of that endpoint.
//
// After IoMem::acquire of ostd, whose ranges never come back; ours do.
//
// Thread-compatible, together with its Endpoint. Its window may be used by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "client/window.h"
#include "shm/range_lock.h"

namespace iob {

using shm::ByteRange;
using shm::RangeHold;
using shm::RangeMode;

class AcquiredRange {
 public:
  AcquiredRange(AcquiredRange&& other) noexcept;
  AcquiredRange& operator=(AcquiredRange&& other) noexcept;
  ~AcquiredRange() { Release(); }

  // Of exactly the range's bytes; empty after Release.
  const Window& window() const { return window_; }
  RangeMode mode() const { return mode_; }
  // In the region.
  const ByteRange& range() const { return range_; }
  bool held() const { return locks_ != nullptr; }

  // Gives the range back. Idempotent.
  void Release();

 private:
  friend class Endpoint;
  AcquiredRange(std::shared_ptr<shm::RangeLocks> locks, const ByteRange& range, RangeMode mode,
                Window window)
      : locks_(std::move(locks)), range_(range), mode_(mode), window_(std::move(window)) {}

  std::shared_ptr<shm::RangeLocks> locks_;  // Of all ranges of this region in the Endpoint.
  ByteRange range_;
  RangeMode mode_;
  Window window_;
};

}  // namespace iob
