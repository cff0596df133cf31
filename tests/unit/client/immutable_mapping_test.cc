// Memory that is mapped because nobody can change it: empty, lazy, eager, and what is refused.
#include "client/immutable_mapping.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "client/snapshot.h"
#include "shm/frozen_memfd.h"
#include "shm/mapping.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

constexpr uint64_t kBytes = 64 << 10;

shm::UniqueFd Frozen() {
  shm::FreshMemfd fresh = shm::FreshMemfd::Create(kBytes).value();
  const std::vector<std::byte> text(7, std::byte{'7'});
  IOB_CHECK(fresh.Write(0, text).ok());
  return std::move(fresh).Freeze().value().Release();
}

size_t PagesMapped(const ImmutableMapping& mapping) {
  // Which are in this process's page tables, not only in memory.
  const shm::UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  size_t mapped = 0;
  for (uint64_t at = 0; at < mapping.size_bytes(); at += shm::PageBytes()) {
    uint64_t entry = 0;
    const auto address = reinterpret_cast<uintptr_t>(mapping.bytes().data()) + at;
    EXPECT_EQ(::pread(pagemap.get(), &entry, 8, static_cast<off_t>(address / shm::PageBytes() * 8)),
              8);
    mapped += entry >> 63;
  }
  return mapped;
}

TEST(ImmutableMapping, OfNothingIsEmptyAndNeedsNoDescriptor) {
  ASSERT_OK_AND_ASSIGN(const ImmutableMapping mapping, ImmutableMapping::Map(shm::UniqueFd(), 0));
  EXPECT_TRUE(mapping.empty());
  EXPECT_TRUE(mapping.bytes().empty());
  EXPECT_TRUE(ImmutableMapping().empty());
}

TEST(ImmutableMapping, ReadsWhatIsThereThenZerosToThePage) {
  for (const Populate populate : {Populate::kLazy, Populate::kEager}) {
    ASSERT_OK_AND_ASSIGN(const ImmutableMapping mapping,
                         ImmutableMapping::Map(Frozen(), kBytes, populate));
    EXPECT_EQ(PagesMapped(mapping), populate == Populate::kEager ? kBytes / shm::PageBytes() : 0);
    for (size_t i = 0; i < kBytes; ++i)
      ASSERT_EQ(mapping.bytes()[i], i < 7 ? std::byte{'7'} : std::byte{0}) << i;
  }
}

TEST(ImmutableMapping, RefusesMemoryThatCouldChange) {
  const shm::SealedMemfd sized = shm::Memfd::Create("not frozen").value().SealSize(kBytes).value();
  const auto mapped =
      ImmutableMapping::Map(sized.OpenGrant(shm::FdMode::kReadOnly).value(), kBytes);
  EXPECT_THAT(mapped, StatusIs(absl::StatusCode::kFailedPrecondition, "could still change"));
  EXPECT_THAT(ImmutableMapping::Map(Frozen(), kBytes / 2),
              StatusIs(absl::StatusCode::kFailedPrecondition, "were announced"));
}

TEST(Snapshot, RefusesSectionsThatDoNotLieInItsMemory) {
  const auto make = [](std::vector<SnapshotSection> sections) {
    SnapshotInfo info;
    info.regions.push_back({.sections = std::move(sections)});
    return Snapshot::Make(std::move(info), ImmutableMapping::Map(Frozen(), kBytes).value());
  };
  EXPECT_THAT(make({{.offset_bytes = 0, .size_bytes = kBytes}}), IsOk());
  EXPECT_THAT(
      make({{.offset_bytes = 0, .size_bytes = 4096}, {.offset_bytes = 4096, .size_bytes = 4096}}),
      IsOk());
  EXPECT_FALSE(make({{.offset_bytes = 0, .size_bytes = kBytes + 1}}).ok());
  EXPECT_FALSE(make({{.offset_bytes = 4096, .size_bytes = 4096}}).ok());
  EXPECT_FALSE(make({{.offset_bytes = 0, .size_bytes = 4096},
                     {.offset_bytes = 4096, .size_bytes = UINT64_MAX - 100}})
                   .ok());
}

}  // namespace
}  // namespace iob::test
