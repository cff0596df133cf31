// Mappings: parts side by side, guards around them, no writing through what is read-only.
#include "shm/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <utility>

#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::MakeMemfd;
using test::StatusIs;

// One access that the compiler keeps.
std::byte Touch(const std::byte* address) {
  return *const_cast<const volatile std::byte*>(address);
}
void Scribble(const std::byte* address) {
  *const_cast<volatile std::byte*>(address) = std::byte{1};
}

uint64_t ValueOf(const SharedAtomic<uint64_t>& word) { return word.LoadAcquire().ForHintOnly(); }

// Whether the page is mapped at all, be it without any rights.
bool IsMapped(const std::byte* page) {
  unsigned char resident = 0;
  return ::mincore(const_cast<std::byte*>(page), PageBytes(), &resident) == 0;
}

TEST(Mapping, RoundsUpToPagesWithoutOverflow) {
  const uint64_t page = PageBytes();
  EXPECT_EQ(RoundUpToPages(0), 0u);
  EXPECT_EQ(RoundUpToPages(1), page);
  EXPECT_EQ(RoundUpToPages(page), page);
  EXPECT_EQ(RoundUpToPages(page + 1), 2 * page);
  EXPECT_EQ(RoundUpToPages(UINT64_MAX), UINT64_MAX - page + 1);
  EXPECT_EQ(RoundUpToPages(UINT64_MAX - page + 1), UINT64_MAX - page + 1);
}

TEST(Mapping, StartsZeroedAndIsShared) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping first, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping second, ReadOnlyMapping::Map(memfd));
  for (uint64_t i = 0; i < PageBytes(); i += 8) ASSERT_EQ(ValueOf(second.Word<uint64_t>(i)), 0u);
  first.Word<uint64_t>(PageBytes() - 8).StoreRelease(7);
  EXPECT_EQ(ValueOf(second.Word<uint64_t>(PageBytes() - 8)), 7u);
  std::array<std::byte, 8> copy = {};
  second.CopyOut(PageBytes() - 8, copy);
  EXPECT_EQ(copy[0], std::byte{7});
}

TEST(Mapping, PlacesPartsSideBySide) {
  const SealedMemfd first = MakeMemfd(PageBytes());
  const SealedMemfd second = MakeMemfd(3 * PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping at_first, Mapping::Map(first));
  ASSERT_OK_AND_ASSIGN(const Mapping at_second, Mapping::Map(second));
  at_first.Word<uint64_t>(PageBytes() - 8).StoreRelaxed(1);
  at_second.Word<uint64_t>(PageBytes()).StoreRelaxed(2);
  at_second.Word<uint64_t>(2 * PageBytes()).StoreRelaxed(3);
  const std::array<Part, 4> parts = {
      Part{.memfd = &first, .size_bytes = PageBytes()}, Part{.memfd = &first, .size_bytes = 0},
      Part{.memfd = &second, .offset_bytes = PageBytes(), .size_bytes = 2 * PageBytes()},
      Part{.memfd = &first, .size_bytes = PageBytes(), .writable = true}};
  ASSERT_OK_AND_ASSIGN(const AddressRange range, AddressRange::MapParts(parts, OnFork::kShare));
  EXPECT_EQ(range.size_bytes(), 4 * PageBytes());
  EXPECT_EQ(Touch(range.base() + PageBytes() - 8), std::byte{1});
  EXPECT_EQ(Touch(range.base() + PageBytes()), std::byte{2});
  EXPECT_EQ(Touch(range.base() + 2 * PageBytes()), std::byte{3});
  Scribble(range.base() + 3 * PageBytes());
  EXPECT_EQ(ValueOf(at_first.Word<uint64_t>(0)), 1u);
}

TEST(Mapping, ShowsTheSameWindowTwiceInARow) {
  const SealedMemfd memfd = MakeMemfd(3 * PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping doubled,
                       Mapping::MapWindow(memfd, PageBytes(), PageBytes(), 2, OnFork::kShare));
  ASSERT_EQ(doubled.size_bytes(), 2 * PageBytes());
  doubled.Word<uint64_t>(PageBytes() + 16).StoreRelaxed(9);
  EXPECT_EQ(ValueOf(doubled.Word<uint64_t>(16)), 9u);
  ASSERT_OK_AND_ASSIGN(const Mapping whole, Mapping::Map(memfd));
  EXPECT_EQ(ValueOf(whole.Word<uint64_t>(PageBytes() + 16)), 9u);
}

TEST(Mapping, RefusesPartsOutsideTheirSection) {
  const SealedMemfd memfd = MakeMemfd(2 * PageBytes());
  const uint64_t page = PageBytes();
  const uint64_t top = UINT64_MAX - page + 1;
  const std::array<std::pair<uint64_t, uint64_t>, 7> windows = {{{0, 3 * page},
                                                                 {page, 2 * page},
                                                                 {2 * page, page},
                                                                 {3 * page, 0},
                                                                 {top, page},
                                                                 {page, top},
                                                                 {top, top}}};
  for (const auto& [offset, size] : windows) {
    EXPECT_THAT(Mapping::MapWindow(memfd, offset, size, 1, OnFork::kShare),
                StatusIs(absl::StatusCode::kInvalidArgument, "leaves a section"))
        << offset << " + " << size;
  }
}

