// What an attachment gets is cut to the rights of the handle that it was made of: sections and
// their modes, the signal page and events, the name, and what it may ask for.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "shm/access.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/raw_client.h"

namespace iob::server {
namespace {

using shm::HandleRights;
using test::Call;
using test::RawClient;
using Service = v1::BrokerService::StubInterface;

constexpr uint32_t kAll = HandleRights::kEndpointDefault;

class AttachRights : public ::testing::Test {
 protected:
  void SetUp() override {
    daemon_ = test::TestDaemon::Start(test::DaemonKind::kThread);
    ASSERT_NE(daemon_, nullptr);
    v1::CreateBufferRequest request;
    request.set_name("named");
    // Region 0: memory for both; 1: ids that both allocate; 2: a ring that ep0 reads, ep1 writes.
    AddRegion(request, v1::DISCIPLINE_NONE, 4096, 0x33);
    AddRegion(request, v1::DISCIPLINE_ID_ALLOCATOR, 4096, 0xbb);
    AddRegion(request, v1::DISCIPLINE_MEDIATED_RING, 8192, 0x83);
    v1::CreateBufferResponse response;
    const grpc::Status status = Call(daemon_->stub(), &Service::CreateBuffer, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    handles_ = {response.ep0_handle(), response.ep1_handle()};
  }
  void TearDown() override { EXPECT_EQ(daemon_->Stop(), ""); }

  static void AddRegion(v1::CreateBufferRequest& request, v1::Discipline discipline,
                        uint64_t size_bytes, uint32_t access_bits) {
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_PRIVATE);
    region.set_discipline(discipline);
    region.set_size_bytes(size_bytes);
    region.set_access_bits(access_bits);
  }
  // A client of ep0 or ep1 with these rights; it has the descriptors, and nothing is mapped.
  std::unique_ptr<RawClient> Attach(size_t endpoint, uint32_t rights) {
    v1::DuplicateHandleRequest request;
    request.set_handle(handles_[endpoint]);
    request.set_rights(rights);
    v1::DuplicateHandleResponse copy;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::DuplicateHandle, request, &copy).ok());
    v1::AttachRequest attach;
    attach.set_handle(copy.handle());
    v1::AttachResponse ticket;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::Attach, attach, &ticket).ok());
    auto client = std::make_unique<RawClient>(daemon_->attach_path());
    EXPECT_EQ(client->Redeem(ticket.ticket().ticket()), "");
    EXPECT_EQ(client->SendMapped(), 0);
    return client;
  }
  // A call on the attach socket, and how it ended.
  static v1::ErrorReason ReasonOf(RawClient& client, const v1::ClientPacket& packet) {
    EXPECT_EQ(client.Send(packet), 0);
    while (const auto answer = client.Receive()) {
      if (answer->has_call_result()) return answer->call_result().reason();
      if (answer->has_allocate_id_result()) return answer->allocate_id_result().failure().reason();
      if (answer->has_error()) return answer->error().reason();
    }
    ADD_FAILURE() << "no answer";
    return v1::ERROR_REASON_INTERNAL;
  }
  static v1::ClientPacket Signals(bool peer, uint32_t set) {
    v1::ClientPacket packet;
    packet.mutable_change_signals()->set_peer(peer);
    packet.mutable_change_signals()->set_set(set);
    return packet;
  }
  static v1::ClientPacket Name(const std::string& name) {
    v1::ClientPacket packet;
    packet.mutable_change_name()->set_name(name);
    return packet;
  }
  static v1::ClientPacket Blob() {
    v1::ClientPacket packet;
    packet.mutable_allocate_id()->set_region_index(1);
    packet.mutable_allocate_id()->set_blob("blob");
    return packet;
  }

  std::unique_ptr<test::TestDaemon> daemon_;
  std::array<std::string, 2> handles_;
};

TEST_F(AttachRights, AFullHandleGetsEverythingThatItsEndpointMay) {
  const auto client = Attach(0, kAll);
  const v1::GrantSet& grants = client->grants();
  EXPECT_EQ(grants.name(), "named");
  EXPECT_EQ(grants.handle_rights(), kAll);
  EXPECT_TRUE(grants.has_signal());
  ASSERT_EQ(grants.regions_size(), 3);
  EXPECT_TRUE(grants.regions(0).sections(0).writable());
  EXPECT_TRUE(grants.regions(1).sections(0).writable());
  EXPECT_GE(grants.regions(1).id_owner(), 2u);
  ASSERT_EQ(grants.regions(2).sections_size(), 2);
  EXPECT_TRUE(grants.regions(2).sections(0).writable()) << "the consumer's tail";
  EXPECT_FALSE(grants.regions(2).sections(1).writable()) << "records are the broker's";
  EXPECT_EQ(client->fds().size(), 5u);
}

