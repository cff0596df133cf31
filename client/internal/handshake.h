// The handshake on the attach socket: ticket out, grants in, acknowledged.
//
// Internal to the library. Thread-safe: works on nothing but its arguments.
#pragma once

#include "absl/status/statusor.h"
#include "client/internal/grants.h"
#include "client/types.h"
#include "shm/fd_channel.h"

namespace iob {

struct Handshake {
  shm::FdChannel channel;
  Grants grants;
};

// Connects and redeems; the grants are verified. Errors as Endpoint::Attach.
absl::StatusOr<Handshake> RedeemTicket(const Ticket& ticket, Deadline deadline);

// Connects and redeems the ticket of a snapshot: its descriptor, which is not verified yet. Errors
// as Endpoint::Attach.
absl::StatusOr<shm::UniqueFd> RedeemSnapshot(const Ticket& ticket, Deadline deadline);

// Tells the broker that the memory is mapped.
absl::Status ConfirmMapped(shm::FdChannel* channel);

}  // namespace iob
