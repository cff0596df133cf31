// Errors: every reason has a code of its own choosing, and the way out keeps code, reason and
// message.

#include "server/errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"

namespace iob::server {
namespace {

std::vector<v1::ErrorReason> AllReasons() {
  std::vector<v1::ErrorReason> reasons;
  for (int i = 1; i <= v1::ErrorReason_MAX; ++i) {
    if (v1::ErrorReason_IsValid(i)) reasons.push_back(static_cast<v1::ErrorReason>(i));
  }
  return reasons;
}

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& any : details.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

TEST(Errors, EveryReasonHasACodeAndOnlyInternalIsInternal) {
  ASSERT_GE(AllReasons().size(), 20u);
  for (const v1::ErrorReason reason : AllReasons()) {
    const absl::Status status = MakeError(reason, "message");
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.code() == absl::StatusCode::kInternal, reason == v1::ERROR_REASON_INTERNAL)
        << ReasonName(reason);
    EXPECT_EQ(ReasonOf(status), reason);
  }
}

TEST(Errors, TheCodesAreThoseOfTheContract) {
  const std::pair<v1::ErrorReason, absl::StatusCode> contract[] = {
      {v1::ERROR_REASON_INVALID_ARGUMENT, absl::StatusCode::kInvalidArgument},
      {v1::ERROR_REASON_OUT_OF_RANGE, absl::StatusCode::kOutOfRange},
      {v1::ERROR_REASON_ACCESS_DENIED, absl::StatusCode::kPermissionDenied},
      {v1::ERROR_REASON_POLICY, absl::StatusCode::kPermissionDenied},
      {v1::ERROR_REASON_BAD_HANDLE, absl::StatusCode::kUnauthenticated},
      {v1::ERROR_REASON_WRONG_DISCIPLINE, absl::StatusCode::kFailedPrecondition},
      {v1::ERROR_REASON_RING_FULL, absl::StatusCode::kResourceExhausted},
      {v1::ERROR_REASON_QUOTA, absl::StatusCode::kResourceExhausted},
      {v1::ERROR_REASON_INTEGRITY, absl::StatusCode::kDataLoss},
      {v1::ERROR_REASON_PEER_CLOSED, absl::StatusCode::kFailedPrecondition},
      {v1::ERROR_REASON_BUSY, absl::StatusCode::kUnavailable},
      {v1::ERROR_REASON_NOT_FOUND, absl::StatusCode::kNotFound},
      {v1::ERROR_REASON_NAME_TAKEN, absl::StatusCode::kAlreadyExists},
      {v1::ERROR_REASON_ENFORCEMENT, absl::StatusCode::kFailedPrecondition},
      {v1::ERROR_REASON_IN_USE, absl::StatusCode::kFailedPrecondition},
      {v1::ERROR_REASON_REQUEST_ID_REUSED, absl::StatusCode::kInvalidArgument},
      {v1::ERROR_REASON_DEADLINE, absl::StatusCode::kDeadlineExceeded},
      {v1::ERROR_REASON_PROTOCOL, absl::StatusCode::kInvalidArgument},
      {v1::ERROR_REASON_UNSUPPORTED, absl::StatusCode::kUnimplemented},
      {v1::ERROR_REASON_INTERNAL, absl::StatusCode::kInternal}};
  for (const auto& [reason, code] : contract) EXPECT_EQ(MakeError(reason, "").code(), code);
}

TEST(Errors, TheGrpcStatusCarriesErrorInfo) {
  for (const v1::ErrorReason reason : AllReasons()) {
    const grpc::Status status = ToGrpcStatus(MakeError(reason, "what was asked"));
    const auto info = DetailOf<google::rpc::ErrorInfo>(status);
    ASSERT_TRUE(info.has_value()) << ReasonName(reason);
    EXPECT_EQ(info->domain(), "iob");
    EXPECT_EQ(info->reason(), std::string(ReasonName(reason)));
    google::rpc::Status details;
    ASSERT_TRUE(details.ParseFromString(status.error_details()));
    EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
    EXPECT_EQ(details.message(), status.error_message());
    const auto retry = DetailOf<google::rpc::RetryInfo>(status);
    EXPECT_EQ(retry.has_value(), reason == v1::ERROR_REASON_BUSY);
    if (retry) {
      EXPECT_GT(retry->retry_delay().nanos(), 0);
    }
    EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status).has_value(),
              reason == v1::ERROR_REASON_QUOTA);
  }
}

TEST(Errors, ABadArgumentIsNamedInMessageAndMetadata) {
  const absl::Status status = BadArgument("regions[3]", "is wrong");
  EXPECT_EQ(std::string(status.message()), "regions[3]: is wrong");
  const auto info = DetailOf<google::rpc::ErrorInfo>(ToGrpcStatus(status));
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->metadata().at("argument"), "regions[3]");
}

TEST(Errors, InternalKeepsItsMessageIn) {
  const absl::Status status = absl::InternalError("/home/someone: secret");
  EXPECT_THAT(ToGrpcStatus(status).error_message(), ::testing::Not(::testing::HasSubstr("secret")));
  EXPECT_THAT(ToErrorPacket(status).error().message(),
              ::testing::Not(::testing::HasSubstr("secret")));
  EXPECT_EQ(ToErrorPacket(status).error().reason(), v1::ERROR_REASON_INTERNAL);
}

TEST(Errors, StatusesFromBelowGetTheReasonOfTheirCode) {
  EXPECT_EQ(ReasonOf(absl::ResourceExhaustedError("")), v1::ERROR_REASON_QUOTA);
  EXPECT_EQ(ReasonOf(absl::UnavailableError("")), v1::ERROR_REASON_BUSY);
  EXPECT_EQ(ReasonOf(absl::DataLossError("")), v1::ERROR_REASON_INTEGRITY);
  EXPECT_EQ(ReasonOf(absl::NotFoundError("")), v1::ERROR_REASON_INTERNAL);
  EXPECT_EQ(ReasonOf(absl::OkStatus()), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(Errors, TheErrorPacketCarriesCodeReasonAndMessage) {
  const v1::BrokerPacket packet =
      ToErrorPacket(MakeError(v1::ERROR_REASON_PROTOCOL, "out of turn"));
  EXPECT_EQ(packet.error().code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  EXPECT_EQ(packet.error().reason(), v1::ERROR_REASON_PROTOCOL);
  EXPECT_EQ(packet.error().message(), "out of turn");
}

}  // namespace
}  // namespace iob::server
