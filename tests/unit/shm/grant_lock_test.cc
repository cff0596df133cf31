// Grant locks: the broker knows that a grant is held for as long as any descriptor or mapping made
// from it exists, wherever it went, and not a moment longer.
#include "shm/grant_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "shm/fd_channel.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::StatusIs;

class GrantLock : public ::testing::Test {
 protected:
  GrantLock() : memfd_(test::MakeMemfd(PageBytes())) {}

  UniqueFd Grant(EndpointId endpoint, uint32_t number, FdMode mode = FdMode::kReadOnly) {
    UniqueFd grant = memfd_.OpenGrant(mode).value();
    EXPECT_THAT(LockGrant(grant.get(), GrantRange(endpoint), number), IsOk());
    return grant;
  }
  bool Held(EndpointId endpoint) { return AnyGrantHeld(memfd_.fd(), GrantRange(endpoint)).value(); }

  SealedMemfd memfd_;
};

// A lock of the holder's own, as it can take it through any descriptor of the section.
int LockByHand(int fd, short type, int64_t start, int64_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return ::fcntl(fd, F_OFD_SETLK, &lock);
}

TEST_F(GrantLock, IsHeldByItsDescriptorAndFreeAfterwards) {
  EXPECT_FALSE(Held(EndpointId::kEp0));
  for (const FdMode mode : {FdMode::kReadOnly, FdMode::kReadWrite}) {
    UniqueFd grant = Grant(EndpointId::kEp0, 0, mode);
    EXPECT_TRUE(Held(EndpointId::kEp0));
    grant.Close();
    EXPECT_FALSE(Held(EndpointId::kEp0));
  }
}

