// Range locks: overlapping bytes are never held by two unless both share them, the kernel gives
// them back when the holder's description goes, and what people are told about it is true as far
// as it can be.
#include "shm/range_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "shm/grant_lock.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Child;
using test::IsOk;
using test::StatusIs;
using test::Turn;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr RangeMode kShared = RangeMode::kShared;
constexpr RangeMode kExclusive = RangeMode::kExclusive;
constexpr uint64_t kSize = 4096;

int LockByHand(int fd, short type, uint64_t start, uint64_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(start);
  lock.l_len = static_cast<off_t>(length);
  return ::fcntl(fd, F_OFD_SETLK, &lock);
}

class RangeLockTest : public ::testing::Test {
 protected:
  // Each with a description of its own, as attachments have them.
  std::unique_ptr<RangeLocks> Holder(FdMode mode = FdMode::kReadWrite) {
    return std::make_unique<RangeLocks>(memfd_.OpenGrant(mode).value());
  }
  static bool Lock(RangeLocks& locks, uint64_t offset, uint64_t length, RangeMode mode) {
    const absl::StatusOr<bool> locked =
        locks.TryLock({.offset_bytes = offset, .length_bytes = length}, mode);
    EXPECT_THAT(locked, IsOk());
    return locked.value_or(false);
  }
  static void Unlock(RangeLocks& locks, uint64_t offset, uint64_t length, RangeMode mode) {
    locks.Unlock({.offset_bytes = offset, .length_bytes = length}, mode);
  }
  std::vector<RangeHold> List() {
    return Holder(FdMode::kReadOnly)->List({.offset_bytes = 0, .length_bytes = kSize}).value();
  }
  static RangeHold Hold(uint64_t offset, uint64_t length, RangeMode mode, pid_t pid = ::getpid()) {
    return {.range = {.offset_bytes = offset, .length_bytes = length},
            .mode = mode,
            .claimed_pid = pid};
  }
  // Whether anything at all of the section is locked, at any offset, as the kernel sees it.
  bool AnythingLocked() {
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    EXPECT_EQ(::fcntl(memfd_.fd(), F_OFD_GETLK, &lock), 0);
    return lock.l_type != F_UNLCK;
  }

  SealedMemfd memfd_ = test::MakeMemfd(kSize);
  std::unique_ptr<RangeLocks> one_ = Holder();
  std::unique_ptr<RangeLocks> two_ = Holder();
};

TEST_F(RangeLockTest, OverlapsAreRefusedUnlessBothShare) {
  struct Pair {
    RangeMode first;
    RangeMode second;
    bool together;
  };
  for (const Pair& pair : {Pair{kShared, kShared, true}, Pair{kShared, kExclusive, false},
                           Pair{kExclusive, kShared, false}, Pair{kExclusive, kExclusive, false}}) {
    // By another description, and by the same one.
    for (RangeLocks* const other : {two_.get(), one_.get()}) {
      ASSERT_TRUE(Lock(*one_, 100, 50, pair.first));
      for (const ByteRange& range : {ByteRange{100, 50}, ByteRange{149, 1}, ByteRange{0, 101},
                                     ByteRange{0, kSize}, ByteRange{120, 3}}) {
        const bool locked = Lock(*other, range.offset_bytes, range.length_bytes, pair.second);
        EXPECT_EQ(locked, pair.together) << range.offset_bytes;
        if (locked) other->Unlock(range, pair.second);
      }
      // Right beside it.
      EXPECT_TRUE(Lock(*other, 0, 100, kExclusive));
      EXPECT_TRUE(Lock(*other, 150, 1, kExclusive));
      Unlock(*other, 0, 100, kExclusive);
      Unlock(*other, 150, 1, kExclusive);
      Unlock(*one_, 100, 50, pair.first);
      EXPECT_FALSE(AnythingLocked());
    }
  }
}

