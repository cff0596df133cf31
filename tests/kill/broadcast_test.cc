// A broadcast ring and a slot whose writer is killed at every instruction: followers and readers
// get whole records and values only, nothing goes back, every loss is told, and a successor's
// figures are exact. One who sleeps is woken by the successor for what the dead one left.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_writer.h"
#include "shm/ring_layout.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/kill/kill_test.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/shm_ring.h"

namespace iob::shm {
namespace {

using ::iob::test::Broadcast;
using ::iob::test::BytesOf;
using ::iob::test::CheckingFollower;
using ::iob::test::KillTable;
using ::iob::test::PayloadOf;
using ::iob::test::Slot;
using ::iob::test::StepRun;
using ::iob::test::TagOf;

// ---- Broadcast ----------------------------------------------------------------------------------

constexpr uint64_t kPayloadBytesMax = 500;
// Enough that every further record overwrites some.
constexpr uint64_t kFirstRecords = 40;

uint64_t PayloadBytesBelow(uint64_t sequence) {
  uint64_t bytes = 0;
  for (uint64_t i = 0; i < sequence; ++i) bytes += PayloadOf(i, kPayloadBytesMax).size();
  return bytes;
}

// The words of the ring's first page.
struct Words {
  uint64_t head = 0;
  uint64_t next_sequence = 0;
  uint64_t stored_bytes = 0;
  uint64_t oldest = 0;
  uint64_t overwritten_records = 0;
  uint64_t overwritten_bytes = 0;
};

Words WordsOf(const Broadcast& ring) {
  const Mapping data = Mapping::Map(ring.data).value();
  const auto word = [&data](uint64_t offset) {
    return data.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
  };
  return {.head = word(kBroadcastHead),
          .next_sequence = word(kBroadcastNextSequence),
          .stored_bytes = word(kBroadcastStoredBytes),
          .oldest = word(kBroadcastOldest),
          .overwritten_records = word(kBroadcastOverwrittenRecords),
          .overwritten_bytes = word(kBroadcastOverwrittenBytes)};
}

const char* RemainsOf(const Words& before, const Words& now) {
  const uint64_t stored = before.next_sequence + (now.head != before.head ? 1 : 0);
  if (now.head != before.head) {
    const bool counted =
        now.next_sequence == stored && now.stored_bytes == PayloadBytesBelow(stored);
    return counted ? "published" : "published, not counted";
  }
  if (now.oldest == before.oldest) return "nothing";
  // A dead writer's counters may be behind, of records first and of bytes next.
  const bool counted = now.overwritten_records != before.overwritten_records &&
                       now.overwritten_bytes == PayloadBytesBelow(now.overwritten_records);
  return counted ? "room made" : "room made, not counted";
}

// Sleeps for what comes after the first records, until two of them are there.
void FollowTwo(const Broadcast& ring, test::Turn& asleep_soon) {
  CheckingFollower follower(ring.Follower(BroadcastFollower::From::kNewest), kPayloadBytesMax,
                            kPayloadBytesMax);
  const uint64_t end = follower.ring().next_sequence() + 2;
  bool told = false;
  while (!::testing::Test::HasFailure()) {
    follower.Drain();
    if (follower.ring().next_sequence() >= end) return;
    const bool sleeps = follower.ring().PrepareToWait(kWaitingOnFutex);
    if (!told) asleep_soon.Give();
    told = true;
    if (sleeps) test::SleepOn(follower.ring().HeadWord());
  }
}

using BroadcastKill = test::KillTest;

TEST_F(BroadcastKill, ARecordIsThereAsAWholeOrNot) {
  KillTable table("broadcast: append, publish", {"nothing", "room made, not counted", "room made",
                                                 "published, not counted", "published"});
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    Broadcast ring(PageBytes());
    std::optional<BroadcastWriter> first(ring.Writer());
    CheckingFollower behind(ring.Follower(), kPayloadBytesMax, kPayloadBytesMax);
    for (uint64_t i = 0; i < kFirstRecords; ++i) {
      ASSERT_TRUE(test::AppendNext(*first, kPayloadBytesMax));
      first->Publish();
      if (i < 2) behind.Drain();
    }
    first.reset();
    const Words before = WordsOf(ring);
    ASSERT_EQ(before.next_sequence, kFirstRecords);
    test::Turn asleep_soon;
    test::Child sleeper([&] { FollowTwo(ring, asleep_soon); });
    ASSERT_TRUE(asleep_soon.Take());
    const std::string payload = PayloadOf(kFirstRecords, kPayloadBytesMax);
    *ret_run = test::KillAfter(instructions, [&] {
      BroadcastWriter victim = ring.Writer();
      test::Operate([&] {
        if (!victim.Append(TagOf(kFirstRecords), BytesOf(payload))) return false;
        victim.Publish();
        return true;
      });
    });
    const Words now = WordsOf(ring);
    table.Count(RemainsOf(before, now));
    const uint64_t stored = kFirstRecords + (now.head != before.head ? 1 : 0);
    // While there is no writer.
    CheckingFollower between(ring.Follower(), kPayloadBytesMax, kPayloadBytesMax);
    between.Drain();
    behind.Drain();
    EXPECT_GT(behind.lost(), 0u);
    BroadcastWriter successor = ring.Writer();
    EXPECT_EQ(successor.next_sequence(), stored);
    const BroadcastFigures figures = successor.figures();
    EXPECT_EQ(figures.restarts, 0u);
    EXPECT_EQ(figures.stored_records, stored);
    EXPECT_EQ(figures.stored_bytes, PayloadBytesBelow(stored));
    EXPECT_EQ(figures.overwritten_records, stored - between.received()) << "what is left is there";
    EXPECT_EQ(figures.overwritten_bytes, PayloadBytesBelow(figures.overwritten_records));
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(test::AppendNext(successor, kPayloadBytesMax));
      successor.Publish();
    }
    ASSERT_EQ(sleeper.Join(), 0);
    behind.Drain();
    between.Drain();
    EXPECT_EQ(behind.received() + behind.lost(), stored + 2);
    EXPECT_EQ(between.lost(), 0u);
    EXPECT_EQ(between.ring().next_sequence(), stored + 2);
  });
}