TEST_F(GrantLock, KeepsTheEndpointsApart) {
  for (const uint32_t number : {0u, 1u, 0x7fff'ffffu, UINT32_MAX}) {
    UniqueFd ep0 = Grant(EndpointId::kEp0, number);
    EXPECT_TRUE(Held(EndpointId::kEp0));
    EXPECT_FALSE(Held(EndpointId::kEp1));
    const UniqueFd ep1 = Grant(EndpointId::kEp1, number);
    ep0.Close();
    EXPECT_FALSE(Held(EndpointId::kEp0));
    EXPECT_TRUE(Held(EndpointId::kEp1));
  }
}

TEST_F(GrantLock, KeepsTheUsersOfASharedSectionApart) {
  constexpr uint64_t kUsers[] = {0, 1, 2, 3, 1000, GrantRange::kUsersMax - 1};
  constexpr EndpointId kEndpoints[] = {EndpointId::kEp0, EndpointId::kEp1};
  const auto held = [this](EndpointId endpoint, uint64_t user) {
    return AnyGrantHeld(memfd_.fd(), GrantRange(endpoint, user)).value();
  };
  for (const uint64_t user : kUsers) {
    for (const EndpointId endpoint : kEndpoints) {
      // The last number of a range, and the first of the next one's.
      for (const uint32_t number : {0u, (1u << 20) - 1}) {
        const UniqueFd grant = memfd_.OpenGrant(FdMode::kReadOnly).value();
        ASSERT_THAT(LockGrant(grant.get(), GrantRange(endpoint, user), number), IsOk());
        for (const uint64_t other_user : kUsers) {
          for (const EndpointId other : kEndpoints) {
            EXPECT_EQ(held(other, other_user), other_user == user && other == endpoint)
                << user << " " << other_user;
          }
        }
      }
      EXPECT_FALSE(held(endpoint, user));
    }
  }
}

TEST_F(GrantLock, GrantsOfSeveralUsersAreHeldIndependently) {
  std::vector<UniqueFd> grants;
  for (uint64_t user = 0; user < 50; ++user) {
    grants.push_back(memfd_.OpenGrant(FdMode::kReadOnly).value());
    ASSERT_THAT(LockGrant(grants.back().get(), GrantRange(EndpointId::kEp1, user), 7), IsOk());
  }
  for (uint64_t user = 0; user < 50; user += 2) grants[user].Close();
  for (uint64_t user = 0; user < 50; ++user) {
    EXPECT_EQ(AnyGrantHeld(memfd_.fd(), GrantRange(EndpointId::kEp1, user)).value(), user % 2 == 1);
  }
}

TEST_F(GrantLock, RangesStayWithinWhatTheKernelCanLock) {
  const GrantRange last(EndpointId::kEp1, GrantRange::kUsersMax - 1);
  EXPECT_GT(last.first_byte(), 0);
  EXPECT_GT(last.first_byte() + last.byte_count(), last.first_byte());
  EXPECT_EQ(last.ByteOf(UINT32_MAX), last.first_byte() + last.byte_count() - 1);
  EXPECT_EQ(GrantRange(EndpointId::kEp0).first_byte(), int64_t{1} << 60);
}

TEST_F(GrantLock, TellsOneGrantFromAnother) {
  const GrantRange range(EndpointId::kEp0, 3);
  const auto held = [&](uint32_t number) { return GrantHeld(memfd_.fd(), range, number).value(); };
  UniqueFd first = memfd_.OpenGrant(FdMode::kReadOnly).value();
  ASSERT_THAT(LockGrant(first.get(), range, 0), IsOk());
  UniqueFd third = memfd_.OpenGrant(FdMode::kReadOnly).value();
  ASSERT_THAT(LockGrant(third.get(), range, 2), IsOk());
  EXPECT_TRUE(held(0));
  EXPECT_FALSE(held(1));
  EXPECT_TRUE(held(2));
  EXPECT_FALSE(GrantHeld(memfd_.fd(), GrantRange(EndpointId::kEp1, 3), 0).value());
  EXPECT_FALSE(GrantHeld(memfd_.fd(), GrantRange(EndpointId::kEp0, 4), 0).value());
  first.Close();
  EXPECT_FALSE(held(0));
  EXPECT_TRUE(held(2));
  // Two grants with one byte are only known together.
  UniqueFd same_byte = memfd_.OpenGrant(FdMode::kReadOnly).value();
  ASSERT_THAT(LockGrant(same_byte.get(), range, (1u << 20) + 2), IsOk());
  third.Close();
  EXPECT_TRUE(held(2));
  same_byte.Close();
  EXPECT_FALSE(held(2));
}

TEST_F(GrantLock, IsHeldUntilTheLastOfManyGrantsIsGone) {
  std::vector<UniqueFd> grants;
  for (uint32_t i = 0; i < 20; ++i) grants.push_back(Grant(EndpointId::kEp1, i));
  grants.push_back(Grant(EndpointId::kEp1, 3));  // A number may serve twice.
  while (!grants.empty()) {
    EXPECT_TRUE(Held(EndpointId::kEp1));
    grants.pop_back();
  }
  EXPECT_FALSE(Held(EndpointId::kEp1));
}

TEST_F(GrantLock, IsHeldByADuplicate) {
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  UniqueFd copy(::fcntl(grant.get(), F_DUPFD_CLOEXEC, 0));
  grant.Close();
  EXPECT_TRUE(Held(EndpointId::kEp0));
  copy.Close();
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsHeldByAMappingAlone) {
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  std::optional<ReadOnlyMapping> mapping;
  {
    ASSERT_OK_AND_ASSIGN(const SealedMemfd theirs,
                         SealedMemfd::Adopt(std::move(grant), PageBytes(), false));
    mapping = ReadOnlyMapping::Map(theirs).value();
  }
  EXPECT_TRUE(Held(EndpointId::kEp0));
  mapping.reset();
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsHeldByAForkedChildUntilItsEnd) {
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  test::Turn may_end;
  test::Child child([&may_end] { may_end.Take(); });
  grant.Close();
  EXPECT_TRUE(Held(EndpointId::kEp0));
  may_end.Give();
  EXPECT_EQ(child.Join(), 0);
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsHeldByAForkedChildsMappingAlone) {
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  std::optional<SealedMemfd> theirs =
      SealedMemfd::Adopt(std::move(grant), PageBytes(), false).value();
  std::optional<ReadOnlyMapping> mapping = ReadOnlyMapping::Map(*theirs).value();
  theirs.reset();
  test::Turn may_end;
  test::Child child([&may_end] { may_end.Take(); });
  mapping.reset();
  EXPECT_TRUE(Held(EndpointId::kEp0)) << "the child has inherited the mapping";
  may_end.Give();
  EXPECT_EQ(child.Join(), 0);
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsHeldInFlightBetweenTwoProcesses) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  FdChannel ours{UniqueFd(ends[0])};
  FdChannel theirs{UniqueFd(ends[1])};
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  ASSERT_THAT(ours.Send(test::BytesOf("x"), std::array{grant.get()}), IsOk());
  grant.Close();
  EXPECT_TRUE(Held(EndpointId::kEp0)) << "queued in the socket";
  {
    std::array<std::byte, 8> buffer;
    ASSERT_OK_AND_ASSIGN(const Received received, theirs.Receive(buffer, 1));
    ASSERT_EQ(received.fds.size(), 1u);
    EXPECT_TRUE(Held(EndpointId::kEp0)) << "received";
  }
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsFreeWhenASocketDiesWithTheGrantInItsQueue) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  FdChannel ours{UniqueFd(ends[0])};
  FdChannel theirs{UniqueFd(ends[1])};
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  ASSERT_THAT(ours.Send(test::BytesOf("x"), std::array{grant.get()}), IsOk());
  grant.Close();
  theirs.Close();
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, IsFreeWhenItsHolderIsKilled) {
  test::Turn holds;
  UniqueFd grant = Grant(EndpointId::kEp0, 0);
  test::Child child([&holds] {
    holds.Give();
    ::pause();
  });
  grant.Close();
  ASSERT_TRUE(holds.Take());
  EXPECT_TRUE(Held(EndpointId::kEp0));
  ::kill(child.pid(), SIGKILL);
  EXPECT_EQ(child.Join(), 128 + SIGKILL);
  EXPECT_FALSE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, OutlivesAPosixLockOfAnUnrelatedDescriptor) {
  // Closing any descriptor of a file drops all of the process's POSIX locks on it; OFD locks stay.
  const UniqueFd grant = Grant(EndpointId::kEp0, 0);
  memfd_.OpenGrant(FdMode::kReadWrite).value().Close();
  EXPECT_TRUE(Held(EndpointId::kEp0));
}

