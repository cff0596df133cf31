// The mediated ring, writer and reader in one process: what is stored, what is refused, what comes
// out again, and that the figures are exact at every step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::CountingWriter;
using test::IsOk;
using test::MakeReader;
using test::PatternText;
using test::RogueConsumer;
using test::StatusIs;
using test::TextOf;

struct Record {
  uint64_t tag = 0;
  std::string payload;

  friend bool operator==(const Record&, const Record&) = default;
};

// Everything that is readable now, released.
std::vector<Record> ReadAll(MediatedRingReader& reader) {
  std::vector<Record> records;
  RecordView view;
  while (reader.Next(&view) == ReadOutcome::kRecord) {
    records.push_back({.tag = view.tag, .payload = TextOf(view.payload)});
  }
  reader.Release();
  return records;
}

// Moves an empty ring on to `offset` (a multiple of 8) of its next lap.
void AdvanceTo(CountingWriter& writer, MediatedRingReader& reader, uint64_t offset) {
  const uint64_t capacity = writer.ring().layout().capacity_bytes();
  const uint64_t distance = capacity + offset;  // More than one header, so it is possible.
  uint64_t left = distance;
  while (left != 0) {
    const uint64_t record_bytes = left > 64 ? 32 : left;
    ASSERT_EQ(writer.Append(0, std::string(record_bytes - kRecordHeaderBytes, '\xff')),
              AppendOutcome::kStored);
    left -= record_bytes;
    writer.Publish();
    ReadAll(reader);
  }
}

TEST(MediatedRing, RoundTripsEveryPayloadSizeByteForByte) {
  CountingWriter writer(32 * PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  std::vector<size_t> sizes(600);
  std::iota(sizes.begin(), sizes.end(), 0);
  for (const size_t size :
       {4079u, 4080u, 4081u, 4095u, 4096u, 4097u, 65512u, 65513u, 65518u, 65519u})
    sizes.push_back(size);
  for (const size_t size : sizes) {
    const Record record{.tag = size + 1, .payload = PatternText(size, size)};
    ASSERT_EQ(writer.Append(record.tag, record.payload), AppendOutcome::kStored) << size;
    writer.Publish();
    ASSERT_EQ(ReadAll(reader), std::vector<Record>{record}) << size;
    writer.ExpectAddsUp();
  }
}

TEST(MediatedRing, RefusesAPayloadBeyondTheLimit) {
  CountingWriter writer(32 * PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  EXPECT_EQ(writer.Append(1, std::string(65520, 'x')), AppendOutcome::kTooLarge);
  writer.Publish();
  EXPECT_THAT(ReadAll(reader), ::testing::IsEmpty());
  EXPECT_EQ(writer.ring().Occupancy().resident_bytes, 0u);
  writer.ExpectAddsUp();
}

TEST(MediatedRing, RefusesARecordThatCouldNeverFitWithoutLookingAtTheTail) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  rogue.SetTail(1);
  EXPECT_EQ(writer.Append(1, std::string(PageBytes() - 15, 'x')), AppendOutcome::kTooLarge);
  rogue.SetTail(0);
  EXPECT_EQ(writer.ring().Occupancy().tail_violations, 0u);
}

TEST(MediatedRing, CanBeFilledToTheLastByte) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  for (int lap = 0; lap < 3; ++lap) {
    const std::string payload = PatternText(7, PageBytes() - kRecordHeaderBytes);
    ASSERT_EQ(writer.Append(1, payload), AppendOutcome::kStored);
    EXPECT_EQ(writer.Append(2, ""), AppendOutcome::kFull);
    EXPECT_EQ(writer.ring().Occupancy().resident_bytes, PageBytes());
    EXPECT_EQ(writer.ring().Occupancy().high_water_bytes, PageBytes());
    writer.Publish();
    writer.ExpectAddsUp();
    EXPECT_THAT(ReadAll(reader), ::testing::ElementsAre(Record{1, payload}));
  }
}

