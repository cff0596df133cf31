// Sections and how they are placed: what the kernel gave is read back from the kernel.
#include "shm/section.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "shm/kernel.h"
#include "shm/mapping.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/shm_process.h"
#include "tests/support/smaps.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Child;
using test::HasVmFlag;
using test::IsOk;
using test::SmapsBytes;
using test::StatusIs;

constexpr uint64_t kMiB = uint64_t{1} << 20;

SealedMemfd Make(uint64_t size_bytes, const Placement& placement) {
  auto made = MakeSection("iob-test-section", size_bytes, placement);
  EXPECT_THAT(made.status(), IsOk());
  return std::move(*made);
}

uint64_t AllocatedBytes(const SealedMemfd& memfd) {
  struct stat status = {};
  EXPECT_EQ(::fstat(memfd.fd(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

// Found out without our own code, so that a mistake of ours does not pass for the kernel's.
bool KernelGathersHugePages() {
  const UniqueFd fd(::memfd_create("iob-test-huge", MFD_CLOEXEC));
  if (::ftruncate(fd.get(), kHugePageBytes) != 0) return false;
  void* const reserved = ::mmap(nullptr, 2 * kHugePageBytes, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto* const aligned = reinterpret_cast<std::byte*>(
      (reinterpret_cast<uintptr_t>(reserved) + kHugePageBytes - 1) & ~(kHugePageBytes - 1));
  ::mmap(aligned, kHugePageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd.get(), 0);
  std::memset(aligned, 1, kHugePageBytes);
  const bool gathered = ::madvise(aligned, kHugePageBytes, MADV_COLLAPSE) == 0;
  ::munmap(reserved, 2 * kHugePageBytes);
  return gathered;
}

TEST(Section, IsAllocatedUnlessItIsSparse) {
  EXPECT_EQ(AllocatedBytes(Make(kMiB, {})), kMiB);
  const SealedMemfd sparse = Make(kMiB, {.sparse = true, .sensitive = true});
  EXPECT_EQ(AllocatedBytes(sparse), 0u) << "whoever keeps it to wipe it does not touch it";
  EXPECT_EQ(::ftruncate(sparse.fd(), 0), -1) << "its size is sealed all the same";
}

TEST(Section, OfNoBytesCanBePlacedAnyhow) {
  EXPECT_THAT(
      MakeSection("iob-test", 0, {.transparent = true, .lock = true, .sensitive = true}).status(),
      IsOk());
}

TEST(Section, LiesInTransparentHugePagesWhereTheKernelCanGatherThem) {
  if (!KernelGathersHugePages()) GTEST_SKIP() << "no huge pages for shared memory (Linux 6.1)";
  const SealedMemfd small_pages = Make(4 * kMiB, {});
  ASSERT_OK_AND_ASSIGN(const uint64_t none, HugeBytesOf(small_pages));
  EXPECT_EQ(none, 0u);
  const SealedMemfd memfd = Make(5 * kMiB, {.transparent = true});
  ASSERT_OK_AND_ASSIGN(const uint64_t huge_bytes, HugeBytesOf(memfd));
  EXPECT_EQ(huge_bytes, 4 * kMiB) << "its last MiB is half a huge page";
  // Every mapping of it has the use of them.
  ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
  mapping.base()[3 * kMiB] = std::byte{7};
  EXPECT_GE(SmapsBytes(mapping.base(), "ShmemPmdMapped"), 2 * kMiB);
}

TEST(Section, OfAWindowInHugePagesIsMappedWhereTheyFit) {
  if (!KernelGathersHugePages()) GTEST_SKIP() << "no huge pages for shared memory (Linux 6.1)";
  SealedMemfd memfd = Make(6 * kMiB, {.transparent = true, .prefault = true});
  ASSERT_OK_AND_ASSIGN(const Mapping window,
                       Mapping::MapWindow(memfd, kMiB, 5 * kMiB, 1, OnFork::kShare));
  EXPECT_EQ(SmapsBytes(window.base(), "ShmemPmdMapped"), 4 * kMiB);
}

class Pool : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Pool, ::testing::Values(kHugePageBytes, kGiganticPageBytes));

TEST_P(Pool, GivesPagesThatAreSealedMappedAndGivenBack) {
  const uint64_t page = GetParam();
  // A GiB takes seconds to zero: one of them has to do.
  const uint64_t pages = page == kHugePageBytes ? 2 : 1;
  const uint64_t last = (pages - 1) * page;
  const auto pool = test::HugePagePoolGuard::Grow(page, pages);
  if (!pool) GTEST_SKIP() << "this machine gives no huge pages of " << page << " bytes";
  const uint64_t free = PoolOf(page)->free;
  {
    SealedMemfd memfd = Make(pages * page, {.pool_page_bytes = page});
    EXPECT_EQ(memfd.page_bytes(), page);
    EXPECT_EQ(PoolOf(page)->free, free - pages) << "taken at once, not at the first touch";
    EXPECT_EQ(HugeBytesOf(memfd).value(), pages * page);
    ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
    mapping.base()[last] = std::byte{1};
    EXPECT_TRUE(HasVmFlag(mapping.base(), "ht"));
    ASSERT_OK_AND_ASSIGN(const Mapping second,
                         Mapping::MapWindow(memfd, last, page, 1, OnFork::kDrop));
    EXPECT_EQ(second.base()[0], std::byte{1});
    EXPECT_THAT(Mapping::MapWindow(memfd, PageBytes(), page, 1, OnFork::kDrop).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, "page boundaries"));
    EXPECT_EQ(::ftruncate(memfd.fd(), 0), -1);
    ASSERT_THAT(memfd.SealAgainstWriters(), IsOk());
    EXPECT_THAT(Mapping::Map(memfd).status(), ::testing::Not(IsOk()));
    ASSERT_OK_AND_ASSIGN(UniqueFd grant, memfd.OpenGrant(FdMode::kReadOnly));
    ASSERT_OK_AND_ASSIGN(const SealedMemfd adopted,
                         SealedMemfd::Adopt(std::move(grant), pages * page, true));
    EXPECT_EQ(adopted.page_bytes(), page) << "a peer finds it out by itself";
  }
  EXPECT_EQ(PoolOf(page)->free, free);
}

TEST_P(Pool, ThatIsTooSmallIsSaidAndLeavesNothingBehind) {
  const uint64_t page = GetParam();
  const auto pool = PoolOf(page);
  if (!pool) GTEST_SKIP() << "this machine has no huge pages of " << page << " bytes";
  const auto made = MakeSection("iob-test", (pool->free + 1) * page, {.pool_page_bytes = page});
  EXPECT_THAT(made.status(), StatusIs(absl::StatusCode::kResourceExhausted, "nr_hugepages"));
  EXPECT_EQ(FailedItem(made.status()), PlacementItem::kHugePages);
  EXPECT_EQ(PoolOf(page)->free, pool->free);
}

TEST(Section, ThatIsLockedStaysInMemoryForAsLongAsItLives) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer makes mlock do nothing";
#endif
  const SealedMemfd memfd = Make(kMiB, {.lock = true});
  std::ifstream status("/proc/self/status");
  uint64_t locked_kib = 0;
  for (std::string line; std::getline(status, line);)
    std::sscanf(line.c_str(), "VmLck: %" SCNu64, &locked_kib);
  EXPECT_GE(locked_kib, 1024u);
}

TEST(Section, ThatCannotBeLockedNamesTheLimit) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer makes mlock do nothing";
#endif
  test::ExpectInChild([] {
    const rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    // Root may lock what it likes.
    if (::getuid() == 0) {
      ASSERT_EQ(::setresuid(65534, 65534, 65534), 0);
    }
    const auto made = MakeSection("iob-test", kMiB, {.lock = true});
    EXPECT_THAT(made.status(),
                StatusIs(absl::StatusCode::kResourceExhausted, "RLIMIT_MEMLOCK is 65536 bytes"));
    EXPECT_EQ(FailedItem(made.status()), PlacementItem::kLock);
  });
}

TEST(Section, LiesOnItsNode) {
  const uint32_t node = MemoryNodes().front();
  const SealedMemfd memfd = Make(kMiB, {.numa_node = node});
  EXPECT_EQ(NodeOf(memfd), node);
  const auto made = MakeSection("iob-test", kMiB, {.numa_node = MemoryNodes().back() + 1});
  EXPECT_THAT(made.status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "nodes with memory here: 0"));
  EXPECT_EQ(FailedItem(made.status()), PlacementItem::kNumaNode);
}

