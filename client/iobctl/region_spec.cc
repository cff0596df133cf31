#include "client/iobctl/region_spec.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::array<std::pair<char, uint32_t>, 4> kRightLetters = {{
    {'r', RegionRights::kMapRead},
    {'w', RegionRights::kMapWrite},
    {'R', RegionRights::kMediatedRead},
    {'W', RegionRights::kMediatedWrite},
}};

absl::StatusOr<uint32_t> ParseRights(const std::string& text) {
  if (text == "-") return uint32_t{0};
  uint32_t bits = 0;
  for (const char letter : text) {
    uint32_t bit = 0;
    for (const auto& [known, value] : kRightLetters) {
      if (known == letter) bit = value;
    }
    if (bit == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "' is not a set of rights; use letters of rwRW, or - for none"));
    }
    bits |= bit;
  }
  if (bits == 0) return absl::InvalidArgumentError("rights are empty; write - for none");
  return bits;
}

// The names of kinds, the ones to use first.
struct Kind {
  const char* name = nullptr;
  const char* other_name = nullptr;
  Discipline discipline = Discipline::kNone;
};
constexpr std::array<Kind, 6> kKinds = {{
    {"ring", "mediated-ring", Discipline::kMediatedRing},
    {"reserve-ring", nullptr, Discipline::kReserveRing},
    {"broadcast", nullptr, Discipline::kBroadcast},
    {"slot", nullptr, Discipline::kSlot},
    {"id", "id-allocator", Discipline::kIdAllocator},
    {"none", nullptr, Discipline::kNone},
}};

const char* NameOf(Discipline discipline) {
  for (const Kind& kind : kKinds) {
    if (kind.discipline == discipline) return kind.name;
  }
  return "?";
}

absl::StatusOr<Discipline> ParseKind(const std::string& text) {
  for (const Kind& kind : kKinds) {
    if (text == kind.name || (kind.other_name != nullptr && text == kind.other_name))
      return kind.discipline;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is not a kind of region; use ring, reserve-ring, broadcast, slot, id or none"));
}

RegionSpec DefaultsOf(Discipline discipline, uint64_t size_bytes) {
  switch (discipline) {
    case Discipline::kMediatedRing:
      return MediatedRingSpec(size_bytes);
    case Discipline::kReserveRing:
      return ReserveRingSpec(size_bytes);
    case Discipline::kBroadcast:
      return BroadcastSpec(size_bytes);
    case Discipline::kSlot:
      return SlotSpec(size_bytes);
    case Discipline::kIdAllocator:
      return IdAllocatorSpec(size_bytes);
    case Discipline::kNone:
      break;
  }
  return {.discipline = Discipline::kNone,
          .size_bytes = size_bytes,
          .access = AccessBits(RegionRights::kMapRead | RegionRights::kMapWrite |
                               RegionRights::kMapRead << 4)};
}

// What was parsed, into its place.
template <typename Value, typename Target>
absl::Status Store(const absl::StatusOr<Value>& parsed, Target* ret_target) {
  if (parsed.ok()) *ret_target = static_cast<Target>(*parsed);
  return parsed.status();
}

absl::StatusOr<uint64_t> ParseUint32(const std::string& text) {
  return ParseNumber(text, std::numeric_limits<uint32_t>::max());
}

absl::StatusOr<uint64_t> ParseUint64(const std::string& text) {
  return ParseNumber(text, std::numeric_limits<uint64_t>::max());
}

// One of a closed set by its name.
template <typename Enum, size_t N>
absl::StatusOr<Enum> ParseWord(const std::string& text, const std::array<Enum, N>& all) {
  std::string allowed;
  for (const Enum value : all) {
    if (text == ToString(value)) return value;
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", ToString(value));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not one of ", allowed));
}

constexpr std::array kPolicies = {RingPolicy::kDropNew, RingPolicy::kOverwriteOldest,
                                  RingPolicy::kBlock};
constexpr std::array kHugePages = {HugePages::kNone, HugePages::kTransparent, HugePages::k2MiB,
                                   HugePages::k1GiB};
constexpr std::array kCharges = {MemoryCharge::kBroker, MemoryCharge::kFirstTouch};
constexpr std::array kItems = {PlacementItem::kHugePages, PlacementItem::kPrefault,
                               PlacementItem::kLock,      PlacementItem::kNumaNode,
                               PlacementItem::kCharge,    PlacementItem::kSensitive};
constexpr std::array kStallPolicies = {StallPolicy::kWait, StallPolicy::kKill, StallPolicy::kRenew};
constexpr std::array kLevels = {Enforcement::kAdvisory, Enforcement::kDac, Enforcement::kSealed,
                                Enforcement::kMediated};

absl::Status SetRights(EndpointId endpoint, const std::string& value, RegionSpec* spec) {
  IOB_ASSIGN_OR_RETURN(const uint32_t rights, ParseRights(value));
  const uint32_t shift = endpoint == EndpointId::kEp0 ? 0 : 4;
  spec->access = AccessBits((spec->access.bits() & ~(uint32_t{0xf} << shift)) | rights << shift);
  return absl::OkStatus();
}

