// A mediated ring whose peer changes words at the worst moments.
//
// The exhaustive part plays a fixed script of calls and puts one value into one word just before
// the k-th shared load, for every k, word and value. Whatever happens, each call must give a value
// or DATA_LOSS, touch nothing outside the ring (guard pages and AddressSanitizer watch), end, and
// leave the ledger's identities true. The scribbling part does the same by chance and at full
// speed.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::At;
using test::Target;

std::vector<uint64_t> InterestingValues(uint64_t capacity, uint64_t current) {
  return {0,
          1,
          7,
          8,
          16,
          capacity - 8,
          capacity,
          capacity + 8,
          65519,
          65520,
          uint64_t{1} << 31,
          (uint64_t{1} << 32) - 8,
          uint64_t{1} << 63,
          UINT64_MAX - 15,
          UINT64_MAX - 7,
          UINT64_MAX,
          current - 8,
          current + 8};
}

struct Tally {
  uint64_t cases = 0;
  uint64_t untouched = 0;  // Everything as if nobody had interfered.
  uint64_t refused = 0;    // DATA_LOSS, or a violation counted.
};

// ---- The reader -------------------------------------------------------------------------------

// A ring with HEAD and DATA both in the hands of the peer, filled with three records that wrap.
class ReaderVictim {
 public:
  ReaderVictim()
      : layout_(RingLayout::ForRegion(2 * PageBytes()).value()),
        head_memfd_(test::MakeMemfd(layout_.head_section_bytes())),
        data_memfd_(test::MakeMemfd(layout_.data_section_bytes())),
        head_(Mapping::Map(head_memfd_).value()),
        data_(Mapping::Map(data_memfd_).value()) {
    const uint64_t capacity = layout_.capacity_bytes();
    start_ = 7 * capacity - 64;
    uint64_t position = start_;
    for (const uint64_t payload_bytes : {uint64_t{40}, uint64_t{100}, uint64_t{0}}) {
      lengths_.push_back(
          {"length", &data_, (position + sizeof(uint64_t)) % capacity, sizeof(uint64_t)});
      lengths_.back().Set(payload_bytes);
      position += RecordBytes(payload_bytes);
    }
    end_ = position;
    head_.Word<uint64_t>(kTailOffset).StoreRelaxed(start_);
    head_.Word<uint64_t>(kHeadOffset).StoreRelease(end_);
    data_.Word<uint64_t>(capacity + kLedgerTailAccepted).StoreRelaxed(start_);
  }

  std::vector<Target> Targets() const {
    const uint64_t ledger_page = layout_.capacity_bytes();
    std::vector<Target> targets = {{"head", &head_, kHeadOffset, 8},
                                   {"tail", &head_, kTailOffset, 8},
                                   {"waiting", &head_, kWaitingOffset, 4},
                                   {"want_room", &data_, ledger_page + kLedgerWantRoom, 4},
                                   {"tail_accepted", &data_, ledger_page + kLedgerTailAccepted, 8}};
    targets.insert(targets.end(), lengths_.begin(), lengths_.end());
    return targets;
  }

  uint64_t capacity() const { return layout_.capacity_bytes(); }

