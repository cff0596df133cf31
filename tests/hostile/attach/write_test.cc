// Writes over the attach socket that are wrong, that nobody reads the answers of, and that wait for
// room: every record is accounted for, in the answer and in the ledger.

#include <signal.h>
#include <sys/wait.h>

#include <numeric>

#include "tests/hostile/attach/attach_test.h"
#include "tests/hostile/attach/peer_process.h"

namespace iob::test {
namespace {

// What the small ring takes: 4 records of 1000 bytes (1016 each), not 5.
const std::string kQuarter(1000, 'q');

uint32_t Lost(const v1::WriteResult& result, v1::LossCause cause) {
  return std::accumulate(result.lost().begin(), result.lost().end(), 0u,
                         [cause](uint32_t sum, const v1::RecordLoss& loss) {
                           return loss.cause() == cause ? sum + loss.count() : sum;
                         });
}

class WriteTest : public AttachBothWays {
 protected:
  void SetUp() override { StartDaemon(GetParam()); }

  // A ring that is full, both ends attached.
  void FillRing(uint32_t more = 0) {
    made_ = MakeRing();
    consumer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(consumer_->Attach(made_.ep0_ticket), "");
    writer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(writer_->Attach(made_.ep1_ticket), "");
    ASSERT_EQ(writer_->SendWrite(0, std::vector<std::string>(4 + more, kQuarter)), 0);
    const auto result = writer_->ReceiveResult();
    ASSERT_TRUE(result.has_value());
    ASSERT_EQ(result->stored(), 4u);
    ASSERT_EQ(Lost(*result, v1::LOSS_CAUSE_FULL), more);
  }
  void TearDown() override {
    consumer_.reset();
    writer_.reset();
    AttachBothWays::TearDown();
  }
  uint32_t WantedRoom() {
    const uint8_t* const data = consumer_->SectionBytes(0, v1::SECTION_KIND_DATA);
    return *reinterpret_cast<const uint32_t*>(data + kSmallRingCapacity + 64);
  }

  MadeBuffer made_;
  std::unique_ptr<RawClient> consumer_;
  std::unique_ptr<RawClient> writer_;
};

INSTANTIATE_TEST_SUITE_P(Daemon, WriteTest,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(WriteTest, AWriteThatMayNotBeIsRefusedByName) {
  struct Case {
    bool as_consumer;
    uint32_t region_index;
    grpc::StatusCode code;
    v1::ErrorReason reason;
    std::string what;
  };
  const Case cases[] = {
      {false, 2, grpc::StatusCode::OUT_OF_RANGE, v1::ERROR_REASON_OUT_OF_RANGE,
       "region_index: 2, the buffer has 2"},
      {false, UINT32_MAX, grpc::StatusCode::OUT_OF_RANGE, v1::ERROR_REASON_OUT_OF_RANGE,
       "region_index: 4294967295"},
      {false, 1, grpc::StatusCode::FAILED_PRECONDITION, v1::ERROR_REASON_WRONG_DISCIPLINE,
       "region 1 is DISCIPLINE_NONE"},
      {true, 0, grpc::StatusCode::PERMISSION_DENIED, v1::ERROR_REASON_ACCESS_DENIED,
       "ep0 has no mediated-write right to region 0"},
  };
  for (const Case& wrong : cases) {
    const MadeBuffer made = MakeRingAndMemory();
    RawClient client(attach_path());
    ASSERT_EQ(client.Attach(wrong.as_consumer ? made.ep0_ticket : made.ep1_ticket), "");
    ASSERT_EQ(client.SendWrite(wrong.region_index, {"record"}), 0);
    ExpectRefused(client.ReadToEnd(), wrong.code, wrong.reason, wrong.what);
    EXPECT_EQ(Stats(made.koid).attempted_records(), 0u);
  }
}

TEST_P(WriteTest, RecordsAtAndBeyondTheLimitAreToldApart) {
  const MadeBuffer made = MakeRing(1 << 20);
  RawClient writer(attach_path());
  ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
  ASSERT_EQ(writer.SendWrite(0, {std::string(65519, 'm')}), 0);
  EXPECT_EQ(writer.ReceiveResult()->stored(), 1u);
  ASSERT_EQ(writer.SendWrite(0, {std::string(65520, 'm')}), 0);
  const auto result = writer.ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 0u);
  EXPECT_EQ(Lost(*result, v1::LOSS_CAUSE_TOO_LARGE), 1u);
  const v1::RingStats stats = Stats(made.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 2u);
  EXPECT_EQ(stats.attempted_bytes(), 65519u + 65520u);
}

TEST_P(WriteTest, AnEmptyBatchIsAnsweredAndCountsNothing) {
  const MadeBuffer made = MakeRing();
  RawClient writer(attach_path());
  ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
  for (const uint32_t wait_ms : {0u, 1000u}) {
    ASSERT_EQ(writer.SendWrite(0, {}, wait_ms), 0);
    const auto result = writer.ReceiveResult();
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->stored(), 0u);
    EXPECT_EQ(result->lost_size(), 0);
  }
  EXPECT_EQ(Stats(made.koid).attempted_records(), 0u);
}

TEST_P(WriteTest, RoomMadeForARegionThatDoesNotExistChangesNothing) {
  FillRing();
  for (const uint32_t region_index : {0u, 1u, UINT32_MAX}) {
    ASSERT_EQ(consumer_->SendRoomMade(region_index), 0);
    ASSERT_EQ(writer_->SendRoomMade(region_index), 0);
  }
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter}), 0);
  EXPECT_EQ(Lost(*writer_->ReceiveResult(), v1::LOSS_CAUSE_FULL), 1u);
  ExpectBalanced(Stats(made_.koid));
}

