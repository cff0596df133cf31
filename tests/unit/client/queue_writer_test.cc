// RingWriter over a submission queue whose other side the test plays, step by step: what is
// published and kicked when, what is waited for, and what a broker can do wrong.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "client/ring_writer.h"
#include "shm/submission_server.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_submission.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;
using Fds = std::vector<shm::UniqueFd>;

constexpr uint32_t kWrittenRegion = 2;
constexpr uint64_t kQueueBytes = 4096;
constexpr uint64_t kMoreThanPlaces = 3 * shm::SubmissionLayout::kCompletionsDefault;

// One queue as the broker holds it.
struct BrokerQueue {
  explicit BrokerQueue(uint64_t bytes)
      : server(MakeServer(QueueLayout(bytes, shm::SubmissionLayout::kCompletionsDefault))),
        kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  v1::BrokerPacket Grant() const {
    v1::BrokerPacket packet;
    v1::QueueGrant& grant = *packet.mutable_queue_grant();
    Fill(*grant.mutable_submission(), v1::SECTION_KIND_SUBMISSION, server.submit_memfd(), true, 0);
    Fill(*grant.mutable_completion(), v1::SECTION_KIND_COMPLETION, server.complete_memfd(), false,
         1);
    grant.set_kick_fd_index(2);
    grant.set_entry_bytes(static_cast<uint32_t>(server.layout().capacity_bytes()));
    return packet;
  }
  Fds Descriptors() const {
    Fds fds;
    fds.push_back(server.submit_memfd().OpenGrant(shm::FdMode::kReadWrite).value());
    fds.push_back(server.complete_memfd().OpenGrant(shm::FdMode::kReadOnly).value());
    fds.emplace_back(::fcntl(kick.get(), F_DUPFD_CLOEXEC, 0));
    return fds;
  }
  static void Fill(v1::SectionGrant& section, v1::SectionKind kind, const shm::SealedMemfd& memfd,
                   bool writable, uint32_t fd_index) {
    section.set_kind(kind);
    section.set_size_bytes(memfd.size_bytes());
    section.set_writable(writable);
    section.set_fd_index(fd_index);
  }

  // Decides up to `entries_max` of what is published, each as `outcome` says; the texts.
  std::vector<std::string> Serve(shm::AppendOutcome outcome = shm::AppendOutcome::kStored,
                                 uint64_t entries_max = UINT64_MAX, int64_t now_ns = 0) {
    std::vector<std::string> texts;
    server.Serve({.entries_max = entries_max, .bytes_max = UINT64_MAX, .now_ns = now_ns},
                 [&](std::span<const std::byte> payload) {
                   texts.push_back(TextOf(payload));
                   return outcome;
                 });
    return texts;
  }
  uint64_t Kicks() const {
    uint64_t count = 0;
    return ::read(kick.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
  }

  shm::SubmissionServer server;
  shm::UniqueFd kick;
};

class QueueWriterTest : public ::testing::Test {
 protected:
  explicit QueueWriterTest(bool queues = true) {
    v1::GrantSet grants = buffer_.Grants();
    grants.set_queues(queues);
    broker_.Answer(GrantsPacket(grants), buffer_.Fds());
    auto endpoint = Endpoint::Attach(broker_.ticket());
    broker_.Join();
    IOB_CHECK(endpoint.ok());
    endpoint_.emplace(std::move(*endpoint));
    const auto mapped = ReceivePacket(broker_.peer());
    EXPECT_TRUE(mapped && mapped->has_mapped());
  }

