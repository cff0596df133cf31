// The light fence: that one of two racing sides sees the other, with two processes that really
// race; and what the sides do where the kernel refuses.
#include "shm/light_fence.h"

#include <gtest/gtest.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/waiter.h"
#include "tests/support/shm_lane.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

// Without it the race goes well nearly always: what waits in a store buffer does not wait for long.
TEST(LightFence, RegistersTheProcessThatPublishesLightly) {
  if (kFenceAlways) GTEST_SKIP() << "this build fences on both sides";
  constexpr int kGetRegistrations = 1 << 9;  // Linux 6.3.
  if (::syscall(SYS_membarrier, kGetRegistrations, 0, 0) < 0) GTEST_SKIP() << "nobody can tell";
  test::ExpectInChild([] {
    [[maybe_unused]] const LightFence fence = LightFence::ForThisProcess();
    EXPECT_NE(::syscall(SYS_membarrier, kGetRegistrations, 0, 0) &
                  MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED,
              0);
  });
}

// ---- The race ---------------------------------------------------------------------------------

constexpr uint64_t kPublications = 1 << 22;
constexpr int64_t kPatienceNs = 20'000'000'000;
constexpr uint64_t kPositionOffset = 0;
constexpr uint64_t kFlagOffset = 128;
constexpr uint64_t kSeenOffset = 4096;  // u32 per publication: the flag that it found.

// On a processor of its own, where there are two: on one, nothing races.
void RunOn(int which) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  IOB_CHECK(::sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || which-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    IOB_CHECK(::sched_setaffinity(0, sizeof(one), &one) == 0);
    return;
  }
}

// Publishes 1, 2, 3... once the other side has begun, and notes which flag each publication found.
void Publish(const Mapping& memory) {
  const LightFence fence = LightFence::ForThisProcess();
  auto& position = memory.Word<uint64_t>(kPositionOffset);
  const auto& flag = memory.Word<uint32_t>(kFlagOffset);
  auto* const seen = reinterpret_cast<uint32_t*>(memory.base() + kSeenOffset);
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  while (flag.LoadRelaxed().ForHintOnly() == 0 && MonotonicNs() < deadline_ns) CpuRelax();
  for (uint64_t i = 1; i <= kPublications; ++i) {
    position.StoreRelease(i);
    fence.Fast();
    seen[i] = flag.LoadRelaxed().ForHintOnly();
  }
}

// One round. Adds to `ret_raced` how often the sleeper found the publisher at work.
void Race(uint64_t* ret_raced) {
  const uint64_t size_bytes = RoundUpToPages(kSeenOffset + (kPublications + 2) * sizeof(uint32_t));
  ASSERT_OK_AND_ASSIGN(Memfd fresh, Memfd::Create("light-fence"));
  ASSERT_OK_AND_ASSIGN(const SealedMemfd memfd, std::move(fresh).SealSize(size_bytes));
  ASSERT_OK_AND_ASSIGN(const Mapping memory, Mapping::Map(memfd));
  test::Child publisher([&] {
    RunOn(1);
    Publish(memory);
  });
  RunOn(0);
  LightFence fence = LightFence::ForThisProcess();
  const auto& position = memory.Word<uint64_t>(kPositionOffset);
  auto& flag = memory.Word<uint32_t>(kFlagOffset);
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  std::vector<uint64_t> looks = {0};  // By flag: the position that its sleeper saw.
  while (looks.back() != kPublications && MonotonicNs() < deadline_ns) {
    flag.StoreRelaxed(static_cast<uint32_t>(looks.size()));
    ASSERT_TRUE(fence.Heavy());
    looks.push_back(position.LoadAcquire().ForHintOnly());
  }
  ASSERT_EQ(publisher.Join(), 0);
  ASSERT_EQ(looks.back(), kPublications) << "the publisher did not get through";
  const auto* const seen = reinterpret_cast<const uint32_t*>(memory.base() + kSeenOffset);
  for (uint64_t k = 1; k < looks.size() && looks[k] < kPublications; ++k) {
    // The first publication that the look missed must have found the flag.
    ASSERT_GE(seen[looks[k] + 1], k) << "both missed the other at " << looks[k];
    if (looks[k] != looks[k - 1]) ++*ret_raced;
  }
}

