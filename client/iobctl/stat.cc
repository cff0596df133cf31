// iobctl stat: one buffer with its ledgers, or one shared region.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/stat_follow.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct StatFlags {
  std::string name;
  std::string endpoint;
  bool follow = false;
  std::string interval_text = "1s";
};

// For those who are not its owner, but may open it: what their endpoint is told.
absl::StatusOr<BufferInfo> SeenByEndpoint(Broker* broker, const StatFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened,
                       OpenUsable(
                           broker, flags.name, flags.endpoint,
                           [](const NamedHandle&) { return true; }, "be opened"));
  BufferInfo buffer = opened.buffer();
  for (RegionInfo& region : buffer.regions)
    region.access = region.access.SeenFrom(opened.endpoint());
  // The handle that this took is not to be seen: it is gone before anybody reads this.
  for (EndpointInfo& endpoint : buffer.endpoints) {
    if (endpoint.endpoint == opened.endpoint() && endpoint.handles != 0) --endpoint.handles;
  }
  return buffer;
}

// The regions' objects; those of others stay out.
absl::StatusOr<std::vector<SharedRegionInfo>> SharedRegionsOf(Broker* broker,
                                                              const BufferInfo& buffer) {
  std::vector<SharedRegionInfo> found;
  for (const RegionInfo& region : buffer.regions) {
    const bool known =
        std::any_of(found.begin(), found.end(),
                    [&region](const SharedRegionInfo& other) { return other.koid == region.koid; });
    if (region.type != RegionType::kShared || known) continue;
    absl::StatusOr<SharedRegionInfo> object = broker->GetSharedRegion(region.koid);
    if (absl::IsNotFound(object.status())) continue;
    IOB_RETURN_IF_ERROR(object.status());
    found.push_back(*std::move(object));
  }
  return found;
}

// As its owner, or through an endpoint when that was asked for or is the only way.
absl::StatusOr<BufferInfo> LookAt(Broker* broker, const StatFlags& flags) {
  if (!flags.endpoint.empty()) return SeenByEndpoint(broker, flags);
  const BufferKey key = KeyOf(flags.name);
  absl::StatusOr<BufferInfo> own = broker->GetBuffer(key);
  const bool by_name = std::holds_alternative<std::string>(key);
  if (own.ok()) return own;
  return absl::IsNotFound(own.status()) && by_name ? SeenByEndpoint(broker, flags)
                                                   : OfBuffer(flags.name, own.status());
}

absl::StatusOr<BufferReport> MakeReport(Broker* broker, const StatFlags& flags) {
  BufferReport report;
  IOB_ASSIGN_OR_RETURN(report.buffer, LookAt(broker, flags));
  absl::StatusOr<BufferStats> stats = broker->GetStats(report.buffer.koid);
  if (stats.ok()) {
    report.stats = *std::move(stats);
  } else if (!absl::IsNotFound(stats.status())) {
    return stats.status();
  }
  IOB_ASSIGN_OR_RETURN(report.shared_regions, SharedRegionsOf(broker, report.buffer));
  return report;
}

void Print(const Globals& globals, const BufferReport& report) {
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    AddReport(report, &json);
    json.EndObject();
    PrintLine(json.text());
  } else {
    std::string text = DescribeReport(report);
    text.pop_back();
    PrintLine(text);
  }
}

void Print(const Globals& globals, const SharedRegionInfo& region) {
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    AddSharedRegion(region, &json);
    json.EndObject();
    PrintLine(json.text());
  } else {
    std::string text = DescribeSharedRegion(region);
    text.pop_back();
    PrintLine(text);
  }
}

absl::StatusOr<int> Stat(const Globals& globals, const StatFlags& flags) {
  if (flags.follow) {
    if (!flags.endpoint.empty()) {
      return UsageError("--ep", absl::InvalidArgumentError(
                                    "an endpoint is not told the ledgers that --follow shows"));
    }
    const absl::StatusOr<std::chrono::milliseconds> interval = ParseInterval(flags.interval_text);
    if (!interval.ok()) return UsageError("--interval", interval.status());
    return FollowStats(globals, flags.name, *interval);
  }
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  const absl::StatusOr<BufferReport> report = MakeReport(&broker, flags);
  const BufferKey key = KeyOf(flags.name);
  if (absl::IsNotFound(report.status()) && std::holds_alternative<uint64_t>(key)) {
    // No buffer has that id, so it may be a shared region's.
    const absl::StatusOr<SharedRegionInfo> region = broker.GetSharedRegion(std::get<uint64_t>(key));
    if (region.ok()) {
      Print(globals, *region);
      return kExitOk;
    }
  }
  IOB_RETURN_IF_ERROR(report.status());
  Print(globals, *report);
  return kExitOk;
}

}  // namespace

void AddStat(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "stat", "Show one buffer: regions, endpoints, ids, and what became of records");
  auto flags = std::make_shared<StatFlags>();
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID, also of a shared region")
      ->required();
  CLI::Option* const follow =
      command->add_flag("-f,--follow", flags->follow,
                        "What becomes of records, per second, again and again until the buffer is "
                        "gone: a table on a\n"
                        "terminal, else a line per ring, an object with --json");
  command->add_option("--interval", flags->interval_text, "Of --follow: from 10ms to 1h")
      ->type_name("TIME")
      ->capture_default_str()
      ->needs(follow);
  AddEndpointOption(command,
                    "Look through this endpoint; default: as its owner, else through one that you\n"
                    "may open",
                    &flags->endpoint);
  command->footer(
      "Example:\n"
      "  iobctl stat logs\n"
      "  iobctl stat logs --json | jq .rings\n"
      "  iobctl stat logs --follow --interval 200ms\n"
      "  iobctl stat logs --follow --json | jq -c '.rings[].per_second'");
  command->callback([=] { *selected = [=] { return Stat(*globals, *flags); }; });
}

}  // namespace iob::ctl
