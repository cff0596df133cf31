// The broadcast ring, writer and followers in one process: what is seen, what is lost, and that
// both are counted exactly at every step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_layout.h"
#include "shm/broadcast_writer.h"
#include "tests/support/shm_broadcast.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::AppendNext;
using test::Broadcast;
using test::BytesOf;
using test::CheckingFollower;
using test::PatternText;
using test::StatusIs;
using test::TextOf;
using From = BroadcastFollower::From;

struct Seen {
  FollowOutcome outcome;
  uint64_t number;  // Sequence of a record, count of a loss.
  std::string payload;

  friend bool operator==(const Seen&, const Seen&) = default;
};

Seen Record(uint64_t sequence, std::string payload) {
  return {FollowOutcome::kRecord, sequence, std::move(payload)};
}
Seen Lost(uint64_t records) { return {FollowOutcome::kLost, records, ""}; }

// Everything up to kEmpty, or up to what Next does not get past.
std::vector<Seen> ReadAll(BroadcastFollower& follower, uint64_t buffer_bytes = 1 << 20) {
  std::vector<std::byte> buffer(buffer_bytes);
  std::vector<Seen> all;
  while (true) {
    Followed followed;
    const FollowOutcome outcome = follower.Next(buffer, &followed);
    if (outcome == FollowOutcome::kRecord) {
      const auto payload = std::span(buffer).first(followed.payload_bytes);
      all.push_back(Record(followed.sequence, TextOf(payload)));
    } else if (outcome == FollowOutcome::kLost) {
      all.push_back(Lost(followed.lost_records));
    } else {
      if (outcome != FollowOutcome::kEmpty) all.push_back({outcome, followed.payload_bytes, ""});
      return all;
    }
  }
}

void ExpectFiguresAddUp(const BroadcastWriter& writer, uint64_t resident_bytes) {
  const BroadcastFigures figures = writer.figures();
  EXPECT_EQ(figures.stored_records, writer.next_sequence());
  EXPECT_LE(figures.overwritten_records, figures.stored_records);
  EXPECT_EQ(figures.stored_bytes, figures.overwritten_bytes + resident_bytes);
  EXPECT_EQ(figures.restarts, 0u);
}

