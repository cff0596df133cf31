// A lane's producer and consumer in every order of their steps, up to a few pre-emptions: records
// arrive once, in order and whole; nobody sleeps for ever; a death leaves nothing out.
//
// The ring holds two records, and three or more are sent: both sides have to sleep in some order.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "shm/futex.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_lane.h"
#include "tests/support/step_scheduler.h"

namespace iob::test {
namespace {

using shm::LaneReadOutcome;
using shm::LaneReserveOutcome;
using shm::LaneWake;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr uint64_t kRecords = 3;

// What a lane is made to do, and what is left out to see that it is missed.
struct Habits {
  uint64_t per_ring = 2;  // Records that fill it.
  bool clears = false;
  bool batches = false;     // Two records are reserved at once and finished the other way round.
  bool wakes_late = false;  // kNone for all records but the last; the producer pays when it waits.
  bool looks_once = false;  // The consumer sleeps without a look after its flag.
  bool room_looks_once = false;  // So does the producer.
  bool keeps_room = false;       // The consumer sleeps on what it has not released.
};

// One lane for all schedules: mapped anew, but its sections are cleared only.
class LaneStage {
 public:
  LaneStage() : lane_(shm::PageBytes()) {}

  void Clear() {
    std::memset(lane_.lane_section().base(), 0, shm::PageBytes());
    std::memset(lane_.control_section().base(), 0, shm::PageBytes());
  }
  const Lane& lane() const { return lane_; }

 private:
  Lane lane_;
};

// One schedule's worth.
class LanePlay {
 public:
  LanePlay(StepRun& run, LaneStage& stage, const Habits& habits)
      : run_(run),
        stage_(stage),
        habits_(habits),
        payload_bytes_(stage.lane().capacity() / habits.per_ring - shm::kRecordHeaderBytes) {
    stage_.Clear();
    died_.StoreRelaxed(0);
    producer_.emplace(stage_.lane().Producer());
    consumer_.emplace(stage_.lane().Consumer(habits_.clears));
  }

  // ---- The producer
  void Produce() {
    for (uint64_t record = 0; record < kRecords;) {
      if (habits_.batches && record + 1 < kRecords) {
        const shm::LaneReservation first = Reserve(record);
        const shm::LaneReservation second = Reserve(record + 1);
        Submit(second, WakeOf(record + 1));
        Submit(first, WakeOf(record));
        record += 2;
      } else {
        Submit(Reserve(record), WakeOf(record));
        record += 1;
      }
    }
  }
  uint64_t submits_begun() const { return submits_begun_; }
  uint64_t submits_done() const { return submits_done_; }

  // ---- The consumer: until all came, or those of a producer that died.
  void Consume() {
    while (received_ < kRecords) {
      // Before the tail: what the dead published is seen after it.
      const bool died = died_.LoadAcquire().ForHintOnly() != 0;
      if (TakeOne()) continue;
      if (died) return;
      const bool sleeps = consumer_->PrepareToWait(shm::kWaitingOnFutex);
      if (sleeps || habits_.looks_once) {
        const std::array<shm::FutexWord, 2> words = {
            consumer_->TailWord(), shm::FutexWord{.address = died_.address(), .expected = 0}};
        shm::FutexWaitAny(words, kNever);
      }
      consumer_->ClearWaiting();
    }
  }
  // All that is there, for whoever is not waiting for more.
  void ConsumeRest() {
    while (TakeOne()) {
    }
  }
  void ReplaceConsumer() {
    // Whatever the dead one had begun to release was read, and comes once or not again.
    auto successor = stage_.lane().TryConsumer(habits_.clears);
    run_.Expect(successor.ok(), "a successor finds a lane that cannot be");
    consumer_.emplace(*std::move(successor));
    const uint64_t resumed = consumer_->consumed().sequence;
    run_.Expect(releases_done_ <= resumed && resumed <= releases_begun_,
                "the successor resumes elsewhere");
    received_ = resumed;
  }
  void TellDeath() {
    died_.StoreRelease(1);
    shm::FutexWakeAll(died_.address());
  }
  uint64_t received() const { return received_; }
  shm::LaneConsumer& consumer() { return *consumer_; }

 private:
  LaneWake WakeOf(uint64_t record) const {
    return habits_.wakes_late && record + 1 < kRecords ? LaneWake::kNone : LaneWake::kDefault;
  }

  shm::LaneReservation Reserve(uint64_t record) {
    shm::LaneReservation reservation;
    for (;;) {
      const LaneReserveOutcome outcome = producer_->Reserve(payload_bytes_, &reservation);
      if (outcome == LaneReserveOutcome::kReserved) break;
      run_.Expect(outcome == LaneReserveOutcome::kFull, "an honest reservation is refused");
      if (producer_->PrepareToWaitForRoom(payload_bytes_).sleep || habits_.room_looks_once) {
        const shm::FutexWord room = producer_->RoomWord();
        shm::FutexWaitAny({&room, 1}, kNever);
      }
      producer_->ClearWantRoom();
    }
    const std::span<std::byte> bytes = reservation.bytes();
    std::memcpy(bytes.data(), &record, sizeof(record));
    run_.Step();
    std::memcpy(bytes.data() + bytes.size() - sizeof(record), &record, sizeof(record));
    return reservation;
  }
  void Submit(const shm::LaneReservation& reservation, LaneWake wake) {
    submits_begun_ += 1;
    producer_->Submit(reservation, wake);
    submits_done_ += 1;
  }

