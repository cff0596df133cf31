// Batches that wait for room in one shared ring, from clients of several buffers: one queue for the
// ring, first come, first served, and nobody waits for a consumer that is gone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/daemon_fixture.h"
#include "tests/support/raw_client.h"

namespace iob::server {
namespace {

using test::Call;
using test::RawClient;
using Service = v1::BrokerService::StubInterface;

// A ring of one page takes 4 records of 1000 bytes (1016 each), not 5.
constexpr uint64_t kRingBytes = 8192;
constexpr uint64_t kQuarterBytes = 1016;
constexpr uint64_t kLedgerWantRoom = 4096 + 64;
constexpr uint32_t kLongMs = 60'000;
const std::string kQuarter(1000, 'q');

uint32_t Lost(const v1::WriteResult& result, v1::LossCause cause) {
  return std::accumulate(result.lost().begin(), result.lost().end(), 0u,
                         [cause](uint32_t sum, const v1::RecordLoss& loss) {
                           return loss.cause() == cause ? sum + loss.count() : sum;
                         });
}

// One client per endpoint that a test uses.
struct Attached {
  uint64_t koid = 0;
  std::unique_ptr<RawClient> ep0;
  std::unique_ptr<RawClient> ep1;
};

class AttachQueue : public ::testing::Test {
 protected:
  void SetUp() override {
    daemon_ = test::TestDaemon::Start(test::DaemonKind::kThread);
    ASSERT_NE(daemon_, nullptr);
    v1::CreateSharedRegionRequest request;
    request.set_size_bytes(kRingBytes);
    v1::CreateSharedRegionResponse response;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateSharedRegion, request, &response).ok());
    region_ = response.handle();
  }
  void TearDown() override { EXPECT_EQ(daemon_->Stop(), ""); }

  // A buffer on the ring: 0x83 has a consumer and a writer, 0x88 two writers.
  Attached Make(uint32_t access_bits) {
    v1::CreateBufferRequest request;
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_SHARED);
    region.set_discipline(v1::DISCIPLINE_MEDIATED_RING);
    region.set_access_bits(access_bits);
    region.set_shared_region(region_);
    request.add_attach(v1::ENDPOINT_ID_EP0);
    request.add_attach(v1::ENDPOINT_ID_EP1);
    v1::CreateBufferResponse response;
    const grpc::Status status = Call(daemon_->stub(), &Service::CreateBuffer, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    Attached made{.koid = response.buffer().koid(),
                  .ep0 = std::make_unique<RawClient>(daemon_->attach_path()),
                  .ep1 = std::make_unique<RawClient>(daemon_->attach_path())};
    EXPECT_EQ(made.ep0->Attach(response.tickets(0).ticket()), "");
    EXPECT_EQ(made.ep1->Attach(response.tickets(1).ticket()), "");
    return made;
  }
  static void Fill(RawClient& writer) {
    ASSERT_EQ(writer.SendWrite(0, std::vector<std::string>(4, kQuarter)), 0);
    const auto result = writer.ReceiveResult();
    ASSERT_TRUE(result.has_value());
    ASSERT_EQ(result->stored(), 4u);
  }
  // What was sent before has been looked at: each pass of the loop looks at every socket that has
  // something, and every call takes a pass.
  void Settle() {
    for (int i = 0; i < 3; ++i) {
      v1::GetLimitsResponse limits;
      const v1::GetLimitsRequest request;
      ASSERT_TRUE(Call(daemon_->stub(), &Service::GetLimits, request, &limits).ok());
    }
  }
  // A batch that waits, behind those that were sent before.
  void SendWaiting(RawClient& writer, const std::vector<std::string>& records,
                   uint32_t wait_ms = kLongMs) {
    ASSERT_EQ(writer.SendWrite(0, records, wait_ms), 0);
    Settle();
  }
  // The consumer lets go of so many bytes more, and says so.
  void MakeRoom(RawClient& consumer, uint64_t bytes) {
    consumer.SetTail(0, consumer.Tail(0) + bytes);
    ASSERT_EQ(consumer.SendRoomMade(0), 0);
    Settle();
  }
  static uint32_t WantedRoom(RawClient& consumer) {
    const uint8_t* const data = consumer.SectionBytes(0, v1::SECTION_KIND_DATA);
    return *reinterpret_cast<const uint32_t*>(data + kLedgerWantRoom);
  }
  static void ExpectStillWaiting(RawClient& writer) {
    EXPECT_FALSE(writer.Receive(0).has_value());
    EXPECT_TRUE(writer.timed_out());
  }
  static void ExpectStored(RawClient& writer, uint32_t records) {
    const auto result = writer.ReceiveResult();
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->stored(), records);
    EXPECT_EQ(result->lost_size(), 0);
  }
  static void ExpectLost(RawClient& writer, v1::LossCause cause, uint32_t records) {
    const auto result = writer.ReceiveResult();
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->stored(), 0u);
    EXPECT_EQ(Lost(*result, cause), records);
  }
  void Delete(uint64_t koid) {
    v1::DeleteBufferRequest request;
    request.set_koid(koid);
    request.set_force(true);
    v1::DeleteBufferResponse response;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::DeleteBuffer, request, &response).ok());
  }
  // Lets go of everything that an endpoint was given.
  static void End(std::unique_ptr<RawClient>& client) {
    ASSERT_EQ(client->SendDetach(), 0);
    client.reset();
  }

  std::unique_ptr<test::TestDaemon> daemon_;
  std::string region_;
};

