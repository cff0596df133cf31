// What a ring can be asked to do more: overwrite, tell losses in the stream, stamp, be followed.
// All combinations against a sequential model that keeps every record ever stored; after each step
// all figures must be the model's, and every reader must get exactly what the model says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/mediated_ring_follower.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::PatternText;
using test::RogueConsumer;
using test::StatusIs;
using test::TextOf;

struct Stored {
  uint64_t tag = 0;
  std::string payload;
  int64_t time_ns = 0;
  RecordLoss gap;
  uint64_t begin = 0;  // With its gap.
  uint64_t end = 0;
  uint64_t bytes_before = 0;
};

// The ring as it should be: every record that was ever stored, and four positions.
class Model {
 public:
  Model(uint64_t capacity, const RingOptions& options) : capacity_(capacity), options_(options) {}

  AppendOutcome Append(uint64_t tag, const std::string& payload, int64_t time_ns) {
    const AppendOutcome outcome = TryAppend(tag, payload, time_ns);
    if (outcome != AppendOutcome::kStored) Reject(payload.size());
    return outcome;
  }
  void Reject(uint64_t payload_bytes) {
    rejected_ += 1;
    if (pending_.records == 0) pending_.at_record = stored_.size();
    pending_.records += 1;
    pending_.bytes += payload_bytes;
  }
  void Publish() { published_ = head_; }
  void Release(uint64_t position) { tail_ = position; }

  // What a reader with its position at `number` gets: a loss, a record, or neither.
  std::optional<RecordLoss> LossAt(uint64_t number) const {
    const uint64_t oldest = OldestNumber();
    if (number >= oldest || !Published(number)) return std::nullopt;
    return RecordLoss{.records = oldest - number,
                      .bytes = BytesBefore(oldest) - BytesBefore(number),
                      .at_record = number};
  }
  const Stored* RecordAt(uint64_t number) const {
    return Published(number) && number >= OldestNumber() ? &stored_[number] : nullptr;
  }

  uint64_t OldestNumber() const {
    return NumberAt(options_.overwrites() ? oldest_ : std::max(oldest_, tail_));
  }
  uint64_t consumed() const { return NumberAt(std::max(tail_, oldest_)) - overwritten_; }
  uint64_t resident() const { return stored_.size() - NumberAt(std::max(tail_, oldest_)); }
  uint64_t resident_bytes() const { return head_ - std::max(tail_, oldest_); }
  uint64_t overwritten() const { return overwritten_; }
  uint64_t overwritten_bytes() const { return overwritten_bytes_; }
  uint64_t rejected() const { return rejected_; }
  uint64_t stored() const { return stored_.size(); }
  uint64_t head() const { return head_; }
  uint64_t EndOf(uint64_t number) const { return stored_[number].end; }
  uint64_t BytesBefore(uint64_t number) const {
    return number < stored_.size() ? stored_[number].bytes_before : stored_bytes_;
  }

 private:
  bool Published(uint64_t number) const {
    return number < stored_.size() && stored_[number].begin < published_;
  }
  // Records that end at or before `position`.
  uint64_t NumberAt(uint64_t position) const {
    return static_cast<uint64_t>(
        std::partition_point(stored_.begin(), stored_.end(),
                             [position](const Stored& record) { return record.end <= position; }) -
        stored_.begin());
  }
  bool MakeRoom(uint64_t bytes) {
    if (!options_.overwrites()) return bytes <= capacity_ - (head_ - tail_);
    if (bytes > capacity_) return false;
    while (head_ + bytes - oldest_ > capacity_) {
      const Stored& record = stored_[NumberAt(oldest_)];
      if (record.end > tail_) {
        overwritten_ += 1;
        overwritten_bytes_ += record.payload.size();
      }
      oldest_ = record.end;
    }
    if (oldest_ > published_) published_ = head_;
    return true;
  }
  AppendOutcome TryAppend(uint64_t tag, const std::string& payload, int64_t time_ns) {
    const uint64_t stamp = options_.stamped ? 16 : 0;
    if (payload.size() + stamp > 65519) return AppendOutcome::kTooLarge;
    const uint64_t bytes = (16 + stamp + payload.size() + 7) / 8 * 8;
    const bool wants_gap = options_.gap_records && pending_.records != 0;
    const bool gap = wants_gap && MakeRoom(bytes + 40);
    if (!gap && !MakeRoom(bytes))
      return bytes > capacity_ ? AppendOutcome::kTooLarge : AppendOutcome::kFull;
    Stored record{.tag = tag,
                  .payload = payload,
                  .time_ns = options_.stamped ? time_ns : 0,
                  .gap = {},
                  .begin = head_,
                  .end = head_ + bytes + (gap ? 40 : 0),
                  .bytes_before = stored_bytes_};
    if (gap) record.gap = std::exchange(pending_, {});
    head_ = record.end;
    stored_bytes_ += payload.size();
    stored_.push_back(std::move(record));
    return AppendOutcome::kStored;
  }

