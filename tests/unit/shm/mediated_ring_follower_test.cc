// Followers: where they begin, what they lose and how exactly they know, how they sleep; alone, in
// threads against a writer that does not wait for them, and in processes with a follower's rights.
#include "shm/mediated_ring_follower.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::PatternText;
using test::RogueConsumer;
using test::StatusIs;
using test::TextOf;

constexpr int64_t kPatienceNs = 20'000'000'000;

constexpr RingOptions kFollowed{
    .policy = RingPolicy::kDropNew, .gap_records = false, .stamped = false, .followers = true};
constexpr RingOptions kOverwriting{.policy = RingPolicy::kOverwriteOldest,
                                   .gap_records = false,
                                   .stamped = false,
                                   .followers = true};

RingLayout LayoutOf(uint64_t pages) {
  return RingLayout::ForRegion((pages + 1) * PageBytes()).value();
}
MediatedRingWriter MakeRing(const RingOptions& options, uint64_t pages = 1) {
  return MediatedRingWriter::Create(LayoutOf(pages), options).value();
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

void AppendNumbered(MediatedRingWriter& ring, uint64_t first, uint64_t count) {
  for (uint64_t number = first; number < first + count; ++number) {
    ASSERT_EQ(ring.Append(number, BytesOf(PatternText(number, 48))), AppendOutcome::kStored);
  }
}

TEST(MediatedRingFollower, BeginsWithTheOldestWholeRecord) {
  MediatedRingWriter ring = MakeRing(kOverwriting);
  AppendNumbered(ring, 0, 100);  // 64 bytes each: the ring holds 64 of them.
  ring.Publish({});
  MediatedRingFollower follower = MakeFollower(ring);
  EXPECT_EQ(follower.first_record(), 36u);
  RecordView view;
  for (uint64_t number = 36; number < 100; ++number) {
    ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
    EXPECT_EQ(view.tag, number);
    EXPECT_EQ(view.sequence, number) << "a follower counts even where nothing is stamped";
  }
  EXPECT_EQ(follower.Next(&view), RingFollowOutcome::kEmpty);
  EXPECT_EQ(follower.account().received_records, 64u);
  EXPECT_EQ(follower.account().lost_records, 0u);
}

TEST(MediatedRingFollower, ReportsALossOnceAndExactly) {
  MediatedRingWriter ring = MakeRing(kOverwriting);
  MediatedRingFollower follower = MakeFollower(ring);
  AppendNumbered(ring, 0, 10);
  ring.Publish({});
  RecordView view;
  ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
  AppendNumbered(ring, 10, 70);  // 80 stored, 64 whole: 0 to 15 are gone, of which one was read.
  ring.Publish({});
  ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kLost);
  EXPECT_EQ(view.gap, (RecordLoss{.records = 15, .bytes = 15 * 48, .at_record = 1}));
  ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
  EXPECT_EQ(view.tag, 16u);
  EXPECT_EQ(follower.account().lost_records, 15u);
  EXPECT_EQ(follower.account().lost_bytes, 15u * 48);
}

TEST(MediatedRingFollower, LosesInARingThatDropsOnlyWhatTheConsumerReleased) {
  MediatedRingWriter ring = MakeRing(kFollowed);
  MediatedRingReader consumer =
      MediatedRingReader::Map(ring.layout(), ring.head_memfd(), ring.data_memfd(), ring.options())
          .value();
  MediatedRingFollower follower = MakeFollower(ring);
  AppendNumbered(ring, 0, 64);
  EXPECT_EQ(ring.Append(64, BytesOf("no room")), AppendOutcome::kFull);
  ring.Publish({});
  RecordView view;
  for (int i = 0; i < 5; ++i) ASSERT_EQ(consumer.Next(&view), ReadOutcome::kRecord);
  consumer.Release();
  // Released is not gone: the broker has not looked at the tail.
  ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
  EXPECT_EQ(view.tag, 0u);
  AppendNumbered(ring, 64, 1);
  ring.Publish({});
  ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kLost);
  EXPECT_EQ(view.gap.records, 4u);
  for (uint64_t number = 5; number < 65; ++number) {
    ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
    ASSERT_EQ(view.tag, number);
  }
}

