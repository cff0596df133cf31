// A broadcast ring's writer and its followers in every order of their steps, up to a few
// pre-emptions: who is overtaken while it copies keeps nothing of that copy, counts every record
// that it did not get, and no follower is left asleep, whatever the others do.
//
// The ring holds two records, and three or more are written: the writer laps whoever stops.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_layout.h"
#include "shm/broadcast_writer.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/step_scheduler.h"

namespace iob::test {
namespace {

using shm::FollowOutcome;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr uint64_t kRecordsPerRing = 2;
constexpr size_t kFollowersMax = 2;

// What the ring is made to do, and what is left out to see that it is missed.
struct Habits {
  uint64_t records = 4;
  uint64_t batch = 1;  // Records that are published at once.
  size_t followers = 1;
  bool looks_once = false;  // Followers sleep whatever PrepareToWait says.
};

// One ring for all schedules: mapped anew, but its words are cleared only.
class BroadcastStage {
 public:
  BroadcastStage()
      : ring_(shm::PageBytes()),
        words_(shm::Mapping::Map(ring_.data).value()),
        wait_(shm::Mapping::Map(ring_.wait).value()) {}

  void Clear() {
    std::memset(words_.base(), 0, shm::PageBytes());
    std::memset(wait_.base(), 0, shm::PageBytes());
  }
  const Broadcast& ring() const { return ring_; }
  uint64_t payload_bytes() const {
    return ring_.layout.capacity_bytes() / kRecordsPerRing - shm::kBroadcastHeaderBytes;
  }

 private:
  Broadcast ring_;
  shm::Mapping words_;
  shm::Mapping wait_;
};

// One schedule's worth.
class BroadcastPlay {
 public:
  BroadcastPlay(StepRun& run, BroadcastStage& stage, const Habits& habits)
      : run_(run), stage_(stage), habits_(habits), payload_(stage.payload_bytes()) {
    stage_.Clear();
    writer_.emplace(stage_.ring().Writer());
    for (size_t i = 0; i < habits_.followers; ++i) {
      followers_[i].ring.emplace(stage_.ring().Follower());
      followers_[i].buffer.resize(stage_.payload_bytes());
    }
  }

  void Write() {
    while (writer_->next_sequence() < habits_.records) {
      const uint64_t sequence = writer_->next_sequence();
      std::memcpy(payload_.data(), &sequence, sizeof(sequence));
      std::memcpy(payload_.data() + payload_.size() - sizeof(sequence), &sequence,
                  sizeof(sequence));
      run_.Expect(writer_->Append(TagOf(sequence), payload_), "an honest record is refused");
      if (writer_->next_sequence() % habits_.batch == 0) writer_->Publish();
    }
    // Not once more for nothing: that would repair what the last one forgot.
    if (habits_.records % habits_.batch != 0) writer_->Publish();
  }
  // Another writer goes on with the ring of a dead one.
  void ReplaceWriter() {
    auto successor =
        shm::BroadcastWriter::Map(stage_.ring().layout, stage_.ring().data, stage_.ring().wait);
    run_.Expect(successor.ok(), "a successor finds a ring that cannot be");
    writer_.emplace(*std::move(successor));
    run_.Expect(writer_->next_sequence() <= habits_.records, "a number was used twice");
  }

  void Follow(size_t follower) {
    Follower& self = followers_[follower];
    while (self.ring->next_sequence() < habits_.records) {
      if (Next(self) != FollowOutcome::kEmpty) continue;
      const bool sleeps = self.ring->PrepareToWait(shm::kWaitingOnFutex);
      run_.Expect(self.ring->status().ok(), "an honest ring is poisoned");
      if (sleeps || habits_.looks_once) {
        const shm::FutexWord head = self.ring->HeadWord();
        shm::FutexWaitAny({&head, 1}, kNever);
      }
    }
  }

  void Check() {
    for (size_t i = 0; i < habits_.followers; ++i) {
      const Follower& follower = followers_[i];
      run_.Expect(follower.received + follower.lost == habits_.records, "a loss is not exact");
      run_.Expect(follower.received == follower.ring->received_records() &&
                      follower.lost == follower.ring->lost_records(),
                  "the follower's account is wrong");
    }
    const shm::BroadcastFigures figures = writer_->figures();
    run_.Expect(figures.stored_records == habits_.records && figures.restarts == 0 &&
                    figures.stored_bytes == habits_.records * payload_.size() &&
                    figures.overwritten_records == habits_.records - kRecordsPerRing,
                "the writer's account is wrong");
  }
  uint64_t lost() const { return followers_[0].lost; }

