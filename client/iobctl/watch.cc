// iobctl watch: what happens, as it happens.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iobctl/command.h"
#include "client/iobctl/event_report.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/output.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/text.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::chrono::milliseconds kLookEvery{200};

struct WatchFlags {
  std::string name;
  std::string endpoint;
  std::string resume_token;
  uint64_t count = 0;  // 0: no limit.
};

// Until somebody stops it, nobody reads, or the watch is over.
absl::Status PrintEvents(const Globals& globals, uint64_t count, const std::string& name,
                         EventWatch* watch) {
  for (uint64_t printed = 0; !StopRequested() && (count == 0 || printed < count);) {
    IOB_ASSIGN_OR_RETURN(std::optional<WatchedEvent> event, watch->Next(After(kLookEvery)));
    if (!event) continue;
    // The beginning is no event of a buffer, so the daemon leaves the name to whoever asked.
    if (event->kind == WatchedEvent::Kind::kStarted && event->buffer_name.empty())
      event->buffer_name = name;
    std::string line;
    if (globals.json) {
      JsonWriter json;
      json.BeginObject();
      AddEvent(*event, &json);
      json.EndObject();
      line = json.text();
    } else {
      line = DescribeEvent(*event);
    }
    IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(line + '\n'));
    if (!written) return absl::OkStatus();
    ++printed;
  }
  return absl::OkStatus();
}

void ReportEnd(const Globals& globals, const std::string& resume_token) {
  std::string line = absl::StrCat("to go on from here: --resume ", Escape(resume_token));
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("resume_token", resume_token);
    json.EndObject();
    line = json.text();
  }
  std::fprintf(stderr, "%s\n", line.c_str());
}

absl::StatusOr<std::optional<NamedHandle>> OpenObject(Broker* broker, const WatchFlags& flags) {
  if (flags.name.empty()) return std::optional<NamedHandle>();
  if (!flags.endpoint.empty()) {
    const absl::StatusOr<EndpointId> endpoint = ParseEndpoint(flags.endpoint);
    if (!endpoint.ok()) return UsageError("EP", endpoint.status());
  }
  IOB_ASSIGN_OR_RETURN(NamedHandle opened,
                       OpenUsable(
                           broker, flags.name, flags.endpoint,
                           [](const NamedHandle&) { return true; }, "be opened"));
  return std::optional<NamedHandle>(std::move(opened));
}

absl::StatusOr<int> Watch(const Globals& globals, const WatchFlags& flags) {
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const std::optional<NamedHandle> opened, OpenObject(&broker, flags));
  IOB_ASSIGN_OR_RETURN(EventWatch watch,
                       broker.Watch(opened ? std::optional<Handle>(opened->handle()) : std::nullopt,
                                    flags.resume_token));
  const absl::Status end =
      PrintEvents(globals, flags.count, opened ? opened->buffer().name : "", &watch);
  ReportEnd(globals, watch.resume_token());
  // Its object is gone: the last event said so, and there is nothing left to watch.
  if (opened && absl::IsNotFound(end)) return kExitOk;
  IOB_RETURN_IF_ERROR(end);
  return kExitOk;
}

}  // namespace

void AddWatch(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "watch", "Print what happens, a line per event: to all your buffers, or to one");
  auto flags = std::make_shared<WatchFlags>();
  command->add_option("NAME", flags->name,
                      "Only this buffer (or #KOID), and its endpoint's signals; until it is gone");
  command->add_option("EP", flags->endpoint, "Whose signals; default: the first you may open");
  command
      ->add_option("--resume", flags->resume_token,
                   "Go on where an earlier watch of the same kind ended; its last line says how")
      ->type_name("TOKEN");
  command->add_option("-n,--count", flags->count, "Stop after N events")->type_name("N");
  command->footer(
      "Example:\n"
      "  iobctl watch\n"
      "  iobctl watch logs ep0 --count 2\n"
      "  iobctl watch --json | jq -c 'select(.event == \"endpoint-closed\")'\n"
      "The first event is 'started'. 'resync-required' stands where events are missing: the watch\n"
      "was too slow, resumed too late, or the daemon restarted. With NAME it holds that endpoint\n"
      "open, as every handle does.");
  command->callback([=] { *selected = [=] { return Watch(*globals, *flags); }; });
}

}  // namespace iob::ctl
