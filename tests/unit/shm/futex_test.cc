// Waiting and waking across processes and through read-only mappings. A wait that misses its wake
// shows as a deadline, never as a hang.
#include "shm/futex.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "shm/mapping.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

constexpr int64_t kPatienceNs = 10'000'000'000;

class Futex : public ::testing::Test {
 protected:
  Futex()
      : memfd_(test::MakeMemfd(PageBytes())),
        writing_(Mapping::Map(memfd_).value()),
        reading_(ReadOnlyMapping::Map(memfd_).value()) {}

  SharedAtomic<uint32_t>& Word(uint64_t offset) { return writing_.Word<uint32_t>(offset); }
  // As a consumer of a sealed section sees it.
  FutexWord Seen(uint64_t offset, uint32_t expected) const {
    return {.address = reading_.Word<uint32_t>(offset).address(), .expected = expected};
  }

  SealedMemfd memfd_;
  Mapping writing_;
  ReadOnlyMapping reading_;
};

TEST_F(Futex, ReturnsAtOnceWhenAnyWordHasChanged) {
  Word(0).StoreRelease(1);
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 0)}, deadline_ns), FutexOutcome::kLook);
  EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 1), Seen(4, 1)}, deadline_ns), FutexOutcome::kLook);
  EXPECT_LT(MonotonicNs(), deadline_ns);
}

TEST_F(Futex, EndsAtTheDeadline) {
  const int64_t deadline_ns = MonotonicNs() + 3'000'000;
  EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 0), Seen(4, 0)}, deadline_ns), FutexOutcome::kDeadline);
  EXPECT_GE(MonotonicNs(), deadline_ns);
  for (const int64_t past : {MonotonicNs(), int64_t{0}, int64_t{-1}, INT64_MIN}) {
    EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 0)}, past), FutexOutcome::kDeadline);
  }
}

TEST_F(Futex, WaitsOnAsManyWordsAsTheKernelTakes) {
  std::array<FutexWord, kFutexWordsMax> words;
  for (uint64_t i = 0; i < words.size(); ++i) words[i] = Seen(i * 4, 0);
  EXPECT_EQ(FutexWaitAny(words, MonotonicNs() + 1'000'000), FutexOutcome::kDeadline);
  Word((kFutexWordsMax - 1) * 4).StoreRelease(1);
  EXPECT_EQ(FutexWaitAny(words, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
}

// Two processes count in turns, each asleep until the other has counted: a lost wake is a deadline.
void CountInTurns(SharedAtomic<uint32_t>& mine, const FutexWord& theirs, const FutexWord& other,
                  const SharedAtomic<uint32_t>& their_word, bool first) {
  constexpr uint32_t kTurns = 2000;
  for (uint32_t turn = 1; turn <= kTurns; ++turn) {
    if (first) {
      mine.StoreRelease(turn);
      FutexWakeAll(mine.address());
    }
    while (their_word.LoadAcquire().ForHintOnly() != turn) {
      const std::array<FutexWord, 2> words = {
          other, FutexWord{.address = theirs.address, .expected = turn - 1}};
      ASSERT_EQ(FutexWaitAny(words, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
          << "turn " << turn;
    }
    if (!first) {
      mine.StoreRelease(turn);
      FutexWakeAll(mine.address());
    }
  }
}

TEST_F(Futex, WakesAnotherProcessThatWaitsOnTwoWordsThroughAReadOnlyMapping) {
  test::Child child([this] {
    CountInTurns(Word(64), Seen(0, 0), Seen(128, 0), reading_.Word<uint32_t>(0), false);
  });
  CountInTurns(Word(0), Seen(64, 0), Seen(128, 0), reading_.Word<uint32_t>(64), true);
  EXPECT_EQ(child.Join(), 0);
}

TEST_F(Futex, WakesThroughAMappingOfItsOwn) {
  // Found by inode and offset: the waker maps the same page elsewhere, and only for reading.
  test::Child child([this] {
    const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
    while (reading_.Word<uint32_t>(0).LoadAcquire().ForHintOnly() == 0) {
      ASSERT_EQ(FutexWaitAny(std::array{Seen(0, 0)}, deadline_ns), FutexOutcome::kLook);
    }
  });
  ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping elsewhere, ReadOnlyMapping::Map(memfd_));
  Word(0).StoreRelease(1);
  FutexWakeAll(elsewhere.Word<uint32_t>(0).address());
  EXPECT_EQ(child.Join(), 0);
}

void DenyFutexWaitv(int error_number) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex_waitv, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(code), .filter = code};
  ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST_F(Futex, DoesWithoutFutexWaitvOnOlderKernels) {
  for (const int error_number : {ENOSYS, EPERM}) {
    test::ExpectInChild([this, error_number] {
      DenyFutexWaitv(error_number);
      const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
      // A change of the second word is seen, if late: the wait gives control back to look.
      EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 0), Seen(4, 1)}, deadline_ns), FutexOutcome::kLook);
      EXPECT_LT(MonotonicNs(), deadline_ns);
      EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 0), Seen(4, 0)}, MonotonicNs() + 1'000'000),
                FutexOutcome::kDeadline);
      EXPECT_EQ(FutexWaitAny(std::array{Seen(0, 1)}, deadline_ns), FutexOutcome::kLook);
    });
  }
}

TEST_F(Futex, IsNotStoppedByAddressesThatAreNotMapped) {
  const FutexWord nowhere{.address = reinterpret_cast<const void*>(uint64_t{64}), .expected = 0};
  EXPECT_EQ(FutexWaitAny(std::array{nowhere}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
  FutexWakeAll(nowhere.address);
}

}  // namespace
}  // namespace iob::shm