TEST_P(WriteTest, AWriterThatNeverReadsItsAnswersIsHeldBackAlone) {
  const MadeBuffer made = MakeRing();
  RawClient deaf(attach_path());
  ASSERT_EQ(deaf.Attach(made.ep1_ticket), "");
  v1::ClientPacket packet;
  packet.mutable_write()->add_records("r");
  const std::string bytes = packet.SerializeAsString();
  uint64_t sent = 0;
  constexpr uint64_t kTooMany = 200'000;
  // Full for longer than the daemon needs to take one: it has stopped reading.
  while (sent < kTooMany && deaf.SendBytes(bytes, {}, 300) == 0) ++sent;
  ASSERT_LT(sent, kTooMany) << "nothing held the writer back";
  // Others are served meanwhile.
  const MadeBuffer other = MakeRing();
  RawClient lively(attach_path());
  ASSERT_EQ(lively.Attach(other.ep1_ticket), "");
  ASSERT_EQ(lively.SendWrite(0, {"x"}), 0);
  EXPECT_EQ(lively.ReceiveResult()->stored(), 1u);
  EXPECT_TRUE(daemon_->Healthy());
  // Once it reads, every batch has its answer, and the books agree.
  uint64_t stored = 0;
  uint64_t lost = 0;
  for (uint64_t i = 0; i < sent; ++i) {
    const auto result = deaf.ReceiveResult();
    ASSERT_TRUE(result.has_value()) << "answer " << i << " of " << sent << " is missing";
    stored += result->stored();
    lost += Lost(*result, v1::LOSS_CAUSE_FULL);
  }
  EXPECT_EQ(stored + lost, sent);
  const v1::RingStats stats = Stats(made.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.stored_records(), stored);
  EXPECT_EQ(stats.attempted_records(), sent);
}

TEST_P(WriteTest, AWriterThatNeverReadsAndGoesIsAccountedFor) {
  const MadeBuffer made = MakeRing();
  {
    RawClient deaf(attach_path());
    ASSERT_EQ(deaf.Attach(made.ep1_ticket), "");
    v1::ClientPacket packet;
    packet.mutable_write()->add_records("r");
    while (deaf.SendBytes(packet.SerializeAsString(), {}, 200) == 0) {
    }
  }
  EXPECT_TRUE(Eventually([this] { return Metric("iob_attachments") == 0; }));
  const v1::RingStats stats = Stats(made.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.stored_records(), kSmallRingCapacity / 24);
}

