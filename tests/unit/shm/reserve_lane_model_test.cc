// A random walk over a lane beside a model of it: reservations finished in any order, discards,
// batches, replaced consumers, clearing or not; contents and all identities of the ledger are
// checked after every step.
#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_layout.h"
#include "shm/reserve_lane_producer.h"
#include "tests/support/shm_lane.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using ::iob::test::Fill;
using ::iob::test::Lane;
using ::iob::test::PatternText;
using ::iob::test::TextOf;

struct ModelRecord {
  std::string text;
  LaneReservation reservation;
  enum { kOpen, kSubmitted, kDiscarded } state = kOpen;
};

class RandomWalk {
 public:
  RandomWalk(uint64_t seed, uint64_t pages, bool clears)
      : random_(seed),
        clears_(clears),
        lane_(pages * PageBytes()),
        producer_(lane_.Producer(lane_.StartAt(random_() % 100 * 8 + (uint64_t{1} << 32) - 400))),
        consumer_(lane_.Consumer(clears)) {}

  void Step() {
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2:
        Reserve();
        break;
      case 3:
      case 4:
        Finish();
        break;
      case 5:
        producer_.Publish();
        Settle();
        break;
      case 6:
        Read(random_() % 6);
        break;
      default:
        if (random_() % 16 == 0) {
          ReplaceConsumer();
        } else {
          Release();
        }
    }
    CheckIdentities();
  }

  // Everything finished, published, read and released: nothing is left and nothing is missing.
  void End() {
    while (Finish()) {
    }
    producer_.Publish();
    Settle();
    Read(UINT64_MAX);
    Release();
    ASSERT_OK_AND_ASSIGN(const LaneCheckpoint settled, consumer_.SettleLedger());
    EXPECT_EQ(settled.records(), stored_);
    EXPECT_EQ(settled.position, producer_.finished().position);
    EXPECT_EQ(producer_.AvailableDataBytes(), 0u);
    CheckIdentities();
  }
  uint64_t stored() const { return stored_; }
  uint64_t rejected() const { return rejected_; }

 private:
  void Reserve() {
    const std::string text =
        PatternText(random_(), random_() % 64 == 0 ? lane_.capacity() - 16 + random_() % 32
                                                   : random_() % (lane_.capacity() / 6));
    LaneReservation reservation;
    ++attempted_;
    const LaneReserveOutcome outcome = producer_.Reserve(text.size(), &reservation);
    if (text.size() + 16 > lane_.capacity()) {
      EXPECT_EQ(outcome, LaneReserveOutcome::kTooLarge);
    } else {
      const uint64_t free_bytes = lane_.capacity() - producer_.AvailableDataBytes();
      if (outcome == LaneReserveOutcome::kFull) {
        EXPECT_LT(free_bytes, RecordBytes(text.size()));
      }
    }
    if (outcome != LaneReserveOutcome::kReserved) {
      ++rejected_;
      return;
    }
    Fill(reservation, text);
    model_.push_back({.text = text, .reservation = reservation, .state = ModelRecord::kOpen});
  }

  // Submits or discards one of the open reservations. False when there is none.
  bool Finish() {
    std::vector<size_t> open;
    for (size_t i = 0; i < model_.size(); ++i) {
      if (model_[i].state == ModelRecord::kOpen) open.push_back(i);
    }
    if (open.empty()) return false;
    const size_t which = open[random_() % 3 == 0 ? random_() % open.size() : 0];
    ModelRecord& record = model_[which];
    const bool deferred = random_() % 2 == 0;
    if (random_() % 4 != 0) {
      record.state = ModelRecord::kSubmitted;
      deferred ? producer_.SubmitDeferred(record.reservation)
               : static_cast<void>(producer_.Submit(record.reservation));
    } else {
      --attempted_;  // The producer thought better of it.
      record.state = ModelRecord::kDiscarded;
      deferred ? producer_.DiscardDeferred(record.reservation)
               : static_cast<void>(producer_.Discard(record.reservation));
      if (which + 1 == model_.size()) model_.pop_back();
    }
    if (!deferred) Settle();
    return true;
  }

  // What the last publication made visible.
  void Settle() {
    while (!model_.empty() && model_.front().state != ModelRecord::kOpen) {
      if (model_.front().state == ModelRecord::kSubmitted) {
        visible_.push_back(model_.front().text);
        ++stored_;
      }
      model_.pop_front();
    }
  }

  void Read(uint64_t records_max) {
    SharedRecord record;
    for (uint64_t i = 0; i < records_max; ++i) {
      const LaneReadOutcome outcome = consumer_.Next(&record);
      if (outcome != LaneReadOutcome::kRecord) {
        ASSERT_EQ(outcome, LaneReadOutcome::kEmpty) << consumer_.status();
        ASSERT_EQ(taken_, visible_.size()) << "a record that was submitted is not there";
        return;
      }
      ASSERT_LT(taken_, visible_.size()) << "a record that was not submitted";
      ASSERT_EQ(TextOf(record), visible_[taken_]);
      ++taken_;
    }
  }
  void Release() {
    consumer_.Release();
    consumed_ += taken_;
    visible_.erase(visible_.begin(), visible_.begin() + static_cast<ptrdiff_t>(taken_));
    taken_ = 0;
  }
  void ReplaceConsumer() {
    // What was released and is held back must be found by the successor; give it a chance to be.
    Release();
    (void)consumer_.PrepareToWait(kWaitingOnFutex);
    Read(1);
    consumer_ = lane_.Consumer(clears_);
    taken_ = 0;
  }

  void CheckIdentities() {
    const uint64_t unpublished = model_.size() - CountDiscarded();
    EXPECT_EQ(attempted_, stored_ + rejected_ + unpublished);
    EXPECT_EQ(producer_.rejected().attempted_records, rejected_);
    EXPECT_EQ(stored_, consumed_ + visible_.size());
    EXPECT_EQ(consumer_.consumed().records(), consumed_ + taken_);
    const std::optional<LaneAccount> account = consumer_.claimed_account();
    ASSERT_TRUE(account.has_value());
    EXPECT_EQ(account->ledger.stored_records, stored_);
    EXPECT_EQ(account->ledger.attempted_records, stored_ + rejected_);
    EXPECT_EQ(producer_.violations(), 0u);
  }
  uint64_t CountDiscarded() const {
    uint64_t discarded = 0;
    for (const ModelRecord& record : model_) discarded += record.state == ModelRecord::kDiscarded;
    return discarded;
  }

  std::mt19937_64 random_;
  bool clears_;
  Lane lane_;
  LaneProducer producer_;
  LaneConsumer consumer_;
  std::deque<ModelRecord> model_;    // Reserved and not published yet.
  std::deque<std::string> visible_;  // Published and not released.
  uint64_t taken_ = 0;               // The first of visible_ that the consumer has in hand.
  uint64_t attempted_ = 0;
  uint64_t stored_ = 0;
  uint64_t rejected_ = 0;
  uint64_t consumed_ = 0;
};

TEST(LaneModel, AgreesWithTheRingAfterEveryStep) {
  uint64_t stored = 0;
  uint64_t rejected = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    RandomWalk walk(seed, 1 + seed % 3, seed % 2 == 1);
    for (int step = 0; step < 600; ++step) {
      walk.Step();
      ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed << ", step " << step;
    }
    walk.End();
    ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed << ", at the end";
    stored += walk.stored();
    rejected += walk.rejected();
  }
  EXPECT_GT(stored, 1000u);
  EXPECT_GT(rejected, 1000u);
}

}  // namespace
}  // namespace iob::shm
