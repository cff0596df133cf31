// iobctl wait: until a signal is raised on an endpoint.
//
// It watches instead of attaching: whoever waits is no user of the buffer, and a signal that is
// raised and cleared again at once is seen all the same.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/signal_words.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::chrono::milliseconds kLookEvery{200};

struct WaitFlags {
  std::string name;
  std::string endpoint;
  std::vector<std::string> signals;
  std::optional<std::string> timeout_text;
};

struct Observed {
  uint32_t signals = 0;
  CloseReason peer_closed;  // How the other endpoint ended, if it did.
};

// What `event` says about `endpoint`.
void Apply(const WatchedEvent& event, EndpointId endpoint, Observed* observed) {
  using Kind = WatchedEvent::Kind;
  const bool own = event.endpoint == endpoint;
  if (event.kind == Kind::kStarted || event.kind == Kind::kResyncRequired ||
      (event.kind == Kind::kSignalsChanged && own)) {
    observed->signals = event.signals;
  }
  if (event.kind == Kind::kStarted) observed->peer_closed = event.reason;
  if (event.kind == Kind::kEndpointClosed && !own) {
    observed->signals |= kSignalPeerClosed;
    observed->peer_closed = event.reason;
  }
}

// Nothing: told to stop. Its deadline passing is DEADLINE_EXCEEDED.
absl::StatusOr<std::optional<Observed>> WaitFor(EventWatch* watch, EndpointId endpoint,
                                                uint32_t signals, Deadline deadline) {
  Observed observed;
  bool started = false;
  while (!StopRequested()) {
    IOB_ASSIGN_OR_RETURN(const std::optional<WatchedEvent> event,
                         watch->Next(std::min(deadline, After(kLookEvery))));
    if (event) {
      Apply(*event, endpoint, &observed);
      started = true;
      if ((observed.signals & signals) != 0) return std::optional<Observed>(observed);
    } else if (started && std::chrono::steady_clock::now() >= deadline) {
      const std::string what = SignalsToString(signals);
      const bool several = what.find(',') != std::string::npos;
      return WithReason(
          absl::DeadlineExceededError(absl::StrCat(
              several ? "none of " : "", what, several ? " was" : " was not", " raised on ",
              ToString(endpoint), " in time; it has ", SignalsToString(observed.signals))),
          kReasonTimedOut);
    }
  }
  return std::optional<Observed>();
}

void Report(const Globals& globals, const NamedHandle& opened, const Observed& observed) {
  const bool closed = (observed.signals & kSignalPeerClosed) != 0;
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("buffer_koid", opened.buffer().koid);
    json.Member("name", opened.buffer().name);
    json.Member("endpoint", ToString(opened.endpoint()));
    AddSignals("signals", observed.signals, &json);
    json.BeginObject("peer");
    AddCloseReason(observed.peer_closed, &json);
    json.EndObject();
    json.EndObject();
    PrintLine(json.text());
  } else {
    PrintLine(absl::StrCat(ToString(opened.endpoint()), " of ", DisplayName(opened.buffer()),
                           " has ", SignalsToString(observed.signals),
                           closed ? absl::StrCat("; ", ToString(shm::PeerOf(opened.endpoint())),
                                                 ": ", ToString(observed.peer_closed))
                                  : std::string()));
  }
}

absl::StatusOr<int> Wait(const Globals& globals, const WaitFlags& flags) {
  const absl::StatusOr<EndpointId> endpoint = ParseEndpoint(flags.endpoint);
  if (!endpoint.ok()) return UsageError("EP", endpoint.status());
  const absl::StatusOr<uint32_t> signals = ParseSignals(flags.signals);
  if (!signals.ok()) return UsageError("--for", signals.status());
  Deadline deadline = Deadline::max();
  if (flags.timeout_text) {
    const absl::StatusOr<std::chrono::milliseconds> timeout = ParseDuration(*flags.timeout_text);
    if (!timeout.ok()) return UsageError("--timeout", timeout.status());
    deadline = After(*timeout);
  }
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened, NamedHandle::Open(&broker, flags.name, *endpoint));
  IOB_ASSIGN_OR_RETURN(EventWatch watch, broker.Watch(opened.handle()));
  const absl::StatusOr<std::optional<Observed>> observed =
      WaitFor(&watch, *endpoint, *signals, deadline);
  if (absl::IsNotFound(observed.status())) {
    return WithReason(absl::NotFoundError(absl::StrCat("'", flags.name, "' was removed before ",
                                                       SignalsToString(*signals), " was raised")),
                      "NOT_FOUND");
  }
  IOB_RETURN_IF_ERROR(observed.status());
  if (!*observed) return kExitInterrupted;
  Report(globals, opened, **observed);
  return kExitOk;
}

}  // namespace

void AddWait(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command =
      app->add_subcommand("wait", "Wait until a signal is raised on an endpoint");
  auto flags = std::make_shared<WaitFlags>();
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  command->add_option("EP", flags->endpoint, "The endpoint, ep0 or ep1")->required();
  command
      ->add_option("--for", flags->signals,
                   "Any of these: peer-closed, user-0 to user-7 (or 0 to 7); may be repeated")
      ->type_name("SIGNALS")
      ->allow_extra_args(false)
      ->required();
  command
      ->add_option("--timeout", flags->timeout_text,
                   "How long to wait; default: for ever. (Before 'wait', it is for each request.)")
      ->type_name("TIME");
  command->footer(
      "Example:\n"
      "  iobctl wait logs ep0 --for 0,peer-closed --timeout 30s\n"
      "Prints all signals that are raised. Exit code 5 when the time runs out. While it waits, it\n"
      "holds the endpoint open, as every handle does.");
  command->callback([=] { *selected = [=] { return Wait(*globals, *flags); }; });
}

}  // namespace iob::ctl
