// RingFollower and a RingReader's ring options against the real daemon: who may read how, and an
// exact account of what was too old to be read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

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
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

// One page of records: 4 of kQuarter, not 5.
constexpr uint64_t kSmallRing = 8192;
const std::string kQuarter(1000, 'q');
// ep0 may map it for reading and writing, ep1 may map it for reading and write through the broker.
constexpr uint32_t kEp1ReadsToo = 0x83 | 0x10;

class FollowerTest : public ::testing::Test {
 protected:
  FollowerTest() : daemon_(TestDaemon::Start(DaemonKind::kThread)) {
    IOB_CHECK(daemon_ != nullptr);
    broker_.emplace(Broker::Connect({.runtime_dir = daemon_->runtime_dir()}).value());
  }
  ~FollowerTest() override {
    ep0_.reset();
    ep1_.reset();
    EXPECT_EQ(daemon_->Stop(), "");
  }

  void Make(const MediatedRingOptions& options, uint32_t access_bits = kEp1ReadsToo,
            uint64_t size_bytes = kSmallRing) {
    RegionSpec spec = MediatedRingSpec(size_bytes);
    spec.access = AccessBits(access_bits);
    spec.mediated_ring = options;
    const CreatedBuffer buffer =
        broker_->CreateBuffer({.regions = {spec}, .attach = {EndpointId::kEp0, EndpointId::kEp1}})
            .value();
    ep0_.emplace(Endpoint::Attach(buffer.tickets[0]).value());
    ep1_.emplace(Endpoint::Attach(buffer.tickets[1]).value());
    writer_.emplace(ep1_->OpenWriter(0).value());
  }
  // The fate is told a moment before consumers see the record. The daemon's books are not read in
  // between.
  void Write(const std::string& text) {
    EXPECT_THAT(writer_->WriteAndWait(BytesOf(text), After(20s)), IsOk());
    EXPECT_THAT(broker_->GetStats(ep0_->info().buffer_koid), IsOk());
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::optional<Broker> broker_;
  std::optional<Endpoint> ep0_;
  std::optional<Endpoint> ep1_;
  std::optional<RingWriter> writer_;
};

struct Drained {
  std::vector<std::string> texts;
  uint64_t lost = 0;
};

Drained DrainAll(RingFollower* follower) {
  Drained drained;
  EXPECT_THAT(
      follower->Drain(
          SIZE_MAX,
          [&](const RecordView& record) { drained.texts.push_back(TextOf(record.payload)); },
          [&](const RecordLoss& lost) { drained.lost += lost.records; }),
      IsOk());
  return drained;
}

TEST_F(FollowerTest, ConsumesARingThatOverwritesAndIsToldItsLosses) {
  Make({.policy = RingPolicy::kOverwriteOldest});
  const absl::Status in_place = ep0_->OpenReader(0).status();
  EXPECT_THAT(in_place, StatusIs(StatusCode::kFailedPrecondition, "follower"));
  EXPECT_EQ(iob::ReasonOf(in_place), "WRONG_DISCIPLINE");
  ASSERT_OK_AND_ASSIGN(RingFollower consumer, ep0_->OpenFollower(0, {.consume = true}));
  EXPECT_EQ(iob::ReasonOf(ep0_->OpenFollower(0, {.consume = true}).status()), "IN_USE");
  for (int i = 0; i < 10; ++i) Write(std::to_string(i) + kQuarter);
  const Drained drained = DrainAll(&consumer);
  EXPECT_EQ(drained.lost + drained.texts.size(), 10u);
  EXPECT_GE(drained.texts.size(), 3u);
  EXPECT_EQ(drained.texts.back().front(), '9');
  EXPECT_EQ(consumer.account().lost_records, drained.lost);
  EXPECT_EQ(consumer.account().lost_bytes, drained.lost * (kQuarter.size() + 1));
  EXPECT_EQ(consumer.next_record(), 10u);
}

TEST_F(FollowerTest, GoesOnWhereTheConsumerBeforeItStopped) {
  Make({.policy = RingPolicy::kOverwriteOldest});
  Write("one");
  {
    ASSERT_OK_AND_ASSIGN(RingFollower first, ep0_->OpenFollower(0, {.consume = true}));
    EXPECT_THAT(DrainAll(&first).texts, ::testing::ElementsAre("one"));
  }
  Write("two");
  ASSERT_OK_AND_ASSIGN(RingFollower second, ep0_->OpenFollower(0, {.consume = true}));
  EXPECT_THAT(DrainAll(&second).texts, ::testing::ElementsAre("two"));
}

TEST_F(FollowerTest, FollowsWithoutTakingAnything) {
  Make({.followers = true});
  // Neither follower may map it for writing: one of them is at the writing end.
  ASSERT_OK_AND_ASSIGN(RingFollower first, ep1_->OpenFollower(0));
  ASSERT_OK_AND_ASSIGN(RingFollower second, ep1_->OpenFollower(0));
  ASSERT_OK_AND_ASSIGN(RingReader reader, ep0_->OpenReader(0));
  for (int i = 0; i < 3; ++i) Write(std::to_string(i));
  EXPECT_THAT(DrainAll(&first).texts, ::testing::ElementsAre("0", "1", "2"));
  EXPECT_THAT(DrainAll(&second).texts, ::testing::ElementsAre("0", "1", "2"));
  EXPECT_FALSE(first.ArmFd());
  Record record;
  ASSERT_OK_AND_ASSIGN(const bool there, reader.TryRead(&record));
  EXPECT_TRUE(there);
  EXPECT_EQ(TextOf(record.payload), "0");
}

TEST_F(FollowerTest, SleepsUntilARecordComes) {
  Make({.followers = true});
  ASSERT_OK_AND_ASSIGN(RingFollower follower, ep0_->OpenFollower(0));
  ASSERT_OK_AND_ASSIGN(const WaitOutcome none, follower.Wait(After(20ms)));
  EXPECT_EQ(none, WaitOutcome::kDeadline);
  for (int i = 0; i < 20; ++i) {
    std::thread writer([&] { Write("wake"); });
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, follower.Wait(After(30s)));
    writer.join();
    EXPECT_EQ(outcome, WaitOutcome::kRecords);
    EXPECT_EQ(DrainAll(&follower).texts.size(), 1u);
  }
  writer_.reset();
  ep1_.reset();
  ASSERT_OK_AND_ASSIGN(const WaitOutcome closed, follower.Wait(After(30s)));
  EXPECT_EQ(closed, WaitOutcome::kPeerClosed);
}

