// A broadcast ring whose other side changes words at the worst moments, or is killed there.
//
// The exhaustive parts play a fixed script of calls and put one value into one word just before the
// k-th shared load, for every k, word and value. Whatever happens, each call gives an outcome or
// DATA_LOSS, touches nothing outside the ring (guard pages and AddressSanitizer watch), and ends.
// Two more parts use the same hooks: the writer overtakes a follower before each of its loads, and
// a writer is killed before each of its stores.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_writer.h"
#include "shm/mapping.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::AppendNext;
using test::At;
using test::Broadcast;
using test::CheckingFollower;
using From = BroadcastFollower::From;

constexpr uint64_t kLongest = 200;

// A word that somebody else may write.
struct Target {
  const char* name;
  bool in_wait;
  uint64_t offset_bytes;
};

std::vector<uint64_t> InterestingValues(uint64_t current) {
  return {0,
          1,
          7,
          8,
          24,
          PageBytes() - 8,
          PageBytes(),
          PageBytes() + 8,
          uint64_t{1} << 31,
          (uint64_t{1} << 32) - 8,
          kBroadcastPositionMax,
          kBroadcastPositionMax + 8,
          uint64_t{1} << 63,
          UINT64_MAX - 7,
          UINT64_MAX,
          current - 8,
          current + 8,
          current + 24,
          current + PageBytes(),
          current + (uint64_t{1} << 40)};
}

// A ring of one page in its second lap, in the hands of everybody.
class Victim {
 public:
  Victim()
      : ring_(PageBytes()),
        data_(Mapping::Map(ring_.data).value()),
        wait_(Mapping::Map(ring_.wait).value()),
        writer_(ring_.Writer()) {
    while (writer_.next_sequence() < 60) AppendNext(writer_, kLongest);
    writer_.Publish();
  }

  const Broadcast& ring() const { return ring_; }
  BroadcastWriter& writer() { return writer_; }

  std::vector<Target> Targets() const {
    std::vector<Target> targets = {{"head", false, kBroadcastHead},
                                   {"next_sequence", false, kBroadcastNextSequence},
                                   {"stored_bytes", false, kBroadcastStoredBytes},
                                   {"oldest", false, kBroadcastOldest},
                                   {"overwritten_records", false, kBroadcastOverwrittenRecords},
                                   {"overwritten_bytes", false, kBroadcastOverwrittenBytes},
                                   {"waiting", true, kWaitHintOffset}};
    // The headers of the oldest two records.
    uint64_t position = Get(targets[3]);
    for (int record = 0; record < 2; ++record) {
      const uint64_t offset = PageBytes() + position % PageBytes();
      if (offset + 16 > 2 * PageBytes()) break;
      targets.push_back({"sequence", false, offset});
      targets.push_back({"length", false, offset + 8});
      const uint64_t length = Get(targets.back()) & UINT32_MAX;
      position += BroadcastRecordBytes(length);
    }
    return targets;
  }
  uint64_t Get(const Target& target) const {
    return Section(target).Word<uint64_t>(target.offset_bytes).LoadRelaxed().ForHintOnly();
  }
  void Set(const Target& target, uint64_t value) const {
    Section(target).Word<uint64_t>(target.offset_bytes).StoreRelease(value);
  }

 private:
  const Mapping& Section(const Target& target) const { return target.in_wait ? wait_ : data_; }

  Broadcast ring_;
  Mapping data_;
  Mapping wait_;
  BroadcastWriter writer_;
};

struct Tally {
  uint64_t cases = 0;
  uint64_t untouched = 0;  // Everything as if nobody had interfered.
  uint64_t refused = 0;    // Poison, DATA_LOSS or a restart.
};

// A follower's life; no checks of contents, which anybody may have forged.
void PlayFollower(const Broadcast& ring, From from, Tally* tally) {
  absl::StatusOr<BroadcastFollower> follower =
      BroadcastFollower::Map(ring.layout, ring.data, ring.wait, from);
  ++tally->cases;
  if (!follower.ok()) {
    EXPECT_EQ(follower.status().code(), absl::StatusCode::kDataLoss);
    ++tally->refused;
    return;
  }
  std::vector<std::byte> buffer(kLongest);
  bool poisoned = false;
  bool lost = false;
  for (int call = 0; call < 80; ++call) {
    Followed followed;
    const FollowOutcome outcome = follower->Next(buffer, &followed);
    EXPECT_TRUE(!poisoned || outcome == FollowOutcome::kPoisoned) << "poison is for good";
    poisoned = outcome == FollowOutcome::kPoisoned;
    EXPECT_EQ(poisoned, !follower->status().ok());
    lost = lost || outcome == FollowOutcome::kLost;
    if (outcome == FollowOutcome::kRecord) {
      EXPECT_LE(followed.payload_bytes, buffer.size());
    }
    if (outcome == FollowOutcome::kTooSmall) {
      EXPECT_LE(followed.payload_bytes, ring.layout.payload_bytes_max());
    }
    EXPECT_EQ(follower->received_records() + follower->lost_records(),
              follower->next_sequence() - follower->first_sequence());
    if (outcome == FollowOutcome::kRecord && call % 4 != 0) continue;
    (void)follower->PrepareToWait(kWaitingOnFutex);
    (void)follower->HasRecords();
    (void)follower->HeadWord();
  }
  tally->refused += poisoned ? 1 : 0;
  tally->untouched += !poisoned && !lost ? 1 : 0;
}

