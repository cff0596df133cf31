// A slot whose other side changes words at the worst moments, or is killed there.
//
// One value goes into one word just before the k-th shared load, for every k, word and value; the
// writer comes round before each load of a reader; a writer is killed before each of its stores.
// Nothing may be torn, go back, touch memory outside the slot, or go on for ever.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "shm/mapping.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::At;
using test::BytesOf;
using test::PatternText;
using test::Slot;
using test::TextOf;

constexpr uint64_t kLongest = 100;

std::string ValueOf(uint64_t version) {
  return PatternText(version, version * 31 % (kLongest + 1));
}

void WriteNext(SlotWriter& writer) { writer.Write(BytesOf(ValueOf(writer.version() + 1))); }

// Reads, and checks what can be checked of a value that nobody forged.
SlotOutcome ReadWhole(SlotReader& reader, uint64_t* version) {
  std::vector<std::byte> buffer(kLongest);
  SlotValue value;
  const SlotOutcome outcome = reader.Read(buffer, &value);
  if (outcome == SlotOutcome::kValue) {
    EXPECT_GE(value.version, *version) << "went back";
    EXPECT_EQ(TextOf(std::span(buffer).first(value.value_bytes)), ValueOf(value.version)) << "torn";
    *version = value.version;
  }
  return outcome;
}

TEST(SlotHostile, ReaderSurvivesEveryWordChangedAtEveryMoment) {
  const std::vector<uint64_t> values = {0,
                                        1,
                                        2,
                                        5,
                                        6,
                                        7,
                                        kLongest,
                                        kLongest + 1,
                                        uint64_t{1} << 32,
                                        kSlotVersionMax,
                                        kSlotVersionMax + 1,
                                        UINT64_MAX};
  uint64_t cases = 0;
  uint64_t values_read = 0;
  uint64_t busy = 0;
  uint64_t poisoned = 0;
  for (uint64_t word = 0; word < 9; ++word) {
    for (const uint64_t value : values) {
      for (uint64_t moment = 0; moment < 24; ++moment) {
        const Slot slot(kLongest);
        SlotWriter writer = slot.Writer();
        for (int i = 0; i < 5; ++i) WriteNext(writer);
        const Mapping evil = Mapping::Map(slot.slot).value();
        const uint64_t offset =
            word == 0 ? kSlotLatest : slot.layout.CellOffset((word - 1) / 2) + (word - 1) % 2 * 8;
        SlotReader reader = slot.Reader();
        const Ambush ambush(At(moment, [&] { evil.Word<uint64_t>(offset).StoreRelease(value); }));
        uint64_t version = 0;
        bool was_poisoned = false;
        for (int call = 0; call < 5; ++call) {
          std::vector<std::byte> buffer(kLongest);
          SlotValue read;
          const SlotOutcome outcome = reader.Read(buffer, &read);
          ++cases;
          values_read += outcome == SlotOutcome::kValue ? 1 : 0;
          busy += outcome == SlotOutcome::kBusy ? 1 : 0;
          poisoned += outcome == SlotOutcome::kPoisoned ? 1 : 0;
          ASSERT_TRUE(!was_poisoned || outcome == SlotOutcome::kPoisoned) << "poison is for good";
          was_poisoned = outcome == SlotOutcome::kPoisoned;
          ASSERT_EQ(was_poisoned, !reader.status().ok());
          if (outcome == SlotOutcome::kValue) {
            ASSERT_LE(read.value_bytes, kLongest);
            ASSERT_GE(read.version, version) << "went back";
            version = read.version;
          }
          (void)reader.PrepareToWait(kWaitingOnFutex);
          (void)reader.WaitWord();
        }
      }
    }
  }
  EXPECT_GT(values_read, cases / 10);
  EXPECT_GT(busy, 0u);
  EXPECT_GT(poisoned, 0u);
}

