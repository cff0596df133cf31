// ProcessEnd: waits until a process has ended, and for how.
//
//   running --pidfd readable--> ended --how is known--> report(exited | killed)
//                                 |--100 ms, and nobody tells--> report(died)
//
// The wait in the middle is for the parent to reap: only then does the kernel tell a stranger
// (Linux 6.15). A pidfd hangs up at that moment.
#pragma once

#include "absl/functional/any_invocable.h"
#include "server/event_loop.h"
#include "server/identity.h"
#include "shm/signal_page.h"

namespace iob::server {

class ProcessEnd {
 public:
  using Report = absl::AnyInvocable<void(shm::CloseReason)>;

  ProcessEnd() = default;

  // Calls `report` once, from the loop; never from here. `loop` and `identity` outlive the object.
  // Destroying it ends the watch. Without kernel room for the watch it looks every 100 ms instead.
  void Watch(EventLoop& loop, const Identity& identity, Report report);

 private:
  void Look();
  void Arm(uint32_t events);
  void Finish(shm::CloseReason reason);

  EventLoop* loop_ = nullptr;
  const Identity* identity_ = nullptr;
  Report report_;
  Registration pidfd_watch_;
  Registration timer_;
  int64_t give_up_ns_ = 0;  // 0 while the process runs.
};

}  // namespace iob::server
