// SlotReader: the latest value of a slot, copied out whole or not at all.
//
//     v = latest;  a = version of cell v % 4;  copy;  fence;  b = that version again
//     the copy is value v if a == b == v, else the writer has come round: again
//
//   G1  A value that is given out is one that was written, never a mixture of two.
//   G2  Versions never go back for one reader. (a == b alone would not do: such a copy may be ahead
//       of `latest`, and the next read behind it.)
//   G3  At most kAttemptsMax copies per Read, whatever the writer does.
//   G4  Words that no honest writer leaves poison the reader: every later call says so.
//
// Any number per slot, each thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/slot_layout.h"
#include "shm/wait_hint.h"

namespace iob::shm {

enum class SlotOutcome : uint8_t {
  kValue,     // The latest value is in the buffer.
  kNone,      // Nothing was ever written.
  kTooSmall,  // The value is longer than the buffer.
  kBusy,      // The writer was quicker than every attempt: try again.
  kPoisoned,  // For good: see status().
};

// Which value it is.
struct SlotValue {
  uint64_t version = 0;      // 1 for the first ever written, then 2, 3, ...
  uint64_t value_bytes = 0;  // How long it is; also with kTooSmall.
};

class SlotReader {
 public:
  static constexpr int kAttemptsMax = 64;

  // Maps SLOT for reading and WAIT for writing.
  static absl::StatusOr<SlotReader> Map(const SlotLayout& layout, const SealedMemfd& slot,
                                        const SealedMemfd& wait);

  // The latest value into the front of `buffer`, also if it was read before. Whatever it says, the
  // rest of the buffer is undefined.
  SlotOutcome Read(std::span<std::byte> buffer, SlotValue* ret_value);

  // Why Read says kPoisoned. OK before that.
  absl::Status status() const;

  // There is a value that Read has not given yet: one look.
  bool HasNewer();

  // Before sleeping until there is one: says how to be woken (kWaitingOnFutex, kWaitingOnSocket),
  // then looks once more. True when nothing is newer, so that sleeping is right.
  bool PrepareToWait(uint32_t how);
  // The word to sleep on: the low half of the latest version as last seen.
  FutexWord WaitWord() const;

 private:
  SlotReader(const SlotLayout& layout, ReadOnlyMapping slot, Mapping wait_page);

  // Loads `latest` into latest_. False, and poison, if it cannot be.
  bool Refresh();
  void Poison(const char* what) { poison_ = what; }

  SlotLayout layout_;
  ReadOnlyMapping slot_;
  Mapping wait_page_;
  uint64_t latest_ = 0;   // As last seen and checked.
  uint64_t version_ = 0;  // Last given out.
  const char* poison_ = nullptr;
};

}  // namespace iob::shm
