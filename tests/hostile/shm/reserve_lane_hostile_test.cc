// A lane whose peer changes words at the worst moments, and sides that die between any two stores.
//
// The first part plays a fixed script and puts one value into one word just before the k-th shared
// load, for every k, word and value: each call must give a value or DATA_LOSS, touch nothing
// outside the ring, end, and leave the accounts true. The second part ends a process just before
// its k-th shared store, for every k, and lets a successor go on.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "shm/mapping.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_lane.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Fill;
using ::iob::test::Lane;
using ::iob::test::PatternText;
using ::iob::test::TextOf;
using test::Ambush;
using test::At;
using test::Target;

std::vector<uint64_t> InterestingValues(uint64_t capacity, uint64_t current) {
  return {0,
          1,
          7,
          8,
          capacity - 16,
          capacity - 8,
          capacity,
          capacity + 8,
          kLaneLengthMask,
          kLaneDiscarded,
          (uint64_t{1} << 32) - 8,
          uint64_t{1} << 63,
          UINT64_MAX - 7,
          UINT64_MAX,
          current - 8,
          current + 8,
          current ^ kLaneDiscarded,
          current ^ (uint64_t{1} << 31),
          current ^ (uint64_t{1} << 32)};
}

struct Tally {
  uint64_t cases = 0;
  uint64_t untouched = 0;
  uint64_t refused = 0;
};

// Plays every word x value x moment against fresh victims.
template <typename Victim>
Tally PlayAll() {
  uint64_t loads = 0;
  {
    Victim victim;
    const Ambush nobody(test::Nobody);
    EXPECT_TRUE(victim.Play());
    loads = nobody.accesses();
  }
  EXPECT_GT(loads, 10u);
  Tally tally;
  const size_t targets = Victim().Targets().size();
  for (size_t which = 0; which < targets; ++which) {
    for (size_t value = 0; value < InterestingValues(0, 0).size(); ++value) {
      for (uint64_t moment = 0; moment < loads + 4; ++moment) {
        Victim victim;
        const Target target = victim.Targets()[which];
        const Ambush ambush(
            At(moment, [&] { target.Set(InterestingValues(PageBytes(), target.Get())[value]); }));
        const bool untouched = victim.Play();
        ++tally.cases;
        tally.untouched += untouched;
        tally.refused += !untouched;
        if (::testing::Test::HasFailure()) {
          ADD_FAILURE() << target.name << ", value " << value << ", before load " << moment;
          return tally;
        }
      }
    }
  }
  return tally;
}

// ---- The consumer -----------------------------------------------------------------------------

template <bool kClears>
class ConsumerVictim {
 public:
  ConsumerVictim() : lane_(PageBytes()) {
    LaneProducer producer = lane_.Producer(lane_.StartAt(7 * lane_.capacity() - 64));
    std::vector<LaneReservation> open;
    for (const uint64_t payload_bytes : {40, 100, 30, 0}) {
      LaneReservation reservation;
      IOB_CHECK(producer.Reserve(payload_bytes, &reservation) == LaneReserveOutcome::kReserved);
      open.push_back(reservation);
      words_.push_back({"record word", &lane_.lane_section(),
                        PageBytes() + reservation.position() % lane_.capacity(), 8});
    }
    producer.Discard(open[2]);
    for (const size_t i : {0, 1, 3}) producer.Submit(open[i]);
  }

  std::vector<Target> Targets() const {
    const Mapping* const lane = &lane_.lane_section();
    const Mapping* const control = &lane_.control_section();
    std::vector<Target> targets = words_;
    targets.push_back({"tail", lane, kLaneTailOffset, 8});
    targets.push_back({"want_room", lane, kLaneWantRoomOffset, 4});
    targets.push_back({"head", control, kLaneHeadOffset, 8});
    targets.push_back({"waiting", control, kLaneWaitingOffset, 4});
    for (const uint64_t offset : {0, 24, 56}) {
      targets.push_back({"producer's slot", lane, kLaneSlotsOffset + offset, 8});
      targets.push_back({"consumer's slot", control, kLaneConsumedSlotsOffset + offset, 8});
    }
    return targets;
  }