  // A consumer's life. True when it read the three records and nothing else.
  bool Play(bool* ret_refused) {
    absl::StatusOr<MediatedRingReader> reader =
        MediatedRingReader::Map(layout_, head_memfd_, data_memfd_);
    if (!reader.ok()) {
      EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss) << reader.status();
      *ret_refused = true;
      return false;
    }
    std::vector<uint64_t> sizes;
    bool poisoned = false;
    for (int round = 0; round < 4; ++round) {
      RecordView view;
      ReadOutcome outcome = ReadOutcome::kEmpty;
      // A ring holds no more than this many records; a reader that goes on has no bound.
      uint64_t steps = capacity() / kRecordHeaderBytes + 2;
      while ((outcome = reader->Next(&view)) == ReadOutcome::kRecord) {
        if (--steps == 0) {
          ADD_FAILURE() << "the reader walks on and on";
          return false;
        }
        EXPECT_FALSE(poisoned) << "a record after DATA_LOSS";
        EXPECT_LE(view.payload.size(), kRecordPayloadBytesMax);
        EXPECT_LE(RecordBytes(view.payload.size()), capacity());
        uint64_t sum = 0;
        for (const std::byte byte : view.payload) sum += static_cast<uint64_t>(byte);
        checksum_ += sum;
        sizes.push_back(view.payload.size());
        if (round == 0) break;
      }
      EXPECT_EQ(outcome == ReadOutcome::kPoisoned, !reader->status().ok());
      EXPECT_TRUE(!poisoned || outcome == ReadOutcome::kPoisoned) << "poison is for good";
      poisoned = outcome == ReadOutcome::kPoisoned;
      reader->Release();
      (void)reader->ledger();
      (void)reader->PrepareToWait(kWaitingOnFutex);
      (void)reader->HasRecords();
      (void)reader->HeadWord();
      reader->ClearWaiting();
    }
    *ret_refused = poisoned;
    return !poisoned && sizes == std::vector<uint64_t>{40, 100, 0};
  }

 private:
  RingLayout layout_;
  SealedMemfd head_memfd_;
  SealedMemfd data_memfd_;
  Mapping head_;
  Mapping data_;
  std::vector<Target> lengths_;
  uint64_t start_ = 0;
  uint64_t end_ = 0;
  uint64_t checksum_ = 0;
};

TEST(MediatedRingHostile, ReaderSurvivesEveryWordChangedAtEveryMoment) {
  uint64_t loads = 0;
  {
    ReaderVictim victim;
    const Ambush nobody(test::Nobody);
    bool refused = false;
    ASSERT_TRUE(victim.Play(&refused));
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 10u);
  Tally tally;
  const size_t targets = ReaderVictim().Targets().size();
  for (size_t which = 0; which < targets; ++which) {
    const size_t values = InterestingValues(0, 0).size();
    for (size_t value = 0; value < values; ++value) {
      // A change may lengthen the script; loads beyond the honest count are met by later cases.
      for (uint64_t moment = 0; moment < loads + 4; ++moment) {
        ReaderVictim victim;
        const Target target = victim.Targets()[which];
        const Ambush ambush(At(moment, [&] {
          target.Set(InterestingValues(victim.capacity(), target.Get())[value]);
        }));
        bool refused = false;
        const bool untouched = victim.Play(&refused);
        ++tally.cases;
        tally.untouched += untouched ? 1 : 0;
        tally.refused += refused ? 1 : 0;
        if (HasFailure()) {
          FAIL() << target.name << ", value " << value << ", before load " << moment;
        }
      }
    }
  }
  // Both ways out were taken, or this has tested nothing.
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 20);
}

// ---- The writer -------------------------------------------------------------------------------

class WriterVictim {
 public:
  WriterVictim() : writer_(PageBytes()), head_(Mapping::Map(writer_.ring().head_memfd()).value()) {}

  std::vector<Target> Targets() const {
    return {{"head", &head_, kHeadOffset, 8},
            {"tail", &head_, kTailOffset, 8},
            {"waiting", &head_, kWaitingOffset, 4}};
  }
  uint64_t capacity() const { return PageBytes(); }

  // A writer's life with an honest consumer, until the ambush. True when nothing was refused.
  bool Play() {
    const std::string payload(500, 'x');
    uint64_t stored = 0;
    for (int step = 0; step < 24; ++step) {
      switch (step % 6) {
        case 4:
          writer_.Publish();
          break;
        case 5: {
          // The consumer releases all but the newest record, in one honest store.
          const uint64_t tail = stored == 0 ? 0 : (stored - 1) * RecordBytes(payload.size());
          head_.Word<uint64_t>(kTailOffset).StoreRelease(tail);
          writer_.ring().WantRoom(step % 12 == 5 ? 600 : 0);
          break;
        }
        default:
          stored += writer_.Append(7, payload) == AppendOutcome::kStored ? 1 : 0;
      }
      writer_.ExpectAddsUp();
      EXPECT_EQ(writer_.ledger().stored_records, stored);
    }
    // The ambush is over; nothing may be left of it.
    before_shared_load = nullptr;
    writer_.Publish();
    // What the peer scribbled over is mended: the shared head is a copy of the private one.
    EXPECT_EQ(head_.Word<uint64_t>(kHeadOffset).LoadRelaxed().ForHintOnly(),
              stored * RecordBytes(payload.size()));
    return writer_.ring().Occupancy().tail_violations == 0;
  }

