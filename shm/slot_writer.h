// SlotWriter: the one who replaces the latest value of a slot, and never waits for anybody.
//
// The cell of the next version is marked as being written, filled, marked with its version, and
// only then named as the latest (S1, S2 in slot_layout.h). A writer that is killed in between has
// written nothing; its successor begins the same version again.
//
// Two writers at once are two bugs: prove the old one dead before its successor is mapped.
// Owned by one thread; a forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/slot_layout.h"
#include "shm/wait_hint.h"

namespace iob::shm {

// What became of a value.
struct SlotWritten {
  bool stored = false;  // False for a value longer than the slot's.
  bool notify = false;  // A reader asked for a packet on its socket.
};

class SlotWriter {
 public:
  // Goes on after the latest version, which is 0 when the section is new. DATA_LOSS when that
  // cannot be. Wakes who sleeps, in case a predecessor still owed that.
  static absl::StatusOr<SlotWriter> Map(const SlotLayout& layout, const SealedMemfd& slot,
                                        const SealedMemfd& wait);

  const SlotLayout& layout() const { return layout_; }
  // Of the latest value; 0: none was ever written.
  uint64_t version() const { return version_; }

  // Makes `value` the latest and wakes whoever sleeps on the futex.
  SlotWritten Write(std::span<const std::byte> value);

 private:
  SlotWriter(const SlotLayout& layout, Mapping slot, Mapping wait_page);

  SlotLayout layout_;
  Mapping slot_;
  Mapping wait_page_;
  SharedBytes bytes_;
  SharedAtomic<uint64_t>* latest_;
  SharedAtomic<uint32_t>* waiting_;
  uint64_t version_ = 0;
};

}  // namespace iob::shm
