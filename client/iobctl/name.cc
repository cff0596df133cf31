// iobctl name: gives a buffer another name.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/text.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct NameFlags {
  std::string old_name;
  std::string new_name;
  std::string endpoint;
};

absl::StatusOr<int> Rename(const Globals& globals, const NameFlags& flags) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const Limits limits, broker.GetLimits());
  // The daemon would cut it, as Zircon does, and a name that nobody typed is one that nobody finds.
  if (flags.new_name.size() > limits.name_bytes_max) {
    return UsageError("NEW", absl::InvalidArgumentError(absl::StrCat(
                                 "'", flags.new_name, "' is ", flags.new_name.size(),
                                 " bytes long; at most ", limits.name_bytes_max, " are allowed")));
  }
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened,
                       OpenUsable(
                           &broker, flags.old_name, flags.endpoint,
                           [](const NamedHandle&) { return true; }, "be opened"));
  const BufferInfo& buffer = opened.buffer();
  IOB_RETURN_IF_ERROR(broker.SetName(opened.handle(), flags.new_name));
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("koid", buffer.koid);
    json.Member("old_name", buffer.name);
    json.Member("name", flags.new_name);
    json.EndObject();
    PrintLine(json.text());
  } else {
    PrintLine(absl::StrCat(
        "renamed ", Escape(buffer.name), " to ",
        flags.new_name.empty() ? absl::StrCat("#", buffer.koid) : Escape(flags.new_name)));
  }
  return kExitOk;
}

}  // namespace

void AddName(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command =
      app->add_subcommand("name", "Give a buffer another name; who uses it is not disturbed");
  auto flags = std::make_shared<NameFlags>();
  command->add_option("OLD", flags->old_name, "Name of the buffer, or #KOID")->required();
  command
      ->add_option("NEW", flags->new_name,
                   "At most 31 printable ASCII characters that no other buffer has; '' for no name")
      ->required();
  AddEndpointOption(command, "The endpoint to ask through; default: one that you may open",
                    &flags->endpoint);
  command->footer("Example:\n  iobctl name logs logs-old");
  command->callback([=] { *selected = [=] { return Rename(*globals, *flags); }; });
}

}  // namespace iob::ctl
