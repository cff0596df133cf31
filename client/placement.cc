#include "client/placement.h"

namespace iob {

std::string ToString(HugePages huge_pages) {
  switch (huge_pages) {
    case HugePages::kNone:
      return "none";
    case HugePages::kTransparent:
      return "transparent";
    case HugePages::k2MiB:
      return "2M";
    case HugePages::k1GiB:
      return "1G";
  }
  return "?";
}

std::string ToString(MemoryCharge charge) {
  switch (charge) {
    case MemoryCharge::kBroker:
      return "broker";
    case MemoryCharge::kFirstTouch:
      return "first-touch";
    case MemoryCharge::kPool:
      return "pool";
  }
  return "?";
}

std::string ToString(PlacementItem item) {
  switch (item) {
    case PlacementItem::kHugePages:
      return "huge";
    case PlacementItem::kPrefault:
      return "prefault";
    case PlacementItem::kLock:
      return "lock";
    case PlacementItem::kNumaNode:
      return "numa";
    case PlacementItem::kCharge:
      return "charge";
    case PlacementItem::kSensitive:
      return "sensitive";
  }
  return "?";
}

}  // namespace iob