  // Opens a writer whose open_queue is answered like this.
  absl::StatusOr<RingWriter> OpenAnswered(const RingWriterOptions& options,
                                          const v1::BrokerPacket& answer, const Fds& fds) {
    std::thread broker([&] {
      const auto packet = ReceivePacket(broker_.peer());
      EXPECT_TRUE(packet && packet->has_open_queue());
      if (packet) asked_ = packet->open_queue();
      SendPacket(broker_.peer(), answer, fds);
    });
    absl::StatusOr<RingWriter> writer = endpoint_->OpenWriter(kWrittenRegion, options);
    broker.join();
    return writer;
  }
  RingWriter Open(RingWriterOptions options = {}) {
    options.queue_bytes = kQueueBytes;
    queue_.emplace(kQueueBytes);
    return OpenAnswered(options, queue_->Grant(), queue_->Descriptors()).value();
  }
  // As the broker's thread does when it finds nothing for a while.
  void GoIdle() {
    EXPECT_TRUE(queue_->server.BecomeIdle());
    queue_->Kicks();
  }
  bool ClientSaidSomething() {
    std::byte byte;
    return broker_.peer()->Receive({&byte, 1}, 0)->outcome != shm::ReceiveOutcome::kNothing;
  }

  FakeBroker broker_;
  HonestBuffer buffer_;
  std::optional<BrokerQueue> queue_;
  v1::OpenQueue asked_;
  std::optional<Endpoint> endpoint_;
};

void ExpectAddsUp(const WriterStats& stats, uint64_t pending) {
  EXPECT_EQ(stats.attempted_records,
            stats.stored_records + stats.lost_records() + stats.pending_records());
  EXPECT_EQ(stats.pending_records(), pending);
  if (pending == 0) {
    EXPECT_EQ(stats.attempted_bytes, stats.stored_bytes + stats.lost_bytes());
  }
}

TEST_F(QueueWriterTest, AsksForTheQueueThatItsOptionsSay) {
  RingWriter writer = Open();
  EXPECT_EQ(writer.transport(), WriterTransport::kQueue);
  EXPECT_EQ(asked_.region_index(), kWrittenRegion);
  EXPECT_EQ(asked_.entry_bytes(), kQueueBytes);
}

TEST_F(QueueWriterTest, PublishesAtOnceWhenAllIsServedAndInBatchesWhenNot) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("first")), IsOk());
  for (int i = 0; i < 3; ++i) ASSERT_THAT(writer.Write(BytesOf("held")), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("first"));
  // The broker ran dry: what was held back is late already.
  ASSERT_THAT(writer.Write(BytesOf("next")), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("held", "held", "held", "next"));
}

TEST_F(QueueWriterTest, PublishesAFullBatchWhileTheBrokerIsBusy) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("first")), IsOk());
  for (int i = 0; i < 32; ++i) ASSERT_THAT(writer.Write(BytesOf("full")), IsOk());
  ASSERT_THAT(writer.Write(BytesOf("held")), IsOk());
  EXPECT_EQ(queue_->Serve().size(), 33u);
  ASSERT_THAT(writer.Flush(), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("held"));
}

TEST_F(QueueWriterTest, KicksOnlyABrokerThatDoesNotLook) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("seen")), IsOk());
  EXPECT_EQ(queue_->Kicks(), 0u);
  EXPECT_EQ(queue_->Serve().size(), 1u);
  GoIdle();
  ASSERT_THAT(writer.Write(BytesOf("kicked")), IsOk());
  EXPECT_EQ(queue_->Kicks(), 1u);
  queue_->server.Activate();
  EXPECT_EQ(queue_->Serve().size(), 1u);
  ASSERT_THAT(writer.Write(BytesOf("seen")), IsOk());
  EXPECT_EQ(queue_->Kicks(), 0u);
}

