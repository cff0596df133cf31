// Errors as users get them: a canonical code, a reason for programs, a sentence for people.
//
// A reason fixes the code, so the table in errors.cc is the whole mapping. The reason travels
// inside the absl::Status as a payload, and leaves over gRPC as google.rpc.ErrorInfo (domain "iob")
// and over the attach socket as AttachError.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "iob/v1/attach.pb.h"
#include "iob/v1/types.pb.h"

namespace iob::server {

// A status whose code follows from `reason`. `message` says what was asked and what is allowed.
absl::Status MakeError(v1::ErrorReason reason, absl::string_view message);

// INVALID_ARGUMENT about one argument of the request.
absl::Status BadArgument(absl::string_view argument, absl::string_view message);

// The reason a status carries; a status without one is an INTERNAL of ours, or of the layer below,
// whose code then decides (RESOURCE_EXHAUSTED: QUOTA, UNAVAILABLE: BUSY, DATA_LOSS: INTEGRITY,
// ...).
v1::ErrorReason ReasonOf(const absl::Status& status);

// UPPER_SNAKE without the enum's prefix: "RING_FULL".
absl::string_view ReasonName(v1::ErrorReason reason);

// With ErrorInfo in the details; RetryInfo for BUSY. INTERNAL keeps its message out: the log has
// it.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The answer to a call on the attach socket; OK too.
v1::CallResult ToCallResult(const absl::Status& status);

// The last packet of an attach connection.
v1::BrokerPacket ToErrorPacket(const absl::Status& status);

}  // namespace iob::server