TEST(BroadcastLayout, RefusesSizesThatMakeNoRing) {
  EXPECT_THAT(BroadcastLayout::ForRegion(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(BroadcastLayout::ForRegion(PageBytes()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(BroadcastLayout::ForRegion(2 * PageBytes() + 8),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(BroadcastLayout::ForRegion((uint64_t{2} << 30) + PageBytes()),
              StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(BroadcastLayout::ForRegion(2 * PageBytes())->capacity_bytes(), PageBytes());
}

TEST(Broadcast, RefusesSectionsOfAnotherSize) {
  const Broadcast ring(PageBytes());
  const Broadcast other(2 * PageBytes());
  EXPECT_THAT(BroadcastWriter::Map(ring.layout, other.data, ring.wait),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(BroadcastFollower::Map(ring.layout, ring.data, other.data, From::kOldest),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST(Broadcast, RoundTripsEveryPayloadSizeByteForByteAtEveryOffset) {
  const Broadcast ring(8 * PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  std::vector<size_t> sizes(1200);
  std::iota(sizes.begin(), sizes.end(), 0);
  sizes.push_back(ring.layout.payload_bytes_max());
  for (const size_t size : sizes) {
    const uint64_t sequence = writer.next_sequence();
    const std::string payload = PatternText(size, size);
    ASSERT_TRUE(writer.Append(7, BytesOf(payload)));
    writer.Publish();
    ASSERT_EQ(ReadAll(follower), std::vector<Seen>{Record(sequence, payload)}) << size;
  }
}

TEST(Broadcast, RefusesARecordThatCouldNeverFit) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  ASSERT_TRUE(writer.Append(1, BytesOf("kept")));
  EXPECT_FALSE(writer.Append(2, BytesOf(std::string(ring.layout.payload_bytes_max() + 1, 'x'))));
  EXPECT_EQ(writer.Reserve(ring.layout.payload_bytes_max() + 1).data(), nullptr);
  writer.Publish();
  BroadcastFollower follower = ring.Follower();
  EXPECT_EQ(ReadAll(follower), std::vector<Seen>{Record(0, "kept")});
  ExpectFiguresAddUp(writer, 4);
}

TEST(Broadcast, ShowsNothingBeforePublish) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  writer.Append(1, BytesOf("a"));
  writer.Append(2, BytesOf("b"));
  EXPECT_FALSE(follower.HasRecords());
  EXPECT_THAT(ReadAll(follower), ::testing::IsEmpty());
  writer.Publish();
  EXPECT_TRUE(follower.HasRecords());
  EXPECT_THAT(ReadAll(follower), ::testing::ElementsAre(Record(0, "a"), Record(1, "b")));
}

TEST(Broadcast, WritesReservedRecordsInPlaceAndPadsThemWithZeros) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  // The second lap finds the bytes of the first.
  for (int record = 0; record < 200; ++record) {
    const std::span<std::byte> reserved = writer.Reserve(64);
    ASSERT_EQ(reserved.size(), 64u);
    std::memset(reserved.data(), 0xff, 64);
    writer.Submit(3, 64);
  }
  const std::span<std::byte> given_up = writer.Reserve(100);
  std::memset(given_up.data(), 0xee, 100);
  const std::span<std::byte> reserved = writer.Reserve(64);
  std::memcpy(reserved.data(), "short", 5);
  writer.Submit(9, 5);
  writer.Publish();
  BroadcastFollower follower = ring.Follower();
  const std::vector<Seen> all = ReadAll(follower);
  EXPECT_EQ(all.back(), Record(200, "short"));
  const ReadOnlyMapping raw = ReadOnlyMapping::Map(ring.data).value();
  const uint64_t head = raw.Word<uint64_t>(kBroadcastHead).LoadAcquire().ForHintOnly();
  std::array<std::byte, 8> last;
  raw.CopyOut(PageBytes() + (head - 8) % ring.layout.capacity_bytes(), last);
  EXPECT_EQ(TextOf(last), std::string("short\0\0\0", 8));
}

TEST(Broadcast, CountsWhatASlowFollowerLoses) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  const uint64_t fitting = PageBytes() / BroadcastRecordBytes(8);
  for (uint64_t i = 0; i < fitting + 5; ++i) writer.Append(i, BytesOf(PatternText(i, 8)));
  writer.Publish();
  const std::vector<Seen> all = ReadAll(follower);
  ASSERT_EQ(all.size(), fitting + 1);
  EXPECT_EQ(all[0], Lost(5));
  EXPECT_EQ(all[1], Record(5, PatternText(5, 8)));
  EXPECT_EQ(follower.lost_records(), 5u);
  EXPECT_EQ(follower.received_records(), fitting);
  EXPECT_EQ(writer.figures().overwritten_records, 5u);
  ExpectFiguresAddUp(writer, 8 * fitting);
}

TEST(Broadcast, TellsTheLossOfARingThatWasEmptiedForARecordNotYetPublished) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  for (int i = 0; i < 3; ++i) writer.Append(1, BytesOf("a"));
  writer.Publish();
  writer.Append(2, BytesOf(std::string(ring.layout.payload_bytes_max(), 'x')));
  EXPECT_TRUE(follower.HasRecords());
  EXPECT_THAT(ReadAll(follower), ::testing::ElementsAre(Lost(3)));
  EXPECT_FALSE(follower.HasRecords());
  writer.Publish();
  EXPECT_EQ(ReadAll(follower).size(), 1u);
}

TEST(Broadcast, PublishesBeforeItOverwritesWhatWasNeverPublished) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(AppendNext(writer, 100));
    ASSERT_TRUE(follower.HasRecords() || i < 200);
    ASSERT_TRUE(follower.status().ok()) << follower.status();
  }
  writer.Publish();
  ReadAll(follower);
  EXPECT_EQ(follower.next_sequence(), 1000u);
}

TEST(Broadcast, AFollowerFromTheNewestSeesOnlyWhatComesLater) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  for (int i = 0; i < 10; ++i) writer.Append(1, BytesOf("old"));
  writer.Publish();
  BroadcastFollower newest = ring.Follower(From::kNewest);
  BroadcastFollower oldest = ring.Follower(From::kOldest);
  writer.Append(1, BytesOf("new"));
  writer.Publish();
  EXPECT_THAT(ReadAll(newest), ::testing::ElementsAre(Record(10, "new")));
  EXPECT_EQ(newest.first_sequence(), 10u);
  EXPECT_EQ(ReadAll(oldest).size(), 11u);
}

TEST(Broadcast, ALateFollowerHasLostNothing) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  for (int i = 0; i < 5000; ++i) AppendNext(writer, 50);
  writer.Publish();
  BroadcastFollower follower = ring.Follower();
  EXPECT_EQ(follower.first_sequence(), writer.figures().overwritten_records);
  const std::vector<Seen> all = ReadAll(follower);
  EXPECT_EQ(all.size(), 5000 - follower.first_sequence());
  EXPECT_EQ(follower.lost_records(), 0u);
}

TEST(Broadcast, ARecordLongerThanTheBufferStaysTheNextOne) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower follower = ring.Follower();
  writer.Append(1, BytesOf("twelve bytes"));
  writer.Publish();
  EXPECT_THAT(ReadAll(follower, 11),
              ::testing::ElementsAre(Seen{FollowOutcome::kTooSmall, 12, ""}));
  EXPECT_THAT(ReadAll(follower, 12), ::testing::ElementsAre(Record(0, "twelve bytes")));
}