  uint64_t capacity_;
  RingOptions options_;
  std::vector<Stored> stored_;
  uint64_t stored_bytes_ = 0;
  uint64_t head_ = 0;
  uint64_t published_ = 0;
  uint64_t tail_ = 0;
  uint64_t oldest_ = 0;
  RecordLoss pending_;
  uint64_t rejected_ = 0;
  uint64_t overwritten_ = 0;
  uint64_t overwritten_bytes_ = 0;
};

RingLayout LayoutOf(uint64_t capacity) {
  return RingLayout::ForRegion(capacity + PageBytes()).value();
}

MediatedRingFollower MakeFollower(const MediatedRingWriter& ring) {
  return MediatedRingFollower::Follow(ring.layout(), ring.options(), ring.data_memfd(),
                                      *ring.follow_memfd())
      .value();
}
MediatedRingFollower MakeConsumer(const MediatedRingWriter& ring) {
  return MediatedRingFollower::Consume(ring.layout(), ring.options(), ring.head_memfd(),
                                       ring.data_memfd())
      .value();
}
MediatedRingReader MakeReader(const MediatedRingWriter& ring) {
  return MediatedRingReader::Map(ring.layout(), ring.head_memfd(), ring.data_memfd(),
                                 ring.options())
      .value();
}

void ExpectRecord(const RecordView& view, const Stored& record, uint64_t sequence) {
  EXPECT_EQ(view.tag, record.tag);
  EXPECT_EQ(TextOf(view.payload), record.payload);
  EXPECT_EQ(view.sequence, sequence);
  EXPECT_EQ(view.time_ns, record.time_ns);
  EXPECT_EQ(view.gap, record.gap);
}

// One step of a follower against the model. False when there was nothing.
bool StepFollower(MediatedRingFollower& follower, const Model& model) {
  const uint64_t number = follower.next_record();
  RecordView view;
  const RingFollowOutcome outcome = follower.Next(&view);
  if (const auto loss = model.LossAt(number)) {
    EXPECT_EQ(outcome, RingFollowOutcome::kLost);
    EXPECT_EQ(view.gap, *loss);
  } else if (const Stored* const record = model.RecordAt(number)) {
    EXPECT_EQ(outcome, RingFollowOutcome::kRecord);
    if (outcome == RingFollowOutcome::kRecord) ExpectRecord(view, *record, number);
  } else {
    EXPECT_EQ(outcome, RingFollowOutcome::kEmpty);
  }
  const MediatedRingFollower::Account& account = follower.account();
  const uint64_t first = follower.first_record();
  const uint64_t next = follower.next_record();
  EXPECT_EQ(account.received_records + account.lost_records, next - first);
  EXPECT_EQ(account.received_bytes + account.lost_bytes,
            model.BytesBefore(next) - model.BytesBefore(first));
  return outcome == RingFollowOutcome::kRecord || outcome == RingFollowOutcome::kLost;
}

// The ring, its account, its model, and whoever reads it.
class PolicyRing {
 public:
  PolicyRing(uint64_t capacity, const RingOptions& options)
      : options_(options),
        writer_(MediatedRingWriter::Create(LayoutOf(capacity), options).value()),
        model_(capacity, options) {
    if (options.overwrites()) {
      consumer_.emplace(MakeConsumer(writer_));
    } else {
      reader_.emplace(MakeReader(writer_));
    }
    if (options.followers) {
      followers_.push_back(MakeFollower(writer_));
      followers_.push_back(MakeFollower(writer_));
    }
  }