 private:
  test::CountingWriter writer_;
  Mapping head_;
};

TEST(MediatedRingHostile, WriterSurvivesEveryWordChangedAtEveryMoment) {
  uint64_t loads = 0;
  {
    WriterVictim victim;
    const Ambush nobody(test::Nobody);
    ASSERT_TRUE(victim.Play());
    loads = nobody.accesses();
  }
  ASSERT_GT(loads, 20u);
  Tally tally;
  for (size_t which = 0; which < WriterVictim().Targets().size(); ++which) {
    for (size_t value = 0; value < InterestingValues(0, 0).size(); ++value) {
      for (uint64_t moment = 0; moment < loads; ++moment) {
        WriterVictim victim;
        const Target target = victim.Targets()[which];
        const Ambush ambush(At(moment, [&] {
          target.Set(InterestingValues(victim.capacity(), target.Get())[value]);
        }));
        const bool untouched = victim.Play();
        ++tally.cases;
        tally.untouched += untouched ? 1 : 0;
        tally.refused += untouched ? 0 : 1;
        if (HasFailure()) {
          FAIL() << target.name << ", value " << value << ", before load " << moment;
        }
      }
    }
  }
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 20);
}

// ---- By chance --------------------------------------------------------------------------------

// Changes random words to random values until told to stop. Now and then it plays fair for a while,
// so that the good branch is met as well.
class Scribbler {
 public:
  Scribbler(std::vector<Target> targets, uint64_t capacity)
      : thread_([this, targets = std::move(targets), capacity] {
          std::mt19937_64 random(42);
          while (!stop_.load(std::memory_order_relaxed)) {
            const Target& target = targets[random() % targets.size()];
            const std::vector<uint64_t> values = InterestingValues(capacity, target.Get());
            target.Set(random() % 4 == 0 ? random() : values[random() % values.size()]);
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

constexpr int64_t kPatienceNs = 20'000'000'000;

TEST(MediatedRingHostile, WriterSurvivesAScribblingConsumer) {
  test::CountingWriter writer(PageBytes());
  const Mapping head = Mapping::Map(writer.ring().head_memfd()).value();
  const std::vector<Target> targets = {{"head", &head, kHeadOffset, 8},
                                       {"tail", &head, kTailOffset, 8},
                                       {"waiting", &head, kWaitingOffset, 4}};
  const Scribbler scribbler(targets, PageBytes());
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  uint64_t moved = 0;
  // Until both branches were met often enough; the deadline is a failure.
  for (uint64_t step = 0; moved < 100 || writer.ring().Occupancy().tail_violations < 1000; ++step) {
    ASSERT_LT(MonotonicNs(), deadline_ns) << moved << " good tails";
    writer.Append(step, std::string(step % 100, 'x'));
    if (step % 3 == 0) writer.Publish();
    // A tail that can be, between the others: the private head's copy, as published.
    if (step % 5 == 0) {
      const RingOccupancy before = writer.ring().Occupancy();
      targets[1].Set(targets[0].Get());
      moved += writer.ring().Occupancy().consumed_records > before.consumed_records ? 1 : 0;
    }
    writer.ExpectAddsUp();
    ASSERT_FALSE(HasFailure()) << "step " << step;
  }
  EXPECT_GT(scribbler.strikes(), 0u);
}

TEST(MediatedRingHostile, ReaderSurvivesAScribblingWriter) {
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  uint64_t good = 0;
  uint64_t refused = 0;
  for (uint64_t round = 0; good < 200 || refused < 200; ++round) {
    ASSERT_LT(MonotonicNs(), deadline_ns) << good << " good, " << refused << " refused";
    ReaderVictim victim;
    std::vector<Target> targets = victim.Targets();
    // Every other peer spares head and lengths, without which no play would go well.
    if (round % 2 == 0) targets = {targets[1], targets[2], targets[3]};
    const Scribbler scribbler(std::move(targets), victim.capacity());
    while (scribbler.strikes() == 0) std::this_thread::yield();
    for (int play = 0; play < 20; ++play) {
      bool was_refused = false;
      victim.Play(&was_refused);
      good += was_refused ? 0 : 1;
      refused += was_refused ? 1 : 0;
    }
    ASSERT_FALSE(HasFailure());
  }
}

}  // namespace
}  // namespace iob::shm
