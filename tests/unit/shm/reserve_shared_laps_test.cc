// Laps that come round: rings whose laps have 4 to 10 bits instead of 30. What goes wrong without
// scrubbing goes wrong at once, and with it nothing does.
//
// Linked with the hooked library, which has the rings of few laps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"

namespace iob::shm {
namespace {

using test::Drain;
using test::Fill;
using test::PatternText;
using test::Put;
using test::SharedRing;

enum class Scrubbing { kNo, kWhenDue };

// Puts one record and expects that it, and nothing else, comes out.
template <typename Producer, typename Consumer>
bool PassesThrough(Producer& producer, Consumer& consumer, const std::string& text) {
  if (!Put(producer, text)) return false;
  const bool good = Drain(consumer) == std::vector<std::string>{text};
  consumer.Release();
  return good;
}

// A slot that starts a record once and then not for exactly all laps that there are. Returns
// whether all went well when it starts one again.
template <int kLapBits>
bool SurvivesAStampThatComesRound(Scrubbing scrubbing) {
  SharedRing<kLapBits> ring(4096, 64);
  auto producer = ring.MakeProducer(1);
  auto consumer = ring.MakeConsumer();
  // Slots 0 and 1 in the first lap, then only slots 0 and 32, until the lap number is the same.
  EXPECT_TRUE(PassesThrough(producer, consumer, std::string(64, 'a')));
  EXPECT_TRUE(PassesThrough(producer, consumer, std::string(4096 - 64, 'b')));
  for (uint64_t lap = 1; lap < uint64_t{1} << kLapBits; ++lap) {
    EXPECT_TRUE(PassesThrough(producer, consumer, std::string(2048, 'c')));
    EXPECT_TRUE(PassesThrough(producer, consumer, std::string(2048, 'd')));
    if (scrubbing == Scrubbing::kWhenDue && ring.broker().ScrubDue()) ring.broker().Scrub();
  }
  bool good = PassesThrough(producer, consumer, std::string(64, 'e'));
  good = good && PassesThrough(producer, consumer, std::string(64, 'f'));
  return good &&
         ring.broker().TotalLedger().stored_records == ring.broker().Occupancy().consumed_records;
}

TEST(SharedLaps, AStampThatComesRoundIsTakenForAClaimWithoutScrubbing) {
  EXPECT_FALSE(SurvivesAStampThatComesRound<4>(Scrubbing::kNo));
  EXPECT_FALSE(SurvivesAStampThatComesRound<6>(Scrubbing::kNo));
  EXPECT_FALSE(SurvivesAStampThatComesRound<10>(Scrubbing::kNo));
}

TEST(SharedLaps, AStampThatComesRoundIsGoneWithScrubbing) {
  EXPECT_TRUE(SurvivesAStampThatComesRound<4>(Scrubbing::kWhenDue));
  EXPECT_TRUE(SurvivesAStampThatComesRound<6>(Scrubbing::kWhenDue));
  EXPECT_TRUE(SurvivesAStampThatComesRound<10>(Scrubbing::kWhenDue));
}

// Random records, some discarded, some of a dead owner, through many turns of all laps. Returns the
// number of records after which something went wrong; `records_max` if nothing did.
template <int kLapBits>
uint64_t RandomRecordsUntilWrong(Scrubbing scrubbing, uint64_t records_max, uint64_t seed) {
  SharedRing<kLapBits> ring(4096, 64);
  auto producer = ring.MakeProducer(1, {.tries_max = 200});
  auto mortal = ring.MakeProducer(2, {.tries_max = 200});
  auto consumer = ring.MakeConsumer();
  std::mt19937_64 random(seed);
  for (uint64_t record = 0; record < records_max; ++record) {
    if (scrubbing == Scrubbing::kWhenDue && ring.broker().ScrubDue()) ring.broker().Scrub();
    const std::string text = PatternText(record, random() % 1000);
    switch (random() % 8) {
      case 0: {
        const auto reservation = Fill(producer, text);
        if (!reservation || !producer.Discard(*reservation).done) return record;
        if (!Drain(consumer).empty()) return record;
        consumer.Release();
        break;
      }
      case 1:
        if (!Fill(mortal, text)) return record;
        EXPECT_TRUE(ring.broker().Recover(2).ok());
        if (!Drain(consumer).empty()) return record;
        consumer.Release();
        break;
      default:
        if (!PassesThrough(producer, consumer, text)) return record;
    }
    if (ring.broker().Occupancy().ring_bytes != 0) return record;
  }
  ring.ExpectAddsUp(records_max);
  return records_max;
}

TEST(SharedLaps, RandomRecordsGoWrongSoonWithoutScrubbing) {
  EXPECT_LT(RandomRecordsUntilWrong<4>(Scrubbing::kNo, 20'000, 1), 20'000u);
  EXPECT_LT(RandomRecordsUntilWrong<4>(Scrubbing::kNo, 20'000, 2), 20'000u);
}

TEST(SharedLaps, RandomRecordsStayRightWithScrubbing) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    EXPECT_EQ(RandomRecordsUntilWrong<4>(Scrubbing::kWhenDue, 20'000, seed), 20'000u);
    EXPECT_EQ(RandomRecordsUntilWrong<6>(Scrubbing::kWhenDue, 20'000, seed), 20'000u);
    EXPECT_EQ(RandomRecordsUntilWrong<10>(Scrubbing::kWhenDue, 20'000, seed), 20'000u);
  }
}

TEST(SharedLaps, ScrubbingTouchesNothingThatIsStillToBeRead) {
  SharedRing<4> ring(4096, 64);
  auto producer = ring.MakeProducer(1);
  auto consumer = ring.MakeConsumer();
  uint64_t scrubbed = 0;
  for (uint64_t round = 0; round < 500; ++round) {
    // The ring full, half of it in the next lap, with an open record and a discarded one.
    std::vector<std::string> texts;
    const auto open = Fill(producer, PatternText(round, 100 + round % 7 * 64));
    for (int i = 0; producer.AvailableDataBytes() < 4096 - 1024; ++i) {
      texts.push_back(PatternText(round * 100 + i, (round + i) * 37 % 700));
      ASSERT_TRUE(Put(producer, texts.back()));
    }
    ASSERT_TRUE(producer.Discard(*Fill(producer, "x")).done);
    scrubbed += ring.broker().Scrub();
    texts.insert(texts.begin(), PatternText(round, 100 + round % 7 * 64));
    ASSERT_TRUE(producer.Submit(*open).done);
    scrubbed += ring.broker().Scrub();
    ASSERT_EQ(Drain(consumer), texts) << "round " << round;
    consumer.Release();
  }
  EXPECT_GT(scrubbed, 100u);
}

}  // namespace
}  // namespace iob::shm
