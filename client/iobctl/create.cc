// iobctl create: makes a buffer, and keeps its endpoints open until somebody else does.
//
// Handles belong to the process that made them. So `create` either turns an endpoint's handle into
// a ticket, which lives on its own for a while, or gives both a lease, with which they do too, or
// stays in the foreground and holds them: until both endpoints were used by others, or until it is
// told to stop.
#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::chrono::milliseconds kLookEvery{100};
constexpr std::chrono::milliseconds kLookEveryHolding{500};

struct CreateFlags {
  std::string name;
  std::vector<std::string> rings;
  std::vector<std::string> regions;
  std::vector<std::string> tickets;
  std::vector<std::string> allow_uids;
  std::vector<std::string> allow_anyone;
  std::optional<std::string> lease_text;
  bool hold = false;
  bool snapshot_on_crash = false;
};

absl::StatusOr<std::chrono::milliseconds> ToLease(const CreateFlags& flags) {
  if (!flags.lease_text) return std::chrono::milliseconds(0);
  absl::StatusOr<std::chrono::milliseconds> lease = ParseDuration(*flags.lease_text);
  if (lease.ok() && *lease == std::chrono::milliseconds(0)) {
    lease = absl::InvalidArgumentError(
        absl::StrCat("'", *flags.lease_text, "' would end before anybody came"));
  }
  if (!lease.ok()) return UsageError("--lease", lease.status());
  return lease;
}

absl::StatusOr<CreateOptions> ToOptions(const CreateFlags& flags) {
  CreateOptions options;
  options.name = flags.name;
  for (const std::string& ring : flags.rings) {
    absl::StatusOr<RegionSpec> spec = ParseRegion("ring:" + ring);
    if (!spec.ok()) return UsageError("--ring", spec.status());
    options.regions.push_back(*spec);
  }
  for (const std::string& region : flags.regions) {
    absl::StatusOr<RegionSpec> spec = ParseRegion(region);
    if (!spec.ok()) return UsageError("--region", spec.status());
    options.regions.push_back(*spec);
  }
  if (options.regions.empty()) {
    return UsageError("create", absl::InvalidArgumentError("needs --ring SIZE or --region SPEC"));
  }
  IOB_ASSIGN_OR_RETURN(options.lease, ToLease(flags));
  options.snapshot_on_crash = flags.snapshot_on_crash;
  const auto rule = [&options](EndpointId endpoint) -> OpenRule& {
    return endpoint == EndpointId::kEp0 ? options.ep0_open : options.ep1_open;
  };
  for (const std::string& text : flags.allow_uids) {
    absl::StatusOr<EndpointAndUid> allowed = ParseEndpointAndUid(text);
    if (allowed.ok() && !allowed->uid) {
      allowed = absl::InvalidArgumentError(absl::StrCat("'", text, "' names no uid"));
    }
    if (!allowed.ok()) return UsageError("--allow-uid", allowed.status());
    rule(allowed->endpoint).uids.push_back(*allowed->uid);
  }
  for (const std::string& text : flags.allow_anyone) {
    absl::StatusOr<EndpointId> endpoint = ParseEndpoint(text);
    if (!endpoint.ok()) return UsageError("--allow-anyone", endpoint.status());
    rule(*endpoint).anyone = true;
  }
  return options;
}

absl::StatusOr<std::vector<EndpointAndUid>> ToTicketWishes(const CreateFlags& flags) {
  std::vector<EndpointAndUid> wishes;
  for (const std::string& text : flags.tickets) {
    absl::StatusOr<EndpointAndUid> wish = ParseEndpointAndUid(text);
    if (!wish.ok()) return UsageError("--ticket", wish.status());
    for (const EndpointAndUid& other : wishes) {
      if (other.endpoint == wish->endpoint) {
        return UsageError("--ticket", absl::InvalidArgumentError(absl::StrCat(
                                          ToString(wish->endpoint), " is asked for twice")));
      }
    }
    wishes.push_back(*wish);
  }
  return wishes;
}

// The handles that this process holds, and lets go of one by one.
class Holding {
 public:
  Holding(Broker* broker, uint64_t koid, CreatedBuffer* created)
      : broker_(broker), koid_(koid), handles_{created->ep0_handle, created->ep1_handle} {}

  bool empty() const { return !handles_[0] && !handles_[1]; }

  absl::StatusOr<Ticket> TakeTicket(const EndpointAndUid& wish) {
    const size_t index = wish.endpoint == EndpointId::kEp0 ? 0 : 1;
    return broker_->Attach(*std::exchange(handles_[index], std::nullopt), wish.uid);
  }

