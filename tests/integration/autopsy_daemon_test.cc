// What is left of endpoints that crash, in the real daemon: which ends count, what is kept of them,
// for how long, and for whom.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/error.h"
#include "client/snapshot_records.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/snapshot_fixture.h"

namespace iob::test {
namespace {

using namespace std::chrono_literals;
using iob::ReasonOf;  // Not that of gRPC's statuses.

class AutopsyTest : public SnapshotFixture {
 protected:
  // A child that attaches as ep1, writes `texts` to region 0, and ends as `end` says.
  void WriteAndEnd(const CreatedBuffer& buffer, const std::vector<std::string>& texts,
                   const std::function<void()>& end) {
    const Ticket ticket = broker_->Attach(*buffer.ep1_handle).value();
    Child child([&] {
      Endpoint endpoint = Endpoint::Attach(ticket).value();
      RingWriter ring = endpoint.OpenWriter(0).value();
      for (const std::string& text : texts) IOB_CHECK(ring.Write(BytesOf(text)).ok());
      IOB_CHECK(ring.Finish(After(10s)).ok());
      end();
    });
    child.Join();
  }
  static void KillMe() { ::kill(::getpid(), SIGKILL); }

  std::vector<AutopsyInfo> WaitForAutopsies(size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    std::vector<AutopsyInfo> list;
    do {
      list = broker_->ListAutopsies().value();
      if (list.size() >= count && Metric("iob_snapshots_copying") == 0) break;
    } while (std::chrono::steady_clock::now() < deadline);
    EXPECT_EQ(list.size(), count);
    return broker_->ListAutopsies().value();
  }
  // A full store has as many before: until the newest is of that buffer.
  std::vector<AutopsyInfo> WaitForAutopsyOf(const std::string& name, size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    std::vector<AutopsyInfo> list;
    while ((list.empty() || list[0].buffer_name != name) &&
           std::chrono::steady_clock::now() < deadline) {
      list = broker_->ListAutopsies().value();
    }
    return WaitForAutopsies(count);
  }
  CreatedBuffer CreateRing(const std::string& name, uint64_t size_bytes = 64 << 10) {
    return Create(
        {.name = name, .regions = {MediatedRingSpec(size_bytes)}, .snapshot_on_crash = true});
  }
  static std::vector<std::string> RecordsOf(const Snapshot& state) {
    std::vector<std::string> texts;
    SnapshotRecords records = SnapshotRecords::Open(state, 0).value();
    RecordView record;
    while (records.Next(&record) == ReadOutcome::kRecord) texts.push_back(TextOf(record.payload));
    return texts;
  }
};

TEST_F(AutopsyTest, OfAKilledWriterHasItsLastRecords) {
  StartDaemon();
  const CreatedBuffer buffer = CreateRing("logs");
  WriteAndEnd(buffer, {"one", "two", "three"}, KillMe);
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].buffer_name, "logs");
  EXPECT_EQ(list[0].endpoint, EndpointId::kEp1);
  EXPECT_EQ(ToString(list[0].reason), "killed(9)");
  EXPECT_EQ(list[0].omission, Omission::kNone);
  ASSERT_OK_AND_ASSIGN(const Autopsy autopsy, broker_->GetAutopsy(list[0].id));
  EXPECT_THAT(RecordsOf(autopsy.state), ::testing::ElementsAre("one", "two", "three"));
  ASSERT_TRUE(autopsy.state.region(0)->stats.has_value());
  EXPECT_EQ(autopsy.state.region(0)->stats->stored_records, 3u);
  // It stays in the store, however often it is looked at.
  EXPECT_THAT(broker_->GetAutopsy(list[0].id), IsOk());
}

TEST_F(AutopsyTest, HasNothingOfWhatWasMadeSensitive) {
  StartDaemon();
  RegionSpec secret = MediatedRingSpec(64 << 10);
  secret.placement.sensitive = true;
  const CreatedBuffer buffer =
      Create({.name = "secrets", .regions = {secret}, .snapshot_on_crash = true});
  WriteAndEnd(buffer, {"password"}, KillMe);
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(ToString(list[0].reason), "killed(9)");
  ASSERT_OK_AND_ASSIGN(const Autopsy autopsy, broker_->GetAutopsy(list[0].id));
  EXPECT_EQ(autopsy.state.region(0)->omission, Omission::kSensitive);
  EXPECT_TRUE(autopsy.state.bytes(0).empty());
}

TEST_F(AutopsyTest, OutlivesTheBufferWhoseLastEndpointCrashed) {
  StartDaemon();
  const CreatedBuffer buffer = CreateRing("gone");
  ASSERT_THAT(broker_->CloseHandle(*buffer.ep0_handle), IsOk());
  // Nobody is left who could consume, and the buffer goes with this process.
  WriteAndEnd(buffer, {"the very last"}, KillMe);
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  ExpectMetricBecomes("iob_buffers", 0);
  ASSERT_OK_AND_ASSIGN(const Autopsy autopsy, broker_->GetAutopsy(list[0].id));
  EXPECT_THAT(RecordsOf(autopsy.state), ::testing::ElementsAre("the very last"));
}