TEST_F(FollowerTest, ArmsItsSocketAsAConsumer) {
  Make({.policy = RingPolicy::kOverwriteOldest});
  ASSERT_OK_AND_ASSIGN(RingFollower consumer, ep0_->OpenFollower(0, {.consume = true}));
  ASSERT_TRUE(consumer.ArmFd());
  Write("w");
  pollfd poller = {.fd = consumer.fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&poller, 1, 20'000), 1);
  EXPECT_EQ(DrainAll(&consumer).texts.size(), 1u);
}

TEST_F(FollowerTest, IsRefusedWhereTheRingOrTheRightsAreOthers) {
  Make({});
  EXPECT_EQ(iob::ReasonOf(ep0_->OpenFollower(0).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(iob::ReasonOf(ep0_->OpenFollower(0, {.consume = true}).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(iob::ReasonOf(ep1_->OpenFollower(0, {.consume = true}).status()), "ACCESS_DENIED");
  EXPECT_EQ(iob::ReasonOf(ep1_->OpenFollower(7).status()), "OUT_OF_RANGE");
  Make({.followers = true}, 0x83);
  EXPECT_EQ(iob::ReasonOf(ep1_->OpenFollower(0).status()), "ACCESS_DENIED");
}

TEST_F(FollowerTest, ReadersKnowStampsAndGaps) {
  Make({.gap_records = true, .stamped = true});
  ASSERT_OK_AND_ASSIGN(RingReader reader, ep0_->OpenReader(0));
  for (int i = 0; i < 3; ++i) Write(kQuarter);
  EXPECT_FALSE(writer_->WriteAndWait(BytesOf(std::string(2000, 'l')), After(20s)).ok());
  std::vector<uint64_t> numbers;
  ASSERT_THAT(reader.Drain(SIZE_MAX,
                           [&](const RecordView& record) {
                             numbers.push_back(record.sequence);
                             EXPECT_GT(record.time_ns, 0);
                             EXPECT_EQ(record.gap.records, 0u);
                           }),
              IsOk());
  Write("after the gap");
  ASSERT_THAT(reader.Drain(SIZE_MAX,
                           [&](const RecordView& record) {
                             numbers.push_back(record.sequence);
                             EXPECT_EQ(TextOf(record.payload), "after the gap");
                             EXPECT_EQ(record.gap.records, 1u);
                             EXPECT_EQ(record.gap.bytes, 2000u);
                           }),
              IsOk());
  EXPECT_THAT(numbers, ::testing::ElementsAre(0, 1, 2, 3));
}

TEST_F(FollowerTest, LosesNothingUncountedAtFullSpeed) {
  constexpr uint64_t kRecords = 200'000;
  Make({.policy = RingPolicy::kOverwriteOldest, .followers = true}, kEp1ReadsToo, 64 << 10);
  ASSERT_OK_AND_ASSIGN(RingFollower consumer, ep0_->OpenFollower(0, {.consume = true}));
  std::thread producer([&] {
    for (uint64_t i = 0; i < kRecords; ++i) {
      EXPECT_THAT(writer_->Write(BytesOf(PatternText(i, 40 + i % 50))), IsOk());
    }
    EXPECT_THAT(writer_->Finish(After(30s)), IsOk());
  });
  uint64_t lost = 0;
  uint64_t read = 0;
  while (consumer.next_record() < kRecords) {
    ASSERT_OK_AND_ASSIGN(const WaitOutcome outcome, consumer.Wait(After(30s)));
    ASSERT_EQ(outcome, WaitOutcome::kRecords);
    ASSERT_THAT(consumer.Drain(
                    1000,
                    [&](const RecordView& record) {
                      EXPECT_EQ(TextOf(record.payload),
                                PatternText(record.sequence, 40 + record.sequence % 50));
                      ++read;
                    },
                    [&](const RecordLoss& loss) { lost += loss.records; }),
                IsOk());
  }
  producer.join();
  EXPECT_EQ(read + lost, kRecords);
  EXPECT_EQ(consumer.account().received_records, read);
  EXPECT_EQ(consumer.account().lost_records, lost);
}

}  // namespace
}  // namespace iob::test
