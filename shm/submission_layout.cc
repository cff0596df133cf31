#include "shm/submission_layout.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "shm/mapping.h"

namespace iob::shm {

absl::StatusOr<SubmissionLayout> SubmissionLayout::ForQueue(const Sizes& sizes) {
  if (sizes.capacity_bytes > kCapacityBytesMax || sizes.completions > kCompletionsMax) {
    return absl::OutOfRangeError(
        absl::StrCat("a submission queue of ", sizes.capacity_bytes, " bytes and ",
                     sizes.completions, " completions: at most ", kCapacityBytesMax, " bytes and ",
                     kCompletionsMax, " completions are allowed"));
  }
  const uint64_t page_bytes = PageBytes();
  if (sizes.capacity_bytes == 0 || sizes.capacity_bytes % page_bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a submission queue of ", sizes.capacity_bytes,
                                                   " bytes: it needs whole pages of ", page_bytes,
                                                   " bytes, at least one"));
  }
  if (sizes.completions < kCompletionsMin || !std::has_single_bit(sizes.completions)) {
    return absl::InvalidArgumentError(absl::StrCat("a submission queue of ", sizes.completions,
                                                   " completions: it needs a power of two, at ",
                                                   "least ", kCompletionsMin));
  }
  return SubmissionLayout(page_bytes, sizes);
}

SubmissionLayout::SubmissionLayout(uint64_t page_bytes, const Sizes& sizes)
    : page_bytes_(page_bytes),
      capacity_bytes_(sizes.capacity_bytes),
      completions_(sizes.completions),
      complete_section_bytes_(page_bytes + RoundUpToPages(sizes.completions * kCompletionBytes)) {}

}  // namespace iob::shm
