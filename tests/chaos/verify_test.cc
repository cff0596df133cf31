// The verifier sees every kind of wrong that a round could end with: each test takes a round that
// is right and changes one thing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/chaos/record.h"
#include "tests/chaos/verify.h"

namespace iob::test {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Writer 0 stored 0, 2 and 3; 1 was rejected, and it was killed within 4. Writer 1 stored 0 and 1,
// and gave up 2. The first consumer was killed with two records released and two more read.
RoundAccount GoodRound() {
  RoundAccount round;
  round.kind = RingKind::kDropNew;
  round.writers = {
      {.begun = 5,
       .fates = {Fate::kStored, Fate::kRejected, Fate::kStored, Fate::kStored, Fate::kUnknown}},
      {.begun = 3, .fates = {Fate::kStored, Fate::kStored, Fate::kDiscarded}}};
  ReaderAccount killed;
  killed.log = {RecordId(0, 0), RecordId(1, 0), RecordId(0, 2), RecordId(1, 1)};
  killed.releasing = 2;
  killed.released = 2;
  ReaderAccount last;
  last.log = {RecordId(0, 2), RecordId(1, 1), RecordId(0, 3)};
  last.releasing = 3;
  last.released = 3;
  last.finished = true;
  round.consumers = {killed, last};
  ReaderAccount follower;
  follower.log = {RecordId(0, 0), RecordId(1, 1), RecordId(0, 3)};
  follower.lost = 2;
  follower.next_record = 5;
  follower.finished = true;
  round.followers = {follower};
  round.figures = {
      .attempted = 6, .stored = 5, .rejected = 1, .consumed = 5, .overwritten = 0, .resident = 0};
  return round;
}

void ExpectComplaint(const RoundAccount& round, const std::string& text) {
  EXPECT_THAT(Verify(round), Contains(HasSubstr(text)));
}

TEST(ChaosVerify, HasNothingAgainstARoundThatIsRight) {
  RoundAccount round = GoodRound();
  EXPECT_THAT(Verify(round), IsEmpty());
  // The record that its writer does not know of may have come, too.
  round.consumers[1].log.push_back(RecordId(0, 4));
  round.consumers[1].releasing = round.consumers[1].released = 4;
  round.followers[0].log.push_back(RecordId(0, 4));
  round.followers[0].next_record = 6;
  ++round.figures.attempted;
  ++round.figures.stored;
  ++round.figures.consumed;
  EXPECT_THAT(Verify(round), IsEmpty());
}

TEST(ChaosVerify, SeesThatAStoredRecordIsMissing) {
  RoundAccount round = GoodRound();
  round.consumers[1].log.pop_back();
  ExpectComplaint(round, "record 3 of writer 0 was stored, and nobody consumed it");
  ExpectComplaint(round, "5 stored, and 4 came out");
}

TEST(ChaosVerify, SeesARecordThatCannotBe) {
  RoundAccount round = GoodRound();
  round.followers[0].log[0] = RecordId(0, 5);
  ExpectComplaint(round, "record 5 of writer 0, which was never begun");
  round = GoodRound();
  round.followers[0].log[0] = RecordId(2, 0);
  ExpectComplaint(round, "record 0 of writer 2, which was never begun");
  round = GoodRound();
  round.followers[0].log[1] = RecordId(0, 1);
  ExpectComplaint(round, "saw record 1 of writer 0, whose fate was 2");
  round = GoodRound();
  round.followers[0].log[1] = RecordId(1, 2);
  ExpectComplaint(round, "saw record 2 of writer 1, whose fate was 3");
}

TEST(ChaosVerify, SeesRecordsOutOfOrderAndTwice) {
  RoundAccount round = GoodRound();
  std::swap(round.consumers[1].log[0], round.consumers[1].log[2]);
  ExpectComplaint(round, "consumer 1 saw record 2 of writer 0 after number 3");
  round = GoodRound();
  round.consumers[1].log.insert(round.consumers[1].log.begin(), RecordId(0, 2));
  ExpectComplaint(round, "consumer 1 saw record 2 of writer 0 after number 2");
}

TEST(ChaosVerify, SeesWhatASuccessorReadsAgainOrSkips) {
  RoundAccount round = GoodRound();
  round.consumers[1].log.insert(round.consumers[1].log.begin(), RecordId(1, 0));
  ExpectComplaint(round, "record 0 of writer 1 was consumed by reader 0 and came again");
  round = GoodRound();
  round.consumers[1].log.erase(round.consumers[1].log.begin());
  ExpectComplaint(round, "record 2 of writer 0 was read by reader 0, not released, and never");
  // Whoever died between the two words may have released, or not.
  round.consumers[0].releasing = 4;
  round.consumers[1].log.erase(round.consumers[1].log.begin());
  EXPECT_THAT(Verify(round), IsEmpty());
}

TEST(ChaosVerify, AddsUpTheFigures) {
  const std::vector<std::pair<uint64_t RingFigures::*, std::string>> kWrong = {
      {&RingFigures::attempted, "attempted 7 != stored 5 + rejected 1"},
      {&RingFigures::stored, "stored 6 != consumed 5 + overwritten 0 + resident 0"},
      {&RingFigures::consumed, "stored 5 != consumed 6"},
      {&RingFigures::overwritten, "of a lossless ring were overwritten"},
      {&RingFigures::resident, "are left in a ring that was drained"},
  };
  for (const auto& [figure, complaint] : kWrong) {
    RoundAccount round = GoodRound();
    ++(round.figures.*figure);
    ExpectComplaint(round, complaint);
  }
  RoundAccount round = GoodRound();
  round.figures.rejected = 3;
  round.figures.attempted = 8;
  ExpectComplaint(round, "the ring counted 3 rejected; writers know of 5 stored and 1 rejected");
  round = GoodRound();
  round.writers[0].fates[4] = Fate::kStored;
  ExpectComplaint(round, "the ring counted 5 stored; writers know of 6");
}

TEST(ChaosVerify, AddsUpWhatAFollowerGotAndLost) {
  RoundAccount round = GoodRound();
  --round.followers[0].lost;
  ExpectComplaint(round, "follower 0 got 3 and was told of 1 lost, of 5");
  round = GoodRound();
  --round.followers[0].next_record;
  --round.followers[0].lost;
  ExpectComplaint(round, "follower 0 ended at record 4 of 5");
  // One that was killed owes nothing.
  round.followers[0].finished = false;
  EXPECT_THAT(Verify(round), IsEmpty());
}

TEST(ChaosVerify, WantsTheLatestValueOfASlot) {
  RoundAccount round;
  round.kind = RingKind::kSlot;
  round.writers = {{.begun = 2, .fates = {Fate::kStored, Fate::kStored}},
                   {.begun = 2, .fates = {Fate::kStored, Fate::kUnknown}}};
  round.figures = {
      .attempted = 3, .stored = 3, .rejected = 0, .consumed = 0, .overwritten = 2, .resident = 1};
  ReaderAccount reader;
  reader.log = {RecordId(0, 1), RecordId(1, 0)};
  reader.finished = true;
  round.followers = {reader};
  EXPECT_THAT(Verify(round), IsEmpty());
  round.followers[0].log.pop_back();
  ExpectComplaint(round, "follower 0 ended before record 0 of writer 1");
}

TEST(ChaosRecord, TellsEveryChangedByte) {
  const RecordHeader header = {
      .round = 3, .writer = 1, .number = 77, .bytes = RecordBytes(3, 1, 77)};
  std::vector<std::byte> bytes(header.bytes);
  FillRecord(header, bytes);
  RecordHeader read;
  EXPECT_EQ(CheckRecord(3, bytes, &read), "");
  EXPECT_NE(CheckRecord(4, bytes, &read), "");
  for (std::byte& byte : bytes) {
    byte ^= std::byte{1};
    EXPECT_NE(CheckRecord(3, bytes, &read), "");
    byte ^= std::byte{1};
  }
  bytes.pop_back();
  EXPECT_NE(CheckRecord(3, bytes, &read), "");
}

}  // namespace
}  // namespace iob::test
