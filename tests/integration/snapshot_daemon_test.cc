// Snapshots of the real daemon, through the library: what they contain while everybody goes on
// writing, who gets them, who pays, and what is left when those who asked are killed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
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
#include "client/snapshot_records.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/snapshot_fixture.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using iob::ReasonOf;  // Not that of gRPC's statuses.
using namespace std::chrono_literals;

RegionSpec Plain(uint64_t size_bytes, uint32_t access_bits = 0x33) {
  return {
      .discipline = Discipline::kNone, .size_bytes = size_bytes, .access = AccessBits(access_bits)};
}

using SnapshotTest = SnapshotFixture;

// --- Contents ------------------------------------------------------------------------------------

TEST_F(SnapshotTest, KeepsWhatWasThereWhateverIsWrittenLater) {
  StartDaemon();
  const CreatedBuffer buffer = Create({.regions = {Plain(64 << 10)}});
  Endpoint writer = Endpoint::Attach(broker_->Attach(*buffer.ep1_handle).value()).value();
  MappedRegion memory = MapAll(&writer, 0);
  std::memset(memory.writable_bytes().data(), 'a', memory.bytes().size());
  for (const Populate populate : {Populate::kLazy, Populate::kEager}) {
    ASSERT_OK_AND_ASSIGN(
        const Snapshot snapshot,
        broker_->TakeSnapshot(*buffer.ep0_handle, {.region_index = 0, .populate = populate}));
    EXPECT_TRUE(snapshot.may_be_torn());
    ASSERT_EQ(snapshot.bytes(0).size(), 64u << 10);
    const std::byte first = snapshot.bytes(0)[0];  // One page touched, the others not.
    std::memset(memory.writable_bytes().data(), 'z', memory.bytes().size());
    EXPECT_EQ(first, std::byte{'a'});
    for (const std::byte byte : snapshot.bytes(0)) ASSERT_EQ(byte, std::byte{'a'});
    std::memset(memory.writable_bytes().data(), 'a', memory.bytes().size());
  }
}

TEST_F(SnapshotTest, OfNothingIsEmptyAndCostsNothing) {
  StartDaemon();
  const CreatedBuffer buffer = Create({.regions = {Plain(0)}});
  ASSERT_OK_AND_ASSIGN(const Snapshot snapshot, broker_->TakeSnapshot(*buffer.ep0_handle));
  EXPECT_TRUE(snapshot.bytes().empty());
  EXPECT_EQ(snapshot.info().size_bytes, 0u);
  EXPECT_EQ(Metric("iob_snapshots"), 0);
}

TEST_F(SnapshotTest, WritingToItIsAFaultOfTheWriter) {
  StartDaemon();
  const CreatedBuffer buffer = Create({.regions = {Plain(4096)}});
  ASSERT_OK_AND_ASSIGN(const Snapshot snapshot, broker_->TakeSnapshot(*buffer.ep0_handle));
  std::byte* const byte = const_cast<std::byte*>(snapshot.bytes().data());
  EXPECT_NE(::mprotect(byte, 4096, PROT_READ | PROT_WRITE), 0);
  const int end = Child([byte] {
                    ::signal(SIGSEGV, SIG_DFL);
                    *const_cast<volatile std::byte*>(byte) = std::byte{1};
                  }).Join();
  EXPECT_EQ(end, 128 + SIGSEGV);
}

constexpr uint64_t kBacklogRecords = 10'000;

// A ring at full rate: every record from tail to head is whole, and they are consecutive.
// The number of the record behind the last one.
std::optional<uint64_t> ExpectWholeRecords(const Snapshot& taken, uint64_t written,
                                           uint64_t* ret_seen) {
  SnapshotRecords records = SnapshotRecords::Open(taken, 0).value();
  RecordView record;
  std::optional<uint64_t> next;
  ReadOutcome outcome = ReadOutcome::kRecord;
  while ((outcome = records.Next(&record)) == ReadOutcome::kRecord) {
    const std::string text = TextOf(record.payload);
    // The first one may be any; its text says which.
    for (uint64_t number = 0; !next && number <= written; ++number) {
      if (text.size() == 8 + number % 700 && text == PatternText(number, text.size()))
        next = number;
    }
    EXPECT_TRUE(next.has_value());
    if (!next) return next;
    EXPECT_EQ(text, PatternText(*next, 8 + *next % 700));
    *next += 1;
    *ret_seen += 1;
  }
  EXPECT_EQ(outcome, ReadOutcome::kEmpty);
  return next;
}