  enum class Use { kWaiting, kBothUsed, kGone };

  // Whether somebody else has used both endpoints by now: attached, or attached and left again,
  // which shows in the ledger.
  absl::StatusOr<Use> Look();

 private:
  Broker* broker_;
  uint64_t koid_;
  std::optional<Handle> handles_[2];
  bool used_[2] = {false, false};
};

absl::StatusOr<Holding::Use> Holding::Look() {
  const absl::StatusOr<BufferInfo> buffer = broker_->GetBuffer(koid_);
  if (absl::IsNotFound(buffer.status())) return Use::kGone;
  IOB_RETURN_IF_ERROR(buffer.status());
  const absl::StatusOr<BufferStats> stats = broker_->GetStats(koid_);
  if (absl::IsNotFound(stats.status())) return Use::kGone;
  IOB_RETURN_IF_ERROR(stats.status());
  for (size_t i = 0; i < 2 && i < buffer->endpoints.size(); ++i) {
    const EndpointInfo& endpoint = buffer->endpoints[i];
    // A ticket that was redeemed needs no hold of ours, nor does one that ran out.
    used_[i] |= endpoint.attachments != 0 || endpoint.closed.kind != CloseKind::kOpen;
  }
  for (const RingStats& ring : stats->rings) {
    for (const WriterShare& writer : ring.writers) {
      used_[writer.endpoint == EndpointId::kEp0 ? 0 : 1] |= writer.attempted_records != 0;
    }
    used_[0] |= ring.consumed_records != 0;
  }
  return used_[0] && used_[1] ? Use::kBothUsed : Use::kWaiting;
}

void ReportCreated(const Globals& globals, const BufferInfo& buffer,
                   const std::vector<Ticket>& tickets, std::chrono::milliseconds lease) {
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    AddBuffer(buffer, &json);
    json.Member("lease_ms", int64_t{lease.count()});
    json.BeginArray("tickets");
    for (const Ticket& ticket : tickets) AddTicket(ticket, &json);
    json.EndArray();
    json.EndObject();
    PrintLine(json.text());
    return;
  }
  PrintLine(absl::StrCat(
      "created ", DisplayName(buffer), " (koid ", buffer.koid, ", ", buffer.regions.size(),
      buffer.regions.size() == 1 ? " region, " : " regions, ", FormatBytes(buffer.memory_bytes),
      lease.count() == 0 ? std::string() : absl::StrCat(", stays for ", FormatDuration(lease)),
      ")"));
  for (const Ticket& ticket : tickets) {
    PrintLine(absl::StrCat("ticket ", ToString(ticket.endpoint()), " ", ticket.ToHex(), " ",
                           Escape(ticket.socket_path()), " (redeem within ",
                           FormatDuration(ticket.lifetime()), ")"));
  }
}

absl::Status HoldUntilUsed(const Globals& globals, bool hold, Holding* holding) {
  const auto tell = [&globals](const char* what) {
    if (!globals.json) std::fprintf(stderr, "%s\n", what);
  };
  tell(hold ? "holding it open until told to stop; Ctrl-C lets go"
            : "holding it open until both endpoints were attached; Ctrl-C lets go");
  while (!StopRequested()) {
    // With --hold too: a daemon that is gone took the buffer along.
    IOB_ASSIGN_OR_RETURN(const Holding::Use use, holding->Look());
    if (use == Holding::Use::kGone) {
      tell("the buffer was removed");
      return absl::OkStatus();
    }
    if (use == Holding::Use::kBothUsed && !hold) {
      tell("both endpoints are in use, letting go");
      return absl::OkStatus();
    }
    std::this_thread::sleep_for(hold ? kLookEveryHolding : kLookEvery);
  }
  tell("stopped");
  return absl::OkStatus();
}

absl::StatusOr<int> Create(const Globals& globals, const CreateFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const CreateOptions options, ToOptions(flags));
  IOB_ASSIGN_OR_RETURN(const std::vector<EndpointAndUid> wishes, ToTicketWishes(flags));
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(CreatedBuffer created, broker.CreateBuffer(options));
  Holding holding(&broker, created.info.koid, &created);
  std::vector<Ticket> tickets;
  for (const EndpointAndUid& wish : wishes) {
    IOB_ASSIGN_OR_RETURN(Ticket ticket, holding.TakeTicket(wish));
    tickets.push_back(std::move(ticket));
  }
  ReportCreated(globals, created.info, tickets, options.lease);
  // What has a lease needs nobody here.
  if (holding.empty() || options.lease.count() != 0) return kExitOk;
  IOB_RETURN_IF_ERROR(HoldUntilUsed(globals, flags.hold, &holding));
  // The handles are closed by the end of the process, which is near.
  return kExitOk;
}

}  // namespace

