// The shared reserve ring in every order of its steps, up to a few pre-emptions: two producers and
// their consumer, with laps of four bits that come round, and a broker that recovers the dead.
//
// Records of one granule in a ring of two: claims meet at every swing, and everybody has to wait
// for room and for records in some order.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "shm/futex.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/step_scheduler.h"

namespace iob::test {
namespace {

using shm::SharedReadOutcome;
using shm::SharedReserveOutcome;
using shm::SharedWake;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int kLapBits = 4;
constexpr size_t kProducers = 2;
using TinyRing = SharedRing<kLapBits>;

// What the ring is made to do, and what is left out to see that it is missed.
struct Habits {
  uint64_t granules = 2;
  std::array<uint64_t, kProducers> records = {2, 1};  // Of each producer.
  bool discards = false;                              // Each first record is taken back.
  bool wakes_late = false;                            // kNone, but for a producer's last record.
  uint64_t laps_before = 0;                           // That the ring has seen.
  bool scrubs = false;                                // A broker does, once, at any time.
  bool looks_once = false;       // The consumer sleeps without a look after its flag.
  bool room_looks_once = false;  // So do the producers.
  bool first_is_mortal = false;
  bool recovers = true;  // The broker does, after a death.
};

// One ring for all schedules: mapped anew, but its sections are cleared only.
class SharedStage {
 public:
  explicit SharedStage(uint64_t granules)
      : ring_(shm::PageBytes(), shm::PageBytes() / granules),
        ctl_(shm::Mapping::Map(ring_.sections().ctl).value()),
        cons_(shm::Mapping::Map(ring_.sections().cons).value()) {}

  void Clear() {
    std::memset(ctl_.base(), 0, ring_.layout().ctl_section_bytes());
    std::memset(cons_.base(), 0, ring_.layout().cons_section_bytes());
  }
  TinyRing& ring() { return ring_; }
  uint64_t payload_bytes() const { return ring_.layout().granule_bytes(); }

 private:
  TinyRing ring_;
  shm::Mapping ctl_;
  shm::Mapping cons_;
};

// One schedule's worth.
class SharedPlay {
 public:
  SharedPlay(StepRun& run, SharedStage& stage, const Habits& habits)
      : run_(run), stage_(stage), habits_(habits) {
    stage_.Clear();
    for (size_t i = 0; i < kProducers; ++i)
      producers_[i].emplace(stage_.ring().MakeProducer(static_cast<uint32_t>(i + 1)));
    consumer_.emplace(stage_.ring().MakeConsumer());
    for (uint64_t record = 0; record < habits_.laps_before * habits_.granules; ++record) {
      IOB_CHECK(Put(*producers_[0], "x") && Drain(*consumer_).size() == 1);
      consumer_->Release();
    }
    stored_before_ = habits_.laps_before * habits_.granules;
    reserves_begun_ = reserves_done_ = stored_before_;
  }

  void Produce(size_t producer) {
    for (uint64_t record = 0; record < habits_.records[producer]; ++record) {
      const shm::SharedReservation reservation = Reserve(producer, record);
      if (habits_.discards && record == 0) {
        run_.Expect(producers_[producer]->Discard(reservation).done, "a discard is refused");
        continue;
      }
      const bool last = record + 1 == habits_.records[producer];
      begun_[producer] = record + 1;
      const auto result = producers_[producer]->Submit(
          reservation, habits_.wakes_late && !last ? SharedWake::kNone : SharedWake::kDefault);
      run_.Expect(result.done, "a submit is refused");
      done_[producer] = record + 1;
    }
  }

  // Until all came of those that live.
  void Consume() {
    while (!ReceivedAll()) {
      if (TakeOne()) continue;
      const bool sleeps = consumer_->PrepareToWait(shm::kWaitingOnFutex);
      run_.Expect(consumer_->status().ok(), "an honest ring is poisoned");
      if (sleeps || habits_.looks_once) {
        const shm::FutexWord word = consumer_->WaitWord();
        shm::FutexWaitAny({&word, 1}, kNever);
      }
      consumer_->ClearWaiting();
    }
  }

  // What the broker does when the first producer is proven dead.
  void Recover() {
    if (!habits_.recovers) return;
    const auto recovered = stage_.ring().broker().Recover(1);
    run_.Expect(recovered.ok(), "not recovered");
    recovered_ += recovered->discarded_records;
  }
  void Scrub() { stage_.ring().broker().Scrub(); }

