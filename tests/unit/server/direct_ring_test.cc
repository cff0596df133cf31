// Rings that their producers write by themselves, as the broker keeps them: who gets a seat, when a
// seat is free again, and what a successor finds. With real sections, grants and shared memory.

#include "server/direct_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "server/errors.h"
#include "shm/mapping.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using shm::GrantRange;
using test::IsOk;
using test::StatusIs;

const GrantRange kProducer(EndpointId::kEp1);
constexpr uint32_t kAlice = 1001;
constexpr uint32_t kBob = 1002;

DirectRingSpec Lanes(uint32_t lanes, uint64_t size_bytes) {
  DirectRingSpec spec;
  spec.size_bytes = size_bytes;
  spec.reserve.set_lanes(lanes);
  EXPECT_THAT(CheckDirectRing(spec), IsOk());
  return spec;
}

DirectRingSpec Shared(uint64_t size_bytes) {
  DirectRingSpec spec;
  spec.size_bytes = size_bytes;
  spec.reserve.set_mode(v1::RESERVE_MODE_SHARED);
  EXPECT_THAT(CheckDirectRing(spec), IsOk());
  return spec;
}

std::unique_ptr<DirectRing> Make(const DirectRingSpec& spec) {
  return DirectRing::Create(spec).value();
}

// What an attachment that produces holds: a descriptor for each of its sections.
struct Seated {
  uint32_t seat = 0;
  std::vector<shm::SealedMemfd> sections;
};

class Seats {
 public:
  explicit Seats(DirectRing& ring) : ring_(ring) {}

  absl::StatusOr<uint32_t> Take(uint32_t uid) { return ring_.Take(uid, kProducer, next_number_); }

  Seated Sit(uint32_t uid) {
    Seated seated{.seat = Take(uid).value(), .sections = {}};
    for (const SectionPlan& plan : ring_.ProducerSections(seated.seat)) {
      shm::UniqueFd fd = plan.memfd->OpenGrant(plan.mode).value();
      EXPECT_THAT(shm::LockGrant(fd.get(), kProducer, next_number_++), IsOk());
      seated.sections.push_back(
          shm::SealedMemfd::Adopt(std::move(fd), plan.memfd->size_bytes(), false).value());
    }
    return seated;
  }

 private:
  DirectRing& ring_;
  uint32_t next_number_ = 0;
};

shm::LaneLayout LaneLayoutOf(uint64_t capacity_bytes) {
  return shm::LaneLayout::ForCapacity(capacity_bytes).value();
}

shm::LaneProducer ProducerOf(const DirectRing& ring, const Seated& seated, uint64_t capacity) {
  return shm::LaneProducer::Map(LaneLayoutOf(capacity), seated.sections[0], seated.sections[1],
                                *ring.StartOf(seated.seat), {.stamps = false})
      .value();
}

shm::LaneConsumer ConsumerOf(const DirectRing& ring, uint32_t lane, uint64_t capacity) {
  const std::vector<SectionPlan> plans = ring.ConsumerSections();
  return shm::LaneConsumer::Map(LaneLayoutOf(capacity), *plans[2 * lane].memfd,
                                *plans[2 * lane + 1].memfd, {.clears = false, .lane = lane})
      .value();
}

void Put(shm::LaneProducer& producer, const std::string& text) {
  shm::LaneReservation reservation;
  ASSERT_EQ(producer.Reserve(text.size(), &reservation), shm::LaneReserveOutcome::kReserved);
  std::memcpy(reservation.bytes().data(), text.data(), text.size());
  producer.Submit(reservation);
}

std::string TakeOne(shm::LaneConsumer& consumer) {
  std::vector<std::byte> payload;
  if (consumer.TryRead(&payload) != shm::LaneReadOutcome::kRecord) return "";
  consumer.Release();
  return std::string(reinterpret_cast<const char*>(payload.data()), payload.size());
}

