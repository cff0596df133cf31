// iobctl stat: one buffer, with its ledgers.
#include <memory>
#include <string>

#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

absl::StatusOr<int> Stat(const Globals& globals, const std::string& name) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  const BufferKey key = KeyOf(name);
  IOB_ASSIGN_OR_RETURN(const BufferInfo buffer, broker.GetBuffer(key));
  IOB_ASSIGN_OR_RETURN(const BufferStats stats, broker.GetStats(key));
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    AddBuffer(buffer, &json);
    AddRings(stats, &json);
    json.EndObject();
    PrintLine(json.text());
  } else {
    std::string text = DescribeBuffer(buffer, stats);
    text.pop_back();
    PrintLine(text);
  }
  return kExitOk;
}

}  // namespace

void AddStat(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "stat", "Show one buffer: regions, endpoints, and what became of records");
  auto name = std::make_shared<std::string>();
  command->add_option("NAME", *name, "Name of the buffer, or #KOID")->required();
  command->footer("Example:\n  iobctl stat logs\n  iobctl stat logs --json | jq .rings");
  command->callback([=] { *selected = [=] { return Stat(*globals, *name); }; });
}

}  // namespace iob::ctl