TEST_F(QueueWriterTest, WaitsForRoomInTheQueueAndLosesNothing) {
  constexpr int kRecords = 2000;
  RingWriter writer = Open();
  std::atomic<bool> done = false;
  std::thread slow_broker([&] {
    while (!done) queue_->Serve(shm::AppendOutcome::kStored, 3);
  });
  for (int i = 0; i < kRecords; ++i) {
    EXPECT_THAT(writer.Write(BytesOf(std::string(static_cast<size_t>(i % 700), 'r'))), IsOk());
  }
  EXPECT_THAT(writer.Finish(After(20s)), IsOk());
  done = true;
  slow_broker.join();
  EXPECT_EQ(writer.stats().stored_records, static_cast<uint64_t>(kRecords));
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, RefusesWhatFindsNoRoomInTime) {
  RingWriter writer = Open({.stall_timeout = 20ms});
  const std::string quarter(1008, 'q');  // 1024 bytes in the queue.
  for (int i = 0; i < 4; ++i) ASSERT_THAT(writer.Write(BytesOf(quarter)), IsOk());
  const absl::Status stalled = writer.Write(BytesOf("no room"));
  EXPECT_THAT(stalled, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(ReasonOf(stalled), "DEADLINE");
  ExpectAddsUp(writer.stats(), 4);
  EXPECT_EQ(queue_->Serve().size(), 4u);
  ASSERT_THAT(writer.Write(BytesOf("room")), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("room"));
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, RefusesWhatNeverFitsIntoTheQueue) {
  RingWriter writer = Open();
  const absl::Status refused = writer.Write(BytesOf(std::string(kQueueBytes - 15, 'x')));
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument, "4096"));
  EXPECT_THAT(writer.Write(BytesOf(std::string(kQueueBytes - 16, 'x'))), IsOk());
  ExpectAddsUp(writer.stats(), 1);
}

TEST_F(QueueWriterTest, CountsLossesByCauseThoughNobodyTakesCompletions) {
  RingWriter writer = Open();
  // More than the queue has places for completions.
  uint64_t written = 0;
  while (written < kMoreThanPlaces) {
    for (int i = 0; i < 100; ++i) ASSERT_THAT(writer.Write(BytesOf("lost")), IsOk());
    written += 100;
    ASSERT_THAT(writer.Flush(), IsOk());
    EXPECT_EQ(queue_->Serve(shm::AppendOutcome::kFull).size(), 100u);
    ASSERT_THAT(writer.Poll(), IsOk());
  }
  EXPECT_EQ(writer.stats().rejected_records[static_cast<size_t>(LossCause::kFull)], written);
  EXPECT_EQ(writer.stats().lost_bytes(), written * 4);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, GivesBackPlacesOfCompletionsWhileItWaits) {
  RingWriter writer = Open({.stall_timeout = 5s});
  std::atomic<bool> done = false;
  std::thread broker([&] {
    // It stalls whenever all places are taken.
    while (!done) queue_->Serve(shm::AppendOutcome::kFull);
  });
  absl::Status status;
  for (uint64_t i = 0; i < kMoreThanPlaces && status.ok(); ++i) {
    status = writer.Write(BytesOf("lost"));
  }
  if (status.ok()) status = writer.Finish(After(5s));
  EXPECT_THAT(status, IsOk());
  done = true;
  broker.join();
  EXPECT_EQ(writer.stats().lost_records(), kMoreThanPlaces);
}

TEST_F(QueueWriterTest, WaitsForTheFateOfOneRecord) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("before")), IsOk());
  std::atomic<bool> done = false;
  std::thread broker([&] {
    while (!done) {
      queue_->server.Serve(kNoLimits, [](std::span<const std::byte> payload) {
        return payload.size() == 4 ? shm::AppendOutcome::kIntegrity : shm::AppendOutcome::kStored;
      });
    }
  });
  EXPECT_THAT(writer.WriteAndWait(BytesOf("stored"), After(20s)), IsOk());
  const absl::Status lost = writer.WriteAndWait(BytesOf("lost"), After(20s));
  done = true;
  broker.join();
  EXPECT_THAT(lost, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(lost), "INTEGRITY");
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, GivesUpOnARecordWhoseFateDoesNotCome) {
  RingWriter writer = Open({.completions = true});
  EXPECT_THAT(writer.WriteAndWait(BytesOf("late"), After(20ms), {.wait = 1min, .cookie = 7}),
              StatusIs(StatusCode::kDeadlineExceeded));
  ExpectAddsUp(writer.stats(), 1);
  // The broker was asked to wait for room no longer than the call: by now it is over.
  queue_->Serve(shm::AppendOutcome::kFull, 1, shm::MonotonicNs());
  queue_->Serve(shm::AppendOutcome::kFull, 1, shm::MonotonicNs() + 100'000'000);
  const auto completion = writer.TryTakeCompletion();
  ASSERT_TRUE(completion.has_value());
  EXPECT_EQ(completion->cookie, 7u);
  EXPECT_EQ(completion->lost, LossCause::kDeadline);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, IsPoisonedByAHeadThatCannotBe) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  // An entry that this client never published, decided all the same.
  RogueClient rogue(queue_->server);
  rogue.SetEntryWord(shm::EntryBytes(1), shm::EncodeEntryHeader(shm::EntryHeader{}));
  rogue.SetTail(shm::EntryBytes(1) + shm::EntryBytes(0));
  EXPECT_EQ(queue_->Serve().size(), 2u);
  const absl::Status poisoned = writer.Finish(After(5s));
  EXPECT_THAT(poisoned, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(poisoned), "INTEGRITY");
  EXPECT_EQ(ReasonOf(writer.Flush()), "INTEGRITY");
  ExpectAddsUp(writer.stats(), 1);
}