// "The consumer scribbled over head, and my monitor died of it."
TEST(MediatedRingFollower, DoesNotBelieveThePageOfTheConsumer) {
  MediatedRingWriter ring = MakeRing(kFollowed);
  MediatedRingFollower follower = MakeFollower(ring);
  RogueConsumer rogue(ring);
  AppendNumbered(ring, 0, 3);
  ring.Publish({});
  RecordView view;
  for (const uint64_t bad : {uint64_t{0}, uint64_t{1}, UINT64_MAX}) {
    rogue.SetHead(bad);
    ASSERT_EQ(follower.Next(&view), RingFollowOutcome::kRecord);
  }
  EXPECT_EQ(follower.Next(&view), RingFollowOutcome::kEmpty);
  EXPECT_THAT(follower.status(), test::IsOk());
}

TEST(MediatedRingFollower, SeesABatchOfMoreThanAWholeRing) {
  MediatedRingWriter ring = MakeRing(kOverwriting);
  MediatedRingFollower follower = MakeFollower(ring);
  AppendNumbered(ring, 0, 1000);
  // Not yet published, but what is gone is gone, and the rest is not ahead of head.
  RecordView view;
  RingFollowOutcome outcome = RingFollowOutcome::kEmpty;
  while ((outcome = follower.Next(&view)) != RingFollowOutcome::kEmpty)
    ASSERT_NE(outcome, RingFollowOutcome::kPoisoned);
  ring.Publish({});
  while (follower.Next(&view) != RingFollowOutcome::kEmpty) {
  }
  EXPECT_EQ(follower.next_record(), 1000u);
  EXPECT_EQ(follower.account().received_records + follower.account().lost_records, 1000u);
}

TEST(MediatedRingFollower, ConsumesAndResumesWhereTheLastOneReleased) {
  MediatedRingWriter ring = MakeRing(kOverwriting);
  AppendNumbered(ring, 0, 10);
  ring.Publish({});
  RecordView view;
  {
    MediatedRingFollower first = MakeConsumer(ring);
    for (int i = 0; i < 4; ++i) ASSERT_EQ(first.Next(&view), RingFollowOutcome::kRecord);
    first.Release();
    // In hand, not released: again below.
    ASSERT_EQ(first.Next(&view), RingFollowOutcome::kRecord);
  }
  EXPECT_EQ(ring.Occupancy().consumed_records, 4u);
  {
    MediatedRingFollower second = MakeConsumer(ring);
    EXPECT_EQ(second.first_record(), 4u);
    ASSERT_EQ(second.Next(&view), RingFollowOutcome::kRecord);
    EXPECT_EQ(view.tag, 4u);
    second.Release();
  }
  EXPECT_EQ(ring.Occupancy().consumed_records, 5u);
  // A spoilt tail sends the next consumer to the last good one, and is mended.
  RogueConsumer(ring).SetTail(UINT64_MAX);
  EXPECT_EQ(MakeConsumer(ring).first_record(), 5u);
  EXPECT_EQ(RogueConsumer(ring).tail(), 5u * 64);
  // A tail that was left behind: the oldest record is the next one.
  AppendNumbered(ring, 10, 100);
  ring.Publish({});
  EXPECT_EQ(MakeConsumer(ring).first_record(), 46u);
  const RingOccupancy now = ring.Occupancy();
  EXPECT_EQ(now.consumed_records, 5u);
  EXPECT_EQ(now.overwritten_records, 41u);
  EXPECT_EQ(now.resident_records, 64u);
}

TEST(MediatedRingFollower, IsNotMappedWhereItWouldNotWork) {
  MediatedRingWriter plain = MakeRing({});
  MediatedRingWriter ring = MakeRing(kFollowed);
  EXPECT_THAT(MediatedRingFollower::Follow(plain.layout(), plain.options(), plain.data_memfd(),
                                           *ring.follow_memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "not made for followers"));
  EXPECT_THAT(MediatedRingFollower::Consume(ring.layout(), ring.options(), ring.head_memfd(),
                                            ring.data_memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "reads it in place"));
  EXPECT_THAT(MediatedRingFollower::Follow(LayoutOf(2), ring.options(), ring.data_memfd(),
                                           *ring.follow_memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "do not make a region"));
}

