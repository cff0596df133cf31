#include "client/internal/attach_wire.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/error.h"

namespace iob {
namespace {

constexpr std::string_view kReasonPrefix = "ERROR_REASON_";
constexpr size_t kNameBytesMax = 31;

bool IsErrorCode(int code) {
  return code >= static_cast<int>(absl::StatusCode::kCancelled) &&
         code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
}

// AttachError and CallResult are the same three things. Never OK.
template <typename Result>
absl::Status Failure(const Result& result) {
  const absl::StatusCode code = IsErrorCode(result.code())
                                    ? static_cast<absl::StatusCode>(result.code())
                                    : absl::StatusCode::kUnknown;
  // Empty for a number that this version does not know.
  std::string reason = v1::ErrorReason_Name(result.reason());
  reason = reason.empty() ? absl::StrCat(static_cast<int>(result.reason()))
                          : reason.substr(kReasonPrefix.size());
  return WithReason(absl::Status(code, result.message()), reason);
}

}  // namespace

absl::Status ToStatus(const v1::AttachError& error) { return Failure(error); }

absl::Status ToStatus(const v1::CallResult& result) {
  return result.code() == 0 ? absl::OkStatus() : Failure(result);
}

absl::Status FailureOf(const v1::CallResult& result) { return Failure(result); }

absl::StatusOr<std::string> NameToWire(const std::string& name) {
  const std::string cut = name.substr(0, kNameBytesMax);
  if (std::any_of(cut.begin(), cut.end(),
                  [](char c) { return !absl::ascii_isascii(static_cast<unsigned char>(c)); })) {
    return WithReason(absl::InvalidArgumentError("name: only printable ASCII is allowed"),
                      "INVALID_ARGUMENT");
  }
  return cut;
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