class SnapshotOfABusyRing : public SnapshotTest,
                            public ::testing::WithParamInterface<RingPolicy> {};

INSTANTIATE_TEST_SUITE_P(Snapshot, SnapshotOfABusyRing,
                         ::testing::Values(RingPolicy::kDropNew, RingPolicy::kOverwriteOldest),
                         [](const auto& policy) {
                           return policy.param == RingPolicy::kDropNew ? "DropNew" : "Overwrite";
                         });

TEST_P(SnapshotOfABusyRing, HasOnlyWholeRecordsInOrder) {
  StartDaemon();
  RegionSpec spec = MediatedRingSpec(8 << 20);
  spec.mediated_ring.policy = GetParam();
  const CreatedBuffer buffer = Create({.regions = {spec}});
  const bool consumes = GetParam() == RingPolicy::kDropNew;
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> written = 0;
  std::thread writer([&, ticket = broker_->Attach(*buffer.ep1_handle).value()] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    RingWriter ring = endpoint.OpenWriter(0, {.wait = consumes ? 30s : 0s}).value();
    while (!stop) {
      const uint64_t number = written;
      if (!ring.Write(BytesOf(PatternText(number, 8 + number % 700))).ok()) break;
      written = number + 1;
    }
    (void)ring.Finish(After(10s));
  });
  // A handle of its own: the consumer's is spent by attaching.
  const Handle handle = broker_->DuplicateHandle(*buffer.ep0_handle, HandleRights()).value();
  std::thread reader([&, ticket = broker_->Attach(*buffer.ep0_handle).value()] {
    if (!consumes) return;
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    RingReader ring = endpoint.OpenReader(0).value();
    // Far enough behind that there is something to copy, and often enough that it goes.
    uint64_t consumed = 0;
    while (!stop) {
      if (written - consumed < kBacklogRecords) {
        std::this_thread::yield();
        continue;
      }
      (void)ring.Drain(1000, [&consumed](const RecordView&) { consumed += 1; });
    }
    // The writer may wait for room.
    while (ring.Wait(After(200ms)).value_or(WaitOutcome::kDeadline) == WaitOutcome::kRecords)
      (void)ring.Drain(SIZE_MAX, [](const RecordView&) {});
  });
  uint64_t records_seen = 0;
  uint64_t with_records = 0;
  for (int round = 0; round < 40; ++round) {
    const uint64_t before = written;
    const auto taken =
        broker_->TakeSnapshot(handle, {.region_index = 0, .require_consistent = true});
    EXPECT_THAT(taken, IsOk());
    if (!taken.ok()) break;
    const std::optional<uint64_t> next = ExpectWholeRecords(*taken, written, &records_seen);
    if (next) {
      with_records += 1;
      // Not of yesterday: what the daemon had stored when it was asked for is there.
      EXPECT_GE(*next + 1000, before);
    }
  }
  stop = true;
  writer.join();
  reader.join();
  EXPECT_GT(with_records, 5u);
  EXPECT_GT(records_seen, 1000u);
}

TEST_F(SnapshotTest, OfAWholeBufferIsCutAtOneInstant) {
  StartDaemon();
  // The writer writes to ring 0 first, then to ring 1: no instant has more records in ring 1.
  const CreatedBuffer buffer =
      Create({.regions = {MediatedRingSpec(4 << 20), MediatedRingSpec(4 << 20)}});
  std::atomic<bool> stop = false;
  std::thread writer([&, ticket = broker_->Attach(*buffer.ep1_handle).value()] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    RingWriterOptions options{.transport = TransportChoice::kSocket};
    RingWriter first = endpoint.OpenWriter(0, options).value();
    RingWriter second = endpoint.OpenWriter(1, options).value();
    for (int i = 0; i < 5000 && !stop; ++i) {
      if (!first.Write(BytesOf("one")).ok() || !first.Finish(After(10s)).ok()) break;
      if (!second.Write(BytesOf("two")).ok() || !second.Finish(After(10s)).ok()) break;
    }
  });
  for (int round = 0; round < 30; ++round) {
    ASSERT_OK_AND_ASSIGN(const Snapshot snapshot, broker_->TakeSnapshot(*buffer.ep0_handle));
    EXPECT_FALSE(snapshot.may_be_torn());
    const uint64_t first = snapshot.region(0)->head;
    const uint64_t second = snapshot.region(1)->head;
    EXPECT_GE(first, second);
    EXPECT_LE(first, second + 24);  // One record.
  }
  stop = true;
  writer.join();
}

