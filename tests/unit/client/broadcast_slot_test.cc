// Broadcast rings and slots through libiob, against a real daemon: followers see everything or know
// exactly what they missed, a value is whole and never an old one, and a killed writer has a
// successor.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "client/broadcast.h"
#include "client/slot.h"
#include "tests/unit/client/direct_rings.h"

namespace iob::test {
namespace {

using absl::StatusCode;

// ---- Broadcast ----------------------------------------------------------------------------------

class Broadcast : public DirectRings {
 protected:
  static constexpr uint64_t kRegionBytes = 8192;

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(DirectRings::SetUp());
    ASSERT_NO_FATAL_FAILURE(Make(BroadcastSpec(kRegionBytes)));
  }
  BroadcastFollower Follow(FollowFrom from = FollowFrom::kOldest) {
    return consumer_->OpenBroadcastFollower(0, from).value();
  }
};

// What record number `n` says, whoever wrote it.
std::string TextOfNumber(uint64_t n) {
  return std::to_string(n) + std::string(static_cast<size_t>(n % 300), '.');
}

// Reads all that is there; each record says its number, and B1 holds throughout.
void ExpectNumbers(BroadcastFollower& follower, uint64_t* records) {
  BroadcastRecord record;
  uint64_t due = follower.next_sequence();
  while (true) {
    const absl::StatusOr<bool> read = follower.TryRead(&record);
    ASSERT_THAT(read, IsOk());
    ASSERT_EQ(follower.received_records() + follower.lost_records(),
              follower.next_sequence() - follower.first_sequence());
    if (!*read) return;
    ASSERT_EQ(record.sequence, due + record.lost_records);
    ASSERT_EQ(AsText(record.payload), TextOfNumber(record.sequence));
    due = record.sequence + 1;
    ++*records;
  }
}

TEST_F(Broadcast, ReachesEveryFollowerFromWhereItBegan) {
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(BroadcastWriter writer, producer.OpenBroadcastWriter(0));
  BroadcastFollower first = Follow();
  EXPECT_THAT(writer.Write(AsBytes("0")), IsOk());
  BroadcastFollower late = Follow(FollowFrom::kNewest);
  BroadcastFollower early = Follow(FollowFrom::kOldest);
  EXPECT_THAT(writer.Append(AsBytes("1.")), IsOk());
  BroadcastRecord record;
  EXPECT_TRUE(first.TryRead(&record).value());
  EXPECT_FALSE(first.TryRead(&record).value());  // Not published yet.
  writer.Publish();
  ASSERT_OK_AND_ASSIGN(const std::span<std::byte> room, writer.Reserve(100));
  std::memcpy(room.data(), "2..", 3);
  EXPECT_THAT(writer.Submit(101), StatusIs(StatusCode::kInvalidArgument));
  EXPECT_THAT(writer.Submit(3), IsOk());
  writer.Publish();

  for (BroadcastFollower* follower : {&first, &late, &early}) {
    uint64_t records = 0;
    ASSERT_NO_FATAL_FAILURE(ExpectNumbers(*follower, &records));
    EXPECT_EQ(records, follower == &early ? 3u : 2u);
    EXPECT_EQ(follower->lost_records(), 0u);
  }
  EXPECT_EQ(record.tag, producer.info().regions[0].tag);
  EXPECT_EQ(writer.next_sequence(), 3u);
  EXPECT_EQ(Stats().stored_records, 3u);
}

TEST_F(Broadcast, CountsWhatASlowFollowerMissed) {
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(BroadcastWriter writer, producer.OpenBroadcastWriter(0));
  BroadcastFollower slow = Follow();
  for (uint64_t n = 0; n < 100; ++n) {
    ASSERT_THAT(writer.Write(AsBytes(TextOfNumber(n))), IsOk());
  }
  uint64_t records = 0;
  ASSERT_NO_FATAL_FAILURE(ExpectNumbers(slow, &records));
  EXPECT_GT(records, 0u);
  EXPECT_GT(slow.lost_records(), 0u);
  EXPECT_EQ(records + slow.lost_records(), 100u);
  const RingStats stats = Stats();
  EXPECT_EQ(stats.stored_records, 100u);
  EXPECT_EQ(stats.overwritten_records, slow.lost_records());
  EXPECT_EQ(writer.figures().overwritten_records, slow.lost_records());

  EXPECT_THAT(writer.Write(std::vector<std::byte>(writer.payload_bytes_max() + 1)),
              StatusIs(StatusCode::kInvalidArgument));
  // A record as long as the ring, into a buffer that began small.
  EXPECT_THAT(writer.Write(std::vector<std::byte>(writer.payload_bytes_max())), IsOk());
  BroadcastRecord record;
  EXPECT_TRUE(slow.TryRead(&record).value());
  EXPECT_EQ(record.payload.size(), writer.payload_bytes_max());
}

TEST_F(Broadcast, WakesItsFollowersInAllWaysAndTellsOfTheEnd) {
  Turn go;
  const Ticket ticket = ProducerTicket();
  Producer child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    BroadcastWriter writer = endpoint.OpenBroadcastWriter(0).value();
    for (uint64_t n = 0; n < 3; ++n) {
      ASSERT_TRUE(go.Take());
      ASSERT_THAT(writer.Write(AsBytes(TextOfNumber(n))), IsOk());
    }
    ASSERT_TRUE(go.Take());
  });
  DropProducers();
  BroadcastFollower follower = Follow();
  uint64_t records = 0;
  EXPECT_EQ(follower.Wait(After(10ms)).value(), WaitOutcome::kDeadline);
  go.Give();
  EXPECT_EQ(follower.Wait(After(kPatience)).value(), WaitOutcome::kRecords);
  ASSERT_NO_FATAL_FAILURE(ExpectNumbers(follower, &records));

  ASSERT_TRUE(follower.ArmFd());
  EXPECT_FALSE(ReadableBy(follower.fd(), 0ms));
  go.Give();
  ASSERT_TRUE(ReadableBy(follower.fd(), kPatience));
  EXPECT_FALSE(follower.ArmFd());
  ASSERT_NO_FATAL_FAILURE(ExpectNumbers(follower, &records));

  go.Give();
  go.Give();
  ASSERT_TRUE(Eventually([&] { return consumer_->peer_closed(); }));
  EXPECT_EQ(follower.Wait(After(kPatience)).value(), WaitOutcome::kRecords);
  ASSERT_NO_FATAL_FAILURE(ExpectNumbers(follower, &records));
  EXPECT_EQ(records, 3u);
  EXPECT_EQ(follower.Wait(After(kPatience)).value(), WaitOutcome::kPeerClosed);
  EXPECT_EQ(child.Join(), 0);
}

