// A shared reserve ring whose words change at the worst moments.
//
// The exhaustive part plays one script with a producer, a consumer and the broker, and puts one
// value into one word just before the k-th shared load, for every k, word and value. Whatever
// happens, each call must come back with one of its answers within a bounded number of loads, and
// touch nothing outside the ring (guard pages and AddressSanitizer watch). The scribbling part does
// the same by chance and at full speed.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::SharedRing;

constexpr uint64_t kSizeBytes = 4096;
constexpr uint64_t kGranuleBytes = 1024;
constexpr uint32_t kTriesMax = 20;

struct Target {
  const char* name;
  const Mapping* section;
  uint64_t offset_bytes;
  size_t size_bytes = 8;

  void Set(uint64_t value) const {
    if (size_bytes == 4) {
      section->Word<uint32_t>(offset_bytes).StoreRelease(static_cast<uint32_t>(value));
    } else {
      section->Word<uint64_t>(offset_bytes).StoreRelease(value);
    }
  }
};

uint64_t WordOf(SlotState state, uint64_t lap, uint64_t payload_bytes, uint32_t owner) {
  return ControlWord::Make(state, lap, payload_bytes, owner).bits();
}

// What a word could be that it should not. For positions and for control words alike.
std::vector<uint64_t> Poisons() {
  return {0,
          1,
          64,
          kGranuleBytes,
          3 * kGranuleBytes,
          kSizeBytes,
          16 * kSizeBytes,
          SharedLayout::kPositionMax,
          uint64_t{1} << 63,
          UINT64_MAX,
          UINT64_MAX - kGranuleBytes + 1,
          WordOf(SlotState::kBusy, 1, 100, 1),
          WordOf(SlotState::kCommit, 1, 4096, 2),
          WordOf(SlotState::kCommit, 1, 4097, 63),
          WordOf(SlotState::kCommit, 2, SharedLayout::kPayloadBytesMax, 1023),
          WordOf(SlotState::kDiscard, 1, 0, 0),
          WordOf(SlotState::kDiscard, 1, SharedLayout::kPayloadBytesMax, 1),
          WordOf(SlotState::kBusy, 2, 2048, 1)};
}

constexpr uint64_t kLoadsMax = 100'000;

// Strikes at one moment; only a death can end a call that has no bound.
Ambush::Strike AtWithin(uint64_t moment, std::function<void()> strike) {
  return [moment, strike = std::move(strike)](uint64_t load) {
    IOB_CHECK(load < kLoadsMax);
    if (load == moment) strike();
  };
}

class Victim {
 public:
  Victim()
      : ring_(kSizeBytes, kGranuleBytes),
        ctl_(Mapping::Map(ring_.sections().ctl).value()),
        cons_(Mapping::Map(ring_.sections().cons).value()) {}

  std::vector<Target> Targets() const {
    std::vector<Target> targets = {
        {"tail", &ctl_, kSharedTail},
        {"owed", &ctl_, kSharedOwed, 4},
        {"want_room", &ctl_, kSharedWantRoom},
        {"wanted", &ctl_, kSharedWanted + 4, 4},
        {"intent", &ctl_, ring_.layout().LedgerOffset(1) + SharedLedgerLine::kIntent},
        {"intent_records", &ctl_,
         ring_.layout().LedgerOffset(1) + SharedLedgerLine::kIntentRecords},
        {"head", &cons_, kSharedHead},
        {"wait", &cons_, kSharedWait},
        {"how", &cons_, kSharedHow, 4},
        {"intent_head", &cons_, kSharedIntentHead}};
    for (uint64_t slot = 0; slot < ring_.layout().slots(); ++slot) {
      targets.push_back({"control", &ctl_, ring_.layout().ControlOffset() + slot * 8});
    }
    return targets;
  }

  // All words as in a new ring.
  void Reset() {
    for (const Target& target : Targets()) target.Set(0);
    for (uint64_t word = 0; word < 16; ++word) {
      ctl_.Word<uint64_t>(ring_.layout().LedgerOffset(1) + word * 8).StoreRelease(0);
      cons_.Word<uint64_t>(kSharedConsumedRecords + word * 8).StoreRelease(0);
    }
    refused_ = false;
  }

