// iobctl doctor: what this installation can do, what is wrong with it, and how to mend that.
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/diagnosis.h"
#include "client/iobctl/json.h"
#include "client/iobctl/limits_report.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// A socket belongs to who bound it.
std::optional<uint32_t> OwnerOf(const std::string& socket_path) {
  struct stat status = {};
  if (::stat(socket_path.c_str(), &status) != 0) return std::nullopt;
  return status.st_uid;
}

std::string ReportJson(const std::string& socket_path, const Facts& facts,
                       const std::vector<Warning>& warnings) {
  JsonWriter json;
  json.BeginObject();
  json.Member("serving", facts.health.serving);
  json.Member("socket_path", socket_path);
  json.Member("round_trip_ns", int64_t{facts.health.round_trip.count()});
  if (facts.daemon_uid) json.Member("daemon_uid", uint64_t{*facts.daemon_uid});
  json.Member("own_uid", uint64_t{facts.own_uid});
  AddLimits(facts.limits, &json);
  json.BeginArray("warnings");
  for (const Warning& warning : warnings) {
    json.BeginObject();
    json.Member("about", warning.about);
    json.Member("what", warning.what);
    json.Member("mend", warning.mend);
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  return json.text();
}

std::string ReportText(const std::string& socket_path, const Facts& facts,
                       const std::vector<Warning>& warnings) {
  std::string text = absl::StrCat(
      facts.health.serving ? "serving" : "not serving", "  ", Escape(socket_path), "  ",
      FormatDuration(facts.health.round_trip), "\niobd's uid ",
      facts.daemon_uid ? absl::StrCat(*facts.daemon_uid) : "unknown", ", yours ", facts.own_uid,
      "\n\n", DescribeLimits(facts.limits), "\n", DescribeFeatures(facts.limits), "\n");
  for (const Warning& warning : warnings) {
    absl::StrAppend(&text, "WARNING  ", warning.what, "\n  mend:  ", warning.mend, "\n");
  }
  absl::StrAppend(&text, warnings.empty()       ? "nothing is wrong"
                         : warnings.size() == 1 ? "1 warning"
                                                : absl::StrCat(warnings.size(), " warnings"));
  return text;
}

absl::StatusOr<int> Examine(const Globals& globals) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  Facts facts;
  IOB_ASSIGN_OR_RETURN(facts.health, broker.CheckHealth());
  IOB_ASSIGN_OR_RETURN(facts.limits, broker.GetLimits());
  facts.daemon_uid = OwnerOf(broker.socket_path());
  facts.own_uid = ::geteuid();
  const std::vector<Warning> warnings = Diagnose(facts);
  PrintLine(globals.json ? ReportJson(broker.socket_path(), facts, warnings)
                         : ReportText(broker.socket_path(), facts, warnings));
  return warnings.empty() ? kExitOk : kExitFailed;
}

}  // namespace

void AddDoctor(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "doctor", "Show all limits and what this kernel does, and warn of what should be mended");
  command->footer(
      "Example:\n"
      "  iobctl doctor\n"
      "  iobctl doctor --json | jq -r '.warnings[].mend'\n"
      "Exit code 0 when nothing is wrong, 1 with warnings.");
  command->callback([=] { *selected = [=] { return Examine(*globals); }; });
}

}  // namespace iob::ctl