// Three writers, each killed while it writes as fast as it can.
TEST_F(Broadcast, IsExactAcrossWritersThatAreKilled) {
  BroadcastFollower follower = Follow();
  uint64_t records = 0;
  for (int life = 0; life < 3; ++life) {
    const Ticket ticket = ProducerTicket();
    Producer child([&] {
      Endpoint endpoint = AttachInTime(ticket);
      BroadcastWriter writer = endpoint.OpenBroadcastWriter(0).value();
      while (true) {
        if (!writer.Write(AsBytes(TextOfNumber(writer.next_sequence()))).ok()) return;
      }
    });
    const uint64_t end = follower.next_sequence() + 2'000;
    while (follower.next_sequence() < end) {
      ASSERT_EQ(follower.Wait(After(kPatience)).value(), WaitOutcome::kRecords);
      ASSERT_NO_FATAL_FAILURE(ExpectNumbers(follower, &records));
    }
    child.Kill();
    EXPECT_EQ(child.Join(), 128 + SIGKILL);
  }
  Endpoint producer = AttachInTime(ProducerTicket());
  ASSERT_OK_AND_ASSIGN(BroadcastWriter writer, producer.OpenBroadcastWriter(0));
  ASSERT_NO_FATAL_FAILURE(ExpectNumbers(follower, &records));
  EXPECT_EQ(records, follower.received_records());
  EXPECT_EQ(follower.received_records() + follower.lost_records(), writer.next_sequence());
  EXPECT_EQ(Stats().stored_records, writer.next_sequence());
}

