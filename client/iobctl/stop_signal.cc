#include "client/iobctl/stop_signal.h"

#include <csignal>

namespace iob::ctl {
namespace {

volatile std::sig_atomic_t stop_requested = 0;

void NoteStop(int) { stop_requested = 1; }

}  // namespace

void CatchStopSignals() {
  struct sigaction action = {};
  action.sa_handler = NoteStop;
  // No SA_RESTART: a read that waits for input returns. SA_RESETHAND: the second one is final.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool StopRequested() { return stop_requested != 0; }

}  // namespace iob::ctl