TEST_F(RangeLockTest, GivingBackLeavesWhatIsSharedTwiceByOne) {
  ASSERT_TRUE(Lock(*one_, 0, 100, kShared));
  ASSERT_TRUE(Lock(*one_, 50, 100, kShared));
  ASSERT_TRUE(Lock(*one_, 60, 10, kShared));
  ASSERT_TRUE(Lock(*one_, 0, 100, kShared));
  Unlock(*one_, 0, 100, kShared);
  EXPECT_FALSE(Lock(*two_, 0, 1, kExclusive)) << "it was taken twice";
  Unlock(*one_, 0, 100, kShared);
  EXPECT_TRUE(Lock(*two_, 0, 50, kExclusive));
  EXPECT_FALSE(Lock(*two_, 50, 1, kExclusive));
  Unlock(*one_, 50, 100, kShared);
  EXPECT_TRUE(Lock(*two_, 50, 10, kExclusive));
  EXPECT_TRUE(Lock(*two_, 70, 80, kExclusive));
  EXPECT_FALSE(Lock(*two_, 60, 10, kExclusive)) << "the one in the middle was taken along";
  Unlock(*one_, 60, 10, kShared);
  EXPECT_TRUE(Lock(*two_, 60, 10, kExclusive));
}

// What single bytes are held by whom, beside the real thing: random steps of three holders.
TEST_F(RangeLockTest, AgreesWithAModel) {
  constexpr int kHolders = 3;
  constexpr uint64_t kBytes = 24;
  struct Taken {
    ByteRange range;
    RangeMode mode;
  };
  std::unique_ptr<RangeLocks> holders[kHolders] = {Holder(), Holder(), Holder()};
  std::vector<Taken> taken[kHolders];
  std::mt19937 random(1);
  int refused = 0;
  for (int step = 0; step < 4000; ++step) {
    const size_t who = random() % kHolders;
    if (random() % 2 == 0 && !taken[who].empty()) {
      const size_t which = random() % taken[who].size();
      holders[who]->Unlock(taken[who][which].range, taken[who][which].mode);
      taken[who].erase(taken[who].begin() + static_cast<ptrdiff_t>(which));
      continue;
    }
    const uint64_t offset = random() % kBytes;
    const ByteRange range = {offset, 1 + random() % (kBytes - offset)};
    const RangeMode mode = random() % 3 == 0 ? kExclusive : kShared;
    bool free = true;
    for (const std::vector<Taken>& theirs : taken) {
      for (const Taken& each : theirs) {
        if (each.range.Overlaps(range) && (each.mode == kExclusive || mode == kExclusive)) {
          free = false;
        }
      }
    }
    ASSERT_EQ(Lock(*holders[who], range.offset_bytes, range.length_bytes, mode), free) << step;
    refused += free ? 0 : 1;
    if (free) taken[who].push_back({range, mode});
  }
  EXPECT_GT(refused, 500);
  for (size_t who = 0; who < kHolders; ++who) {
    for (const Taken& each : taken[who]) holders[who]->Unlock(each.range, each.mode);
  }
  EXPECT_FALSE(AnythingLocked());
}

TEST_F(RangeLockTest, OnlyWhoMayWriteHoldsAlone) {
  const auto reader = Holder(FdMode::kReadOnly);
  EXPECT_THAT(reader->TryLock({0, 10}, kExclusive), StatusIs(absl::StatusCode::kInternal));
  EXPECT_FALSE(AnythingLocked());
  EXPECT_TRUE(Lock(*reader, 0, 10, kShared));
  EXPECT_FALSE(Lock(*one_, 9, 1, kExclusive));
}

TEST_F(RangeLockTest, StaysClearOfTheGrantsLocks) {
  ASSERT_THAT(LockGrant(memfd_.fd(), GrantRange(EndpointId::kEp0, GrantRange::kUsersMax - 1), ~0U),
              IsOk());
  ASSERT_THAT(LockGrant(memfd_.fd(), GrantRange(EndpointId::kEp0), 0), IsOk());
  const absl::StatusOr<bool> all = one_->TryLock({0, kRangeEndMax}, kExclusive);
  EXPECT_TRUE(all.ok() && *all);
  const auto prober = memfd_.OpenGrant(FdMode::kReadOnly).value();
  EXPECT_TRUE(AnyGrantHeld(prober.get(), GrantRange(EndpointId::kEp0)).value());
  EXPECT_FALSE(AnyGrantHeld(prober.get(), GrantRange(EndpointId::kEp1)).value());
  EXPECT_THAT(LockGrant(prober.get(), GrantRange(EndpointId::kEp1), 7), IsOk());
}