TEST_F(QueueWriterTest, HearsOfALostBrokerWhileItWaits) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  std::thread dying([&] { broker_.peer()->Close(); });
  const auto start = std::chrono::steady_clock::now();
  const absl::Status lost = writer.Finish(After(30s));
  dying.join();
  EXPECT_THAT(lost, StatusIs(StatusCode::kUnavailable));
  EXPECT_EQ(ReasonOf(lost), kReasonDisconnected);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  EXPECT_EQ(ReasonOf(writer.Write(BytesOf("x"))), kReasonDisconnected);
  ExpectAddsUp(writer.stats(), 1);
}

TEST_F(QueueWriterTest, ReportsTheBrokersLastWords) {
  RingWriter writer = Open();
  v1::BrokerPacket packet;
  packet.mutable_error()->set_code(3);
  packet.mutable_error()->set_reason(v1::ERROR_REASON_PROTOCOL);
  SendPacket(broker_.peer(), packet);
  broker_.peer()->Close();
  EXPECT_EQ(ReasonOf(writer.Poll()), "PROTOCOL");
  EXPECT_EQ(ReasonOf(writer.Write(BytesOf("w"))), "PROTOCOL");
}

TEST_F(QueueWriterTest, AnswersDetachedOnceTheEndpointIsClosed) {
  RingWriter writer = Open();
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  endpoint_.reset();
  EXPECT_EQ(ReasonOf(writer.Write(BytesOf("x"))), kReasonDetached);
  EXPECT_EQ(ReasonOf(writer.Finish(After(5s))), kReasonDetached);
  EXPECT_EQ(writer.fd(), -1);
  // What was published is decided all the same, and its fate can still be read.
  EXPECT_EQ(queue_->Serve().size(), 1u);
  ExpectAddsUp(writer.stats(), 0);
}

TEST_F(QueueWriterTest, PublishesWhatIsHeldBackWhenItIsDestroyed) {
  {
    RingWriter writer = Open();
    ASSERT_THAT(writer.Write(BytesOf("first")), IsOk());
    ASSERT_THAT(writer.Write(BytesOf("last")), IsOk());
  }
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("first", "last"));
}

TEST_F(QueueWriterTest, TakesOverTheQueueOfAWriterThatIsGone) {
  {
    RingWriter first = Open();
    ASSERT_THAT(first.Write(BytesOf("mine")), IsOk());
    EXPECT_EQ(queue_->Serve(shm::AppendOutcome::kFull).size(), 1u);
  }
  // No second open_queue: nobody would answer it.
  ASSERT_OK_AND_ASSIGN(
      RingWriter second,
      endpoint_->OpenWriter(
          kWrittenRegion, {.stall_timeout = 1s, .queue_bytes = kQueueBytes, .completions = true}));
  EXPECT_EQ(second.transport(), WriterTransport::kQueue);
  EXPECT_FALSE(ClientSaidSomething());
  EXPECT_EQ(second.stats().attempted_records, 0u);
  EXPECT_EQ(second.stats().lost_records(), 0u);
  EXPECT_FALSE(second.TryTakeCompletion().has_value());
  ASSERT_THAT(second.Write(BytesOf("too"), {.cookie = 5}), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("too"));
  EXPECT_EQ(second.TryTakeCompletion().value().cookie, 5u);
  EXPECT_EQ(second.stats().stored_records, 1u);
  ExpectAddsUp(second.stats(), 0);
}