  // A consumer's life. True when it read the three records and nothing else.
  bool Play() {
    absl::StatusOr<LaneConsumer> consumer = lane_.TryConsumer(kClears);
    if (!consumer.ok()) {
      EXPECT_EQ(consumer.status().code(), absl::StatusCode::kDataLoss) << consumer.status();
      return false;
    }
    std::vector<uint64_t> sizes;
    bool poisoned = false;
    for (int round = 0; round < 4; ++round) {
      SharedRecord record;
      LaneReadOutcome outcome = LaneReadOutcome::kEmpty;
      uint64_t steps = lane_.capacity() / kRecordHeaderBytes + 2;
      while ((outcome = consumer->Next(&record)) == LaneReadOutcome::kRecord) {
        if (--steps == 0) {
          ADD_FAILURE() << "the consumer walks on and on";
          return false;
        }
        EXPECT_FALSE(poisoned) << "a record after DATA_LOSS";
        EXPECT_LE(record.payload.size(), lane_.layout().payload_bytes_max());
        (void)TextOf(record);
        sizes.push_back(record.payload.size());
        if (round == 0) break;
      }
      EXPECT_EQ(outcome == LaneReadOutcome::kPoisoned, !consumer->status().ok());
      EXPECT_TRUE(!poisoned || outcome == LaneReadOutcome::kPoisoned) << "poison is for good";
      poisoned = outcome == LaneReadOutcome::kPoisoned;
      consumer->Release();
      (void)consumer->claimed_account();
      (void)consumer->PrepareToWait(kWaitingOnFutex);
      (void)consumer->TailWord();
      consumer->ClearWaiting();
    }
    const bool settled = consumer->SettleLedger().ok();
    EXPECT_TRUE(!settled || !poisoned);
    return settled && sizes == std::vector<uint64_t>{40, 100, 0};
  }

 private:
  Lane lane_;
  std::vector<Target> words_;
};

TEST(LaneHostile, ConsumerSurvivesEveryWordChangedAtEveryMoment) {
  for (const Tally& tally : {PlayAll<ConsumerVictim<false>>(), PlayAll<ConsumerVictim<true>>()}) {
    EXPECT_GT(tally.untouched, tally.cases / 10);
    EXPECT_GT(tally.refused, tally.cases / 20);
  }
}

// ---- The producer -----------------------------------------------------------------------------

class ProducerVictim {
 public:
  ProducerVictim() : lane_(PageBytes()) {}

  std::vector<Target> Targets() const {
    const Mapping* const lane = &lane_.lane_section();
    const Mapping* const control = &lane_.control_section();
    return {{"head", control, kLaneHeadOffset, 8}, {"waiting", control, kLaneWaitingOffset, 4},
            {"tail", lane, kLaneTailOffset, 8},    {"want_room", lane, kLaneWantRoomOffset, 4},
            {"data", lane, PageBytes(), 8},        {"slot", lane, kLaneSlotsOffset + 24, 8}};
  }

  // A producer's life with an honest consumer, until the ambush. True when nothing was refused.
  bool Play() {
    absl::StatusOr<LaneProducer> mapped = lane_.TryProducer();
    if (!mapped.ok()) {
      EXPECT_EQ(mapped.status().code(), absl::StatusCode::kDataLoss) << mapped.status();
      return false;
    }
    LaneProducer& producer = *mapped;
    uint64_t reserved = 0;
    uint64_t attempted = 0;
    for (int step = 0; step < 30; ++step) {
      if (step % 6 == 5) {
        // The consumer releases all but the newest record, in one honest store.
        const uint64_t released = reserved == 0 ? 0 : reserved - 1;
        lane_.SetHead(released * RecordBytes(500));
        (void)producer.PrepareToWaitForRoom(500);
        producer.ClearWantRoom();
        continue;
      }
      LaneReservation reservation;
      ++attempted;
      if (producer.Reserve(500, &reservation) == LaneReserveOutcome::kReserved) {
        EXPECT_EQ(reservation.position(), reserved * RecordBytes(500));
        producer.Submit(reservation);
        ++reserved;
      }
      EXPECT_LE(producer.finished().position - producer.ConsumerPosition(), lane_.capacity());
      EXPECT_EQ(attempted, producer.finished().records() + producer.rejected().attempted_records);
    }
    // The ambush is over; what the peer scribbled over is mended by the next publication.
    before_shared_load = nullptr;
    lane_.SetHead(producer.finished().position);
    LaneReservation reservation;
    EXPECT_EQ(producer.Reserve(500, &reservation), LaneReserveOutcome::kReserved);
    producer.Submit(reservation);
    EXPECT_EQ(lane_.tail(), (reserved + 1) * RecordBytes(500));
    EXPECT_EQ(ReadLaneAccount(lane_.layout(), lane_.sections().lane)->published.records(),
              reserved + 1);
    return producer.violations() == 0;
  }

 private:
  Lane lane_;
};

TEST(LaneHostile, ProducerSurvivesEveryWordChangedAtEveryMoment) {
  const Tally tally = PlayAll<ProducerVictim>();
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 40);
}

// A sleeper that cannot fence for both sides asks for a fence: what was loaded before it is void.
TEST(LaneHostile, LooksAgainBehindTheFenceThatAPeerAsksFor) {
  Lane lane(PageBytes());
  LaneProducer producer = lane.Producer();
  LaneReservation reservation;
  ASSERT_EQ(producer.Reserve(8, &reservation), LaneReserveOutcome::kReserved);
  auto& waiting = lane.control_section().Word<uint32_t>(kLaneWaitingOffset);
  waiting.StoreRelease(kFenceForMe);
  const Ambush ambush(At(1, [&] { waiting.StoreRelease(kFenceForMe | kWaitingOnSocket); }));
  EXPECT_TRUE(producer.Submit(reservation)) << "asleep, and not told";
  EXPECT_EQ(ambush.accesses(), 2u);
}