  // Everybody's life. True when all of it went as if nobody had interfered.
  bool Play() {
    SharedProducer producer = ring_.MakeProducer(1, {.tries_max = kTriesMax});
    absl::StatusOr<SharedConsumer> consumer = SharedConsumer::Map(ring_.layout(), ring_.sections());
    if (!consumer.ok()) {
      EXPECT_EQ(consumer.status().code(), absl::StatusCode::kDataLoss);
      refused_ = true;
      return false;
    }
    bool all = true;
    for (uint64_t round = 0; round < 2; ++round) {
      all &= Store(producer, 100, SharedWake::kDefault);
      all &= Store(producer, 2000, SharedWake::kNone);
      (void)producer.PrepareToWaitForRoom(4096);
      (void)producer.RoomWord();
      all &= Read(*consumer) == 2;
      (void)consumer->PrepareToWait(kWaitingOnFutex | kWaitingOnSocket);
      (void)consumer->WaitWord();
      (void)consumer->Stalled(1);
      all &= Store(producer, 10, SharedWake::kDefault);
      consumer->ClearWaiting();
      producer.ClearWantRoom();
      all &= Read(*consumer) == 1;
      (void)producer.AvailableDataBytes();
    }
    SharedReservation left_open;
    (void)producer.Reserve(1, &left_open);
    all &= LookAsBroker();
    (void)Read(*consumer);
    return all && consumer->status().ok();
  }

  bool refused() const { return refused_; }

 private:
  bool Store(SharedProducer& producer, uint64_t payload_bytes, SharedWake wake) {
    SharedReservation reservation;
    const SharedReserveOutcome outcome = producer.Reserve(payload_bytes, &reservation);
    if (outcome == SharedReserveOutcome::kCorrupt) refused_ = true;
    if (outcome != SharedReserveOutcome::kReserved) return false;
    EXPECT_EQ(reservation.bytes.size(), payload_bytes);
    std::memset(reservation.bytes.data(), 'x', payload_bytes);
    return producer.Submit(reservation, wake).done;
  }

  // How many records; no more than the ring can hold, whatever the words say.
  uint64_t Read(SharedConsumer& consumer) {
    uint64_t records = 0;
    SharedRecord record;
    SharedReadOutcome outcome = SharedReadOutcome::kEmpty;
    while ((outcome = consumer.Next(&record)) == SharedReadOutcome::kRecord) {
      EXPECT_LE(record.payload.size(), kSizeBytes);
      copy_.resize(record.payload.size());
      record.payload.CopyOut(0, copy_);
      if (++records > ring_.layout().slots()) {
        ADD_FAILURE() << "the consumer walks on and on";
        break;
      }
    }
    EXPECT_EQ(outcome == SharedReadOutcome::kPoisoned, !consumer.status().ok());
    if (!consumer.status().ok()) {
      refused_ = true;
      EXPECT_EQ(consumer.Next(&record), SharedReadOutcome::kPoisoned) << "poison is for good";
    }
    consumer.Release();
    return records;
  }

  bool LookAsBroker() {
    SharedRecovery broker = SharedRecovery::Map(ring_.layout(), ring_.sections()).value();
    (void)broker.FirstBusy();
    (void)broker.ScrubDue();
    (void)broker.Scrub();
    const SharedRecovered recovered = broker.Recover(1).value();
    EXPECT_LE(recovered.discarded_records, ring_.layout().slots());
    const SharedOccupancy occupancy = broker.Occupancy();
    EXPECT_LE(occupancy.ring_bytes, kSizeBytes);
    if (!occupancy.consistent) refused_ = true;
    (void)broker.TotalLedger();
    return recovered.discarded_records == 1 && occupancy.consistent;
  }