TEST(MediatedRing, CanBeFilledWithTheSmallestRecords) {
  CountingWriter writer(2 * PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  const uint64_t fitting = 2 * PageBytes() / kRecordHeaderBytes;
  for (uint64_t i = 0; i < fitting; ++i) ASSERT_EQ(writer.Append(i, ""), AppendOutcome::kStored);
  EXPECT_EQ(writer.Append(fitting, ""), AppendOutcome::kFull);
  writer.Publish();
  EXPECT_EQ(ReadAll(reader).size(), fitting);
}

TEST(MediatedRing, ShowsNothingBeforePublish) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  ASSERT_EQ(writer.Append(1, "a"), AppendOutcome::kStored);
  ASSERT_EQ(writer.Append(2, "b"), AppendOutcome::kStored);
  EXPECT_FALSE(reader.HasRecords());
  EXPECT_THAT(ReadAll(reader), ::testing::IsEmpty());
  writer.Publish();
  EXPECT_TRUE(reader.HasRecords());
  EXPECT_THAT(ReadAll(reader), ::testing::ElementsAre(Record{1, "a"}, Record{2, "b"}));
}

TEST(MediatedRing, KeepsWhatIsReadUntilItIsReleased) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  const std::string payload = PatternText(3, PageBytes() - kRecordHeaderBytes);
  ASSERT_EQ(writer.Append(1, payload), AppendOutcome::kStored);
  writer.Publish();
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_EQ(writer.Append(2, ""), AppendOutcome::kFull);
  EXPECT_EQ(TextOf(view.payload), payload);
  reader.Release();
  EXPECT_EQ(writer.Append(2, ""), AppendOutcome::kStored);
}

class MediatedRingSizes : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Pages, MediatedRingSizes, ::testing::Values(1, 2, 3, 5, 16));

TEST_P(MediatedRingSizes, WrapsAtEveryOffset) {
  const uint64_t capacity = static_cast<uint64_t>(GetParam()) * PageBytes();
  CountingWriter writer(capacity);
  MediatedRingReader reader = MakeReader(writer.ring());
  const uint64_t first = std::max<uint64_t>(capacity - 256, 8);
  for (uint64_t offset = first; offset < capacity; offset += 8) {
    AdvanceTo(writer, reader,
              (offset + capacity - RogueConsumer(writer.ring()).head() % capacity) % capacity);
    ASSERT_EQ(RogueConsumer(writer.ring()).head() % capacity, offset);
    // The payload is split at every place, and so are tag and length.
    const Record record{.tag = offset, .payload = PatternText(offset, 201)};
    ASSERT_EQ(writer.Append(record.tag, record.payload), AppendOutcome::kStored);
    writer.Publish();
    ASSERT_EQ(ReadAll(reader), std::vector<Record>{record}) << "at offset " << offset;
  }
}

TEST_P(MediatedRingSizes, PadsWithZerosOverWhateverWasThere) {
  const uint64_t capacity = static_cast<uint64_t>(GetParam()) * PageBytes();
  CountingWriter writer(capacity);
  MediatedRingReader reader = MakeReader(writer.ring());
  for (uint64_t lap = 0; lap < 20; ++lap) {
    for (size_t size = 0; size < 64; ++size) {
      ASSERT_EQ(writer.Append(UINT64_MAX, std::string(size, '\xff')), AppendOutcome::kStored);
      writer.Publish();
      RecordView view;
      ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
      ASSERT_EQ(view.payload.size(), size);
      const std::byte* const end = view.payload.data() + size;
      const size_t padding = RecordBytes(size) - kRecordHeaderBytes - size;
      ASSERT_TRUE(std::all_of(end, end + padding, [](std::byte b) { return b == std::byte{0}; }))
          << size << " bytes";
      reader.Release();
    }
    // The next lap starts elsewhere.
    ASSERT_EQ(writer.Append(0, std::string(lap * 8, '\xff')), AppendOutcome::kStored);
    writer.Publish();
    ReadAll(reader);
  }
}

