#include "client/iobctl/region_spec.h"

#include <array>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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

absl::StatusOr<Enforcement> ParseEnforcement(const std::string& text) {
  for (const Enforcement level :
       {Enforcement::kAdvisory, Enforcement::kDac, Enforcement::kSealed, Enforcement::kMediated}) {
    if (text == ToString(level)) return level;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not one of advisory, dac, sealed, mediated"));
}

absl::StatusOr<RegionSpec> DefaultsOf(const std::string& kind) {
  if (kind == "ring") return MediatedRingSpec(0);
  if (kind == "id") return IdAllocatorSpec(0);
  if (kind == "none") {
    return RegionSpec{
        .discipline = Discipline::kNone,
        .access = AccessBits(RegionRights::kMapRead | RegionRights::kMapWrite |
                             RegionRights::kMapRead << 4),
    };
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", kind, "' is not a kind of region; use ring, id or none"));
}

absl::Status ApplyOption(const std::string& option, RegionSpec* spec) {
  const std::vector<std::string> sides = absl::StrSplit(option, absl::MaxSplits('=', 1));
  const std::string& key = sides.front();
  const std::string value = sides.size() == 2 ? sides.back() : "";
  if (key == "ep0") {
    IOB_ASSIGN_OR_RETURN(const uint32_t rights, ParseRights(value));
    spec->access = AccessBits((spec->access.bits() & 0xf0) | rights);
  } else if (key == "ep1") {
    IOB_ASSIGN_OR_RETURN(const uint32_t rights, ParseRights(value));
    spec->access = AccessBits((spec->access.bits() & 0x0f) | rights << 4);
  } else if (key == "tag") {
    IOB_ASSIGN_OR_RETURN(spec->tag, ParseNumber(value, std::numeric_limits<uint64_t>::max()));
  } else if (key == "require") {
    IOB_ASSIGN_OR_RETURN(spec->required_enforcement, ParseEnforcement(value));
  } else if (key == "intern") {
    if (spec->discipline != Discipline::kIdAllocator) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", option, "' is for regions of kind id only"));
    }
    IOB_ASSIGN_OR_RETURN(const uint64_t blobs_max,
                         ParseNumber(value, std::numeric_limits<uint32_t>::max()));
    spec->interned_blobs_max = static_cast<uint32_t>(blobs_max);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("'", option, "' is not one of ep0=, ep1=, tag=, require=, intern="));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RegionSpec> ParseRegion(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts.size() < 2 || parts.size() > 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not KIND:SIZE or KIND:SIZE:OPTIONS"));
  }
  IOB_ASSIGN_OR_RETURN(RegionSpec spec, DefaultsOf(parts[0]));
  IOB_ASSIGN_OR_RETURN(spec.size_bytes, ParseBytes(parts[1]));
  if (parts.size() == 3) {
    for (const absl::string_view option : absl::StrSplit(parts[2], ',')) {
      IOB_RETURN_IF_ERROR(ApplyOption(std::string(option), &spec));
    }
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

}  // namespace iob::ctl