// One option: a word alone, or a word with a value when its name ends in '='.
struct Option {
  absl::string_view name;
  std::optional<Discipline> only_for;  // Unset: every kind.
  absl::Status (*apply)(const std::string& value, RegionSpec* spec) = nullptr;
};

absl::Status SetFlag(bool* ret_flag) {
  *ret_flag = true;
  return absl::OkStatus();
}

// For any region.
constexpr Option kCommonOptions[] = {
    {"ep0=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return SetRights(EndpointId::kEp0, value, spec);
     }},
    {"ep1=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return SetRights(EndpointId::kEp1, value, spec);
     }},
    {"tag=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseUint64(value), &spec->tag);
     }},
    {"require=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseWord(value, kLevels), &spec->required_enforcement);
     }},
    {"huge=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseWord(value, kHugePages), &spec->placement.huge_pages);
     }},
    {"prefault", std::nullopt,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->placement.prefault); }},
    {"lock", std::nullopt,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->placement.lock); }},
    {"numa=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       uint32_t node = 0;
       IOB_RETURN_IF_ERROR(Store(ParseUint32(value), &node));
       spec->placement.numa_node = node;
       return absl::OkStatus();
     }},
    {"charge=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseWord(value, kCharges), &spec->placement.charge);
     }},
    {"sensitive", std::nullopt,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->placement.sensitive); }},
    {"must=", std::nullopt,
     [](const std::string& value, RegionSpec* spec) {
       IOB_ASSIGN_OR_RETURN(const PlacementItem item, ParseWord(value, kItems));
       spec->placement.required.push_back(item);
       return absl::OkStatus();
     }},
};

constexpr Discipline kRing = Discipline::kMediatedRing;
constexpr Discipline kReserve = Discipline::kReserveRing;
constexpr Option kOwnOptions[] = {
    {"policy=", kRing,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseWord(value, kPolicies), &spec->mediated_ring.policy);
     }},
    {"block=", kRing,
     [](const std::string& value, RegionSpec* spec) {
       // Who says how long has said what.
       spec->mediated_ring.policy = RingPolicy::kBlock;
       return Store(ParseDuration(value), &spec->mediated_ring.block);
     }},
    {"gaps", kRing,
     [](const std::string&, RegionSpec* spec) {
       return SetFlag(&spec->mediated_ring.gap_records);
     }},
    {"stamped", kRing,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->mediated_ring.stamped); }},
    {"followers", kRing,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->mediated_ring.followers); }},
    {"writer-records=", kRing,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseUint64(value), &spec->mediated_ring.writer_records_max);
     }},
    {"writer-bytes=", kRing,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseBytes(value), &spec->mediated_ring.writer_bytes_max);
     }},
    {"lanes=", kReserve,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseUint32(value), &spec->reserve_ring.lanes);
     }},
    {"clears", kReserve,
     [](const std::string&, RegionSpec* spec) {
       return SetFlag(&spec->reserve_ring.consumer_clears);
     }},
    {"stamped", kReserve,
     [](const std::string&, RegionSpec* spec) { return SetFlag(&spec->reserve_ring.stamped); }},
    {"shared", kReserve,
     [](const std::string&, RegionSpec* spec) {
       spec->reserve_ring.mode = ReserveMode::kShared;
       return absl::OkStatus();
     }},
    {"granule=", kReserve,
     [](const std::string& value, RegionSpec* spec) {
       absl::StatusOr<uint64_t> bytes = ParseBytes(value);
       if (bytes.ok() && *bytes > std::numeric_limits<uint32_t>::max())
         bytes = absl::InvalidArgumentError(absl::StrCat("'", value, "' is too large"));
       return Store(bytes, &spec->reserve_ring.granule_bytes);
     }},
    {"on-stall=", kReserve,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseWord(value, kStallPolicies), &spec->reserve_ring.on_stall);
     }},
    {"stall=", kReserve,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseDuration(value), &spec->reserve_ring.stall);
     }},
    {"intern=", Discipline::kIdAllocator,
     [](const std::string& value, RegionSpec* spec) {
       return Store(ParseUint32(value), &spec->interned_blobs_max);
     }},
};

// Why `option` is none of `discipline`'s: it is another kind's, it lacks its value or has one that
// it should not have, or nobody knows it.
absl::Status NoSuchOption(const std::string& option, const std::string& name,
                          Discipline discipline) {
  std::string allowed;
  std::string kinds;
  for (const Option& known : kOwnOptions) {
    if (known.only_for == discipline) absl::StrAppend(&allowed, known.name, ", ");
    if (known.name == name)
      absl::StrAppend(&kinds, kinds.empty() ? "" : ", ", NameOf(*known.only_for));
    if (known.only_for != discipline) continue;
    if (known.name == name + "=")
      return absl::InvalidArgumentError(absl::StrCat("'", option, "' needs a value: ", known.name));
    if (name == std::string(known.name) + "=")
      return absl::InvalidArgumentError(
          absl::StrCat("'", option, "': ", known.name, " has no value"));
  }
  if (!kinds.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", option, "' is for regions of kind ", kinds, " only"));
  }
  for (const Option& known : kCommonOptions) absl::StrAppend(&allowed, known.name, ", ");
  allowed.resize(allowed.size() - 2);
  return absl::InvalidArgumentError(absl::StrCat("'", option, "' is not one of ", allowed));
}

