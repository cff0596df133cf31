// Outcome: how a call ended, in one form for gRPC, libiob and the attach socket, and Zircon's name
// for each way to end (README.md, A10), so that a test reads like the rule it is about.
//
// Values. Two outcomes are the same when code and reason are; the message is for people.
#pragma once

#include <grpcpp/support/status.h>

#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "client/error.h"
#include "iob/v1/attach.pb.h"
#include "tests/support/daemon_fixture.h"

namespace iob::test {

// An outcome to compare with.
struct Expected {
  absl::StatusCode code;
  std::string_view reason;
};

struct Outcome {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string reason = {};
  std::string message = {};

  bool ok() const { return code == absl::StatusCode::kOk; }
};

inline bool operator==(const Outcome& outcome, const Expected& expected) {
  return outcome.code == expected.code && outcome.reason == expected.reason;
}
inline std::ostream& operator<<(std::ostream& stream, const Expected& expected) {
  return stream << absl::StatusCodeToString(expected.code) << " / " << expected.reason;
}
inline std::ostream& operator<<(std::ostream& stream, const Outcome& outcome) {
  return stream << absl::StatusCodeToString(outcome.code) << " / " << outcome.reason << " ("
                << outcome.message << ")";
}

// What a call on the attach socket, or the end of its connection, says.
template <typename Answer>
Outcome OutcomeOfAnswer(const Answer& answer) {
  if (answer.code() == 0) return {};
  return {.code = static_cast<absl::StatusCode>(answer.code()),
          .reason = v1::ErrorReason_Name(answer.reason()).substr(sizeof("ERROR_REASON_") - 1),
          .message = answer.message()};
}

inline Outcome OutcomeOf(const grpc::Status& status) {
  if (status.ok()) return {};
  return {.code = static_cast<absl::StatusCode>(status.error_code()),
          .reason = ReasonOf(status),
          .message = status.error_message()};
}

inline Outcome OutcomeOf(const absl::Status& status) {
  if (status.ok()) return {};
  return {.code = status.code(),
          .reason = iob::ReasonText(status),
          .message = std::string(status.message())};
}

namespace zx {

inline constexpr Expected kOk = {absl::StatusCode::kOk, ""};
inline constexpr Expected kInvalidArgs = {absl::StatusCode::kInvalidArgument, "INVALID_ARGUMENT"};
inline constexpr Expected kOutOfRange = {absl::StatusCode::kOutOfRange, "OUT_OF_RANGE"};
inline constexpr Expected kAccessDenied = {absl::StatusCode::kPermissionDenied, "ACCESS_DENIED"};
inline constexpr Expected kBadHandle = {absl::StatusCode::kUnauthenticated, "BAD_HANDLE"};
// WRONG_TYPE of a handle, and of a region.
inline constexpr Expected kWrongObject = {absl::StatusCode::kFailedPrecondition, "WRONG_OBJECT"};
inline constexpr Expected kWrongDiscipline = {absl::StatusCode::kFailedPrecondition,
                                              "WRONG_DISCIPLINE"};
inline constexpr Expected kNoSpace = {absl::StatusCode::kResourceExhausted, "RING_FULL"};
// NO_MEMORY of an id allocator, and of the daemon.
inline constexpr Expected kRegionFull = {absl::StatusCode::kResourceExhausted, "REGION_FULL"};
inline constexpr Expected kQuota = {absl::StatusCode::kResourceExhausted, "QUOTA"};
inline constexpr Expected kIntegrity = {absl::StatusCode::kDataLoss, "INTEGRITY"};
inline constexpr Expected kPeerClosed = {absl::StatusCode::kFailedPrecondition, "PEER_CLOSED"};

}  // namespace zx

// What Zircon does not know.
inline constexpr Expected kNameTaken = {absl::StatusCode::kAlreadyExists, "NAME_TAKEN"};
inline constexpr Expected kInUse = {absl::StatusCode::kFailedPrecondition, "IN_USE"};
inline constexpr Expected kNotFound = {absl::StatusCode::kNotFound, "NOT_FOUND"};
inline constexpr Expected kEnforcement = {absl::StatusCode::kFailedPrecondition, "ENFORCEMENT"};
inline constexpr Expected kDetached = {absl::StatusCode::kFailedPrecondition, "DETACHED"};

}  // namespace iob::test
