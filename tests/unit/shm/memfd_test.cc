// Memfd and SealedMemfd: what the kernel refuses once they are sealed, and which descriptors are
// not taken for one.
#include "shm/memfd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "shm/kernel.h"
#include "shm/mapping.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::MakeMemfd;
using test::StatusIs;

int SealsOf(int fd) { return ::fcntl(fd, F_GET_SEALS); }

struct stat StatOf(int fd) {
  struct stat status = {};
  EXPECT_EQ(::fstat(fd, &status), 0);
  return status;
}

// A memfd as a peer may make one: not through our own types.
UniqueFd RawMemfd(uint64_t size_bytes, int seals) {
  UniqueFd fd(::memfd_create("iob-test-raw", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(Memfd, IsPrivateAllocatedAndClosedOnExec) {
  const SealedMemfd memfd = MakeMemfd(5 * PageBytes());
  const struct stat status = StatOf(memfd.fd());
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_EQ(status.st_size, static_cast<off_t>(5 * PageBytes()));
  EXPECT_EQ(status.st_blocks * 512, static_cast<blkcnt_t>(5 * PageBytes()));
  EXPECT_NE(::fcntl(memfd.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(memfd.size_bytes(), 5 * PageBytes());
}

TEST(Memfd, CannotBeResizedByAnybody) {
  const SealedMemfd memfd = MakeMemfd(4 * PageBytes());
  EXPECT_EQ(SealsOf(memfd.fd()) & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
  ASSERT_OK_AND_ASSIGN(const UniqueFd grant, memfd.OpenGrant(FdMode::kReadWrite));
  for (const int fd : {memfd.fd(), grant.get()}) {
    for (const uint64_t size : {uint64_t{0}, PageBytes(), 5 * PageBytes()}) {
      EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(size)), -1);
      EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(::pwrite(fd, "x", 1, static_cast<off_t>(4 * PageBytes())), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::fallocate(fd, 0, 0, static_cast<off_t>(5 * PageBytes())), -1);
  }
  EXPECT_EQ(StatOf(memfd.fd()).st_size, static_cast<off_t>(4 * PageBytes()));
}

TEST(Memfd, CanBeWrittenThroughAGrantUntilItIsSealedAgainstWriters) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const UniqueFd grant, memfd.OpenGrant(FdMode::kReadWrite));
  EXPECT_EQ(::pwrite(grant.get(), "x", 1, 0), 1);
}

TEST(Memfd, RefusesEveryNewWriterOnceSealedAndKeepsOurMappingWriting) {
  SealedMemfd memfd = MakeMemfd(2 * PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping ours, Mapping::Map(memfd));
  ASSERT_OK_AND_ASSIGN(const UniqueFd early_grant, memfd.OpenGrant(FdMode::kReadWrite));
  ASSERT_THAT(memfd.SealAgainstWriters(), IsOk());
  ASSERT_OK_AND_ASSIGN(const UniqueFd late_grant, memfd.OpenGrant(FdMode::kReadWrite));

  for (const int fd : {memfd.fd(), early_grant.get(), late_grant.get()}) {
    EXPECT_EQ(::mmap(nullptr, PageBytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::pwrite(fd, "x", 1, 0), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                          static_cast<off_t>(PageBytes())),
              -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1) << "no further seal";
    EXPECT_EQ(errno, EPERM);
    // A mapping that starts out readable cannot be raised to a writable one either.
    void* const reading = ::mmap(nullptr, PageBytes(), PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(reading, MAP_FAILED);
    EXPECT_EQ(::mprotect(reading, PageBytes(), PROT_READ | PROT_WRITE), -1);
    ::munmap(reading, PageBytes());
  }

  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping theirs, ReadOnlyMapping::Map(memfd));
  ours.Word<uint64_t>(8).StoreRelease(42);
  EXPECT_EQ(theirs.Word<uint64_t>(8).LoadAcquire().Between(42, 42), 42u);
}

TEST(Memfd, GivesEachGrantADescriptionOfItsOwn) {
  const SealedMemfd memfd = MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const UniqueFd reading, memfd.OpenGrant(FdMode::kReadOnly));
  ASSERT_OK_AND_ASSIGN(const UniqueFd writing, memfd.OpenGrant(FdMode::kReadWrite));
  EXPECT_EQ(::fcntl(reading.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(writing.get(), F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_NE(::fcntl(reading.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(::lseek(reading.get(), 100, SEEK_SET), 100);
  EXPECT_EQ(::lseek(memfd.fd(), 0, SEEK_CUR), 0);
  EXPECT_EQ(::lseek(writing.get(), 0, SEEK_CUR), 0);
  EXPECT_EQ(StatOf(reading.get()).st_ino, StatOf(memfd.fd()).st_ino);
}

TEST(Memfd, CanBeEmpty) { EXPECT_EQ(StatOf(MakeMemfd(0).fd()).st_size, 0); }

TEST(Memfd, SaysClearlyThatASizeIsImpossible) {
  const int before = test::OpenFds();
  for (const uint64_t size : {uint64_t{1} << 63, (uint64_t{1} << 63) + 4096, UINT64_MAX}) {
    ASSERT_OK_AND_ASSIGN(Memfd memfd, Memfd::Create("iob-test"));
    EXPECT_THAT(std::move(memfd).SealSize(size),
                StatusIs(absl::StatusCode::kResourceExhausted, std::to_string(size)));
  }
  EXPECT_EQ(test::OpenFds(), before);
}

TEST(Memfd, SaysWhenTheLimitOnFileSizesIsReached) {
  test::ExpectInChild([] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = PageBytes(), .rlim_max = PageBytes()};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    ASSERT_OK_AND_ASSIGN(Memfd memfd, Memfd::Create("iob-test"));
    EXPECT_THAT(std::move(memfd).SealSize(2 * PageBytes()),
                StatusIs(absl::StatusCode::kResourceExhausted, "File too large"));
  });
}

TEST(Memfd, IsUnavailableWhileThereAreNoDescriptorsAndLeaksNone) {
  test::ExpectInChild([] {
    // Create needs two for a moment, the second one for the reopening.
    rlimit old_limit = {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old_limit), 0);
    for (const int left : {0, 1}) {
      test::LimitOpenFds(left);
      const absl::StatusOr<Memfd> none = Memfd::Create("iob-test");
      ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old_limit), 0);
      EXPECT_THAT(none, StatusIs(absl::StatusCode::kUnavailable, "Too many open files")) << left;
    }
    const int before = test::OpenFds();
    const SealedMemfd memfd = MakeMemfd(PageBytes());
    EXPECT_EQ(test::OpenFds(), before + 1);
    test::LimitOpenFds(0);
    const absl::StatusOr<UniqueFd> no_grant = memfd.OpenGrant(FdMode::kReadOnly);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old_limit), 0);
    EXPECT_THAT(no_grant, StatusIs(absl::StatusCode::kUnavailable, "Too many open files"));
  });
}

