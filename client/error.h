// What went wrong, for a program: the reason next to the canonical code of an absl::Status.
//
// Errors of the daemon keep its code and message. The reason is the name of an iob.v1.ErrorReason
// without its prefix ("RING_FULL", "NAME_TAKEN", ...), or one of the library's own below. Whoever
// handles an error decides by code first and by reason where a code has several.
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace iob {

// The broker was never reached, or the connection to it is gone. Code UNAVAILABLE.
inline constexpr std::string_view kReasonDisconnected = "DISCONNECTED";
// The buffer was deleted by force. Code FAILED_PRECONDITION.
inline constexpr std::string_view kReasonRevoked = "REVOKED";
// This side closed the endpoint. Code FAILED_PRECONDITION.
inline constexpr std::string_view kReasonDetached = "DETACHED";
// More than the caller asked for. Code RESOURCE_EXHAUSTED.
inline constexpr std::string_view kReasonTooLarge = "TOO_LARGE";
// Bytes that somebody holds a range of. Code PERMISSION_DENIED.
inline constexpr std::string_view kReasonRangeTaken = "RANGE_TAKEN";
// The memory itself is not there any more. Code DATA_LOSS.
inline constexpr std::string_view kReasonFault = "FAULT";

// The reason of an error: a static string, "" when the status carries none, and "UNKNOWN" for a
// reason that this version of the library has not heard of (ReasonText has it).
std::string_view ReasonOf(const absl::Status& status);

// The reason as it was sent; "" when there is none.
std::string ReasonText(const absl::Status& status);

// `status` with a reason.
absl::Status WithReason(absl::Status status, std::string_view reason);

}  // namespace iob