  // After the run, all that was begun is accounted for.
  void Check() {
    while (TakeOne()) {
    }
    uint64_t received = stored_before_;
    for (size_t i = 0; i < kProducers; ++i) {
      const uint64_t submitted = next_[i];
      run_.Expect(done_[i] <= submitted && submitted <= begun_[i], "not what was submitted");
      received += submitted - Discarded(submitted);
    }
    consumer_->Release();
    const shm::SharedLedger total = stage_.ring().broker().TotalLedger();
    const shm::SharedOccupancy occupancy = stage_.ring().broker().Occupancy();
    run_.Expect(occupancy.consistent && occupancy.busy_records == 0 &&
                    occupancy.resident_records == 0 && occupancy.consumed_records == received,
                "the ring's account is wrong");
    run_.Expect(total.stored_records == received, "the producers' account is wrong");
    const uint64_t ended = total.stored_records + total.discarded_records + total.recovered_records;
    run_.Expect(reserves_done_ <= ended && ended <= reserves_begun_,
                "a claim ended twice, or never");
    run_.Expect(total.lost_records == 0 && total.recovered_records == recovered_,
                "a claim was taken from somebody alive");
  }

 private:
  uint64_t Discarded(uint64_t records) const { return habits_.discards && records != 0 ? 1 : 0; }

  shm::SharedReservation Reserve(size_t producer, uint64_t record) {
    TinyRing::Producer& self = *producers_[producer];
    reserves_begun_ += 1;
    shm::SharedReservation reservation;
    for (;;) {
      const SharedReserveOutcome outcome = self.Reserve(stage_.payload_bytes(), &reservation);
      if (outcome == SharedReserveOutcome::kReserved) break;
      run_.Expect(outcome == SharedReserveOutcome::kFull, "an honest reservation is refused");
      if (self.PrepareToWaitForRoom(stage_.payload_bytes()).sleep || habits_.room_looks_once) {
        const shm::FutexWord room = self.RoomWord();
        shm::FutexWaitAny({&room, 1}, kNever);
      }
      self.ClearWantRoom();
    }
    reserves_done_ += 1;
    const std::array<uint64_t, 2> words = {producer, record};
    std::memcpy(reservation.bytes.data(), words.data(), sizeof(words));
    run_.Step();
    std::memcpy(reservation.bytes.data() + reservation.bytes.size() - sizeof(words), words.data(),
                sizeof(words));
    return reservation;
  }

  bool TakeOne() {
    shm::SharedRecord record;
    const SharedReadOutcome outcome = consumer_->Next(&record);
    run_.Expect(outcome != SharedReadOutcome::kPoisoned, "an honest ring is poisoned");
    if (outcome != SharedReadOutcome::kRecord) {
      consumer_->Release();
      return false;
    }
    std::array<uint64_t, 4> words = {};
    const std::span<std::byte> copies = std::as_writable_bytes(std::span(words));
    record.payload.CopyOut(0, copies.first(16));
    record.payload.CopyOut(record.payload.size() - 16, copies.last(16));
    const size_t producer = words[0];
    run_.Expect(producer < kProducers && words[0] == words[2] && words[1] == words[3], "torn");
    if (habits_.discards && next_[producer] == 0) next_[producer] = 1;
    run_.Expect(words[1] == next_[producer], "twice, or out of order");
    run_.Expect(record.lane_or_owner == producer + 1, "somebody else's");
    next_[producer] += 1;
    consumer_->Release();
    return true;
  }

  bool ReceivedAll() const {
    return (habits_.first_is_mortal || next_[0] == habits_.records[0]) &&
           next_[1] == habits_.records[1];
  }