TEST_F(GrantLock, LetsAHolderLieAboutItselfAndNobodyElse) {
  const UniqueFd liar = Grant(EndpointId::kEp0, 0, FdMode::kReadWrite);
  const UniqueFd honest = Grant(EndpointId::kEp0, 1);
  const UniqueFd peer = Grant(EndpointId::kEp1, 0);
  EXPECT_EQ(LockByHand(liar.get(), F_UNLCK, 0, 0), 0);
  EXPECT_TRUE(Held(EndpointId::kEp0)) << "the other grant of the endpoint is still held";
  EXPECT_TRUE(Held(EndpointId::kEp1));
  EXPECT_EQ(LockByHand(honest.get(), F_UNLCK, 0, 0), 0);
  EXPECT_FALSE(Held(EndpointId::kEp0));
  EXPECT_TRUE(Held(EndpointId::kEp1)) << "the peer's grant cannot be touched";
}

TEST_F(GrantLock, DoesNotMistakeALockOnTheDataForAGrant) {
  const UniqueFd grant = memfd_.OpenGrant(FdMode::kReadWrite).value();
  EXPECT_EQ(LockByHand(grant.get(), F_WRLCK, 0, 1 << 20), 0);
  EXPECT_FALSE(Held(EndpointId::kEp0));
  EXPECT_FALSE(Held(EndpointId::kEp1));
}

TEST_F(GrantLock, SaysWhenAWriterHasLockedTheRegionAgainstNewGrants) {
  const UniqueFd writer = memfd_.OpenGrant(FdMode::kReadWrite).value();
  ASSERT_EQ(LockByHand(writer.get(), F_WRLCK, 0, 0), 0);  // All bytes, to the end of all offsets.
  const UniqueFd fresh = memfd_.OpenGrant(FdMode::kReadOnly).value();
  EXPECT_THAT(LockGrant(fresh.get(), GrantRange(EndpointId::kEp0), 0),
              StatusIs(absl::StatusCode::kFailedPrecondition, "locked it against new grants"));
}

TEST_F(GrantLock, SaysWhenTheDescriptorIsNoFile) {
  EXPECT_THAT(LockGrant(-1, GrantRange(EndpointId::kEp0), 0),
              StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(AnyGrantHeld(-1, GrantRange(EndpointId::kEp0)),
              StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(GrantHeld(-1, GrantRange(EndpointId::kEp0), 0),
              StatusIs(absl::StatusCode::kInternal));
}

}  // namespace
}  // namespace iob::shm