TEST(SlotHostile, AReaderThatTheWriterComesRoundOnGetsNoTornValueAndNeverAnOlderOne) {
  uint64_t busy = 0;
  for (int writes = 1; writes <= 9; ++writes) {
    for (const uint64_t times : {1u, 3u, 1000u}) {
      for (uint64_t moment = 0; moment < 20; ++moment) {
        const Slot slot(kLongest);
        SlotWriter writer = slot.Writer();
        for (int i = 0; i < 6; ++i) WriteNext(writer);
        SlotReader reader = slot.Reader();
        uint64_t version = 0;
        {
          const Ambush ambush(At(
              moment,
              [&] {
                for (int i = 0; i < writes; ++i) WriteNext(writer);
              },
              times));
          for (int call = 0; call < 6; ++call) {
            const SlotOutcome outcome = ReadWhole(reader, &version);
            busy += outcome == SlotOutcome::kBusy ? 1 : 0;
            ASSERT_TRUE(outcome == SlotOutcome::kValue || outcome == SlotOutcome::kBusy);
          }
        }
        ASSERT_EQ(ReadWhole(reader, &version), SlotOutcome::kValue);
        ASSERT_EQ(version, writer.version());
        ASSERT_FALSE(HasFailure()) << writes << " writes, before load " << moment;
      }
    }
  }
  EXPECT_GT(busy, 0u) << "no reader was ever outrun";
}

TEST(SlotHostile, AReaderStoppedBeforeEachStoreOfAWriteSeesTheOldValueOrTheNew) {
  const Slot slot(kLongest);
  struct Stop {
    SlotReader reader;
    uint64_t version = 0;
    uint64_t looks = 0;
  } stop{.reader = slot.Reader()};
  SlotWriter writer = slot.Writer();
  WriteNext(writer);
  before_shared_store_context = &stop;
  before_shared_store = [](void* context) {
    auto* const at = static_cast<Stop*>(context);
    const auto hook = std::exchange(before_shared_store, nullptr);
    EXPECT_EQ(ReadWhole(at->reader, &at->version), SlotOutcome::kValue);
    at->looks += 1;
    before_shared_store = hook;
  };
  for (int i = 0; i < 20; ++i) {
    WriteNext(writer);
    EXPECT_GE(stop.version + 1, writer.version());
  }
  before_shared_store = nullptr;
  EXPECT_GE(stop.looks, 20u * 5);
}

struct KillAt {
  uint64_t store;
  uint64_t stores = 0;
};

TEST(SlotHostile, AWriterKilledBeforeAnyStoreLeavesAWholeValueAndASuccessorGoesOn) {
  int status = 9;
  uint64_t store = 0;
  for (; status == 9; ++store) {
    ASSERT_LT(store, 200u) << "the script never ends";
    const Slot slot(kLongest);
    SlotReader reader = slot.Reader();
    test::Child child([&slot, store] {
      KillAt kill_at{.store = store};
      before_shared_store_context = &kill_at;
      before_shared_store = [](void* context) {
        auto* const at = static_cast<KillAt*>(context);
        if (at->stores++ == at->store) ::_exit(9);
      };
      SlotWriter writer = slot.Writer();
      for (int i = 0; i < 6; ++i) WriteNext(writer);
      before_shared_store = nullptr;
    });
    status = child.Join();
    uint64_t version = 0;
    const SlotOutcome outcome = ReadWhole(reader, &version);
    ASSERT_EQ(outcome, version == 0 ? SlotOutcome::kNone : SlotOutcome::kValue);
    SlotWriter successor = slot.Writer();
    ASSERT_EQ(successor.version(), version) << "before store " << store;
    const uint64_t end = version + 6;
    for (uint64_t next = version + 1; next < end; ++next) {
      WriteNext(successor);
      ASSERT_EQ(ReadWhole(reader, &version), SlotOutcome::kValue);
      ASSERT_EQ(version, next);
    }
  }
  EXPECT_EQ(status, 0);
  EXPECT_GT(store, 20u);
}

TEST(SlotHostile, AWriterWithoutAPossiblePredecessorIsRefused) {
  const Slot slot(kLongest);
  Mapping::Map(slot.slot).value().Word<uint64_t>(kSlotLatest).StoreRelease(kSlotVersionMax);
  EXPECT_EQ(SlotWriter::Map(slot.layout, slot.slot, slot.wait).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace iob::shm