TEST(DirectRing, EachProducerHasALaneAndNoOneMoreThanThereAre) {
  const auto ring = Make(Lanes(3, 3 * shm::PageBytes()));
  Seats seats(*ring);
  std::vector<Seated> seated;
  std::set<uint32_t> lanes;
  for (int i = 0; i < 3; ++i) {
    seated.push_back(seats.Sit(kAlice));
    lanes.insert(seated.back().seat);
  }
  EXPECT_EQ(lanes, (std::set<uint32_t>{0, 1, 2}));
  EXPECT_THAT(seats.Take(kAlice).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, "3 in use and 0"));
}

// "My producer crashed, I restarted it, and it was told that its lane is still taken."
TEST(DirectRing, ALaneIsFreeWhenNobodyHoldsItAndEverythingWasRead) {
  const uint64_t capacity = shm::PageBytes();
  const auto ring = Make(Lanes(1, capacity));
  Seats seats(*ring);
  std::optional<Seated> first = seats.Sit(kAlice);
  {
    shm::LaneProducer producer = ProducerOf(*ring, *first, capacity);
    Put(producer, "one");
    Put(producer, "two");
  }
  shm::LaneConsumer consumer = ConsumerOf(*ring, 0, capacity);
  ring->Leave(first->seat);
  // A forked child may still write.
  EXPECT_FALSE(ring->Reap());
  EXPECT_FALSE(seats.Take(kAlice).ok());
  first.reset();
  EXPECT_TRUE(ring->Reap());
  // Another uid must not see what is still in there.
  EXPECT_THAT(seats.Take(kBob).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, "not yet drained"));
  EXPECT_EQ(TakeOne(consumer), "one");
  EXPECT_EQ(TakeOne(consumer), "two");
  const Seated second = seats.Sit(kBob);
  EXPECT_EQ(second.seat, 0u);
  shm::LaneProducer successor = ProducerOf(*ring, second, capacity);
  Put(successor, "three");
  EXPECT_EQ(TakeOne(consumer), "three");
}

TEST(DirectRing, AnotherUidFindsNothingOfWhatWasWrittenBefore) {
  const uint64_t capacity = shm::PageBytes();
  const auto ring = Make(Lanes(1, capacity));
  Seats seats(*ring);
  std::optional<Seated> first = seats.Sit(kAlice);
  {
    shm::LaneProducer producer = ProducerOf(*ring, *first, capacity);
    Put(producer, "a secret of alice");
  }
  shm::LaneConsumer consumer = ConsumerOf(*ring, 0, capacity);
  EXPECT_EQ(TakeOne(consumer), "a secret of alice");
  ring->Leave(first->seat);
  first.reset();
  const Seated second = seats.Sit(kBob);
  const shm::Mapping lane = shm::Mapping::Map(second.sections[0]).value();
  for (uint64_t offset = shm::PageBytes(); offset < lane.size_bytes(); offset += 8)
    ASSERT_EQ(lane.Word<uint64_t>(offset).LoadRelaxed().ForHintOnly(), 0u) << offset;
}

TEST(DirectRing, TheSameUidGoesOnBehindWhatIsNotReadYet) {
  const uint64_t capacity = shm::PageBytes();
  const auto ring = Make(Lanes(1, capacity));
  Seats seats(*ring);
  std::optional<Seated> first = seats.Sit(kAlice);
  {
    shm::LaneProducer producer = ProducerOf(*ring, *first, capacity);
    Put(producer, "one");
  }
  ring->Leave(first->seat);
  first.reset();
  const Seated second = seats.Sit(kAlice);
  shm::LaneProducer successor = ProducerOf(*ring, second, capacity);
  Put(successor, "two");
  shm::LaneConsumer consumer = ConsumerOf(*ring, 0, capacity);
  EXPECT_EQ(TakeOne(consumer), "one");
  EXPECT_EQ(TakeOne(consumer), "two");
}

