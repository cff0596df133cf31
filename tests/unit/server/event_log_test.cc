// The event log: what it keeps, what it forgets, and which tokens it takes.

#include "server/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "server/errors.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;

class EventLogTest : public ::testing::Test {
 protected:
  uint64_t Append(uint64_t koid) {
    v1::WatchEventsResponse event;
    event.set_buffer_koid(koid);
    event.mutable_gone();
    return log_.Append(std::move(event), /*owner_uid=*/7);
  }
  void AppendMany(size_t count) {
    for (size_t i = 0; i < count; ++i) Append(i);
  }
  // Of a message after which `next` is to come.
  static std::string TokenOf(const EventLog& log, uint64_t next) {
    v1::WatchEventsResponse message;
    log.Stamp(next, message);
    return message.resume_token();
  }
  // The sequence that a good token leads to.
  std::optional<uint64_t> Parsed(const std::string& token) const {
    const auto next = log_.Parse(token);
    EXPECT_THAT(next, IsOk()) << token;
    return next.ok() ? *next : std::nullopt;
  }
  void ExpectRefused(const std::string& token) const {
    const auto next = log_.Parse(token);
    EXPECT_THAT(next, StatusIs(absl::StatusCode::kInvalidArgument, "resume_token")) << token;
    EXPECT_EQ(ReasonOf(next.status()), v1::ERROR_REASON_INVALID_ARGUMENT) << token;
  }

  test::FakeClock clock_;
  EventLog log_{clock_};
};

TEST_F(EventLogTest, NumbersEventsAndStampsThemWithTheWallClock) {
  EXPECT_EQ(log_.oldest(), 0u);
  EXPECT_EQ(log_.end(), 0u);
  EXPECT_EQ(Append(40), 0u);
  clock_.AdvanceNs(2'500'000'017);
  EXPECT_EQ(Append(41), 1u);
  EXPECT_EQ(log_.end(), 2u);
  const EventLog::Entry& entry = log_.At(1);
  EXPECT_EQ(entry.owner_uid, 7u);
  EXPECT_EQ(entry.event.buffer_koid(), 41u);
  EXPECT_TRUE(entry.event.has_gone());
  EXPECT_EQ(entry.event.time().seconds(), 1'700'000'003);
  EXPECT_EQ(entry.event.time().nanos(), 500'000'017);
}

TEST_F(EventLogTest, ForgetsTheOldestWhenItIsFull) {
  AppendMany(kEventsMax);
  EXPECT_EQ(log_.oldest(), 0u);
  EXPECT_EQ(log_.At(0).event.buffer_koid(), 0u);
  Append(1'000'000);
  EXPECT_EQ(log_.oldest(), 1u);
  EXPECT_EQ(log_.end(), kEventsMax + 1);
  EXPECT_EQ(log_.At(kEventsMax).event.buffer_koid(), 1'000'000u);
  AppendMany(10 * kEventsMax + 5);
  EXPECT_EQ(log_.end() - log_.oldest(), kEventsMax);
  for (uint64_t sequence = log_.oldest(); sequence < log_.end(); ++sequence) {
    ASSERT_EQ(log_.At(sequence).event.buffer_koid(), sequence - kEventsMax - 1);
    ASSERT_EQ(Parsed(log_.At(sequence).event.resume_token()), sequence + 1);
  }
}

TEST_F(EventLogTest, AskingForWhatIsNotThereIsABugOfOurs) {
  EXPECT_DEATH((void)log_.At(0), "broken");
  AppendMany(kEventsMax + 1);
  EXPECT_DEATH((void)log_.At(0), "broken");
  EXPECT_DEATH((void)log_.At(kEventsMax + 1), "broken");
}

TEST_F(EventLogTest, AnEventsTokenLeadsToTheNextEvent) {
  AppendMany(3);
  for (uint64_t sequence = 0; sequence < 3; ++sequence) {
    EXPECT_EQ(Parsed(log_.At(sequence).event.resume_token()), sequence + 1);
  }
  EXPECT_EQ(Parsed(TokenOf(log_, 0)), 0u);
}

TEST_F(EventLogTest, ATokenOlderThanTheLogIsGoodButOfNoUse) {
  const std::string first = TokenOf(log_, 0);
  AppendMany(kEventsMax);
  const std::string second = log_.At(0).event.resume_token();
  EXPECT_EQ(Parsed(first), 0u);
  AppendMany(1);
  EXPECT_EQ(Parsed(first), std::nullopt);
  EXPECT_EQ(Parsed(second), 1u);
  AppendMany(1);
  EXPECT_EQ(Parsed(second), std::nullopt);
}

TEST_F(EventLogTest, ATokenOfAnotherRunIsGoodButOfNoUse) {
  const EventLog other(clock_);
  EXPECT_NE(TokenOf(other, 0), TokenOf(log_, 0));
  EXPECT_EQ(Parsed(TokenOf(other, 0)), std::nullopt);
  // That run may have been longer than this one is yet.
  EXPECT_EQ(Parsed(TokenOf(other, 1'000'000'000)), std::nullopt);
}

TEST_F(EventLogTest, RefusesATokenFromTheFuture) {
  AppendMany(2);
  EXPECT_EQ(Parsed(TokenOf(log_, 2)), 2u);
  ExpectRefused(TokenOf(log_, 3));
  ExpectRefused(TokenOf(log_, ~uint64_t{0}));
  AppendMany(1);
  EXPECT_EQ(Parsed(TokenOf(log_, 3)), 3u);
}

TEST_F(EventLogTest, RefusesWhatItNeverWrote) {
  AppendMany(20);
  const std::string good = TokenOf(log_, 11);
  ASSERT_EQ(good.size(), 32u);
  ASSERT_EQ(good.back(), 'b');
  ExpectRefused("");
  ExpectRefused("x");
  ExpectRefused(good.substr(1));
  ExpectRefused(good.substr(0, 31));
  ExpectRefused(good + "0");
  ExpectRefused(good + good);
  ExpectRefused(std::string(32, '\0'));
  ExpectRefused(std::string(100'000, 'a'));
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char wrong : {'g', 'A', 'F', ' ', '-', '+', 'x', '/', ':', '`', '\0', '\xff'}) {
      std::string token = good;
      token[i] = wrong;
      ExpectRefused(token);
    }
  }
}

}  // namespace
}  // namespace iob::server