  bool TakeOne() {
    shm::SharedRecord record;
    const LaneReadOutcome outcome = consumer_->Next(&record);
    run_.Expect(outcome != LaneReadOutcome::kPoisoned, "an honest lane is poisoned");
    if (outcome != LaneReadOutcome::kRecord) return false;
    std::array<uint64_t, 2> numbers = {};
    const std::span<std::byte> copies = std::as_writable_bytes(std::span(numbers));
    record.payload.CopyOut(0, copies.first(sizeof(uint64_t)));
    record.payload.CopyOut(record.payload.size() - sizeof(uint64_t), copies.last(sizeof(uint64_t)));
    run_.Expect(numbers[0] == received_ && numbers[1] == received_, "another record, or torn");
    received_ += 1;
    if (habits_.keeps_room && received_ <= habits_.per_ring) return true;
    releases_begun_ = received_;
    consumer_->Release();
    releases_done_ = received_;
    return true;
  }

  StepRun& run_;
  LaneStage& stage_;
  const Habits habits_;
  const uint64_t payload_bytes_;
  shm::SharedAtomic<uint32_t> died_;  // As the signal page tells.
  std::optional<shm::LaneProducer> producer_;
  std::optional<shm::LaneConsumer> consumer_;
  uint64_t received_ = 0;
  uint64_t submits_begun_ = 0;
  uint64_t submits_done_ = 0;
  uint64_t releases_begun_ = 0;
  uint64_t releases_done_ = 0;
};

std::function<void(StepRun&)> Everyday(LaneStage& stage, const Habits& habits) {
  return [&stage, habits](StepRun& run) {
    LanePlay play(run, stage, habits);
    run.AddRole("producer", [&play] { play.Produce(); });
    run.AddRole("consumer", [&play] { play.Consume(); });
    if (!run.Go()) return;
    run.Expect(play.received() == kRecords, "records are missing");
    const auto settled = play.consumer().SettleLedger();
    run.Expect(settled.ok() && settled->records() == kRecords, "the account is wrong");
  };
}

class ScheduleLane : public ::testing::Test {
 protected:
  LaneStage stage_;
};

constexpr StepLimits kTwo{.preemptions_max = 2, .deaths_max = 0};
constexpr StepLimits kThree{.preemptions_max = 3, .deaths_max = 0};
constexpr StepLimits kOneAndDeath{.preemptions_max = 1, .deaths_max = 1};

TEST_F(ScheduleLane, RecordsArrive) { ExpectHolds(kThree, Everyday(stage_, {})); }

// There every release counts: no later one tells of room that an earlier one forgot.
TEST_F(ScheduleLane, RecordsArriveThroughARingOfOne) {
  ExpectHolds(kTwo, Everyday(stage_, {.per_ring = 1}));
}

TEST_F(ScheduleLane, RecordsArriveWhenTheConsumerClears) {
  ExpectHolds(kTwo, Everyday(stage_, {.clears = true}));
  ExpectHolds(kTwo, Everyday(stage_, {.per_ring = 1, .clears = true}));
}

TEST_F(ScheduleLane, RecordsFinishedOutOfOrderArriveInOrder) {
  ExpectHolds(kTwo, Everyday(stage_, {.batches = true}));
}

TEST_F(ScheduleLane, AWakeThatIsOwedIsPaid) {
  ExpectHolds(kTwo, Everyday(stage_, {.wakes_late = true}));
  ExpectHolds(kTwo, Everyday(stage_, {.batches = true, .wakes_late = true}));
}

TEST_F(ScheduleLane, ASuccessorOfTheConsumerGoesOn) {
  ExpectHolds(kOneAndDeath, [this](StepRun& run) {
    LanePlay play(run, stage_, {});
    run.AddRole("producer", [&play] { play.Produce(); });
    run.AddRole(
        "consumer", [&play] { play.Consume(); }, StepRun::Mortal::kYes);
    run.AddRole("successor", [&] {
      if (!run.AwaitEnd(1)) return;
      play.ReplaceConsumer();
      play.Consume();
    });
    if (run.Go()) run.Expect(play.received() == kRecords, "records are missing");
  });
}

TEST_F(ScheduleLane, WhatADeadProducerSubmittedArrives) {
  ExpectHolds(kOneAndDeath, [this](StepRun& run) {
    LanePlay play(run, stage_, {});
    run.AddRole(
        "producer", [&play] { play.Produce(); }, StepRun::Mortal::kYes);
    run.AddRole("consumer", [&play] { play.Consume(); });
    run.AddRole("broker", [&] {
      if (run.AwaitEnd(0)) play.TellDeath();
    });
    if (!run.Go()) return;
    run.Expect(play.submits_done() <= play.received() && play.received() <= play.submits_begun(),
               "not what was submitted");
    const auto settled = play.consumer().SettleLedger();
    run.Expect(settled.ok() && settled->records() == play.received(), "the account is wrong");
    const auto account =
        shm::ReadLaneAccount(stage_.lane().layout(), stage_.lane().sections().lane);
    run.Expect(account.ok() && account->published.records() == play.received(),
               "the producer's own account is wrong");
  });
}

TEST_F(ScheduleLane, EachPartOfFallingAsleepIsMissed) {
  ExpectFinds(kTwo, Everyday(stage_, {.looks_once = true}), "consumer left asleep");
  ExpectFinds(kTwo, Everyday(stage_, {.room_looks_once = true}), "left asleep");
  ExpectFinds(kTwo, Everyday(stage_, {.keeps_room = true}), "producer and consumer left asleep");
}

}  // namespace
}  // namespace iob::test