TEST_P(MediatedRingSizes, DeliversInOrderWhatItStoredAndCountsTheRest) {
  const uint64_t capacity = static_cast<uint64_t>(GetParam()) * PageBytes();
  std::mt19937_64 random(static_cast<uint64_t>(GetParam()));
  CountingWriter writer(capacity);
  MediatedRingReader reader = MakeReader(writer.ring());
  std::deque<Record> expected;
  uint64_t published = 0;
  uint64_t consumed = 0;
  uint64_t full = 0;
  for (uint64_t step = 0; step < 20000; ++step) {
    const uint64_t choice = random() % 10;
    if (choice < 6) {
      const size_t size = random() % (choice < 5 ? 120 : std::min<uint64_t>(capacity, 66000));
      Record record{.tag = step, .payload = PatternText(step, size)};
      const AppendOutcome outcome = writer.Append(record.tag, record.payload);
      if (outcome == AppendOutcome::kStored) expected.push_back(std::move(record));
      full += outcome == AppendOutcome::kFull ? 1 : 0;
    } else if (choice < 8) {
      writer.Publish();
      published = expected.size();
    } else {
      for (const Record& record : ReadAll(reader)) {
        ASSERT_EQ(record, expected.front());
        expected.pop_front();
        ++consumed;
        --published;
      }
      ASSERT_EQ(published, 0u);
    }
    writer.ExpectAddsUp();
    ASSERT_EQ(writer.ring().Occupancy().consumed_records, consumed);
    ASSERT_EQ(writer.ring().Occupancy().resident_records, expected.size());
  }
  EXPECT_GT(full, 0u);
  EXPECT_GT(RogueConsumer(writer.ring()).head() / capacity, 10u);
}

TEST_P(MediatedRingSizes, CountsConsumedRecordsExactlyForAnyLegalTail) {
  const uint64_t capacity = static_cast<uint64_t>(GetParam()) * PageBytes();
  std::mt19937_64 random(static_cast<uint64_t>(GetParam()));
  CountingWriter writer(capacity);
  RogueConsumer rogue(writer.ring());
  std::vector<uint64_t> ends;
  uint64_t head = 0;
  uint64_t tail = 0;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 3 != 0) {
      const size_t size = random() % (random() % 8 == 0 ? capacity : 100);
      if (writer.Append(1, std::string(std::min<size_t>(size, 65519), 'x')) ==
          AppendOutcome::kStored) {
        head += RecordBytes(std::min<size_t>(size, 65519));
        ends.push_back(head);
      }
    } else {
      tail += random() % ((head - tail) / 8 + 1) * 8;
      rogue.SetTail(tail);
    }
    const auto consumed = std::upper_bound(ends.begin(), ends.end(), tail) - ends.begin();
    const RingOccupancy occupancy = writer.ring().Occupancy();
    ASSERT_EQ(occupancy.consumed_records, static_cast<uint64_t>(consumed));
    ASSERT_EQ(occupancy.resident_records, ends.size() - occupancy.consumed_records);
    ASSERT_EQ(occupancy.resident_bytes, head - tail);
    ASSERT_EQ(occupancy.tail_violations, 0u);
    writer.ExpectAddsUp();
  }
}

TEST(MediatedRing, RefusesATailThatCannotBeAndGoesOnWithTheLastGoodOne) {
  const uint64_t capacity = PageBytes();
  CountingWriter writer(capacity);
  RogueConsumer rogue(writer.ring());
  const std::string half(capacity / 2 - kRecordHeaderBytes, 'x');
  ASSERT_EQ(writer.Append(1, half), AppendOutcome::kStored);
  ASSERT_EQ(writer.Append(1, half), AppendOutcome::kStored);
  rogue.SetTail(capacity / 2);
  ASSERT_TRUE(writer.ring().RefreshTail());
  ASSERT_EQ(writer.Append(1, half), AppendOutcome::kStored);
  const uint64_t head = capacity + capacity / 2;
  uint64_t violations = 0;
  for (const uint64_t bad :
       {head + 8, uint64_t{0}, capacity / 2 - 8, capacity / 2 + 1, capacity / 2 + 4, head - 1,
        head + capacity, uint64_t{1} << 31, uint64_t{1} << 63, UINT64_MAX - 7, UINT64_MAX}) {
    rogue.SetTail(bad);
    EXPECT_EQ(writer.Append(2, "y"), AppendOutcome::kIntegrity) << "tail " << bad;
    EXPECT_FALSE(writer.ring().RefreshTail());
    violations += 2;
    const RingOccupancy occupancy = writer.ring().Occupancy();
    violations += 1;
    EXPECT_EQ(occupancy.tail_violations, violations);
    EXPECT_EQ(occupancy.consumed_records, 1u);
    EXPECT_EQ(occupancy.resident_bytes, capacity);
    writer.ExpectAddsUp();
    violations += 1;
  }
  // A consumer that mends its tail is served again.
  rogue.SetTail(head);
  EXPECT_EQ(writer.Append(3, "z"), AppendOutcome::kStored);
  EXPECT_EQ(writer.ring().Occupancy().consumed_records, 3u);
  EXPECT_EQ(writer.ledger().rejected_records[static_cast<size_t>(LossCause::kIntegrity)], 11u);
  writer.ExpectAddsUp();
}