TEST_F(SnapshotTest, OfOneSharedRegionUsedTwiceIsTwiceTheSame) {
  StartDaemon();
  const CreatedSharedRegion shared = broker_->CreateSharedRegion(64 << 10).value();
  const CreatedBuffer buffer =
      Create({.regions = {SharedRingSpec(shared.handle), SharedRingSpec(shared.handle)}});
  const std::string text = "in both";
  const std::span<const std::byte> part = BytesOf(text);
  ASSERT_THAT(broker_->Write(*buffer.ep1_handle, 0, std::span(&part, 1)), IsOk());
  ASSERT_OK_AND_ASSIGN(const Snapshot snapshot, broker_->TakeSnapshot(*buffer.ep0_handle));
  ASSERT_EQ(snapshot.bytes(0).size(), snapshot.bytes(1).size());
  EXPECT_EQ(
      std::memcmp(snapshot.bytes(0).data(), snapshot.bytes(1).data(), snapshot.bytes(0).size()), 0);
  ASSERT_OK_AND_ASSIGN(SnapshotRecords records, SnapshotRecords::Open(snapshot, 1));
  RecordView record;
  ASSERT_EQ(records.Next(&record), ReadOutcome::kRecord);
  EXPECT_EQ(TextOf(record.payload), text);
}

TEST_F(SnapshotTest, GoesOnWhenItsBufferIsDeletedMeanwhile) {
  StartDaemon();
  for (int round = 0; round < 10; ++round) {
    const CreatedBuffer buffer = Create({.regions = {MediatedRingSpec(8 << 20), Plain(16 << 20)}});
    const std::string text = "the last one";
    const std::span<const std::byte> part = BytesOf(text);
    ASSERT_THAT(broker_->Write(*buffer.ep1_handle, 0, std::span(&part, 1)), IsOk());
    std::thread deleter([&, koid = buffer.info.koid] {
      EXPECT_THAT(broker_->DeleteBuffer(koid, /*force=*/true), IsOk());
    });
    const auto taken = broker_->TakeSnapshot(*buffer.ep0_handle);
    deleter.join();
    if (!taken.ok()) {
      // It was deleted first, and its handles with it.
      EXPECT_EQ(ReasonOf(taken.status()), "BAD_HANDLE") << taken.status();
      continue;
    }
    ASSERT_OK_AND_ASSIGN(SnapshotRecords records, SnapshotRecords::Open(*taken, 0));
    RecordView record;
    ASSERT_EQ(records.Next(&record), ReadOutcome::kRecord);
    EXPECT_EQ(TextOf(record.payload), text);
  }
}

// --- Rights --------------------------------------------------------------------------------------

TEST_F(SnapshotTest, ShowsNobodyWhatHisHandleMayNotRead) {
  StartDaemon();
  // Region 0: ep1 may write only through the broker. Region 1: both may read.
  const CreatedBuffer buffer = Create({.regions = {MediatedRingSpec(64 << 10), Plain(4096)}});
  EXPECT_EQ(ReasonOf(broker_->TakeSnapshot(*buffer.ep1_handle, {.region_index = 0}).status()),
            "ACCESS_DENIED");
  ASSERT_OK_AND_ASSIGN(const Snapshot all, broker_->TakeSnapshot(*buffer.ep1_handle));
  EXPECT_EQ(all.region(0)->omission, Omission::kAccess);
  EXPECT_TRUE(all.bytes(0).empty());
  EXPECT_EQ(all.bytes(1).size(), 4096u);

  const uint32_t rights = HandleRights().bits() & ~HandleRights::kRead;
  ASSERT_OK_AND_ASSIGN(const Handle blind,
                       broker_->DuplicateHandle(*buffer.ep0_handle, HandleRights(rights)));
  EXPECT_EQ(ReasonOf(broker_->TakeSnapshot(blind).status()), "ACCESS_DENIED");
  EXPECT_EQ(ReasonOf(broker_->TakeSnapshot(*buffer.ep0_handle, {.region_index = 2}).status()),
            "OUT_OF_RANGE");
}

TEST_F(SnapshotTest, ThatMustBeConsistentIsRefusedWhereAnEndpointMayWrite) {
  StartDaemon();
  const CreatedBuffer buffer = Create({.regions = {Plain(4096, 0x13)}});
  const auto refused =
      broker_->TakeSnapshot(*buffer.ep1_handle, {.require_consistent = true}).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(refused), "MAY_BE_TORN");
  // Nobody is left who could write.
  ASSERT_THAT(broker_->CloseHandle(*buffer.ep0_handle), IsOk());
  EXPECT_THAT(broker_->TakeSnapshot(*buffer.ep1_handle, {.require_consistent = true}), IsOk());
}