TEST(LightFence, LetsOneOfTwoRacingSidesSeeTheOther) {
  // In a child, which may be moved to a processor of its own.
  test::ExpectInChild([] {
    constexpr uint64_t kRacedMin = 3;
    constexpr int kRoundsMax = 100;  // On a busy machine the two seldom run at once.
    const bool several = Waiter::SeveralProcessors();
    uint64_t raced = 0;
    int rounds = 0;
    do {
      Race(&raced);
    } while (several && raced < kRacedMin && ++rounds < kRoundsMax &&
             !::testing::Test::HasFailure());
    if (several) {
      EXPECT_GE(raced, kRacedMin) << "the two never ran at once";
    }
  });
}

// ---- Where the kernel refuses ------------------------------------------------------------------

TEST(LightFence, AsksForFencesWhereMembarrierIsRefused) {
  if (kFenceAlways) GTEST_SKIP() << "this build fences on both sides";
  for (const int error : {ENOSYS, EPERM, EINVAL}) {
    test::ExpectInChild([&] {
      test::RefuseMembarrier(error);
      LightFence fence = LightFence::ForThisProcess();
      EXPECT_EQ(fence.ask(), kFenceForMe);
      EXPECT_TRUE(fence.Heavy()) << "there is nothing to try again";
    });
  }
}

TEST(LightFence, AsksForFencesOnceAFilterHasCome) {
  if (kFenceAlways) GTEST_SKIP() << "this build fences on both sides";
  if (LightFence::ForThisProcess().ask() != 0) GTEST_SKIP() << "no membarrier here";
  test::ExpectInChild([] {
    LightFence fence = LightFence::ForThisProcess();
    EXPECT_EQ(fence.ask(), 0u);
    EXPECT_TRUE(fence.Heavy());
    test::RefuseMembarrier(EPERM);
    EXPECT_FALSE(fence.Heavy()) << "the flag is out without a word about fences";
    EXPECT_EQ(fence.ask(), kFenceForMe);
    EXPECT_TRUE(fence.Heavy());
  });
}

TEST(LightFence, KeepsAskingInTheWordsOfALane) {
  if (kFenceAlways) GTEST_SKIP() << "this build fences on both sides";
  test::ExpectInChild([] {
    test::RefuseMembarrier(ENOSYS);
    test::Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    LaneConsumer consumer = lane.Consumer();
    EXPECT_EQ(lane.waiting(), kFenceForMe) << "before the first sleep";
    EXPECT_EQ(lane.want_room(), kFenceForMe);
    EXPECT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
    EXPECT_EQ(lane.waiting(), kFenceForMe | kWaitingOnSocket);
    LaneReservation reservation;
    ASSERT_EQ(producer.Reserve(lane.layout().payload_bytes_max(), &reservation),
              LaneReserveOutcome::kReserved);
    EXPECT_TRUE(producer.Submit(reservation)) << "asked for a packet";
    EXPECT_TRUE(producer.PrepareToWaitForRoom(8).sleep);
    EXPECT_EQ(lane.want_room(), kFenceForMe | 24);
    consumer.ClearWaiting();
    producer.ClearWantRoom();
    EXPECT_EQ(lane.waiting(), kFenceForMe);
    EXPECT_EQ(lane.want_room(), kFenceForMe);
  });
}

TEST(LightFence, AskingIsNeitherASleeperNorAWishForRoom) {
  if (kFenceAlways) GTEST_SKIP() << "this build fences on both sides";
  test::ExpectInChild([] {
    test::RefuseMembarrier(ENOSYS);
    test::Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    LaneConsumer consumer = lane.Consumer(/*clears=*/true);
    test::DenyFutex();
    EXPECT_EQ(test::Produce(producer, "x"), LaneReserveOutcome::kReserved);
    EXPECT_EQ(test::Drain(consumer).size(), 1u);
    EXPECT_EQ(lane.head(), 0u) << "held back to be cleared with others";
  });
}

}  // namespace
}  // namespace iob::shm
