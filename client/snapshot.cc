#include "client/snapshot.h"

#include <algorithm>
#include <utility>

namespace iob {

std::string ToString(Omission omission) {
  switch (omission) {
    case Omission::kNone:
      return "none";
    case Omission::kAccess:
      return "access";
    case Omission::kSensitive:
      return "sensitive";
    case Omission::kTooLarge:
      return "too-large";
    case Omission::kQuota:
      return "quota";
    case Omission::kEvicted:
      return "evicted";
    case Omission::kFailed:
      return "failed";
  }
  return "unknown";
}

absl::StatusOr<Snapshot> Snapshot::Make(SnapshotInfo info, ImmutableMapping memory) {
  uint64_t end_bytes = 0;
  for (const SnapshotRegion& region : info.regions) {
    for (const SnapshotSection& section : region.sections) {
      // One after the other, so the end of one is the beginning of the next.
      if (section.offset_bytes != end_bytes ||
          section.size_bytes > memory.size_bytes() - end_bytes) {
        return absl::InternalError("the sections of a snapshot do not lie within it");
      }
      end_bytes += section.size_bytes;
    }
  }
  return Snapshot(std::move(info), std::move(memory));
}

const SnapshotRegion* Snapshot::region(uint32_t region_index) const {
  const auto found = std::find_if(
      info_.regions.begin(), info_.regions.end(),
      [region_index](const SnapshotRegion& region) { return region.index == region_index; });
  return found == info_.regions.end() ? nullptr : &*found;
}

std::span<const std::byte> Snapshot::bytes(uint32_t region_index) const {
  const SnapshotRegion* const found = region(region_index);
  if (found == nullptr || found->sections.empty()) return {};
  const SnapshotSection& last = found->sections.back();
  const uint64_t begin = found->sections.front().offset_bytes;
  return memory_.bytes().subspan(begin, last.offset_bytes + last.size_bytes - begin);
}

}  // namespace iob