TEST_F(QueueWriterTest, LeavesAQueueAloneInWhichRecordsAreUndecided) {
  {
    RingWriter first = Open();
    ASSERT_THAT(first.Write(BytesOf("pending")), IsOk());
  }
  const BrokerQueue first_queue = std::move(*queue_);
  RingWriter second = Open();
  ASSERT_THAT(second.Write(BytesOf("other")), IsOk());
  EXPECT_THAT(queue_->Serve(), ::testing::ElementsAre("other"));
}

// ---- How a queue is refused ---------------------------------------------------------------------

v1::BrokerPacket Refusal() {
  v1::BrokerPacket packet;
  v1::CallResult& failure = *packet.mutable_queue_grant()->mutable_failure();
  failure.set_code(static_cast<int>(StatusCode::kResourceExhausted));
  failure.set_reason(v1::ERROR_REASON_QUOTA);
  failure.set_message("queues: 64 of 64");
  return packet;
}

TEST_F(QueueWriterTest, GoesOverTheSocketWhenItGetsNoQueue) {
  ASSERT_OK_AND_ASSIGN(RingWriter writer, OpenAnswered({}, Refusal(), {}));
  EXPECT_EQ(writer.transport(), WriterTransport::kSocket);
  ASSERT_THAT(writer.Write(BytesOf("w")), IsOk());
  ASSERT_THAT(writer.Flush(), IsOk());
  const auto packet = ReceivePacket(broker_.peer());
  EXPECT_TRUE(packet && packet->has_write());
}

TEST_F(QueueWriterTest, FailsWithTheBrokersReasonWhenOnlyAQueueWillDo) {
  const absl::Status refused =
      OpenAnswered({.transport = TransportChoice::kQueue}, Refusal(), {}).status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted, "64 of 64"));
  EXPECT_EQ(ReasonOf(refused), "QUOTA");
}

TEST_F(QueueWriterTest, DoesNotAskForAQueueWhenTheSocketIsChosen) {
  ASSERT_OK_AND_ASSIGN(
      RingWriter writer,
      endpoint_->OpenWriter(kWrittenRegion, {.transport = TransportChoice::kSocket}));
  EXPECT_EQ(writer.transport(), WriterTransport::kSocket);
  EXPECT_FALSE(ClientSaidSomething());
}

TEST_F(QueueWriterTest, TakesNoDescriptorsWhereNoneBelong) {
  v1::BrokerPacket packet;
  packet.mutable_event()->mutable_signaled();
  queue_.emplace(kQueueBytes);
  const absl::Status broken = OpenAnswered({}, packet, queue_->Descriptors()).status();
  EXPECT_THAT(broken, StatusIs(StatusCode::kDataLoss, "descriptors"));
  EXPECT_EQ(ReasonOf(broken), "PROTOCOL");
}

TEST_F(QueueWriterTest, GoesOverTheSocketWhenThereIsNoRoomForDescriptors) {
  queue_.emplace(kQueueBytes);
  const Fds fds = queue_->Descriptors();
  ExpectInChild([&] {
    LimitOpenFds(1);
    ASSERT_OK_AND_ASSIGN(RingWriter writer, OpenAnswered({}, queue_->Grant(), fds));
    EXPECT_EQ(writer.transport(), WriterTransport::kSocket);
    EXPECT_THAT(writer.Write(BytesOf("w")), IsOk());
    EXPECT_THAT(writer.Flush(), IsOk());
  });
}

class OlderDaemon : public QueueWriterTest {
 protected:
  OlderDaemon() : QueueWriterTest(/*queues=*/false) {}
};

TEST_F(OlderDaemon, IsNotAskedForAQueue) {
  ASSERT_OK_AND_ASSIGN(RingWriter writer, endpoint_->OpenWriter(kWrittenRegion));
  EXPECT_EQ(writer.transport(), WriterTransport::kSocket);
  const absl::Status refused =
      endpoint_->OpenWriter(kWrittenRegion, {.transport = TransportChoice::kQueue}).status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(refused), "UNSUPPORTED");
  EXPECT_FALSE(ClientSaidSomething());
}

