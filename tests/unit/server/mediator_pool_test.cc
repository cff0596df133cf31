// Submission queues as a real thread serves them: records arrive once and in order, who waits is
// woken, who lies is cut off, and the books are exact whatever end a queue comes to.

#include "server/mediator_pool.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "server/clock.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/mediated_ring_reader.h"
#include "shm/submission_client.h"
#include "tests/support/shm_ring.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using shm::AddOutcome;
using shm::LossCause;
using test::IsOk;
using test::StatusIs;

constexpr uint64_t kCapacity = 4096;
constexpr int64_t kLongNs = 20'000'000'000;

class MediatorPoolTest : public RegistryHarness {
 protected:
  void SetUp() override {
    loop_ = EventLoop::Create(clock_).value();
    pool_ = MediatorPool::Start(
                2, {.loop = *loop_,
                    .registry = registry_,
                    .quota = quota_,
                    .on_readable = [this](Koid, uint32_t index) { readable_.push_back(index); },
                    .on_updated = [this](Koid koid) { updated_.push_back(koid); }})
                .value();
    MakeBuffer(RingSpec());
  }
  void TearDown() override {
    pool_.reset();
    RegistryHarness::TearDown();
  }

  void MakeBuffer(const RegionSpec& spec) {
    made_ = TryMake("", {spec}, alice_).value();
    target_ = Mediator::Resolve(
                  {.buffer = made_.buffer, .endpoint = kEp1, .rights = shm::HandleRights()}, 0)
                  .value();
    reader_.emplace(shm::MediatedRingReader::Map(ring().writer.layout(), ring().writer.head_memfd(),
                                                 ring().writer.data_memfd(),
                                                 ring().writer.options())
                        .value());
  }
  MediatedRing& ring() { return *made_.buffer->regions()[0].ring(); }

  struct Client {
    QueueId id = 0;
    shm::UniqueFd kick;
    shm::SealedMemfd submit;
    std::optional<shm::ReadOnlyMapping> complete = std::nullopt;
    std::optional<shm::SubmissionClient> queue = std::nullopt;
  };
  Client Open(uint32_t entry_bytes = 0) {
    auto opened = pool_->Open(target_, alice_.uid, entry_bytes, [this] { ++violations_; }).value();
    const shm::SubmissionLayout& layout = opened.layout;
    Client client{.id = opened.id,
                  .kick = std::move(opened.kick),
                  .submit = shm::SealedMemfd::Adopt(std::move(opened.submission),
                                                    layout.submit_section_bytes(), false)
                                .value()};
    const auto complete =
        shm::SealedMemfd::Adopt(std::move(opened.completion), layout.complete_section_bytes(), true)
            .value();
    client.complete.emplace(shm::ReadOnlyMapping::Map(complete).value());
    client.queue.emplace(shm::SubmissionClient::Map(layout, client.submit, complete).value());
    return client;
  }
  static void Publish(Client& client) {
    if (!client.queue->Publish()) return;
    const uint64_t one = 1;
    ASSERT_EQ(::write(client.kick.get(), &one, sizeof(one)), 8);
  }
  static AddOutcome Add(Client& client, const std::string& text, uint16_t wait_ms = 0) {
    return client.queue->TryAdd(test::BytesOf(text),
                                {.cookie = 0, .wait_ms = wait_ms, .want_completion = false});
  }
  // Sleeps on the queue until all is decided.
  static bool AwaitServed(Client& client) {
    const int64_t deadline_ns = shm::MonotonicNs() + kLongNs;
    while (!client.queue->ServedAll()) {
      if (client.queue->PrepareToWait()) {
        const shm::FutexWord head = client.queue->HeadWord();
        if (shm::FutexWaitAny({&head, 1}, deadline_ns) == shm::FutexOutcome::kDeadline)
          return false;
      }
      client.queue->ClearWaiting();
    }
    return true;
  }
  std::vector<std::string> ReadAll() {
    std::vector<std::string> texts;
    shm::RecordView record;
    while (reader_->Next(&record) == shm::ReadOutcome::kRecord)
      texts.push_back(test::TextOf(record.payload));
    reader_->Release();
    return texts;
  }
  // Runs the loop until `done` says so.
  template <typename Done>
  bool RunUntil(Done done) {
    const int64_t deadline_ns = shm::MonotonicNs() + kLongNs;
    Registration timer;
    std::function<void()> look = [&] {
      if (done() || shm::MonotonicNs() > deadline_ns) return loop_->Quit();
      timer = loop_->RunAfterMs(1, look);
    };
    timer = loop_->RunAfterMs(0, look);
    loop_->Run();
    return done();
  }
  void CloseAndWait(Client& client) {
    bool closed = false;
    pool_->Close(client.id, [&closed] { closed = true; });
    ASSERT_TRUE(RunUntil([&closed] { return closed; }));
  }
  void ExpectBooks(uint64_t stored, uint64_t rejected, LossCause cause) {
    const shm::Ledger& ledger = ring().ledger;
    EXPECT_EQ(ledger.stored_records, stored);
    EXPECT_EQ(ledger.rejected_records[static_cast<size_t>(cause)], rejected);
    EXPECT_EQ(ledger.attempted_records, stored + rejected);
    const shm::Ledger& own = made_.buffer->regions()[0].ledger_of(kEp1);
    EXPECT_EQ(own.attempted_records, ledger.attempted_records);
    const shm::RingOccupancy now = ring().writer.Occupancy();
    EXPECT_EQ(stored, now.consumed_records + now.resident_records + now.overwritten_records);
  }

