// Memory that nobody will ever change again: what the kernel then refuses, and what is believed of
// a descriptor that says it is such.
#include "shm/frozen_memfd.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "shm/kernel.h"
#include "shm/mapping.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::StatusIs;

constexpr uint64_t kBytes = 16384;

FrozenMemfd Frozen() {
  FreshMemfd fresh = FreshMemfd::Create(kBytes).value();
  const std::vector<std::byte> content(100, std::byte{'x'});
  IOB_CHECK(fresh.Write(5000, content).ok());
  return std::move(fresh).Freeze().value();
}

std::byte ByteAt(const FrozenMemfd& memfd, off_t offset) {
  std::byte byte{1};
  EXPECT_EQ(::pread(memfd.fd(), &byte, 1, offset), 1);
  return byte;
}

TEST(FrozenMemfd, HasWhatWasWrittenAndZerosAroundIt) {
  const FrozenMemfd memfd = Frozen();
  EXPECT_EQ(ByteAt(memfd, 4999), std::byte{0});
  EXPECT_EQ(ByteAt(memfd, 5000), std::byte{'x'});
  EXPECT_EQ(ByteAt(memfd, 5099), std::byte{'x'});
  EXPECT_EQ(ByteAt(memfd, 5100), std::byte{0});
  EXPECT_EQ(ByteAt(memfd, kBytes - 1), std::byte{0});
}

TEST(FrozenMemfd, CannotBeChangedByAnyCall) {
  const FrozenMemfd memfd = Frozen();
  // Reopened for writing, as its owner and root can.
  const UniqueFd writable(
      ::open(("/proc/self/fd/" + std::to_string(memfd.fd())).c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(writable.valid());
  const char byte = 'y';
  EXPECT_EQ(::pwrite(writable.get(), &byte, 1, 5000), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(writable.get(), 0), -1);
  EXPECT_EQ(::ftruncate(writable.get(), 2 * kBytes), -1);
  EXPECT_EQ(::fallocate(writable.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096),
            -1);
  EXPECT_EQ(::fcntl(writable.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
  EXPECT_EQ(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, writable.get(), 0),
            MAP_FAILED);
  EXPECT_EQ(ByteAt(memfd, 5000), std::byte{'x'});
}

TEST(FrozenMemfd, IsAllocatedToTheLastPage) {
  const FrozenMemfd memfd = Frozen();
  struct stat status = {};
  ASSERT_EQ(::fstat(memfd.fd(), &status), 0);
  EXPECT_EQ(static_cast<uint64_t>(status.st_blocks) * 512, kBytes);
}

// From a file; from one that the kernel does not copy (a pipe, as a file of huge pages); from none.
TEST(FrozenMemfd, CopiesFromAFileOrFromItsMapping) {
  const SealedMemfd source = test::MakeMemfd(2 * kBytes);
  ASSERT_OK_AND_ASSIGN(const Mapping mapping, Mapping::Map(source));
  std::array<std::byte, 3000> text;
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(i % 251);
  std::copy(text.begin(), text.end(), mapping.base() + 7001);
  const std::span<const std::byte> mapped(mapping.base() + 7001, text.size());
  std::array<int, 2> pipe_fds;
  ASSERT_EQ(::pipe2(pipe_fds.data(), O_CLOEXEC), 0);
  const UniqueFd pipe_out(pipe_fds[0]);
  const UniqueFd pipe_in(pipe_fds[1]);
  for (const int fd : {source.fd(), pipe_out.get(), -1}) {
    ASSERT_OK_AND_ASSIGN(FreshMemfd fresh, FreshMemfd::Create(kBytes));
    ASSERT_THAT(fresh.CopyFrom(4000, fd, 7001, mapped), IsOk());
    ASSERT_OK_AND_ASSIGN(const FrozenMemfd frozen, std::move(fresh).Freeze());
    EXPECT_EQ(ByteAt(frozen, 3999), std::byte{0});
    for (size_t i = 0; i < text.size(); ++i)
      ASSERT_EQ(ByteAt(frozen, static_cast<off_t>(4000 + i)), text[i]) << i << " from " << fd;
    EXPECT_EQ(ByteAt(frozen, 7000), std::byte{0});
  }
}

TEST(FrozenMemfd, ClearsAcrossPagesAndWithinThem) {
  FreshMemfd fresh = FreshMemfd::Create(kBytes).value();
  const std::vector<std::byte> content(kBytes, std::byte{'x'});
  ASSERT_THAT(fresh.Write(0, content), IsOk());
  ASSERT_THAT(fresh.Clear(100, 10'000), IsOk());
  ASSERT_THAT(fresh.Clear(12'000, 0), IsOk());
  const auto memfd = std::move(fresh).Freeze();
  ASSERT_THAT(memfd, IsOk());
  for (const off_t offset : {0, 99, 10'100, 12'000, 16'383})
    EXPECT_EQ(ByteAt(*memfd, offset), std::byte{'x'}) << offset;
  for (const off_t offset : {100, 4'096, 8'191, 10'099})
    EXPECT_EQ(ByteAt(*memfd, offset), std::byte{0}) << offset;
}

TEST(FrozenMemfd, BelievesOnlyAllFourSealsAndTheSize) {
  constexpr int kSeals[] = {F_SEAL_WRITE, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_SEAL};
  for (const int missing : kSeals) {
    UniqueFd fd(::memfd_create("liar", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(fd.get(), kBytes), 0);
    for (const int seal : kSeals) {
      if (seal != missing && seal != F_SEAL_SEAL) {
        ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seal), 0);
      }
    }
    if (missing != F_SEAL_SEAL) {
      ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL), 0);
    }
    EXPECT_THAT(FrozenMemfd::Adopt(std::move(fd), kBytes),
                StatusIs(absl::StatusCode::kFailedPrecondition, "could still change"))
        << missing;
  }
  EXPECT_THAT(FrozenMemfd::Adopt(Frozen().Release(), kBytes + 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, "were announced"));
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd writer(ends[1]);
  EXPECT_THAT(FrozenMemfd::Adopt(UniqueFd(ends[0]), 0),
              StatusIs(absl::StatusCode::kFailedPrecondition, "not a memory file"));
  EXPECT_THAT(FrozenMemfd::Adopt(Frozen().Release(), kBytes), IsOk());
}

}  // namespace
}  // namespace iob::shm
