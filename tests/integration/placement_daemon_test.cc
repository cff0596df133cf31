// Placement with the real daemon in real memory cgroups: who is charged, what happens when a cgroup
// is full, and what mappings of the library look like to the kernel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <optional>
#include <string>

#include "client/broker.h"
#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/shm_process.h"
#include "tests/support/smaps.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {


constexpr uint64_t kMiB = uint64_t{1} << 20;

RegionSpec Plain(uint64_t size_bytes, const Placement& placement) {
  return {.discipline = Discipline::kNone,
          .size_bytes = size_bytes,
          .access = AccessBits(0x33),
          .placement = placement};
}

class PlacementDaemon : public ::testing::Test {
 protected:
  ~PlacementDaemon() override {
    broker_.reset();
    if (daemon_) {
      EXPECT_EQ(daemon_->Stop(), "");
    }
  }

  // In `cgroup` from its first instruction on.
  void Start(const MemoryCgroup* cgroup = nullptr) {
    ASSERT_TRUE(cgroup == nullptr || cgroup->Join(::getpid()));
    daemon_ = TestDaemon::Start(DaemonKind::kChild);
    ASSERT_TRUE(cgroup == nullptr || cgroup->Leave(::getpid()));
    ASSERT_NE(daemon_, nullptr);
    broker_.emplace(Broker::Connect({.runtime_dir = daemon_->runtime_dir()}).value());
  }

  absl::StatusOr<CreatedBuffer> Create(const RegionSpec& region) {
    return broker_->CreateBuffer(
        {.regions = {region}, .attach = {EndpointId::kEp0, EndpointId::kEp1}});
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::optional<Broker> broker_;
};

// An operator: "one client asked for a large buffer, and the kernel killed the broker with the
// buffers of everybody else."
TEST_F(PlacementDaemon, SaysNoWhenItsCgroupIsFullInsteadOfBeingKilled) {
  const auto cgroup = MemoryCgroup::Create("full", 64 * kMiB);
  if (!cgroup) GTEST_SKIP() << "no memory cgroup can be made here";
  Start(cgroup.get());
  for (const uint64_t size : {64 * kMiB, 1024 * kMiB}) {
    const auto refused = Create(Plain(size, {}));
    EXPECT_THAT(refused.status(), StatusIs(absl::StatusCode::kResourceExhausted, "memory cgroup"));
    EXPECT_EQ(iob::ReasonOf(refused.status()), "QUOTA");
  }
  // As much as there is, in small buffers, and not one too many.
  std::vector<CreatedBuffer> held;
  for (int i = 0; i < 64; ++i) {
    auto made = Create(Plain(2 * kMiB, {}));
    if (!made.ok()) {
      EXPECT_THAT(made.status(), StatusIs(absl::StatusCode::kResourceExhausted, "raise /sys/fs"));
      break;
    }
    held.push_back(std::move(*made));
  }
  EXPECT_GT(held.size(), 4u);
  EXPECT_LT(held.size(), 32u);
  EXPECT_TRUE(daemon_->Healthy());
  EXPECT_EQ(cgroup->oom_kills(), 0u);
}

TEST_F(PlacementDaemon, ChargesWhoItSays) {
  const auto brokers = MemoryCgroup::Create("broker", 0);
  const auto clients = MemoryCgroup::Create("client", 0);
  if (!brokers || !clients) GTEST_SKIP() << "no memory cgroup can be made here";
  Start(brokers.get());
  for (const MemoryCharge charge : {MemoryCharge::kBroker, MemoryCharge::kFirstTouch}) {
    const bool lazy = charge == MemoryCharge::kFirstTouch;
    const uint64_t before = brokers->usage_bytes();
    ASSERT_OK_AND_ASSIGN(
        const CreatedBuffer made,
        Create(Plain(16 * kMiB, {.charge = charge, .required = {PlacementItem::kCharge}})));
    EXPECT_EQ(made.info.regions[0].placement.charge, charge);
    EXPECT_EQ(brokers->usage_bytes() >= before + 16 * kMiB, !lazy);
    Turn touched;
    Turn done;
    Child client([&] {
      ASSERT_TRUE(clients->Join(::getpid()));
      ASSERT_OK_AND_ASSIGN(Endpoint endpoint, Endpoint::Attach(made.tickets[0]));
      ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint.Map(0));
      for (uint64_t i = 0; i < 16 * kMiB; i += 4096) region.writable_bytes()[i] = std::byte{1};
      touched.Give();
      ASSERT_TRUE(done.Take());
    });
    ASSERT_TRUE(touched.Take());
    EXPECT_EQ(clients->usage_bytes() >= 16 * kMiB, lazy);
    EXPECT_EQ(brokers->usage_bytes() >= before + 16 * kMiB, !lazy);
    done.Give();
    EXPECT_EQ(client.Join(), 0);
  }
}