absl::Status ApplyOption(const std::string& option, RegionSpec* spec) {
  const size_t name_size = std::min(option.find('='), option.size() - 1) + 1;
  const std::string name = option.substr(0, name_size);
  const std::string value = option.substr(name_size);
  for (const Option& known : kCommonOptions) {
    if (known.name == name) return known.apply(value, spec);
  }
  for (const Option& known : kOwnOptions) {
    if (known.name == name && known.only_for == spec->discipline) return known.apply(value, spec);
  }
  return NoSuchOption(option, name, spec->discipline);
}

// The other way round, so that what was said can be said again.
std::string SizeText(uint64_t bytes) {
  return bytes != 0 && bytes % 1024 == 0 ? absl::StrCat(bytes / 1024, "KiB") : absl::StrCat(bytes);
}

std::string TimeText(std::chrono::milliseconds time) {
  return time.count() % 1000 == 0 ? absl::StrCat(time.count() / 1000, "s")
                                  : absl::StrCat(time.count(), "ms");
}

std::vector<std::string> WordsOf(const MediatedRingOptions& options) {
  std::vector<std::string> words;
  if (options.policy == RingPolicy::kBlock) {
    words.push_back("block=" + TimeText(options.block));
  } else if (options.policy != RingPolicy::kDropNew) {
    words.push_back("policy=" + ToString(options.policy));
  }
  if (options.gap_records) words.emplace_back("gaps");
  if (options.stamped) words.emplace_back("stamped");
  if (options.followers) words.emplace_back("followers");
  if (options.writer_records_max != 0)
    words.push_back(absl::StrCat("writer-records=", options.writer_records_max));
  if (options.writer_bytes_max != 0)
    words.push_back("writer-bytes=" + SizeText(options.writer_bytes_max));
  return words;
}

std::vector<std::string> WordsOf(const ReserveRingOptions& options) {
  std::vector<std::string> words;
  if (options.mode == ReserveMode::kShared) words.emplace_back("shared");
  if (options.lanes != 0) words.push_back(absl::StrCat("lanes=", options.lanes));
  if (options.granule_bytes != 0) words.push_back("granule=" + SizeText(options.granule_bytes));
  if (options.consumer_clears) words.emplace_back("clears");
  if (options.stamped) words.emplace_back("stamped");
  if (options.on_stall != StallPolicy::kWait)
    words.push_back("on-stall=" + ToString(options.on_stall));
  if (options.stall.count() != 0) words.push_back("stall=" + TimeText(options.stall));
  return words;
}

}  // namespace

absl::StatusOr<RegionSpec> ParseRegion(const std::string& text) {
  const size_t kind_end = text.find(':');
  if (kind_end == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not KIND:SIZE or KIND:SIZE:OPTIONS"));
  }
  IOB_ASSIGN_OR_RETURN(const Discipline discipline, ParseKind(text.substr(0, kind_end)));
  const std::string rest = text.substr(kind_end + 1);
  const size_t size_end = std::min(rest.find_first_of(":,"), rest.size());
  IOB_ASSIGN_OR_RETURN(const uint64_t size_bytes, ParseBytes(rest.substr(0, size_end)));
  RegionSpec spec = DefaultsOf(discipline, size_bytes);
  if (size_end == rest.size()) return spec;
  for (const absl::string_view option : absl::StrSplit(rest.substr(size_end + 1), ',')) {
    IOB_RETURN_IF_ERROR(ApplyOption(std::string(option), &spec));
  }
  return spec;
}

absl::StatusOr<EndpointId> ParseEndpoint(const std::string& text) {
  if (text == "ep0") return EndpointId::kEp0;
  if (text == "ep1") return EndpointId::kEp1;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ep0 or ep1"));
}

absl::StatusOr<EndpointAndUid> ParseEndpointAndUid(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  EndpointAndUid result;
  IOB_ASSIGN_OR_RETURN(result.endpoint, ParseEndpoint(parts.front()));
  if (parts.size() == 2) {
    // The last one, (uid_t)-1, means "nobody given" to the kernel.
    IOB_ASSIGN_OR_RETURN(const uint64_t uid,
                         ParseNumber(parts.back(), std::numeric_limits<uint32_t>::max() - 1));
    result.uid = static_cast<uint32_t>(uid);
  }
  return result;
}

std::string FormatRights(RegionRights rights) {
  std::string text;
  for (const auto& [letter, bit] : kRightLetters) {
    if ((rights.bits() & bit) != 0) text += letter;
  }
  return text.empty() ? "-" : text;
}

std::string FormatOptions(const RegionInfo& region) {
  if (region.mediated_ring) return absl::StrJoin(WordsOf(*region.mediated_ring), ",");
  if (region.reserve_ring) return absl::StrJoin(WordsOf(*region.reserve_ring), ",");
  return "";
}

}  // namespace iob::ctl