TEST(MediatedRing, DoesNotLookAtTheTailWhileThereIsRoom) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  rogue.SetTail(UINT64_MAX);
  for (uint64_t i = 0; i < PageBytes() / 32; ++i) {
    ASSERT_EQ(writer.Append(i, "0123456789abcdef"), AppendOutcome::kStored);
  }
  EXPECT_EQ(writer.Append(0, ""), AppendOutcome::kIntegrity);
}

TEST(MediatedRing, MendsAHeadThatTheConsumerScribbledOver) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  ASSERT_EQ(writer.Append(1, "a"), AppendOutcome::kStored);
  rogue.SetHead(12345);
  writer.Publish();
  EXPECT_EQ(rogue.head(), 24u);
}

TEST(MediatedRing, MirrorsTheLedgerForTheReader) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  ASSERT_EQ(writer.Append(1, std::string(100, 'x')), AppendOutcome::kStored);
  ASSERT_EQ(writer.Append(1, std::string(65520, 'x')), AppendOutcome::kTooLarge);
  ASSERT_EQ(writer.Append(1, std::string(PageBytes() - 16, 'x')), AppendOutcome::kFull);
  writer.Publish();
  EXPECT_EQ(reader.ledger().stored_records, 1u);
  EXPECT_EQ(reader.ledger().stored_bytes, 100u);
  EXPECT_EQ(reader.ledger().rejected_records, 2u);
  EXPECT_EQ(reader.ledger().rejected_bytes, 65520u + PageBytes() - 16);
}

TEST(MediatedRing, TellsTheReaderToSpeakOnlyWhenEnoughRoomWasMade) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  const uint64_t quarter = PageBytes() / 4;
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(writer.Append(1, std::string(quarter - 16, 'x')), AppendOutcome::kStored);
  }
  writer.Publish();
  RecordView view;
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_FALSE(reader.Release()) << "nobody waits";
  writer.ring().WantRoom(3 * quarter);
  EXPECT_TRUE(writer.ring().RefreshTail());
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_FALSE(reader.Release()) << "half of the ring is not three quarters";
  EXPECT_FALSE(reader.Release()) << "nothing was released";
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_TRUE(reader.Release());
  writer.ring().WantRoom(0);
  EXPECT_EQ(writer.Append(2, std::string(3 * quarter - 16, 'x')), AppendOutcome::kStored);
  ASSERT_EQ(reader.Next(&view), ReadOutcome::kRecord);
  EXPECT_FALSE(reader.Release()) << "nobody waits any more";
}

TEST(MediatedRing, WakesAWaiterOnceItSaysHow) {
  CountingWriter writer(PageBytes());
  MediatedRingReader reader = MakeReader(writer.ring());
  RogueConsumer rogue(writer.ring());
  EXPECT_TRUE(reader.PrepareToWait(kWaitingOnSocket));
  EXPECT_EQ(rogue.waiting(), kWaitingOnSocket);
  EXPECT_EQ(reader.HeadWord().expected, 0u);
  ASSERT_EQ(writer.Append(1, "a"), AppendOutcome::kStored);
  EXPECT_TRUE(writer.Publish()) << "the consumer waits on its socket";
  EXPECT_FALSE(reader.PrepareToWait(kWaitingOnFutex)) << "a record is there";
  EXPECT_FALSE(writer.Publish()) << "a futex waiter needs no packet";
  reader.ClearWaiting();
  EXPECT_EQ(rogue.waiting(), 0u);
  EXPECT_FALSE(writer.Publish());
}