TEST(Broadcast, AsksTheWriterForAPacketAndOnlyOnce) {
  const Broadcast ring(PageBytes());
  BroadcastWriter writer = ring.Writer();
  BroadcastFollower first = ring.Follower();
  BroadcastFollower second = ring.Follower();
  EXPECT_TRUE(first.PrepareToWait(kWaitingOnSocket));
  EXPECT_TRUE(second.PrepareToWait(kWaitingOnFutex));  // Does not undo the other's request.
  writer.Append(1, BytesOf("a"));
  EXPECT_TRUE(writer.Publish());
  writer.Append(1, BytesOf("b"));
  EXPECT_FALSE(writer.Publish());
  EXPECT_FALSE(first.PrepareToWait(kWaitingOnSocket));
}

// ---- Against a model --------------------------------------------------------------------------

// What the ring must hold: lengths in ring bytes, oldest first.
struct Model {
  uint64_t capacity;
  uint64_t first = 0;  // Sequence of the oldest.
  std::deque<uint64_t> lengths;
  uint64_t used = 0;

  void Append(uint64_t record_bytes) {
    while (used + record_bytes > capacity) {
      used -= lengths.front();
      lengths.pop_front();
      ++first;
    }
    lengths.push_back(record_bytes);
    used += record_bytes;
  }
};

class BroadcastModel : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Seeds, BroadcastModel, ::testing::Range<uint64_t>(0, 12));

TEST_P(BroadcastModel, EveryFollowerReceivesOrLosesEachRecordExactlyAsTheModelSays) {
  std::mt19937_64 random(GetParam());
  const uint64_t pages = 1 + GetParam() % 3;
  const uint64_t longest = GetParam() % 2 == 0 ? 200 : pages * PageBytes() - 24;
  const Broadcast ring(pages * PageBytes());
  BroadcastWriter writer = ring.Writer();
  Model model{.capacity = ring.layout.capacity_bytes(), .first = 0, .lengths = {}, .used = 0};
  std::vector<CheckingFollower> followers;
  for (int i = 0; i < 3; ++i) followers.emplace_back(ring.Follower(), longest, longest);
  std::vector<uint64_t> expected_lost(followers.size());
  for (int step = 0; step < 4000 && !HasFailure(); ++step) {
    const uint64_t dice = random() % 100;
    if (dice < 60) {
      const uint64_t length = test::PayloadOf(writer.next_sequence(), longest).size();
      model.Append(BroadcastRecordBytes(length));
      ASSERT_TRUE(AppendNext(writer, longest));
      writer.Publish();
    } else if (dice < 97) {
      // The slowest reads least.
      const size_t which = std::min(random() % 3, random() % 3);
      CheckingFollower& follower = followers[which];
      const uint64_t next = follower.ring().next_sequence();
      const FollowOutcome outcome = follower.Next();
      if (next < model.first) {
        ASSERT_EQ(outcome, FollowOutcome::kLost);
        expected_lost[which] += model.first - next;
      } else if (next < model.first + model.lengths.size()) {
        ASSERT_EQ(outcome, FollowOutcome::kRecord);
      } else {
        ASSERT_EQ(outcome, FollowOutcome::kEmpty);
      }
      ASSERT_EQ(follower.lost(), expected_lost[which]);
    } else {
      // A successor, as if the writer had ended here.
      BroadcastWriter successor = ring.Writer();
      ASSERT_EQ(successor.figures().stored_bytes, writer.figures().stored_bytes);
      ASSERT_EQ(successor.figures().overwritten_bytes, writer.figures().overwritten_bytes);
      writer = std::move(successor);
    }
    ASSERT_EQ(writer.figures().overwritten_records, model.first);
    ASSERT_EQ(writer.next_sequence(), model.first + model.lengths.size());
    ASSERT_EQ(writer.figures().restarts, 0u);
  }
  uint64_t lost = 0;
  for (CheckingFollower& follower : followers) {
    follower.Drain();
    EXPECT_EQ(follower.received() + follower.lost(), writer.next_sequence());
    lost += follower.lost();
  }
  EXPECT_GT(lost, 0u) << "nobody was ever overtaken";
}

}  // namespace
}  // namespace iob::shm