  void Append(uint64_t tag, const std::string& payload) {
    const int64_t now_ns = static_cast<int64_t>(1'000'000 + tag);
    const AppendOutcome outcome = writer_.Append(tag, BytesOf(payload), now_ns);
    EXPECT_EQ(outcome, model_.Append(tag, payload, now_ns));
    if (outcome == AppendOutcome::kStored) {
      ledger_.CountStored(payload.size());
    } else {
      Count(outcome == AppendOutcome::kFull ? LossCause::kFull : LossCause::kTooLarge, payload);
    }
  }
  // Rejected before the ring was asked.
  void Reject(LossCause cause, const std::string& payload) {
    model_.Reject(payload.size());
    Count(cause, payload);
  }
  void Publish() {
    writer_.Publish(ledger_);
    model_.Publish();
  }
  void ReadSome(uint64_t records) {
    if (consumer_) {
      while (records-- != 0 && StepFollower(*consumer_, model_)) {
      }
      return;
    }
    RecordView view;
    for (; records != 0; --records) {
      const ReadOutcome outcome = reader_->Next(&view);
      const Stored* const record = model_.RecordAt(read_);
      ASSERT_EQ(outcome, record != nullptr ? ReadOutcome::kRecord : ReadOutcome::kEmpty);
      if (record == nullptr) return;
      ExpectRecord(view, *record, options_.stamped ? read_ : 0);
      told_ += view.gap.records;
      ++read_;
    }
  }
  void Release() {
    if (consumer_) {
      consumer_->Release();
      read_ = consumer_->next_record();
    } else {
      reader_->Release();
    }
    if (read_ != 0) model_.Release(model_.EndOf(read_ - 1));
  }
  void FollowSome(size_t which, uint64_t records) {
    if (which >= followers_.size()) return;
    while (records-- != 0 && StepFollower(followers_[which], model_)) {
    }
  }

  void ExpectAddsUp() {
    test::ExpectLedgerAddsUp(ledger_);
    const RingOccupancy now = writer_.Occupancy();
    EXPECT_EQ(now.consumed_records, model_.consumed());
    EXPECT_EQ(now.overwritten_records, model_.overwritten());
    EXPECT_EQ(now.overwritten_bytes, model_.overwritten_bytes());
    EXPECT_EQ(now.resident_records, model_.resident());
    EXPECT_EQ(now.resident_bytes, model_.resident_bytes());
    EXPECT_EQ(ledger_.stored_records,
              now.consumed_records + now.overwritten_records + now.resident_records);
    EXPECT_LE(now.resident_bytes, now.high_water_bytes);
    EXPECT_LE(now.high_water_bytes, now.capacity_bytes);
    EXPECT_EQ(now.tail_violations, 0u);
    EXPECT_EQ(ledger_.stored_records, model_.stored());
  }

  MediatedRingWriter& writer() { return writer_; }
  const Model& model() const { return model_; }
  uint64_t told() const { return told_; }  // Rejections that the reader in place heard of.
  uint64_t lost() const {
    uint64_t lost = consumer_ ? consumer_->account().lost_records : 0;
    for (const MediatedRingFollower& follower : followers_) lost += follower.account().lost_records;
    return lost;
  }

 private:
  void Count(LossCause cause, const std::string& payload) {
    ledger_.CountRejected(cause, payload.size());
    writer_.NoteRejected(1, payload.size());
  }

  RingOptions options_;
  MediatedRingWriter writer_;
  Model model_;
  Ledger ledger_;
  std::optional<MediatedRingReader> reader_;
  std::optional<MediatedRingFollower> consumer_;
  std::vector<MediatedRingFollower> followers_;
  uint64_t read_ = 0;
  uint64_t told_ = 0;
};

using Combination = std::tuple<int, bool, bool, bool, int>;
class MediatedRingPolicy : public ::testing::TestWithParam<Combination> {
 protected:
  static RingOptions Options() {
    const auto [policy, gaps, stamped, followers, pages] = GetParam();
    return {.policy = static_cast<RingPolicy>(policy),
            .gap_records = gaps,
            .stamped = stamped,
            .followers = followers};
  }
  static uint64_t Capacity() { return static_cast<uint64_t>(std::get<4>(GetParam())) * 4096; }
};

std::string NameOf(const ::testing::TestParamInfo<Combination>& info) {
  const auto [policy, gaps, stamped, followers, pages] = info.param;
  const char* const policies[] = {"DropNew", "Overwrite", "Block"};
  return std::string(policies[policy]) + (gaps ? "Gaps" : "") + (stamped ? "Stamped" : "") +
         (followers ? "Followed" : "") + std::to_string(pages);
}