TEST_F(AttachQueue, IsOneForAllBuffersAndInOrderOfArrival) {
  const Attached first = Make(0x83);
  const Attached second = Make(0x88);
  Fill(*first.ep1);
  SendWaiting(*second.ep0, {kQuarter});
  SendWaiting(*first.ep1, {kQuarter});
  SendWaiting(*second.ep1, {kQuarter});
  EXPECT_EQ(WantedRoom(*first.ep0), kQuarterBytes);
  for (RawClient* const served : {second.ep0.get(), first.ep1.get(), second.ep1.get()}) {
    // One record's room, whoever of the ring's consumers makes it.
    MakeRoom(*first.ep0, kQuarterBytes);
    ExpectStored(*served, 1);
    if (served == second.ep0.get()) ExpectStillWaiting(*first.ep1);
    if (served != second.ep1.get()) ExpectStillWaiting(*second.ep1);
  }
  EXPECT_EQ(WantedRoom(*first.ep0), 0u) << "nobody wants anything any more";
}

TEST_F(AttachQueue, ASmallBatchDoesNotOvertakeABigOne) {
  const Attached first = Make(0x83);
  const Attached second = Make(0x83);
  Fill(*first.ep1);
  SendWaiting(*first.ep1, {std::string(2000, 'b')});
  SendWaiting(*second.ep1, {"small"});
  MakeRoom(*second.ep0, kQuarterBytes);
  ExpectStillWaiting(*first.ep1);
  ExpectStillWaiting(*second.ep1);
  EXPECT_EQ(WantedRoom(*first.ep0), 2016u);
  MakeRoom(*second.ep0, 2 * kQuarterBytes);
  ExpectStored(*first.ep1, 1);
  ExpectStored(*second.ep1, 1);
  // A batch that does not wait is not behind anybody.
  SendWaiting(*first.ep1, {std::string(4000, 'b')});
  ASSERT_EQ(second.ep1->SendWrite(0, {"small"}), 0);
  ExpectStored(*second.ep1, 1);
  ExpectStillWaiting(*first.ep1);
  MakeRoom(*first.ep0, second.ep0->Head(0) - second.ep0->Tail(0));
  ExpectStored(*first.ep1, 1);
}

TEST_F(AttachQueue, WhoGivesUpLetsTheNextOneTry) {
  const Attached first = Make(0x83);
  const Attached second = Make(0x88);
  Fill(*first.ep1);
  SendWaiting(*second.ep0, {std::string(2000, 'b')}, /*wait_ms=*/300);
  SendWaiting(*first.ep1, {kQuarter});
  // Room for the second in line alone, which is told of it by nobody but the first.
  MakeRoom(*first.ep0, kQuarterBytes);
  ExpectLost(*second.ep0, v1::LOSS_CAUSE_DEADLINE, 1);
  ExpectStored(*first.ep1, 1);
  EXPECT_EQ(WantedRoom(*first.ep0), 0u);
}

TEST_F(AttachQueue, ADeletedBuffersBatchLetsTheNextOneTry) {
  const Attached first = Make(0x83);
  const Attached second = Make(0x88);
  Fill(*first.ep1);
  SendWaiting(*second.ep0, {std::string(2000, 'b')});
  SendWaiting(*first.ep1, {kQuarter});
  MakeRoom(*first.ep0, kQuarterBytes);
  ExpectStillWaiting(*first.ep1);
  Delete(second.koid);
  ExpectStored(*first.ep1, 1);
}

TEST_F(AttachQueue, AConsumerInAnotherBufferIsWaitedFor) {
  Attached consumers = Make(0x83);
  Attached more = Make(0x83);
  const Attached writers = Make(0x88);
  Fill(*writers.ep0);
  SendWaiting(*writers.ep0, {kQuarter});
  SendWaiting(*writers.ep1, {kQuarter});
  End(consumers.ep0);
  Settle();
  ExpectStillWaiting(*writers.ep0);
  // The last one that could make room, in whatever buffer; its own lives on.
  End(more.ep0);
  ExpectLost(*writers.ep0, v1::LOSS_CAUSE_CLOSED, 1);
  ExpectLost(*writers.ep1, v1::LOSS_CAUSE_CLOSED, 1);
  ASSERT_EQ(writers.ep0->SendWrite(0, {kQuarter}, kLongMs), 0);
  ExpectLost(*writers.ep0, v1::LOSS_CAUSE_CLOSED, 1);
}

// The reader's process was the last user of its buffer. Writers of another buffer on the same ring
// had a minute each to wait, for room that nobody could make any more.
TEST_F(AttachQueue, AConsumerThatTakesItsBufferWithItIsNotWaitedFor) {
  Attached consumers = Make(0x83);
  const Attached writers = Make(0x88);
  Fill(*writers.ep0);
  SendWaiting(*writers.ep0, {kQuarter});
  SendWaiting(*writers.ep1, {kQuarter});
  End(consumers.ep1);
  Settle();
  ExpectStillWaiting(*writers.ep0);
  End(consumers.ep0);
  ExpectLost(*writers.ep0, v1::LOSS_CAUSE_CLOSED, 1);
  ExpectLost(*writers.ep1, v1::LOSS_CAUSE_CLOSED, 1);
}

}  // namespace
}  // namespace iob::server
