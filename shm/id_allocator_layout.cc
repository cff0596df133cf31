#include "shm/id_allocator_layout.h"

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/mapping.h"

namespace iob::shm {

absl::StatusOr<IdAllocatorLayout> IdAllocatorLayout::ForRegion(uint64_t region_bytes) {
  // The rounded size, so that 4 GiB - 1 is refused here and not by an offset that does not fit.
  if (RoundUpToPages(region_bytes) > std::numeric_limits<uint32_t>::max()) {
    return absl::OutOfRangeError(absl::StrCat("an id allocator of ", region_bytes,
                                              " bytes: its offsets reach no further than ",
                                              std::numeric_limits<uint32_t>::max()));
  }
  if (region_bytes == 0 || region_bytes % PageBytes() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("an id allocator of ", region_bytes,
                                                   " bytes: it needs whole pages of ", PageBytes(),
                                                   " bytes, at least one"));
  }
  return IdAllocatorLayout(static_cast<uint32_t>(region_bytes));
}

absl::Status StatusOf(AllocateOutcome outcome) {
  switch (outcome) {
    case AllocateOutcome::kAllocated:
    case AllocateOutcome::kInterned:
      return absl::OkStatus();
    case AllocateOutcome::kOutOfMemory:
      return absl::ResourceExhaustedError("REGION_FULL: no room for the blob and its index slot");
    case AllocateOutcome::kBusy:
      return absl::UnavailableError("the id allocator's words change too fast; try again");
    case AllocateOutcome::kInvalidHeader:
      return absl::DataLossError("the id allocator's header cannot be");
    case AllocateOutcome::kNonEmptyIndex:
      return absl::DataLossError(
          "the index slot of a fresh id holds what nobody can have put there");
  }
  IOB_CHECK(false);
}

}  // namespace iob::shm