// Plays with each value in each word, before each load that the honest play makes.
void Exhaust(const std::function<void(Victim&, Tally*)>& play, Tally* ret_tally) {
  uint64_t loads = 0;
  {
    Victim victim;
    const Ambush nobody(test::Nobody);
    Tally honest;
    play(victim, &honest);
    ASSERT_EQ(honest.untouched, honest.cases);
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 20u);
  // Every load of the beginning, which maps and looks first; later ones repeat, so fewer of them.
  std::vector<uint64_t> moments;
  for (uint64_t moment = 0; moment < loads; moment += moment < 16 ? 1 : 31) {
    moments.push_back(moment);
  }
  const size_t targets = Victim().Targets().size();
  for (size_t which = 0; which < targets; ++which) {
    for (size_t value = 0; value < InterestingValues(0).size(); ++value) {
      for (const uint64_t moment : moments) {
        Victim victim;
        const Target target = victim.Targets()[which];
        const uint64_t evil = InterestingValues(victim.Get(target))[value];
        const Ambush ambush(At(moment, [&] { victim.Set(target, evil); }));
        play(victim, ret_tally);
        if (::testing::Test::HasFailure()) {
          FAIL() << target.name << ", value " << value << ", before load " << moment;
        }
      }
    }
  }
}

TEST(BroadcastHostile, FollowerSurvivesEveryWordChangedAtEveryMoment) {
  for (const From from : {From::kOldest, From::kNewest}) {
    Tally tally;
    Exhaust([from](Victim& victim, Tally* t) { PlayFollower(victim.ring(), from, t); }, &tally);
    EXPECT_GT(tally.untouched, tally.cases / 10);
    EXPECT_GT(tally.refused, tally.cases / 20);
  }
}

TEST(BroadcastHostile, WriterAndItsSuccessorSurviveEveryWordChangedAtEveryMoment) {
  Tally tally;
  const auto play = [](Victim& victim, Tally* t) {
    ++t->cases;
    const auto append = [](BroadcastWriter& writer) {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(AppendNext(writer, kLongest));
        (void)writer.Publish();
      }
      const BroadcastFigures figures = writer.figures();
      EXPECT_LE(figures.overwritten_records, figures.stored_records);
      EXPECT_LE(figures.overwritten_bytes, figures.stored_bytes);
      return figures.restarts == 0;
    };
    bool untouched = append(victim.writer());
    absl::StatusOr<BroadcastWriter> successor =
        BroadcastWriter::Map(victim.ring().layout, victim.ring().data, victim.ring().wait);
    if (successor.ok()) {
      untouched = append(*successor) && untouched;
    } else {
      EXPECT_EQ(successor.status().code(), absl::StatusCode::kDataLoss);
      untouched = false;
    }
    t->untouched += untouched ? 1 : 0;
    t->refused += untouched ? 0 : 1;
  };
  Exhaust(play, &tally);
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 100);
}

TEST(BroadcastHostile, AFollowerThatIsOvertakenAtAnyLoadGetsNoTornRecordAndCountsExactly) {
  // How many records the writer is ahead each time, and at how many loads in a row.
  for (const int records : {1, 3, 30, 200}) {
    for (const uint64_t times : {1u, 2u, 500u}) {
      for (uint64_t moment = 0; moment < 60; ++moment) {
        Victim victim;
        CheckingFollower follower(victim.ring().Follower(), kLongest, kLongest);
        uint64_t outcomes = 0;
        {
          const Ambush ambush(At(
              moment,
              [&] {
                for (int i = 0; i < records; ++i) AppendNext(victim.writer(), kLongest);
                victim.writer().Publish();
              },
              times));
          for (int call = 0; call < 60; ++call) {
            const FollowOutcome outcome = follower.Next();
            ASSERT_NE(outcome, FollowOutcome::kPoisoned) << follower.ring().status();
            outcomes += outcome == FollowOutcome::kEmpty ? 0 : 1;
          }
        }
        follower.Drain();
        ASSERT_FALSE(HasFailure()) << records << " records, before load " << moment;
        ASSERT_GT(outcomes, 0u);
        ASSERT_EQ(follower.ring().next_sequence(), victim.writer().next_sequence());
      }
    }
  }
}