INSTANTIATE_TEST_SUITE_P(All, MediatedRingPolicy,
                         ::testing::Combine(::testing::Values(0, 1, 2), ::testing::Bool(),
                                            ::testing::Bool(), ::testing::Bool(),
                                            ::testing::Values(1, 3)),
                         NameOf);

TEST_P(MediatedRingPolicy, DoesWhatTheModelDoesAtEveryStep) {
  const uint64_t capacity = Capacity();
  std::mt19937_64 random(capacity + static_cast<uint64_t>(std::get<0>(GetParam())));
  PolicyRing ring(capacity, Options());
  for (uint64_t step = 0; step < 6000; ++step) {
    const uint64_t choice = random() % 100;
    if (choice < 50) {
      const uint64_t longest = choice < 40 ? 120 : choice < 46 ? capacity + 60 : 66000;
      ring.Append(step, PatternText(step, random() % longest));
    } else if (choice < 55) {
      ring.Reject(random() % 2 == 0 ? LossCause::kBudget : LossCause::kPolicy,
                  PatternText(step, random() % 50));
    } else if (choice < 70) {
      ring.Publish();
    } else if (choice < 80) {
      ring.ReadSome(random() % 40);
    } else if (choice < 86) {
      ring.Release();
    } else {
      ring.FollowSome(choice % 2, random() % 30);
    }
    ring.ExpectAddsUp();
    if (HasFailure()) FAIL() << "step " << step;
  }
  EXPECT_GT(ring.model().head() / capacity, 20u);
  EXPECT_GT(ring.model().rejected(), 100u);
  EXPECT_EQ(ring.model().overwritten() != 0, Options().overwrites());
  EXPECT_EQ(ring.lost() > 100, Options().HasWindow()) << ring.lost();
}

class MediatedRingGaps : public ::testing::TestWithParam<std::tuple<bool, bool>> {};
INSTANTIATE_TEST_SUITE_P(All, MediatedRingGaps,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST_P(MediatedRingGaps, TellEveryRejectionOnce) {
  const auto [stamped, followers] = GetParam();
  std::mt19937_64 random(7);
  PolicyRing ring(PageBytes(), {.policy = RingPolicy::kDropNew,
                                .gap_records = true,
                                .stamped = stamped,
                                .followers = followers});
  for (uint64_t step = 0; step < 3000; ++step) {
    ring.Append(step, PatternText(step, random() % 300));
    if (step % 20 == 19) {
      ring.Publish();
      ring.ReadSome(10);
      ring.Release();
    }
  }
  ring.Publish();
  ring.ReadSome(UINT64_MAX);
  ring.Release();
  ring.Append(1, "the last news");
  ring.Publish();
  ring.ReadSome(UINT64_MAX);
  EXPECT_GT(ring.told(), 100u);
  EXPECT_EQ(ring.told(), ring.model().rejected());
}

RingOptions Overwriting() { return {.policy = RingPolicy::kOverwriteOldest}; }
RingOptions WithGaps() { return {.gap_records = true}; }
RingOptions Stamped() { return {.stamped = true}; }

MediatedRingWriter MakeRing(const RingOptions& options, uint64_t capacity = PageBytes()) {
  return MediatedRingWriter::Create(LayoutOf(capacity), options).value();
}

TEST(MediatedRingGap, SumsUpCausesAndTellsThemBeforeTheNextRecord) {
  MediatedRingWriter writer = MakeRing(WithGaps());
  MediatedRingReader reader = MakeReader(writer);
  ASSERT_EQ(writer.Append(1, BytesOf("before")), AppendOutcome::kStored);
  writer.NoteRejected(1, 10);
  writer.NoteRejected(0, 0);
  writer.NoteRejected(3, 500);
  ASSERT_EQ(writer.Append(2, BytesOf("after")), AppendOutcome::kStored);
  ASSERT_EQ(writer.Append(3, BytesOf("later")), AppendOutcome::kStored);
  writer.Publish({});
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.gap, RecordLoss());
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.tag, 2u);
  EXPECT_EQ(TextOf(view.payload), "after");
  EXPECT_EQ(view.gap, (RecordLoss{.records = 4, .bytes = 510, .at_record = 1}));
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.gap, RecordLoss());
}

