// An id allocator whose peer changes words at the worst moments, and one whose peers die there.
//
// The exhaustive part plays a fixed script of calls and puts one value into one word just before
// the k-th shared load, for every k, word and value. Whatever happens, each call must give a value
// or an error that says so, touch nothing outside the region (guard pages and AddressSanitizer
// watch), leave its output alone when it fails, and end. The crash part kills a process before its
// k-th shared load. The scribbling part does what the first does, by chance and at full speed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/id_allocator_layout.h"
#include "shm/id_allocator_reader.h"
#include "shm/id_allocator_sealed_writer.h"
#include "shm/id_allocator_shared_writer.h"
#include "shm/mapping.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::BytesOf;
using test::StatusIs;
using test::TextOf;

constexpr IdOwner kLive = 2;
constexpr IdOwner kDead = 3;

IdAllocatorLayout OnePage() { return IdAllocatorLayout::ForRegion(PageBytes()).value(); }

struct Tally {
  std::map<AllocateOutcome, uint64_t> allocations;
  std::map<BlobOutcome, uint64_t> gets;
  std::map<FindOutcome, uint64_t> finds;
  uint64_t tombstones = 0;
  uint64_t recoveries_refused = 0;
};

// A region in which owner 1 has three blobs, owner 3 died after a claim for five bytes, and owner 2
// lives; and a peer who may write all of it.
class Victim {
 public:
  Victim() : Victim(IdAllocatorSharedWriter::Create(OnePage()).value()) {}

  uint64_t Get(uint64_t offset) const {
    return peer_.Word<uint64_t>(offset).LoadRelaxed().ForHintOnly();
  }
  void Set(uint64_t offset, uint64_t word) const {
    peer_.Word<uint64_t>(offset).StoreRelease(word);
  }
  const IdAllocatorSharedWriter& broker() const { return broker_; }
  const IdAllocatorSharedWriter& writer() const { return writer_; }
  const IdAllocatorSharedReader& reader() const { return reader_; }
  const SealedMemfd& memfd() const { return memfd_; }

  // What owner 2, the broker and a reader do in a day. False when something was refused.
  bool Play(Tally* tally) const {
    bool well = true;
    std::vector<std::string> stored;
    for (const size_t size : {size_t{5}, size_t{0}, size_t{100}}) {
      uint32_t id = UINT32_MAX;
      const AllocateOutcome outcome = writer_.Allocate(BytesOf(std::string(size, 'n')), &id);
      ++tally->allocations[outcome];
      EXPECT_NE(outcome, AllocateOutcome::kInterned);
      EXPECT_EQ(outcome == AllocateOutcome::kAllocated, id != UINT32_MAX);
      if (id != UINT32_MAX) {
        EXPECT_LE(id, kNextIdMax);
      }
      well &= outcome == AllocateOutcome::kAllocated;
    }
    const absl::StatusOr<uint32_t> tombstones = broker_.TombstoneOwner(kDead);
    if (tombstones.ok()) {
      tally->tombstones += *tombstones;
      well &= *tombstones == 1;
    } else {
      EXPECT_EQ(tombstones.status().code(), absl::StatusCode::kDataLoss);
      ++tally->recoveries_refused;
      well = false;
    }
    for (const uint32_t id : {0u, 2u, 3u, 4u, 7u}) {
      std::vector<std::byte> copy(1);
      const BlobOutcome outcome = reader_.GetCopy(id, 50, &copy);
      ++tally->gets[outcome];
      EXPECT_LE(copy.size(), 50u);
      if (outcome != BlobOutcome::kBlob) {
        EXPECT_EQ(copy.size(), 1u);
      }
      well &= outcome == (id == 3   ? BlobOutcome::kTombstone
                          : id == 7 ? BlobOutcome::kUnallocatedId
                                    : BlobOutcome::kBlob);
    }
    uint32_t id = UINT32_MAX;
    const FindOutcome outcome = reader_.Find(BytesOf(std::string("cc")), &id);
    ++tally->finds[outcome];
    EXPECT_EQ(outcome == FindOutcome::kFound, id != UINT32_MAX);
    return well && outcome == FindOutcome::kFound && id == 2;
  }

