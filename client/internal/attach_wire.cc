#include "client/internal/attach_wire.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "client/error.h"

namespace iob {
namespace {

constexpr std::string_view kReasonPrefix = "ERROR_REASON_";

bool IsErrorCode(int code) {
  return code >= static_cast<int>(absl::StatusCode::kCancelled) &&
         code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
}

}  // namespace

absl::Status ToStatus(const v1::AttachError& error) {
  const absl::StatusCode code = IsErrorCode(error.code())
                                    ? static_cast<absl::StatusCode>(error.code())
                                    : absl::StatusCode::kUnknown;
  // Empty for a number that this version does not know.
  std::string reason = v1::ErrorReason_Name(error.reason());
  reason = reason.empty() ? absl::StrCat(static_cast<int>(error.reason()))
                          : reason.substr(kReasonPrefix.size());
  return WithReason(absl::Status(code, error.message()), reason);
}

absl::Status ProtocolError(const std::string& what) {
  return WithReason(absl::DataLossError(absl::StrCat("the broker broke the protocol: ", what)),
                    "PROTOCOL");
}

absl::Status DisconnectedError(const std::string& what) {
  return WithReason(absl::UnavailableError(what), kReasonDisconnected);
}

std::string Encode(const v1::ClientPacket& packet) { return packet.SerializeAsString(); }

}  // namespace iob
