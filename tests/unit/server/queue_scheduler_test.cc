// The scheduler of submission queues against queues made of numbers and a clock made of one: shares
// by weight, bounds per round, idling, waiting for room, floods of kicks, and a queue that lies.
#include "server/queue_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

namespace iob::server {
namespace {

using shm::ServeLimits;
using shm::ServeResult;
using shm::ServeState;

// A queue as the scheduler sees one.
struct FakeQueue {
  uint64_t backlog_entries = 0;  // UINT64_MAX: never ends.
  uint64_t entry_bytes_min = 80;
  uint64_t entry_bytes_max = 80;
  bool lies = false;
  // Entries that its ring still takes; the next one waits until `deadline_ns`.
  uint64_t ring_room_entries = UINT64_MAX;
  int64_t deadline_ns = 0;

  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t looks = 0;
  bool needs_wakeup = false;
};

class FakeHost final : public QueueHost {
 public:
  FakeQueue& operator[](QueueId id) { return queues_[id]; }

  ServeResult Serve(QueueId id, const ServeLimits& limits) override {
    FakeQueue& queue = queues_[id];
    EXPECT_FALSE(queue.needs_wakeup) << "served without being activated";
    queue.looks += 1;
    order_.push_back(id);
    ServeResult result;
    result.state = ServeMore(queue, limits, result);
    queue.entries += result.entries;
    queue.bytes += result.bytes;
    EXPECT_LE(result.entries, limits.entries_max);
    if (result.state == ServeState::kBlocked) result.deadline_ns = queue.deadline_ns;
    return result;
  }
  bool BecomeIdle(QueueId id) override {
    FakeQueue& queue = queues_[id];
    queue.needs_wakeup = queue.backlog_entries == 0;
    return queue.needs_wakeup;
  }
  void Activate(QueueId id) override { queues_[id].needs_wakeup = false; }
  void Unmute(QueueId id) override { unmuted_.push_back(id); }

  std::vector<QueueId>& order() { return order_; }
  std::vector<QueueId>& unmuted() { return unmuted_; }

 private:
  ServeState ServeMore(FakeQueue& queue, const ServeLimits& limits, ServeResult& result) {
    if (queue.lies) return ServeState::kViolation;
    while (queue.backlog_entries != 0) {
      if (result.entries >= limits.entries_max || result.bytes >= limits.bytes_max) {
        return ServeState::kMore;
      }
      if (queue.ring_room_entries == 0) {
        if (limits.now_ns < queue.deadline_ns) return ServeState::kBlocked;
      } else if (queue.ring_room_entries != UINT64_MAX) {
        queue.ring_room_entries -= 1;
      }
      if (queue.backlog_entries != UINT64_MAX) queue.backlog_entries -= 1;
      result.entries += 1;
      result.bytes +=
          std::uniform_int_distribution(queue.entry_bytes_min, queue.entry_bytes_max)(random_);
    }
    return ServeState::kIdle;
  }

  std::map<QueueId, FakeQueue> queues_;
  std::vector<QueueId> order_;
  std::vector<QueueId> unmuted_;
  std::mt19937_64 random_{1};
};

class QueueSchedulerTest : public ::testing::Test {
 protected:
  // Until nothing is active any more; a scheduler that never rests is a failure.
  QueueScheduler::RoundResult RunUntilIdle() {
    for (int round = 0; round < 10'000; ++round) {
      const auto result = scheduler_.RunRound(now_ns_);
      if (!result.active) return result;
      now_ns_ += 1000;
    }
    ADD_FAILURE() << "still active";
    return {};
  }
  void RunRounds(int rounds) {
    for (int i = 0; i < rounds; ++i) scheduler_.RunRound(now_ns_ += 1000);
  }