  StepRun& run_;
  SharedStage& stage_;
  const Habits habits_;
  std::array<std::optional<TinyRing::Producer>, kProducers> producers_;
  std::optional<TinyRing::Consumer> consumer_;
  std::array<uint64_t, kProducers> begun_ = {};
  std::array<uint64_t, kProducers> done_ = {};
  std::array<uint64_t, kProducers> next_ = {};  // Of each producer's records.
  uint64_t reserves_begun_ = 0;                 // Of all producers.
  uint64_t reserves_done_ = 0;
  uint64_t stored_before_ = 0;
  uint64_t recovered_ = 0;
};

std::function<void(StepRun&)> Everyday(SharedStage& stage, const Habits& habits) {
  return [&stage, habits](StepRun& run) {
    SharedPlay play(run, stage, habits);
    run.AddRole("first", [&play] { play.Produce(0); });
    if (habits.records[1] != 0) run.AddRole("second", [&play] { play.Produce(1); });
    run.AddRole("consumer", [&play] { play.Consume(); });
    if (habits.scrubs) run.AddRole("broker", [&play] { play.Scrub(); });
    if (run.Go()) play.Check();
  };
}

// The first producer may die. Whoever recovers it does so beside the other producer, or beside the
// consumer: all four at once would be many more schedules, and no more pairs.
enum class Beside { kProducer, kConsumer };

std::function<void(StepRun&)> WithDeath(SharedStage& stage, const Habits& habits, Beside beside) {
  return [&stage, habits, beside](StepRun& run) {
    SharedPlay play(run, stage, habits);
    const auto recover = [&] {
      if (run.AwaitEnd(0)) play.Recover();
    };
    run.AddRole(
        "mortal", [&play] { play.Produce(0); }, StepRun::Mortal::kYes);
    if (beside == Beside::kProducer) {
      run.AddRole("other", [&play] { play.Produce(1); });
      run.AddRole("broker", recover);
    } else {
      run.AddRole("other and broker", [&] {
        play.Produce(1);
        recover();
      });
      run.AddRole("consumer", [&play] { play.Consume(); });
    }
    if (run.Go()) play.Check();
  };
}

constexpr StepLimits kOne{.preemptions_max = 1, .deaths_max = 0};
constexpr StepLimits kTwo{.preemptions_max = 2, .deaths_max = 0};
constexpr StepLimits kThree{.preemptions_max = 3, .deaths_max = 0};
constexpr StepLimits kDeath{.preemptions_max = 0, .deaths_max = 1};
constexpr StepLimits kOneAndDeath{.preemptions_max = 1, .deaths_max = 1};

class ScheduleShared : public ::testing::Test {
 protected:
  SharedStage two_{2};
  SharedStage one_{1};
};

TEST_F(ScheduleShared, RecordsArrive) { ExpectHolds(kTwo, Everyday(two_, {.records = {1, 1}})); }

TEST_F(ScheduleShared, RecordsArriveThroughARingOfOne) {
  ExpectHolds(kOne, Everyday(one_, {.granules = 1, .records = {2, 1}}));
}

TEST_F(ScheduleShared, RecordsArriveWhereLapsComeRound) {
  // Lap 16 is written as 0, as in a ring that was never used.
  ExpectHolds(kOne, Everyday(two_, {.records = {1, 1}, .laps_before = 15, .scrubs = true}));
}

TEST_F(ScheduleShared, DiscardedRecordsAreSkipped) {
  ExpectHolds(kOne, Everyday(two_, {.records = {2, 2}, .discards = true}));
}

TEST_F(ScheduleShared, AWakeThatIsOwedIsPaidByTheNextSubmit) {
  ExpectHolds(kThree, Everyday(two_, {.records = {2, 0}, .wakes_late = true}));
}

// "I let the reader sleep while I filled the ring, then waited for room: we both slept for ever."
TEST_F(ScheduleShared, AWakeThatIsOwedIsPaidBeforeWaitingForRoom) {
  ExpectHolds(kOne, Everyday(two_, {.records = {3, 0}, .wakes_late = true}));
}

TEST_F(ScheduleShared, WhatADeadProducerSubmittedArrives) {
  const Habits habits{.records = {1, 1}, .first_is_mortal = true};
  ExpectHolds(kOneAndDeath, WithDeath(two_, habits, Beside::kProducer));
  ExpectHolds(kOneAndDeath, WithDeath(two_, habits, Beside::kConsumer));
}

TEST_F(ScheduleShared, WhatADeadProducerDiscardedIsCountedOnce) {
  ExpectHolds(kDeath,
              WithDeath(two_, {.records = {2, 0}, .discards = true, .first_is_mortal = true},
                        Beside::kProducer));
}

TEST_F(ScheduleShared, EachPartIsMissed) {
  ExpectFinds(kTwo, Everyday(two_, {.records = {1, 1}, .looks_once = true}), "left asleep");
  ExpectFinds(kTwo, Everyday(two_, {.records = {3, 0}, .room_looks_once = true}), "left asleep");
  ExpectFinds(kOneAndDeath,
              WithDeath(two_, {.records = {1, 1}, .first_is_mortal = true, .recovers = false},
                        Beside::kConsumer),
              "account is wrong");
}

}  // namespace
}  // namespace iob::test