void AddCreate(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "create", "Make a buffer and hold it until both its endpoints are attached");
  auto flags = std::make_shared<CreateFlags>();
  command->add_option("NAME", flags->name, "At most 31 printable ASCII characters; none: no name");
  const auto add_list = [command](const char* option, std::vector<std::string>* values,
                                  const char* help) {
    return command->add_option(option, *values, help)->allow_extra_args(false);
  };
  add_list("--ring", &flags->rings,
           "A ring of SIZE (4MiB) that ep0 consumes and ep1 writes; may be repeated")
      ->type_name("SIZE[:OPTIONS]");
  add_list("--region", &flags->regions,
           "A region, behind the rings: KIND:SIZE[:OPTION,OPTION...], see below")
      ->type_name("SPEC");
  add_list("--ticket", &flags->tickets,
           "Print a ticket for ep0 or ep1, bound to UID (default: yours), instead of holding it")
      ->type_name("EP[:UID]");
  add_list("--allow-uid", &flags->allow_uids, "Let UID open this endpoint by name")
      ->type_name("EP:UID");
  add_list("--allow-anyone", &flags->allow_anyone, "Let everybody open this endpoint by name")
      ->type_name("EP");
  CLI::Option* const lease =
      command
          ->add_option("--lease", flags->lease_text,
                       "Do not stay: the endpoints hold by themselves that long (at most a day),\n"
                       "and afterwards as long as somebody is attached")
          ->type_name("TIME");
  command->add_flag("--snapshot-on-crash", flags->snapshot_on_crash,
                    "Keep a copy for 'iobctl autopsy' when an endpoint crashes");
  command->add_flag("--hold", flags->hold, "Hold the endpoints until told to stop, used or not")
      ->excludes(lease);
  command->footer(
      "Example:\n"
      "  iobctl create logs --ring 4MiB --allow-uid ep1:1000\n"
      "  iobctl create --ring 1MiB --ticket ep0:1000 --ticket ep1 --json\n"
      "  iobctl create both --region ring:1MiB --region none:64KiB:ep0=rw,ep1=r\n"
      "  iobctl create names --region id:64KiB:intern=1000 --lease 10m\n"
      "  iobctl create trace --region reserve-ring:1M,lanes=4,clears,stamped --lease 10m\n"
      "Kinds of regions, and their options:\n"
      "  ring          the broker appends for ep1, ep0 consumes; policy=drop-new|overwrite|block,\n"
      "                block=TIME (how long a write waits), gaps (losses are told in the stream),\n"
      "                stamped (number and time in each record), followers (readers may sleep),\n"
      "                writer-records=N, writer-bytes=SIZE (of one writer at once)\n"
      "  reserve-ring  ep1 writes in place, ep0 consumes; lanes=N (producers, one ring each),\n"
      "                clears (the consumer zeroes), stamped; or shared (one ring for all of "
      "them),\n"
      "                granule=SIZE, on-stall=wait|kill|renew, stall=TIME (a producer that "
      "stopped)\n"
      "  broadcast     ep1 writes, any number follow as ep0, the oldest is overwritten\n"
      "  slot          the latest value only; SIZE is the value's\n"
      "  id            blobs with ids; intern=N (equal blobs get the same one)\n"
      "  none          bytes\n"
      "Options of all: ep0=RIGHTS, ep1=RIGHTS (r w map, R W through the broker, - none), tag=N,\n"
      "require=advisory|dac|sealed|mediated.\n"
      "Their memory, as far as the machine can; `iobctl stat` shows what was obtained:\n"
      "  huge=transparent|2M|1G (pages; 2M and 1G for kind none), prefault (no first touch "
      "waits),\n"
      "  lock (never paged out), numa=NODE, charge=first-touch (kind none: whoever touches a page\n"
      "  first pays for it; else the broker), sensitive (not in core dumps, children, snapshots;\n"
      "  zeroed at the end), must=huge|prefault|lock|numa|charge|sensitive (fail without it)\n"
      "Regions that many buffers share need handles, which belong to one process and are never\n"
      "printed: make them with Broker::CreateSharedRegion of the library.");
  command->callback([=] { *selected = [=] { return Create(*globals, *flags); }; });
}

}  // namespace iob::ctl
