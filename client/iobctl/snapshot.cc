// iobctl snapshot: an immutable copy of a buffer's memory, into a file.
#include "client/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/snapshot_report.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct SnapshotFlags {
  std::string name;
  std::string endpoint;
  std::string out;
  std::string region;
  bool consistent = false;
};

bool MayReadAny(const NamedHandle& opened) {
  for (const RegionInfo& region : opened.buffer().regions) {
    const RegionRights rights = opened.RightsTo(region);
    if (rights.map_read() || rights.mediated_read()) return true;
  }
  return false;
}

absl::StatusOr<int> TakeSnapshot(const Globals& globals, const SnapshotFlags& flags) {
  SnapshotOptions options{.require_consistent = flags.consistent};
  if (!flags.region.empty()) {
    const auto index = ParseNumber(flags.region, std::numeric_limits<uint32_t>::max());
    if (!index.ok()) return UsageError("--region", index.status());
    options.region_index = static_cast<uint32_t>(*index);
  }
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened,
                       OpenUsable(&broker, flags.name, flags.endpoint, MayReadAny, "read it"));
  IOB_ASSIGN_OR_RETURN(const Snapshot snapshot, broker.TakeSnapshot(opened.handle(), options));
  IOB_RETURN_IF_ERROR(WriteToFile(flags.out, snapshot.bytes()));
  // With the bytes on stdout there is no place for words.
  if (flags.out == "-") return kExitOk;
  if (globals.json) {
    JsonWriter json;
    AddSnapshot(snapshot.info(), &json);
    PrintLine(json.text());
  } else {
    PrintLine(DescribeSnapshot(snapshot.info()));
  }
  return kExitOk;
}

}  // namespace

void AddSnapshotCommand(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "snapshot", "Copy a buffer's memory to a file, while others go on using it");
  auto flags = std::make_shared<SnapshotFlags>();
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  command
      ->add_option("-o,--out", flags->out, "Where to: regions one behind the other; '-' for stdout")
      ->required()
      ->type_name("FILE");
  command->add_option("--region", flags->region, "Only this region; default: all that may be read")
      ->type_name("INDEX");
  command->add_flag("--consistent", flags->consistent,
                    "Fail where an endpoint may write what is copied");
  AddEndpointOption(command, "The endpoint to read as; default: one that may", &flags->endpoint);
  command->footer(
      "What only the daemon writes (rings, ids) is of one instant; the rest may be torn, and is\n"
      "marked so.\n"
      "Example:\n  iobctl snapshot logs --out logs.bin");
  command->callback([=] { *selected = [=] { return TakeSnapshot(*globals, *flags); }; });
}

}  // namespace iob::ctl
