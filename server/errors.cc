#include "server/errors.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"

namespace iob::server {
namespace {

constexpr char kPayloadUrl[] = "type.googleapis.com/iob.v1.ErrorReason";
constexpr char kArgumentUrl[] = "iob/argument";
constexpr int64_t kRetryDelayNs = 50'000'000;

absl::StatusCode CodeOf(v1::ErrorReason reason) {
  switch (reason) {
    case v1::ERROR_REASON_INVALID_ARGUMENT:
    case v1::ERROR_REASON_REQUEST_ID_REUSED:
    case v1::ERROR_REASON_PROTOCOL:
      return absl::StatusCode::kInvalidArgument;
    case v1::ERROR_REASON_OUT_OF_RANGE:
      return absl::StatusCode::kOutOfRange;
    case v1::ERROR_REASON_ACCESS_DENIED:
    case v1::ERROR_REASON_POLICY:
      return absl::StatusCode::kPermissionDenied;
    case v1::ERROR_REASON_BAD_HANDLE:
      return absl::StatusCode::kUnauthenticated;
    case v1::ERROR_REASON_WRONG_DISCIPLINE:
    case v1::ERROR_REASON_WRONG_OBJECT:
    case v1::ERROR_REASON_PEER_CLOSED:
    case v1::ERROR_REASON_ENFORCEMENT:
    case v1::ERROR_REASON_IN_USE:
    case v1::ERROR_REASON_PLACEMENT:
    case v1::ERROR_REASON_MAY_BE_TORN:
    case v1::ERROR_REASON_NOT_COPIED:
      return absl::StatusCode::kFailedPrecondition;
    case v1::ERROR_REASON_RING_FULL:
    case v1::ERROR_REASON_REGION_FULL:
    case v1::ERROR_REASON_QUOTA:
      return absl::StatusCode::kResourceExhausted;
    case v1::ERROR_REASON_INTEGRITY:
      return absl::StatusCode::kDataLoss;
    case v1::ERROR_REASON_BUSY:
      return absl::StatusCode::kUnavailable;
    case v1::ERROR_REASON_NOT_FOUND:
      return absl::StatusCode::kNotFound;
    case v1::ERROR_REASON_NAME_TAKEN:
      return absl::StatusCode::kAlreadyExists;
    case v1::ERROR_REASON_DEADLINE:
      return absl::StatusCode::kDeadlineExceeded;
    case v1::ERROR_REASON_UNSUPPORTED:
      return absl::StatusCode::kUnimplemented;
    case v1::ERROR_REASON_UNSPECIFIED:
    case v1::ERROR_REASON_INTERNAL:
    case v1::ErrorReason_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::ErrorReason_INT_MAX_SENTINEL_DO_NOT_USE_:
      return absl::StatusCode::kInternal;
  }
  return absl::StatusCode::kInternal;
}

v1::ErrorReason ReasonOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return v1::ERROR_REASON_INVALID_ARGUMENT;
    case absl::StatusCode::kOutOfRange:
      return v1::ERROR_REASON_OUT_OF_RANGE;
    case absl::StatusCode::kResourceExhausted:
      return v1::ERROR_REASON_QUOTA;
    case absl::StatusCode::kUnavailable:
      return v1::ERROR_REASON_BUSY;
    case absl::StatusCode::kDataLoss:
      return v1::ERROR_REASON_INTEGRITY;
    case absl::StatusCode::kFailedPrecondition:
      return v1::ERROR_REASON_ENFORCEMENT;
    case absl::StatusCode::kOk:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kDoNotUseReservedForFutureExpansionUseDefaultInSwitchInstead_:
      return v1::ERROR_REASON_INTERNAL;
  }
  return v1::ERROR_REASON_INTERNAL;
}

std::string PublicMessage(const absl::Status& status) {
  if (ReasonOf(status) == v1::ERROR_REASON_INTERNAL) {
    return "the daemon failed at its own part; its log has the details";
  }
  return std::string(status.message());
}

}  // namespace

absl::Status MakeError(v1::ErrorReason reason, absl::string_view message) {
  absl::Status status(CodeOf(reason), message);
  status.SetPayload(kPayloadUrl, absl::Cord(absl::StrCat(static_cast<int>(reason))));
  return status;
}

absl::Status BadArgument(absl::string_view argument, absl::string_view message) {
  absl::Status status =
      MakeError(v1::ERROR_REASON_INVALID_ARGUMENT, absl::StrCat(argument, ": ", message));
  status.SetPayload(kArgumentUrl, absl::Cord(argument));
  return status;
}

v1::ErrorReason ReasonOf(const absl::Status& status) {
  if (status.ok()) return v1::ERROR_REASON_UNSPECIFIED;
  if (const auto payload = status.GetPayload(kPayloadUrl)) {
    int number = 0;
    if (absl::SimpleAtoi(std::string(*payload), &number) && v1::ErrorReason_IsValid(number)) {
      return static_cast<v1::ErrorReason>(number);
    }
  }
  return ReasonOfCode(status.code());
}

absl::string_view ReasonName(v1::ErrorReason reason) {
  return absl::StripPrefix(v1::ErrorReason_Name(reason), "ERROR_REASON_");
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const v1::ErrorReason reason = ReasonOf(status);
  google::rpc::Status details;
  details.set_code(static_cast<int>(CodeOf(reason)));
  details.set_message(PublicMessage(status));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(reason)));
  info.set_domain("iob");
  if (const auto argument = status.GetPayload(kArgumentUrl)) {
    (*info.mutable_metadata())["argument"] = std::string(*argument);
  }
  details.add_details()->PackFrom(info);
  if (reason == v1::ERROR_REASON_BUSY) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(kRetryDelayNs));
    details.add_details()->PackFrom(retry);
  }
  if (reason == v1::ERROR_REASON_QUOTA) {
    google::rpc::QuotaFailure failure;
    failure.add_violations()->set_description(details.message());
    details.add_details()->PackFrom(failure);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(CodeOf(reason)), details.message(),
                      details.SerializeAsString());
}

v1::CallResult ToCallResult(const absl::Status& status) {
  v1::CallResult result;
  if (status.ok()) return result;
  const v1::ErrorReason reason = ReasonOf(status);
  result.set_code(static_cast<int32_t>(CodeOf(reason)));
  result.set_reason(reason);
  result.set_message(PublicMessage(status));
  return result;
}

v1::BrokerPacket ToErrorPacket(const absl::Status& status) {
  v1::BrokerPacket packet;
  const v1::ErrorReason reason = ReasonOf(status);
  packet.mutable_error()->set_code(static_cast<int32_t>(CodeOf(reason)));
  packet.mutable_error()->set_reason(reason);
  packet.mutable_error()->set_message(PublicMessage(status));
  return packet;
}

// One numbering for both: a cast is enough to get from one to the other.
static_assert(static_cast<int>(grpc::StatusCode::UNAUTHENTICATED) ==
              static_cast<int>(absl::StatusCode::kUnauthenticated));
static_assert(static_cast<int>(grpc::StatusCode::DATA_LOSS) ==
              static_cast<int>(absl::StatusCode::kDataLoss));

}  // namespace iob::server