TEST_F(SnapshotTest, NeverHasWhatWasMadeSensitive) {
  StartDaemon();
  RegionSpec secret = MediatedRingSpec(64 << 10);
  secret.placement.sensitive = true;
  const CreatedBuffer buffer = Create({.regions = {secret, Plain(4096)}});
  const auto refused = broker_->TakeSnapshot(*buffer.ep0_handle, {.region_index = 0}).status();
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(refused), "NOT_COPIED");
  ASSERT_OK_AND_ASSIGN(const Snapshot all, broker_->TakeSnapshot(*buffer.ep0_handle));
  EXPECT_EQ(all.region(0)->omission, Omission::kSensitive);
  EXPECT_TRUE(all.bytes(0).empty());
  EXPECT_EQ(all.bytes(1).size(), 4096u);
}

// --- Who pays, and until when --------------------------------------------------------------------

TEST_F(SnapshotTest, CountsUntilItIsUnmapped) {
  StartDaemon();
  const CreatedBuffer buffer = Create({.regions = {Plain(1 << 20)}});
  const double before = Metric("iob_memory_bytes");
  {
    ASSERT_OK_AND_ASSIGN(const Snapshot one, broker_->TakeSnapshot(*buffer.ep0_handle));
    ASSERT_OK_AND_ASSIGN(const Snapshot two, broker_->TakeSnapshot(*buffer.ep0_handle));
    EXPECT_EQ(Metric("iob_snapshots"), 2);
    EXPECT_EQ(Metric("iob_snapshot_bytes"), 2 << 20);
    EXPECT_EQ(Metric("iob_memory_bytes"), before + (2 << 20));
  }
  ExpectMetricBecomes("iob_snapshots", 0);
  EXPECT_EQ(Metric("iob_memory_bytes"), before);
  EXPECT_EQ(Metric("iob_snapshot_bytes"), 0);
}

TEST_F(SnapshotTest, StopsAtTheQuotaOfWhoAsks) {
  StartDaemon({"--memory-per-uid-max=3MiB"});
  const CreatedBuffer buffer = Create({.regions = {Plain(1 << 20)}});
  ASSERT_OK_AND_ASSIGN(const Snapshot one, broker_->TakeSnapshot(*buffer.ep0_handle));
  const auto refused = broker_->TakeSnapshot(*buffer.ep0_handle).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "QUOTA");
  EXPECT_EQ(Metric("iob_snapshots"), 1);
}

TEST_F(SnapshotTest, ThatNobodyFetchesIsGoneWithItsTicket) {
  StartDaemon({"--ticket-lifetime-ms=200"});
  const CreatedBuffer buffer = Create({.regions = {Plain(1 << 20)}});
  v1::SnapshotRequest request;
  const Secret& secret = buffer.ep0_handle->secret();
  request.set_handle(secret.data(), secret.size());
  v1::SnapshotResponse response;
  // Over the library's connection the handle would be good, too; a handle is the uid's.
  const grpc::Status status =
      Call(daemon_->stub(), &v1::BrokerService::StubInterface::Snapshot, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.ticket().ticket().size(), 16u);
  EXPECT_EQ(response.info().size_bytes(), 1u << 20);
  ExpectMetricBecomes("iob_snapshots", 0);
  EXPECT_EQ(Metric("iob_snapshot_tickets"), 0);
}

// The daemon's own account of how long it ever held up loop and rings.
TEST_F(SnapshotTest, NeverHoldsTheLoopForMoreThanTheCut) {
  StartDaemon();
  RegionSpec spec = MediatedRingSpec(32 << 20);
  const CreatedBuffer buffer = Create({.regions = {spec}});
  {
    Endpoint writer = Endpoint::Attach(broker_->Attach(*buffer.ep1_handle).value()).value();
    RingWriter ring = writer.OpenWriter(0).value();
    const std::string text(60'000, 'x');
    for (int i = 0; i < 500; ++i) ASSERT_THAT(ring.Write(BytesOf(text)), IsOk());
    ASSERT_THAT(ring.Finish(After(20s)), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(const Snapshot snapshot, broker_->TakeSnapshot(*buffer.ep0_handle));
  EXPECT_GT(snapshot.region(0)->head, 28u << 20);
  // Everything was copied before the cut, so there was nothing left to do under the lock.
  EXPECT_EQ(Metric("iob_snapshot_cut_bytes_largest"), 0);
}

}  // namespace
}  // namespace iob::test
