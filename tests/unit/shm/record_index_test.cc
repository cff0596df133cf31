// RecordIndex against a model that keeps the end of every record: random sizes, random tails, on
// and between record boundaries, over many laps.
#include "shm/record_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "shm/ring_layout.h"

namespace iob::shm {
namespace {

// A ring without memory: where records start and end, and which of them are still there.
class Model {
 public:
  explicit Model(uint64_t capacity) : capacity_(capacity), index_(capacity) {}

  uint64_t head() const { return head_; }
  uint64_t tail() const { return tail_; }
  uint64_t room() const { return capacity_ - (head_ - tail_); }
  uint64_t laps() const { return head_ / capacity_; }

  void Append(uint64_t record_bytes) {
    index_.NoteRecord(head_, ends_.size());
    resident_[head_] = record_bytes;
    head_ += record_bytes;
    ends_.push_back(head_);
    // What the new record has overwritten, be it only in part, cannot be read any more.
    while (resident_.begin()->first + capacity_ < head_) resident_.erase(resident_.begin());
  }

  void MoveTail(uint64_t tail) {
    tail_ = tail;
    index_.MoveTail(tail, head_, ends_.size(), [this](uint64_t position) {
      const auto record = resident_.find(position);
      if (record == resident_.end()) {
        ADD_FAILURE() << "walks to " << position << ", where no intact record starts";
        return capacity_;
      }
      return record->second;
    });
    const auto consumed = std::upper_bound(ends_.begin(), ends_.end(), tail) - ends_.begin();
    ASSERT_EQ(index_.consumed_records(), static_cast<uint64_t>(consumed)) << "tail " << tail;
  }

  // Where some record that the tail has not passed ends.
  uint64_t SomeEnd(uint64_t choice) const {
    const auto first = std::upper_bound(ends_.begin(), ends_.end(), tail_);
    if (first == ends_.end()) return tail_;
    return first[static_cast<int64_t>(choice % static_cast<uint64_t>(ends_.end() - first))];
  }

 private:
  uint64_t capacity_;
  RecordIndex index_;
  std::map<uint64_t, uint64_t> resident_;
  std::vector<uint64_t> ends_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

class RecordIndexTest : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(RecordIndexTest, CountsWhatTheModelCounts) {
  const auto [pages, seed] = GetParam();
  const uint64_t capacity = static_cast<uint64_t>(pages) * RecordIndex::kChunkBytes;
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  Model model(capacity);
  for (int step = 0; step < 20000; ++step) {
    const uint64_t choice = random() % 100;
    if (choice < 70) {
      // Mostly small records, some that cover whole chunks, some that fill what is left.
      const uint64_t longest = choice < 50 ? 96 : choice < 60 ? 5000 : capacity;
      const uint64_t record_bytes = choice < 66 ? RecordBytes(random() % longest) : model.room();
      if (record_bytes >= kRecordHeaderBytes && record_bytes <= model.room())
        model.Append(record_bytes);
    } else if (choice < 80) {
      model.MoveTail(model.SomeEnd(random()));
    } else if (choice < 95) {
      const uint64_t words = (model.head() - model.tail()) / kRecordAlignBytes;
      model.MoveTail(model.tail() + random() % (words + 1) * kRecordAlignBytes);
    } else {
      model.MoveTail(choice < 98 ? model.head() : model.tail());
    }
    if (HasFatalFailure()) FAIL() << "step " << step << ", seed " << seed;
  }
  EXPECT_GT(model.laps(), 50u);
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<int, int>>& info) {
  return "Pages" + std::to_string(std::get<0>(info.param)) + "Seed" +
         std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Capacities, RecordIndexTest,
                         ::testing::Combine(::testing::Values(1, 2, 3, 16),
                                            ::testing::Values(1, 2, 3, 4, 5)),
                         NameOf);

TEST(RecordIndex, CountsNothingBeforeTheFirstRecordEnds) {
  RecordIndex index(4096);
  EXPECT_EQ(index.consumed_records(), 0u);
  index.NoteRecord(0, 0);
  index.MoveTail(8, 24, 1, [](uint64_t) { return uint64_t{24}; });
  EXPECT_EQ(index.consumed_records(), 0u);
  index.MoveTail(24, 24, 1, [](uint64_t) { return uint64_t{24}; });
  EXPECT_EQ(index.consumed_records(), 1u);
}

TEST(RecordIndex, WalksAtMostOneChunk) {
  constexpr uint64_t kRecords = 16 * RecordIndex::kChunkBytes / 16;
  RecordIndex index(16 * RecordIndex::kChunkBytes);
  for (uint64_t i = 0; i < kRecords; ++i) index.NoteRecord(i * 16, i);
  uint64_t steps = 0;
  index.MoveTail(kRecords * 16 - 8, kRecords * 16, kRecords, [&steps](uint64_t) {
    ++steps;
    return uint64_t{16};
  });
  EXPECT_EQ(index.consumed_records(), kRecords - 1);
  EXPECT_LE(steps, RecordIndex::kChunkBytes / 16);
}

}  // namespace
}  // namespace iob::shm
