// The slot: the latest value, whole, never an older one than before; in one process, in threads,
// and with a writer that is killed over and over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "shm/futex.h"
#include "shm/slot_layout.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::PatternText;
using test::Slot;
using test::StatusIs;
using test::TextOf;

constexpr int64_t kPatienceNs = 20'000'000'000;

// The value of a version: every byte follows from it.
std::string ValueOf(uint64_t version, uint64_t value_bytes_max) {
  return PatternText(version, version * 31 % (value_bytes_max + 1));
}

// Reads once; checks that the value is whole and not older than before.
class CheckingReader {
 public:
  CheckingReader(SlotReader reader, uint64_t value_bytes_max)
      : reader_(std::move(reader)), value_bytes_max_(value_bytes_max), buffer_(value_bytes_max) {}

  SlotReader& slot() { return reader_; }
  uint64_t version() const { return version_; }

  SlotOutcome Read() {
    SlotValue value;
    const SlotOutcome outcome = reader_.Read(buffer_, &value);
    if (outcome == SlotOutcome::kValue) {
      EXPECT_GE(value.version, version_) << "went back";
      EXPECT_EQ(TextOf(std::span(buffer_).first(value.value_bytes)),
                ValueOf(value.version, value_bytes_max_))
          << "torn";
      version_ = value.version;
    }
    EXPECT_NE(outcome, SlotOutcome::kPoisoned) << reader_.status();
    return outcome;
  }

 private:
  SlotReader reader_;
  uint64_t value_bytes_max_;
  std::vector<std::byte> buffer_;
  uint64_t version_ = 0;
};

void WriteNext(SlotWriter& writer) {
  writer.Write(BytesOf(ValueOf(writer.version() + 1, writer.layout().value_bytes_max())));
}

TEST(SlotLayout, HoldsFourCellsOfTheLongestValue) {
  EXPECT_THAT(SlotLayout::ForValue(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SlotLayout::ForValue((64 << 20) + 1), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(SlotLayout::ForRegion(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SlotLayout::ForRegion(PageBytes() + 1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(SlotLayout::ForRegion(uint64_t{1} << 40), StatusIs(absl::StatusCode::kOutOfRange));
  for (const uint64_t value_bytes : {1u, 48u, 49u, 1000u, 4096u, 64u << 20}) {
    const SlotLayout layout = SlotLayout::ForValue(value_bytes).value();
    EXPECT_LE(layout.CellOffset(3) + kSlotCellValue + value_bytes, layout.section_bytes());
    EXPECT_LE(layout.CellOffset(1) + kSlotCellValue + value_bytes, layout.CellOffset(2));
    // A region of that size holds at least such a value.
    const SlotLayout region = SlotLayout::ForRegion(layout.section_bytes()).value();
    EXPECT_GE(region.value_bytes_max(), value_bytes);
    EXPECT_LE(region.CellOffset(3) + kSlotCellValue + region.value_bytes_max(),
              layout.section_bytes());
  }
}

TEST(Slot, HasNoValueBeforeTheFirst) {
  const Slot slot(100);
  CheckingReader reader(slot.Reader(), 100);
  EXPECT_EQ(reader.Read(), SlotOutcome::kNone);
  EXPECT_FALSE(reader.slot().HasNewer());
}

TEST(Slot, GivesTheLatestValueAndGivesItAgain) {
  const Slot slot(100);
  SlotWriter writer = slot.Writer();
  CheckingReader reader(slot.Reader(), 100);
  for (uint64_t version = 1; version < 300; ++version) {
    WriteNext(writer);
    EXPECT_TRUE(reader.slot().HasNewer());
    for (int again = 0; again < 2; ++again) {
      ASSERT_EQ(reader.Read(), SlotOutcome::kValue);
      ASSERT_EQ(reader.version(), version);
    }
    EXPECT_FALSE(reader.slot().HasNewer());
  }
}

TEST(Slot, RefusesWhatDoesNotFit) {
  const Slot slot(10);
  SlotWriter writer = slot.Writer();
  EXPECT_FALSE(writer.Write(BytesOf(std::string(11, 'x'))).stored);
  EXPECT_EQ(writer.version(), 0u);
  EXPECT_TRUE(writer.Write(BytesOf("0123456789")).stored);
  SlotReader reader = slot.Reader();
  std::vector<std::byte> buffer(9);
  SlotValue value;
  EXPECT_EQ(reader.Read(buffer, &value), SlotOutcome::kTooSmall);
  EXPECT_EQ(value.value_bytes, 10u);
  EXPECT_TRUE(reader.HasNewer());
  buffer.resize(10);
  EXPECT_EQ(reader.Read(buffer, &value), SlotOutcome::kValue);
}

TEST(Slot, RefusesSectionsOfAnotherSize) {
  const Slot slot(10);
  const Slot other(10'000);
  EXPECT_THAT(SlotWriter::Map(slot.layout, other.slot, slot.wait),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(SlotReader::Map(slot.layout, other.slot, slot.wait),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(Slot, AsksTheWriterForAPacketAndOnlyOnce) {
  const Slot slot(8);
  SlotWriter writer = slot.Writer();
  SlotReader reader = slot.Reader();
  EXPECT_TRUE(reader.PrepareToWait(kWaitingOnSocket));
  EXPECT_TRUE(writer.Write(BytesOf("a")).notify);
  EXPECT_FALSE(writer.Write(BytesOf("b")).notify);
  EXPECT_FALSE(reader.PrepareToWait(kWaitingOnSocket)) << "a newer value is there";
}

TEST(Slot, ReadersInThreadsSeeWholeValuesAndLeaveTheWriterAlone) {
  constexpr uint64_t kVersions = 20'000;
  const Slot slot(200);
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([reader = CheckingReader(slot.Reader(), 200)]() mutable {
      while (reader.version() < kVersions && !HasFailure()) {
        while (reader.slot().PrepareToWait(kWaitingOnFutex)) {
          const FutexWord latest = reader.slot().WaitWord();
          ASSERT_EQ(FutexWaitAny({&latest, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
              << "left asleep";
        }
        reader.Read();
      }
    });
  }
  SlotWriter writer = slot.Writer();
  for (uint64_t i = 0; i < kVersions; ++i) WriteNext(writer);
  for (std::thread& thread : threads) thread.join();
}

TEST(Slot, ReadersKeepAWholeValueThoughTheWriterIsKilledOverAndOver) {
  constexpr int kKills = 200;
  const Slot slot(6000);
  CheckingReader reader(slot.Reader(), 6000);
  std::mt19937_64 random(3);
  for (int kill = 0; kill < kKills && !HasFailure(); ++kill) {
    const uint64_t enough = reader.version() + 1 + random() % 50;
    test::Child child([&slot] {
      SlotWriter writer = slot.Writer();
      const int64_t end_ns = MonotonicNs() + kPatienceNs;
      while (MonotonicNs() < end_ns) WriteNext(writer);
    });
    const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
    while (reader.version() < enough && !HasFailure()) {
      ASSERT_LT(MonotonicNs(), deadline_ns);
      reader.Read();
    }
    ASSERT_EQ(::kill(child.pid(), SIGKILL), 0);
    ASSERT_EQ(child.Join(), 128 + SIGKILL);
    // The writer is dead, wherever it was: the first attempt must do.
    ASSERT_EQ(reader.Read(), SlotOutcome::kValue);
    ASSERT_EQ(slot.Writer().version(), reader.version());
  }
}

}  // namespace
}  // namespace iob::shm
