// iobctl who: which ranges of a buffer's regions are held, how, and by whom.
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/endpoint.h"
#include "client/error.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct WhoFlags {
  std::string name;
  std::string region;  // A number; empty: all that have ranges.
  std::string endpoint;
};

// A range, and who of the endpoints' holders it is: what the broker knows from the kernel.
struct Row {
  uint32_t region = 0;
  RangeHold hold;
  const Holder* holder = nullptr;
  EndpointId endpoint = EndpointId::kEp0;
};

// Ranges are of regions without a discipline.
bool HasRanges(const NamedHandle& opened, const RegionInfo& region) {
  return region.discipline == Discipline::kNone && opened.RightsTo(region).map_read();
}

// The holder's own pid is a claim; a holder of an endpoint that has it bears it out.
void FindHolder(const BufferInfo& buffer, Row* row) {
  if (row->hold.claimed_pid == 0) return;
  for (const EndpointInfo& endpoint : buffer.endpoints) {
    for (const Holder& holder : endpoint.holders) {
      if (holder.pid != row->hold.claimed_pid) continue;
      row->holder = &holder;
      row->endpoint = endpoint.endpoint;
      return;
    }
  }
}

std::string ModeOf(const RangeHold& hold) {
  return hold.mode == RangeMode::kExclusive ? "exclusive" : "shared";
}

std::string WhoOf(const Row& row) {
  if (row.hold.claimed_pid == 0) return "does not say";
  if (row.holder == nullptr) {
    return absl::StrCat("says it is pid ", row.hold.claimed_pid,
                        ", which holds no endpoint that the daemon knows of");
  }
  return absl::StrCat(DisplayHolder(*row.holder), ", at ", ToString(row.endpoint));
}

void PrintJson(const std::vector<Row>& rows) {
  JsonWriter json;
  json.BeginArray();
  for (const Row& row : rows) {
    json.BeginObject();
    json.Member("region_index", uint64_t{row.region});
    json.Member("offset", row.hold.range.offset_bytes);
    json.Member("length", row.hold.range.length_bytes);
    json.Member("mode", ModeOf(row.hold));
    if (row.hold.claimed_pid != 0) {
      json.Member("claimed_pid", static_cast<int64_t>(row.hold.claimed_pid));
    }
    if (row.holder != nullptr) {
      json.BeginObject("holder");
      json.Member("endpoint", ToString(row.endpoint));
      json.Member("uid", uint64_t{row.holder->uid});
      json.Member("gid", uint64_t{row.holder->gid});
      json.Member("pid", static_cast<int64_t>(row.holder->pid));
      json.EndObject();
    }
    json.EndObject();
  }
  json.EndArray();
  PrintLine(json.text());
}

void PrintTable(const BufferInfo& buffer, const std::vector<Row>& rows) {
  if (rows.empty()) {
    PrintLine(absl::StrCat("nobody holds a range of ", DisplayName(buffer)));
    return;
  }
  Table table({"REGION", "OFFSET", "BYTES", "MODE", "WHO"});
  for (const Row& row : rows) {
    table.AddRow({absl::StrCat(row.region), absl::StrCat(row.hold.range.offset_bytes),
                  absl::StrCat(row.hold.range.length_bytes), ModeOf(row.hold), WhoOf(row)});
  }
  std::string text = table.Render();
  text.pop_back();
  PrintLine(text);
}

absl::Status CheckRegion(const BufferInfo& buffer, uint64_t index) {
  if (index >= buffer.regions.size()) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("no region ", index, "; ", DisplayName(buffer),
                                           " has regions 0 to ", buffer.regions.size() - 1)),
        "OUT_OF_RANGE");
  }
  const Discipline discipline = buffer.regions[index].discipline;
  if (discipline == Discipline::kNone) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "region ", index, " of ", DisplayName(buffer), " is of discipline ",
                        ToString(discipline), ", which has no ranges")),
                    "WRONG_DISCIPLINE");
}

absl::StatusOr<int> Who(const Globals& globals, const WhoFlags& flags) {
  absl::StatusOr<uint64_t> only = uint64_t{0};
  const bool all = flags.region.empty();
  if (!all) only = ParseNumber(flags.region, std::numeric_limits<uint32_t>::max());
  if (!only.ok()) return UsageError("REGION", only.status());
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  const Usable usable = [&](const NamedHandle& opened) {
    const std::vector<RegionInfo>& regions = opened.buffer().regions;
    // What cannot be right for any endpoint is told below.
    if (!all) return !CheckRegion(opened.buffer(), *only).ok() || HasRanges(opened, regions[*only]);
    for (const RegionInfo& region : regions) {
      if (HasRanges(opened, region)) return true;
    }
    return false;
  };
  IOB_ASSIGN_OR_RETURN(NamedHandle opened,
                       OpenUsable(&broker, flags.name, flags.endpoint, usable,
                                  all ? "map a region of discipline none (needs r)"
                                      : absl::StrCat("map region ", *only, " (needs r)")));
  const BufferInfo buffer = opened.buffer();
  if (!all) IOB_RETURN_IF_ERROR(CheckRegion(buffer, *only));
  std::vector<uint32_t> indices;
  for (const RegionInfo& region : buffer.regions) {
    if (HasRanges(opened, region) && (all || region.index == *only)) {
      indices.push_back(region.index);
    }
  }
  IOB_ASSIGN_OR_RETURN(const Endpoint endpoint, std::move(opened).Attach(timeout));
  std::vector<Row> rows;
  for (const uint32_t index : indices) {
    IOB_ASSIGN_OR_RETURN(const std::vector<RangeHold> holds, endpoint.RangeHolds(index));
    for (const RangeHold& hold : holds) {
      Row row{.region = index, .hold = hold, .holder = nullptr, .endpoint = EndpointId::kEp0};
      FindHolder(buffer, &row);
      rows.push_back(row);
    }
  }
  if (globals.json) {
    PrintJson(rows);
  } else {
    PrintTable(buffer, rows);
  }
  return kExitOk;
}

}  // namespace

void AddWho(CLI::App* app, const Globals* globals, Command* selected) {
  auto flags = std::make_shared<WhoFlags>();
  CLI::App* const command =
      app->add_subcommand("who", "Show who holds which ranges of a buffer's memory");
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  command->add_option("REGION", flags->region, "Only this one: its index");
  AddEndpointOption(command, "Which endpoint to look as; default: the first that may map a region",
                    &flags->endpoint);
  command->footer(
      "Ranges are taken with Endpoint::Acquire, in regions of discipline none. Which bytes are "
      "held\n"
      "and how is what the kernel enforces among all who ask it. Who it is, a holder says itself,\n"
      "by its pid; it is shown with uid and endpoint when the daemon knows a holder with that "
      "pid.\n"
      "Needs map-read; a region that this endpoint may not map is left out.\n"
      "Example:\n"
      "  iobctl who state\n"
      "  iobctl who state 0 --json");
  command->callback([=] { *selected = [=] { return Who(*globals, *flags); }; });
}

}  // namespace iob::ctl