// --- Ends ---------------------------------------------------------------------------------------

TEST_F(RangeLockTest, GoesWithItsDescription) {
  ASSERT_TRUE(Lock(*one_, 0, 10, kExclusive));
  one_.reset();
  EXPECT_FALSE(AnythingLocked());
}

TEST_F(RangeLockTest, AMappingOfItsDescriptionKeepsIt) {
  UniqueFd fd = memfd_.OpenGrant(FdMode::kReadWrite).value();
  void* const mapped = ::mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto holder = std::make_unique<RangeLocks>(std::move(fd));
  ASSERT_TRUE(Lock(*holder, 0, 10, kExclusive));
  holder.reset();
  EXPECT_FALSE(Lock(*two_, 0, 10, kExclusive));
  ::munmap(mapped, kSize);
  EXPECT_TRUE(Lock(*two_, 0, 10, kExclusive));
}

TEST_F(RangeLockTest, IsFreeAfterAKill) {
  Turn locked;
  Turn never;
  Child holder([&] {
    const auto own = Holder();
    if (Lock(*own, 10, 20, kExclusive) && Lock(*own, 100, 1, kShared)) locked.Give();
    never.Take();
  });
  ASSERT_TRUE(locked.Take());
  EXPECT_FALSE(Lock(*one_, 29, 1, kShared));
  EXPECT_THAT(List(), ElementsAre(Hold(10, 20, kExclusive, holder.pid()),
                                  Hold(100, 1, kShared, holder.pid())));
  ::kill(holder.pid(), SIGSTOP);
  EXPECT_FALSE(Lock(*one_, 29, 1, kShared)) << "a stopped process is not a dead one";
  ::kill(holder.pid(), SIGKILL);
  EXPECT_EQ(holder.Join(), 128 + SIGKILL);
  EXPECT_THAT(List(), IsEmpty());
  EXPECT_TRUE(Lock(*one_, 0, kSize, kExclusive));
}

TEST_F(RangeLockTest, AForkedChildKeepsTheRangesOfAKilledParent) {
  Turn forked;
  Turn child_ends;
  Turn never;
  Child parent([&] {
    const auto own = Holder();
    IOB_CHECK(Lock(*own, 10, 20, kExclusive));
    Child child([&] {
      forked.Give();
      child_ends.Take();
    });
    never.Take();
  });
  ASSERT_TRUE(forked.Take());
  ::kill(parent.pid(), SIGKILL);
  parent.Join();
  EXPECT_FALSE(Lock(*one_, 10, 1, kShared));
  child_ends.Give();
  // The child is nobody's here: it is gone when its end of this pipe is.
  EXPECT_FALSE(forked.Take());
  bool locked = false;
  // Its files are closed one after the other.
  for (int i = 0; i < 1'000'000 && !locked; ++i) locked = Lock(*one_, 10, 1, kShared);
  EXPECT_TRUE(locked);
}

TEST_F(RangeLockTest, AForkedChildGivesNothingOfItsParentsBack) {
  ASSERT_TRUE(Lock(*one_, 10, 20, kExclusive));
  ASSERT_TRUE(Lock(*one_, 50, 20, kShared));
  test::ExpectInChild([this] {
    Unlock(*one_, 10, 20, kExclusive);
    one_.reset();
  });
  EXPECT_FALSE(Lock(*two_, 10, 1, kShared));
  EXPECT_THAT(List(), ElementsAre(Hold(10, 20, kExclusive), Hold(50, 20, kShared)));
}

// --- What is told -------------------------------------------------------------------------------

