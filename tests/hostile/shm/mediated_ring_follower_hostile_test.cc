// A follower whose writer overtakes it at the worst moments, and one whose broker lies.
//
// Both sides of a copy that may be written over while it is made run in one thread, one inside the
// other's hook: the writer before the k-th shared load of the follower, the follower before the
// k-th shared store of the writer, for every k. A record that comes out must be whole and the one
// that is due; losses must be exact. Then every word is changed at every moment, as for the reader
// in place: each call ends, touches nothing outside the ring, and gives a value or DATA_LOSS.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/mapping.h"
#include "shm/mediated_ring_follower.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::At;
using test::BytesOf;
using test::PatternText;
using test::TextOf;

RingOptions OverwritingWith(bool annotated) {
  return {.policy = RingPolicy::kOverwriteOldest,
          .gap_records = annotated,
          .stamped = annotated,
          .followers = true};
}

std::string PayloadOf(uint64_t number) { return PatternText(number, number * 53 % 700); }

// A ring of one page that is full, with a follower and a consumer in the midst of it.
class Race {
 public:
  explicit Race(bool annotated)
      : ring_(MediatedRingWriter::Create(RingLayout::ForRegion(2 * PageBytes()).value(),
                                         OverwritingWith(annotated))
                  .value()),
        follower_(MediatedRingFollower::Follow(ring_.layout(), ring_.options(), ring_.data_memfd(),
                                               *ring_.follow_memfd())
                      .value()),
        consumer_(MediatedRingFollower::Consume(ring_.layout(), ring_.options(), ring_.head_memfd(),
                                                ring_.data_memfd())
                      .value()) {
    Write(20);
    Read(follower_, 4);
    Read(consumer_, 6);
  }

  void Write(uint64_t records) {
    for (; records != 0; --records) {
      if (stored_ % 3 == 0) ring_.NoteRejected(1, 10);
      ASSERT_EQ(ring_.Append(stored_, BytesOf(PayloadOf(stored_)), 1), AppendOutcome::kStored);
      ++stored_;
    }
    ring_.Publish({});
  }

  // Up to `steps` calls. Whatever comes must be what is due.
  static void Read(MediatedRingFollower& follower, uint64_t steps) {
    for (; steps != 0; --steps) {
      const uint64_t expected = follower.next_record();
      RecordView view;
      const RingFollowOutcome outcome = follower.Next(&view);
      ASSERT_NE(outcome, RingFollowOutcome::kPoisoned) << follower.status();
      if (outcome == RingFollowOutcome::kEmpty) break;
      if (outcome == RingFollowOutcome::kRecord) {
        ASSERT_EQ(view.tag, expected);
        ASSERT_EQ(view.sequence, expected);
        ASSERT_EQ(TextOf(view.payload), PayloadOf(expected));
      } else {
        ASSERT_EQ(view.gap.at_record, expected);
      }
      ExpectAccount(follower);
    }
    follower.Release();
  }

  // Everything that is left, and then the books.
  void ExpectTheRestAddsUp() {
    for (MediatedRingFollower* const reader : {&follower_, &consumer_}) {
      Read(*reader, UINT64_MAX);
      EXPECT_EQ(reader->next_record(), stored_);
    }
    const RingOccupancy now = ring_.Occupancy();
    EXPECT_EQ(now.consumed_records + now.overwritten_records, stored_);
    EXPECT_EQ(now.resident_records, 0u);
    EXPECT_EQ(now.tail_violations, 0u);
  }

  MediatedRingFollower& follower() { return follower_; }
  MediatedRingFollower& consumer() { return consumer_; }

 private:
  static void ExpectAccount(const MediatedRingFollower& follower) {
    uint64_t bytes = 0;
    for (uint64_t number = follower.first_record(); number < follower.next_record(); ++number)
      bytes += PayloadOf(number).size();
    EXPECT_EQ(follower.account().received_records + follower.account().lost_records,
              follower.next_record() - follower.first_record());
    EXPECT_EQ(follower.account().received_bytes + follower.account().lost_bytes, bytes);
  }

  MediatedRingWriter ring_;
  MediatedRingFollower follower_;
  MediatedRingFollower consumer_;
  uint64_t stored_ = 0;
};

class MediatedRingFollowerRace : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Annotated, MediatedRingFollowerRace, ::testing::Bool());

TEST_P(MediatedRingFollowerRace, IsExactWhereverTheWriterOvertakesIt) {
  uint64_t overruns = 0;
  for (const bool consuming : {false, true}) {
    for (uint64_t records = 1; records < 40; records += records < 8 ? 1 : 5) {
      uint64_t accesses = UINT64_MAX;
      for (uint64_t moment = 0; moment < accesses; ++moment) {
        Race race(GetParam());
        MediatedRingFollower& reader = consuming ? race.consumer() : race.follower();
        const uint64_t lost_before = reader.account().lost_records;
        {
          const Ambush ambush(At(moment, [&] { race.Write(records); }));
          Race::Read(reader, 2);
          accesses = ambush.accesses();
        }
        overruns += reader.account().lost_records != lost_before ? 1 : 0;
        race.ExpectTheRestAddsUp();
        if (HasFailure()) FAIL() << records << " records written before load " << moment;
      }
    }
  }
  EXPECT_GT(overruns, 50u);
}

