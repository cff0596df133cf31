// How write and tail find their endpoint: by name, or by a ticket from `iobctl create`.
//
// Thread-compatible.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "client/iobctl/command.h"

namespace iob::ctl {

struct AttachFlags {
  std::string name;
  std::string ticket;    // 32 hexadecimal digits, or "-": the first line of stdin.
  std::string endpoint;  // "ep0" or "ep1".
  std::optional<uint32_t> region_index;
};

// NAME, --ticket, --endpoint (with this default) and --region-index.
void AddAttachOptions(CLI::App* command, const std::string& default_endpoint, AttachFlags* flags);

absl::StatusOr<Endpoint> AttachAs(const Globals& globals, const AttachFlags& flags);

// The region that was asked for, or the first mediated ring of which `usable` is true.
absl::StatusOr<uint32_t> ChooseRing(const Endpoint& endpoint, const AttachFlags& flags,
                                    const std::function<bool(RegionRights)>& usable);

}  // namespace iob::ctl
