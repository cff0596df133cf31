// Acceptor: takes connections from a listening Unix socket, also when descriptors run out.
//
// A listening socket stays readable while somebody waits on it, so a daemon that cannot accept
// would spin. One descriptor is kept in reserve: at EMFILE it is given up to accept the connection
// and close it at once, so that the client sees a close instead of silence, and the queue drains.
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/event_loop.h"
#include "shm/unique_fd.h"

namespace iob::server {

class Acceptor {
 public:
  using OnConnection = absl::AnyInvocable<void(shm::UniqueFd)>;

  // `listening` is non-blocking and listens. `loop` outlives the acceptor.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Start(EventLoop& loop, shm::UniqueFd listening,
                                                         OnConnection on_connection);

  // No more connections.
  void Stop();

  // Connections that were closed for want of descriptors.
  uint64_t turned_away() const { return turned_away_; }

 private:
  Acceptor(shm::UniqueFd listening, OnConnection on_connection);
  void AcceptSome();
  void TurnAwayOne();

  shm::UniqueFd listening_;
  shm::UniqueFd reserve_;
  OnConnection on_connection_;
  uint64_t turned_away_ = 0;
  Registration watch_;  // Last: ends before the descriptor closes.
};

}  // namespace iob::server