 private:
  struct Follower {
    std::optional<shm::BroadcastFollower> ring;
    std::vector<std::byte> buffer;
    uint64_t received = 0;
    uint64_t lost = 0;
  };

  FollowOutcome Next(Follower& self) {
    shm::Followed followed;
    const uint64_t due = self.received + self.lost;
    const FollowOutcome outcome = self.ring->Next(self.buffer, &followed);
    run_.Expect(outcome != FollowOutcome::kPoisoned && outcome != FollowOutcome::kTooSmall,
                "an honest ring is poisoned");
    if (outcome == FollowOutcome::kLost) {
      run_.Expect(followed.sequence == due && followed.lost_records != 0, "another loss");
      self.lost += followed.lost_records;
    }
    if (outcome != FollowOutcome::kRecord) return outcome;
    std::array<uint64_t, 2> numbers = {};
    std::memcpy(&numbers[0], self.buffer.data(), sizeof(uint64_t));
    std::memcpy(&numbers[1], self.buffer.data() + self.buffer.size() - sizeof(uint64_t),
                sizeof(uint64_t));
    run_.Expect(followed.sequence == due, "twice, or out of order");
    run_.Expect(followed.payload_bytes == self.buffer.size() && followed.tag == TagOf(due) &&
                    numbers[0] == due && numbers[1] == due,
                "torn");
    self.received += 1;
    return outcome;
  }

  StepRun& run_;
  BroadcastStage& stage_;
  const Habits habits_;
  std::vector<std::byte> payload_;
  std::optional<shm::BroadcastWriter> writer_;
  std::array<Follower, kFollowersMax> followers_;
};

class ScheduleBroadcast : public ::testing::Test {
 protected:
  std::function<void(StepRun&)> Everyday(const Habits& habits) {
    return [this, habits](StepRun& run) {
      BroadcastPlay play(run, stage_, habits);
      run.AddRole("writer", [&play] { play.Write(); });
      run.AddRole("follower", [&play] { play.Follow(0); });
      if (habits.followers > 1) run.AddRole("other", [&play] { play.Follow(1); });
      if (!run.Go()) return;
      play.Check();
      with_loss_ += play.lost() != 0 ? 1 : 0;
      without_loss_ += play.lost() == 0 ? 1 : 0;
    };
  }

  BroadcastStage stage_;
  uint64_t with_loss_ = 0;
  uint64_t without_loss_ = 0;
};

constexpr StepLimits kOne{.preemptions_max = 1, .deaths_max = 0};
constexpr StepLimits kTwo{.preemptions_max = 2, .deaths_max = 0};
constexpr StepLimits kThree{.preemptions_max = 3, .deaths_max = 0};
constexpr StepLimits kOneAndDeath{.preemptions_max = 1, .deaths_max = 1};

TEST_F(ScheduleBroadcast, EachRecordIsReceivedOrToldAsLost) {
  ExpectHolds(kThree, Everyday({.records = 3}));
  EXPECT_GT(with_loss_, 0u);
  EXPECT_GT(without_loss_, 0u);
}

TEST_F(ScheduleBroadcast, WhoIsLappedTwiceCountsAllOfIt) {
  ExpectHolds(kTwo, Everyday({.records = 6}));
}

TEST_F(ScheduleBroadcast, BatchesLongerThanTheRingAreFollowed) {
  ExpectHolds(kTwo, Everyday({.records = 6, .batch = 3}));
}

TEST_F(ScheduleBroadcast, NoFollowerTakesTheWakeOfAnother) {
  ExpectHolds(kOne, Everyday({.records = 3, .followers = 2}));
}

TEST_F(ScheduleBroadcast, ASuccessorOfTheWriterGoesOn) {
  ExpectHolds(kOneAndDeath, [this](StepRun& run) {
    BroadcastPlay play(run, stage_, {});
    run.AddRole(
        "writer", [&play] { play.Write(); }, StepRun::Mortal::kYes);
    run.AddRole("follower", [&play] { play.Follow(0); });
    run.AddRole("successor", [&] {
      if (!run.AwaitEnd(0)) return;
      play.ReplaceWriter();
      play.Write();
    });
    if (run.Go()) play.Check();
  });
}

TEST_F(ScheduleBroadcast, EachPartIsMissed) {
  ExpectFinds(kTwo, Everyday({.records = 3, .looks_once = true}), "follower left asleep");
}

}  // namespace
}  // namespace iob::test