// ---- Slot ---------------------------------------------------------------------------------------

constexpr uint64_t kValueBytesMax = 200;
constexpr uint64_t kFirstVersions = 6;

std::string ValueOf(uint64_t version) {
  return test::PatternText(version, version * 37 % (kValueBytesMax + 1));
}

// Reads values of one slot; none may be torn, and none may go back.
class CheckingReader {
 public:
  explicit CheckingReader(SlotReader reader) : reader_(std::move(reader)) {}

  SlotReader& slot() { return reader_; }
  uint64_t version() const { return version_; }

  void Read() {
    std::vector<std::byte> buffer(kValueBytesMax);
    SlotValue value;
    ASSERT_EQ(reader_.Read(buffer, &value), SlotOutcome::kValue) << reader_.status();
    EXPECT_GE(value.version, version_) << "went back";
    EXPECT_EQ(test::TextOf(std::span(buffer).first(value.value_bytes)), ValueOf(value.version))
        << "torn, at version " << value.version;
    version_ = value.version;
  }

 private:
  SlotReader reader_;
  uint64_t version_ = 0;
};

// Sleeps for newer versions, until there are two.
void AwaitTwo(const Slot& slot, test::Turn& asleep_soon) {
  CheckingReader reader(slot.Reader());
  reader.Read();
  const uint64_t end = reader.version() + 2;
  bool told = false;
  while (!::testing::Test::HasFailure() && reader.version() < end) {
    const bool sleeps = reader.slot().PrepareToWait(kWaitingOnFutex);
    if (!told) asleep_soon.Give();
    told = true;
    if (sleeps) test::SleepOn(reader.slot().WaitWord());
    reader.Read();
  }
}

const char* RemainsOf(const Slot& slot) {
  constexpr uint64_t kNext = kFirstVersions + 1;
  const Mapping section = Mapping::Map(slot.slot).value();
  const auto word = [&section](uint64_t offset) {
    return section.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
  };
  if (word(kSlotLatest) == kNext) return "the latest";
  const uint64_t cell_version = word(slot.layout.CellOffset(kNext) + kSlotCellVersion);
  if (cell_version == kNext) return "complete";
  return cell_version == 0 ? "being written" : "nothing";
}

using SlotKill = test::KillTest;

TEST_F(SlotKill, AValueIsTheLatestAsAWholeOrNot) {
  KillTable table("slot: write", {"nothing", "being written", "complete", "the latest"});
  Sweep({&table}, [&](uint64_t instructions, StepRun* ret_run) {
    Slot slot(kValueBytesMax);
    std::optional<SlotWriter> first(slot.Writer());
    for (uint64_t version = 1; version <= kFirstVersions; ++version)
      ASSERT_TRUE(first->Write(BytesOf(ValueOf(version))).stored);
    first.reset();
    CheckingReader reader(slot.Reader());
    reader.Read();
    test::Turn asleep_soon;
    test::Child sleeper([&] { AwaitTwo(slot, asleep_soon); });
    ASSERT_TRUE(asleep_soon.Take());
    const std::string value = ValueOf(kFirstVersions + 1);
    *ret_run = test::KillAfter(instructions, [&] {
      SlotWriter victim = slot.Writer();
      test::Operate([&] { return victim.Write(BytesOf(value)).stored; });
    });
    const std::string remains = RemainsOf(slot);
    table.Count(remains);
    const uint64_t latest = kFirstVersions + (remains == "the latest" ? 1 : 0);
    // While there is no writer.
    reader.Read();
    EXPECT_EQ(reader.version(), latest);
    SlotWriter successor = slot.Writer();
    EXPECT_EQ(successor.version(), latest);
    // Once round all cells.
    for (uint64_t i = 1; i <= kSlotCells + 1; ++i) {
      ASSERT_TRUE(successor.Write(BytesOf(ValueOf(latest + i))).stored);
      reader.Read();
      EXPECT_EQ(reader.version(), latest + i);
    }
    ASSERT_EQ(sleeper.Join(), 0);
  });
}

}  // namespace
}  // namespace iob::shm
