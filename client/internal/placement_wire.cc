#include "client/internal/placement_wire.h"

#include <algorithm>

#include "shm/mapping.h"

namespace iob {

void ToWire(const Placement& placement, v1::Placement* ret_placement) {
  // What is left at its default is left out, as by a program that does not know of the choice.
  if (placement.huge_pages != HugePages::kNone)
    ret_placement->set_huge_pages(static_cast<v1::HugePages>(placement.huge_pages));
  ret_placement->set_prefault(placement.prefault);
  ret_placement->set_lock(placement.lock);
  if (placement.numa_node) ret_placement->set_numa_node(*placement.numa_node);
  const Placement defaults;
  const bool charge_required = std::find(placement.required.begin(), placement.required.end(),
                                         PlacementItem::kCharge) != placement.required.end();
  if (placement.charge != defaults.charge || charge_required)
    ret_placement->set_charge(static_cast<v1::MemoryCharge>(placement.charge));
  ret_placement->set_sensitive(placement.sensitive);
  for (const PlacementItem item : placement.required)
    ret_placement->add_require(static_cast<v1::PlacementItem>(item));
}

ObtainedPlacement FromWire(const v1::ObtainedPlacement& placement) {
  ObtainedPlacement obtained{.huge_bytes = placement.huge_bytes(),
                             .page_bytes = placement.page_bytes(),
                             .prefault = placement.prefault(),
                             .lock = placement.lock(),
                             .sensitive = placement.sensitive()};
  if (placement.huge_pages() >= v1::HUGE_PAGES_NONE &&
      placement.huge_pages() <= v1::HUGE_PAGES_1G) {
    obtained.huge_pages = static_cast<HugePages>(placement.huge_pages());
  }
  if (placement.charge() >= v1::MEMORY_CHARGE_BROKER &&
      placement.charge() <= v1::MEMORY_CHARGE_POOL) {
    obtained.charge = static_cast<MemoryCharge>(placement.charge());
  }
  if (placement.has_numa_node()) obtained.numa_node = placement.numa_node();
  if (obtained.page_bytes == 0) obtained.page_bytes = shm::PageBytes();
  for (const v1::PlacementShortfall& shortfall : placement.shortfalls()) {
    if (shortfall.item() < v1::PLACEMENT_ITEM_HUGE_PAGES ||
        shortfall.item() > v1::PLACEMENT_ITEM_SENSITIVE) {
      continue;
    }
    obtained.shortfalls.push_back(
        {.item = static_cast<PlacementItem>(shortfall.item()), .why = shortfall.why()});
  }
  return obtained;
}

}  // namespace iob
