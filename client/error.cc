#include "client/error.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace iob {
namespace {

constexpr absl::string_view kReasonPayloadUrl = "iob.v1/reason";

constexpr std::string_view kReasons[] = {
    "INVALID_ARGUMENT", "OUT_OF_RANGE",      "ACCESS_DENIED", "POLICY",
    "BAD_HANDLE",       "WRONG_DISCIPLINE",  "RING_FULL",     "QUOTA",
    "INTEGRITY",        "PEER_CLOSED",       "BUSY",          "NOT_FOUND",
    "NAME_TAKEN",       "ENFORCEMENT",       "IN_USE",        "REQUEST_ID_REUSED",
    "DEADLINE",         "PROTOCOL",          "UNSUPPORTED",   "INTERNAL",
    "WRONG_OBJECT",     "REGION_FULL",       "PLACEMENT",     "MAY_BE_TORN",
    "NOT_COPIED",       kReasonDisconnected, kReasonRevoked,  kReasonDetached,
    kReasonTooLarge,    kReasonRangeTaken,   kReasonFault,
};

}  // namespace

std::string ReasonText(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonPayloadUrl);
  return payload ? std::string(*payload) : std::string();
}

std::string_view ReasonOf(const absl::Status& status) {
  const std::string text = ReasonText(status);
  if (text.empty()) return "";
  for (const std::string_view reason : kReasons) {
    if (reason == text) return reason;
  }
  return "UNKNOWN";
}

absl::Status WithReason(absl::Status status, std::string_view reason) {
  status.SetPayload(kReasonPayloadUrl, absl::Cord(absl::string_view(reason.data(), reason.size())));
  return status;
}

}  // namespace iob