TEST(DirectRing, TheBooksOfAllLanesAddUpAlsoAfterAProducerWasReplaced) {
  const uint64_t capacity = shm::PageBytes();
  const auto ring = Make(Lanes(2, 2 * capacity));
  Seats seats(*ring);
  std::optional<Seated> first = seats.Sit(kAlice);
  const Seated other = seats.Sit(kBob);
  shm::LaneConsumer consumer = ConsumerOf(*ring, first->seat, capacity);
  {
    shm::LaneProducer producer = ProducerOf(*ring, *first, capacity);
    Put(producer, "12345");
    shm::LaneReservation none;
    EXPECT_EQ(producer.Reserve(1 << 20, &none), shm::LaneReserveOutcome::kTooLarge);
  }
  EXPECT_EQ(TakeOne(consumer), "12345");
  ring->Leave(first->seat);
  first.reset();
  const Seated second = seats.Sit(kBob);
  shm::LaneProducer successor = ProducerOf(*ring, second, capacity);
  Put(successor, "67");
  shm::LaneProducer third = ProducerOf(*ring, other, capacity);
  Put(third, "8");
  const v1::RingStats stats = ring->Stats();
  EXPECT_EQ(stats.stored_records(), 3u);
  EXPECT_EQ(stats.stored_bytes(), 8u);
  EXPECT_EQ(stats.attempted_records(), 4u);
  ASSERT_EQ(stats.rejected_size(), 1);
  EXPECT_EQ(stats.rejected(0).cause(), v1::LOSS_CAUSE_TOO_LARGE);
  EXPECT_EQ(stats.rejected(0).records(), 1u);
  EXPECT_EQ(stats.consumed_records(), 1u);
  EXPECT_EQ(stats.resident_records(), 2u);
  ASSERT_EQ(stats.writers_size(), 2);
  for (const v1::WriterStats& writer : stats.writers()) {
    uint64_t rejected = 0;
    for (const v1::LossCount& loss : writer.rejected()) rejected += loss.records();
    EXPECT_EQ(writer.attempted_records(), writer.stored_records() + rejected);
  }
}

// A producer that scribbled over its own words spoils its lane, and only that.
TEST(DirectRing, ALaneWhoseWordsCannotBeIsNeverGivenAgain) {
  const uint64_t capacity = shm::PageBytes();
  const auto ring = Make(Lanes(2, 2 * capacity));
  Seats seats(*ring);
  std::optional<Seated> first = seats.Sit(kAlice);
  const uint32_t burned = first->seat;
  shm::Mapping::Map(first->sections[0]).value().Word<uint64_t>(0).StoreRelease(12345);
  ring->Leave(first->seat);
  first.reset();
  EXPECT_TRUE(ring->Reap());
  EXPECT_NE(seats.Sit(kAlice).seat, burned);
  EXPECT_FALSE(seats.Take(kAlice).ok());
}

TEST(DirectRing, WhatADeadOwnerReservedIsDiscardedAndTheConsumerGoesOn) {
  const DirectRingSpec spec = Shared(shm::PageBytes());
  const auto ring = Make(spec);
  const auto layout = shm::SharedLayout::ForSize(spec.size_bytes).value();
  Seats seats(*ring);
  std::optional<Seated> dead = seats.Sit(kAlice);
  Seated live = seats.Sit(kBob);
  const auto sections_of = [](Seated& seated) {
    return shm::SharedSections{.ctl = std::move(seated.sections[0]),
                               .data = std::move(seated.sections[1]),
                               .cons = std::move(seated.sections[2])};
  };
  {
    const shm::SharedSections sections = sections_of(*dead);
    auto producer = shm::SharedProducer::Map(layout, sections, dead->seat).value();
    shm::SharedReservation stuck;
    ASSERT_EQ(producer.Reserve(8, &stuck), shm::SharedReserveOutcome::kReserved);
  }
  const shm::SharedSections sections = sections_of(live);
  auto producer = shm::SharedProducer::Map(layout, sections, live.seat).value();
  shm::SharedReservation reservation;
  ASSERT_EQ(producer.Reserve(8, &reservation), shm::SharedReserveOutcome::kReserved);
  producer.Submit(reservation);
  const auto busy = ring->FirstBusy();
  ASSERT_TRUE(busy.has_value());
  EXPECT_EQ(busy->seat, dead->seat);
  ring->Leave(dead->seat);
  dead.reset();
  EXPECT_TRUE(ring->Reap());
  EXPECT_FALSE(ring->FirstBusy().has_value());
  const v1::RingStats stats = ring->Stats();
  EXPECT_EQ(stats.stored_records(), 1u);
  EXPECT_EQ(stats.consumed_records() + stats.resident_records(), 1u);
}