TEST(Section, ThatIsPrefaultedIsMappedWholeAtOnce) {
  for (const bool prefault : {false, true}) {
    const SealedMemfd memfd = Make(kMiB, {.prefault = prefault});
    ASSERT_OK_AND_ASSIGN(const Mapping writable, Mapping::Map(memfd));
    EXPECT_EQ(SmapsBytes(writable.base(), "Rss"), prefault ? kMiB : 0);
    ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping readable, ReadOnlyMapping::Map(memfd));
    EXPECT_EQ(SmapsBytes(readable.base(), "Rss"), prefault ? kMiB : 0);
  }
}

TEST(SensitiveSection, IsNeitherDumpedNorInherited) {
  const SealedMemfd memfd = Make(kMiB, {.sensitive = true});
  ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping readable, ReadOnlyMapping::Map(memfd));
  for (const std::byte* const address :
       {static_cast<const std::byte*>(mapping.base()), readable.base()}) {
    EXPECT_TRUE(HasVmFlag(address, "dd"));
    EXPECT_TRUE(HasVmFlag(address, "dc"));
    EXPECT_EQ(Child([address] {
                unsigned char resident = 0;
                EXPECT_EQ(::mincore(const_cast<std::byte*>(address), PageBytes(), &resident), -1);
                EXPECT_EQ(errno, ENOMEM) << "there is no mapping in the child";
              }).Join(),
              0);
  }
}

