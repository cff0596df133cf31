// iobctl health: whether the daemon serves, and what it can do here.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

std::string HealthJson(const std::string& socket_path, const Health& health, const Limits* limits) {
  JsonWriter json;
  json.BeginObject();
  json.Member("serving", health.serving);
  json.Member("socket_path", socket_path);
  json.Member("round_trip_ns", int64_t{health.round_trip.count()});
  if (limits != nullptr) {
    json.BeginObject("limits");
    json.Member("regions_max", uint64_t{limits->regions_max});
    json.Member("region_bytes_max", limits->region_bytes_max);
    json.Member("record_bytes_max", uint64_t{limits->record_bytes_max});
    json.Member("record_parts_max", uint64_t{limits->record_parts_max});
    json.Member("buffers_max", limits->buffers_max);
    json.Member("memory_bytes_max", limits->memory_bytes_max);
    json.Member("memory_bytes_per_uid_max", limits->memory_bytes_per_uid_max);
    json.Member("page_bytes", uint64_t{limits->page_bytes});
    json.Member("ticket_lifetime_ms", int64_t{limits->ticket_lifetime.count()});
    json.EndObject();
    json.BeginArray("kernel_features");
    for (const KernelFeature& feature : limits->kernel_features) {
      json.BeginObject();
      json.Member("name", feature.name);
      json.Member("available", feature.available);
      json.Member("effect", feature.effect);
      json.EndObject();
    }
    json.EndArray();
  }
  json.EndObject();
  return json.text();
}

std::string DescribeLimits(const Limits& limits) {
  Table table({"LIMIT", ""});
  table.AddRow({"regions per buffer", FormatCount(limits.regions_max)});
  table.AddRow({"region", FormatBytes(limits.region_bytes_max)});
  table.AddRow({"record", absl::StrCat(FormatCount(limits.record_bytes_max), " B")});
  table.AddRow({"buffers", FormatCount(limits.buffers_max)});
  table.AddRow({"memory", FormatBytes(limits.memory_bytes_max)});
  table.AddRow({"memory per uid", FormatBytes(limits.memory_bytes_per_uid_max)});
  table.AddRow({"ticket lifetime", FormatDuration(limits.ticket_lifetime)});
  Table features({"KERNEL FEATURE", "HERE", "WHAT FOR"});
  for (const KernelFeature& feature : limits.kernel_features) {
    features.AddRow(
        {Escape(feature.name), feature.available ? "yes" : "no", Escape(feature.effect)});
  }
  std::string text = absl::StrCat("\n", table.Render(), "\n", features.Render());
  text.pop_back();
  return text;
}

absl::StatusOr<int> CheckHealth(const Globals& globals, bool verbose) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const Health health, broker.CheckHealth());
  Limits limits;
  if (verbose) {
    IOB_ASSIGN_OR_RETURN(limits, broker.GetLimits());
  }
  if (globals.json) {
    PrintLine(HealthJson(broker.socket_path(), health, verbose ? &limits : nullptr));
  } else {
    PrintLine(absl::StrCat(health.serving ? "serving" : "not serving", "  ", broker.socket_path(),
                           "  ", FormatDuration(health.round_trip)));
    if (verbose) PrintLine(DescribeLimits(limits));
  }
  return health.serving ? kExitOk : kExitFailed;
}

}  // namespace

void AddHealth(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "health", "Ask the daemon whether it serves (exit code 0), as a container's probe would");
  auto verbose = std::make_shared<bool>(false);
  command->add_flag("-v,--verbose", *verbose, "Also limits, and what this kernel enforces");
  command->footer("Example:\n  iobctl health --timeout 1s\n  iobctl health --verbose");
  command->callback([=] { *selected = [=] { return CheckHealth(*globals, *verbose); }; });
}

}  // namespace iob::ctl