 private:
  explicit Victim(std::pair<SealedMemfd, IdAllocatorSharedWriter> made)
      : memfd_(std::move(made.first)),
        broker_(std::move(made.second)),
        writer_(IdAllocatorSharedWriter::Map(OnePage(), memfd_, kLive).value()),
        reader_(IdAllocatorSharedReader::Map(OnePage(), memfd_).value()),
        peer_(Mapping::Map(memfd_).value()) {
    uint32_t id = 0;
    for (const std::string blob : {"aaaa", "", "cc"})
      EXPECT_EQ(broker_.Allocate(BytesOf(blob), &id), AllocateOutcome::kAllocated);
    Set(IdSlotOffset(3), IdSlot::PendingWord(kDead, 5));
  }

  SealedMemfd memfd_;
  IdAllocatorSharedWriter broker_;
  IdAllocatorSharedWriter writer_;
  IdAllocatorSharedReader reader_;
  Mapping peer_;
};

uint64_t Pair(uint64_t low, uint64_t high) { return low | high << 32; }

std::vector<uint64_t> InterestingValues(uint64_t current) {
  const uint64_t page = PageBytes();
  return {0,
          1,
          Pair(0, 8),
          Pair(0, page),
          Pair(0, page + 1),
          Pair(page / 8 - 1, page),
          Pair(page / 8 - 2, page),
          Pair(page / 8, page),
          Pair(0x20000000, page),
          Pair(0x1fffffff, page),
          Pair(5, page - 16),
          Pair(page, 0),
          Pair(page, 8),
          Pair(8, page - 8),
          Pair(9, page - 8),
          Pair(1, page - 1),
          Pair(64, page - 64),
          Pair(UINT32_MAX, page - 8),
          Pair(0, 0xfffff000),
          UINT64_MAX,
          UINT64_MAX - 1,
          IdSlot::PendingWord(kIdOwnerBroker, 5),
          IdSlot::PendingWord(kLive, 0),
          IdSlot::PendingWord(kLive, 5),
          IdSlot::PendingWord(kDead, 0),
          IdSlot::PendingWord(kDead, UINT32_MAX),
          IdSlot::PendingWord(kIdOwnersMax, 100),
          IdSlot::TombstoneWord(0),
          IdSlot::TombstoneWord(5),
          IdSlot::TombstoneWord(UINT32_MAX),
          current + 1,
          current - 1,
          current + (uint64_t{1} << 32),
          current - (uint64_t{1} << 32),
          current - 5 * (uint64_t{1} << 32) + 1};
}

// The header, and the slots of every id that the play comes to.
constexpr uint64_t kWords = 9;

// Three allocations at their worst, and the rest of a play over a page full of ids.
constexpr uint64_t kLoadsMax = 3 * 4 * IdAllocatorSharedWriter::kTriesMax + 4096;

