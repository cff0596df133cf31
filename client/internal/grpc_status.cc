#include "client/internal/grpc_status.h"

#include <algorithm>
#include <string>

#include "client/error.h"
#include "google/rpc/error_details.pb.h"

namespace iob {
namespace {

constexpr int64_t kRetryDelaySecondsMax = 60;

}  // namespace

CallError ToCallError(const grpc::Status& status) {
  if (status.ok()) return {};
  // Both enumerate the canonical codes.
  const auto code = static_cast<absl::StatusCode>(static_cast<int>(status.error_code()));
  CallError error{.status = absl::Status(code, status.error_message())};
  google::rpc::Status details;
  std::string reason;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) {
      google::rpc::ErrorInfo info;
      google::rpc::RetryInfo retry;
      if (detail.UnpackTo(&info)) reason = info.reason();
      if (detail.UnpackTo(&retry) && retry.retry_delay().seconds() >= 0 &&
          retry.retry_delay().seconds() <= kRetryDelaySecondsMax) {
        error.retry_delay =
            std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                      std::max(retry.retry_delay().nanos(), 0) / 1'000'000);
      }
    }
  }
  if (reason.empty() && absl::IsUnavailable(error.status)) reason = kReasonDisconnected;
  if (reason.empty() && absl::IsDeadlineExceeded(error.status)) reason = "DEADLINE";
  if (!reason.empty()) error.status = WithReason(error.status, reason);
  return error;
}

gpr_timespec ToGrpcDeadline(Deadline deadline) {
  const auto left =
      std::max(deadline - std::chrono::steady_clock::now(), std::chrono::steady_clock::duration(0));
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(left.count(), GPR_TIMESPAN));
}

}  // namespace iob