  SystemClock clock_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MediatorPool> pool_;
  CreatedBuffer made_;
  Mediator::Target target_;
  std::optional<shm::MediatedRingReader> reader_;
  std::vector<uint32_t> readable_;
  std::vector<Koid> updated_;
  int violations_ = 0;
};

TEST_F(MediatorPoolTest, RecordsArriveOnceAndInOrder) {
  Client client = Open();
  std::vector<std::string> sent;
  std::vector<std::string> seen;
  for (int i = 0; i < 2000; ++i) {
    sent.push_back(absl::StrCat("record ", i));
    ASSERT_EQ(Add(client, sent.back(), /*wait_ms=*/30'000), AddOutcome::kAdded);
    if (i % 7 != 0) continue;
    Publish(client);
    ASSERT_TRUE(AwaitServed(client));
    for (std::string& text : ReadAll()) seen.push_back(std::move(text));
  }
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  for (std::string& text : ReadAll()) seen.push_back(std::move(text));
  EXPECT_EQ(seen, sent);
  CloseAndWait(client);
  ExpectBooks(2000, 0, LossCause::kFull);
  EXPECT_EQ(pool_->queue_count(), 0u);
}

// "The daemon was idle, I wrote one record, and it arrived only when I wrote the next."
TEST_F(MediatorPoolTest, AThreadThatSleepsIsWokenByAKick) {
  Client client = Open();
  for (int i = 0; i < 3; ++i) {
    // It goes to sleep when nothing has come for a while, and says that it wants a kick.
    ASSERT_TRUE(RunUntil([&] {
      return client.complete->Word<uint32_t>(shm::kCompleteNeedWakeupOffset)
                 .LoadAcquire()
                 .ForHintOnly() != 0;
    }));
    ASSERT_EQ(Add(client, "wake up"), AddOutcome::kAdded);
    Publish(client);
    ASSERT_TRUE(AwaitServed(client));
    EXPECT_THAT(ReadAll(), testing::ElementsAre("wake up"));
  }
  CloseAndWait(client);
}

TEST_F(MediatorPoolTest, WhatFindsNoRoomIsRejectedAndTold) {
  Client client = Open();
  const std::string half(kCapacity / 2 - shm::kRecordHeaderBytes, 'x');
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Add(client, half), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  const shm::SubmissionStats stats = client.queue->stats();
  EXPECT_EQ(stats.decided.stored_records, 2u);
  EXPECT_EQ(stats.decided.rejected_records[static_cast<size_t>(LossCause::kFull)], 3u);
  EXPECT_EQ(stats.pending_records, 0u);
  CloseAndWait(client);
  ExpectBooks(2, 3, LossCause::kFull);
}

TEST_F(MediatorPoolTest, AnEntryThatWaitsIsStoredWhenRoomIsMade) {
  Client client = Open();
  const std::string half(kCapacity / 2 - shm::kRecordHeaderBytes, 'x');
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Add(client, half, 30'000), AddOutcome::kAdded);
  Publish(client);
  // The third waits, and the ring says so to its consumer.
  const auto data = shm::ReadOnlyMapping::Map(ring().writer.data_memfd()).value();
  ASSERT_TRUE(RunUntil([&] {
    return data.Word<uint32_t>(kCapacity + shm::kLedgerWantRoom).LoadAcquire().ForHintOnly() != 0;
  }));
  shm::RecordView record;
  ASSERT_EQ(reader_->Next(&record), shm::ReadOutcome::kRecord);
  EXPECT_TRUE(reader_->Release());  // Somebody is to be told.
  pool_->RoomMade(made_.buffer->regions()[0]);
  ASSERT_TRUE(AwaitServed(client));
  EXPECT_THAT(ReadAll(), testing::ElementsAre(half, half));
  CloseAndWait(client);
  ExpectBooks(3, 0, LossCause::kDeadline);
}

TEST_F(MediatorPoolTest, AnEntryThatWaitsInVainIsRejectedAtItsDeadline) {
  Client client = Open();
  const std::string whole(kCapacity - shm::kRecordHeaderBytes, 'x');
  ASSERT_EQ(Add(client, whole), AddOutcome::kAdded);
  ASSERT_EQ(Add(client, whole, /*wait_ms=*/1), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  CloseAndWait(client);
  ExpectBooks(1, 1, LossCause::kDeadline);
}

// "The reader died while my write was waiting for it, and the write waited on."
TEST_F(MediatorPoolTest, NobodyWaitsForAConsumerThatIsGone) {
  Client client = Open();
  const std::string whole(kCapacity - shm::kRecordHeaderBytes, 'x');
  for (int i = 0; i < 3; ++i) ASSERT_EQ(Add(client, whole, 60'000), AddOutcome::kAdded);
  Publish(client);
  made_.buffer->endpoint(kEp0).closed = true;
  pool_->RefreshConsumers(made_.buffer->koid());
  ASSERT_TRUE(AwaitServed(client));
  CloseAndWait(client);
  made_.buffer->endpoint(kEp0).closed = false;
  ExpectBooks(1, 2, LossCause::kClosed);
}

TEST_F(MediatorPoolTest, WhatWasPublishedIsDecidedBeforeAQueueIsClosed) {
  Client client = Open();
  for (int i = 0; i < 500; ++i) ASSERT_EQ(Add(client, ""), AddOutcome::kAdded);
  // Not even a kick: a client that is killed gives none.
  client.queue->Publish();
  ASSERT_EQ(Add(client, "never published"), AddOutcome::kAdded);
  CloseAndWait(client);
  const uint64_t fit = kCapacity / shm::kRecordHeaderBytes;
  ExpectBooks(fit, 500 - fit, LossCause::kFull);
}

// "My writer was killed while the ring was full, and what its reader got had a hole in the middle."
TEST_F(MediatorPoolTest, TheStreamOfADeadWriterEndsWithoutAHole) {
  Client client = Open();
  const std::string half(kCapacity / 2 - shm::kRecordHeaderBytes, 'x');
  ASSERT_EQ(Add(client, half, 30'000), AddOutcome::kAdded);
  ASSERT_EQ(Add(client, half + "too long for what is left", 30'000), AddOutcome::kAdded);
  ASSERT_EQ(Add(client, "short", 30'000), AddOutcome::kAdded);
  client.queue->Publish();
  CloseAndWait(client);
  EXPECT_THAT(ReadAll(), testing::ElementsAre(half));
  ExpectBooks(1, 2, LossCause::kClosed);
}

TEST_F(MediatorPoolTest, WhoLiesAboutItsTailIsCutOffAndOthersAreServed) {
  Client liar = Open();
  Client honest = Open();
  shm::Mapping::Map(liar.submit).value().Word<uint64_t>(shm::kSubmitTailOffset).StoreRelease(1);
  const uint64_t one = 1;
  ASSERT_EQ(::write(liar.kick.get(), &one, sizeof(one)), 8);
  EXPECT_TRUE(RunUntil([this] { return violations_ == 1; }));
  ASSERT_EQ(Add(honest, "still here"), AddOutcome::kAdded);
  Publish(honest);
  ASSERT_TRUE(AwaitServed(honest));
  EXPECT_THAT(ReadAll(), testing::ElementsAre("still here"));
  CloseAndWait(liar);
  CloseAndWait(honest);
  EXPECT_EQ(violations_, 1);
  ExpectBooks(1, 0, LossCause::kFull);
}

TEST_F(MediatorPoolTest, AWriterWithABudgetLeavesRoomForOthers) {
  RegionSpec spec = RingSpec();
  spec.mediated.set_writer_records_max(3);
  MakeBuffer(spec);
  Client client = Open();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Add(client, "mine", 30'000), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  EXPECT_THAT(ReadAll(), testing::SizeIs(3));
  ASSERT_EQ(Add(client, "again"), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  EXPECT_THAT(ReadAll(), testing::ElementsAre("again"));
  CloseAndWait(client);
  ExpectBooks(4, 2, LossCause::kBudget);
}

TEST_F(MediatorPoolTest, AGapIsToldWhereItIs) {
  RegionSpec spec = RingSpec();
  spec.mediated.set_gap_records(true);
  MakeBuffer(spec);
  Client client = Open();
  const std::string half(kCapacity / 2 - shm::kRecordHeaderBytes, 'x');
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Add(client, half), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  EXPECT_THAT(ReadAll(), testing::SizeIs(2));
  ASSERT_EQ(Add(client, "after"), AddOutcome::kAdded);
  Publish(client);
  ASSERT_TRUE(AwaitServed(client));
  shm::RecordView record;
  ASSERT_EQ(reader_->Next(&record), shm::ReadOutcome::kRecord);
  EXPECT_EQ(test::TextOf(record.payload), "after");
  EXPECT_EQ(record.gap.records, 2u);
  EXPECT_EQ(record.gap.bytes, 2 * half.size());
  EXPECT_EQ(record.gap.at_record, 2u);
  CloseAndWait(client);
}

TEST_F(MediatorPoolTest, AQueueIsChargedToItsClientAndComesHome) {
  const uint64_t before = quota_.memory_bytes();
  EXPECT_THAT(pool_->Open(target_, alice_.uid, 17u << 20, [] {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, "at most 16777216"));
  limits_.memory_bytes_max = before + shm::PageBytes();
  EXPECT_THAT(pool_->Open(target_, alice_.uid, 0, [] {}).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, ""));
  limits_.memory_bytes_max = uint64_t{1} << 30;
  Client client = Open(5000);
  EXPECT_GT(quota_.memory_bytes(), before);
  CloseAndWait(client);
  EXPECT_EQ(quota_.memory_bytes(), before);
}

TEST_F(MediatorPoolTest, AConsumerThatAskedForAPacketIsTold) {
  Client client = Open();
  ASSERT_TRUE(reader_->PrepareToWait(shm::kWaitingOnSocket));
  ASSERT_EQ(Add(client, "hello"), AddOutcome::kAdded);
  Publish(client);
  EXPECT_TRUE(RunUntil([this] { return !readable_.empty(); }));
  EXPECT_THAT(readable_, testing::Each(0u));
  CloseAndWait(client);
}

}  // namespace
}  // namespace iob::server