TEST_P(WriteTest, AWaitingBatchIsStoredWhenRoomIsMade) {
  FillRing();
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter, kQuarter}, 60'000), 0);
  ASSERT_TRUE(Eventually([this] { return WantedRoom() == 1016; }));
  consumer_->SetTail(0, 1016);
  ASSERT_EQ(consumer_->SendRoomMade(0), 0);
  // One of the two fits; the other waits on.
  ASSERT_TRUE(Eventually([this] { return Stats(made_.koid).stored_records() == 5; }));
  ASSERT_TRUE(Eventually([this] { return WantedRoom() == 1016; }));
  consumer_->SetTail(0, 2 * 1016);
  ASSERT_EQ(consumer_->SendRoomMade(0), 0);
  const auto result = writer_->ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 2u);
  EXPECT_EQ(result->lost_size(), 0);
  EXPECT_EQ(WantedRoom(), 0u);
  ExpectBalanced(Stats(made_.koid));
}

TEST_P(WriteTest, AWaitingBatchEndsAtItsDeadline) {
  FillRing();
  ASSERT_EQ(writer_->SendWrite(0, {std::string(8, 'f'), kQuarter, kQuarter}, 100), 0);
  const auto result = writer_->ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 1u);
  EXPECT_EQ(Lost(*result, v1::LOSS_CAUSE_DEADLINE), 2u);
  EXPECT_EQ(result->lost(0).first_index(), 1u);
  EXPECT_TRUE(Eventually([this] { return WantedRoom() == 0; }));
  const v1::RingStats stats = Stats(made_.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 7u);
  EXPECT_EQ(Rejected(stats, v1::LOSS_CAUSE_DEADLINE), 2u);
  // The connection goes on.
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter}), 0);
  EXPECT_EQ(Lost(*writer_->ReceiveResult(), v1::LOSS_CAUSE_FULL), 1u);
}

TEST_P(WriteTest, TheConsumerGoesAndTheWaitingBatchIsLostAsClosed) {
  FillRing();
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter, kQuarter, kQuarter}, 60'000), 0);
  ASSERT_TRUE(Eventually([this] { return WantedRoom() == 1016; }));
  consumer_.reset();
  const auto result = writer_->ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 0u);
  EXPECT_EQ(Lost(*result, v1::LOSS_CAUSE_CLOSED), 3u);
  // The next one does not even start to wait.
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter}, 60'000), 0);
  EXPECT_EQ(Lost(*writer_->ReceiveResult(), v1::LOSS_CAUSE_CLOSED), 1u);
  const v1::RingStats stats = Stats(made_.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(Rejected(stats, v1::LOSS_CAUSE_CLOSED), 4u);
}

TEST_P(WriteTest, TheBufferIsDeletedAndTheWaitingBatchIsAccountedFor) {
  FillRing();
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter, kQuarter, kQuarter}, 60'000), 0);
  ASSERT_TRUE(Eventually([this] { return WantedRoom() == 1016; }));
  DeleteEverything();
  EXPECT_FALSE(writer_->ReadToEnd().has_value());
  EXPECT_FALSE(writer_->timed_out());
  consumer_.reset();
  writer_.reset();
  EXPECT_TRUE(Eventually([this] { return Metric("iob_buffers") == 0; }));
  EXPECT_EQ(Metric("iob_ring_attempted_records_total"), 7);
  EXPECT_EQ(Metric("iob_ring_stored_records_total"), 4);
  EXPECT_EQ(Metric("iob_ring_rejected_records_total"), 3);
}

TEST_P(WriteTest, APacketBehindAWaitingBatchIsServedAfterIt) {
  FillRing();
  ASSERT_EQ(writer_->SendWrite(0, {kQuarter}, 200), 0);
  ASSERT_EQ(writer_->SendWrite(0, {"later"}), 0);
  const auto first = writer_->ReceiveResult();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(Lost(*first, v1::LOSS_CAUSE_DEADLINE), 1u);
  const auto second = writer_->ReceiveResult();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->stored(), 1u);
}

