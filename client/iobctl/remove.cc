// iobctl rm: takes a buffer away.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/text.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

absl::StatusOr<int> Remove(const Globals& globals, const std::string& name, bool force) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_RETURN_IF_ERROR(OfBuffer(name, broker.DeleteBuffer(KeyOf(name), force)));
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("removed", name);
    json.EndObject();
    PrintLine(json.text());
  } else {
    PrintLine(absl::StrCat("removed ", Escape(name)));
  }
  return kExitOk;
}

}  // namespace

void AddRemove(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "rm", "Remove a buffer; memory that is mapped stays valid until it is unmapped");
  auto name = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  command->add_option("NAME", *name, "Name of the buffer, or #KOID")->required();
  command->add_flag("-f,--force", *force, "Also when it is attached");
  command->footer("Example:\n  iobctl rm logs --force");
  command->callback([=] { *selected = [=] { return Remove(*globals, *name, *force); }; });
}

}  // namespace iob::ctl