TEST(MediatedRingGap, WaitsForARecordBesideWhichItFits) {
  MediatedRingWriter writer = MakeRing(WithGaps());
  MediatedRingReader reader = MakeReader(writer);
  ASSERT_EQ(writer.Append(1, BytesOf(std::string(8, 'x'))), AppendOutcome::kStored);
  writer.NoteRejected(2, 20);
  // Fits, but not with 40 bytes more.
  const std::string rest(PageBytes() - 24 - 16, 'y');
  ASSERT_EQ(writer.Append(2, BytesOf(rest)), AppendOutcome::kStored);
  writer.Publish({});
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.gap, RecordLoss());
  reader.Release();
  writer.NoteRejected(1, 5);
  // A record that fills the ring alone comes first as well.
  const std::string whole(PageBytes() - 16, 'z');
  ASSERT_EQ(writer.Append(3, BytesOf(whole)), AppendOutcome::kStored);
  writer.Publish({});
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.gap, RecordLoss());
  reader.Release();
  ASSERT_EQ(writer.Append(4, {}), AppendOutcome::kStored);
  writer.Publish({});
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.gap, (RecordLoss{.records = 3, .bytes = 25, .at_record = 1}));
}

TEST(MediatedRingGap, CountsARecordWhoseGapAloneWasReleasedAsUnread) {
  MediatedRingWriter writer = MakeRing(WithGaps());
  writer.NoteRejected(1, 1);
  ASSERT_EQ(writer.Append(1, BytesOf("12345678")), AppendOutcome::kStored);
  writer.Publish({});
  RogueConsumer rogue(writer);
  rogue.SetTail(kGapRecordBytes);
  EXPECT_EQ(writer.Occupancy().consumed_records, 0u);
  rogue.SetTail(kGapRecordBytes + 24);
  EXPECT_EQ(writer.Occupancy().consumed_records, 1u);
}

TEST(MediatedRingGap, KeepsItsTagFromWriters) {
  EXPECT_FALSE(IsWriterTag(kGapTag));
  EXPECT_TRUE(IsWriterTag(kGapTag - 1));
  MediatedRingWriter writer = MakeRing(WithGaps());
  EXPECT_DEATH((void)writer.Append(kGapTag, BytesOf("forged")), "IsWriterTag");
}

TEST(MediatedRingGap, HasNoMeaningInARingWithoutGapRecords) {
  MediatedRingWriter writer = MakeRing({});
  MediatedRingReader reader = MakeReader(writer);
  writer.NoteRejected(5, 50);
  ASSERT_EQ(writer.Append(kGapTag, BytesOf(std::string(24, 'x'))), AppendOutcome::kStored);
  writer.Publish({});
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.tag, kGapTag);
  EXPECT_EQ(view.gap, RecordLoss());
  EXPECT_EQ(reader.Next(&view), ReadOutcome::kEmpty);
}

TEST(MediatedRingStamp, NumbersRecordsAndReadsTheClockUnlessToldTheTime) {
  MediatedRingWriter writer = MakeRing(Stamped());
  MediatedRingReader reader = MakeReader(writer);
  const int64_t before_ns = MonotonicNs();
  ASSERT_EQ(writer.Append(1, BytesOf("now")), AppendOutcome::kStored);
  const int64_t after_ns = MonotonicNs();
  ASSERT_EQ(writer.Append(2, BytesOf("then"), 4711), AppendOutcome::kStored);
  writer.Publish({});
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.sequence, 0u);
  EXPECT_GE(view.time_ns, before_ns);
  EXPECT_LE(view.time_ns, after_ns);
  EXPECT_EQ(TextOf(view.payload), "now");
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(view.sequence, 1u);
  EXPECT_EQ(view.time_ns, 4711);
}

TEST(MediatedRingStamp, LeavesSixteenBytesLessForThePayload) {
  MediatedRingWriter writer = MakeRing(Stamped(), 32 * PageBytes());
  const std::string longest(65519 - 16, 'x');
  EXPECT_EQ(writer.Append(1, BytesOf(longest)), AppendOutcome::kStored);
  EXPECT_EQ(writer.Append(1, BytesOf(longest + "x")), AppendOutcome::kTooLarge);
}

