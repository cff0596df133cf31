// RingWriter against the real daemon, over each of its transports: what it promises must not depend
// on how its records travel. And what only a daemon in a process of its own can show: processes
// that are killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/broker.h"
#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

constexpr uint64_t kLargeRing = 4 << 20;
// One page of records: 4 of kQuarter, not 5.
constexpr uint64_t kSmallRing = 8192;
const std::string kQuarter(1000, 'q');

// Both ends of a buffer with one ring.
struct Ends {
  Endpoint consumer;
  Endpoint writer;
};

class DaemonTest : public ::testing::Test {
 protected:
  explicit DaemonTest(DaemonKind kind = DaemonKind::kThread) : daemon_(TestDaemon::Start(kind)) {
    IOB_CHECK(daemon_ != nullptr);
    broker_.emplace(Broker::Connect({.runtime_dir = daemon_->runtime_dir()}).value());
  }
  ~DaemonTest() override { EXPECT_EQ(daemon_->Stop(), ""); }

  CreatedBuffer Create(uint64_t size_bytes, const MediatedRingOptions& options = {}) {
    RegionSpec spec = MediatedRingSpec(size_bytes);
    spec.mediated_ring = options;
    return broker_
        ->CreateBuffer({.regions = {spec}, .attach = {EndpointId::kEp0, EndpointId::kEp1}})
        .value();
  }
  Ends Attach(uint64_t size_bytes, const MediatedRingOptions& options = {}) {
    const CreatedBuffer buffer = Create(size_bytes, options);
    koid_ = buffer.info.koid;
    return {.consumer = Endpoint::Attach(buffer.tickets[0]).value(),
            .writer = Endpoint::Attach(buffer.tickets[1]).value()};
  }
  WriterStats BooksOfTheDaemon() {
    const BufferStats stats = broker_->GetStats(koid_).value();
    WriterStats books;
    for (const RingStats& ring : stats.rings) {
      books.attempted_records += ring.attempted_records;
      books.stored_records += ring.stored_records;
      books.stored_bytes += ring.stored_bytes;
      for (const LossCount& loss : ring.rejected) {
        books.rejected_records[static_cast<size_t>(loss.cause)] += loss.records;
        books.rejected_bytes[static_cast<size_t>(loss.cause)] += loss.bytes;
      }
    }
    return books;
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::optional<Broker> broker_;
  uint64_t koid_ = 0;
};

std::vector<std::string> DrainAll(RingReader* reader) {
  std::vector<std::string> texts;
  const auto drained = reader->Drain(
      SIZE_MAX, [&texts](const RecordView& record) { texts.push_back(TextOf(record.payload)); });
  EXPECT_THAT(drained, IsOk());
  return texts;
}

class EveryTransport : public DaemonTest, public ::testing::WithParamInterface<TransportChoice> {
 protected:
  RingWriter Open(Endpoint* endpoint, RingWriterOptions options = {}) {
    options.transport = GetParam();
    return endpoint->OpenWriter(0, options).value();
  }
  void ExpectBooksAgree(const WriterStats& stats) {
    EXPECT_EQ(stats.pending_records(), 0u);
    EXPECT_EQ(stats.attempted_bytes, stats.stored_bytes + stats.lost_bytes());
    const WriterStats books = BooksOfTheDaemon();
    EXPECT_EQ(stats.stored_records, books.stored_records);
    EXPECT_EQ(stats.stored_bytes, books.stored_bytes);
    EXPECT_EQ(stats.rejected_records, books.rejected_records);
    EXPECT_EQ(stats.rejected_bytes, books.rejected_bytes);
  }
};

INSTANTIATE_TEST_SUITE_P(RingWriter, EveryTransport,
                         ::testing::Values(TransportChoice::kQueue, TransportChoice::kSocket),
                         [](const auto& choice) {
                           return choice.param == TransportChoice::kQueue ? "Queue" : "Socket";
                         });

TEST_P(EveryTransport, DeliversEverythingInOrder) {
  constexpr uint64_t kRecords = 20'000;
  Ends ends = Attach(kLargeRing);
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  RingWriter writer = Open(&ends.writer, {.wait = 30s});
  uint64_t next = 0;
  std::thread consumer([&] {
    while (next < kRecords) {
      const auto outcome = reader.Wait(After(30s));
      ASSERT_THAT(outcome, IsOk());
      ASSERT_EQ(*outcome, WaitOutcome::kRecords);
      const auto drained = reader.Drain(SIZE_MAX, [&next](const RecordView& record) {
        EXPECT_EQ(TextOf(record.payload), PatternText(next, next % 500));
        ++next;
      });
      ASSERT_THAT(drained, IsOk());
    }
  });
  for (uint64_t i = 0; i < kRecords; ++i) {
    EXPECT_THAT(writer.Write(BytesOf(PatternText(i, i % 500))), IsOk());
  }
  EXPECT_THAT(writer.Finish(After(30s)), IsOk());
  consumer.join();
  EXPECT_EQ(writer.stats().stored_records, kRecords);
  ExpectBooksAgree(writer.stats());
}

TEST_P(EveryTransport, HoldsWhatWasWrittenBackUntilFlushAtTheLatest) {
  Ends ends = Attach(kLargeRing);
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  RingWriter writer = Open(&ends.writer);
  for (int i = 0; i < 3; ++i) ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  size_t count = 0;
  while (count < 3) {
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
    ASSERT_EQ(outcome, WaitOutcome::kRecords);
    count += DrainAll(&reader).size();
  }
}

TEST_P(EveryTransport, TakesTheLongestRecordAndRefusesALongerOne) {
  Ends ends = Attach(kLargeRing);
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  RingWriter writer = Open(&ends.writer);
  const std::string longest = PatternText(1, kRecordPayloadBytesMax);
  ASSERT_THAT(writer.Write(BytesOf(longest)), IsOk());
  EXPECT_THAT(writer.Write(BytesOf(longest + "x")),
              StatusIs(StatusCode::kInvalidArgument, "65519"));
  ASSERT_THAT(writer.Write({}), IsOk());
  const std::string letter = "p";
  std::vector<std::span<const std::byte>> parts(8, BytesOf(letter));
  ASSERT_THAT(writer.WriteParts(parts), IsOk());
  parts.push_back(BytesOf(letter));
  EXPECT_THAT(writer.WriteParts(parts), StatusIs(StatusCode::kInvalidArgument, "8"));
  ASSERT_THAT(writer.Finish(After(20s)), IsOk());
  EXPECT_EQ(writer.stats().attempted_records, 3u);
  // Also waits for the end of the daemon's turn: fates are told a moment before consumers see the
  // records.
  ExpectBooksAgree(writer.stats());
  EXPECT_THAT(DrainAll(&reader), ::testing::ElementsAre(longest, "", "pppppppp"));
}

TEST_P(EveryTransport, TellsLossesByCauseAndByTheirOwnBytes) {
  Ends ends = Attach(kSmallRing);
  RingWriter writer = Open(&ends.writer);
  for (int i = 0; i < 4; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  ASSERT_THAT(writer.Write(BytesOf(std::string(900, 'f'))), IsOk());
  ASSERT_THAT(writer.Write(BytesOf(std::string(8000, 't'))), IsOk());
  ASSERT_THAT(writer.Finish(After(20s)), IsOk());
  const WriterStats& stats = writer.stats();
  EXPECT_EQ(stats.stored_records, 4u);
  EXPECT_EQ(stats.rejected_bytes[static_cast<size_t>(LossCause::kFull)], 900u);
  EXPECT_EQ(stats.rejected_bytes[static_cast<size_t>(LossCause::kTooLarge)], 8000u);
  ExpectBooksAgree(stats);
}

TEST_P(EveryTransport, WaitsForTheFateOfOneRecord) {
  Ends ends = Attach(kSmallRing);
  RingWriter writer = Open(&ends.writer);
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(writer.WriteAndWait(BytesOf(kQuarter), After(20s)), IsOk());
  }
  const absl::Status full = writer.WriteAndWait(BytesOf(kQuarter), After(20s));
  EXPECT_THAT(full, StatusIs(StatusCode::kResourceExhausted));
  EXPECT_EQ(iob::ReasonOf(full), "RING_FULL");
  EXPECT_EQ(iob::ReasonOf(writer.WriteAndWait(BytesOf(std::string(9000, 't')), After(20s))),
            "INVALID_ARGUMENT");
  EXPECT_EQ(writer.stats().stored_records, 4u);
  ExpectBooksAgree(writer.stats());
}

TEST_P(EveryTransport, WaitsForRoomAsLongAsARecordMay) {
  Ends ends = Attach(kSmallRing);
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  RingWriter writer = Open(&ends.writer);
  for (int i = 0; i < 4; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  // In order: the one that waits in vain, then one that does not wait.
  ASSERT_THAT(writer.Write(BytesOf(kQuarter), {.wait = 30ms}), IsOk());
  ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  ASSERT_THAT(writer.Finish(After(20s)), IsOk());
  EXPECT_EQ(writer.stats().rejected_records[static_cast<size_t>(LossCause::kDeadline)], 1u);
  EXPECT_EQ(writer.stats().rejected_records[static_cast<size_t>(LossCause::kFull)], 1u);
  ASSERT_THAT(writer.Write(BytesOf(kQuarter), {.wait = 30s}), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  // The daemon asks for the room sooner or later; the consumer makes it and says so.
  std::thread consumer([&] {
    size_t count = 0;
    while (count < 5) {
      ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
      ASSERT_EQ(outcome, WaitOutcome::kRecords);
      count += DrainAll(&reader).size();
    }
  });
  EXPECT_THAT(writer.Finish(After(20s)), IsOk());
  consumer.join();
  EXPECT_EQ(writer.stats().stored_records, 5u);
  ExpectBooksAgree(writer.stats());
}

TEST_P(EveryTransport, WaitsByItselfWhereTheRingWasMadeSo) {
  constexpr uint64_t kRecords = 2'000;
  Ends ends = Attach(kSmallRing, {.policy = RingPolicy::kBlock, .block = 30s});
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  EXPECT_EQ(ends.writer.info().regions[0].mediated_ring.policy, RingPolicy::kBlock);
  RingWriter writer = Open(&ends.writer);
  std::thread consumer([&] {
    size_t count = 0;
    while (count < kRecords) {
      ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
      ASSERT_EQ(outcome, WaitOutcome::kRecords);
      count += DrainAll(&reader).size();
    }
  });
  for (uint64_t i = 0; i < kRecords; ++i) {
    EXPECT_THAT(writer.Write(BytesOf(std::string(i % 900, 'b'))), IsOk());
  }
  EXPECT_THAT(writer.Finish(After(30s)), IsOk());
  consumer.join();
  EXPECT_EQ(writer.stats().stored_records, kRecords);
  ExpectBooksAgree(writer.stats());
}

TEST_P(EveryTransport, DoesNotWaitWhereARecordSaysSo) {
  Ends ends = Attach(kSmallRing, {.policy = RingPolicy::kBlock, .block = 60s});
  RingWriter writer = Open(&ends.writer, {.wait = 0ms});
  for (int i = 0; i < 6; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  ASSERT_THAT(writer.Finish(After(20s)), IsOk());
  EXPECT_EQ(writer.stats().stored_records, 4u);
  EXPECT_EQ(writer.stats().lost_records(), 2u);
}

TEST_P(EveryTransport, GivesCompletionsInTheOrderOfTheRecords) {
  Ends ends = Attach(kSmallRing);
  RingWriter writer = Open(&ends.writer, {.completions = true});
  for (uint64_t i = 0; i < 6; ++i) {
    ASSERT_THAT(writer.Write(BytesOf(kQuarter), {.cookie = 100 + i}), IsOk());
  }
  ASSERT_THAT(writer.Finish(After(20s)), IsOk());
  for (uint64_t i = 0; i < 6; ++i) {
    const auto completion = writer.TryTakeCompletion();
    ASSERT_TRUE(completion.has_value());
    EXPECT_EQ(completion->cookie, 100 + i);
    EXPECT_EQ(completion->payload_bytes, kQuarter.size());
    EXPECT_EQ(completion->lost, i < 4 ? std::nullopt : std::optional(LossCause::kFull));
  }
  EXPECT_FALSE(writer.TryTakeCompletion().has_value());
  // Whose fate was told has no completion.
  EXPECT_EQ(iob::ReasonOf(writer.WriteAndWait(BytesOf(kQuarter), After(20s))), "RING_FULL");
  EXPECT_FALSE(writer.TryTakeCompletion().has_value());
}

TEST_P(EveryTransport, TellsThatNobodyIsLeftToConsume) {
  Ends ends = Attach(kSmallRing);
  RingWriter writer = Open(&ends.writer, {.wait = 60s});
  for (int i = 0; i < 5; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  ends.consumer.Close();
  EXPECT_THAT(writer.Finish(After(20s)), IsOk());
  EXPECT_EQ(writer.stats().rejected_records[static_cast<size_t>(LossCause::kClosed)], 1u);
  EXPECT_EQ(iob::ReasonOf(writer.WriteAndWait(BytesOf(kQuarter), After(20s))), "PEER_CLOSED");
  ExpectBooksAgree(writer.stats());
}

TEST_P(EveryTransport, ServesWhatWasSentWhenItsEndpointCloses) {
  Ends ends = Attach(kLargeRing);
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  RingWriter writer = Open(&ends.writer);
  for (int i = 0; i < 100; ++i) ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  ends.writer.Close();
  EXPECT_EQ(iob::ReasonOf(writer.Write(BytesOf("late"))), kReasonDetached);
  size_t count = 0;
  while (true) {
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
    if (outcome == WaitOutcome::kPeerClosed) break;
    ASSERT_EQ(outcome, WaitOutcome::kRecords);
    count += DrainAll(&reader).size();
  }
  EXPECT_EQ(count, 100u);
}

TEST_P(EveryTransport, ClosesWhileARecordWaitsForRoom) {
  Ends ends = Attach(kSmallRing);
  {
    RingWriter writer = Open(&ends.writer, {.wait = 60s});
    for (int i = 0; i < 6; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
    ASSERT_THAT(writer.Flush(), IsOk());
    EXPECT_THAT(writer.Finish(After(50ms)), StatusIs(StatusCode::kDeadlineExceeded));
    EXPECT_EQ(writer.stats().stored_records + writer.stats().pending_records(), 6u);
  }
  ends.writer.Close();
  ASSERT_OK_AND_ASSIGN(RingReader reader, ends.consumer.OpenReader(0));
  size_t count = 0;
  while (true) {
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
    if (outcome == WaitOutcome::kPeerClosed) break;
    count += DrainAll(&reader).size();
  }
  // Those that waited were either rejected with the end, or stored in the room of the first.
  EXPECT_GE(count, 4u);
  const WriterStats books = BooksOfTheDaemon();
  EXPECT_EQ(books.attempted_records, 6u);
  EXPECT_EQ(books.stored_records, count);
  EXPECT_EQ(books.lost_records(), 6 - count);
}

TEST_P(EveryTransport, KeepsTheAccountsOfTwoWritersApart) {
  Ends ends = Attach(kLargeRing);
  RingWriter first = Open(&ends.writer);
  RingWriter second = Open(&ends.writer);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_THAT(first.Write(BytesOf("1")), IsOk());
    ASSERT_THAT(second.Write(BytesOf("22")), IsOk());
  }
  ASSERT_THAT(second.Finish(After(20s)), IsOk());
  ASSERT_THAT(first.Finish(After(20s)), IsOk());
  EXPECT_EQ(first.stats().stored_bytes, 1000u);
  EXPECT_EQ(second.stats().stored_bytes, 2000u);
  EXPECT_EQ(BooksOfTheDaemon().stored_records, 2000u);
}

TEST_F(DaemonTest, GivesAWriterAQueueByItself) {
  Ends ends = Attach(kLargeRing);
  // More writers, one after the other, than an attachment may have queues.
  for (int i = 0; i < 100; ++i) {
    ASSERT_OK_AND_ASSIGN(RingWriter writer, ends.writer.OpenWriter(0));
    EXPECT_EQ(writer.transport(), WriterTransport::kQueue);
    ASSERT_THAT(writer.WriteAndWait(BytesOf("w"), After(20s)), IsOk());
    EXPECT_EQ(writer.stats().stored_records, 1u);
  }
  EXPECT_EQ(BooksOfTheDaemon().stored_records, 100u);
}

// ---- Processes that die -------------------------------------------------------------------------

// A ticket through a pipe, so that the child can be forked before there are threads.
class TicketPipe {
 public:
  TicketPipe() {
    int ends[2];
    IOB_CHECK(::pipe(ends) == 0);
    reader_ = shm::UniqueFd(ends[0]);
    writer_ = shm::UniqueFd(ends[1]);
  }
  void Send(const Ticket& ticket) {
    std::string message(reinterpret_cast<const char*>(ticket.secret().data()), kSecretBytes);
    message += ticket.socket_path();
    IOB_CHECK(::write(writer_.get(), message.data(), message.size()) ==
              static_cast<ssize_t>(message.size()));
  }
  Ticket Receive() {
    char message[256];
    const ssize_t size = ::read(reader_.get(), message, sizeof(message));
    IOB_CHECK(size > static_cast<ssize_t>(kSecretBytes));
    Secret secret;
    std::memcpy(secret.data(), message, kSecretBytes);
    return Ticket(secret, EndpointId::kEp1,
                  std::string(message + kSecretBytes, static_cast<size_t>(size) - kSecretBytes),
                  10s);
  }

 private:
  shm::UniqueFd reader_;
  shm::UniqueFd writer_;
};

// Writes a queueful as fast as it can, then dies with the last records published and undecided.
void WriteAndDie(TicketPipe* tickets, uint64_t records) {
  auto endpoint = Endpoint::Attach(tickets->Receive());
  IOB_CHECK(endpoint.ok());
  auto writer = endpoint->OpenWriter(0, {.transport = TransportChoice::kQueue});
  IOB_CHECK(writer.ok());
  for (uint64_t i = 0; i < records; ++i) {
    IOB_CHECK(writer->Write(BytesOf(std::to_string(i))).ok());
  }
  IOB_CHECK(writer->Flush().ok());
  ::kill(::getpid(), SIGKILL);
}

TEST(KilledWriter, HasEverythingServedThatItPublished) {
  constexpr uint64_t kRecords = 3'000;
  TicketPipe tickets;
  Child child([&] { WriteAndDie(&tickets, kRecords); });
  auto daemon = TestDaemon::Start(DaemonKind::kChild);
  ASSERT_NE(daemon, nullptr);
  {
    Broker broker = Broker::Connect({.runtime_dir = daemon->runtime_dir()}).value();
    const CreatedBuffer buffer = broker
                                     .CreateBuffer({.regions = {MediatedRingSpec(kLargeRing)},
                                                    .attach = {EndpointId::kEp0, EndpointId::kEp1}})
                                     .value();
    Endpoint consumer = Endpoint::Attach(buffer.tickets[0]).value();
    ASSERT_OK_AND_ASSIGN(RingReader reader, consumer.OpenReader(0));
    tickets.Send(buffer.tickets[1]);
    std::vector<std::string> texts;
    while (true) {
      ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, reader.Wait(After(20s)));
      if (outcome == WaitOutcome::kPeerClosed) break;
      ASSERT_EQ(outcome, WaitOutcome::kRecords);
      for (std::string& text : DrainAll(&reader)) texts.push_back(std::move(text));
    }
    EXPECT_EQ(child.Join(), 128 + SIGKILL);
    EXPECT_EQ(consumer.close_reason().kind, CloseKind::kKilled);
    ASSERT_EQ(texts.size(), kRecords);
    for (uint64_t i = 0; i < kRecords; ++i) ASSERT_EQ(texts[i], std::to_string(i));
    const BufferStats stats = broker.GetStats(buffer.info.koid).value();
    EXPECT_EQ(stats.rings[0].attempted_records, kRecords);
    EXPECT_EQ(stats.rings[0].stored_records, kRecords);
  }
  EXPECT_EQ(daemon->Stop(), "");
}

TEST(KilledDaemon, IsNoticedByAWriterThatWaits) {
  auto daemon = TestDaemon::Start(DaemonKind::kChild);
  ASSERT_NE(daemon, nullptr);
  Broker broker = Broker::Connect({.runtime_dir = daemon->runtime_dir()}).value();
  const CreatedBuffer buffer = broker
                                   .CreateBuffer({.regions = {MediatedRingSpec(kSmallRing)},
                                                  .attach = {EndpointId::kEp0, EndpointId::kEp1}})
                                   .value();
  Endpoint consumer = Endpoint::Attach(buffer.tickets[0]).value();
  Endpoint endpoint = Endpoint::Attach(buffer.tickets[1]).value();
  ASSERT_OK_AND_ASSIGN(RingWriter writer,
                       endpoint.OpenWriter(0, {.wait = 60s, .transport = TransportChoice::kQueue}));
  for (int i = 0; i < 5; ++i) ASSERT_THAT(writer.Write(BytesOf(kQuarter)), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  EXPECT_THAT(writer.Finish(After(50ms)), StatusIs(StatusCode::kDeadlineExceeded));
  std::thread killer([&] { ::kill(daemon->pid(), SIGKILL); });
  const auto start = std::chrono::steady_clock::now();
  const absl::Status lost = writer.Finish(After(30s));
  killer.join();
  EXPECT_EQ(iob::ReasonOf(lost), kReasonDisconnected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ(writer.stats().stored_records, 4u);
  EXPECT_EQ(writer.stats().pending_records(), 1u);
  EXPECT_NE(daemon->Stop(), "");
}

}  // namespace
}  // namespace iob::test