TEST(IdAllocatorHostile, SurvivesEveryWordChangedAtEveryMoment) {
  uint64_t loads = 0;
  {
    Tally tally;
    const Victim victim;
    const Ambush nobody([](uint64_t) {});
    ASSERT_TRUE(victim.Play(&tally));
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 30u);
  Tally tally;
  uint64_t cases = 0;
  uint64_t well = 0;
  for (uint64_t which = 0; which < kWords; ++which) {
    for (size_t value = 0; value < InterestingValues(0).size(); ++value) {
      for (uint64_t moment = 0; moment < loads; ++moment) {
        const Victim victim;
        const Ambush ambush([&](uint64_t load) {
          if (load == moment)
            victim.Set(8 * which, InterestingValues(victim.Get(8 * which))[value]);
        });
        ++cases;
        well += victim.Play(&tally) ? 1 : 0;
        EXPECT_LT(ambush.accesses(), kLoadsMax);
        if (HasFailure())
          FAIL() << "word " << which << ", value " << value << ", before load " << moment;
      }
    }
  }
  std::printf("%lu cases, %lu of them went well\n", cases, well);
  EXPECT_GT(well, cases / 10);
  for (const AllocateOutcome outcome :
       {AllocateOutcome::kAllocated, AllocateOutcome::kOutOfMemory, AllocateOutcome::kInvalidHeader,
        AllocateOutcome::kNonEmptyIndex}) {
    EXPECT_GT(tally.allocations[outcome], 0u) << static_cast<int>(outcome);
  }
  for (const BlobOutcome outcome :
       {BlobOutcome::kBlob, BlobOutcome::kInvalidHeader, BlobOutcome::kUnallocatedId,
        BlobOutcome::kUncommitted, BlobOutcome::kTombstone, BlobOutcome::kInvalidIndex,
        BlobOutcome::kTooLarge}) {
    EXPECT_GT(tally.gets[outcome], 0u) << static_cast<int>(outcome);
  }
  EXPECT_GT(tally.finds[FindOutcome::kFound], 0u);
  EXPECT_GT(tally.finds[FindOutcome::kAbsent], 0u);
  EXPECT_GT(tally.finds[FindOutcome::kInvalidHeader], 0u);
  EXPECT_GT(tally.tombstones, 0u);
  EXPECT_GT(tally.recoveries_refused, 0u);
}

TEST(IdAllocatorHostile, SurvivesWordsThatChangeBeforeEveryLoad) {
  Tally tally;
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    std::mt19937_64 random(seed);
    const Victim victim;
    const Ambush ambush([&](uint64_t) {
      if (random() % (1 + seed % 16) != 0) return;
      const uint64_t offset = random() % 4 == 0 ? 8 * (random() % kWords) : 0;
      const std::vector<uint64_t> values = InterestingValues(victim.Get(offset));
      victim.Set(offset, values[random() % values.size()]);
    });
    victim.Play(&tally);
    EXPECT_LT(ambush.accesses(), kLoadsMax);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(tally.allocations[AllocateOutcome::kAllocated], 100u);
  EXPECT_GT(tally.allocations[AllocateOutcome::kInvalidHeader], 100u);
  EXPECT_GT(tally.allocations[AllocateOutcome::kNonEmptyIndex], 100u);
}

TEST(IdAllocatorHostile, IsBusyWhenTheHeaderNeverHoldsStill) {
  const Victim victim;
  const IdHeader header = *victim.broker().LoadHeader();
  uint32_t id = 77;
  const Ambush ambush(
      [&](uint64_t load) { victim.Set(0, Pair(header.next_id, header.blob_head - load % 1000)); });
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id), AllocateOutcome::kBusy);
  EXPECT_EQ(id, 77u);
  EXPECT_LE(ambush.accesses(), 4u * IdAllocatorSharedWriter::kTriesMax);
}

TEST(IdAllocatorHostile, IsBusyWhenASlotNeverHoldsStill) {
  const Victim victim;
  uint32_t id = 77;
  const Ambush ambush([&](uint64_t load) {
    // Looks free to whoever loads it, and is not when it is claimed.
    victim.Set(IdSlotOffset(3), load % 3 == 1 ? 0 : IdSlot::PendingWord(kDead, 1));
  });
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id), AllocateOutcome::kBusy);
  EXPECT_EQ(id, 77u);
}

TEST(IdAllocatorHostile, FindComparesNoMoreBytesThanThereAre) {
  const Victim victim;
  // Ids without end that all point to the same bytes, which differ from the wanted in the last.
  const uint64_t half = PageBytes() / 2;
  const auto ids = static_cast<uint32_t>(half / 8 - 1);
  for (uint32_t id = 0; id < ids; ++id)
    victim.Set(IdSlotOffset(id), IdSlot::BlobWord(1024, static_cast<uint32_t>(half)));
  victim.Set(0, Pair(ids, half));
  uint32_t id = 77;
  const Ambush counting([](uint64_t) {});
  EXPECT_EQ(victim.reader().Find(BytesOf(std::string(1023, '\0') + "x"), &id),
            FindOutcome::kInvalidIndex);
  EXPECT_EQ(id, 77u);
  EXPECT_LT(counting.accesses(), 20u);
}