// "My viewer knows Zircon's ring and nothing else. Can it read this one?"
TEST(MediatedRingStamp, IsWalkedByAReaderThatKnowsOfNoOptions) {
  const RingOptions options{
      .policy = RingPolicy::kDropNew, .gap_records = true, .stamped = true, .followers = true};
  MediatedRingWriter writer = MakeRing(options);
  ASSERT_EQ(writer.Append(1, BytesOf("a"), 7), AppendOutcome::kStored);
  writer.NoteRejected(2, 3);
  ASSERT_EQ(writer.Append(2, BytesOf("bc"), 8), AppendOutcome::kStored);
  writer.Publish({});
  MediatedRingReader plain =
      MediatedRingReader::Map(writer.layout(), writer.head_memfd(), writer.data_memfd()).value();
  std::vector<std::pair<uint64_t, size_t>> seen;
  RecordView view;
  while (plain.Next(&view) == ReadOutcome::kRecord)
    seen.emplace_back(view.tag, view.payload.size());
  EXPECT_THAT(seen, ::testing::ElementsAre(std::pair(1u, 17u), std::pair(kGapTag, 24u),
                                           std::pair(2u, 18u)));
  EXPECT_THAT(plain.status(), test::IsOk());
}

TEST(MediatedRingOverwrite, HasNoReaderInPlace) {
  MediatedRingWriter writer = MakeRing(Overwriting());
  EXPECT_THAT(MediatedRingReader::Map(writer.layout(), writer.head_memfd(), writer.data_memfd(),
                                      writer.options()),
              StatusIs(absl::StatusCode::kInvalidArgument, "cannot be read in place"));
}

TEST(MediatedRingOverwrite, RefusesOnlyWhatWouldNeverFit) {
  MediatedRingWriter writer = MakeRing(Overwriting());
  EXPECT_EQ(writer.Append(1, BytesOf(std::string(PageBytes() - 15, 'x'))),
            AppendOutcome::kTooLarge);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(writer.Append(1, BytesOf(std::string(PageBytes() - 16, 'x'))),
              AppendOutcome::kStored);
  }
  EXPECT_EQ(writer.Occupancy().overwritten_records, 4u);
  EXPECT_EQ(writer.Occupancy().overwritten_bytes, 4 * (PageBytes() - 16));
}

TEST(MediatedRingOverwrite, GoesOnWhateverTheTailClaimsAndKeepsItsBooks) {
  const uint64_t capacity = PageBytes();
  MediatedRingWriter writer = MakeRing(Overwriting());
  RogueConsumer rogue(writer);
  std::mt19937_64 random(3);
  uint64_t stored = 0;
  for (uint64_t step = 0; step < 4000; ++step) {
    const uint64_t head = writer.head_position();
    const uint64_t lies[] = {0,        1,        head - 8, head,          head + 8,
                             head / 2, capacity, random(), UINT64_MAX - 7};
    if (step % 20 == 0) rogue.SetTail(lies[random() % std::size(lies)]);
    ASSERT_EQ(writer.Append(step, BytesOf(std::string(random() % 200, 'x'))),
              AppendOutcome::kStored);
    ++stored;
    const RingOccupancy now = writer.Occupancy();
    ASSERT_EQ(stored, now.consumed_records + now.overwritten_records + now.resident_records);
    ASSERT_LE(now.resident_bytes, capacity);
    ASSERT_LE(now.high_water_bytes, capacity);
  }
  const RingOccupancy now = writer.Occupancy();
  EXPECT_GT(now.tail_violations, 100u);
  EXPECT_GT(now.overwritten_records, 100u);
  EXPECT_GT(now.consumed_records, 100u);
}

TEST(MediatedRingOptions, LeaveNoTraceInAPlainRing) {
  MediatedRingWriter writer = MakeRing({});
  MediatedRingReader reader = MakeReader(writer);
  writer.NoteRejected(3, 30);
  EXPECT_EQ(writer.follow_memfd(), nullptr);
  const std::string payload(100, 'x');
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(writer.Append(1, BytesOf(payload)), AppendOutcome::kStored);
    writer.Publish({});
    RecordView view;
    ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
    reader.Release();
  }
  const auto data = ReadOnlyMapping::Map(writer.data_memfd()).value();
  std::vector<std::byte> ledger_page(PageBytes());
  data.CopyOut(PageBytes(), ledger_page);
  // Beyond tail_accepted, and but for want_room, the page is as it was made.
  EXPECT_TRUE(std::all_of(ledger_page.begin() + 40, ledger_page.end(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
  const auto head = ReadOnlyMapping::Map(writer.head_memfd()).value();
  EXPECT_EQ(head.Word<uint64_t>(0).LoadRelaxed().ForHintOnly(), 200 * RecordBytes(100));
}

}  // namespace
}  // namespace iob::shm
