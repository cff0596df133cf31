// Placement: where the pages of a section shall lie, and what this machine has to offer.
//
// A placement is strict here: MakeSection (section.h) fails with the item that cannot be had, and
// whoever asked decides whether to go without it. What a machine offers is read from the kernel
// each time, because operators change it while we run.
//
// Thread-safe: values and pure reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace iob::shm {

inline constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;  // What shmem uses by itself.
inline constexpr uint64_t kGiganticPageBytes = uint64_t{1} << 30;

// What can be wished for; the numbers are those of iob.v1.PlacementItem.
enum class PlacementItem : uint8_t {
  kHugePages = 1,
  kPrefault = 2,
  kLock = 3,
  kNumaNode = 4,
  kCharge = 5,
  kSensitive = 6,
};

struct Placement {
  uint64_t pool_page_bytes = 0;  // Huge pages of the pool (hugetlbfs); 0: not from there.
  bool transparent = false;      // Huge pages where the kernel finds them; best effort, also here.
  bool prefault = false;         // Of each mapping.
  bool lock = false;             // In memory for as long as the SealedMemfd lives.
  std::optional<uint32_t> numa_node = std::nullopt;
  bool sparse = false;     // Nothing is allocated: who touches a page first pays for it.
  bool sensitive = false;  // Mappings stay out of core dumps and children; zeroed at the end.
};

// `status`, about one item.
absl::Status ItemError(PlacementItem item, absl::Status status);
// The item that a status is about.
std::optional<PlacementItem> FailedItem(const absl::Status& status);

// Huge pages of one size that the operator set aside.
struct HugePagePool {
  uint64_t page_bytes = 0;
  uint64_t total = 0;
  uint64_t free = 0;  // And not promised to anybody.
};
// nullopt when this kernel has no pages of that size.
std::optional<HugePagePool> PoolOf(uint64_t page_bytes);
// "vm.nr_hugepages" for 2 MiB, and the file in /sys for others: what an operator turns.
std::string PoolKnob(uint64_t page_bytes);

// The word that is chosen in /sys/kernel/mm/transparent_hugepage/shmem_enabled: "never", "advise",
// ...; "" when this kernel has no transparent huge pages for shared memory.
std::string SharedHugePagePolicy();

// NUMA nodes that have memory; just 0 on a kernel without NUMA.
std::vector<uint32_t> MemoryNodes();

// The first of it, without the line end; "" when it cannot be read.
std::string ReadKernelFile(const std::string& path);

}  // namespace iob::shm
