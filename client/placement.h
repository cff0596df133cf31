// Where a region's memory lies, who pays for it, and who else may ever see it: what can be wished
// for when it is made, and what it got.
//
// A wish that the machine cannot grant falls short, and the reply says why and how to mend it; one
// that is required fails the call instead, FAILED_PRECONDITION / PLACEMENT, in the same words. All
// of it is the Linux kernel's; Zircon's I/O buffers have nothing like it.
//
// Values, with the numbers of the wire format. Thread-compatible, freely copied.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace iob {

// In pages of which size.
enum class HugePages : uint8_t {
  kNone = 1,         // The kernel's smallest.
  kTransparent = 2,  // 2 MiB where the kernel finds them, the rest in small ones.
  k2MiB = 3,         // From the pool that the operator set aside (vm.nr_hugepages).
  k1GiB = 4,         // The same of 1 GiB.
};

// Whose memory cgroup pays.
enum class MemoryCharge : uint8_t {
  kBroker = 1,      // The broker's. All memory is there at once; touching it cannot fail.
  kFirstTouch = 2,  // Of each page: that of the process that touches it first, reading or writing.
                    // Beyond its limit the kernel kills that process. Discipline none only.
  kPool = 3,        // Only obtained: nobody's, huge pages of the pool were paid for in advance.
};

// What can be required, and can fall short.
enum class PlacementItem : uint8_t {
  kHugePages = 1,
  kPrefault = 2,
  kLock = 3,
  kNumaNode = 4,
  kCharge = 5,
  kSensitive = 6,
};

// Wishes for one region. INVALID_ARGUMENT for those that cannot be meant.
struct Placement {
  // k2MiB and k1GiB: discipline none only, and the size is a multiple of it.
  HugePages huge_pages = HugePages::kNone;
  // Every mapping starts with its page tables filled: no first touch takes a fault.
  bool prefault = false;
  // Kept in memory (mlock) by the broker for as long as the region lives. Not with kFirstTouch.
  bool lock = false;
  // All pages from this node.
  std::optional<uint32_t> numa_node = std::nullopt;
  MemoryCharge charge = MemoryCharge::kBroker;
  // Out of core dumps, not inherited by forked children, zeroed before it is released, and never in
  // a snapshot, a tail or an autopsy.
  bool sensitive = false;
  // What fails rather than falls short; only what is asked for above.
  std::vector<PlacementItem> required = {};

  friend bool operator==(const Placement&, const Placement&) = default;
};

// A wish that was not granted, or not in full.
struct PlacementShortfall {
  PlacementItem item = PlacementItem::kHugePages;
  std::string why;  // What this machine gives, and how to mend it.
};

// What a region got, found out after it was made.
struct ObtainedPlacement {
  HugePages huge_pages = HugePages::kNone;  // The largest kind that holds any of it.
  uint64_t huge_bytes = 0;                  // In huge pages, when it was made.
  uint64_t page_bytes = 0;                  // Windows begin and end at multiples of this.
  bool prefault = false;
  bool lock = false;
  std::optional<uint32_t> numa_node = std::nullopt;
  MemoryCharge charge = MemoryCharge::kBroker;
  bool sensitive = false;
  std::vector<PlacementShortfall> shortfalls = {};
};

// Lower-case names: "none", "transparent", "2M", "1G"; "broker", "first-touch", "pool"; "huge",
// "prefault", "lock", "numa", "charge", "sensitive".
std::string ToString(HugePages huge_pages);
std::string ToString(MemoryCharge charge);
std::string ToString(PlacementItem item);

}  // namespace iob
