// IsOk() and StatusIs(code, substring): gmock matchers for absl::Status and absl::StatusOr, and
// ASSERT_OK_AND_ASSIGN, which leaves the test when there is no value to assign.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/result.h"

namespace iob::test {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, negation ? "is an error" : "is OK") {
  *result_listener << "which is " << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

MATCHER_P2(StatusIs, code, substring,
           (negation ? "is not " : "is ") + absl::StatusCodeToString(code) + " with \"" +
               std::string(substring) + "\" in its message") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << "which is " << status.ToString();
  return status.code() == code &&
         std::string(status.message()).find(substring) != std::string::npos;
}

inline auto StatusIs(absl::StatusCode code) { return StatusIs(code, ""); }

}  // namespace iob::test

#define ASSERT_OK_AND_ASSIGN(target, expression) \
  ASSERT_OK_AND_ASSIGN_INNER(IOB_CONCAT(iob_test_result_, __LINE__), target, expression)
#define ASSERT_OK_AND_ASSIGN_INNER(result, target, expression) \
  auto result = (expression);                                  \
  ASSERT_THAT(result, ::iob::test::IsOk());                    \
  target = std::move(*result)