TEST(MediatedRing, LetsANewConsumerResumeWhereTheLastOneReleased) {
  CountingWriter writer(PageBytes());
  {
    MediatedRingReader first = MakeReader(writer.ring());
    writer.Append(1, "a");
    writer.Append(2, "b");
    writer.Append(3, "c");
    writer.Publish();
    RecordView view;
    ASSERT_EQ(first.Next(&view), ReadOutcome::kRecord);
    first.Release();
    ASSERT_EQ(first.Next(&view), ReadOutcome::kRecord);  // In hand, and not released: again below.
  }
  MediatedRingReader second = MakeReader(writer.ring());
  EXPECT_THAT(ReadAll(second), ::testing::ElementsAre(Record{2, "b"}, Record{3, "c"}));
}

TEST(MediatedRing, LetsANewConsumerResumeAtTheAcceptedTailWhenTheSharedOneIsSpoilt) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  writer.Append(1, "a");
  writer.Append(2, "b");
  rogue.SetTail(24);
  EXPECT_EQ(writer.ring().Occupancy().consumed_records, 1u);
  writer.Publish();
  for (const uint64_t bad : {uint64_t{3}, uint64_t{56}, UINT64_MAX}) {
    rogue.SetTail(bad);
    MediatedRingReader second = MakeReader(writer.ring());
    EXPECT_EQ(rogue.tail(), 24u) << "the new consumer mends the shared tail";
    RecordView view;
    ASSERT_EQ(second.Next(&view), ReadOutcome::kRecord);
    EXPECT_EQ(view.tag, 2u);
  }
}

// "My new consumer was handed records that the broker had already counted as consumed."
TEST(MediatedRing, ResumesAtATailThatWasAcceptedAfterTheLastPublish) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  writer.Append(1, "a");
  writer.Append(2, "b");
  writer.Publish();
  rogue.SetTail(24);
  EXPECT_EQ(writer.ring().Occupancy().consumed_records, 1u);
  rogue.SetTail(UINT64_MAX);
  MediatedRingReader second = MakeReader(writer.ring());
  EXPECT_THAT(ReadAll(second), ::testing::ElementsAre(Record{2, "b"}));
}

TEST(MediatedRing, IsNotMappedWhenNeitherTailNorHeadCanBe) {
  CountingWriter writer(PageBytes());
  RogueConsumer rogue(writer.ring());
  const auto map = [&writer] {
    return MediatedRingReader::Map(writer.ring().layout(), writer.ring().head_memfd(),
                                   writer.ring().data_memfd());
  };
  rogue.SetHead(12);
  EXPECT_THAT(map(), StatusIs(absl::StatusCode::kDataLoss, "head is not 8-aligned"));
  rogue.SetHead(1 << 20);
  EXPECT_THAT(map(), StatusIs(absl::StatusCode::kDataLoss, "no tail"));
}

TEST(MediatedRing, IsNotMappedFromSectionsOfAnotherSize) {
  CountingWriter writer(PageBytes());
  const auto other = RingLayout::ForRegion(3 * PageBytes()).value();
  EXPECT_THAT(
      MediatedRingReader::Map(other, writer.ring().head_memfd(), writer.ring().data_memfd()),
      StatusIs(absl::StatusCode::kFailedPrecondition, "do not make a region"));
}

TEST(MediatedRing, PoisonsTheReaderForGoodWhenTheHeadCannotBe) {
  for (const uint64_t bad : {uint64_t{0}, uint64_t{25}, 24 + PageBytes() + 8, UINT64_MAX - 7}) {
    CountingWriter writer(PageBytes());
    RogueConsumer rogue(writer.ring());
    MediatedRingReader reader = MakeReader(writer.ring());
    writer.Append(1, "a");
    writer.Publish();
    ASSERT_EQ(ReadAll(reader).size(), 1u);
    EXPECT_THAT(reader.status(), IsOk());
    rogue.SetHead(bad);
    RecordView view;
    EXPECT_EQ(reader.Next(&view), ReadOutcome::kPoisoned) << bad;
    EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kDataLoss));
    // Mending the head does not mend the reader.
    writer.Append(2, "b");
    writer.Publish();
    EXPECT_EQ(reader.Next(&view), ReadOutcome::kPoisoned);
    EXPECT_FALSE(reader.HasRecords());
    EXPECT_FALSE(reader.PrepareToWait(kWaitingOnFutex));
    EXPECT_THAT(reader.status(), StatusIs(absl::StatusCode::kDataLoss));
  }
}

