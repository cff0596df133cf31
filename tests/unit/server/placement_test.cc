// Placement: every wish that is refused, what the others become on this machine, and that what is
// told as obtained was obtained.
#include "server/placement.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/mapping.h"
#include "shm/section.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/smaps.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr uint64_t kMiB = uint64_t{1} << 20;

v1::Placement Huge(v1::HugePages huge_pages, bool required = false) {
  v1::Placement wish;
  wish.set_huge_pages(huge_pages);
  if (required) wish.add_require(v1::PLACEMENT_ITEM_HUGE_PAGES);
  return wish;
}

absl::Status Check(const v1::Placement& wish, uint64_t size_bytes = 2 * kMiB,
                   v1::Discipline discipline = v1::DISCIPLINE_NONE, bool shared = false) {
  return CheckPlacement(wish, {.argument = "regions[3]",
                               .discipline = discipline,
                               .size_bytes = size_bytes,
                               .shared = shared});
}

absl::StatusOr<Region> Create(const RegionSpec& base, const v1::Placement& wish) {
  RegionSpec spec = base;
  spec.placement = wish;
  auto checked = ValidateRegionSpec(spec, 0, Limits(), [](const Token&) {
    return absl::StatusOr<SharedRegion*>(absl::InternalError("no shared region"));
  });
  if (!checked.ok()) return checked.status();
  return Region::Create(*checked, /*koid=*/1);
}

TEST(PlacementCheck, HugePagesOfThePoolAreForPlainMemoryOfWholeOnes) {
  EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_2M), 2 * kMiB), IsOk());
  EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_1G), 1024 * kMiB), IsOk());
  for (const uint64_t size : {uint64_t{0}, uint64_t{4096}, 3 * kMiB}) {
    EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_2M), size),
                StatusIs(kInvalid, "must be a multiple of 2097152"));
  }
  EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_1G), 2 * kMiB), StatusIs(kInvalid, "1073741824"));
  for (const v1::Discipline discipline :
       {v1::DISCIPLINE_MEDIATED_RING, v1::DISCIPLINE_ID_ALLOCATOR, v1::DISCIPLINE_RESERVE_RING,
        v1::DISCIPLINE_BROADCAST, v1::DISCIPLINE_SLOT}) {
    EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_2M), 2 * kMiB, discipline),
                StatusIs(kInvalid, "TRANSPARENT works"));
    EXPECT_THAT(Check(Huge(v1::HUGE_PAGES_TRANSPARENT), 4096, discipline), IsOk());
  }
  EXPECT_THAT(Check(Huge(static_cast<v1::HugePages>(9))), StatusIs(kInvalid, "huge_pages"));
}

TEST(PlacementCheck, WhoTouchesFirstCannotPayForWhatTheBrokerTouches) {
  v1::Placement wish;
  wish.set_charge(v1::MEMORY_CHARGE_FIRST_TOUCH);
  EXPECT_THAT(Check(wish), IsOk());
  EXPECT_THAT(Check(wish, 8192, v1::DISCIPLINE_MEDIATED_RING), StatusIs(kInvalid, "FIRST_TOUCH"));
  EXPECT_THAT(Check(wish, 8192, v1::DISCIPLINE_BROADCAST), StatusIs(kInvalid, "FIRST_TOUCH"));
  wish.set_lock(true);
  EXPECT_THAT(Check(wish), StatusIs(kInvalid, "locking touches every page"));
  wish.set_lock(false);
  wish.set_huge_pages(v1::HUGE_PAGES_2M);
  EXPECT_THAT(Check(wish), StatusIs(kInvalid, "SIGBUS"));
  wish.set_charge(v1::MEMORY_CHARGE_POOL);
  EXPECT_THAT(Check(wish), StatusIs(kInvalid, "POOL cannot be asked for"));
  wish.set_charge(static_cast<v1::MemoryCharge>(7));
  EXPECT_THAT(Check(wish), StatusIs(kInvalid, "charge"));
}

