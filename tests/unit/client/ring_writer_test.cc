// RingWriter: what is sent, in which batches, and an account that adds up whatever is answered.
#include "client/ring_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

constexpr uint32_t kWrittenRegion = 2;

struct LostRun {
  uint32_t first = 0;
  uint32_t count = 0;
  v1::LossCause cause = v1::LOSS_CAUSE_FULL;
};

class RingWriterTest : public Attached {
 protected:
  RingWriter Open(const RingWriterOptions& options = {}) {
    return endpoint_->OpenWriter(kWrittenRegion, options).value();
  }

  v1::WriteBatch ReceiveBatch() {
    const auto packet = ReceivePacket(broker_.peer());
    EXPECT_TRUE(packet && packet->has_write());
    return packet ? packet->write() : v1::WriteBatch();
  }

  void Answer(uint32_t stored, const std::vector<LostRun>& lost = {}) {
    v1::BrokerPacket packet;
    packet.mutable_write_result()->set_stored(stored);
    for (const LostRun& run : lost) {
      v1::RecordLoss* const loss = packet.mutable_write_result()->add_lost();
      loss->set_first_index(run.first);
      loss->set_count(run.count);
      loss->set_cause(run.cause);
    }
    SendPacket(broker_.peer(), packet);
  }

  // Ten records of 1, 2, ... 10 bytes in one batch.
  void SendTen(RingWriter* writer) {
    for (size_t size = 1; size <= 10; ++size) {
      ASSERT_THAT(writer->Write(BytesOf(std::string(size, 'r'))), IsOk());
    }
    ASSERT_THAT(writer->Flush(), IsOk());
    EXPECT_EQ(ReceiveBatch().records_size(), 10);
  }
};

uint64_t Rejected(const WriterStats& stats, LossCause cause) {
  return stats.rejected_records[static_cast<size_t>(cause)];
}

void ExpectAddsUp(const WriterStats& stats, uint64_t pending) {
  EXPECT_EQ(stats.attempted_records,
            stats.stored_records + stats.lost_records() + stats.pending_records());
  EXPECT_EQ(stats.pending_records(), pending);
  if (pending == 0) {
    EXPECT_EQ(stats.attempted_bytes, stats.stored_bytes + stats.lost_bytes());
  }
}

TEST_F(RingWriterTest, SendsNothingBeforeFlush) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("one")), IsOk());
  ASSERT_THAT(writer.Write(BytesOf("two")), IsOk());
  ExpectAddsUp(writer.stats(), 2);
  ASSERT_THAT(writer.Flush(), IsOk());
  const v1::WriteBatch batch = ReceiveBatch();
  EXPECT_EQ(batch.region_index(), kWrittenRegion);
  EXPECT_EQ(batch.wait_ms(), 0u);
  ASSERT_EQ(batch.records_size(), 2);
  EXPECT_EQ(batch.records(1), "two");
}

