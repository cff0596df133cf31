// The replay cache: the first answer again, for the same process and the same request, for a while.

#include "server/replay_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/errors.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

constexpr Caller kCaller = {.uid = 1, .gid = 1, .pid = 10, .process = 1};

TEST(ReplayCache, GivesTheFirstAnswerAgain) {
  ReplayCache cache;
  EXPECT_EQ(cache.Find(kCaller, "id", "request", 0).value(), nullptr);
  cache.Store(kCaller, "id", "request", "answer", 0);
  const auto answer = cache.Find(kCaller, "id", "request", 1);
  ASSERT_THAT(answer, test::IsOk());
  ASSERT_NE(*answer, nullptr);
  EXPECT_EQ(**answer, "answer");
}

TEST(ReplayCache, RefusesAnotherRequestWithTheSameId) {
  ReplayCache cache;
  cache.Store(kCaller, "id", "request", "answer", 0);
  const auto other = cache.Find(kCaller, "id", "another", 1);
  EXPECT_THAT(other, test::StatusIs(absl::StatusCode::kInvalidArgument, "request_id"));
  EXPECT_EQ(ReasonOf(other.status()), v1::ERROR_REASON_REQUEST_ID_REUSED);
}

TEST(ReplayCache, KeepsProcessesAndUidsApart) {
  ReplayCache cache;
  cache.Store(kCaller, "id", "request", "answer", 0);
  Caller other_pid = kCaller;
  other_pid.pid = 11;
  EXPECT_EQ(cache.Find(other_pid, "id", "request", 1).value(), nullptr);
  Caller other_uid = kCaller;
  other_uid.uid = 2;
  EXPECT_EQ(cache.Find(other_uid, "id", "request", 1).value(), nullptr);
  // Another connection of the same process is the same caller.
  Caller reconnected = kCaller;
  reconnected.process = 2;
  EXPECT_NE(cache.Find(reconnected, "id", "request", 1).value(), nullptr);
}

TEST(ReplayCache, ForgetsAfterTenMinutes) {
  ReplayCache cache;
  cache.Store(kCaller, "id", "request", "answer", 5);
  EXPECT_NE(cache.Find(kCaller, "id", "request", 4 + ReplayCache::kLifetimeNs).value(), nullptr);
  EXPECT_EQ(cache.Find(kCaller, "id", "request", 5 + ReplayCache::kLifetimeNs).value(), nullptr);
  EXPECT_EQ(cache.size(), 0u);
}

TEST(ReplayCache, IsBoundedAndForgetsTheOldestFirst) {
  ReplayCache cache;
  for (size_t i = 0; i < ReplayCache::kEntriesMax + 10; ++i) {
    cache.Store(kCaller, std::to_string(i), "request", "answer", 0);
  }
  EXPECT_EQ(cache.size(), ReplayCache::kEntriesMax);
  EXPECT_EQ(cache.Find(kCaller, "9", "request", 1).value(), nullptr);
  EXPECT_NE(cache.Find(kCaller, "10", "request", 1).value(), nullptr);
}

TEST(ReplayCache, DoesNotKeepAnswersThatAreTooLarge) {
  ReplayCache cache;
  cache.Store(kCaller, "big", "request", std::string(ReplayCache::kAnswerBytesMax + 1, 'x'), 0);
  EXPECT_EQ(cache.Find(kCaller, "big", "request", 1).value(), nullptr);
  cache.Store(kCaller, "fits", "request", std::string(ReplayCache::kAnswerBytesMax, 'x'), 0);
  EXPECT_NE(cache.Find(kCaller, "fits", "request", 1).value(), nullptr);
}

}  // namespace
}  // namespace iob::server