  FakeHost host_;
  QueueScheduler scheduler_{host_};
  int64_t now_ns_ = 1'000'000'000;
};

constexpr int64_t kMs = 1'000'000;
constexpr uint64_t kEndless = UINT64_MAX;

// ---- Shares -------------------------------------------------------------------------------------

TEST_F(QueueSchedulerTest, SharesBytesByWeightWithinOnePercent) {
  const std::vector<uint32_t> weights = {1, 2, 3, 7};
  for (uint32_t id = 0; id < weights.size(); ++id) {
    // Long entries of all sizes, where bytes are scarce; each queue has sizes of its own.
    host_[id] = {.backlog_entries = kEndless,
                 .entry_bytes_min = 3000 + 1000 * id,
                 .entry_bytes_max = 65536,
                 .lies = false,
                 .ring_room_entries = kEndless,
                 .deadline_ns = 0};
    scheduler_.Add(id, {.weight = weights[id], .ring_id = id});
  }
  RunRounds(2000);
  const double unit = static_cast<double>(host_[0].bytes);
  for (uint32_t id = 0; id < weights.size(); ++id) {
    EXPECT_NEAR(static_cast<double>(host_[id].bytes) / unit, weights[id], 0.01 * weights[id]) << id;
  }
}

TEST_F(QueueSchedulerTest, SharesEntriesByWeightWhereEntriesAreShort) {
  for (const uint32_t weight : {1u, 4u}) {
    host_[weight].backlog_entries = kEndless;
    scheduler_.Add(weight, {.weight = weight, .ring_id = 0});
  }
  RunRounds(500);
  EXPECT_EQ(host_[1].entries, 500 * QueueScheduler::kEntriesMax);
  EXPECT_EQ(host_[4].entries, 4 * host_[1].entries);
}

TEST_F(QueueSchedulerTest, AFloodTakesNoMoreThanItsShareOfARound) {
  host_[1].backlog_entries = kEndless;
  host_[1].entry_bytes_min = host_[1].entry_bytes_max = 65536;
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  scheduler_.Add(2, {.weight = 1, .ring_id = 2});
  uint64_t flood_bytes = 0;
  for (int round = 0; round < 1000; ++round) {
    host_[2].backlog_entries = 1 + static_cast<uint64_t>(round) % 32;
    scheduler_.RunRound(now_ns_ += 1000);
    ASSERT_EQ(host_[2].backlog_entries, 0u) << "the modest one was served in every round";
    // A quantum, and what is left of one entry.
    ASSERT_LE(host_[1].bytes - flood_bytes, uint64_t{2} * QueueScheduler::kQuantumBytes);
    flood_bytes = host_[1].bytes;
  }
}

TEST_F(QueueSchedulerTest, SavesNothingUpWhileThereIsNothingToDo) {
  host_[1].entry_bytes_min = host_[1].entry_bytes_max = 16'000;
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  RunRounds(100);
  host_[1].backlog_entries = kEndless;
  scheduler_.RunRound(now_ns_);
  EXPECT_LE(host_[1].bytes, QueueScheduler::kQuantumBytes + 16'000u);
}

// ---- Idle queues and kicks ----------------------------------------------------------------------

TEST_F(QueueSchedulerTest, LetsAnEmptyQueueGoIdleAfterASpinAndWakesItByAKick) {
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  const int64_t start_ns = now_ns_;
  const auto result = RunUntilIdle();
  EXPECT_EQ(now_ns_ - start_ns, QueueScheduler::kSpinNs);
  EXPECT_EQ(result.wake_at_ns, QueueScheduler::kNever);
  EXPECT_TRUE(host_[1].needs_wakeup);
  const uint64_t looks = host_[1].looks;
  RunRounds(10);
  EXPECT_EQ(host_[1].looks, looks) << "an idle queue costs nothing";
  host_[1].backlog_entries = 5;
  EXPECT_EQ(scheduler_.Kick(1, now_ns_), QueueScheduler::KickOutcome::kHeard);
  EXPECT_TRUE(scheduler_.RunRound(now_ns_).did_work);
  EXPECT_EQ(host_[1].entries, 5u);
}

TEST_F(QueueSchedulerTest, LetsAnEmptyQueueGoIdleAfterManyRoundsOfAStoppedClock) {
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  for (uint32_t round = 1; round < QueueScheduler::kEmptyRoundsMax; ++round) {
    ASSERT_TRUE(scheduler_.RunRound(now_ns_).active) << round;
  }
  EXPECT_FALSE(scheduler_.RunRound(now_ns_).active);
}

TEST_F(QueueSchedulerTest, KeepsAQueueThatGotWorkAtTheLastMoment) {
  struct LateHost final : QueueHost {
    ServeResult Serve(QueueId, const ServeLimits&) override {
      ServeResult result;
      result.entries = std::exchange(backlog, 0);
      served += result.entries;
      return result;
    }
    bool BecomeIdle(QueueId) override {
      // The client publishes between the last look and the flag, once.
      backlog = std::exchange(late, 0);
      return backlog == 0;
    }
    void Activate(QueueId) override {}
    void Unmute(QueueId) override {}
    uint64_t late = 3;
    uint64_t backlog = 0;
    uint64_t served = 0;
  };
  LateHost host;
  QueueScheduler scheduler(host);
  scheduler.Add(1, {.weight = 1, .ring_id = 1});
  for (int round = 0; round < 1000 && scheduler.RunRound(now_ns_).active; ++round) {
    now_ns_ += 1000;
  }
  EXPECT_EQ(host.served, 3u);
  EXPECT_EQ(scheduler.active_count(), 0u);
}

TEST_F(QueueSchedulerTest, MutesAQueueThatKicksForNothingAndForgetsNoKick) {
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  RunUntilIdle();
  uint64_t heard = 0;
  while (scheduler_.Kick(1, now_ns_) == QueueScheduler::KickOutcome::kHeard) {
    ASSERT_LT(++heard, 10u);
    RunUntilIdle();
  }
  EXPECT_EQ(heard, QueueScheduler::kFruitlessKicksMax);
  const int64_t muted_at_ns = now_ns_;
  const uint64_t looks = host_[1].looks;
  host_[1].backlog_entries = 4;
  EXPECT_EQ(scheduler_.Kick(1, now_ns_ += kMs), QueueScheduler::KickOutcome::kMuted);
  const auto result = scheduler_.RunRound(now_ns_);
  EXPECT_FALSE(result.active);
  EXPECT_EQ(result.wake_at_ns, muted_at_ns + QueueScheduler::kMuteNs);
  EXPECT_EQ(host_[1].looks, looks);
  // The kick that came while nobody listened is acted on.
  EXPECT_TRUE(scheduler_.RunRound(now_ns_ = result.wake_at_ns).did_work);
  EXPECT_EQ(host_[1].entries, 4u);
  EXPECT_EQ(host_.unmuted(), std::vector<QueueId>{1});
  RunUntilIdle();
  EXPECT_EQ(scheduler_.Kick(1, now_ns_), QueueScheduler::KickOutcome::kHeard) << "forgiven";
}

TEST_F(QueueSchedulerTest, HearsEveryKickThatBringsSomething) {
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  for (int i = 0; i < 100; ++i) {
    RunUntilIdle();
    host_[1].backlog_entries = 1;
    ASSERT_EQ(scheduler_.Kick(1, now_ns_), QueueScheduler::KickOutcome::kHeard) << i;
  }
  RunUntilIdle();
  EXPECT_EQ(host_[1].entries, 100u);
}

TEST_F(QueueSchedulerTest, AKickFloodCostsALookPerMute) {
  scheduler_.Add(1, {.weight = 1, .ring_id = 1});
  RunUntilIdle();
  const uint64_t looks = host_[1].looks;
  const int64_t end_ns = now_ns_ + 1000 * kMs;
  uint64_t episodes = 0;
  bool asleep = true;
  while (now_ns_ < end_ns) {
    scheduler_.Kick(1, now_ns_);
    const bool active = scheduler_.RunRound(now_ns_ += 50'000).active;
    episodes += asleep && active ? 1 : 0;
    asleep = !active;
  }
  EXPECT_LE(episodes, 1000 * kMs / QueueScheduler::kMuteNs + QueueScheduler::kFruitlessKicksMax);
  // Steps of 50 us end each spin after two looks.
  EXPECT_LE(host_[1].looks - looks, 2 * (episodes + 1));
}

// ---- Waiting for room ---------------------------------------------------------------------------

TEST_F(QueueSchedulerTest, ParksABlockedQueueUntilItsRingHasRoom) {
  host_[1] = {.backlog_entries = 10, .ring_room_entries = 3, .deadline_ns = now_ns_ + 50 * kMs};
  scheduler_.Add(1, {.weight = 1, .ring_id = 77});
  const auto result = scheduler_.RunRound(now_ns_);
  EXPECT_TRUE(result.did_work);
  EXPECT_FALSE(result.active) << "nobody polls for room";
  EXPECT_EQ(result.wake_at_ns, host_[1].deadline_ns);
  EXPECT_EQ(host_[1].entries, 3u);
  host_[1].ring_room_entries = 4;
  scheduler_.RoomMade(78);
  EXPECT_FALSE(scheduler_.RunRound(now_ns_).did_work) << "another ring's";
  scheduler_.RoomMade(77);
  EXPECT_TRUE(scheduler_.RunRound(now_ns_).did_work);
  EXPECT_EQ(host_[1].entries, 7u);
  EXPECT_EQ(scheduler_.parked_count(), 1u);
}

TEST_F(QueueSchedulerTest, LooksAtABlockedQueueAtItsDeadline) {
  host_[1] = {.backlog_entries = 1, .ring_room_entries = 0, .deadline_ns = now_ns_ + 50 * kMs};
  scheduler_.Add(1, {.weight = 1, .ring_id = 77});
  const int64_t wake_at_ns = scheduler_.RunRound(now_ns_).wake_at_ns;
  EXPECT_FALSE(scheduler_.RunRound(wake_at_ns - 1).did_work);
  EXPECT_TRUE(scheduler_.RunRound(wake_at_ns).did_work);
}

TEST_F(QueueSchedulerTest, LooksAtBlockedQueuesWhileOthersRun) {
  host_[1] = {.backlog_entries = 1, .ring_room_entries = 0, .deadline_ns = now_ns_ + 1000 * kMs};
  host_[2].backlog_entries = kEndless;
  scheduler_.Add(1, {.weight = 1, .ring_id = 77});
  scheduler_.Add(2, {.weight = 1, .ring_id = 78});
  RunRounds(3);
  EXPECT_EQ(host_[1].entries, 0u);
  host_[1].ring_room_entries = 1;
  RunRounds(1);
  EXPECT_EQ(host_[1].entries, 1u);
}

TEST_F(QueueSchedulerTest, GivesTheRoomOfOneRingToItsWaitersInTurn) {
  for (QueueId id = 1; id <= 3; ++id) {
    host_[id] = {.backlog_entries = kEndless, .ring_room_entries = 0, .deadline_ns = INT64_MAX};
    scheduler_.Add(id, {.weight = 1, .ring_id = 77});
  }
  RunRounds(1);
  for (int i = 0; i < 300; ++i) {
    // Room for one entry, which the first one that is tried takes.
    host_.order().clear();
    scheduler_.RoomMade(77);
    for (QueueId id = 1; id <= 3; ++id) host_[id].ring_room_entries = 0;
    scheduler_.RunRound(now_ns_);
    ASSERT_EQ(host_.order().size(), 3u);
    const QueueId first = host_.order().front();
    host_[first].ring_room_entries = 1;
    scheduler_.RoomMade(77);
    scheduler_.RunRound(now_ns_);
  }
  for (QueueId id = 1; id <= 3; ++id) EXPECT_EQ(host_[id].entries, 100u) << id;
}

// ---- Liars and leavers --------------------------------------------------------------------------

TEST_F(QueueSchedulerTest, CutsAQueueThatLiesAndServesTheOthersAsBefore) {
  for (QueueId id = 1; id <= 3; ++id) {
    host_[id].backlog_entries = kEndless;
    scheduler_.Add(id, {.weight = 1, .ring_id = id});
  }
  RunRounds(10);
  host_[2].lies = true;
  RunRounds(10);
  EXPECT_EQ(scheduler_.cut_count(), 1u);
  EXPECT_EQ(host_[2].looks, 11u) << "the look that found it is the last one";
  EXPECT_EQ(host_[1].entries, 20 * QueueScheduler::kEntriesMax);
  EXPECT_EQ(host_[3].entries, 20 * QueueScheduler::kEntriesMax);
  EXPECT_EQ(scheduler_.Kick(2, now_ns_), QueueScheduler::KickOutcome::kMuted);
  RunRounds(1);
  EXPECT_EQ(host_[2].looks, 11u);
  scheduler_.Remove(2);
  EXPECT_EQ(scheduler_.cut_count(), 0u);
}

TEST_F(QueueSchedulerTest, ForgetsARemovedQueueInEveryState) {
  host_[1].backlog_entries = kEndless;
  host_[2] = {.backlog_entries = 1, .ring_room_entries = 0, .deadline_ns = INT64_MAX};
  for (QueueId id = 1; id <= 3; ++id) scheduler_.Add(id, {.weight = 1, .ring_id = id});
  RunRounds(100);
  for (int i = 0; i < 4; ++i) scheduler_.Kick(3, now_ns_);
  for (QueueId id = 1; id <= 3; ++id) {
    scheduler_.Remove(id);
    scheduler_.Remove(id);
  }
  host_.order().clear();
  scheduler_.RoomMade(2);
  const auto result = scheduler_.RunRound(now_ns_ + 100 * kMs);
  EXPECT_FALSE(result.active);
  EXPECT_EQ(result.wake_at_ns, QueueScheduler::kNever);
  EXPECT_TRUE(host_.order().empty());
  EXPECT_TRUE(host_.unmuted().empty());
  EXPECT_EQ(scheduler_.size(), 0u);
}

}  // namespace
}  // namespace iob::server
