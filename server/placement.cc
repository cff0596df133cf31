#include "server/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/errors.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/section.h"

namespace iob::server {
namespace {

constexpr uint32_t kNumaNodeMax = 1023;

uint64_t PageBytesOf(v1::HugePages huge_pages) {
  if (huge_pages == v1::HUGE_PAGES_2M) return shm::kHugePageBytes;
  if (huge_pages == v1::HUGE_PAGES_1G) return shm::kGiganticPageBytes;
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
  if (wish.huge_pages() > v1::HUGE_PAGES_TRANSPARENT) {
    return BadArgument(argument,
                       "FIRST_TOUCH and huge pages of the pool: a touch that finds the pool empty "
                       "would be a SIGBUS; drop one");
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
  if (wish.huge_pages() > v1::HUGE_PAGES_TRANSPARENT && Requires(wish, v1::PLACEMENT_ITEM_CHARGE)) {
    return BadArgument(region.argument + ".placement.require",
                       "CHARGE: nobody's memory cgroup pays for huge pages of the pool");
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

bool TakesOrdinaryMemory(const v1::Placement& wish, uint64_t size_bytes) {
  if (wish.charge() == v1::MEMORY_CHARGE_FIRST_TOUCH) return false;
  if (wish.huge_pages() <= v1::HUGE_PAGES_TRANSPARENT) return true;
  const auto pool = shm::PoolOf(PageBytesOf(wish.huge_pages()));
  return !pool || pool->free < size_bytes / pool->page_bytes;
}

PlacementPlan::PlacementPlan(const v1::Placement& wish)
    : wish_(wish),
      now_{.pool_page_bytes =
               wish.huge_pages() > v1::HUGE_PAGES_TRANSPARENT ? PageBytesOf(wish.huge_pages()) : 0,
           .transparent = wish.huge_pages() == v1::HUGE_PAGES_TRANSPARENT,
           .prefault = wish.prefault(),
           .lock = wish.lock(),
           .numa_node = wish.has_numa_node() ? std::optional(wish.numa_node()) : std::nullopt,
           .sparse = wish.charge() == v1::MEMORY_CHARGE_FIRST_TOUCH,
           .sensitive = wish.sensitive()} {}

absl::Status PlacementPlan::FallShort(shm::PlacementItem item, absl::string_view why) {
  const auto number = static_cast<v1::PlacementItem>(item);
  const absl::string_view name =
      absl::StripPrefix(v1::PlacementItem_Name(number), "PLACEMENT_ITEM_");
  if (Requires(wish_, number)) {
    return MakeError(v1::ERROR_REASON_PLACEMENT,
                     absl::StrCat("placement: ", name, " is required: ", why));
  }
  v1::PlacementShortfall& shortfall = *obtained_.add_shortfalls();
  shortfall.set_item(number);
  shortfall.set_why(std::string(why));
  return absl::OkStatus();
}

absl::Status PlacementPlan::FallBack(const absl::Status& failure) {
  const auto item = shm::FailedItem(failure);
  if (!item) return failure;
  switch (*item) {
    case shm::PlacementItem::kHugePages:
      now_.transparent = now_.pool_page_bytes == shm::kHugePageBytes;
      now_.pool_page_bytes =
          now_.pool_page_bytes == shm::kGiganticPageBytes ? shm::kHugePageBytes : 0;
      break;
    case shm::PlacementItem::kLock:
      now_.lock = false;
      break;
    case shm::PlacementItem::kNumaNode:
      now_.numa_node.reset();
      break;
    case shm::PlacementItem::kPrefault:
    case shm::PlacementItem::kCharge:
    case shm::PlacementItem::kSensitive:
      return failure;  // Nothing fails because of these.
  }
  return FallShort(*item, failure.message());
}

absl::Status PlacementPlan::MeasureHugePages(std::span<const shm::SealedMemfd* const> sections) {
  uint64_t wanted_bytes = 0;
  uint64_t huge_bytes = 0;
  obtained_.set_huge_pages(v1::HUGE_PAGES_NONE);
  obtained_.set_page_bytes(shm::PageBytes());
  for (const shm::SealedMemfd* const section : sections) {
    const uint64_t page_bytes = section->page_bytes();
    if (page_bytes == shm::kHugePageBytes) obtained_.set_huge_pages(v1::HUGE_PAGES_2M);
    if (page_bytes == shm::kGiganticPageBytes) obtained_.set_huge_pages(v1::HUGE_PAGES_1G);
    if (page_bytes > shm::PageBytes()) {
      obtained_.set_page_bytes(page_bytes);
      obtained_.set_huge_bytes(section->size_bytes());
    }
    if (!now_.transparent || now_.sparse) continue;
    wanted_bytes += section->size_bytes() / shm::kHugePageBytes * shm::kHugePageBytes;
    IOB_ASSIGN_OR_RETURN(const uint64_t more_bytes, shm::HugeBytesOf(*section));
    huge_bytes += more_bytes;
  }
  if (!now_.transparent) return absl::OkStatus();
  obtained_.set_huge_bytes(huge_bytes);
  if (huge_bytes != 0) obtained_.set_huge_pages(v1::HUGE_PAGES_TRANSPARENT);
  if (wanted_bytes != 0 && huge_bytes >= wanted_bytes) return absl::OkStatus();
  const std::string policy = shm::SharedHugePagePolicy();
  return FallShort(
      shm::PlacementItem::kHugePages,
      absl::StrCat(now_.sparse ? "nothing is allocated yet; who touches it first may get huge pages"
                   : wanted_bytes == 0 ? "no part of it has 2 MiB"
                                       : absl::StrCat("the kernel found huge pages for ",
                                                      huge_bytes, " of ", wanted_bytes, " bytes"),
                   "; /sys/kernel/mm/transparent_hugepage/shmem_enabled is ",
                   policy.empty() ? "missing" : policy, ", 'advise' helps"));
}

absl::Status PlacementPlan::MeasureNode(std::span<const shm::SealedMemfd* const> sections) {
  if (!now_.numa_node) return absl::OkStatus();
  for (const shm::SealedMemfd* const section : sections) {
    // To look at a page is to touch it; the binding holds for whoever will.
    if (now_.sparse || shm::NodeOf(*section) == now_.numa_node) continue;
    return FallShort(shm::PlacementItem::kNumaNode,
                     absl::StrCat("not all of its pages are on node ", *now_.numa_node));
  }
  obtained_.set_numa_node(*now_.numa_node);
  return absl::OkStatus();
}

absl::StatusOr<v1::ObtainedPlacement> PlacementPlan::Measure(
    std::span<const shm::SealedMemfd* const> sections) {
  IOB_RETURN_IF_ERROR(MeasureHugePages(sections));
  IOB_RETURN_IF_ERROR(MeasureNode(sections));
  obtained_.set_prefault(now_.prefault);
  obtained_.set_lock(now_.lock);
  obtained_.set_sensitive(now_.sensitive);
  obtained_.set_charge(now_.sparse                 ? v1::MEMORY_CHARGE_FIRST_TOUCH
                       : now_.pool_page_bytes != 0 ? v1::MEMORY_CHARGE_POOL
                                                   : v1::MEMORY_CHARGE_BROKER);
  return obtained_;
}

}  // namespace iob::server
