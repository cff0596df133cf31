// iobctl autopsy: what is left of endpoints that crashed.
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/snapshot_report.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct AutopsyFlags {
  std::string name;
  std::string id;
  std::string out;
  std::string records = "10";
};

absl::StatusOr<int> List(const Globals& globals, Broker* broker) {
  IOB_ASSIGN_OR_RETURN(const std::vector<AutopsyInfo> autopsies, broker->ListAutopsies());
  if (!globals.json) {
    PrintLine(DescribeAutopsies(autopsies));
    return kExitOk;
  }
  JsonWriter json;
  json.BeginArray();
  for (const AutopsyInfo& autopsy : autopsies) AddAutopsy(autopsy, &json);
  json.EndArray();
  PrintLine(json.text());
  return kExitOk;
}

// The newest one of the buffer, unless another was asked for.
absl::StatusOr<uint64_t> FindId(Broker* broker, const AutopsyFlags& flags) {
  if (!flags.id.empty()) {
    const auto id = ParseNumber(flags.id, std::numeric_limits<uint64_t>::max());
    return id.ok() ? id : UsageError("--id", id.status());
  }
  IOB_ASSIGN_OR_RETURN(const std::vector<AutopsyInfo> autopsies, broker->ListAutopsies(flags.name));
  if (!autopsies.empty()) return autopsies.front().id;
  return WithReason(
      absl::NotFoundError(absl::StrCat("no crash of '", flags.name,
                                       "' is remembered; buffers made with --snapshot-on-crash "
                                       "are")),
      "NOT_FOUND");
}

absl::StatusOr<int> Show(const Globals& globals, const AutopsyFlags& flags) {
  const auto records_max = ParseNumber(flags.records, 1'000'000);
  if (!records_max.ok()) return UsageError("--records", records_max.status());
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  if (flags.name.empty() && flags.id.empty()) return List(globals, &broker);
  IOB_ASSIGN_OR_RETURN(const uint64_t id, FindId(&broker, flags));
  IOB_ASSIGN_OR_RETURN(const Autopsy autopsy, broker.GetAutopsy(id));
  if (!flags.out.empty()) IOB_RETURN_IF_ERROR(WriteToFile(flags.out, autopsy.state.bytes()));
  if (flags.out == "-") return kExitOk;
  if (globals.json) {
    JsonWriter json;
    AddAutopsy(autopsy, *records_max, &json);
    PrintLine(json.text());
  } else {
    PrintLine(DescribeAutopsy(autopsy, *records_max));
  }
  return kExitOk;
}

}  // namespace

void AddAutopsyCommand(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "autopsy", "Show how endpoints crashed, and the last records of their rings");
  auto flags = std::make_shared<AutopsyFlags>();
  command->add_option("NAME", flags->name,
                      "The buffer, which may be gone: its latest crash; none: list all crashes");
  command->add_option("--id", flags->id, "This crash, whatever its buffer")->type_name("ID");
  command->add_option("--records", flags->records, "So many of each ring, the newest ones")
      ->type_name("N")
      ->capture_default_str();
  command->add_option("-o,--out", flags->out, "Write the memory there, too; '-' for stdout alone")
      ->type_name("FILE");
  command->footer(
      "Of buffers made with 'iobctl create --snapshot-on-crash', or the option of that name in\n"
      "the library.\n"
      "Example:\n  iobctl autopsy logs --records 100");
  command->callback([=] { *selected = [=] { return Show(*globals, *flags); }; });
}

}  // namespace iob::ctl