TEST_F(Broadcast, HasOneWriterAndKeepsEverybodyToHisRole) {
  Endpoint producer = AttachProducer().value();
  const auto reason = [](const auto& result) { return iob::ReasonOf(result.status()); };
  EXPECT_EQ(reason(AttachProducer()), "QUOTA");
  EXPECT_EQ(reason(producer.OpenBroadcastFollower(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenBroadcastWriter(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenReserveReader(0)), "WRONG_DISCIPLINE");
  ASSERT_OK_AND_ASSIGN(const BroadcastWriter writer, producer.OpenBroadcastWriter(0));
  EXPECT_EQ(reason(producer.OpenBroadcastWriter(0)), "IN_USE");
  // The refused one's ticket would keep the buffer for its lifetime.
  EXPECT_THAT(broker_->DeleteBuffer(buffer_->info.koid, /*force=*/true), IsOk());
  buffer_.reset();
}

// ---- Slot ---------------------------------------------------------------------------------------

class Slot : public DirectRings {
 protected:
  static constexpr uint64_t kValueBytes = 1000;

  void MakeSlot(const RegionSpec& spec = SlotSpec(kValueBytes)) {
    ASSERT_NO_FATAL_FAILURE(Make(spec));
    ASSERT_OK_AND_ASSIGN(SlotReader reader, consumer_->OpenSlotReader(0));
    reader_.emplace(std::move(reader));
  }
  void TearDown() override {
    reader_.reset();
    DirectRings::TearDown();
  }
  std::optional<SlotReader> reader_;
};

// A value that shows when it is not whole: all bytes and the length follow from the version.
std::string ValueOf(uint64_t version) {
  return std::string(static_cast<size_t>(1 + version % 1000),
                     static_cast<char>('a' + version % 26));
}

TEST_F(Slot, HoldsTheLatestValueForEveryReader) {
  ASSERT_NO_FATAL_FAILURE(MakeSlot());
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(SlotWriter writer, producer.OpenSlotWriter(0));
  SlotCopy copy;
  EXPECT_FALSE(reader_->TryRead(&copy).value());
  EXPECT_EQ(reader_->Wait(Deadline()).value(), WaitOutcome::kDeadline);
  EXPECT_EQ(writer.version(), 0u);
  EXPECT_EQ(writer.value_bytes_max(), kValueBytes);
  EXPECT_EQ(reader_->value_bytes_max(), kValueBytes);

  EXPECT_THAT(writer.Write(AsBytes("first")), IsOk());
  EXPECT_THAT(writer.Write(AsBytes(std::string(kValueBytes, 's'))), IsOk());
  EXPECT_THAT(writer.Write(AsBytes(std::string(kValueBytes + 1, 'x'))),
              StatusIs(StatusCode::kInvalidArgument));
  EXPECT_EQ(reader_->Wait(Deadline()).value(), WaitOutcome::kRecords);
  for (int again = 0; again < 2; ++again) {
    EXPECT_TRUE(reader_->TryRead(&copy).value());
    EXPECT_EQ(copy.version, 2u);
    EXPECT_EQ(AsText(copy.bytes), std::string(kValueBytes, 's'));
    EXPECT_FALSE(reader_->HasNewer());
  }
  ASSERT_OK_AND_ASSIGN(SlotReader other, consumer_->OpenSlotReader(0));
  EXPECT_TRUE(other.HasNewer());
  EXPECT_THAT(writer.Write({}), IsOk());
  EXPECT_TRUE(other.TryRead(&copy).value());
  EXPECT_EQ(copy.version, 3u);
  EXPECT_TRUE(copy.bytes.empty());
  EXPECT_EQ(Stats().stored_records, 3u);
}

// A region larger than four such values need: both sides must find the same cells.
TEST_F(Slot, WorksInARegionThatIsLargerThanItNeeds) {
  RegionSpec spec = SlotSpec(100);
  spec.size_bytes = 64 << 10;
  ASSERT_NO_FATAL_FAILURE(MakeSlot(spec));
  Endpoint producer = AttachProducer().value();
  ASSERT_OK_AND_ASSIGN(SlotWriter writer, producer.OpenSlotWriter(0));
  for (uint64_t version = 1; version <= 9; ++version) {
    EXPECT_THAT(writer.Write(AsBytes(std::to_string(version))), IsOk());
    SlotCopy copy;
    EXPECT_TRUE(reader_->TryRead(&copy).value());
    EXPECT_EQ(AsText(copy.bytes), std::to_string(version));
  }
  EXPECT_THAT(writer.Write(AsBytes(std::string(101, 'x'))), StatusIs(StatusCode::kInvalidArgument));
}

TEST_F(Slot, IsWholeAndNeverGoesBackAcrossWritersThatAreKilled) {
  ASSERT_NO_FATAL_FAILURE(MakeSlot());
  SlotCopy copy;
  uint64_t latest = 0;
  for (int life = 0; life < 3; ++life) {
    const Ticket ticket = ProducerTicket();
    Producer child([&] {
      Endpoint endpoint = AttachInTime(ticket);
      SlotWriter writer = endpoint.OpenSlotWriter(0).value();
      while (true) {
        if (!writer.Write(AsBytes(ValueOf(writer.version() + 1))).ok()) return;
      }
    });
    const uint64_t end = latest + 2'000;
    while (latest < end) {
      ASSERT_EQ(reader_->Wait(After(kPatience)).value(), WaitOutcome::kRecords);
      const auto read = reader_->TryRead(&copy);
      if (absl::IsUnavailable(read.status())) continue;
      ASSERT_TRUE(read.value());
      ASSERT_GT(copy.version, latest);
      ASSERT_EQ(AsText(copy.bytes), ValueOf(copy.version));
      latest = copy.version;
    }
    child.Kill();
    EXPECT_EQ(child.Join(), 128 + SIGKILL);
  }
  Endpoint producer = AttachInTime(ProducerTicket());
  ASSERT_OK_AND_ASSIGN(SlotWriter writer, producer.OpenSlotWriter(0));
  EXPECT_TRUE(reader_->TryRead(&copy).value());
  EXPECT_EQ(copy.version, writer.version());
  EXPECT_EQ(AsText(copy.bytes), ValueOf(copy.version));
}

TEST_F(Slot, WakesItsReadersInAllWaysAndTellsOfTheEnd) {
  ASSERT_NO_FATAL_FAILURE(MakeSlot());
  Turn go;
  const Ticket ticket = ProducerTicket();
  Producer child([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    SlotWriter writer = endpoint.OpenSlotWriter(0).value();
    while (go.Take()) ASSERT_THAT(writer.Write(AsBytes(ValueOf(writer.version() + 1))), IsOk());
  });
  DropProducers();
  SlotCopy copy;
  EXPECT_EQ(reader_->Wait(After(10ms)).value(), WaitOutcome::kDeadline);
  go.Give();
  EXPECT_EQ(reader_->Wait(After(kPatience)).value(), WaitOutcome::kRecords);
  EXPECT_TRUE(reader_->TryRead(&copy).value());

  ASSERT_TRUE(reader_->ArmFd());
  EXPECT_FALSE(ReadableBy(reader_->fd(), 0ms));
  go.Give();
  ASSERT_TRUE(ReadableBy(reader_->fd(), kPatience));
  EXPECT_FALSE(reader_->ArmFd());
  EXPECT_TRUE(reader_->TryRead(&copy).value());
  EXPECT_EQ(copy.version, 2u);

  child.Kill();
  EXPECT_EQ(reader_->Wait(After(kPatience)).value(), WaitOutcome::kPeerClosed);
  EXPECT_EQ(consumer_->close_reason(), (CloseReason{.kind = CloseKind::kKilled, .code = SIGKILL}));
  EXPECT_FALSE(reader_->ArmFd());
}

TEST_F(Slot, KeepsEverybodyToHisRole) {
  ASSERT_NO_FATAL_FAILURE(MakeSlot());
  Endpoint producer = AttachProducer().value();
  const auto reason = [](const auto& result) { return iob::ReasonOf(result.status()); };
  EXPECT_EQ(reason(producer.OpenSlotReader(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenSlotWriter(0)), "ACCESS_DENIED");
  EXPECT_EQ(reason(consumer_->OpenBroadcastFollower(0)), "WRONG_DISCIPLINE");
  ASSERT_OK_AND_ASSIGN(const SlotWriter writer, producer.OpenSlotWriter(0));
  EXPECT_EQ(reason(producer.OpenSlotWriter(0)), "IN_USE");
}

}  // namespace
}  // namespace iob::test
