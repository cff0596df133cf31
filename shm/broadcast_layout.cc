#include "shm/broadcast_layout.h"

#include "absl/strings/str_cat.h"
#include "shm/mapping.h"

namespace iob::shm {

absl::StatusOr<BroadcastLayout> BroadcastLayout::ForRegion(uint64_t region_bytes) {
  const uint64_t page_bytes = PageBytes();
  if (region_bytes > kRegionBytesMax) {
    return absl::OutOfRangeError(absl::StrCat("a broadcast ring of ", region_bytes,
                                              " bytes: at most ", kRegionBytesMax, " are allowed"));
  }
  if (region_bytes % page_bytes != 0 || region_bytes < 2 * page_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a broadcast ring of ", region_bytes,
                     " bytes: it needs a page of positions and at least one page of records, in ",
                     "whole pages of ", page_bytes, " bytes"));
  }
  return BroadcastLayout(page_bytes, region_bytes - page_bytes);
}

}  // namespace iob::shm