// ---- Death between any two stores -------------------------------------------------------------

constexpr int kDiedAtStore = 77;

// Runs `body` in a child that ends just before its `moment`-th shared store. False when it lived.
bool DieAtStore(uint64_t moment, const std::function<void()>& body) {
  test::Child child([&] {
    static uint64_t stores_left = 0;
    stores_left = moment;
    before_shared_store = [](void*) {
      if (stores_left-- == 0) ::_exit(kDiedAtStore);
    };
    body();
    before_shared_store = nullptr;
  });
  const int status = child.Join();
  EXPECT_TRUE(status == 0 || status == kDiedAtStore) << status;
  return status == kDiedAtStore;
}

std::string PayloadOf(uint64_t sequence) { return PatternText(sequence, 20 + sequence % 90); }

// Eight more records: two alone, a batch with one discarded, three in reverse.
void ProduceEight(LaneProducer& producer) {
  const uint64_t first = producer.finished().sequence;
  std::vector<LaneReservation> open;
  const auto reserve = [&](uint64_t sequence) {
    LaneReservation reservation;
    IOB_CHECK(producer.Reserve(PayloadOf(sequence).size(), &reservation) ==
              LaneReserveOutcome::kReserved);
    Fill(reservation, PayloadOf(sequence));
    open.push_back(reservation);
  };
  for (uint64_t i = 0; i < 8; ++i) {
    reserve(first + i);
    if (i < 2) producer.Submit(open[i]);
  }
  producer.Discard(open[3]);
  producer.SubmitDeferred(open[2]);
  producer.SubmitDeferred(open[4]);
  producer.Publish();
  for (const size_t i : {7, 6, 5}) producer.Submit(open[i]);
}

TEST(LaneDeath, ProducerMayDieBeforeAnyOfItsStores) {
  Lane lane(PageBytes());
  LaneConsumer consumer = lane.Consumer();
  LaneCheckpoint start;
  uint64_t moment = 0;
  for (bool died = true; died; ++moment) {
    ASSERT_LT(moment, 1000u);
    died = DieAtStore(moment, [&] {
      LaneProducer producer = lane.Producer(start);
      ProduceEight(producer);
    });
    SharedRecord record;
    uint64_t expected = start.sequence;
    while (consumer.Next(&record) == LaneReadOutcome::kRecord) {
      if (expected - start.sequence == 3) ++expected;
      ASSERT_EQ(record.sequence, expected) << moment;
      ASSERT_EQ(TextOf(record), PayloadOf(expected)) << moment;
      ++expected;
    }
    consumer.Release();
    ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer.SettleLedger());
    ASSERT_OK_AND_ASSIGN(const LaneAccount account,
                         ReadLaneAccount(lane.layout(), lane.sections().lane));
    ASSERT_EQ(account.published.position, settled.position) << moment;
    ASSERT_EQ(account.published.sequence, settled.sequence) << moment;
    ASSERT_EQ(account.published.discards, settled.discards) << moment;
    ASSERT_EQ(account.published.payload_bytes, settled.payload_bytes) << moment;
    start = settled;
  }
  EXPECT_GT(moment, 40u);
}

TEST(LaneDeath, ConsumerMayDieBeforeAnyOfItsStores) {
  for (const bool clears : {false, true}) {
    Lane lane(PageBytes());
    LaneProducer producer = lane.Producer();
    uint64_t moment = 0;
    for (bool died = true; died; ++moment) {
      ASSERT_LT(moment, 1000u);
      ProduceEight(producer);
      died = DieAtStore(moment, [&] {
        LaneConsumer consumer = lane.Consumer(clears);
        SharedRecord record;
        for (int i = 0; i < 4; ++i) {
          consumer.Next(&record);
          if (i % 2 == 1) consumer.Release();
        }
        consumer.PrepareToWait(kWaitingOnFutex);
      });
      // Whatever it released is gone, whatever it did not comes again, and all of it adds up.
      LaneConsumer successor = lane.Consumer(clears);
      uint64_t expected = successor.consumed().sequence;
      SharedRecord record;
      while (successor.Next(&record) == LaneReadOutcome::kRecord) {
        if (expected % 8 == 3) ++expected;
        ASSERT_EQ(record.sequence, expected) << moment;
        ASSERT_EQ(TextOf(record), PayloadOf(expected)) << moment;
        ++expected;
      }
      successor.Release();
      ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, successor.SettleLedger());
      ASSERT_EQ(settled.sequence, producer.finished().sequence) << moment;
      ASSERT_EQ(settled.discards, producer.finished().discards) << moment;
      ASSERT_EQ(settled.payload_bytes, producer.finished().payload_bytes) << moment;
    }
    EXPECT_GE(moment, 8u);
  }
}

}  // namespace
}  // namespace iob::shm