TEST_F(RangeLockTest, TellsWhoHoldsWhat) {
  EXPECT_THAT(List(), IsEmpty());
  ASSERT_TRUE(Lock(*one_, 64, 64, kExclusive));
  ASSERT_TRUE(Lock(*two_, 0, 10, kShared));
  EXPECT_THAT(List(), ElementsAre(Hold(0, 10, kShared), Hold(64, 64, kExclusive)));
  // Also to a holder, its own included; and no more than was asked for.
  EXPECT_THAT(one_->List({0, kSize}).value(),
              ElementsAre(Hold(0, 10, kShared), Hold(64, 64, kExclusive)));
  EXPECT_THAT(one_->List({0, 64}).value(), ElementsAre(Hold(0, 10, kShared)));
  EXPECT_THAT(two_->List({127, 1}).value(), ElementsAre(Hold(64, 64, kExclusive)));
  EXPECT_THAT(two_->List({128, 1}).value(), IsEmpty());
}

TEST_F(RangeLockTest, TellsEveryProcessThatShares) {
  ASSERT_TRUE(Lock(*one_, 0, 100, kShared));
  Turn locked;
  Turn ends;
  Child other([&] {
    const auto own = Holder(FdMode::kReadOnly);
    if (Lock(*own, 50, 100, kShared)) locked.Give();
    ends.Take();
  });
  ASSERT_TRUE(locked.Take());
  EXPECT_THAT(List(), ElementsAre(Hold(0, 100, kShared), Hold(50, 100, kShared, other.pid())));
  ends.Give();
}

TEST_F(RangeLockTest, WhoSaysNothingHasNoName) {
  const UniqueFd stranger = memfd_.OpenGrant(FdMode::kReadWrite).value();
  ASSERT_EQ(LockByHand(stranger.get(), F_WRLCK, 5, 10), 0);
  ASSERT_TRUE(Lock(*one_, 100, 10, kShared));
  ASSERT_EQ(LockByHand(stranger.get(), F_RDLCK, 90, 30), 0);
  EXPECT_THAT(List(), ElementsAre(Hold(5, 10, kExclusive, 0), Hold(90, 10, kShared, 0),
                                  Hold(100, 10, kShared), Hold(110, 10, kShared, 0)));
  EXPECT_FALSE(Lock(*one_, 5, 1, kShared)) << "a stranger's lock counts like ours";
}

TEST_F(RangeLockTest, AClaimWithoutALockIsNotTold) {
  constexpr uint64_t kClaims = uint64_t{1} << 62;
  const UniqueFd liar = memfd_.OpenGrant(FdMode::kReadWrite).value();
  ASSERT_EQ(LockByHand(liar.get(), F_WRLCK, kClaims + 4711 * kRangeEndMax + 10, 20), 0);
  EXPECT_THAT(List(), IsEmpty());
  // Nor one that is none: over the claims of several, and up to the end of all offsets.
  ASSERT_EQ(LockByHand(liar.get(), F_WRLCK, kClaims + 1, 0), 0);
  ASSERT_TRUE(Lock(*one_, 0, 10, kExclusive)) << "no claim can keep anybody from a range";
  EXPECT_THAT(List(), ElementsAre(Hold(0, 10, kExclusive, 0)));
}

TEST_F(RangeLockTest, TellsABoundedNumber) {
  const UniqueFd hostile = memfd_.OpenGrant(FdMode::kReadWrite).value();
  for (uint64_t i = 0; i < kSize; i += 2) {
    ASSERT_EQ(LockByHand(hostile.get(), F_RDLCK, i, 1), 0);
  }
  EXPECT_EQ(List().size(), RangeLocks::kHoldsMax);
}

using RangeLockDeathTest = RangeLockTest;
TEST_F(RangeLockDeathTest, WhoGivesBackWhatItDoesNotHoldHasABug) {
  ASSERT_TRUE(Lock(*one_, 0, 10, kShared));
  EXPECT_DEATH(Unlock(*one_, 0, 10, kExclusive), "held_");
  EXPECT_DEATH(Unlock(*one_, 0, 9, kShared), "held_");
  EXPECT_DEATH(Lock(*one_, 0, 0, kShared), "length_bytes");
}

}  // namespace
}  // namespace iob::shm
