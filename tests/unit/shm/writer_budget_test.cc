// Budgets of writers against a model that keeps every record of each: what may be resident, in
// records and in ring bytes, whoever else writes to the ring, and whatever frees it.
#include "shm/writer_budget.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_ring.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::RogueConsumer;

MediatedRingWriter MakeRing(const RingOptions& options, uint64_t pages) {
  return MediatedRingWriter::Create(RingLayout::ForRegion((pages + 1) * PageBytes()).value(),
                                    options)
      .value();
}

struct Resident {
  uint64_t end = 0;
  uint64_t bytes = 0;
};

// One writer of a shared ring, with its budget and what the budget should know.
struct Writer {
  BudgetLimits limits;
  WriterBudget budget;
  std::deque<Resident> resident = {};
  uint64_t bytes = 0;
  uint64_t refused = 0;

  void ReleaseUpTo(uint64_t position) {
    while (!resident.empty() && resident.front().end <= position) {
      bytes -= resident.front().bytes;
      resident.pop_front();
    }
  }
  bool ShouldAdmit(uint64_t record_bytes) const {
    return (limits.records_max == 0 || resident.size() + 1 <= limits.records_max) &&
           (limits.bytes_max == 0 || bytes + record_bytes <= limits.bytes_max);
  }
};

using Combination = std::tuple<bool, bool>;
class WriterBudgetTest : public ::testing::TestWithParam<Combination> {};
INSTANTIATE_TEST_SUITE_P(Rings, WriterBudgetTest,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST_P(WriterBudgetTest, AdmitsExactlyWhatTheModelAdmits) {
  const auto [overwrites, stamped] = GetParam();
  MediatedRingWriter ring =
      MakeRing({.policy = overwrites ? RingPolicy::kOverwriteOldest : RingPolicy::kDropNew,
                .gap_records = stamped,
                .stamped = stamped},
               2);
  RogueConsumer consumer(ring);
  std::vector<Writer> writers;
  for (const BudgetLimits& limits : {BudgetLimits{.records_max = 5, .bytes_max = 0},
                                     BudgetLimits{.records_max = 0, .bytes_max = 1000},
                                     BudgetLimits{.records_max = 9, .bytes_max = 700},
                                     BudgetLimits{.records_max = 0, .bytes_max = 1}}) {
    writers.push_back({.limits = limits, .budget = WriterBudget(limits, ring.layout())});
  }
  std::mt19937_64 random(1);
  std::vector<uint64_t> ends = {0};
  uint64_t tail = 0;  // Index in ends.
  for (int step = 0; step < 60000; ++step) {
    if (random() % 20 == 0) {
      tail += random() % (ends.size() - tail);
      consumer.SetTail(ends[tail]);
      continue;
    }
    Writer& writer = writers[random() % writers.size()];
    const std::string payload(random() % 150, 'x');
    const uint64_t bytes = RecordBytes(payload.size() + (stamped ? 16 : 0));
    const bool admitted = writer.budget.Admit(ring, payload.size());
    // Admit looks at the tail only before it refuses, so what it knows lies between the two.
    if (!admitted) {
      writer.ReleaseUpTo(ring.released_position());
      ASSERT_GE(ring.released_position(), ends[tail]);
      ASSERT_EQ(writer.budget.resident_records(), writer.resident.size());
      ASSERT_EQ(writer.budget.resident_bytes(), writer.bytes);
      ASSERT_FALSE(writer.ShouldAdmit(bytes)) << "step " << step;
      writer.refused += 1;
      ring.NoteRejected(1, payload.size());
      continue;
    }
    writer.ReleaseUpTo(ring.released_position());
    ASSERT_TRUE(writer.ShouldAdmit(bytes)) << "step " << step;
    if (ring.Append(1, BytesOf(payload)) != AppendOutcome::kStored) continue;
    writer.budget.Charge(ring, payload.size());
    ends.push_back(ring.head_position());
    writer.ReleaseUpTo(ring.released_position());
    writer.resident.push_back({.end = ring.head_position(), .bytes = bytes});
    writer.bytes += bytes;
    ASSERT_EQ(writer.budget.resident_records(), writer.resident.size());
    ASSERT_EQ(writer.budget.resident_bytes(), writer.bytes);
  }
  for (const Writer& writer : writers) EXPECT_GT(writer.refused, 100u);
  EXPECT_TRUE(writers.back().resident.empty()) << "a limit too small for anything admits nothing";
  EXPECT_GT(ends.back() / ring.layout().capacity_bytes(), 10u);
}

TEST(WriterBudget, LimitsNothingByDefault) {
  MediatedRingWriter ring = MakeRing({}, 1);
  WriterBudget budget;
  WriterBudget zeros({}, ring.layout());
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(budget.Admit(ring, 8));
    ASSERT_TRUE(zeros.Admit(ring, 8));
    ASSERT_EQ(ring.Append(1, BytesOf("12345678")), AppendOutcome::kStored);
    budget.Charge(ring, 8);
    zeros.Charge(ring, 8);
  }
  EXPECT_EQ(budget.resident_records(), 0u);
}

TEST(WriterBudget, LooksAtTheTailOnlyBeforeItRefuses) {
  MediatedRingWriter ring = MakeRing({}, 1);
  RogueConsumer rogue(ring);
  WriterBudget budget({.records_max = 2, .bytes_max = 0}, ring.layout());
  rogue.SetTail(UINT64_MAX);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(budget.Admit(ring, 8));
    ASSERT_EQ(ring.Append(1, BytesOf("12345678")), AppendOutcome::kStored);
    budget.Charge(ring, 8);
  }
  rogue.SetTail(0);
  EXPECT_EQ(ring.Occupancy().tail_violations, 0u);
  EXPECT_FALSE(budget.Admit(ring, 8));
  // A tail that cannot be frees nothing, and one that can frees what it passed.
  rogue.SetTail(UINT64_MAX);
  EXPECT_FALSE(budget.Admit(ring, 8));
  rogue.SetTail(24);
  EXPECT_TRUE(budget.Admit(ring, 8));
  EXPECT_EQ(budget.resident_records(), 1u);
}

TEST(WriterBudget, LeavesARecordBeyondTheLimitToTheRing) {
  MediatedRingWriter ring = MakeRing({}, 32);
  WriterBudget budget({.records_max = 0, .bytes_max = 100}, ring.layout());
  EXPECT_TRUE(budget.Admit(ring, UINT64_MAX));
  EXPECT_TRUE(budget.Admit(ring, 65520)) << "kTooLarge is the cause, not kBudget";
  EXPECT_FALSE(budget.Admit(ring, 65519));
}

TEST(WriterBudget, IsFreedByWhatIsOverwritten) {
  MediatedRingWriter ring = MakeRing({.policy = RingPolicy::kOverwriteOldest}, 1);
  WriterBudget budget({.records_max = 1, .bytes_max = 0}, ring.layout());
  ASSERT_TRUE(budget.Admit(ring, 8));
  ASSERT_EQ(ring.Append(1, BytesOf("12345678")), AppendOutcome::kStored);
  budget.Charge(ring, 8);
  EXPECT_FALSE(budget.Admit(ring, 8));
  ASSERT_EQ(ring.Append(2, BytesOf(std::string(PageBytes() - 16, 'x'))), AppendOutcome::kStored);
  EXPECT_TRUE(budget.Admit(ring, 8));
}

}  // namespace
}  // namespace iob::shm
