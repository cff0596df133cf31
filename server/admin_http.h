// AdminHttp: the operator's HTTP port. /metrics for Prometheus, /healthz for probes, / says so.
//
// An ordinary HTTP server on threads of its own (one listens, two serve). It owns no state: a
// request asks the loop, waits at most five seconds, and answers 503 when the loop does not.
#pragma once

#include <prometheus/metric_family.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/event_loop.h"

namespace iob::server {

class AdminHttp {
 public:
  // Runs on the loop.
  using Collect = absl::AnyInvocable<std::vector<prometheus::MetricFamily>()>;

  // `address` is host:port; port 0 picks one. INVALID_ARGUMENT: not an address;
  // FAILED_PRECONDITION: the port is in use. `loop` outlives it, and runs until Stop.
  static absl::StatusOr<std::unique_ptr<AdminHttp>> Start(EventLoop& loop,
                                                          const std::string& address,
                                                          Collect collect);
  ~AdminHttp();

  // host:port as bound.
  const std::string& address() const { return address_; }

  // Ends the threads. While the loop still runs, not on the loop.
  void Stop();

 private:
  class Impl;
  AdminHttp(std::unique_ptr<Impl> impl, std::string address);
  std::unique_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace iob::server
