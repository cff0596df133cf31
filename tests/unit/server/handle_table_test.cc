// The handle table: its three lists (all, by process, by lease) agree, whatever comes and goes.

#include "server/handle_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"

namespace iob::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr shm::EndpointId kEp0 = shm::EndpointId::kEp0;
constexpr shm::EndpointId kEp1 = shm::EndpointId::kEp1;

class HandleTableTest : public ::testing::Test {
 protected:
  void TearDown() override { table_.CheckInvariants(); }

  ObjectRef Endpoint(shm::EndpointId endpoint) {
    return {.buffer = &buffer_, .endpoint = endpoint};
  }
  ObjectRef TheRegion() { return {.shared_region = &region_}; }
  Token Add(const ObjectRef& object, ProcessId process = 3) {
    return table_.Add({.object = object, .rights = {}, .uid = 1, .process = process});
  }
  Token AddOf(ProcessId process) { return Add(Endpoint(kEp0), process); }
  Token AddLease(uint32_t lease_ms, int64_t expires_ns) {
    return table_.Add({.object = TheRegion(),
                       .rights = {},
                       .uid = 1,
                       .process = 3,
                       .lease_ms = lease_ms,
                       .lease_expires_ns = expires_ns});
  }
  std::vector<std::string> Take() { return std::exchange(told_, {}); }

  Buffer buffer_{/*koid=*/1, "", HolderInfo(), absl::Time(), std::vector<Region>(),
                 Charge()};
  SharedRegion region_{/*koid=*/5, HolderInfo(), absl::Time(),
                       4096,       std::nullopt, Charge()};
  std::vector<std::string> told_;
  HandleTable table_{[this](ProcessId process, bool holds) {
    told_.push_back(absl::StrCat(process, holds ? " holds" : " holds nothing"));
  }};
};

TEST_F(HandleTableTest, FindsAHandleUntilItIsRemoved) {
  const Token token = table_.Add({.object = Endpoint(kEp1),
                                  .rights = shm::HandleRights(shm::HandleRights::kRead),
                                  .uid = 7,
                                  .process = 3});
  ASSERT_NE(table_.Find(token), nullptr);
  EXPECT_EQ(table_.Find(token)->uid, 7u);
  EXPECT_EQ(table_.Find(token)->rights, shm::HandleRights(shm::HandleRights::kRead));
  EXPECT_EQ(table_.Find(Token::Random()), nullptr);
  EXPECT_EQ(table_.size(), 1u);
  const Handle removed = table_.Remove(token);
  EXPECT_EQ(removed.object.buffer, &buffer_);
  EXPECT_EQ(removed.object.endpoint, kEp1);
  EXPECT_EQ(removed.process, 3u);
  EXPECT_EQ(table_.Find(token), nullptr);
  EXPECT_EQ(table_.size(), 0u);
}

TEST_F(HandleTableTest, ObjectsListTheTokensThatLeadToThem) {
  const Token to_ep0 = Add(Endpoint(kEp0));
  const Token to_ep1 = Add(Endpoint(kEp1));
  const Token also_to_ep1 = Add(Endpoint(kEp1));
  const Token to_region = Add(TheRegion());
  EXPECT_THAT(buffer_.endpoint(kEp0).handles, ElementsAre(to_ep0));
  EXPECT_THAT(buffer_.endpoint(kEp1).handles, UnorderedElementsAre(to_ep1, also_to_ep1));
  EXPECT_THAT(region_.handles(), ElementsAre(to_region));
  table_.Remove(to_ep1);
  table_.Remove(to_region);
  EXPECT_THAT(buffer_.endpoint(kEp1).handles, ElementsAre(also_to_ep1));
  EXPECT_THAT(region_.handles(), IsEmpty());
  EXPECT_FALSE(region_.needed());
}

