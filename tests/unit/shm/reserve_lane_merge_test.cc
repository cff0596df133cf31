// Several lanes read as one: shares, order by stamp, hold-back, lanes that come, go and lie. Stamps
// and the clock are the test's own.
#include "shm/reserve_lane_merge.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/shm_lane.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Fill;
using ::iob::test::IsOk;
using ::iob::test::Lane;
using ::iob::test::StatusIs;
using ::iob::test::TextOf;
using ::testing::ElementsAre;

class Merge : public ::testing::Test {
 protected:
  void UseLanes(size_t count, LaneMerge::Options options) {
    merge_ = std::make_unique<LaneMerge>(options);
    for (size_t i = 0; i < count; ++i) {
      lanes_.push_back(std::make_unique<Lane>(PageBytes()));
      producers_.push_back(lanes_.back()->Producer());
      ASSERT_THAT(merge_->Add(lanes_.back()->Consumer(false, static_cast<uint32_t>(i))), IsOk());
    }
  }
  // A record that claims to be from `stamp_ns`.
  void Put(size_t lane, const std::string& text, uint64_t stamp_ns = 0) {
    LaneReservation reservation;
    ASSERT_EQ(producers_[lane].Reserve(text.size(), &reservation), LaneReserveOutcome::kReserved);
    Fill(reservation, text);
    SharedWordAt<uint64_t>(reservation.bytes().data() - sizeof(uint64_t)).StoreRelaxed(stamp_ns);
    producers_[lane].Submit(reservation);
  }
  std::vector<std::string> Drain(int64_t now_ns = INT64_MAX) {
    std::vector<std::string> texts;
    SharedRecord record;
    while (merge_->Next(&record, now_ns) == LaneReadOutcome::kRecord) {
      texts.push_back(TextOf(record));
    }
    merge_->Release();
    return texts;
  }

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<LaneProducer> producers_;
  std::unique_ptr<LaneMerge> merge_;
};

TEST_F(Merge, FindsWhatComesWhileItPollsPolitely) {
  UseLanes(2, {});
  EXPECT_FALSE(merge_->PollPolitely(0));
  EXPECT_FALSE(merge_->PollPolitely(0)) << "looks after the pause only, and finds nothing";
  Put(1, "late");
  EXPECT_TRUE(merge_->PollPolitely(0));
  EXPECT_TRUE(merge_->PollPolitely(0)) << "nobody has taken it";
  EXPECT_THAT(Drain(), ElementsAre("late"));
  EXPECT_FALSE(merge_->PollPolitely(0));
  ASSERT_TRUE(merge_->Remove(1).has_value());
  Put(0, "after a lane and its counts have gone");
  EXPECT_TRUE(merge_->PollPolitely(0));
}

TEST_F(Merge, GivesEachLaneItsBatchInTurn) {
  UseLanes(3, {.order = LaneOrder::kFair, .batch_records = 2, .hold_back_ns = 0});
  for (const char* text : {"a1", "a2", "a3", "a4", "a5"}) Put(0, text);
  Put(1, "b1");
  for (const char* text : {"c1", "c2", "c3"}) Put(2, text);
  EXPECT_THAT(Drain(), ElementsAre("a1", "a2", "b1", "c1", "c2", "a3", "a4", "c3", "a5"));
  for (const auto& lane : lanes_) EXPECT_EQ(lane->head(), lane->tail());
}

TEST_F(Merge, OrdersByStampAndKeepsTheOrderOfEachLane) {
  UseLanes(3, {.order = LaneOrder::kByStamp, .batch_records = 1, .hold_back_ns = 0});
  Put(0, "10", 10);
  Put(0, "40", 40);
  Put(1, "20", 20);
  Put(1, "15", 15);  // Out of order in its own lane: G1 wins.
  Put(2, "30", 30);
  EXPECT_THAT(Drain(), ElementsAre("10", "20", "15", "30", "40"));
}

TEST_F(Merge, ReleasesNothingThatItHasOnlyLookedAt) {
  UseLanes(2, {.order = LaneOrder::kByStamp, .batch_records = 1, .hold_back_ns = 0});
  Put(0, "first", 1);
  Put(1, "second", 2);
  SharedRecord record;
  ASSERT_EQ(merge_->Next(&record, 100), LaneReadOutcome::kRecord);
  merge_->Release();
  EXPECT_EQ(lanes_[0]->head(), lanes_[0]->tail());
  EXPECT_EQ(lanes_[1]->head(), 0u);
}

TEST_F(Merge, HoldsBackUntilEveryLaneHasOneOrItIsOldEnough) {
  UseLanes(2, {.order = LaneOrder::kByStamp, .batch_records = 1, .hold_back_ns = 50});
  Put(0, "late", 1000);
  EXPECT_THAT(Drain(1000), ElementsAre());
  EXPECT_EQ(merge_->WakeTimeNs(), 1050);
  EXPECT_TRUE(merge_->PrepareToWait(kWaitingOnFutex)) << "a held record keeps nobody awake";
  Put(1, "early", 990);
  EXPECT_FALSE(merge_->PrepareToWait(kWaitingOnFutex));
  merge_->ClearWaiting();
  EXPECT_THAT(Drain(1010), ElementsAre("early"));
  EXPECT_THAT(Drain(1049), ElementsAre());
  EXPECT_THAT(Drain(1050), ElementsAre("late"));
  EXPECT_EQ(merge_->WakeTimeNs(), INT64_MAX);
}

