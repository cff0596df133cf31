// iobctl health: whether the daemon serves, and what it can do here.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/limits_report.h"
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
  if (limits != nullptr) AddLimits(*limits, &json);
  json.EndObject();
  return json.text();
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
    if (verbose) {
      std::string text = absl::StrCat("\n", DescribeLimits(limits), "\n", DescribeFeatures(limits));
      text.pop_back();
      PrintLine(text);
    }
  }
  return health.serving ? kExitOk : kExitFailed;
}

}  // namespace

void AddHealth(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "health", "Ask the daemon whether it serves (exit code 0), as a container's probe would");
  auto verbose = std::make_shared<bool>(false);
  command->add_flag("-v,--verbose", *verbose,
                    "Also limits, and what this kernel enforces; doctor judges them");
  command->footer("Example:\n  iobctl health --timeout 1s\n  iobctl health --verbose");
  command->callback([=] { *selected = [=] { return CheckHealth(*globals, *verbose); }; });
}

}  // namespace iob::ctl
