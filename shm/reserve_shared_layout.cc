#include "shm/reserve_shared_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "shm/section.h"

namespace iob::shm {
absl::StatusOr<SharedLayout> SharedLayout::ForSize(uint64_t size_bytes, uint64_t granule_bytes) {
  if (size_bytes > kSizeBytesMax) {
    return absl::OutOfRangeError(absl::StrCat("a shared reserve ring of ", size_bytes,
                                              " bytes: at most ", kSizeBytesMax, " are allowed"));
  }
  const uint64_t page_bytes = PageBytes();
  if (!std::has_single_bit(size_bytes) || size_bytes < page_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shared reserve ring of ", size_bytes,
                     " bytes: it must be a power of two and at least ", page_bytes));
  }
  if (!std::has_single_bit(granule_bytes) || granule_bytes < kGranuleBytesMin ||
      granule_bytes > kGranuleBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("granules of ", granule_bytes,
                                                   " bytes: they must be a power of two from ",
                                                   kGranuleBytesMin, " to ", kGranuleBytesMax));
  }
  return SharedLayout(std::countr_zero(size_bytes), std::countr_zero(granule_bytes), page_bytes);
}

absl::StatusOr<SharedSections> SharedSections::Create(const SharedLayout& layout,
                                                      uint64_t first_position,
                                                      const Placement& placement) {
  IOB_ASSIGN_OR_RETURN(SealedMemfd ctl,
                       MakeSection("iob-ctl", layout.ctl_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(SealedMemfd data,
                       MakeSection("iob-data", layout.data_section_bytes(), placement));
  IOB_ASSIGN_OR_RETURN(SealedMemfd cons,
                       MakeSection("iob-cons", layout.cons_section_bytes(), placement));
  if (first_position != 0) {
    IOB_ASSIGN_OR_RETURN(const Mapping ctl_words, Mapping::Map(ctl, OnFork::kDrop));
    IOB_ASSIGN_OR_RETURN(const Mapping cons_words, Mapping::Map(cons, OnFork::kDrop));
    ctl_words.Word<uint64_t>(kSharedTail).StoreRelaxed(first_position);
    cons_words.Word<uint64_t>(kSharedHead).StoreRelease(first_position);
  }
  return SharedSections{.ctl = std::move(ctl), .data = std::move(data), .cons = std::move(cons)};
}

absl::Status SharedSections::Match(const SharedLayout& layout) const {
  if (ctl.size_bytes() == layout.ctl_section_bytes() &&
      data.size_bytes() == layout.data_section_bytes() &&
      cons.size_bytes() == layout.cons_section_bytes()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("sections of ", ctl.size_bytes(), ", ", data.size_bytes(), " and ",
                   cons.size_bytes(), " bytes do not make a shared reserve ring of ",
                   layout.size_bytes(), " bytes in granules of ", layout.granule_bytes()));
}

void SharedLedger::Add(const SharedLedger& other) {
  stored_records += other.stored_records;
  stored_bytes += other.stored_bytes;
  discarded_records += other.discarded_records;
  recovered_records += other.recovered_records;
  lost_records += other.lost_records;
  full_records += other.full_records;
  full_bytes += other.full_bytes;
  too_large_records += other.too_large_records;
  too_large_bytes += other.too_large_bytes;
  integrity_records += other.integrity_records;
  helps += other.helps;
  retries += other.retries;
  wakes += other.wakes;
}

SharedLedger SharedLedgerLine::Read() const {
  return {.stored_records = Get(kStoredRecords),
          .stored_bytes = Get(kStoredBytes),
          .discarded_records = Get(kDiscarded),
          .recovered_records = Get(kRecovered),
          .lost_records = Get(kLost),
          .full_records = Get(kFullRecords),
          .full_bytes = Get(kFullBytes),
          .too_large_records = Get(kTooLargeRecords),
          .too_large_bytes = Get(kTooLargeBytes),
          .integrity_records = Get(kIntegrity),
          .helps = Get(kHelps),
          .retries = Get(kRetries),
          .wakes = Get(kWakes)};
}

}  // namespace iob::shm
