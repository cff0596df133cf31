#include "client/iobctl/region_memory.h"

#include <charconv>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {

void AddRegionOptions(CLI::App* command, RegionFlags* flags) {
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  command->add_option("REGION", flags->region, "Which region: its index")->required();
  AddEndpointOption(command, "Which endpoint to be; default: the first that has the right",
                    &flags->endpoint);
}

absl::StatusOr<OpenedRegion> OpenRegion(const Globals& globals, const RegionFlags& flags,
                                        bool to_write) {
  const absl::StatusOr<uint64_t> number =
      ParseNumber(flags.region, std::numeric_limits<uint32_t>::max());
  if (!number.ok()) return UsageError("REGION", number.status());
  const auto index = static_cast<uint32_t>(*number);
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  const Usable usable = [&](const NamedHandle& opened) {
    // What cannot be right for any endpoint is told below.
    if (index >= opened.buffer().regions.size()) return true;
    const RegionRights rights = opened.RightsTo(opened.buffer().regions[index]);
    return rights.map_read() && (rights.map_write() || !to_write);
  };
  const std::string what = absl::StrCat("map region ", index, to_write ? " for writing" : "",
                                        to_write ? " (needs rw)" : " (needs r)");
  IOB_ASSIGN_OR_RETURN(NamedHandle opened,
                       OpenUsable(&broker, flags.name, flags.endpoint, usable, what));
  const BufferInfo buffer = opened.buffer();
  if (index >= buffer.regions.size()) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("no region ", index, "; ", DisplayName(buffer),
                                           " has regions 0 to ", buffer.regions.size() - 1)),
        "OUT_OF_RANGE");
  }
  IOB_ASSIGN_OR_RETURN(Endpoint endpoint, std::move(opened).Attach(timeout));
  return OpenedRegion{.endpoint = std::move(endpoint),
                      .buffer = buffer,
                      .index = index,
                      .size_bytes = buffer.regions[index].size_bytes,
                      .what = absl::StrCat("region ", index, " of ", DisplayName(buffer))};
}

absl::StatusOr<uint64_t> ParseHexOrNumber(const std::string& text, uint64_t max) {
  if (text.size() < 3 || text[0] != '0' || (text[1] != 'x' && text[1] != 'X')) {
    return ParseNumber(text, max);
  }
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data() + 2, end, value, 16);
  if (error != std::errc() || stopped != end || value > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a number from 0 to ", max, ", in hexadecimal digits"));
  }
  return value;
}

}  // namespace iob::ctl