  SharedRing<> ring_;
  Mapping ctl_;
  Mapping cons_;
  std::vector<std::byte> copy_;
  bool refused_ = false;
};

TEST(SharedHostile, EverybodySurvivesEveryWordChangedAtEveryMoment) {
  Victim victim;
  uint64_t loads = 0;
  {
    const Ambush nobody(AtWithin(UINT64_MAX, nullptr));
    ASSERT_TRUE(victim.Play());
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 100u);
  uint64_t cases = 0;
  uint64_t untouched = 0;
  uint64_t refused = 0;
  for (const Target& target : victim.Targets()) {
    for (const uint64_t poison : Poisons()) {
      // The ledgers' and counters' loads at the end are all alike: some of them will do.
      for (uint64_t moment = 0; moment < loads; moment += moment < 130 ? 1 : 29) {
        victim.Reset();
        bool fine = false;
        {
          const Ambush ambush(AtWithin(moment, [&] { target.Set(poison); }));
          fine = victim.Play();
        }
        ++cases;
        untouched += fine ? 1 : 0;
        refused += victim.refused() ? 1 : 0;
        if (HasFailure()) FAIL() << target.name << " " << poison << ", before load " << moment;
      }
    }
  }
  // Both ways out were taken, or this has tested nothing.
  EXPECT_GT(untouched, cases / 10);
  EXPECT_GT(refused, cases / 20);
  RecordProperty("cases", static_cast<int>(cases));
}

TEST(SharedHostile, EverybodySurvivesAScribbler) {
  Victim victim;
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> strikes = 0;
  std::thread scribbler([&] {
    std::mt19937_64 random(42);
    const std::vector<Target> targets = victim.Targets();
    const std::vector<uint64_t> poisons = Poisons();
    while (!stop.load(std::memory_order_relaxed)) {
      targets[random() % targets.size()].Set(
          random() % 4 == 0 ? random() : poisons[random() % poisons.size()]);
      strikes.fetch_add(1, std::memory_order_relaxed);
      if (random() % 2 == 0) std::this_thread::yield();
    }
  });
  const int64_t deadline_ns = MonotonicNs() + 20'000'000'000;
  uint64_t refused = 0;
  uint64_t survived = 0;
  for (uint64_t round = 0; refused < 100 || survived < 100; ++round) {
    if (MonotonicNs() > deadline_ns || testing::Test::HasFailure()) break;
    victim.Reset();
    (void)victim.Play();
    (victim.refused() ? refused : survived) += 1;
  }
  stop.store(true, std::memory_order_relaxed);
  scribbler.join();
  EXPECT_GE(refused, 100u);
  EXPECT_GE(survived, 100u);
  EXPECT_GT(strikes.load(), 0u);
}

// ---- One by one -------------------------------------------------------------------------------

class SharedHostileWords : public ::testing::Test {
 protected:
  SharedRing<> ring_{4096};
  Mapping ctl_ = Mapping::Map(ring_.sections().ctl).value();
  Mapping cons_ = Mapping::Map(ring_.sections().cons).value();
  SharedProducer producer_ = ring_.MakeProducer(1, {.tries_max = kTriesMax});
  SharedReservation reservation_;

  SharedAtomic<uint64_t>& Control(uint64_t slot) {
    return ctl_.Word<uint64_t>(ring_.layout().ControlOffset() + slot * 8);
  }
};

TEST_F(SharedHostileWords, AHeadAheadOfAllClaimsIsNotBelieved) {
  ASSERT_TRUE(test::Put(producer_, std::string(4096, 'x')));
  for (const uint64_t head : {uint64_t{8192}, uint64_t{4096 + 64}, UINT64_MAX - 63, uint64_t{1}}) {
    cons_.Word<uint64_t>(kSharedHead).StoreRelease(head);
    EXPECT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kFull);
  }
  EXPECT_EQ(producer_.head_violations(), 4u);
  cons_.Word<uint64_t>(kSharedHead).StoreRelease(4096);
  EXPECT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kReserved);
}