TEST(IdAllocatorHostile, AHeaderMovedBackMeetsTheBlobsThatAreThere) {
  const Victim victim;
  victim.Set(0, Pair(0, PageBytes()));
  uint32_t id = 77;
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id),
            AllocateOutcome::kNonEmptyIndex);
  EXPECT_EQ(id, 77u);
}

TEST(IdAllocatorHostile, AForgedClaimIsPassedLikeAnybodys) {
  const Victim victim;
  victim.Set(IdSlotOffset(3), IdSlot::PendingWord(kIdOwnersMax, 1000));
  uint32_t id = 77;
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id), AllocateOutcome::kAllocated);
  EXPECT_EQ(id, 4u);
  EXPECT_EQ(victim.broker().TombstoneOwner(kIdOwnersMax).value(), 1u);
  // One that can never have fitted is no claim.
  victim.Set(IdSlotOffset(5), IdSlot::PendingWord(kDead, static_cast<uint32_t>(PageBytes())));
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id),
            AllocateOutcome::kNonEmptyIndex);
  EXPECT_THAT(victim.broker().TombstoneOwner(kDead), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(IdAllocatorHostile, AClaimWhoseHeaderIsSpoiltBecomesATombstoneThatOthersPass) {
  for (const auto& [ids, bytes] : {std::pair(0, 0), {0, 1}, {1, 0}, {1, 2}, {2, 0}, {100, 0}}) {
    const Victim victim;
    victim.Set(IdSlotOffset(3), 0);
    const IdHeader header = *victim.broker().LoadHeader();
    const uint64_t spoilt = ids == 0 && bytes == 0
                                ? 0
                                : Pair(header.next_id + static_cast<uint64_t>(ids),
                                       header.blob_head - static_cast<uint64_t>(bytes));
    uint32_t id = 77;
    {
      // Loads: header, slot, claim; the fourth is the swing.
      const Ambush ambush([&](uint64_t load) {
        if (load == 3) victim.Set(0, spoilt);
      });
      EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id),
                AllocateOutcome::kInvalidHeader);
    }
    EXPECT_EQ(id, 77u);
    EXPECT_EQ(victim.Get(0), spoilt);
    EXPECT_EQ(victim.Get(IdSlotOffset(3)), IdSlot::TombstoneWord(1));
    // With the header mended, the region goes on.
    victim.Set(0, header.word());
    EXPECT_EQ(victim.broker().Allocate(BytesOf(std::string("y")), &id),
              AllocateOutcome::kAllocated);
    EXPECT_EQ(id, 4u);
  }
}

// ---- Holes ------------------------------------------------------------------------------------

