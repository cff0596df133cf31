// iobctl signal: raises and clears user signals of an endpoint.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/signal_words.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct SignalFlags {
  std::string name;
  std::string endpoint;
  std::vector<std::string> set;
  std::vector<std::string> clear;
  bool peer = false;
};

struct Change {
  uint32_t set = 0;
  uint32_t clear = 0;
};

absl::StatusOr<Change> ToChange(const SignalFlags& flags) {
  const absl::StatusOr<uint32_t> set = ParseUserSignals(flags.set);
  if (!set.ok()) return UsageError("--set", set.status());
  const absl::StatusOr<uint32_t> clear = ParseUserSignals(flags.clear);
  if (!clear.ok()) return UsageError("--clear", clear.status());
  if ((*set | *clear) == 0) {
    return UsageError("signal", absl::InvalidArgumentError("needs --set N or --clear N"));
  }
  return Change{.set = *set, .clear = *clear};
}

void Report(const Globals& globals, const BufferInfo& buffer, EndpointId target,
            const Change& change) {
  uint32_t signals = 0;
  for (const EndpointInfo& endpoint : buffer.endpoints) {
    if (endpoint.endpoint == target) signals = endpoint.signals;
  }
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("buffer_koid", buffer.koid);
    json.Member("name", buffer.name);
    json.Member("endpoint", ToString(target));
    AddSignals("cleared", change.clear, &json);
    AddSignals("set", change.set, &json);
    AddSignals("signals", signals, &json);
    json.EndObject();
    PrintLine(json.text());
  } else {
    PrintLine(absl::StrCat(ToString(target), " of ", DisplayName(buffer), " has ",
                           SignalsToString(signals)));
  }
}

absl::StatusOr<int> Signal(const Globals& globals, const SignalFlags& flags) {
  const absl::StatusOr<EndpointId> endpoint = ParseEndpoint(flags.endpoint);
  if (!endpoint.ok()) return UsageError("EP", endpoint.status());
  IOB_ASSIGN_OR_RETURN(const Change change, ToChange(flags));
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened, NamedHandle::Open(&broker, flags.name, *endpoint));
  IOB_RETURN_IF_ERROR(flags.peer ? broker.SignalPeer(opened.handle(), change.clear, change.set)
                                 : broker.Signal(opened.handle(), change.clear, change.set));
  IOB_ASSIGN_OR_RETURN(const BufferView after, broker.GetBuffer(opened.handle()));
  Report(globals, after.info, flags.peer ? shm::PeerOf(*endpoint) : *endpoint, change);
  return kExitOk;
}

}  // namespace

void AddSignal(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command =
      app->add_subcommand("signal", "Raise and clear user signals of an endpoint, or of its peer");
  auto flags = std::make_shared<SignalFlags>();
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  command->add_option("EP", flags->endpoint, "The endpoint to act as, ep0 or ep1")->required();
  const auto add_signals = [command](const char* option, std::vector<std::string>* words,
                                     const char* help) {
    command->add_option(option, *words, help)->type_name("N[,N]")->allow_extra_args(false);
  };
  add_signals("--set", &flags->set, "Raise user signals 0 to 7; may be repeated");
  add_signals("--clear", &flags->clear, "Clear them, before others are raised; may be repeated");
  command->add_flag("--peer", flags->peer, "The other endpoint's signals instead of its own");
  command->footer(
      "Example:\n"
      "  iobctl signal logs ep0 --set 0 --clear 1,2\n"
      "  iobctl signal logs ep1 --peer --set 7      # seen by ep0: iobctl wait logs ep0 --for 7\n"
      "The signals have no meaning of their own. peer-closed is raised by the broker alone.");
  command->callback([=] { *selected = [=] { return Signal(*globals, *flags); }; });
}

}  // namespace iob::ctl
