// The macros that pass a Status along, and what an errno becomes.
#include "shm/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::StatusIs;

absl::StatusOr<int> Half(int number) {
  if (number % 2 != 0) return absl::InvalidArgumentError("odd");
  return number / 2;
}

absl::StatusOr<int> Quarter(int number) {
  IOB_ASSIGN_OR_RETURN(const int half, Half(number));
  IOB_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

absl::Status MustBeEven(int number, bool* ret_went_on) {
  IOB_RETURN_IF_ERROR(Half(number).status());
  *ret_went_on = true;
  return absl::OkStatus();
}

TEST(Result, AssignsOrReturns) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_THAT(Quarter(3), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

TEST(Result, ReturnsOnlyErrors) {
  bool went_on = false;
  EXPECT_THAT(MustBeEven(1, &went_on), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(went_on);
  EXPECT_THAT(MustBeEven(2, &went_on), IsOk());
  EXPECT_TRUE(went_on);
}

TEST(Result, MovesWhatCannotBeCopied) {
  const auto make = []() -> absl::StatusOr<std::unique_ptr<int>> {
    IOB_ASSIGN_OR_RETURN(std::unique_ptr<int> made,
                         absl::StatusOr<std::unique_ptr<int>>(std::make_unique<int>(7)));
    return made;
  };
  EXPECT_EQ(*make().value(), 7);
}

TEST(Result, SaysWhatFailedAndWhy) {
  EXPECT_EQ(ErrnoStatus(EMFILE, "memfd_create").message(), "memfd_create: Too many open files");
}

TEST(Result, MapsErrnoToWhatTheCallerCanDo) {
  for (const int again : {EMFILE, ENFILE, ETOOMANYREFS, EAGAIN, EINTR}) {
    EXPECT_THAT(ErrnoStatus(again, "x"), StatusIs(absl::StatusCode::kUnavailable)) << again;
  }
  for (const int too_much : {ENOMEM, ENOSPC, EFBIG, EDQUOT}) {
    EXPECT_THAT(ErrnoStatus(too_much, "x"), StatusIs(absl::StatusCode::kResourceExhausted));
  }
  for (const int ours : {EACCES, EPERM, EINVAL, EBADF, ENOSYS, 0, 12345}) {
    EXPECT_THAT(ErrnoStatus(ours, "x"), StatusIs(absl::StatusCode::kInternal)) << ours;
  }
}

}  // namespace
}  // namespace iob::shm
