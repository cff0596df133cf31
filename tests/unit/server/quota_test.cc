// Quota: charges come home, limits hold to the last unit, and errors say which limit.

#include "server/quota.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/errors.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;

class QuotaTest : public ::testing::Test {
 protected:
  static Limits Small() {
    Limits limits;
    limits.memory_bytes_max = 1000;
    limits.memory_bytes_per_uid_max = 600;
    limits.buffers_max = 4;
    limits.buffers_per_uid_max = 3;
    return limits;
  }
  void ExpectExceeded(const absl::StatusOr<Charge>& charge, const std::string& message) {
    EXPECT_THAT(charge, StatusIs(absl::StatusCode::kResourceExhausted, message));
    EXPECT_EQ(ReasonOf(charge.status()), v1::ERROR_REASON_QUOTA);
  }
  const Limits limits_ = Small();
  Quota quota_{limits_};
};

TEST_F(QuotaTest, TakesUpToTheLimitAndNotOneByteMore) {
  const auto first = quota_.ChargeBuffer(1, 600);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->memory_bytes(), 600u);
  ExpectExceeded(quota_.ChargeBuffer(1, 1), "memory bytes of uid 1: 600 of 600 in use, 1 more");
  ExpectExceeded(quota_.ChargeBuffer(2, 401),
                 "memory bytes of the daemon: 600 of 1000 in use, 401 more");
  const auto second = quota_.ChargeBuffer(2, 400);
  EXPECT_THAT(second, IsOk());
  EXPECT_EQ(quota_.memory_bytes(), 1000u);
}

TEST_F(QuotaTest, CountsBuffersToo) {
  std::vector<Charge> charges;
  for (int i = 0; i < 3; ++i) charges.push_back(quota_.ChargeBuffer(1, 0).value());
  ExpectExceeded(quota_.ChargeBuffer(1, 0), "buffers of uid 1: 3 of 3 in use, 1 more");
  charges.push_back(quota_.ChargeBuffer(2, 0).value());
  ExpectExceeded(quota_.ChargeBuffer(2, 0), "buffers of the daemon: 4 of 4 in use, 1 more");
}

TEST_F(QuotaTest, CountsTheDescriptorsOfSectionsForAllTogether) {
  Limits limits = Small();
  limits.descriptors_max = 5;
  Quota quota(limits);
  Charge ring = quota.ChargeBuffer(1, 0, 2).value();
  {
    const Charge region = quota.ChargeRegion(2, 0, 3).value();
    EXPECT_EQ(quota.descriptors(), 5u);
    ExpectExceeded(quota.ChargeBuffer(3, 0, 1), "descriptors for sections");
    ExpectExceeded(quota.ChargeRegion(3, 0, UINT64_MAX), "5 of 5 in use");
    EXPECT_THAT(quota.ChargeBuffer(3, 0, 0), IsOk());
  }
  EXPECT_EQ(quota.descriptors(), 2u);
  EXPECT_EQ(quota.buffers(), 1u) << "a region is no buffer";
  ring = Charge();
  EXPECT_EQ(quota.descriptors(), 0u);
}

TEST_F(QuotaTest, ARegionsMemoryIsMemoryToo) {
  const Charge region = quota_.ChargeRegion(1, 600).value();
  EXPECT_EQ(region.memory_bytes(), 600u);
  ExpectExceeded(quota_.ChargeRegion(1, 1), "memory bytes of uid 1: 600 of 600 in use");
  ExpectExceeded(quota_.ChargeBuffer(1, 1), "memory bytes of uid 1");
  // It takes none of the buffers.
  std::vector<Charge> charges;
  for (int i = 0; i < 3; ++i) charges.push_back(quota_.ChargeBuffer(1, 0).value());
  ExpectExceeded(quota_.ChargeBuffer(1, 0), "buffers of uid 1");
}

TEST_F(QuotaTest, NeverOverflows) {
  ASSERT_THAT(quota_.ChargeBuffer(1, 600), IsOk());
  ExpectExceeded(quota_.ChargeBuffer(1, UINT64_MAX), "18446744073709551615 more");
  ExpectExceeded(quota_.ChargeBuffer(1, UINT64_MAX - 599), "more asked for");
  Limits limits;
  limits.memory_bytes_max = UINT64_MAX;
  limits.memory_bytes_per_uid_max = UINT64_MAX;
  Quota wide(limits);
  const auto all = wide.ChargeBuffer(1, UINT64_MAX);
  ASSERT_THAT(all, IsOk());
  ExpectExceeded(wide.ChargeBuffer(1, 1), "more asked for");
  EXPECT_THAT(wide.ChargeBuffer(1, 0), IsOk());
}

TEST_F(QuotaTest, ChargesComeHomeOnceHoweverTheyMove) {
  {
    Charge charge = quota_.ChargeBuffer(1, 100).value();
    Charge moved = std::move(charge);
    EXPECT_EQ(quota_.memory_bytes(), 100u);
    // Assigning over a charge returns what was there.
    moved = quota_.ChargeBuffer(2, 50).value();
    EXPECT_EQ(quota_.memory_bytes(), 50u);
    Charge& same = moved;
    moved = std::move(same);
    EXPECT_EQ(quota_.memory_bytes(), 50u);
    EXPECT_EQ(quota_.buffers(), 1u);
  }
  EXPECT_EQ(quota_.memory_bytes(), 0u);
  EXPECT_EQ(quota_.buffers(), 0u);
}

TEST_F(QuotaTest, ARefusalChangesNothing) {
  ExpectExceeded(quota_.ChargeBuffer(1, 601), "uid 1");
  EXPECT_EQ(quota_.memory_bytes(), 0u);
  EXPECT_EQ(quota_.buffers(), 0u);
}

TEST(QuotaDeath, ACrumbLeftBehindIsFound) {
  EXPECT_DEATH(
      {
        Limits limits;
        limits.memory_bytes_max = limits.memory_bytes_per_uid_max = 10;
        Charge charge;
        Quota quota(limits);
        charge = quota.ChargeBuffer(1, 1).value();
      },
      "broken: total_.buffers == 0");
}

}  // namespace
}  // namespace iob::server