TEST_F(HandleTableTest, TellsOfAProcesssFirstAndLastHandle) {
  const Token first = AddOf(3);
  const Token second = AddOf(3);
  const Token other = AddOf(4);
  EXPECT_THAT(Take(), ElementsAre("3 holds", "4 holds"));
  EXPECT_THAT(table_.OfProcess(3), UnorderedElementsAre(first, second));
  EXPECT_THAT(table_.OfProcess(4), ElementsAre(other));
  EXPECT_THAT(table_.OfProcess(5), IsEmpty());
  table_.Remove(first);
  EXPECT_THAT(Take(), IsEmpty());
  table_.Remove(second);
  EXPECT_THAT(Take(), ElementsAre("3 holds nothing"));
  EXPECT_THAT(table_.OfProcess(3), IsEmpty());
  AddOf(3);
  EXPECT_THAT(Take(), ElementsAre("3 holds"));
}

TEST_F(HandleTableTest, AHandleWithALeaseIsNoProcesss) {
  const Token leased = AddLease(10, 10'000'000);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_THAT(table_.OfProcess(3), IsEmpty());
  table_.Remove(leased);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_FALSE(table_.NextExpiryNs().has_value());
}

TEST_F(HandleTableTest, LeasesRunOutInOrderAndToTheNanosecond) {
  const Token late = AddLease(1, 300);
  const Token early = AddLease(1, 100);
  const Token same_time = AddLease(2, 100);
  AddOf(3);  // Never.
  EXPECT_EQ(table_.NextExpiryNs(), 100);
  EXPECT_THAT(table_.ExpiredBy(99), IsEmpty());
  EXPECT_THAT(table_.ExpiredBy(100), UnorderedElementsAre(early, same_time));
  EXPECT_THAT(table_.ExpiredBy(299), UnorderedElementsAre(early, same_time));
  EXPECT_EQ(table_.ExpiredBy(INT64_MAX).size(), 3u);
  EXPECT_EQ(table_.ExpiredBy(INT64_MAX).back(), late);
  table_.Remove(early);
  EXPECT_EQ(table_.NextExpiryNs(), 100);
  table_.Remove(same_time);
  EXPECT_EQ(table_.NextExpiryNs(), 300);
  EXPECT_THAT(table_.ExpiredBy(299), IsEmpty());
}

TEST_F(HandleTableTest, ARenewedLeaseCountsFromThen) {
  const Token token = AddLease(2, 100);
  const Token other = AddLease(5, 2'000'100);
  table_.Renew(token, 700);
  EXPECT_EQ(table_.Find(token)->lease_expires_ns, 2'000'700);
  EXPECT_EQ(table_.NextExpiryNs(), 2'000'100);
  EXPECT_THAT(table_.ExpiredBy(2'000'699), ElementsAre(other));
  EXPECT_THAT(table_.ExpiredBy(2'000'700), ElementsAre(other, token));
  // Also to an earlier time: a lease is as long as it is, from now.
  table_.Renew(other, 0);
  EXPECT_EQ(table_.Find(other)->lease_expires_ns, 5'000'000);
  table_.CheckInvariants();
}

TEST_F(HandleTableTest, RenewingAHandleWithoutALeaseDoesNothing) {
  const Token token = AddOf(3);
  table_.Renew(token, 700);
  EXPECT_FALSE(table_.NextExpiryNs().has_value());
  EXPECT_THAT(table_.ExpiredBy(INT64_MAX), IsEmpty());
  EXPECT_THAT(table_.OfProcess(3), ElementsAre(token));
}

TEST_F(HandleTableTest, TokensNeverRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(seen.insert(AddOf(3).ToBytes()).second);
}

using HandleTableDeath = HandleTableTest;

TEST_F(HandleTableDeath, AListThatDisagreesIsFound) {
  const Token token = AddOf(3);
  buffer_.endpoint(kEp0).handles.erase(token);
  EXPECT_DEATH(table_.CheckInvariants(), "broken");
  buffer_.endpoint(kEp0).handles.insert(token);
  EXPECT_DEATH(table_.Remove(Token::Random()), "broken");
}

}  // namespace
}  // namespace iob::server