TEST(Memfd, RefusesANameThatTheKernelDoesNotTake) {
  EXPECT_THAT(Memfd::Create(std::string(249, 'n')), IsOk());
  EXPECT_THAT(Memfd::Create(std::string(250, 'n')), StatusIs(absl::StatusCode::kInternal));
}

TEST(SealedMemfd, AdoptsWhatWasGranted) {
  SealedMemfd memfd = MakeMemfd(2 * PageBytes());
  ASSERT_THAT(memfd.SealAgainstWriters(), IsOk());
  for (const FdMode mode : {FdMode::kReadOnly, FdMode::kReadWrite}) {
    ASSERT_OK_AND_ASSIGN(UniqueFd grant, memfd.OpenGrant(mode));
    EXPECT_THAT(SealedMemfd::Adopt(std::move(grant), 2 * PageBytes(), true), IsOk());
  }
}

TEST(SealedMemfd, DoesNotAdoptWhatCanStillShrinkOrGrow) {
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_GROW}) {
    EXPECT_THAT(SealedMemfd::Adopt(RawMemfd(PageBytes(), seals), PageBytes(), false),
                StatusIs(absl::StatusCode::kFailedPrecondition, "not sealed against resizing"));
  }
}

TEST(SealedMemfd, DoesNotAdoptAnotherSizeThanAnnounced) {
  for (const uint64_t size : {uint64_t{0}, PageBytes() - 1, PageBytes() + 1, 2 * PageBytes(),
                              uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_THAT(SealedMemfd::Adopt(RawMemfd(PageBytes(), F_SEAL_SHRINK | F_SEAL_GROW), size, false),
                StatusIs(absl::StatusCode::kFailedPrecondition, "were announced"));
  }
}

TEST(SealedMemfd, DoesNotAdoptWhatOthersCanWriteWhenNobodyMay) {
  const int size_seals = F_SEAL_SHRINK | F_SEAL_GROW;
  EXPECT_THAT(SealedMemfd::Adopt(RawMemfd(PageBytes(), size_seals), PageBytes(), true),
              StatusIs(absl::StatusCode::kFailedPrecondition, "not sealed against writers"));
  EXPECT_THAT(
      SealedMemfd::Adopt(RawMemfd(PageBytes(), size_seals | F_SEAL_WRITE), PageBytes(), true),
      IsOk());
  EXPECT_THAT(SealedMemfd::Adopt(RawMemfd(PageBytes(), size_seals | F_SEAL_FUTURE_WRITE),
                                 PageBytes(), true),
              IsOk());
}

TEST(SealedMemfd, DoesNotAdoptWhatIsNoMemfdAndLeaksNothing) {
  const int before = test::OpenFds();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::FILE* const file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(::ftruncate(::fileno(file), static_cast<off_t>(PageBytes())), 0);
  const int strangers[] = {ends[0], ends[1], ::dup(::fileno(file)),
                           ::open("/proc/self", O_RDONLY | O_CLOEXEC),
                           ::open("/dev/zero", O_RDWR | O_CLOEXEC)};
  std::fclose(file);
  for (const int stranger : strangers) {
    EXPECT_THAT(SealedMemfd::Adopt(UniqueFd(stranger), PageBytes(), false),
                StatusIs(absl::StatusCode::kFailedPrecondition, "a received descriptor"));
  }
  EXPECT_THAT(SealedMemfd::Adopt(UniqueFd(), PageBytes(), false),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(test::OpenFds(), before);
}

}  // namespace
}  // namespace iob::shm