// A user: "our key was in the core file that we sent to the vendor."
TEST(SensitiveSection, IsNotInACoreFile) {
  std::string pattern;
  std::getline(std::ifstream("/proc/sys/kernel/core_pattern") >> std::ws, pattern);
  if (pattern.empty() || pattern.find_first_of("|/@") != std::string::npos)
    GTEST_SKIP() << "core files of this machine go elsewhere: " << pattern;
  const auto directory =
      std::filesystem::temp_directory_path() / ("iob-core-" + std::to_string(::getpid()));
  std::filesystem::create_directory(directory);
  const int ended = Child([&] {
                      const rlimit limit = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
                      ::setrlimit(RLIMIT_CORE, &limit);
                      IOB_CHECK(::chdir(directory.c_str()) == 0);
                      for (const bool sensitive : {false, true}) {
                        const SealedMemfd memfd = Make(PageBytes(), {.sensitive = sensitive});
                        auto mapping = Mapping::Map(memfd);
                        // Put together here, so that no other memory has them in one piece.
                        std::string word = sensitive ? "terces-" : "nialp-";
                        for (char& letter : word) letter = static_cast<char>(letter ^ 0x20);
                        for (int i = 0; i < 64; ++i)
                          std::memcpy(mapping->base() + i * 16, word.data(), word.size());
                        new Mapping(std::move(*mapping));
                      }
                      ::signal(SIGABRT, SIG_DFL);
                      ::abort();
                    }).Join();
  EXPECT_EQ(ended, 128 + SIGABRT);
  std::string core;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    core += text.str();
  }
  std::filesystem::remove_all(directory);
  if (core.empty()) GTEST_SKIP() << "this machine writes no core files here";
  const auto count = [&core](std::string word) {
    for (char& letter : word) letter = static_cast<char>(letter ^ 0x20);
    int found = 0;
    for (size_t at = core.find(word); at != std::string::npos; at = core.find(word, at + 1))
      ++found;
    return found;
  };
  EXPECT_GE(count("nialp-"), 64) << "other memory is dumped as ever";
  EXPECT_LT(count("terces-"), 2) << "but for the string it was made from";
}

TEST(SensitiveSection, IsZeroedWhenItIsReleased) {
  for (const bool sensitive : {true, false}) {
    for (const bool sealed : {true, false}) {
      std::optional<ReadOnlyMapping> late;
      {
        SealedMemfd memfd = Make(kMiB, {.sensitive = sensitive});
        ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
        mapping.base()[5] = std::byte{0x5e};
        mapping.base()[kMiB - 1] = std::byte{0x5e};
        if (sealed) {
          ASSERT_THAT(memfd.SealAgainstWriters(), IsOk());
        }
        ASSERT_OK_AND_ASSIGN(ReadOnlyMapping mapped, ReadOnlyMapping::Map(memfd));
        late = std::move(mapped);
      }
      EXPECT_EQ(late->base()[5], sensitive ? std::byte{0} : std::byte{0x5e});
      EXPECT_EQ(late->base()[kMiB - 1], sensitive ? std::byte{0} : std::byte{0x5e});
    }
  }
}

TEST(SensitiveSection, IsZeroedWhenAnotherTakesItsPlace) {
  SealedMemfd memfd = Make(PageBytes(), {.sensitive = true});
  ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(memfd));
  mapping.base()[0] = std::byte{1};
  memfd = Make(PageBytes(), {});
  EXPECT_EQ(mapping.base()[0], std::byte{0});
}

}  // namespace
}  // namespace iob::shm