TEST_F(SharedHostileWords, ATailThatIsNoPositionIsCorrupt) {
  for (const uint64_t tail : {uint64_t{1}, uint64_t{63}, UINT64_MAX, uint64_t{1} << 63}) {
    ctl_.Word<uint64_t>(kSharedTail).StoreRelease(tail);
    EXPECT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kCorrupt);
    EXPECT_FALSE(SharedConsumer::Map(ring_.layout(), ring_.sections()).value().status().ok());
  }
  EXPECT_EQ(producer_.ledger().integrity_records, 4u);
}

TEST_F(SharedHostileWords, ATailMovedBackIsHelpedForward) {
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(test::Put(producer_, "x"));
  ctl_.Word<uint64_t>(kSharedTail).StoreRelease(0);
  ASSERT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kReserved);
  EXPECT_EQ(reservation_.position, 5 * 64u);
}

TEST_F(SharedHostileWords, ATailMovedOnPoisonsTheConsumerInsteadOfPuttingItToSleep) {
  SharedConsumer consumer = ring_.MakeConsumer();
  ctl_.Word<uint64_t>(kSharedTail).StoreRelease(640);
  EXPECT_FALSE(consumer.PrepareToWait(kWaitingOnFutex));
  EXPECT_THAT(consumer.status(), test::StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(SharedHostileWords, AForgedClaimAtTheTailIsPassedOrRefusedByItsLength) {
  Control(0).StoreRelease(WordOf(SlotState::kBusy, 1, 200, 7));
  ASSERT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kReserved);
  EXPECT_EQ(reservation_.position, 256u);
  Control(5).StoreRelease(WordOf(SlotState::kBusy, 1, SharedLayout::kPayloadBytesMax, 7));
  EXPECT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kCorrupt);
}

TEST_F(SharedHostileWords, ALengthBeyondTheRingPoisonsTheConsumer) {
  SharedConsumer consumer = ring_.MakeConsumer();
  SharedRecord record;
  Control(0).StoreRelease(WordOf(SlotState::kCommit, 1, 4097, 1));
  EXPECT_EQ(consumer.Next(&record), SharedReadOutcome::kPoisoned);
  Control(0).StoreRelease(0);
  EXPECT_EQ(consumer.Next(&record), SharedReadOutcome::kPoisoned);
}

TEST_F(SharedHostileWords, RecordsForgedRoundTheRingEndAtOneRing) {
  SharedConsumer consumer = ring_.MakeConsumer();
  SharedRecord record;
  Control(0).StoreRelease(WordOf(SlotState::kCommit, 1, 4096, 1));
  ASSERT_EQ(consumer.Next(&record), SharedReadOutcome::kRecord);
  Control(0).StoreRelease(WordOf(SlotState::kCommit, 2, 1, 1));
  EXPECT_EQ(consumer.Next(&record), SharedReadOutcome::kPoisoned) << "nothing was released";
}

TEST_F(SharedHostileWords, AWaitWordFromNowhereCostsAWakeAndNoMore) {
  cons_.Word<uint32_t>(kSharedHow).StoreRelease(kWaitingOnFutex);
  cons_.Word<uint64_t>(kSharedWait).StoreRelease(UINT64_MAX);
  EXPECT_TRUE(test::Put(producer_, "x"));
  ASSERT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kReserved);
  EXPECT_TRUE(producer_.Submit(reservation_, SharedWake::kForce).done);
  EXPECT_EQ(producer_.ledger().wakes, 1u);
}

TEST_F(SharedHostileWords, AClaimThatWasOverwrittenIsLostAndCounted) {
  ASSERT_EQ(producer_.Reserve(1, &reservation_), SharedReserveOutcome::kReserved);
  Control(0).StoreRelease(WordOf(SlotState::kBusy, 1, 1, 2));
  EXPECT_FALSE(producer_.Submit(reservation_).done);
  EXPECT_EQ(producer_.ledger().lost_records, 1u);
  EXPECT_EQ(producer_.ledger().stored_records, 0u);
}

}  // namespace
}  // namespace iob::shm
