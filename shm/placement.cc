#include "shm/placement.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shm/unique_fd.h"

namespace iob::shm {
namespace {

constexpr absl::string_view kItemUrl = "iob/placement-item";
constexpr uint32_t kNodesMax = 1024;

std::string PoolDirectory(uint64_t page_bytes) {
  return absl::StrCat("/sys/kernel/mm/hugepages/hugepages-", page_bytes >> 10, "kB/");
}

std::optional<uint64_t> ReadNumber(const std::string& path) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(ReadKernelFile(path), &value)) return std::nullopt;
  return value;
}

}  // namespace

absl::Status ItemError(PlacementItem item, absl::Status status) {
  status.SetPayload(kItemUrl, absl::Cord(absl::StrCat(static_cast<int>(item))));
  return status;
}

std::optional<PlacementItem> FailedItem(const absl::Status& status) {
  const auto payload = status.GetPayload(kItemUrl);
  int item = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &item)) return std::nullopt;
  return static_cast<PlacementItem>(item);
}

std::optional<HugePagePool> PoolOf(uint64_t page_bytes) {
  const std::string directory = PoolDirectory(page_bytes);
  const auto total = ReadNumber(directory + "nr_hugepages");
  const auto free = ReadNumber(directory + "free_hugepages");
  const auto promised = ReadNumber(directory + "resv_hugepages");
  if (!total || !free || !promised) return std::nullopt;
  return HugePagePool{
      .page_bytes = page_bytes, .total = *total, .free = *free > *promised ? *free - *promised : 0};
}

std::string PoolKnob(uint64_t page_bytes) {
  return page_bytes == kHugePageBytes ? "vm.nr_hugepages"
                                      : PoolDirectory(page_bytes) + "nr_hugepages";
}

std::string SharedHugePagePolicy() {
  const std::string words = ReadKernelFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  const size_t begin = words.find('[');
  const size_t end = words.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return "";
  return words.substr(begin + 1, end - begin - 1);
}

std::vector<uint32_t> MemoryNodes() {
  std::vector<uint32_t> nodes;
  // "0-1,3".
  const std::string text = ReadKernelFile("/sys/devices/system/node/has_memory");
  for (const absl::string_view range : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(range, '-');
    uint32_t first = 0;
    uint32_t last = 0;
    if (!absl::SimpleAtoi(ends.first, &first)) continue;
    if (!absl::SimpleAtoi(ends.second, &last)) last = first;
    for (uint32_t node = first; node <= last && node < kNodesMax; ++node) nodes.push_back(node);
  }
  if (nodes.empty()) nodes.push_back(0);
  return nodes;
}

std::string ReadKernelFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[512];
  const ssize_t size = fd.valid() ? ::read(fd.get(), buffer, sizeof(buffer)) : 0;
  if (size <= 0) return "";
  const std::string text(buffer, static_cast<size_t>(size));
  return text.substr(0, text.find('\n'));
}

}  // namespace iob::shm