// A ring whose DATA section this test can write, so that records can be what no broker would write.
struct ForgedRing {
  explicit ForgedRing(uint64_t capacity)
      : layout(RingLayout::ForRegion(capacity + PageBytes()).value()),
        head_memfd(test::MakeMemfd(layout.head_section_bytes())),
        data_memfd(test::MakeMemfd(layout.data_section_bytes())),
        head(Mapping::Map(head_memfd).value()),
        data(Mapping::Map(data_memfd).value()),
        reader(MediatedRingReader::Map(layout, head_memfd, data_memfd).value()) {}

  void PutRecord(uint64_t offset, uint64_t tag, uint64_t length) {
    data.Word<uint64_t>(offset).StoreRelaxed(tag);
    data.Word<uint64_t>(offset + 8).StoreRelaxed(length);
  }
  void SetHead(uint64_t value) { head.Word<uint64_t>(kHeadOffset).StoreRelease(value); }

  RingLayout layout;
  SealedMemfd head_memfd;
  SealedMemfd data_memfd;
  Mapping head;
  Mapping data;
  MediatedRingReader reader;
};

TEST(MediatedRing, PoisonsTheReaderWhenARecordDoesNotFitBelowTheHead) {
  for (const uint64_t bad : {uint64_t{33}, uint64_t{4096}, uint64_t{65519}, uint64_t{65520},
                             UINT64_MAX - 15, UINT64_MAX}) {
    ForgedRing ring(PageBytes());
    ring.PutRecord(0, 1, 8);
    ring.PutRecord(24, 2, bad);
    ring.SetHead(24 + 48);
    RecordView view;
    ASSERT_EQ(ring.reader.Next(&view), ReadOutcome::kRecord);
    EXPECT_EQ(ring.reader.Next(&view), ReadOutcome::kPoisoned) << bad;
    EXPECT_THAT(ring.reader.status(), StatusIs(absl::StatusCode::kDataLoss));
  }
}

// "The library said DATA_LOSS, and then handed me a record all the same."
TEST(MediatedRing, StaysPoisonedWhenTheRecordIsMended) {
  ForgedRing ring(PageBytes());
  ring.PutRecord(0, 1, 4096);
  ring.SetHead(24);
  RecordView view;
  ASSERT_EQ(ring.reader.Next(&view), ReadOutcome::kPoisoned);
  ring.PutRecord(0, 1, 8);
  EXPECT_EQ(ring.reader.Next(&view), ReadOutcome::kPoisoned);
  EXPECT_FALSE(ring.reader.HasRecords());
  EXPECT_FALSE(ring.reader.PrepareToWait(kWaitingOnFutex));
  EXPECT_THAT(ring.reader.status(), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(MediatedRing, LetsNobodyElseWriteItsRecords) {
  CountingWriter writer(PageBytes());
  EXPECT_THAT(Mapping::Map(writer.ring().data_memfd()), StatusIs(absl::StatusCode::kInternal));
  EXPECT_THAT(Mapping::Map(writer.ring().head_memfd()), IsOk());
}

TEST(MediatedRing, ReadsAsOneRegionWithZirconsOffsets) {
  CountingWriter writer(PageBytes());
  const MediatedRingWriter& ring = writer.ring();
  writer.Append(0x1122334455667788, "zircon");
  writer.Publish();
  const std::array<Part, 2> parts = {
      Part{.memfd = &ring.head_memfd(), .size_bytes = PageBytes()},
      Part{.memfd = &ring.data_memfd(), .size_bytes = ring.layout().capacity_bytes()}};
  ASSERT_OK_AND_ASSIGN(const AddressRange region, AddressRange::MapParts(parts, OnFork::kShare));
  ASSERT_EQ(region.size_bytes(), ring.layout().region_bytes());
  const auto word = [&region](uint64_t offset) {
    uint64_t value = 0;
    std::memcpy(&value, region.base() + offset, sizeof(value));
    return value;
  };
  EXPECT_EQ(word(0), 24u);
  EXPECT_EQ(word(8), 0u);
  EXPECT_EQ(word(PageBytes()), 0x1122334455667788u);
  EXPECT_EQ(word(PageBytes() + 8), 6u);
  EXPECT_EQ(TextOf({region.base() + PageBytes() + 16, 8}), std::string("zircon\0\0", 8));
}

}  // namespace
}  // namespace iob::shm