TEST(PlacementCheck, OnlyWhatIsAskedForCanBeRequired) {
  for (int item = v1::PLACEMENT_ITEM_HUGE_PAGES; item <= v1::PLACEMENT_ITEM_SENSITIVE; ++item) {
    v1::Placement wish;
    wish.add_require(static_cast<v1::PlacementItem>(item));
    EXPECT_THAT(Check(wish), StatusIs(kInvalid, "not asked for")) << item;
    wish.set_huge_pages(v1::HUGE_PAGES_TRANSPARENT);
    wish.set_prefault(true);
    wish.set_lock(true);
    wish.set_numa_node(0);
    wish.set_charge(v1::MEMORY_CHARGE_BROKER);
    wish.set_sensitive(true);
    EXPECT_THAT(Check(wish), IsOk()) << item;
  }
  v1::Placement unknown;
  unknown.add_require(static_cast<v1::PlacementItem>(99));
  EXPECT_THAT(Check(unknown), StatusIs(kInvalid, "99"));
  v1::Placement pool = Huge(v1::HUGE_PAGES_2M);
  pool.set_charge(v1::MEMORY_CHARGE_BROKER);
  pool.add_require(v1::PLACEMENT_ITEM_CHARGE);
  EXPECT_THAT(Check(pool), StatusIs(kInvalid, "nobody's memory cgroup"));
}

TEST(PlacementCheck, NodesHaveSmallNumbersAndSharedRegionsHaveAPlaceAlready) {
  v1::Placement wish;
  wish.set_numa_node(1023);
  EXPECT_THAT(Check(wish), IsOk());
  EXPECT_THAT(Check(wish, 8192, v1::DISCIPLINE_MEDIATED_RING, /*shared=*/true),
              StatusIs(kInvalid, "placed with its object"));
  wish.set_numa_node(1024);
  EXPECT_THAT(Check(wish), StatusIs(kInvalid, "1024, at most 1023"));
}

TEST(Placement, OfNothingWishedForIsOrdinaryMemoryOfTheBroker) {
  const auto region = Create(PlainSpec(8192), {});
  ASSERT_THAT(region.status(), IsOk());
  EXPECT_EQ(region->placement().huge_pages(), v1::HUGE_PAGES_NONE);
  EXPECT_EQ(region->placement().page_bytes(), shm::PageBytes());
  EXPECT_EQ(region->placement().charge(), v1::MEMORY_CHARGE_BROKER);
  EXPECT_EQ(region->placement().shortfalls_size(), 0);
  EXPECT_FALSE(region->sensitive());
}

TEST(Placement, HugePagesOfAnEmptyPoolFallShortOrFailWhenRequired) {
  const auto pool = shm::PoolOf(shm::kHugePageBytes);
  if (!pool) GTEST_SKIP() << "this machine has no huge pages of 2 MiB";
  const uint64_t size = (pool->free + 2) * shm::kHugePageBytes;
  const auto made = Create(PlainSpec(size), Huge(v1::HUGE_PAGES_2M));
  ASSERT_THAT(made.status(), IsOk());
  const v1::ObtainedPlacement& got = made->placement();
  ASSERT_GE(got.shortfalls_size(), 1);
  EXPECT_EQ(got.shortfalls(0).item(), v1::PLACEMENT_ITEM_HUGE_PAGES);
  EXPECT_THAT(got.shortfalls(0).why(), HasSubstr("raise vm.nr_hugepages"));
  EXPECT_EQ(got.charge(), v1::MEMORY_CHARGE_BROKER);
  EXPECT_EQ(got.page_bytes(), shm::PageBytes());
  EXPECT_EQ(got.huge_bytes() != 0, got.huge_pages() == v1::HUGE_PAGES_TRANSPARENT)
      << "the next smaller kind was tried, and counted";

  const auto refused = Create(PlainSpec(size), Huge(v1::HUGE_PAGES_2M, /*required=*/true));
  EXPECT_THAT(refused.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "HUGE_PAGES is required"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("vm.nr_hugepages"));
  EXPECT_EQ(ReasonOf(refused.status()), v1::ERROR_REASON_PLACEMENT);
}

TEST(Placement, HugePagesOfThePoolAreNobodysCharge) {
  const auto pool = test::HugePagePoolGuard::Grow(shm::kHugePageBytes, 2);
  if (!pool) GTEST_SKIP() << "this machine gives no huge pages of 2 MiB";
  const auto made = Create(PlainSpec(4 * kMiB), Huge(v1::HUGE_PAGES_2M, /*required=*/true));
  ASSERT_THAT(made.status(), IsOk());
  EXPECT_EQ(made->placement().huge_pages(), v1::HUGE_PAGES_2M);
  EXPECT_EQ(made->placement().huge_bytes(), 4 * kMiB);
  EXPECT_EQ(made->placement().page_bytes(), shm::kHugePageBytes);
  EXPECT_EQ(made->placement().charge(), v1::MEMORY_CHARGE_POOL);
  EXPECT_FALSE(TakesOrdinaryMemory(Huge(v1::HUGE_PAGES_2M), 0));
}

