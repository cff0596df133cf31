#include "client/iobctl/placement_report.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

std::vector<std::string> WordsOf(const ObtainedPlacement& placement) {
  std::vector<std::string> words;
  if (placement.huge_pages != HugePages::kNone) {
    words.push_back(absl::StrCat("huge=", ToString(placement.huge_pages), " (",
                                 FormatBytes(placement.huge_bytes), ")"));
  }
  if (placement.prefault) words.emplace_back("prefault");
  if (placement.lock) words.emplace_back("lock");
  if (placement.numa_node) words.push_back(absl::StrCat("numa=", *placement.numa_node));
  if (placement.charge != MemoryCharge::kBroker)
    words.push_back("charge=" + ToString(placement.charge));
  if (placement.sensitive) words.emplace_back("sensitive");
  return words;
}

}  // namespace

void AddPlacement(const ObtainedPlacement& placement, JsonWriter* json) {
  json->BeginObject("placement");
  json->Member("huge_pages", ToString(placement.huge_pages));
  json->Member("huge_bytes", placement.huge_bytes);
  json->Member("page_bytes", placement.page_bytes);
  json->Member("prefault", placement.prefault);
  json->Member("lock", placement.lock);
  if (placement.numa_node) json->Member("numa_node", uint64_t{*placement.numa_node});
  json->Member("charge", ToString(placement.charge));
  json->Member("sensitive", placement.sensitive);
  json->BeginArray("shortfalls");
  for (const PlacementShortfall& shortfall : placement.shortfalls) {
    json->BeginObject();
    json->Member("item", ToString(shortfall.item));
    json->Member("why", shortfall.why);
    json->EndObject();
  }
  json->EndArray();
  json->EndObject();
}

std::string DescribePlacement(const RegionInfo& region) {
  std::string text;
  const std::vector<std::string> words = WordsOf(region.placement);
  if (!words.empty())
    absl::StrAppend(&text, "region ", region.index, " memory: ", absl::StrJoin(words, ","), "\n");
  for (const PlacementShortfall& shortfall : region.placement.shortfalls) {
    absl::StrAppend(&text, "region ", region.index, " fell short of ", ToString(shortfall.item),
                    ": ", Escape(shortfall.why), "\n");
  }
  return text;
}

}  // namespace iob::ctl
