// The broadcast ring between processes that sleep, wake each other and are killed: nobody is left
// asleep, nothing is torn, and what each follower received and lost adds up to what was written.
// Every wait has a deadline, and reaching one is a failure.
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_writer.h"
#include "shm/futex.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

using test::AppendNext;
using test::Broadcast;
using test::CheckingFollower;
using From = BroadcastFollower::From;

constexpr int64_t kPatienceNs = 20'000'000'000;

// Sleeps until `follower` has something to say.
void Await(BroadcastFollower& follower) {
  while (follower.PrepareToWait(kWaitingOnFutex)) {
    const FutexWord head = follower.HeadWord();
    ASSERT_EQ(FutexWaitAny({&head, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
        << "left asleep at record " << follower.next_sequence();
  }
}

void ExpectNext(BroadcastFollower& follower, uint64_t sequence) {
  Followed followed;
  ASSERT_NO_FATAL_FAILURE(Await(follower));
  ASSERT_EQ(follower.Next({}, &followed), FollowOutcome::kRecord);
  ASSERT_EQ(followed.sequence, sequence);
}

TEST(BroadcastProcesses, NobodyIsLeftAsleepWhenSeveralSleepOnOneWord) {
  constexpr uint64_t kRounds = 10'000;
  const Broadcast ping(PageBytes());
  const std::array<Broadcast, 2> pongs = {Broadcast(PageBytes()), Broadcast(PageBytes())};
  const auto answer = [&](const Broadcast& pong) {
    BroadcastFollower follower = ping.Follower();
    BroadcastWriter writer = pong.Writer();
    for (uint64_t round = 0; round < kRounds && !::testing::Test::HasFailure(); ++round) {
      ExpectNext(follower, round);
      writer.Append(round, {});
      writer.Publish();
    }
  };
  test::Child first([&] { answer(pongs[0]); });
  test::Child second([&] { answer(pongs[1]); });
  BroadcastWriter writer = ping.Writer();
  std::vector<BroadcastFollower> answers;
  for (const Broadcast& pong : pongs) answers.push_back(pong.Follower());
  for (uint64_t round = 0; round < kRounds && !HasFailure(); ++round) {
    writer.Append(round, {});
    writer.Publish();
    // Nothing more is published until both have answered, so a lost wake is not mended.
    for (BroadcastFollower& follower : answers) ExpectNext(follower, round);
  }
  EXPECT_EQ(first.Join(), 0);
  EXPECT_EQ(second.Join(), 0);
}

TEST(BroadcastProcesses, AFollowerThatIsSlowerThanTheWriterLosesExactly) {
  constexpr uint64_t kLongest = 300;
  const Broadcast ring(PageBytes());
  // Slow, of its own accord: it looks at every byte of every record.
  CheckingFollower follower(ring.Follower(), kLongest, kLongest);
  test::Child child([&ring] {
    BroadcastWriter writer = ring.Writer();
    for (int i = 0; i < 60'000; ++i) {
      AppendNext(writer, kLongest);
      writer.Publish();
    }
  });
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  while (follower.ring().next_sequence() < 60'000 && !HasFailure()) {
    ASSERT_LT(MonotonicNs(), deadline_ns);
    follower.Next();
  }
  EXPECT_EQ(child.Join(), 0);
  EXPECT_EQ(follower.received() + follower.lost(), 60'000u);
  EXPECT_GT(follower.received(), 0u);
  EXPECT_GT(follower.lost(), 0u);
}

TEST(BroadcastProcesses, WriterAndFollowersMayBeThreadsOfOneProcess) {
  constexpr uint64_t kRecords = 5000;
  constexpr uint64_t kLongest = 100;
  const Broadcast ring(PageBytes());
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back(
        [&, follower = CheckingFollower(ring.Follower(), kLongest, kLongest)]() mutable {
          while (follower.ring().next_sequence() < kRecords && !HasFailure()) {
            Await(follower.ring());
            follower.Next();
          }
          EXPECT_EQ(follower.received() + follower.lost(), kRecords);
        });
  }
  BroadcastWriter writer = ring.Writer();
  for (uint64_t i = 0; i < kRecords; ++i) {
    AppendNext(writer, kLongest);
    if (i % 3 == 0 || i + 1 == kRecords) writer.Publish();
  }
  for (std::thread& thread : threads) thread.join();
}

// Payload bytes of the first so many records.
class PayloadSums {
 public:
  explicit PayloadSums(uint64_t payload_bytes_max) : payload_bytes_max_(payload_bytes_max) {}
  uint64_t Below(uint64_t sequence) {
    while (sums_.size() <= sequence) {
      sums_.push_back(sums_.back() + test::PayloadOf(sums_.size() - 1, payload_bytes_max_).size());
    }
    return sums_[sequence];
  }

 private:
  uint64_t payload_bytes_max_;
  std::vector<uint64_t> sums_ = {0};
};

TEST(BroadcastProcesses, AddsUpForEveryFollowerThoughTheWriterIsKilledOverAndOver) {
  constexpr int kKills = 200;
  constexpr uint64_t kLongest = 500;
  const Broadcast ring(2 * PageBytes());
  PayloadSums sums(kLongest);
  std::mt19937_64 random(7);
  CheckingFollower fast(ring.Follower(), kLongest, kLongest);
  CheckingFollower slow(ring.Follower(), kLongest, kLongest);
  for (int kill = 0; kill < kKills && !HasFailure(); ++kill) {
    const uint64_t start = fast.ring().next_sequence();
    test::Child child([&ring, batch = 1 + kill % 4] {
      BroadcastWriter writer = ring.Writer();
      const int64_t end_ns = MonotonicNs() + kPatienceNs;
      while (MonotonicNs() < end_ns) {
        for (int i = 0; i < batch; ++i) AppendNext(writer, kLongest);
        writer.Publish();
      }
    });
    // Not after a time but after so many records: the kill lands anywhere in the next ones.
    const uint64_t enough = start + 1 + random() % 200;
    const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
    while (fast.ring().next_sequence() < enough && !HasFailure()) {
      ASSERT_LT(MonotonicNs(), deadline_ns);
      fast.Next();
      if (random() % 8 == 0) slow.Next();
    }
    ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
    ASSERT_EQ(child.Join(), 128 + SIGKILL);
    const BroadcastWriter successor = ring.Writer();
    const BroadcastFigures figures = successor.figures();
    ASSERT_EQ(figures.restarts, 0u);
    ASSERT_EQ(figures.stored_bytes, sums.Below(figures.stored_records));
    ASSERT_EQ(figures.overwritten_bytes, sums.Below(figures.overwritten_records));
    fast.Drain();
    ASSERT_EQ(fast.received() + fast.lost(), successor.next_sequence());
  }
  slow.Drain();
  EXPECT_EQ(slow.received() + slow.lost(), fast.ring().next_sequence());
  EXPECT_GT(slow.lost(), fast.lost());
}

}  // namespace
}  // namespace iob::shm