TEST_F(RingWriterTest, CountsWhatWasStored) {
  RingWriter writer = Open();
  SendTen(&writer);
  Answer(10);
  ASSERT_THAT(writer.Finish(After(5s)), IsOk());
  EXPECT_EQ(writer.stats().stored_records, 10u);
  EXPECT_EQ(writer.stats().stored_bytes, 55u);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(RingWriterTest, CountsLossesByCauseAndByTheirOwnBytes) {
  RingWriter writer = Open();
  SendTen(&writer);
  Answer(5, {{.first = 1, .count = 2, .cause = v1::LOSS_CAUSE_FULL},
             {.first = 4, .count = 1, .cause = v1::LOSS_CAUSE_INTEGRITY},
             {.first = 8, .count = 2, .cause = v1::LOSS_CAUSE_DEADLINE}});
  ASSERT_THAT(writer.Finish(After(5s)), IsOk());
  const WriterStats& stats = writer.stats();
  EXPECT_EQ(Rejected(stats, LossCause::kFull), 2u);
  EXPECT_EQ(stats.rejected_bytes[static_cast<size_t>(LossCause::kFull)], 2u + 3u);
  EXPECT_EQ(Rejected(stats, LossCause::kIntegrity), 1u);
  EXPECT_EQ(stats.rejected_bytes[static_cast<size_t>(LossCause::kIntegrity)], 5u);
  EXPECT_EQ(Rejected(stats, LossCause::kDeadline), 2u);
  EXPECT_EQ(stats.rejected_bytes[static_cast<size_t>(LossCause::kDeadline)], 9u + 10u);
  EXPECT_EQ(stats.stored_bytes, 55u - 5 - 5 - 19);
  ExpectAddsUp(stats, 0);
}

TEST_F(RingWriterTest, MatchesAnswersToBatchesInOrder) {
  RingWriter writer = Open();
  SendTen(&writer);
  ASSERT_THAT(writer.Write(BytesOf(std::string(1000, 'x'))), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  ReceiveBatch();
  Answer(9, {{.first = 0, .count = 1, .cause = v1::LOSS_CAUSE_FULL}});
  Answer(0, {{.first = 0, .count = 1, .cause = v1::LOSS_CAUSE_CLOSED}});
  ASSERT_THAT(writer.Finish(After(5s)), IsOk());
  EXPECT_EQ(writer.stats().rejected_bytes[static_cast<size_t>(LossCause::kFull)], 1u);
  EXPECT_EQ(writer.stats().rejected_bytes[static_cast<size_t>(LossCause::kClosed)], 1000u);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(RingWriterTest, GivesEachWriterOfAnEndpointItsOwnAnswers) {
  RingWriter first = Open();
  RingWriter second = Open();
  ASSERT_THAT(first.Write(BytesOf("1")), IsOk());
  ASSERT_THAT(first.Flush(), IsOk());
  ASSERT_THAT(second.Write(BytesOf("22")), IsOk());
  ASSERT_THAT(second.Flush(), IsOk());
  Answer(1);
  Answer(0, {{.first = 0, .count = 1, .cause = v1::LOSS_CAUSE_FULL}});
  // One of them reads both.
  ASSERT_THAT(second.Finish(After(5s)), IsOk());
  EXPECT_EQ(first.stats().stored_records, 1u);
  EXPECT_EQ(second.stats().lost_bytes(), 2u);
}

TEST_F(RingWriterTest, SendsAFullBatchByItself) {
  RingWriter writer = Open({.wait = 250ms});
  const std::string half(40'000, 'h');
  ASSERT_THAT(writer.Write(BytesOf(half)), IsOk());
  ASSERT_THAT(writer.Write(BytesOf(half)), IsOk());
  const v1::WriteBatch batch = ReceiveBatch();
  EXPECT_EQ(batch.records_size(), 1);
  EXPECT_EQ(batch.wait_ms(), 250u);
}

TEST_F(RingWriterTest, TakesTheLongestRecordAndRefusesALongerOne) {
  RingWriter writer = Open({.wait = 20s});
  const std::string longest = PatternText(1, kRecordPayloadBytesMax);
  ASSERT_THAT(writer.Write(BytesOf("before")), IsOk());
  ASSERT_THAT(writer.Write(BytesOf(longest)), IsOk());
  const absl::Status refused = writer.Write(BytesOf(longest + "x"));
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument, "65519"));
  EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
  EXPECT_EQ(writer.stats().attempted_records, 2u);
  ASSERT_THAT(writer.Flush(), IsOk());
  EXPECT_EQ(ReceiveBatch().records(0), "before");
  EXPECT_EQ(ReceiveBatch().records(0), longest);
}

TEST_F(RingWriterTest, TakesUpToEightParts) {
  RingWriter writer = Open();
  const std::string letter = "p";
  std::vector<std::span<const std::byte>> parts(8, BytesOf(letter));
  ASSERT_THAT(writer.WriteParts(parts), IsOk());
  parts.push_back(BytesOf(letter));
  EXPECT_THAT(writer.WriteParts(parts), StatusIs(StatusCode::kInvalidArgument, "8"));
  ASSERT_THAT(writer.WriteParts({}), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  const v1::WriteBatch batch = ReceiveBatch();
  ASSERT_EQ(batch.records_size(), 2);
  EXPECT_EQ(batch.records(0), "pppppppp");
  EXPECT_EQ(batch.records(1), "");
}

TEST_F(RingWriterTest, StopsAtTheWindowAndLosesNothing) {
  RingWriter writer = Open({.stall_timeout = 20ms});
  for (int i = 0; i < 32; ++i) {
    ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
    ASSERT_THAT(writer.Flush(), IsOk());
  }
  ASSERT_THAT(writer.Write(BytesOf("kept")), IsOk());
  const absl::Status stalled = writer.Flush();
  EXPECT_THAT(stalled, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(ReasonOf(stalled), "DEADLINE");
  for (int i = 0; i < 32; ++i) Answer(1);
  ASSERT_THAT(writer.Flush(), IsOk());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(ReceiveBatch().records(0), "w");
  EXPECT_EQ(ReceiveBatch().records(0), "kept");
  Answer(1);
  ASSERT_THAT(writer.Finish(After(5s)), IsOk());
  EXPECT_EQ(writer.stats().stored_records, 33u);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(RingWriterTest, ReadsAnswersWhileTheSocketIsFull) {
  constexpr int kRecords = 100;
  RingWriter writer = Open();
  const std::string record = PatternText(7, 60'000);
  std::thread slow_broker([&] {
    for (int i = 0; i < kRecords; ++i) {
      EXPECT_EQ(ReceiveBatch().records_size(), 1);
      Answer(1);
    }
  });
  for (int i = 0; i < kRecords; ++i) EXPECT_THAT(writer.Write(BytesOf(record)), IsOk());
  EXPECT_THAT(writer.Finish(After(20s)), IsOk());
  slow_broker.join();
  EXPECT_EQ(writer.stats().stored_bytes, kRecords * record.size());
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(RingWriterTest, FinishDoesNotWaitForEver) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  EXPECT_THAT(writer.Finish(After(20ms)), StatusIs(StatusCode::kDeadlineExceeded));
  ExpectAddsUp(writer.stats(), 1);
  Answer(1);
  EXPECT_THAT(writer.Finish(After(5s)), IsOk());
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(RingWriterTest, ReportsWhatTheBrokerSaysAndKeepsTheRestPending) {
  RingWriter writer = Open();
  SendTen(&writer);
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(7);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_ACCESS_DENIED);
  packet.mutable_error()->set_message("mediated-write");
  SendPacket(broker_.peer(), packet);
  broker_.peer()->Close();
  const absl::Status denied = writer.Finish(After(5s));
  EXPECT_THAT(denied, StatusIs(StatusCode::kPermissionDenied, "mediated-write"));
  EXPECT_EQ(ReasonOf(denied), "ACCESS_DENIED");
  EXPECT_EQ(ReasonOf(writer.Write(BytesOf("more"))), "ACCESS_DENIED");
  ExpectAddsUp(writer.stats(), 10);
}

TEST_F(RingWriterTest, ReadsTheLastWordsEvenWhenItFindsTheSocketBroken) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(9);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_WRONG_DISCIPLINE);
  SendPacket(broker_.peer(), packet);
  broker_.peer()->Close();
  EXPECT_EQ(ReasonOf(writer.Flush()), "WRONG_DISCIPLINE");
}

TEST_F(RingWriterTest, AnswersDetachedOnceTheEndpointIsClosed) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  endpoint_.reset();
  EXPECT_EQ(ReasonOf(writer.Write(BytesOf("x"))), kReasonDetached);
  EXPECT_EQ(ReasonOf(writer.Finish(After(5s))), kReasonDetached);
  EXPECT_EQ(writer.fd(), -1);
}

TEST_F(RingWriterTest, SendsWhatIsBufferedWhenItIsDestroyed) {
  { EXPECT_THAT(Open().Write(BytesOf("last")), IsOk()); }
  EXPECT_EQ(ReceiveBatch().records(0), "last");
}

// Answers that no batch of ten can have.
class WrongAnswer
    : public RingWriterTest,
      public ::testing::WithParamInterface<std::pair<uint32_t, std::vector<LostRun>>> {};

TEST_P(WrongAnswer, BreaksTheConnectionAndCountsNothing) {
  RingWriter writer = Open();
  SendTen(&writer);
  Answer(GetParam().first, GetParam().second);
  const absl::Status status = writer.Finish(After(5s));
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(status), "PROTOCOL");
  EXPECT_EQ(writer.stats().stored_records, 0u);
  ExpectAddsUp(writer.stats(), 10);
}

const v1::LossCause kNoCause = static_cast<v1::LossCause>(8);
INSTANTIATE_TEST_SUITE_P(
    RingWriter, WrongAnswer,
    ::testing::Values(
        std::pair(11u, std::vector<LostRun>{}), std::pair(9u, std::vector<LostRun>{}),
        std::pair(UINT32_MAX, std::vector<LostRun>{}),
        std::pair(9u, std::vector<LostRun>{{.first = 10, .count = 1}}),
        std::pair(9u, std::vector<LostRun>{{.first = 0, .count = 2}}),
        std::pair(10u, std::vector<LostRun>{{.first = 0, .count = 0}}),
        std::pair(11u, std::vector<LostRun>{{.first = 0, .count = UINT32_MAX}}),
        std::pair(8u, std::vector<LostRun>{{.first = UINT32_MAX, .count = 2}}),
        std::pair(8u, std::vector<LostRun>{{.first = 3, .count = 1}, {.first = 3, .count = 1}}),
        std::pair(8u, std::vector<LostRun>{{.first = 5, .count = 1}, {.first = 3, .count = 1}}),
        std::pair(9u,
                  std::vector<LostRun>{
                      {.first = 0, .count = 1, .cause = v1::LOSS_CAUSE_UNSPECIFIED}}),
        std::pair(9u, std::vector<LostRun>{{.first = 0, .count = 1, .cause = kNoCause}})));

}  // namespace
}  // namespace iob::test
