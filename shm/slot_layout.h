// The slot's layout: the latest value of something, in four cells that take turns.
//
//   SLOT section; the writer writes it, readers only read
//     0         64       64 + cell    64 + 2 cell   64 + 3 cell
//     +--------+--------+------------+-------------+-------------+------+
//     | latest | cell 0 | cell 1     | cell 2      | cell 3      | free |    version v is in cell
//     +--------+--------+------------+-------------+-------------+------+    v % 4
//
//   cell := u64 version (0 while it is being written) | u64 length | value | up to a multiple of 64
//
//   WAIT section: wait_hint.h.
//
// u64 latest is the version of the newest complete value; 0: none yet.
//
//   S1  latest only grows, and is stored after its cell is complete.
//   S2  A cell is written only for the version after latest; the cell of latest itself is left
//       alone until three more versions are complete. So a reader has the time of three writes for
//       its copy, and a writer killed anywhere leaves latest and its cell intact.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace iob::shm {

inline constexpr uint64_t kSlotCells = 4;
inline constexpr uint64_t kSlotLineBytes = 64;
inline constexpr uint64_t kSlotLatest = 0;

// Offsets in a cell.
inline constexpr uint64_t kSlotCellVersion = 0;
inline constexpr uint64_t kSlotCellLength = 8;
inline constexpr uint64_t kSlotCellValue = 16;

// No honest writer gets there.
inline constexpr uint64_t kSlotVersionMax = uint64_t{1} << 62;

// Sizes of one slot, checked once; arithmetic on it needs no further checks.
class SlotLayout {
 public:
  // For values of up to `value_bytes`. INVALID_ARGUMENT for 0, OUT_OF_RANGE above kValueBytesMax.
  static absl::StatusOr<SlotLayout> ForValue(uint64_t value_bytes);
  // The longest value for which four cells fit. INVALID_ARGUMENT unless `region_bytes` is whole
  // pages, at least one; OUT_OF_RANGE above what kValueBytesMax needs.
  static absl::StatusOr<SlotLayout> ForRegion(uint64_t region_bytes);

  static constexpr uint64_t kValueBytesMax = uint64_t{64} << 20;

  uint64_t value_bytes_max() const { return value_bytes_max_; }
  uint64_t section_bytes() const { return section_bytes_; }
  uint64_t wait_section_bytes() const;
  // Where the cell of `version` is.
  uint64_t CellOffset(uint64_t version) const {
    return kSlotLineBytes + version % kSlotCells * cell_bytes_;
  }

 private:
  SlotLayout(uint64_t value_bytes_max, uint64_t cell_bytes, uint64_t section_bytes)
      : value_bytes_max_(value_bytes_max), cell_bytes_(cell_bytes), section_bytes_(section_bytes) {}
  uint64_t value_bytes_max_;
  uint64_t cell_bytes_;
  uint64_t section_bytes_;
};

}  // namespace iob::shm