TEST(BroadcastHostile, WhoeverAsksForAWakeAtAnyLoadOfAPublishIsAnsweredByTheRecordItHasNotSeen) {
  uint64_t asked_before = 0;
  uint64_t asked_after = 0;
  for (uint64_t moment = 0; moment < 4; ++moment) {
    Victim victim;
    CheckingFollower follower(victim.ring().Follower(), kLongest, kLongest);
    follower.Drain();
    ASSERT_TRUE(follower.ring().PrepareToWait(kWaitingOnSocket));
    AppendNext(victim.writer(), kLongest);
    bool asked = false;
    bool told = false;
    {
      // The publish takes the first request; the follower reads, and asks again in the middle.
      const Ambush ambush(At(moment, [&] {
        follower.Drain();
        asked = follower.ring().PrepareToWait(kWaitingOnSocket);
      }));
      told = victim.writer().Publish();
    }
    const bool seen = follower.ring().next_sequence() == victim.writer().next_sequence();
    (seen ? asked_after : asked_before) += asked ? 1 : 0;
    EXPECT_TRUE(told);
    AppendNext(victim.writer(), kLongest);
    told = victim.writer().Publish();
    if (asked && seen) {
      EXPECT_TRUE(told) << "left asleep; asked at load " << moment;
    }
  }
  EXPECT_GT(asked_before, 0u);
  EXPECT_GT(asked_after, 0u);
}

// ---- A writer that is killed before its k-th store ----------------------------------------------

struct KillAt {
  uint64_t store;
  uint64_t stores = 0;
};

// Maps a successor and appends; ends the process before the given store.
void WriteUntilKilled(const Broadcast& ring, uint64_t store) {
  KillAt kill_at{.store = store};
  before_shared_store_context = &kill_at;
  before_shared_store = [](void* context) {
    auto* const at = static_cast<KillAt*>(context);
    if (at->stores++ == at->store) ::_exit(9);
  };
  BroadcastWriter writer = ring.Writer();
  for (int batch = 0; batch < 3; ++batch) {
    AppendNext(writer, kLongest);
    if (batch == 1) {
      // As long as the ring: everything else goes, published or not.
      writer.Reserve(ring.layout.payload_bytes_max());
    }
    AppendNext(writer, kLongest);
    writer.Publish();
  }
  before_shared_store = nullptr;
}

TEST(BroadcastHostile, AWriterKilledBeforeAnyStoreLeavesAnExactLedger) {
  const auto bytes_below = [](uint64_t sequence) {
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < sequence; ++i) bytes += test::PayloadOf(i, kLongest).size();
    return bytes;
  };
  int status = 9;
  uint64_t store = 0;
  for (; status == 9; ++store) {
    ASSERT_LT(store, 500u) << "the script never ends";
    Victim victim;
    CheckingFollower early(victim.ring().Follower(), kLongest, kLongest);
    early.Next();
    status = test::Child([&] { WriteUntilKilled(victim.ring(), store); }).Join();
    BroadcastWriter successor = victim.ring().Writer();
    const BroadcastFigures figures = successor.figures();
    ASSERT_EQ(figures.restarts, 0u) << "before store " << store;
    ASSERT_EQ(figures.stored_bytes, bytes_below(figures.stored_records)) << "store " << store;
    ASSERT_EQ(figures.overwritten_bytes, bytes_below(figures.overwritten_records))
        << "before store " << store;
    early.Drain();
    // Every sequence number was used once: the next one follows without a gap.
    ASSERT_EQ(early.ring().next_sequence(), successor.next_sequence()) << "store " << store;
    const uint64_t lost = early.lost();
    AppendNext(successor, kLongest);
    successor.Publish();
    early.Drain();
    ASSERT_EQ(early.lost(), lost);
    ASSERT_EQ(early.ring().next_sequence(), successor.next_sequence());
    ASSERT_FALSE(HasFailure()) << "before store " << store;
  }
  EXPECT_EQ(status, 0);
  EXPECT_GT(store, 40u);
}

TEST(BroadcastHostile, ALyingFollowerCostsTheWriterNoMoreThanAWakePerPublish) {
  Victim victim;
  const Target waiting{"waiting", true, kWaitHintOffset};
  for (const uint64_t lie : {uint64_t{1}, uint64_t{0xfffffffc}, UINT64_MAX}) {
    for (int i = 0; i < 100; ++i) {
      victim.Set(waiting, lie);
      AppendNext(victim.writer(), kLongest);
      EXPECT_EQ(victim.writer().Publish(), (lie & kWaitingOnSocket) != 0);
    }
  }
  CheckingFollower follower(victim.ring().Follower(), kLongest, kLongest);
  follower.Drain();
  EXPECT_EQ(follower.ring().next_sequence(), victim.writer().next_sequence());
}

}  // namespace
}  // namespace iob::shm