TEST(Placement, TransparentHugePagesAreCountedInEveryDiscipline) {
  const auto made = Create(RingSpec(8 * kMiB), Huge(v1::HUGE_PAGES_TRANSPARENT));
  ASSERT_THAT(made.status(), IsOk());
  uint64_t huge_bytes = 0;
  for (const shm::SealedMemfd* const section : made->Sections())
    huge_bytes += shm::HugeBytesOf(*section).value();
  EXPECT_EQ(made->placement().huge_bytes(), huge_bytes);
  EXPECT_EQ(made->placement().shortfalls_size() == 0, huge_bytes == 8 * kMiB)
      << "its records and its ledger page make four whole ones";
  // Too small for one.
  const auto refused =
      Create(RingSpec(64 << 10), Huge(v1::HUGE_PAGES_TRANSPARENT, /*required=*/true));
  EXPECT_THAT(refused.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "no part of it has 2 MiB"));
}

TEST(Placement, ANodeThatIsNotThereFallsShortOrFailsWhenRequired) {
  v1::Placement wish;
  wish.set_numa_node(shm::MemoryNodes().front());
  const auto there = Create(RingSpec(), wish);
  ASSERT_THAT(there.status(), IsOk());
  EXPECT_EQ(there->placement().numa_node(), shm::MemoryNodes().front());
  wish.set_numa_node(1000);
  const auto made = Create(RingSpec(), wish);
  ASSERT_THAT(made.status(), IsOk());
  EXPECT_FALSE(made->placement().has_numa_node());
  ASSERT_EQ(made->placement().shortfalls_size(), 1);
  EXPECT_THAT(made->placement().shortfalls(0).why(), HasSubstr("nodes with memory here"));
  wish.add_require(v1::PLACEMENT_ITEM_NUMA_NODE);
  const auto refused = Create(RingSpec(), wish);
  EXPECT_THAT(refused.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "NUMA_NODE is required"));
}

TEST(Placement, MemoryOfWhoTouchesItFirstIsNotThereYet) {
  v1::Placement wish;
  wish.set_charge(v1::MEMORY_CHARGE_FIRST_TOUCH);
  wish.set_numa_node(0);
  wish.set_sensitive(true);
  wish.set_huge_pages(v1::HUGE_PAGES_TRANSPARENT);
  const auto made = Create(PlainSpec(4 * kMiB), wish);
  ASSERT_THAT(made.status(), IsOk());
  struct stat status = {};
  ASSERT_EQ(::fstat(made->Sections().front()->fd(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0) << "looking at it has not touched it";
  EXPECT_EQ(made->placement().charge(), v1::MEMORY_CHARGE_FIRST_TOUCH);
  EXPECT_THAT(made->placement().shortfalls(0).why(), HasSubstr("nothing is allocated yet"));
  EXPECT_FALSE(TakesOrdinaryMemory(wish, 4 * kMiB));
}

TEST(Placement, EveryDisciplineCanBeLockedPrefaultedAndSensitive) {
  v1::Placement wish;
  wish.set_lock(true);
  wish.set_prefault(true);
  wish.set_sensitive(true);
  RegionSpec ids = PlainSpec(8192, 0x81);
  ids.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
  RegionSpec lanes = PlainSpec(16384, 0x31);
  lanes.discipline = v1::DISCIPLINE_RESERVE_RING;
  RegionSpec broadcast = lanes;
  broadcast.discipline = v1::DISCIPLINE_BROADCAST;
  for (const RegionSpec& spec : {PlainSpec(8192), RingSpec(), ids, lanes, broadcast}) {
    const auto made = Create(spec, wish);
    ASSERT_THAT(made.status(), IsOk()) << v1::Discipline_Name(spec.discipline);
    EXPECT_TRUE(made->sensitive());
    EXPECT_TRUE(made->placement().lock());
    EXPECT_TRUE(made->placement().prefault());
    EXPECT_EQ(made->placement().shortfalls_size(), 0);
    // The broker's own mappings obey, too.
    for (const shm::SealedMemfd* const section : made->Sections()) {
      EXPECT_TRUE(section->map_policy().secret);
      EXPECT_TRUE(section->map_policy().prefault);
    }
  }
}

}  // namespace
}  // namespace iob::server