TEST(Mapping, RefusesPartsOffAPageBoundary) {
  const SealedMemfd memfd = MakeMemfd(2 * PageBytes());
  for (const auto& [offset, size] : {std::pair<uint64_t, uint64_t>{8, PageBytes()},
                                     {0, PageBytes() + 8},
                                     {PageBytes() - 1, 1}}) {
    EXPECT_THAT(Mapping::MapWindow(memfd, offset, size, 1, OnFork::kShare),
                StatusIs(absl::StatusCode::kInvalidArgument, "page boundaries"));
  }
  EXPECT_THAT(Mapping::Map(MakeMemfd(100)), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(Mapping, SaysWhenTheAddressSpaceIsFull) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer needs the address space that this test takes away";
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
  GTEST_SKIP() << "the sanitizer needs the address space that this test takes away";
#endif
#endif
  test::ExpectInChild([] {
    const SealedMemfd memfd = MakeMemfd(PageBytes());
    const rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
    EXPECT_THAT(Mapping::Map(memfd), StatusIs(absl::StatusCode::kResourceExhausted, "mmap of"));
  });
}

TEST(Mapping, UnmapsEverythingWhenItDies) {
  const SealedMemfd memfd = MakeMemfd(2 * PageBytes());
  const std::byte* base = nullptr;
  {
    ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
    base = mapping.base();
    EXPECT_TRUE(IsMapped(base) && IsMapped(base - PageBytes()) && IsMapped(base + 2 * PageBytes()));
  }
  for (int64_t page = -1; page <= 2; ++page) {
    EXPECT_FALSE(IsMapped(base + page * static_cast<int64_t>(PageBytes())));
  }
}

TEST(Mapping, UnmapsWhatItWasAssignedOver) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(Mapping first, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(Mapping second, Mapping::Map(memfd));
  const std::byte* const dropped = first.base();
  const std::byte* const kept = second.base();
  first = std::move(second);
  EXPECT_EQ(first.base(), kept);
  EXPECT_FALSE(IsMapped(dropped));
  Touch(first.base());
}

TEST(Mapping, LeavesNothingBehindWhenOnePartFails) {
  SealedMemfd sealed = MakeMemfd(PageBytes());
  ASSERT_THAT(sealed.SealAgainstWriters(), IsOk());
  const Part reading{.memfd = &sealed, .size_bytes = PageBytes()};
  const Part writing{.memfd = &sealed, .size_bytes = PageBytes(), .writable = true};
  const auto count = [] {
    std::FILE* const maps = std::fopen("/proc/self/maps", "r");
    char line[512];
    int found = 0;
    while (std::fgets(line, sizeof(line), maps) != nullptr) {
      found += std::string(line).find("iob-test") != std::string::npos ? 1 : 0;
    }
    std::fclose(maps);
    return found;
  };
  EXPECT_THAT(AddressRange::MapParts(std::array{reading, writing}, OnFork::kShare),
              StatusIs(absl::StatusCode::kInternal, "writable"));
  EXPECT_EQ(count(), 0);
}

TEST(Mapping, SharesWithAForkedChildOrDropsAsTold) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping shared, Mapping::Map(memfd, OnFork::kShare));
  ASSERT_OK_AND_ASSIGN(const Mapping dropped, Mapping::Map(memfd, OnFork::kDrop));
  test::ExpectInChild([&] {
    EXPECT_TRUE(IsMapped(shared.base()));
    shared.Word<uint64_t>(0).StoreRelease(5);
    EXPECT_FALSE(IsMapped(dropped.base()));
  });
  EXPECT_EQ(ValueOf(dropped.Word<uint64_t>(0)), 5u);
}

TEST(MappingDeathTest, FaultsOnBothSides) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping writing, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping reading, ReadOnlyMapping::Map(memfd));
  for (const std::byte* base : {static_cast<const std::byte*>(writing.base()), reading.base()}) {
    Touch(base);
    Touch(base + PageBytes() - 1);
    EXPECT_DEATH(Touch(base - 1), "");
    EXPECT_DEATH(Touch(base - PageBytes()), "");
    EXPECT_DEATH(Touch(base + PageBytes()), "");
    EXPECT_DEATH(Touch(base + 2 * PageBytes() - 1), "");
  }
}

TEST(MappingDeathTest, FaultsOnAWriteToWhatIsReadOnly) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping reading, ReadOnlyMapping::Map(memfd));
  EXPECT_DEATH(Scribble(reading.base()), "");
}

TEST(MappingDeathTest, AbortsOnAWordOutsideOrMisaligned) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping writing, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping reading, ReadOnlyMapping::Map(memfd));
  for (const uint64_t offset : {PageBytes() - 4, PageBytes(), uint64_t{4}, UINT64_MAX - 7}) {
    EXPECT_DEATH(writing.Word<uint64_t>(offset), "broken");
    EXPECT_DEATH(reading.Word<uint64_t>(offset), "broken");
  }
  std::array<std::byte, 16> target = {};
  EXPECT_DEATH(reading.CopyOut(PageBytes() - 8, target), "broken");
  EXPECT_DEATH(reading.CopyOut(UINT64_MAX - 7, target), "broken");
}

}  // namespace
}  // namespace iob::shm
