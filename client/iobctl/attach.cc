#include "client/iobctl/attach.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iobctl/region_spec.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr const char* kAttachSocket = "/attach.sock";

// Byte by byte, because what follows the line is not ours to read.
std::string ReadLineFromStdin() {
  // More than a ticket, so that a long line is refused as what it is.
  constexpr size_t kLineMax = 256;
  std::string line;
  char c = 0;
  while (line.size() < kLineMax && ::read(STDIN_FILENO, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

absl::StatusOr<Ticket> TicketOf(const Globals& globals, const AttachFlags& flags,
                                EndpointId endpoint) {
  if (flags.ticket.empty()) {
    if (flags.name.empty()) {
      return UsageError("NAME", absl::InvalidArgumentError("needs a buffer's name, or --ticket"));
    }
    IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
    absl::StatusOr<Ticket> opened = broker.OpenTicket(flags.name, endpoint);
    return opened.ok() ? std::move(opened) : OfBuffer(flags.name, opened.status());
  }
  const std::string hex = flags.ticket == "-" ? ReadLineFromStdin() : flags.ticket;
  absl::StatusOr<Ticket> ticket =
      Ticket::FromHex(hex, endpoint, ResolveRuntimeDir(globals.runtime_dir) + kAttachSocket);
  if (!ticket.ok()) return UsageError("--ticket", ticket.status());
  return ticket;
}

}  // namespace

void AddAttachOptions(CLI::App* command, const std::string& default_endpoint, AttachFlags* flags) {
  flags->endpoint = default_endpoint;
  command->add_option("NAME", flags->name, "Name of the buffer; none with --ticket");
  command
      ->add_option("--ticket", flags->ticket,
                   "A ticket from 'iobctl create'; - reads it from the first line of stdin")
      ->type_name("HEX");
  command->add_option("--ep,--endpoint", flags->endpoint, "Which endpoint to be")
      ->type_name("EP")
      ->capture_default_str();
  command->add_option("--region-index", flags->region_index,
                      "Which region; default: the first ring that this endpoint can use");
}

absl::StatusOr<Endpoint> AttachAs(const Globals& globals, const AttachFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  const absl::StatusOr<EndpointId> endpoint = ParseEndpoint(flags.endpoint);
  if (!endpoint.ok()) return UsageError("--ep", endpoint.status());
  IOB_ASSIGN_OR_RETURN(const Ticket ticket, TicketOf(globals, flags, *endpoint));
  return Endpoint::Attach(ticket, {.timeout = timeout});
}

absl::StatusOr<uint32_t> ChooseRing(const Endpoint& endpoint, const AttachFlags& flags,
                                    const std::function<bool(RegionRights)>& usable) {
  if (flags.region_index) return *flags.region_index;
  for (const AttachedRegion& region : endpoint.info().regions) {
    // Own bits are the low four, whichever endpoint it is.
    if (region.discipline == Discipline::kMediatedRing &&
        usable(region.access.For(EndpointId::kEp0))) {
      return region.index;
    }
  }
  return absl::PermissionDeniedError(absl::StrCat("no ring of this buffer can be used that way by ",
                                                  ToString(endpoint.info().endpoint)));
}

}  // namespace iob::ctl
