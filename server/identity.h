// Identity: who is on the other side of a socket, as the kernel tells it.
//
// uid and gid come from SO_PEERCRED, the process from SO_PEERPIDFD (Linux 6.5; before that
// pidfd_open on SO_PEERCRED's pid, which can in theory hit a reused pid). The pid is for people
// only: it is 0 across pid namespaces, and pids are reused; pidfds are not.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "shm/signal_page.h"
#include "shm/unique_fd.h"

namespace iob::server {

struct Identity {
  uint32_t peer_uid = 0;
  uint32_t peer_gid = 0;
  int32_t peer_pid = 0;  // For display.
  shm::UniqueFd pidfd;
};

// Of the process that connected `socket` (a connected Unix socket).
absl::StatusOr<Identity> IdentityOfPeer(int socket);

// Whether the process of `pidfd` has ended (it may still be a zombie).
bool HasEnded(int pidfd);

// How it ended, if this kernel and our rights tell (PIDFD_GET_INFO, Linux 6.15, once reaped; else
// its /proc entry while it is a zombie). kOpen: not known, yet.
shm::CloseReason HowItEnded(const Identity& identity);

}  // namespace iob::server