TEST_P(WriteTest, WaitingWritersAreServedInTheOrderTheyCame) {
  v1::CreateBufferRequest request = RingRequest(kSmallRing);
  request.set_name("order");
  made_ = Make(request);
  consumer_ = std::make_unique<RawClient>(attach_path());
  ASSERT_EQ(consumer_->Attach(made_.ep0_ticket), "");
  RawClient first(attach_path());
  ASSERT_EQ(first.Attach(made_.ep1_ticket), "");
  v1::OpenBufferRequest open;
  open.set_name("order");
  open.set_endpoint(v1::ENDPOINT_ID_EP1);
  open.set_attach(true);
  v1::OpenBufferResponse opened;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::OpenBuffer, open, &opened).ok());
  RawClient second(attach_path());
  ASSERT_EQ(second.Attach(opened.ticket().ticket()), "");
  ASSERT_EQ(first.SendWrite(0, {std::string(4000, 'a')}), 0);
  ASSERT_EQ(first.ReceiveResult()->stored(), 1u);
  ASSERT_EQ(first.SendWrite(0, {std::string(4000, '1')}, 60'000), 0);
  ASSERT_TRUE(Eventually([this] { return WantedRoom() == 4016; }));
  // Smaller, and would fit into less room; its turn comes second all the same. The answered write
  // before it shows that the daemon has read this far.
  ASSERT_EQ(second.SendWrite(0, {std::string(5000, 'x')}), 0);
  ASSERT_EQ(Lost(*second.ReceiveResult(), v1::LOSS_CAUSE_TOO_LARGE), 1u);
  ASSERT_EQ(second.SendWrite(0, {std::string(8, '2')}, 60'000), 0);
  EXPECT_FALSE(second.Receive(100).has_value());
  consumer_->SetTail(0, consumer_->Head(0));
  ASSERT_EQ(consumer_->SendRoomMade(0), 0);
  EXPECT_EQ(first.ReceiveResult()->stored(), 1u);
  EXPECT_EQ(second.ReceiveResult()->stored(), 1u);
  // The first one's record lies before the second one's.
  const uint8_t* const data = consumer_->SectionBytes(0, v1::SECTION_KIND_DATA);
  EXPECT_EQ(data[(4016 + 16) % kSmallRingCapacity], '1');
  EXPECT_EQ(data[(2 * 4016 + 16) % kSmallRingCapacity], '2');
}

// Victims in processes of their own.
class ParkedTest : public AttachTest {
 protected:
  void SetUp() override { StartDaemon(DaemonKind::kChild); }
  // What Order::kPark sends: the first record fits, the second waits, the third is behind it.
  void ExpectParked(uint64_t koid) {
    ASSERT_TRUE(Eventually([&] { return Stats(koid).stored_records() == 2; }));
  }
  void Occupy(uint64_t koid, RawClient& writer) {
    ASSERT_EQ(writer.SendWrite(0, {std::string(2000, 'o')}), 0);
    ASSERT_EQ(writer.ReceiveResult()->stored(), 1u);
    ASSERT_EQ(Stats(koid).stored_records(), 1u);
  }
  std::string AnotherTicket(const std::string& name) {
    v1::OpenBufferRequest open;
    open.set_name(name);
    open.set_endpoint(v1::ENDPOINT_ID_EP1);
    open.set_attach(true);
    v1::OpenBufferResponse opened;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::OpenBuffer, open, &opened).ok());
    return opened.ticket().ticket();
  }
};

TEST_F(ParkedTest, TheConsumerIsKilledAndTheBatchIsLostAsClosed) {
  const MadeBuffer made = MakeRing();
  PeerProcess consumer(attach_path(), made.ep0_ticket);
  ASSERT_EQ(consumer.problem(), "");
  RawClient writer(attach_path());
  ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
  ASSERT_NO_FATAL_FAILURE(Occupy(made.koid, writer));
  ASSERT_EQ(writer.SendWrite(0, {"fits", std::string(4000, 'w'), "behind"}, 60'000), 0);
  ASSERT_NO_FATAL_FAILURE(ExpectParked(made.koid));
  consumer.Kill(SIGKILL);
  const auto result = writer.ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 1u);
  EXPECT_EQ(Lost(*result, v1::LOSS_CAUSE_CLOSED), 2u);
  const auto reason = writer.ReceivePeerClosed();
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_KILLED);
  EXPECT_EQ(reason->code(), SIGKILL);
  const v1::RingStats stats = Stats(made.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 4u);
}

// With a ring of which 2000 bytes are taken, and a writer of which the second record waits.
class ParkedWriter : public ParkedTest {
 protected:
  void Park(Order how) {
    v1::CreateBufferRequest request = RingRequest(kSmallRing);
    request.set_name("parked");
    made_ = Make(request);
    consumer_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(consumer_->Attach(made_.ep0_ticket), "");
    {
      RawClient filler(attach_path());
      ASSERT_EQ(filler.Attach(AnotherTicket("parked")), "");
      ASSERT_NO_FATAL_FAILURE(Occupy(made_.koid, filler));
      // A hang-up would be looked into for a moment, and so might end last.
      ASSERT_EQ(filler.SendDetach(), 0);
      EXPECT_FALSE(filler.ReadToEnd().has_value());
    }
    writer_ = std::make_unique<PeerProcess>(attach_path(), made_.ep1_ticket);
    ASSERT_EQ(writer_->problem(), "");
    ASSERT_TRUE(writer_->Do(how));
    ASSERT_NO_FATAL_FAILURE(ExpectParked(made_.koid));
  }
  void TearDown() override {
    consumer_.reset();
    writer_.reset();
    ParkedTest::TearDown();
  }
  void ExpectKilled() {
    const auto reason = consumer_->ReceivePeerClosed();
    ASSERT_TRUE(reason.has_value());
    EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_KILLED);
    EXPECT_EQ(reason->code(), SIGKILL);
  }
  void MakeRoom() {
    consumer_->SetTail(0, consumer_->Head(0));
    ASSERT_EQ(consumer_->SendRoomMade(0), 0);
  }

  MadeBuffer made_;
  std::unique_ptr<RawClient> consumer_;
  std::unique_ptr<PeerProcess> writer_;
};

