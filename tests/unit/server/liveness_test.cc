// When is an endpoint really gone: with real grants, mappings, children and descriptors in flight.

#include "server/liveness.h"

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "shm/grant_lock.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

class LivenessTest : public RegistryHarness, public RegistryObserver {
 protected:
  LivenessTest() { registry_.SetObserver(this); }

  void SetUp() override {
    made_ = TryMake("", {PlainSpec()}, alice_).value();
    made_.buffer->endpoint(kEp0).grants_made = 1;
  }
  void TearDown() override {
    for (const auto& token : made_.handles) registry_.CloseHandle(alice_, token).IgnoreError();
    RegistryHarness::TearDown();
  }

  void OnProcessHoldsHandles(ProcessId, bool) override {}
  void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) override {
    liveness_->OnEndpointUnheld(buffer, endpoint);
  }
  void OnEndpointClosed(Koid, shm::EndpointId endpoint, shm::CloseReason) override {
    closed_.push_back(endpoint);
    loop_->Quit();
  }
  void OnRevoke(AttachmentId) override {}
  void OnBufferGone(Koid buffer) override { liveness_->OnBufferGone(buffer); }

  // A descriptor as ep0 would get it.
  shm::UniqueFd Grant() {
    const auto sections = made_.buffer->regions()[0].Sections();
    shm::UniqueFd fd = sections[0]->OpenGrant(shm::FdMode::kReadOnly).value();
    EXPECT_TRUE(shm::LockGrant(fd.get(), kEp0, 0).ok());
    return fd;
  }
  void LetGo() { ASSERT_TRUE(registry_.CloseHandle(alice_, made_.handles[0]).ok()); }
  void ExpectWaiting() {
    EXPECT_TRUE(closed_.empty());
    EXPECT_EQ(liveness_->waiting_count(), 1u);
  }
  // Runs the loop until ep0 is closed; how long that took, or -1.
  int64_t MsUntilClosed() {
    const int64_t begin_ns = system_clock_.MonotonicNs();
    const Registration too_late = loop_->RunAfterMs(10'000, [this] { loop_->Quit(); });
    loop_->Run();
    EXPECT_EQ(liveness_->waiting_count(), closed_.empty() ? 1u : 0u);
    return closed_.empty() ? -1 : (system_clock_.MonotonicNs() - begin_ns) / 1'000'000;
  }

  SystemClock system_clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(system_clock_).value();
  std::unique_ptr<Liveness> liveness_ = Liveness::Create(*loop_, registry_).value();
  CreatedBuffer made_;
  std::vector<shm::EndpointId> closed_;
};

// The wake-up, not the slow timer of a second.
constexpr int64_t kSoonMs = 800;

TEST_F(LivenessTest, WithoutAGrantTheEndpointClosesAtOnce) {
  LetGo();
  EXPECT_EQ(closed_.size(), 1u);
  EXPECT_EQ(liveness_->waiting_count(), 0u);
}

TEST_F(LivenessTest, ADescriptorKeepsItOpen) {
  shm::UniqueFd grant = Grant();
  LetGo();
  ExpectWaiting();
  ASSERT_TRUE(loop_->Post([&] { grant.Close(); }));
  const int64_t took_ms = MsUntilClosed();
  EXPECT_GE(took_ms, 0);
  EXPECT_LT(took_ms, kSoonMs);
}

TEST_F(LivenessTest, AMappingAloneKeepsItOpen) {
  shm::UniqueFd grant = Grant();
  void* const address = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, grant.get(), 0);
  ASSERT_NE(address, MAP_FAILED);
  grant.Close();
  LetGo();
  ExpectWaiting();
  ASSERT_TRUE(loop_->Post([&] {
    ExpectWaiting();
    ::munmap(address, 4096);
  }));
  const int64_t took_ms = MsUntilClosed();
  EXPECT_GE(took_ms, 0);
  EXPECT_LT(took_ms, kSoonMs);
}

TEST_F(LivenessTest, ADupKeepsItOpen) {
  shm::UniqueFd grant = Grant();
  shm::UniqueFd copy(::dup(grant.get()));
  grant.Close();
  LetGo();
  ExpectWaiting();
  ASSERT_TRUE(loop_->Post([&] { copy.Close(); }));
  EXPECT_GE(MsUntilClosed(), 0);
}

TEST_F(LivenessTest, AForkedChildKeepsItOpen) {
  shm::UniqueFd grant = Grant();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  shm::UniqueFd reader(ends[0]);
  shm::UniqueFd writer(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    writer.Close();
    char byte = 0;
    ::_exit(::read(reader.get(), &byte, 1) == 0 ? 0 : 1);
  }
  grant.Close();
  LetGo();
  ExpectWaiting();
  ASSERT_TRUE(loop_->Post([&] { writer.Close(); }));
  EXPECT_GE(MsUntilClosed(), 0);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(LivenessTest, ADescriptorInFlightKeepsItOpen) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  shm::UniqueFd sender(pair[0]);
  shm::UniqueFd receiver(pair[1]);
  shm::UniqueFd grant = Grant();
  char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec part = {.iov_base = &byte, .iov_len = 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  *reinterpret_cast<int*>(CMSG_DATA(rights)) = grant.get();
  ASSERT_EQ(::sendmsg(sender.get(), &message, 0), 1);
  grant.Close();
  LetGo();
  ExpectWaiting();
  // The packet dies with both ends of its socket, never received.
  ASSERT_TRUE(loop_->Post([&] {
    receiver.Close();
    sender.Close();
  }));
  EXPECT_GE(MsUntilClosed(), 0);
}

TEST_F(LivenessTest, TheOtherEndpointsGrantsDoNotCount) {
  const auto sections = made_.buffer->regions()[0].Sections();
  const shm::UniqueFd other = sections[0]->OpenGrant(shm::FdMode::kReadOnly).value();
  ASSERT_TRUE(shm::LockGrant(other.get(), kEp1, 0).ok());
  LetGo();
  EXPECT_EQ(closed_.size(), 1u);
}

TEST_F(LivenessTest, AnEndpointThatIsHeldAgainDoesNotClose) {
  registry_.SetObserver(nullptr);
  const CreatedBuffer named = TryMake("named", {PlainSpec()}, alice_).value();
  registry_.SetObserver(this);
  named.buffer->endpoint(kEp0).grants_made = 1;
  const auto sections = named.buffer->regions()[0].Sections();
  shm::UniqueFd grant = sections[0]->OpenGrant(shm::FdMode::kReadOnly).value();
  ASSERT_TRUE(shm::LockGrant(grant.get(), kEp0, 0).ok());
  ASSERT_TRUE(registry_.CloseHandle(alice_, named.handles[0]).ok());
  EXPECT_EQ(liveness_->waiting_count(), 1u);
  const auto opened = registry_.OpenBuffer(alice_, "named", kEp0);
  ASSERT_TRUE(opened.ok());
  ASSERT_TRUE(loop_->Post([&] { grant.Close(); }));
  const Registration enough = loop_->RunAfterMs(100, [this] { loop_->Quit(); });
  loop_->Run();
  EXPECT_TRUE(closed_.empty());
  EXPECT_EQ(liveness_->waiting_count(), 0u);
  EXPECT_FALSE(named.buffer->endpoint(kEp0).closed);
  ASSERT_TRUE(registry_.CloseHandle(alice_, opened->handle).ok());
  EXPECT_TRUE(named.buffer->endpoint(kEp0).closed);
  ASSERT_TRUE(registry_.CloseHandle(alice_, named.handles[1]).ok());
}

}  // namespace
}  // namespace iob::server
