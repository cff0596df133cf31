#include "shm/ring_layout.h"

#include "absl/strings/str_cat.h"
#include "shm/mapping.h"

namespace iob::shm {

absl::StatusOr<RingLayout> RingLayout::ForRegion(uint64_t region_bytes) {
  const uint64_t page_bytes = PageBytes();
  if (region_bytes > kRegionBytesMax) {
    return absl::OutOfRangeError(absl::StrCat("a mediated ring of ", region_bytes,
                                              " bytes: at most ", kRegionBytesMax, " are allowed"));
  }
  if (region_bytes % page_bytes != 0 || region_bytes < 2 * page_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a mediated ring of ", region_bytes,
                     " bytes: it needs a head page and at least one page of ",
                     "records, in whole pages of ", page_bytes, " bytes"));
  }
  return RingLayout(page_bytes, region_bytes - page_bytes);
}

}  // namespace iob::shm