// ---- Grants that cannot be ----------------------------------------------------------------------

struct QueueLie {
  const char* name;
  std::function<void(v1::QueueGrant*, Fds*)> tell;
  const char* reason = "PROTOCOL";
};
class WrongQueue : public QueueWriterTest, public ::testing::WithParamInterface<QueueLie> {};

TEST_P(WrongQueue, IsNotUsedAndEndsTheConnection) {
  const int before = OpenFds();
  {
    const BrokerQueue queue(kQueueBytes);
    v1::BrokerPacket grant = queue.Grant();
    Fds fds = queue.Descriptors();
    GetParam().tell(grant.mutable_queue_grant(), &fds);
    const absl::Status refused = OpenAnswered({.stall_timeout = 5s}, grant, fds).status();
    EXPECT_THAT(refused, StatusIs(StatusCode::kDataLoss));
    EXPECT_EQ(ReasonOf(refused), GetParam().reason);
    EXPECT_EQ(ReasonOf(endpoint_->PollEvents().status()), GetParam().reason);
  }
  EXPECT_EQ(OpenFds(), before);
}

std::vector<QueueLie> QueueLies() {
  return {
      {"ADescriptorIsMissing", [](v1::QueueGrant*, Fds* fds) { fds->pop_back(); }},
      {"NoDescriptors", [](v1::QueueGrant*, Fds* fds) { fds->clear(); }},
      {"OneIndexTwice",
       [](v1::QueueGrant* grant, Fds*) { grant->mutable_completion()->set_fd_index(0); }},
      {"AKickOutOfRange", [](v1::QueueGrant* grant, Fds*) { grant->set_kick_fd_index(3); }},
      {"SectionsOfOtherKinds",
       [](v1::QueueGrant* grant, Fds*) {
         grant->mutable_submission()->set_kind(v1::SECTION_KIND_DATA);
       }},
      {"EntriesThatCannotBeWritten",
       [](v1::QueueGrant* grant, Fds*) { grant->mutable_submission()->set_writable(false); }},
      {"CompletionsThatCanBeWritten",
       [](v1::QueueGrant* grant, Fds*) { grant->mutable_completion()->set_writable(true); }},
      {"MoreEntriesThanItsSection",
       [](v1::QueueGrant* grant, Fds*) { grant->set_entry_bytes(8192); }},
      {"NoEntries", [](v1::QueueGrant* grant, Fds*) { grant->set_entry_bytes(0); }},
      {"HalfACompletion",
       [](v1::QueueGrant* grant, Fds*) { grant->mutable_completion()->set_size_bytes(4097); }},
      {"NoCompletions",
       [](v1::QueueGrant* grant, Fds*) { grant->mutable_completion()->set_size_bytes(0); }},
      {"ASmallerMemfdThanSaid",
       [](v1::QueueGrant* grant, Fds*) {
         grant->set_entry_bytes(8192);
         grant->mutable_submission()->set_size_bytes(3 * 4096);
       },
       "INTEGRITY"},
      {"CompletionsThatOthersCanWrite",
       [](v1::QueueGrant* grant, Fds* fds) {
         (*fds)[1] =
             MakeMemfd(grant->completion().size_bytes()).OpenGrant(shm::FdMode::kReadOnly).value();
       },
       "INTEGRITY"},
      {"AKickThatBlocks",
       [](v1::QueueGrant*, Fds* fds) { (*fds)[2] = shm::UniqueFd(::eventfd(0, EFD_CLOEXEC)); }},
      {"AKickThatIsAPipe",
       [](v1::QueueGrant*, Fds* fds) {
         int ends[2];
         IOB_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
         const shm::UniqueFd reader(ends[0]);
         (*fds)[2] = shm::UniqueFd(ends[1]);
       }},
      {"AKickThatIsASocket",
       [](v1::QueueGrant*, Fds* fds) {
         (*fds)[2] =
             shm::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(QueueWriter, WrongQueue, ::testing::ValuesIn(QueueLies()),
                         [](const auto& lie) { return std::string(lie.param.name); });

}  // namespace
}  // namespace iob::test
