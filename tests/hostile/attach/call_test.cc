// Calls over the attach socket that are wrong, id allocators whose words their holders spoil or
// leave half done, and a client that takes no answers: an answer in words each time, nothing
// changed, and everybody else served.

#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>

#include "shm/id_allocator_layout.h"
#include "tests/hostile/attach/attach_test.h"

namespace iob::test {
namespace {

constexpr uint32_t kUser0 = 0x01000000;

class CallTest : public AttachBothWays {
 protected:
  void SetUp() override {
    StartDaemon(GetParam());
    v1::CreateBufferRequest request = RingRequest(kSmallRing);
    AddRegion(request, v1::DISCIPLINE_ID_ALLOCATOR, 0x8b);  // ep0 maps r/w, both mediated-write.
    AddRegion(request, v1::DISCIPLINE_ID_ALLOCATOR, 0x81);  // ep0 reads, ep1 mediated-write.
    made_ = Make(request);
    ep0_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(ep0_->Attach(made_.ep0_ticket), "");
    ep1_ = std::make_unique<RawClient>(attach_path());
    ASSERT_EQ(ep1_->Attach(made_.ep1_ticket), "");
  }
  void TearDown() override {
    ep0_.reset();
    ep1_.reset();
    AttachBothWays::TearDown();
  }

  static void AddRegion(v1::CreateBufferRequest& request, v1::Discipline discipline,
                        uint32_t access_bits) {
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_PRIVATE);
    region.set_discipline(discipline);
    region.set_size_bytes(4096);
    region.set_access_bits(access_bits);
  }

  // The next answer; events on the way are dropped.
  static v1::BrokerPacket Answer(RawClient& client) {
    while (true) {
      const auto packet = client.Receive();
      if (!packet) {
        ADD_FAILURE() << "no answer";
        return {};
      }
      if (!packet->has_event()) return *packet;
    }
  }
  static v1::AllocateIdResult Allocate(RawClient& client, uint32_t region,
                                       const std::string& blob) {
    EXPECT_EQ(client.SendAllocateId(region, blob), 0);
    return Answer(client).allocate_id_result();
  }
  static v1::CallResult ChangeSignals(RawClient& client, bool peer, uint32_t clear, uint32_t set) {
    EXPECT_EQ(client.SendChangeSignals(peer, clear, set), 0);
    return Answer(client).call_result();
  }
  static v1::CallResult ChangeName(RawClient& client, const std::string& name) {
    v1::ClientPacket packet;
    packet.mutable_change_name()->set_name(name);
    EXPECT_EQ(client.Send(packet), 0);
    return Answer(client).call_result();
  }
  static void ExpectFailed(const v1::CallResult& result, grpc::StatusCode code,
                           v1::ErrorReason reason, const std::string& what) {
    EXPECT_EQ(result.code(), static_cast<int>(code)) << result.message();
    EXPECT_EQ(result.reason(), reason) << result.message();
    EXPECT_THAT(result.message(), ::testing::HasSubstr(what));
  }

  // The words of the id allocator that ep0 may write.
  std::atomic<uint64_t>& Word(uint64_t offset) {
    return *reinterpret_cast<std::atomic<uint64_t>*>(ep0_->SectionBytes(1, v1::SECTION_KIND_DATA) +
                                                     offset);
  }