// "A producer whose handle was cut to reading was handed the consumer's words, to write them."
TEST_F(AttachRights, AProducerThatMayNotWriteIsNoConsumer) {
  v1::CreateBufferRequest request;
  AddRegion(request, v1::DISCIPLINE_RESERVE_RING, 8192, 0x13);
  AddRegion(request, v1::DISCIPLINE_BROADCAST, 8192, 0x13);
  v1::CreateBufferResponse response;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, request, &response).ok());
  handles_ = {response.ep0_handle(), response.ep1_handle()};
  const auto cut = Attach(0, kAll & ~HandleRights::kWrite);
  for (const v1::RegionGrant& region : cut->grants().regions()) {
    EXPECT_EQ(region.sections_size(), 0);
    EXPECT_FALSE(region.has_seat());
  }
  const auto producer = Attach(0, kAll);
  const auto consumer = Attach(1, kAll);
  for (const int region : {0, 1}) {
    EXPECT_TRUE(producer->grants().regions(region).has_seat());
    EXPECT_TRUE(producer->grants().regions(region).sections(0).writable());
    EXPECT_FALSE(consumer->grants().regions(region).has_seat());
    EXPECT_FALSE(consumer->grants().regions(region).sections(0).writable());
    EXPECT_TRUE(consumer->grants().regions(region).sections(1).writable());
  }
}

TEST_F(AttachRights, WithoutMapThereIsNoMemory) {
  const auto client = Attach(0, kAll & ~HandleRights::kMap);
  for (const v1::RegionGrant& region : client->grants().regions()) {
    EXPECT_EQ(region.sections_size(), 0);
    EXPECT_EQ(region.id_owner(), 0u);
    EXPECT_EQ(region.enforcement(), v1::ENFORCEMENT_MEDIATED);
  }
  EXPECT_EQ(client->fds().size(), 1u) << "the signal page";
  EXPECT_EQ(ReasonOf(*client, Blob()), v1::ERROR_REASON_UNSPECIFIED) << "the broker stores it";
}

TEST_F(AttachRights, WithoutWriteMemoryIsReadOnlyAndNobodyWritesForIt) {
  const auto client = Attach(1, kAll & ~HandleRights::kWrite);
  const v1::GrantSet& grants = client->grants();
  for (const int region : {0, 1}) {
    ASSERT_EQ(grants.regions(region).sections_size(), 1);
    EXPECT_FALSE(grants.regions(region).sections(0).writable());
    EXPECT_EQ(grants.regions(region).id_owner(), 0u);
  }
  EXPECT_EQ(ReasonOf(*client, Blob()), v1::ERROR_REASON_ACCESS_DENIED);
  // Writing what may not be written is no mistake of the moment: it ends the connection.
  ASSERT_EQ(client->SendWrite(2, {"record"}), 0);
  const auto error = client->ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->reason(), v1::ERROR_REASON_ACCESS_DENIED);
}

TEST_F(AttachRights, WithoutReadThereIsNoMemoryToWriteEither) {
  const auto client = Attach(0, kAll & ~HandleRights::kRead);
  for (const v1::RegionGrant& region : client->grants().regions()) {
    EXPECT_EQ(region.sections_size(), 0);
  }
  EXPECT_EQ(ReasonOf(*client, Blob()), v1::ERROR_REASON_UNSPECIFIED);
}

TEST_F(AttachRights, WithoutWaitThereAreNoSignalsAndNoEvents) {
  const auto deaf = Attach(0, kAll & ~HandleRights::kWait);
  EXPECT_FALSE(deaf->grants().has_signal());
  const auto listener = Attach(0, kAll);
  const auto peer = Attach(1, kAll);
  EXPECT_EQ(ReasonOf(*peer, Signals(/*peer=*/true, 1u << 24)), v1::ERROR_REASON_UNSPECIFIED);
  const auto heard = listener->Receive();
  ASSERT_TRUE(heard.has_value());
  EXPECT_EQ(heard->event().signaled().signals(), 1u << 24);
  // The first thing it hears is the answer to its own call.
  ASSERT_EQ(deaf->Send(Name("renamed")), 0);
  const auto answer = deaf->Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(answer->has_call_result()) << answer->ShortDebugString();
}

// A process that was handed an endpoint without the right to read its properties found the buffer's
// name in the first packet.
TEST_F(AttachRights, WithoutGetPropertyTheNameIsNotTold) {
  const auto client = Attach(0, kAll & ~HandleRights::kGetProperty);
  EXPECT_EQ(client->grants().name(), "");
  EXPECT_EQ(ReasonOf(*client, Name("given")), v1::ERROR_REASON_UNSPECIFIED)
      << "to set it is another right";
}

TEST_F(AttachRights, CallsNeedTheirRightAndLeaveTheConnectionAlone) {
  const uint32_t rights =
      kAll & ~(HandleRights::kSetProperty | HandleRights::kSignal | HandleRights::kSignalPeer);
  const auto client = Attach(0, rights);
  EXPECT_EQ(ReasonOf(*client, Name("other")), v1::ERROR_REASON_ACCESS_DENIED);
  EXPECT_EQ(ReasonOf(*client, Signals(false, 1u << 24)), v1::ERROR_REASON_ACCESS_DENIED);
  EXPECT_EQ(ReasonOf(*client, Signals(true, 1u << 24)), v1::ERROR_REASON_ACCESS_DENIED);
  EXPECT_EQ(ReasonOf(*client, Signals(true, 1)), v1::ERROR_REASON_INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(*client, Blob()), v1::ERROR_REASON_UNSPECIFIED);
}

}  // namespace
}  // namespace iob::server