TEST(IdAllocatorHostile, APunchedSharedRegionAnswersDataLoss) {
  const Victim victim;
  ASSERT_EQ(::fallocate(victim.memfd().fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        static_cast<off_t>(PageBytes())),
            0);
  uint32_t id = 77;
  EXPECT_EQ(victim.writer().Allocate({}, &id), AllocateOutcome::kInvalidHeader);
  EXPECT_EQ(victim.broker().Allocate({}, &id), AllocateOutcome::kInvalidHeader);
  std::vector<std::byte> copy;
  EXPECT_EQ(victim.reader().GetCopy(0, 100, &copy), BlobOutcome::kInvalidHeader);
  EXPECT_EQ(victim.reader().Find({}, &id), FindOutcome::kInvalidHeader);
  EXPECT_THAT(victim.broker().TombstoneOwner(kDead), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(id, 77u);
}

TEST(IdAllocatorHostile, ASealedRegionCannotBePunched) {
  auto writer = IdAllocatorSealedWriter::Create(OnePage(), {}).value();
  const UniqueFd grant = writer.memfd().OpenGrant(FdMode::kReadWrite).value();
  EXPECT_EQ(::fallocate(grant.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        static_cast<off_t>(PageBytes())),
            -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::pwrite(grant.get(), "x", 1, 0), -1);
}

TEST(IdAllocatorHostile, TheSealedWriterLoadsNoSharedWord) {
  auto writer = IdAllocatorSealedWriter::Create(OnePage(), {.interned_max = 16}).value();
  const Ambush counting([](uint64_t) {});
  uint32_t id = 0;
  for (const std::string blob : {"a", "b", "a", ""}) writer.Allocate(BytesOf(blob), &id);
  writer.Allocate(BytesOf(std::string(PageBytes(), 'x')), &id);
  EXPECT_EQ(counting.accesses(), 0u);
}

// ---- Deaths -----------------------------------------------------------------------------------

TEST(IdAllocatorHostile, AProcessThatDiesBeforeAnyLoadHoldsNobodyUp) {
  std::map<std::string, int> seen;
  for (const bool must_help : {false, true}) {
    for (uint64_t moment = 0;; ++moment) {
      const Victim victim;
      if (!must_help) victim.Set(IdSlotOffset(3), 0);
      test::Child child([&] {
        const auto writer = IdAllocatorSharedWriter::Map(OnePage(), victim.memfd(), 9).value();
        const Ambush ambush([&](uint64_t load) {
          if (load == moment) ::raise(SIGKILL);
        });
        uint32_t id = 0;
        (void)writer.Allocate(BytesOf(std::string("dying")), &id);
      });
      const bool killed = child.Join() != 0;
      // Before anybody knows of the death.
      uint32_t id = 0;
      ASSERT_EQ(victim.writer().Allocate(BytesOf(std::string("living")), &id),
                AllocateOutcome::kAllocated);
      const uint32_t first = must_help ? 4 : 3;
      ASSERT_TRUE(id == first || id == first + 1);
      std::vector<std::byte> copy;
      if (id == first) {
        seen["nothing"] += 1;
        ASSERT_EQ(victim.broker().TombstoneOwner(9).value(), 0u);
      } else if (victim.reader().GetCopy(first, 100, &copy) == BlobOutcome::kBlob) {
        seen["committed"] += 1;
        ASSERT_EQ(TextOf(copy), "dying");
        ASSERT_EQ(victim.broker().TombstoneOwner(9).value(), 0u);
      } else {
        seen["tombstone"] += 1;
        ASSERT_EQ(victim.reader().GetCopy(first, 100, &copy), BlobOutcome::kUncommitted);
        ASSERT_EQ(victim.broker().TombstoneOwner(9).value(), 1u);
        ASSERT_EQ(victim.reader().GetCopy(first, 100, &copy), BlobOutcome::kTombstone);
      }
      ASSERT_EQ(victim.reader().GetCopy(id, 100, &copy), BlobOutcome::kBlob);
      ASSERT_EQ(TextOf(copy), "living");
      if (!killed) break;
    }
  }
  EXPECT_GE(seen["nothing"], 6);
  EXPECT_EQ(seen["tombstone"], 4)
      << "before the swing and before the commit, with help and without";
  EXPECT_EQ(seen["committed"], 2);
}

TEST(IdAllocatorHostile, AClaimantThatIsHelpedAtAnyMomentGetsItsId) {
  for (uint64_t moment = 0; moment < 8; ++moment) {
    const Victim victim;
    uint32_t other = 0;
    const Ambush ambush([&](uint64_t load) {
      if (load != moment) return;
      ASSERT_EQ(victim.broker().Allocate(BytesOf(std::string("other")), &other),
                AllocateOutcome::kAllocated);
    });
    uint32_t id = 0;
    ASSERT_EQ(victim.writer().Allocate(BytesOf(std::string("mine")), &id),
              AllocateOutcome::kAllocated);
    before_shared_load = nullptr;
    ASSERT_GT(other, 0u);
    ASSERT_NE(other, id);
    std::vector<std::byte> copy;
    ASSERT_EQ(victim.reader().GetCopy(id, 100, &copy), BlobOutcome::kBlob);
    ASSERT_EQ(TextOf(copy), "mine");
    ASSERT_EQ(victim.reader().GetCopy(other, 100, &copy), BlobOutcome::kBlob);
    ASSERT_EQ(TextOf(copy), "other");
  }
}

TEST(IdAllocatorHostile, AnOwnerDeclaredDeadTooEarlyIsTold) {
  const Victim victim;
  victim.Set(IdSlotOffset(3), 0);
  uint32_t id = 77;
  // Loads: header, slot, claim, swing; the fifth is the commit.
  const Ambush ambush([&](uint64_t load) {
    if (load == 4) {
      EXPECT_EQ(victim.broker().TombstoneOwner(kLive).value(), 1u);
    }
  });
  EXPECT_EQ(victim.writer().Allocate(BytesOf(std::string("x")), &id),
            AllocateOutcome::kNonEmptyIndex);
  EXPECT_EQ(id, 77u);
}

// ---- By chance --------------------------------------------------------------------------------

// Changes random words to random values until told to stop, with pauses in which things go well.
class Scribbler {
 public:
  explicit Scribbler(const Victim& victim)
      : thread_([this, &victim] {
          std::mt19937_64 random(42);
          const uint64_t healthy = victim.Get(0);
          while (!stop_.load(std::memory_order_relaxed)) {
            const uint64_t offset = random() % 2 == 0 ? 0 : 8 * (random() % (PageBytes() / 8));
            const std::vector<uint64_t> values = InterestingValues(victim.Get(offset));
            victim.Set(offset, random() % 4 == 0 ? random() : values[random() % values.size()]);
            // Healed as often as hurt: otherwise the first strike at the header decides it all.
            if (random() % 2 == 0) victim.Set(0, healthy);
            strikes_.fetch_add(1, std::memory_order_relaxed);
            if (random() % 16 == 0) std::this_thread::yield();
          }
        }) {}
  ~Scribbler() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }
  uint64_t strikes() const { return strikes_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> strikes_ = 0;
  std::thread thread_;
};

TEST(IdAllocatorHostile, SurvivesAScribblingPeer) {
  const int64_t deadline_ns = MonotonicNs() + 40'000'000'000;
  Tally tally;
  // Until every branch was met often enough; the deadline is a failure.
  const auto met = [&tally] {
    return tally.allocations[AllocateOutcome::kAllocated] >= 200 &&
           tally.allocations[AllocateOutcome::kInvalidHeader] >= 200 &&
           tally.allocations[AllocateOutcome::kNonEmptyIndex] >= 200 &&
           tally.gets[BlobOutcome::kBlob] >= 200 && tally.gets[BlobOutcome::kInvalidIndex] >= 2 &&
           tally.finds[FindOutcome::kFound] >= 20;
  };
  while (!met()) {
    ASSERT_LT(MonotonicNs(), deadline_ns)
        << "allocated " << tally.allocations[AllocateOutcome::kAllocated] << ", bad header "
        << tally.allocations[AllocateOutcome::kInvalidHeader] << ", bad slot "
        << tally.allocations[AllocateOutcome::kNonEmptyIndex] << ", blobs "
        << tally.gets[BlobOutcome::kBlob] << ", bad index "
        << tally.gets[BlobOutcome::kInvalidIndex] << ", found " << tally.finds[FindOutcome::kFound];
    const Victim victim;
    const Scribbler scribbler(victim);
    while (scribbler.strikes() == 0) std::this_thread::yield();
    for (int play = 0; play < 20; ++play) {
      victim.Play(&tally);
      ASSERT_FALSE(HasFailure());
    }
  }
}

}  // namespace
}  // namespace iob::shm
