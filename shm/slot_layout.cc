#include "shm/slot_layout.h"

#include "absl/strings/str_cat.h"
#include "shm/mapping.h"

namespace iob::shm {
namespace {

constexpr uint64_t CellBytes(uint64_t value_bytes) {
  return (kSlotCellValue + value_bytes + kSlotLineBytes - 1) & ~(kSlotLineBytes - 1);
}

uint64_t SectionBytes(uint64_t cell_bytes) {
  return RoundUpToPages(kSlotLineBytes + kSlotCells * cell_bytes);
}

}  // namespace

absl::StatusOr<SlotLayout> SlotLayout::ForValue(uint64_t value_bytes) {
  if (value_bytes > kValueBytesMax) {
    return absl::OutOfRangeError(absl::StrCat("a slot for values of ", value_bytes,
                                              " bytes: at most ", kValueBytesMax, " are allowed"));
  }
  if (value_bytes == 0) return absl::InvalidArgumentError("a slot for values of no bytes");
  const uint64_t cell_bytes = CellBytes(value_bytes);
  return SlotLayout(value_bytes, cell_bytes, SectionBytes(cell_bytes));
}

absl::StatusOr<SlotLayout> SlotLayout::ForRegion(uint64_t region_bytes) {
  if (region_bytes > SectionBytes(CellBytes(kValueBytesMax))) {
    return absl::OutOfRangeError(
        absl::StrCat("a slot of ", region_bytes, " bytes is larger than its largest value needs"));
  }
  if (region_bytes == 0 || region_bytes % PageBytes() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a slot of ", region_bytes, " bytes: it needs ",
                                                   "whole pages of ", PageBytes(), " bytes"));
  }
  const uint64_t cell_bytes =
      (region_bytes - kSlotLineBytes) / kSlotCells / kSlotLineBytes * kSlotLineBytes;
  return SlotLayout(cell_bytes - kSlotCellValue, cell_bytes, region_bytes);
}

uint64_t SlotLayout::wait_section_bytes() const { return PageBytes(); }

}  // namespace iob::shm