TEST_P(MediatedRingFollowerRace, ReadsNothingTornWhereverItMeetsTheWriter) {
  uint64_t cases = 0;
  for (const bool consuming : {false, true}) {
    uint64_t accesses = UINT64_MAX;
    for (uint64_t moment = 0; moment < accesses; ++moment) {
      Race race(GetParam());
      MediatedRingFollower& reader = consuming ? race.consumer() : race.follower();
      {
        const Ambush ambush(At(moment, [&] { Race::Read(reader, 3); }), Ambush::On::kStore);
        race.Write(25);
        accesses = ambush.accesses();
      }
      race.ExpectTheRestAddsUp();
      ++cases;
      if (HasFailure()) FAIL() << "read before store " << moment;
    }
  }
  EXPECT_GT(cases, 300u);
}

// ---- A broker that lies -----------------------------------------------------------------------

// A word of the ring in the hands of the test.
struct Target {
  const char* name;
  const Mapping* section;
  uint64_t offset_bytes;

  uint64_t Get() const { return section->Word<uint64_t>(offset_bytes).LoadRelaxed().ForHintOnly(); }
  void Set(uint64_t value) const { section->Word<uint64_t>(offset_bytes).StoreRelease(value); }
};

std::vector<uint64_t> InterestingValues(uint64_t capacity, uint64_t current) {
  return {0,
          1,
          8,
          16,
          24,
          capacity - 8,
          capacity,
          capacity + 8,
          65519,
          65520,
          uint64_t{1} << 63,
          UINT64_MAX - 15,
          UINT64_MAX - 7,
          UINT64_MAX,
          current - 8,
          current + 8};
}

// A ring with all of its sections in the hands of the peer, three records in it, one with a gap.
class FollowerVictim {
 public:
  explicit FollowerVictim(bool consuming)
      : consuming_(consuming),
        layout_(RingLayout::ForRegion(2 * PageBytes()).value()),
        own_memfd_(test::MakeMemfd(layout_.page_bytes())),
        data_memfd_(test::MakeMemfd(layout_.data_section_bytes())),
        own_(Mapping::Map(own_memfd_).value()),
        data_(Mapping::Map(data_memfd_).value()) {
    const uint64_t start = 7 * capacity() - 64;
    uint64_t position = PutRecord(start, 1, 40, kFirst);
    position = PutRecord(position, kGapTag, 24, 5);
    position = PutRecord(position, 2, 100, kFirst + 1);
    position = PutRecord(position, 3, 16, kFirst + 2);
    const uint64_t page = capacity();
    words_.push_back({"head", &data_, page + kLedgerHead});
    words_.push_back({"oldest", &data_, page + kLedgerOldest});
    words_.push_back({"records", &data_, page + kLedgerOldestRecords});
    words_.push_back({"bytes", &data_, page + kLedgerOldestBytes});
    words_.push_back({"settled", &data_, page + kLedgerOldestSettled});
    words_.push_back({"accepted", &data_, page + kLedgerTailAccepted});
    words_.push_back({"tail or waiting", &own_, 8});
    const uint64_t values[] = {position, start, kFirst, 777, start, start, start};
    for (size_t i = 0; i < std::size(values); ++i) words_[words_.size() - 7 + i].Set(values[i]);
  }

  const std::vector<Target>& targets() const { return words_; }
  uint64_t capacity() const { return layout_.capacity_bytes(); }

  // A follower's life. True when it read the three records and nothing else.
  bool Play(bool* ret_refused) {
    const RingOptions options = OverwritingWith(true);
    absl::StatusOr<MediatedRingFollower> follower =
        consuming_ ? MediatedRingFollower::Consume(layout_, options, own_memfd_, data_memfd_)
                   : MediatedRingFollower::Follow(layout_, options, data_memfd_, own_memfd_);
    if (!follower.ok()) {
      EXPECT_EQ(follower.status().code(), absl::StatusCode::kDataLoss) << follower.status();
      *ret_refused = true;
      return false;
    }
    std::vector<uint64_t> tags;
    bool lost = false;
    RingFollowOutcome outcome = RingFollowOutcome::kEmpty;
    for (uint64_t step = 0; step < 6; ++step) {
      RecordView view;
      outcome = follower->Next(&view);
      EXPECT_EQ(outcome == RingFollowOutcome::kPoisoned, !follower->status().ok());
      EXPECT_TRUE(!*ret_refused || outcome == RingFollowOutcome::kPoisoned) << "poison is for good";
      *ret_refused = outcome == RingFollowOutcome::kPoisoned;
      lost = lost || outcome == RingFollowOutcome::kLost;
      if (outcome == RingFollowOutcome::kRecord) {
        EXPECT_LE(view.payload.size(), capacity());
        for (const std::byte byte : view.payload) checksum_ += static_cast<uint64_t>(byte);
        tags.push_back(view.tag);
      }
      EXPECT_EQ(follower->account().received_records + follower->account().lost_records,
                follower->next_record() - follower->first_record());
      follower->Release();
      (void)follower->PrepareToWait(kWaitingOnFutex);
      (void)follower->HeadWord();
      follower->ClearWaiting();
    }
    return !*ret_refused && !lost && tags == std::vector<uint64_t>{1, 2, 3};
  }