TEST_F(AutopsyTest, IsOfCrashesOnly) {
  StartDaemon();
  WriteAndEnd(CreateRing("detached"), {"x"}, [] {});  // Closed by the library's destructors.
  WriteAndEnd(CreateRing("returned"), {"x"}, [] { ::_exit(0); });
  const CreatedBuffer without =
      Create({.name = "without", .regions = {MediatedRingSpec(64 << 10)}});
  WriteAndEnd(without, {"x"}, KillMe);
  WriteAndEnd(CreateRing("failed"), {"x"}, [] { ::_exit(3); });
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].buffer_name, "failed");
  EXPECT_EQ(ToString(list[0].reason), "exited(3)");
}

TEST_F(AutopsyTest, RemembersSoManyAndSoMuchOfEachOwner) {
  // Two copies of 64 KiB fit, three do not; four crashes are remembered.
  StartDaemon({"--crash-store-count=4", "--crash-store-bytes=150KiB"});
  for (int i = 0; i < 6; ++i) {
    const std::string name = "ring" + std::to_string(i);
    WriteAndEnd(CreateRing(name), {"x"}, KillMe);
    WaitForAutopsyOf(name, static_cast<size_t>(std::min(i + 1, 4)));
  }
  const std::vector<AutopsyInfo> list = WaitForAutopsies(4);
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(list[0].buffer_name, "ring5");
  EXPECT_EQ(list[3].buffer_name, "ring2");
  EXPECT_EQ(list[0].omission, Omission::kNone);
  EXPECT_EQ(list[1].omission, Omission::kNone);
  EXPECT_EQ(list[2].omission, Omission::kEvicted);
  EXPECT_EQ(list[3].omission, Omission::kEvicted);
  // What made room gave its memory and its charge back.
  ExpectMetricBecomes("iob_snapshots", 2);
  EXPECT_EQ(Metric("iob_autopsy_bytes"), 2 * (64 << 10));
  ASSERT_OK_AND_ASSIGN(const Autopsy evicted, broker_->GetAutopsy(list[3].id));
  EXPECT_TRUE(evicted.state.bytes().empty());
  EXPECT_TRUE(evicted.state.region(0)->stats.has_value());

  WriteAndEnd(CreateRing("large", 256 << 10), {"x"}, KillMe);
  const std::vector<AutopsyInfo> after = WaitForAutopsyOf("large", 4);
  EXPECT_EQ(after[0].omission, Omission::kTooLarge);
  // It made nobody go for nothing.
  EXPECT_EQ(after[1].omission, Omission::kNone);
}

TEST_F(AutopsyTest, WithoutQuotaStillSaysHowItEnded) {
  StartDaemon({"--memory-per-uid-max=100KiB"});
  WriteAndEnd(CreateRing("poor"), {"x"}, KillMe);
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].omission, Omission::kQuota);
  EXPECT_EQ(ToString(list[0].reason), "killed(9)");
}

TEST_F(AutopsyTest, HasWhatAProducerLeftInItsLane) {
  StartDaemon();
  const CreatedBuffer buffer =
      Create({.regions = {ReserveRingSpec(64 << 10)}, .snapshot_on_crash = true});
  const Ticket ticket = broker_->Attach(*buffer.ep1_handle).value();
  Child child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    ReserveRingWriter ring = endpoint.OpenReserveWriter(0).value();
    for (const std::string text : {"first", "second"}) IOB_CHECK(ring.Write(BytesOf(text)).ok());
    KillMe();
  });
  child.Join();
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  ASSERT_OK_AND_ASSIGN(const Autopsy autopsy, broker_->GetAutopsy(list[0].id));
  EXPECT_THAT(RecordsOf(autopsy.state), ::testing::ElementsAre("first", "second"));
}

TEST_F(AutopsyTest, TellsOfAReservationThatWasNeverFinished) {
  StartDaemon();
  const CreatedBuffer buffer =
      Create({.regions = {ReserveRingSpec(64 << 10, {.mode = ReserveMode::kShared})},
              .snapshot_on_crash = true});
  const Ticket ticket = broker_->Attach(*buffer.ep1_handle).value();
  Child child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    ReserveRingWriter ring = endpoint.OpenReserveWriter(0).value();
    IOB_CHECK(ring.Write(BytesOf("whole")).ok());
    const auto reservation = ring.Reserve(100);
    IOB_CHECK(reservation.ok());
    KillMe();
  });
  child.Join();
  const std::vector<AutopsyInfo> list = WaitForAutopsies(1);
  ASSERT_EQ(list.size(), 1u);
  ASSERT_OK_AND_ASSIGN(const Autopsy autopsy, broker_->GetAutopsy(list[0].id));
  ASSERT_TRUE(autopsy.state.region(0)->unfinished.has_value());
  EXPECT_EQ(autopsy.state.region(0)->unfinished->position, 64u);
}

TEST_F(AutopsyTest, OfWhatIsNotThereIsNotFound) {
  StartDaemon();
  EXPECT_EQ(ReasonOf(broker_->GetAutopsy(1).status()), "NOT_FOUND");
  EXPECT_THAT(broker_->ListAutopsies("nobody").value(), ::testing::IsEmpty());
}

}  // namespace
}  // namespace iob::test
