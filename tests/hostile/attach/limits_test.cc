// The daemon at its limits: no descriptors left, and floods of connections.

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "tests/hostile/attach/attach_test.h"

namespace iob::test {
namespace {

class LimitsTest : public AttachTest {};

// UndefinedBehaviorSanitizer opens a pipe to look at memory, and takes its failure for bad memory.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kWorksWithoutDescriptors = false;
#else
constexpr bool kWorksWithoutDescriptors = true;
#endif

// Connections of a client that does not speak the protocol at all.
shm::UniqueFd ConnectStream(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  shm::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    socket.Close();
  }
  return socket;
}

TEST_F(LimitsTest, WithoutDescriptorsCreationIsRefusedByNameAndTheDaemonServesOn) {
  if (!kWorksWithoutDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors";
  StartDaemon(DaemonKind::kChild, {.flags = {}, .open_files_max = 64});
  ASSERT_NE(daemon_, nullptr);
  std::vector<uint64_t> koids;
  grpc::Status status;
  v1::CreateBufferResponse response;
  for (int i = 0; i < 64; ++i) {
    status = Call(daemon_->stub(), &Service::CreateBuffer, RingRequest(kSmallRing), &response);
    if (!status.ok()) break;
    koids.push_back(response.buffer().koid());
  }
  ASSERT_FALSE(status.ok()) << "64 descriptors were enough for 64 buffers";
  EXPECT_GE(koids.size(), 2u);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_EQ(ReasonOf(status), "QUOTA");
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("RLIMIT_NOFILE"));
  // Nothing changed: the same number of buffers, also after more attempts.
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(
        Call(daemon_->stub(), &Service::CreateBuffer, RingRequest(kSmallRing), &response).ok());
  }
  v1::ListBuffersResponse all;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::ListBuffers, v1::ListBuffersRequest(), &all).ok());
  EXPECT_EQ(static_cast<size_t>(all.buffers_size()), koids.size());
  // A newcomer is turned away, with a close instead of silence.
  std::vector<std::unique_ptr<RawClient>> newcomers;
  for (int i = 0; i < 20; ++i) {
    newcomers.push_back(std::make_unique<RawClient>(attach_path()));
    ASSERT_TRUE(newcomers.back()->valid());
  }
  EXPECT_FALSE(newcomers.back()->ReadToEnd().has_value());
  EXPECT_FALSE(newcomers.back()->timed_out());
  newcomers.clear();
  // After some are deleted it serves as before.
  for (int i = 0; i < 2; ++i) {
    v1::DeleteBufferRequest request;
    request.set_koid(koids[static_cast<size_t>(i)]);
    v1::DeleteBufferResponse deleted;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::DeleteBuffer, request, &deleted).ok());
  }
  const MadeBuffer made = MakeRing();
  RawClient client(attach_path());
  EXPECT_EQ(client.Attach(made.ep1_ticket), "");
}

TEST_F(LimitsTest, AnAttachThatFailsForWantOfDescriptorsKeepsItsTicket) {
  if (!kWorksWithoutDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors";
  StartDaemon(DaemonKind::kChild, {.flags = {}, .open_files_max = 64});
  ASSERT_NE(daemon_, nullptr);
  // Many sections, so that the attach needs more descriptors than are left.
  v1::CreateBufferRequest request;
  for (int i = 0; i < 8; ++i) {
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_PRIVATE);
    region.set_discipline(v1::DISCIPLINE_NONE);
    region.set_size_bytes(4096);
    region.set_access_bits(0x33);
  }
  const MadeBuffer made = Make(request);
  ASSERT_NE(made.koid, 0u);
  {
    RawClient client(attach_path());
    // Silent connections take what is left.
    std::vector<std::unique_ptr<RawClient>> silent;
    ASSERT_TRUE(Eventually([&] {
      silent.push_back(std::make_unique<RawClient>(attach_path()));
      return OpenDescriptors(daemon_->pid()) >= 64 - 4;
    }));
    EXPECT_NE(client.Attach(made.ep0_ticket), "");
    EXPECT_TRUE(client.fds().empty());
  }
  EXPECT_TRUE(Eventually([&] { return OpenDescriptors(daemon_->pid()) < 64 - 16; }));
  RawClient client(attach_path());
  EXPECT_EQ(client.Attach(made.ep0_ticket), "");
}

TEST_F(LimitsTest, AFloodOfConnectionsIsServedOrTurnedAway) {
  StartDaemon(DaemonKind::kChild);
  {
    std::vector<std::unique_ptr<RawClient>> attach;
    std::vector<shm::UniqueFd> grpc;
    for (int i = 0; i < 500; ++i) {
      attach.push_back(std::make_unique<RawClient>(attach_path()));
      EXPECT_TRUE(attach.back()->valid());
      grpc.push_back(ConnectStream(daemon_->grpc_path()));
      EXPECT_TRUE(grpc.back().valid());
    }
    // While they are all there.
    EXPECT_TRUE(daemon_->Healthy());
    EXPECT_TRUE(Eventually([this] { return Metric("iob_attach_turned_away_total") == 500 - 64; }));
    EXPECT_EQ(Metric("iob_attach_connections"), 64);
    const std::unique_ptr<Stub> stub = daemon_->NewStub();
    v1::GetLimitsResponse limits;
    EXPECT_TRUE(Call(*stub, &Service::GetLimits, v1::GetLimitsRequest(), &limits).ok());
  }
  EXPECT_TRUE(Eventually([this] { return Metric("iob_attach_connections") == 0; }));
  EXPECT_TRUE(Eventually([this] { return Metric("iob_grpc_connections") == 1; }));
}

TEST_F(LimitsTest, NoiseOnTheGrpcSocketEndsThatConnectionAlone) {
  StartDaemon(DaemonKind::kChild);
  for (const std::string& noise : {std::string(100'000, '\xff'),
                                   std::string("GET / HTTP/1.1\r\n\r\n"), std::string(24, '\0')}) {
    const shm::UniqueFd socket = ConnectStream(daemon_->grpc_path());
    ASSERT_TRUE(socket.valid());
    ::send(socket.get(), noise.data(), noise.size(), MSG_NOSIGNAL);
    char answer[256];
    const timeval patience = {.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ssize_t size = 0;
    while ((size = ::recv(socket.get(), answer, sizeof(answer), 0)) > 0) {
    }
    EXPECT_NE(size < 0 ? errno : 0, EAGAIN) << "the connection was kept";
  }
  EXPECT_TRUE(daemon_->Healthy());
}

TEST_F(LimitsTest, RoundAfterRoundNothingIsLeft) {
  StartDaemon(DaemonKind::kChild);
  for (int round = 0; round < 200; ++round) {
    const MadeBuffer made = MakeRingAndMemory();
    RawClient consumer(attach_path());
    ASSERT_EQ(consumer.Attach(made.ep0_ticket), "");
    RawClient writer(attach_path());
    ASSERT_EQ(writer.Attach(made.ep1_ticket), "");
    ASSERT_EQ(writer.SendWrite(0, {"record"}), 0);
    ASSERT_EQ(writer.ReceiveResult()->stored(), 1u);
    if (round % 2 == 0) {
      consumer.SendDetach();
      writer.SendDetach();
    }
  }
  EXPECT_TRUE(Eventually([this] { return Metric("iob_buffers") == 0; }));
  EXPECT_EQ(Metric("iob_memory_bytes"), 0);
  EXPECT_EQ(Metric("iob_handles"), 0);
  EXPECT_EQ(Metric("iob_ring_stored_records_total"), 200);
}

}  // namespace
}  // namespace iob::test