TEST(DirectRing, ThereIsOneWriterOfABroadcastAndOfASlot) {
  for (const auto discipline : {v1::DISCIPLINE_BROADCAST, v1::DISCIPLINE_SLOT}) {
    DirectRingSpec spec;
    spec.discipline = discipline;
    spec.size_bytes = 4 * shm::PageBytes();
    ASSERT_THAT(CheckDirectRing(spec), IsOk());
    const auto ring = Make(spec);
    Seats seats(*ring);
    std::optional<Seated> writer = seats.Sit(kAlice);
    EXPECT_THAT(seats.Take(kAlice).status(),
                StatusIs(absl::StatusCode::kResourceExhausted, "of which there is one"));
    ring->Leave(writer->seat);
    writer.reset();
    EXPECT_THAT(seats.Take(kBob).status(), IsOk());
  }
}

TEST(DirectRing, OptionsThatCannotBeAreRefusedInWords) {
  const auto expect = [](const DirectRingSpec& asked, absl::StatusCode code, const char* words) {
    DirectRingSpec spec = asked;
    EXPECT_THAT(CheckDirectRing(spec), StatusIs(code, words));
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  DirectRingSpec spec;
  spec.size_bytes = 16 * shm::PageBytes();
  spec.reserve.set_lanes(33);
  expect(spec, kInvalid, "at most 32");
  spec.reserve.set_lanes(17);
  expect(spec, kInvalid, "do not make 17 lanes");
  spec.reserve.set_lanes(2);
  spec.reserve.set_granule_bytes(64);
  expect(spec, kInvalid, "granule_bytes is for mode SHARED");
  spec.reserve.set_granule_bytes(0);
  spec.reserve.set_on_stall(v1::STALL_POLICY_KILL);
  expect(spec, kInvalid, "on_stall is for mode SHARED");
  spec.reserve.Clear();
  spec.reserve.set_mode(static_cast<v1::ReserveMode>(9));
  expect(spec, kInvalid, "mode is unknown");
  spec.reserve.set_mode(v1::RESERVE_MODE_SHARED);
  spec.reserve.set_lanes(2);
  expect(spec, kInvalid, "are for mode LANES");
  spec.reserve.set_lanes(0);
  spec.reserve.set_granule_bytes(48);
  expect(spec, kInvalid, "");
  spec.reserve.set_granule_bytes(0);
  spec.reserve.set_stall_ms(60'001);
  expect(spec, kInvalid, "at most 60000");
  spec.reserve.set_stall_ms(0);
  spec.size_bytes = 3 * shm::PageBytes();
  expect(spec, kInvalid, "");
  spec.discipline = v1::DISCIPLINE_SLOT;
  spec.slot_value_bytes = 1 << 20;
  expect(spec, kInvalid, "give 0 to have it chosen");
  spec.slot_value_bytes = 64;
  spec.size_bytes = uint64_t{1} << 40;
  expect(spec, absl::StatusCode::kOutOfRange, "");
  spec.discipline = v1::DISCIPLINE_BROADCAST;
  spec.size_bytes = uint64_t{1} << 40;
  expect(spec, absl::StatusCode::kOutOfRange, "");
}

}  // namespace
}  // namespace iob::server