TEST_F(Merge, TakesAStampFromTheFutureForNow) {
  UseLanes(2, {.order = LaneOrder::kByStamp, .batch_records = 1, .hold_back_ns = 50});
  Put(0, "liar", UINT64_MAX);
  EXPECT_THAT(Drain(1000), ElementsAre());
  EXPECT_EQ(merge_->WakeTimeNs(), 1050);
  EXPECT_THAT(Drain(1050), ElementsAre("liar"));
}

TEST_F(Merge, DoesNotLetALaneWithOldStampsStarveAnother) {
  UseLanes(2, {.order = LaneOrder::kByStamp, .batch_records = 1, .hold_back_ns = 0});
  Put(1, "honest", 1000);
  uint64_t bytes = 0;
  for (;;) {
    Put(0, std::string(200, 'x'), 1);
    SharedRecord record;
    ASSERT_EQ(merge_->Next(&record, 2000), LaneReadOutcome::kRecord);
    if (record.lane_or_owner == 1) break;
    bytes += RecordBytes(record.payload.size());
    ASSERT_LE(bytes, 2 * PageBytes()) << "starved";
    merge_->Release();
  }
  EXPECT_GE(bytes, PageBytes()) << "an honest backlog may be a whole ring";
}

TEST_F(Merge, TellsOnceOfAPoisonedLaneAndGoesOnWithTheOthers) {
  for (const LaneOrder order : {LaneOrder::kFair, LaneOrder::kByStamp}) {
    lanes_.clear();
    producers_.clear();
    UseLanes(3, {.order = order, .batch_records = 1, .hold_back_ns = 1'000'000});
    Put(0, "a", 1);
    Put(2, "c", 2);
    lanes_[1]->SetTail(12345);
    EXPECT_THAT(Drain(), ElementsAre("a", "c"));
    EXPECT_EQ(merge_->TakePoisoned(), 1u);
    EXPECT_EQ(merge_->TakePoisoned(), std::nullopt);
    EXPECT_THAT(merge_->Find(1)->status(), StatusIs(absl::StatusCode::kDataLoss));
    EXPECT_TRUE(merge_->PrepareToWait(kWaitingOnFutex));
    std::array<FutexWord, LaneMerge::kLanesMax> words;
    EXPECT_EQ(merge_->TailWords(words), 2u);
    merge_->ClearWaiting();
  }
}

TEST_F(Merge, TakesLanesInAndOutWhileRunning) {
  UseLanes(3, {.order = LaneOrder::kFair, .batch_records = 1, .hold_back_ns = 0});
  for (size_t i = 0; i < 3; ++i) {
    Put(i, std::to_string(i));
    Put(i, std::to_string(10 + i));
  }
  SharedRecord record;
  ASSERT_EQ(merge_->Next(&record, 0), LaneReadOutcome::kRecord);
  EXPECT_EQ(merge_->Remove(7), std::nullopt);
  std::optional<LaneConsumer> removed = merge_->Remove(0);
  ASSERT_TRUE(removed.has_value());
  EXPECT_EQ(lanes_[0]->head(), 24u) << "what was taken is released";
  EXPECT_THAT(test::Drain(*removed), ElementsAre("10"));
  EXPECT_THAT(merge_->Add(lanes_[1]->Consumer(false, 1)),
              StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_THAT(merge_->Add(std::move(*removed)), IsOk());
  Put(0, "20");
  EXPECT_THAT(Drain(), ElementsAre("1", "2", "20", "11", "12"));
  merge_->Remove(0);
  merge_->Remove(1);
  merge_->Remove(2);
  EXPECT_EQ(merge_->lanes(), 0u);
  EXPECT_EQ(merge_->Next(&record, 0), LaneReadOutcome::kEmpty);
}

TEST_F(Merge, SleepsOnTheWordsOf32Lanes) {
  UseLanes(LaneMerge::kLanesMax,
           {.order = LaneOrder::kFair, .batch_records = 4, .hold_back_ns = 0});
  Lane further(PageBytes());
  EXPECT_THAT(merge_->Add(further.Consumer(false, 99)),
              StatusIs(absl::StatusCode::kResourceExhausted));
  ASSERT_TRUE(merge_->PrepareToWait(kWaitingOnFutex));
  std::array<FutexWord, LaneMerge::kLanesMax> words;
  ASSERT_EQ(merge_->TailWords(words), LaneMerge::kLanesMax);
  EXPECT_EQ(FutexWaitAny(words, MonotonicNs() + 1'000'000), FutexOutcome::kDeadline);
  Put(31, "x");
  EXPECT_EQ(FutexWaitAny(words, MonotonicNs() + 10'000'000'000), FutexOutcome::kLook);
  EXPECT_FALSE(merge_->PrepareToWait(kWaitingOnFutex));
  merge_->ClearWaiting();
  for (const auto& lane : lanes_) EXPECT_EQ(lane->waiting(), 0u);
  EXPECT_THAT(Drain(), ElementsAre("x"));
}

}  // namespace
}  // namespace iob::shm