 private:
  static constexpr uint64_t kFirst = 1000;

  uint64_t PutRecord(uint64_t position, uint64_t tag, uint64_t length, uint64_t first_word) {
    const uint64_t offset = position % capacity();
    const uint64_t values[] = {tag, length, first_word};
    const char* const names[] = {"tag", "length", "stamp"};
    for (uint64_t i = 0; i < 3; ++i) {
      words_.push_back({names[i], &data_, (offset + 8 * i) % capacity()});
      words_.back().Set(values[i]);
    }
    return position + RecordBytes(length);
  }

  bool consuming_;
  RingLayout layout_;
  SealedMemfd own_memfd_;
  SealedMemfd data_memfd_;
  Mapping own_;
  Mapping data_;
  std::vector<Target> words_;
  uint64_t checksum_ = 0;
};

class MediatedRingFollowerHostile : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Consuming, MediatedRingFollowerHostile, ::testing::Bool());

TEST_P(MediatedRingFollowerHostile, SurvivesEveryWordChangedAtEveryMoment) {
  uint64_t loads = 0;
  {
    FollowerVictim victim(GetParam());
    const Ambush nobody(test::Nobody);
    bool refused = false;
    ASSERT_TRUE(victim.Play(&refused));
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 20u);
  uint64_t cases = 0;
  uint64_t untouched = 0;
  uint64_t refusals = 0;
  const size_t targets = FollowerVictim(GetParam()).targets().size();
  for (size_t which = 0; which < targets; ++which) {
    for (size_t value = 0; value < InterestingValues(0, 0).size(); ++value) {
      // A change may lengthen the script; loads beyond the honest count are met by later cases.
      for (uint64_t moment = 0; moment < loads + 4; ++moment) {
        FollowerVictim victim(GetParam());
        const Target target = victim.targets()[which];
        const Ambush ambush(At(moment, [&] {
          target.Set(InterestingValues(victim.capacity(), target.Get())[value]);
        }));
        bool refused = false;
        const bool as_before = victim.Play(&refused);
        ++cases;
        untouched += as_before ? 1 : 0;
        refusals += refused ? 1 : 0;
        if (HasFailure()) FAIL() << target.name << ", value " << value << ", load " << moment;
      }
    }
  }
  // Both ways out were taken, or this has tested nothing.
  EXPECT_GT(untouched, cases / 10);
  EXPECT_GT(refusals, cases / 20);
}

// ---- Peers of the writer ----------------------------------------------------------------------

TEST(MediatedRingOverwriteHostile, WriterSurvivesATailChangedAtEveryMoment) {
  const auto layout = RingLayout::ForRegion(2 * PageBytes()).value();
  uint64_t refused = 0;
  for (size_t value = 0; value < InterestingValues(0, 0).size(); ++value) {
    uint64_t loads = UINT64_MAX;
    for (uint64_t moment = 0; moment < loads; ++moment) {
      MediatedRingWriter ring =
          MediatedRingWriter::Create(layout, OverwritingWith(value % 2 == 0)).value();
      const Mapping head = Mapping::Map(ring.head_memfd()).value();
      const Mapping follow = Mapping::Map(*ring.follow_memfd()).value();
      const Ambush ambush(At(moment, [&] {
        const uint64_t lie = InterestingValues(PageBytes(), ring.head_position())[value];
        for (const uint64_t offset : {kHeadOffset, kTailOffset, kWaitingOffset})
          head.Word<uint64_t>(offset).StoreRelease(lie);
        follow.Word<uint64_t>(kFollowWaitingOffset).StoreRelease(lie);
      }));
      for (uint64_t number = 0; number < 24; ++number) {
        ASSERT_EQ(ring.Append(number, BytesOf(PayloadOf(number)), 1), AppendOutcome::kStored);
        if (number % 4 == 0) ring.Publish({});
        const RingOccupancy now = ring.Occupancy();
        ASSERT_EQ(now.consumed_records + now.overwritten_records + now.resident_records,
                  number + 1);
        ASSERT_LE(now.resident_bytes, now.capacity_bytes);
        refused += now.tail_violations != 0 ? 1 : 0;
      }
      loads = ambush.accesses();
    }
  }
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace iob::shm
