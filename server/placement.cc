#include "server/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/errors.h"
#include "shm/mapping.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr uint32_t kNumaNodeMax = 1023;

uint64_t PageBytesOf(v1::HugePages huge_pages) {
  if (huge_pages == v1::HUGE_PAGES_2M) return uint64_t{2} << 20;
  if (huge_pages == v1::HUGE_PAGES_1G) return uint64_t{1} << 30;
  return shm::PageBytes();
}

absl::Status CheckHugePages(v1::HugePages huge_pages, const PlacedRegion& region) {
  const std::string argument = region.argument + ".placement.huge_pages";
  if (!v1::HugePages_IsValid(huge_pages)) return BadArgument(argument, "unknown");
  const uint64_t page_bytes = PageBytesOf(huge_pages);
  if (page_bytes == shm::PageBytes()) return absl::OkStatus();
  if (region.discipline != v1::DISCIPLINE_NONE) {
    return BadArgument(argument, absl::StrCat(v1::HugePages_Name(huge_pages),
                                              " is for discipline none; rings and ids are laid "
                                              "out in small pages, for them TRANSPARENT works"));
  }
  if (region.size_bytes != 0 && region.size_bytes % page_bytes == 0) return absl::OkStatus();
  return BadArgument(argument,
                     absl::StrCat(v1::HugePages_Name(huge_pages), " and ", region.size_bytes,
                                  " bytes: size_bytes must be a multiple of ", page_bytes));
}

absl::Status CheckCharge(const v1::Placement& wish, const PlacedRegion& region) {
  const std::string argument = region.argument + ".placement.charge";
  if (!v1::MemoryCharge_IsValid(wish.charge())) return BadArgument(argument, "unknown");
  if (wish.charge() == v1::MEMORY_CHARGE_POOL)
    return BadArgument(argument, "POOL cannot be asked for; it comes with huge pages 2M and 1G");
  if (wish.charge() != v1::MEMORY_CHARGE_FIRST_TOUCH) return absl::OkStatus();
  if (region.discipline != v1::DISCIPLINE_NONE) {
    return BadArgument(argument,
                       "FIRST_TOUCH is for discipline none; the broker touches all others itself");
  }
  if (wish.lock())
    return BadArgument(argument, "FIRST_TOUCH and lock: locking touches every page; drop one");
  return absl::OkStatus();
}

bool AskedFor(const v1::Placement& wish, v1::PlacementItem item) {
  switch (item) {
    case v1::PLACEMENT_ITEM_HUGE_PAGES:
      return wish.huge_pages() > v1::HUGE_PAGES_NONE;
    case v1::PLACEMENT_ITEM_PREFAULT:
      return wish.prefault();
    case v1::PLACEMENT_ITEM_LOCK:
      return wish.lock();
    case v1::PLACEMENT_ITEM_NUMA_NODE:
      return wish.has_numa_node();
    case v1::PLACEMENT_ITEM_CHARGE:
      return wish.charge() != v1::MEMORY_CHARGE_UNSPECIFIED;
    case v1::PLACEMENT_ITEM_SENSITIVE:
      return wish.sensitive();
    case v1::PLACEMENT_ITEM_UNSPECIFIED:
    case v1::PlacementItem_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::PlacementItem_INT_MAX_SENTINEL_DO_NOT_USE_:
      return false;
  }
  return false;
}

absl::Status CheckRequire(const v1::Placement& wish, const PlacedRegion& region) {
  for (const int item : wish.require()) {
    if (v1::PlacementItem_IsValid(item) && AskedFor(wish, static_cast<v1::PlacementItem>(item)))
      continue;
    return BadArgument(region.argument + ".placement.require",
                       absl::StrCat(item, ": unknown, or not asked for in this placement"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlacement(const v1::Placement& wish, const PlacedRegion& region) {
  if (region.shared && wish.ByteSizeLong() != 0) {
    return BadArgument(region.argument + ".placement",
                       "a shared region's memory was placed with its object");
  }
  IOB_RETURN_IF_ERROR(CheckHugePages(wish.huge_pages(), region));
  if (wish.has_numa_node() && wish.numa_node() > kNumaNodeMax) {
    return BadArgument(region.argument + ".placement.numa_node",
                       absl::StrCat(wish.numa_node(), ", at most ", kNumaNodeMax));
  }
  IOB_RETURN_IF_ERROR(CheckCharge(wish, region));
  return CheckRequire(wish, region);
}

bool Requires(const v1::Placement& wish, v1::PlacementItem item) {
  return std::find(wish.require().begin(), wish.require().end(), static_cast<int>(item)) !=
         wish.require().end();
}

v1::ObtainedPlacement Unplaced(const v1::Placement& wish) {
  v1::ObtainedPlacement obtained;
  obtained.set_huge_pages(v1::HUGE_PAGES_NONE);
  obtained.set_page_bytes(shm::PageBytes());
  obtained.set_charge(v1::MEMORY_CHARGE_BROKER);
  obtained.set_sensitive(wish.sensitive());
  return obtained;
}

}  // namespace iob::server
