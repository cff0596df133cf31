// A daemon in a thread of this process, whose registry can be asked whether its books are in order.
#pragma once

#include <future>
#include <memory>
#include <string>
#include <thread>

#include "server/clock.h"
#include "server/daemon.h"
#include "tests/support/daemon_fixture.h"

namespace iob::test {

class ChaosDaemon {
 public:
  // Serves when it returns; ends the program when it cannot.
  ChaosDaemon();
  ChaosDaemon(const ChaosDaemon&) = delete;
  ChaosDaemon& operator=(const ChaosDaemon&) = delete;
  ~ChaosDaemon();

  std::string runtime_dir() const { return directory_.path() + "/run"; }
  std::string attach_path() const { return runtime_dir() + "/attach.sock"; }

  // Registry::CheckInvariants, on the loop: aborts when one does not hold. How many buffers there
  // are.
  size_t CheckInvariants();
  // A figure of /metrics; -1 when it is not there.
  double Metric(const std::string& name) const;

 private:
  TempDir directory_;
  server::SystemClock clock_;
  std::unique_ptr<server::Daemon> daemon_;
  std::thread thread_;
};

}  // namespace iob::test
