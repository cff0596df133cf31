// gRPC's errors as absl::Status: same code, the daemon's message, and its reason from the details.
// And our deadlines as gRPC's.
//
// Internal to the library; includes gRPC, so only .cc files include it. Thread-safe: pure
// functions.
#pragma once

#include <chrono>

#include "absl/status/status.h"
#include "client/types.h"
#include "grpc/support/time.h"
#include "grpcpp/support/status.h"

namespace iob {

struct CallError {
  absl::Status status;
  // What the daemon asked for before a retry; zero when it did not.
  std::chrono::milliseconds retry_delay{0};
};

// An UNAVAILABLE without details did not come from the daemon: reason DISCONNECTED. A
// DEADLINE_EXCEEDED without details: reason DEADLINE.
CallError ToCallError(const grpc::Status& status);

// One in the past stays there.
gpr_timespec ToGrpcDeadline(Deadline deadline);

}  // namespace iob