TEST(MediatedRingFollower, IsWokenByAPublishThatMovesHeadAndOnlyByThat) {
  MediatedRingWriter ring = MakeRing(kFollowed);
  MediatedRingFollower follower = MakeFollower(ring);
  const Mapping page = Mapping::Map(*ring.follow_memfd()).value();
  const auto waiting = [&page] {
    return page.Word<uint32_t>(kFollowWaitingOffset).LoadRelaxed().ForHintOnly();
  };
  ASSERT_TRUE(follower.PrepareToWait(kWaitingOnFutex));
  EXPECT_EQ(waiting(), kWaitingOnFutex);
  ring.Publish({});
  EXPECT_EQ(waiting(), kWaitingOnFutex) << "nothing came, so whoever sleeps goes on sleeping";
  const FutexWord head = follower.HeadWord();
  AppendNumbered(ring, 0, 1);
  ring.Publish({});
  EXPECT_EQ(waiting(), 0u);
  EXPECT_EQ(FutexWaitAny({&head, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
  EXPECT_FALSE(follower.PrepareToWait(kWaitingOnFutex)) << "a record is there";
}

// ---- Threads ----------------------------------------------------------------------------------

std::string NumberedPayload(uint64_t number) { return PatternText(number, number * 37 % 300); }

// Reads until record `total` was passed; everything must be whole, in order and accounted for.
void FollowToTheEnd(MediatedRingFollower& follower, uint64_t total) {
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  RecordView view;
  while (follower.next_record() < total) {
    ASSERT_LT(MonotonicNs(), deadline_ns) << "stuck at record " << follower.next_record();
    const uint64_t expected = follower.next_record();
    const RingFollowOutcome outcome = follower.Next(&view);
    ASSERT_NE(outcome, RingFollowOutcome::kPoisoned) << follower.status();
    if (outcome == RingFollowOutcome::kRecord) {
      ASSERT_EQ(view.tag, expected);
      ASSERT_EQ(TextOf(view.payload), NumberedPayload(expected));
      follower.Release();
    } else if (outcome == RingFollowOutcome::kLost) {
      ASSERT_EQ(view.gap.at_record, expected);
      ASSERT_EQ(view.gap.records, follower.next_record() - expected);
    } else if (follower.PrepareToWait(kWaitingOnFutex)) {
      const FutexWord head = follower.HeadWord();
      ASSERT_EQ(FutexWaitAny({&head, 1}, deadline_ns), FutexOutcome::kLook) << "left asleep";
    }
    follower.ClearWaiting();
  }
  const MediatedRingFollower::Account& account = follower.account();
  EXPECT_EQ(account.received_records + account.lost_records, total - follower.first_record());
  uint64_t bytes = 0;
  for (uint64_t number = follower.first_record(); number < total; ++number)
    bytes += NumberedPayload(number).size();
  EXPECT_EQ(account.received_bytes + account.lost_bytes, bytes);
}

class MediatedRingFollowerThreads : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Stamped, MediatedRingFollowerThreads, ::testing::Bool());

TEST_P(MediatedRingFollowerThreads, LoseExactlyWhatWasOverwritten) {
  RingOptions options = kOverwriting;
  options.stamped = GetParam();
  options.gap_records = GetParam();
  MediatedRingWriter ring = MakeRing(options);
  std::vector<MediatedRingFollower> readers;
  readers.push_back(MakeFollower(ring));
  readers.push_back(MakeFollower(ring));
  readers.push_back(MakeConsumer(ring));
  // Until everybody has both lost and received enough, at an end that is announced.
  constexpr uint64_t kRecords = 60'000;
  std::vector<std::thread> threads;
  for (MediatedRingFollower& reader : readers)
    threads.emplace_back([&reader] { FollowToTheEnd(reader, kRecords); });
  Ledger ledger;
  for (uint64_t number = 0; number < kRecords; ++number) {
    const std::string payload = NumberedPayload(number);
    EXPECT_EQ(ring.Append(number, BytesOf(payload)), AppendOutcome::kStored);
    ledger.CountStored(payload.size());
    if (number % 7 == 0) ring.Publish(ledger);
    if (number % 64 == 0) std::this_thread::yield();
  }
  ring.Publish(ledger);
  for (std::thread& thread : threads) thread.join();
  uint64_t received = 0;
  uint64_t lost = 0;
  for (const MediatedRingFollower& reader : readers) {
    received += reader.account().received_records;
    lost += reader.account().lost_records;
  }
  EXPECT_GT(received, 0u);
  EXPECT_GT(lost, 0u);
  const RingOccupancy now = ring.Occupancy();
  EXPECT_EQ(now.consumed_records + now.overwritten_records, kRecords);
  EXPECT_EQ(now.resident_records, 0u);
  EXPECT_EQ(now.tail_violations, 0u);
  // What the consumer had in hand when it was overwritten may be counted as overwritten.
  EXPECT_LE(now.consumed_records, readers[2].account().received_records);
}

TEST(MediatedRingFollowerThreads, FollowARingThatDropsWithoutHoldingItUp) {
  MediatedRingWriter ring = MakeRing(kFollowed);
  MediatedRingReader reader =
      MediatedRingReader::Map(ring.layout(), ring.head_memfd(), ring.data_memfd(), ring.options())
          .value();
  MediatedRingFollower follower = MakeFollower(ring);
  constexpr uint64_t kRecords = 60'000;
  std::thread following([&follower] { FollowToTheEnd(follower, kRecords); });
  std::atomic<bool> give_up = false;
  std::thread consuming([&reader, &give_up] {
    uint64_t number = 0;
    RecordView view;
    while (number < kRecords && !give_up) {
      while (reader.Next(&view) == ReadOutcome::kRecord) {
        EXPECT_EQ(view.tag, number);
        ++number;
      }
      reader.Release();
      std::this_thread::yield();
    }
  });
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  for (uint64_t number = 0; number < kRecords && !give_up;) {
    if (ring.Append(number, BytesOf(NumberedPayload(number))) == AppendOutcome::kStored) {
      ++number;
      if (number % 5 == 0) ring.Publish({});
    } else {
      ring.Publish({});
      std::this_thread::yield();
      give_up = MonotonicNs() > deadline_ns;
    }
  }
  EXPECT_FALSE(give_up);
  ring.Publish({});
  following.join();
  consuming.join();
  EXPECT_EQ(ring.Occupancy().consumed_records, kRecords);
}

// ---- Processes --------------------------------------------------------------------------------

// A follower with what a real one has: DATA for reading, FOLLOW for both.
void FollowFromElsewhere(const RingLayout& layout, UniqueFd data, UniqueFd follow, uint64_t records,
                         test::Turn& read) {
  ASSERT_OK_AND_ASSIGN(const SealedMemfd data_memfd,
                       SealedMemfd::Adopt(std::move(data), layout.data_section_bytes(),
                                          /*writers_sealed=*/true));
  ASSERT_OK_AND_ASSIGN(const SealedMemfd follow_memfd,
                       SealedMemfd::Adopt(std::move(follow), layout.follow_section_bytes(),
                                          /*writers_sealed=*/false));
  EXPECT_FALSE(Mapping::Map(data_memfd).ok());
  ASSERT_OK_AND_ASSIGN(
      MediatedRingFollower follower,
      MediatedRingFollower::Follow(layout, kOverwriting, data_memfd, follow_memfd));
  for (uint64_t number = 0; number < records;) {
    RecordView view;
    const RingFollowOutcome outcome = follower.Next(&view);
    if (outcome == RingFollowOutcome::kRecord) {
      ASSERT_EQ(TextOf(view.payload), NumberedPayload(number));
      ++number;
      read.Give();
      continue;
    }
    ASSERT_EQ(outcome, RingFollowOutcome::kEmpty);
    if (!follower.PrepareToWait(kWaitingOnFutex)) continue;
    const FutexWord head = follower.HeadWord();
    ASSERT_EQ(FutexWaitAny({&head, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
        << "left asleep at record " << number;
  }
  EXPECT_EQ(follower.account().lost_records, 0u);
}

TEST(MediatedRingFollowerProcesses, AreAllWokenForEveryRecord) {
  constexpr uint64_t kRecords = 10'000;
  MediatedRingWriter ring = MakeRing(kOverwriting, 2);
  const RingLayout layout = ring.layout();
  test::Turn read[2];
  const auto child = [&](test::Turn& turn) {
    UniqueFd data = ring.data_memfd().OpenGrant(FdMode::kReadOnly).value();
    UniqueFd follow = ring.follow_memfd()->OpenGrant(FdMode::kReadWrite).value();
    FollowFromElsewhere(layout, std::move(data), std::move(follow), kRecords, turn);
  };
  test::Child first([&] { child(read[0]); });
  test::Child second([&] { child(read[1]); });
  for (uint64_t number = 0; number < kRecords; ++number) {
    ASSERT_EQ(ring.Append(number, BytesOf(NumberedPayload(number))), AppendOutcome::kStored);
    ring.Publish({});
    // The next record comes only when both have this one: every one of them meets a sleeper.
    ASSERT_TRUE(read[0].Take() && read[1].Take()) << "at record " << number;
  }
  EXPECT_EQ(first.Join(), 0);
  EXPECT_EQ(second.Join(), 0);
}

}  // namespace
}  // namespace iob::shm