TEST_F(PlacementDaemon, KillsWhoTouchesMoreThanHisCgroupHoldsAndNobodyElse) {
  const auto clients = MemoryCgroup::Create("small", 16 * kMiB);
  if (!clients) GTEST_SKIP() << "no memory cgroup can be made here";
  Start();
  ASSERT_OK_AND_ASSIGN(const CreatedBuffer made,
                       Create(Plain(64 * kMiB, {.charge = MemoryCharge::kFirstTouch})));
  Child client([&] {
    ASSERT_TRUE(clients->Join(::getpid()));
    auto endpoint = Endpoint::Attach(made.tickets[0]);
    auto region = endpoint->Map(0);
    for (uint64_t i = 0; i < 64 * kMiB; i += 4096) region->writable_bytes()[i] = std::byte{1};
  });
  EXPECT_EQ(client.Join(), 128 + SIGKILL);
  EXPECT_TRUE(daemon_->Healthy());
}

TEST_F(PlacementDaemon, MapsInTheClientAsItWasPlaced) {
  Start();
  ASSERT_OK_AND_ASSIGN(
      const CreatedBuffer made,
      Create(Plain(4 * kMiB, {.huge_pages = HugePages::kTransparent,
                              .prefault = true,
                              .lock = true,
                              .numa_node = 0,
                              .sensitive = true,
                              .required = {PlacementItem::kPrefault, PlacementItem::kNumaNode,
                                           PlacementItem::kSensitive}})));
  const ObtainedPlacement& placement = made.info.regions[0].placement;
  EXPECT_TRUE(placement.prefault && placement.lock && placement.sensitive);
  EXPECT_EQ(placement.numa_node, 0u);
  ASSERT_OK_AND_ASSIGN(Endpoint endpoint, Endpoint::Attach(made.tickets[0]));
  ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint.Map(0));
  EXPECT_TRUE(HasVmFlag(region.bytes().data(), "dd"));
  EXPECT_TRUE(HasVmFlag(region.bytes().data(), "dc"));
  EXPECT_EQ(SmapsBytes(region.bytes().data(), "Rss"), 4 * kMiB);
  EXPECT_EQ(SmapsBytes(region.bytes().data(), "ShmemPmdMapped"), placement.huge_bytes);
}

TEST_F(PlacementDaemon, HandsOutHugePagesOfThePoolInWholeOnes) {
  const auto pool = HugePagePoolGuard::Grow(shm::kHugePageBytes, 2);
  if (!pool) GTEST_SKIP() << "this machine gives no huge pages of 2 MiB";
  Start();
  ASSERT_OK_AND_ASSIGN(const CreatedBuffer made,
                       Create(Plain(4 * kMiB, {.huge_pages = HugePages::k2MiB,
                                               .sensitive = true,
                                               .required = {PlacementItem::kHugePages}})));
  EXPECT_EQ(made.info.regions[0].placement.page_bytes, 2 * kMiB);
  ASSERT_OK_AND_ASSIGN(Endpoint endpoint, Endpoint::Attach(made.tickets[0]));
  ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint.Map(0));
  region.writable_bytes()[4 * kMiB - 1] = std::byte{1};
  EXPECT_TRUE(HasVmFlag(region.bytes().data(), "ht"));
  ASSERT_OK_AND_ASSIGN(MappedRegion window, endpoint.Map(0, 2 * kMiB, 2 * kMiB, Prot::kRead));
  EXPECT_EQ(window.bytes()[2 * kMiB - 1], std::byte{1});
  EXPECT_THAT(endpoint.Map(0, 4096, 4096, Prot::kRead).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, "page size 2097152"));
}

TEST_F(PlacementDaemon, FailsWithAWordOnHowToMendIt) {
  Start();
  const auto pool = shm::PoolOf(shm::kHugePageBytes);
  if (!pool) GTEST_SKIP() << "this machine has no huge pages of 2 MiB";
  const auto refused =
      Create(Plain((pool->free + 1) * shm::kHugePageBytes,
                   {.huge_pages = HugePages::k2MiB, .required = {PlacementItem::kHugePages}}));
  EXPECT_THAT(refused.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "raise vm.nr_hugepages"));
  EXPECT_EQ(iob::ReasonOf(refused.status()), "PLACEMENT");
}

TEST_F(PlacementDaemon, PlacesSharedRegionsForAllTheirBuffers) {
  Start();
  ASSERT_OK_AND_ASSIGN(const CreatedSharedRegion shared,
                       broker_->CreateSharedRegion(4 * kMiB, std::chrono::milliseconds(0),
                                                   {.lock = true, .sensitive = true}));
  EXPECT_TRUE(shared.info.placement.sensitive && shared.info.placement.lock);
  ASSERT_OK_AND_ASSIGN(const CreatedBuffer made, Create(SharedRingSpec(shared.handle)));
  EXPECT_TRUE(made.info.regions[0].placement.sensitive);
}

}  // namespace
}  // namespace iob::test