TEST_F(ParkedWriter, IsKilledAndWhatItHandedOverIsStoredBeforeItsEndIsTold) {
  ASSERT_NO_FATAL_FAILURE(Park(Order::kPark));
  writer_->Kill(SIGKILL);
  writer_->Reap();
  ASSERT_NO_FATAL_FAILURE(MakeRoom());
  ASSERT_TRUE(Eventually([this] { return Stats(made_.koid).stored_records() == 3; }));
  EXPECT_EQ(consumer_->Signals(), 0u);
  ASSERT_NO_FATAL_FAILURE(MakeRoom());
  ExpectKilled();
  const v1::RingStats stats = Stats(made_.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 4u);
  EXPECT_EQ(stats.stored_records(), 4u);
}

TEST_F(ParkedWriter, IsKilledAndWhatFoundNoRoomInTimeIsLostBeforeItsEndIsTold) {
  ASSERT_NO_FATAL_FAILURE(Park(Order::kParkBriefly));
  writer_->Kill(SIGKILL);
  ExpectKilled();
  const v1::RingStats stats = Stats(made_.koid);
  ExpectBalanced(stats);
  EXPECT_EQ(stats.attempted_records(), 4u);
  EXPECT_EQ(stats.stored_records(), 2u);
  EXPECT_EQ(Rejected(stats, v1::LOSS_CAUSE_DEADLINE), 2u);
}

TEST_F(ParkedWriter, IsKilledAndSoIsTheBuffer) {
  ASSERT_NO_FATAL_FAILURE(Park(Order::kPark));
  writer_->Kill(SIGKILL);
  writer_->Reap();
  DeleteEverything();
  consumer_.reset();
  EXPECT_TRUE(Eventually([this] { return Metric("iob_buffers") == 0; }));
  EXPECT_EQ(Metric("iob_ring_attempted_records_total"), 4);
  EXPECT_EQ(Metric("iob_ring_stored_records_total"), 2);
  EXPECT_EQ(Metric("iob_ring_rejected_records_total"), 2);
}

}  // namespace
}  // namespace iob::test