  MadeBuffer made_;
  std::unique_ptr<RawClient> ep0_;
  std::unique_ptr<RawClient> ep1_;
};

INSTANTIATE_TEST_SUITE_P(Daemon, CallTest,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(CallTest, ACallBeforeTheMemoryIsMappedEndsTheConnection) {
  const MadeBuffer other = MakeRing();
  RawClient client(attach_path());
  ASSERT_EQ(client.Redeem(other.ep1_ticket), "");
  ASSERT_EQ(client.SendChangeSignals(/*peer=*/true, 0, kUser0), 0);
  ExpectRefused(client.ReadToEnd(), grpc::StatusCode::INVALID_ARGUMENT, v1::ERROR_REASON_PROTOCOL,
                "out of turn");
}

TEST_P(CallTest, ABadCallIsAnsweredInWordsAndTheConnectionLivesOn) {
  ExpectFailed(ChangeSignals(*ep1_, false, 0, 4), grpc::StatusCode::INVALID_ARGUMENT,
               v1::ERROR_REASON_INVALID_ARGUMENT, "0xff000000");
  ExpectFailed(ChangeSignals(*ep1_, true, 0xffffffff, 0), grpc::StatusCode::INVALID_ARGUMENT,
               v1::ERROR_REASON_INVALID_ARGUMENT, "clear");
  ExpectFailed(ChangeName(*ep1_, "a\nb"), grpc::StatusCode::INVALID_ARGUMENT,
               v1::ERROR_REASON_INVALID_ARGUMENT, "printable");
  ExpectFailed(ChangeName(*ep1_, std::string(60'000, '\x01')), grpc::StatusCode::INVALID_ARGUMENT,
               v1::ERROR_REASON_INVALID_ARGUMENT, "printable");
  ExpectFailed(Allocate(*ep1_, 0, "x").failure(), grpc::StatusCode::FAILED_PRECONDITION,
               v1::ERROR_REASON_WRONG_DISCIPLINE, "id allocator");
  ExpectFailed(Allocate(*ep1_, 64, "x").failure(), grpc::StatusCode::OUT_OF_RANGE,
               v1::ERROR_REASON_OUT_OF_RANGE, "region_index: 64, the buffer has 3");
  ExpectFailed(Allocate(*ep0_, 2, "x").failure(), grpc::StatusCode::PERMISSION_DENIED,
               v1::ERROR_REASON_ACCESS_DENIED, "mediated-write");
  ExpectFailed(Allocate(*ep1_, 2, std::string(65'520, 'b')).failure(),
               grpc::StatusCode::INVALID_ARGUMENT, v1::ERROR_REASON_INVALID_ARGUMENT, "65519");
  ExpectFailed(Allocate(*ep1_, 2, std::string(65'519, 'b')).failure(),
               grpc::StatusCode::RESOURCE_EXHAUSTED, v1::ERROR_REASON_REGION_FULL, "no room");
  // Nothing of all this has changed anything.
  EXPECT_EQ(ep0_->Signals(), 0u);
  EXPECT_EQ(ep1_->Signals(), 0u);
  const v1::AllocateIdResult first = Allocate(*ep1_, 2, "first");
  EXPECT_FALSE(first.has_failure()) << first.ShortDebugString();
  EXPECT_EQ(first.id(), 0u);
  EXPECT_EQ(ChangeSignals(*ep1_, true, 0, kUser0).code(), 0);
  EXPECT_EQ(ep0_->Signals(), kUser0);
}

TEST_P(CallTest, ScribbledAndPunchedWordsAreDataLossUntilSomebodyMendsThem) {
  ASSERT_EQ(Allocate(*ep1_, 1, "one").id(), 0u);
  const uint64_t good = Word(0).load();
  for (const uint64_t bad : {UINT64_MAX, uint64_t{0}, uint64_t{0x20000000}, good + 4096}) {
    Word(0).store(bad);
    ExpectFailed(Allocate(*ep1_, 1, "two").failure(), grpc::StatusCode::DATA_LOSS,
                 v1::ERROR_REASON_INTEGRITY, "header");
    v1::GetBufferRequest request;
    request.set_koid(made_.koid);
    v1::GetBufferResponse response;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::GetBuffer, request, &response).ok());
    EXPECT_TRUE(response.buffer().regions(1).id_allocator().damaged()) << std::hex << bad;
  }
  const int fd = ep0_->SectionFd(1, v1::SECTION_KIND_DATA);
  ASSERT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  ExpectFailed(Allocate(*ep1_, 1, "two").failure(), grpc::StatusCode::DATA_LOSS,
               v1::ERROR_REASON_INTEGRITY, "header");
  // The next id's slot taken by nobody knows whom.
  Word(0).store(good);
  Word(shm::IdSlotOffset(1)).store(shm::IdSlot::BlobWord(1, 4000));
  ExpectFailed(Allocate(*ep1_, 1, "two").failure(), grpc::StatusCode::DATA_LOSS,
               v1::ERROR_REASON_INTEGRITY, "slot");
  Word(shm::IdSlotOffset(1)).store(0);
  EXPECT_EQ(Allocate(*ep1_, 1, "two").id(), 1u);
  // The allocator next door is nobody's but the broker's.
  EXPECT_EQ(Allocate(*ep1_, 2, "other").id(), 0u);
}

TEST_P(CallTest, AClaimOfAKilledAllocatorIsATombstoneBeforeItsPeerHearsOfItsDeath) {
  const MadeBuffer made = [this] {
    v1::CreateBufferRequest request;
    AddRegion(request, v1::DISCIPLINE_ID_ALLOCATOR, 0x93);  // ep0 r/w; ep1 r, mediated-write.
    return Make(request);
  }();
  RawClient watcher(attach_path());
  ASSERT_EQ(watcher.Attach(made.ep1_ticket), "");
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const shm::UniqueFd said(pipe_ends[0]);
  const shm::UniqueFd say(pipe_ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    RawClient claimant(attach_path());
    if (claimant.Attach(made.ep0_ticket) != "") ::_exit(1);
    const uint32_t owner = claimant.grants().regions(0).id_owner();
    auto* const words =
        reinterpret_cast<std::atomic<uint64_t>*>(claimant.SectionBytes(0, v1::SECTION_KIND_DATA));
    words[1].store(shm::IdSlot::PendingWord(owner, 100));
    const char done = owner >= 2 ? 'y' : 'n';
    if (::write(say.get(), &done, 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char done = 0;
  ASSERT_EQ(::read(said.get(), &done, 1), 1);
  EXPECT_EQ(done, 'y');
  // It is passed, not waited for.
  EXPECT_EQ(Allocate(watcher, 0, "mine").id(), 1u);
  const uint8_t* const bytes = watcher.SectionBytes(0, v1::SECTION_KIND_DATA);
  const auto slot = [bytes] {
    return reinterpret_cast<const std::atomic<uint64_t>*>(bytes)[1].load();
  };
  EXPECT_NE(slot(), shm::IdSlot::TombstoneWord(100)) << "its owner lives";
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  const auto reason = watcher.ReceivePeerClosed();
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->kind(), v1::CLOSE_KIND_KILLED);
  EXPECT_EQ(slot(), shm::IdSlot::TombstoneWord(100));
  ::waitpid(child, nullptr, 0);
}

TEST_P(CallTest, AFloodOfSignalsReachesASlowClientAsFewAndTheLastIsTheTruth) {
  constexpr uint32_t kLast = 0xff000000;
  for (uint32_t i = 0; i < 20'000; ++i) {
    const uint32_t set = i == 19'999 ? kLast : (i % 254 + 1) << 24;
    ASSERT_EQ(ChangeSignals(*ep1_, /*peer=*/true, 0xff000000, set).code(), 0);
  }
  EXPECT_EQ(ep0_->Signals(), kLast);
  int packets = 0;
  for (uint32_t told = 0; told != kLast; ++packets) {
    const auto packet = ep0_->Receive();
    ASSERT_TRUE(packet.has_value());
    ASSERT_TRUE(packet->event().has_signaled());
    told = packet->event().signaled().signals();
  }
  EXPECT_LT(packets, 20'000) << "what it did not take in time was kept for it one by one";
}

TEST_P(CallTest, WritesAndCallsAreAnsweredInTheirOrder) {
  for (int round = 0; round < 8; ++round) {
    ASSERT_EQ(ep1_->SendWrite(0, {"record"}), 0);
    ASSERT_EQ(ep1_->SendAllocateId(2, "blob " + std::to_string(round)), 0);
    ASSERT_EQ(ep1_->SendChangeSignals(/*peer=*/true, 0, kUser0), 0);
  }
  for (uint32_t round = 0; round < 8; ++round) {
    EXPECT_EQ(Answer(*ep1_).write_result().stored(), 1u);
    const v1::BrokerPacket id = Answer(*ep1_);
    ASSERT_TRUE(id.has_allocate_id_result()) << id.ShortDebugString();
    EXPECT_EQ(id.allocate_id_result().id(), round);
    EXPECT_TRUE(Answer(*ep1_).has_call_result());
  }
}

}  // namespace
}  // namespace iob::test
