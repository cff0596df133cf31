// When is an endpoint really gone: with real grants, mappings, children and descriptors in flight.

#include "server/liveness.h"

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <functional>

#include "shm/grant_lock.h"
#include "shm/mapping.h"
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
  void OnOwnersLeft(Koid buffer) override { liveness_->OnOwnersLeft(buffer); }
  void OnEndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                        shm::CloseReason) override {
    closed_.push_back(endpoint);
    closed_buffers_.push_back(buffer.koid);
    if (on_closed_) return on_closed_();
    loop_->Quit();
  }
  void OnRevoke(AttachmentId) override {}
  void OnBufferGone(const BufferLabel& buffer) override { liveness_->OnBufferGone(buffer.koid); }

  // A descriptor as ep0 would get it.
  shm::UniqueFd Grant() {
    const auto sections = made_.buffer->regions()[0].Sections();
    shm::UniqueFd fd = sections[0]->OpenGrant(shm::FdMode::kReadOnly).value();
    EXPECT_TRUE(shm::LockGrant(fd.get(), shm::GrantRange(kEp0), 0).ok());
    return fd;
  }
  void LetGo() { ASSERT_TRUE(registry_.CloseHandle(alice_, made_.handles[0]).ok()); }
  void ExpectWaiting() {
    EXPECT_TRUE(closed_.empty());
    EXPECT_EQ(liveness_->waiting_count(), 1u);
  }
  // Runs the loop until somebody ends it, or 10 s; how long that took.
  int64_t MsOfRun() {
    const int64_t begin_ns = system_clock_.MonotonicNs();
    const Registration too_late = loop_->RunAfterMs(10'000, [this] { loop_->Quit(); });
    loop_->Run();
    return (system_clock_.MonotonicNs() - begin_ns) / 1'000'000;
  }
  // Runs the loop until ep0 is closed; how long that took, or -1.
  int64_t MsUntilClosed() {
    const int64_t took_ms = MsOfRun();
    EXPECT_EQ(liveness_->waiting_count(), closed_.empty() ? 1u : 0u);
    return closed_.empty() ? -1 : took_ms;
  }

  SystemClock system_clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(system_clock_).value();
  std::unique_ptr<Liveness> liveness_ = Liveness::Create(*loop_, registry_).value();
  CreatedBuffer made_;
  std::vector<shm::EndpointId> closed_;
  std::vector<Koid> closed_buffers_;
  std::function<void()> on_closed_;
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
  ASSERT_TRUE(shm::LockGrant(other.get(), shm::GrantRange(kEp1), 0).ok());
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
  ASSERT_TRUE(shm::LockGrant(grant.get(), shm::GrantRange(kEp0), 0).ok());
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

TEST_F(LivenessTest, BuffersOnOneRegionCloseEachByItself) {
  const CreatedSharedRegion shared = MakeRegion();
  std::vector<CreatedBuffer> users;
  std::vector<shm::UniqueFd> grants;
  for (int i = 0; i < 3; ++i) {
    users.push_back(TryMake("", {SharedSpec(shared.handle)}, alice_).value());
    users.back().buffer->endpoint(kEp0).grants_made = 1;
    const Region& region = users.back().buffer->regions()[0];
    grants.push_back(region.Sections()[1]->OpenGrant(shm::FdMode::kReadOnly).value());
    ASSERT_TRUE(shm::LockGrant(grants.back().get(), region.GrantRangeOf(kEp0), 0).ok());
  }
  ASSERT_TRUE(registry_.CloseHandle(alice_, shared.handle).ok());
  for (const CreatedBuffer& user : users) {
    ASSERT_TRUE(registry_.CloseHandle(alice_, user.handles[0]).ok());
  }
  EXPECT_EQ(liveness_->waiting_count(), 3u);
  // The watch of the section is shared too: it must live as long as one of them waits.
  const std::vector<size_t> order = {1, 0, 2};
  const auto close_next = [&] { grants[order[closed_buffers_.size()]].Close(); };
  on_closed_ = [&] {
    EXPECT_EQ(closed_buffers_.back(), users[order[closed_buffers_.size() - 1]].buffer->koid());
    if (closed_buffers_.size() == order.size()) return loop_->Quit();
    ASSERT_TRUE(loop_->Post(close_next));
  };
  ASSERT_TRUE(loop_->Post(close_next));
  EXPECT_LT(MsOfRun(), kSoonMs);
  EXPECT_EQ(closed_buffers_.size(), 3u);
  EXPECT_EQ(liveness_->waiting_count(), 0u);
  on_closed_ = nullptr;
  for (const CreatedBuffer& user : users) {
    ASSERT_TRUE(registry_.CloseHandle(alice_, user.handles[1]).ok());
  }
  EXPECT_TRUE(registry_.shared_regions().empty());
}

// A writer that may not map anything has only the signal page, which is made when somebody
// attaches.
// When the reader's end was waited for by then, the writer's end came a second late.
TEST_F(LivenessTest, ASignalPageMadeWhileThePeerIsWaitedForIsWatchedToo) {
  const shm::UniqueFd of_ep0 = Grant();
  LetGo();
  ExpectWaiting();
  shm::UniqueFd page =
      made_.buffer->signal().Page().value()->OpenGrant(shm::FdMode::kReadOnly).value();
  ASSERT_TRUE(shm::LockGrant(page.get(), shm::GrantRange(kEp1), 0).ok());
  made_.buffer->endpoint(kEp1).grants_made = 1;
  ASSERT_TRUE(registry_.CloseHandle(alice_, made_.handles[1]).ok());
  EXPECT_EQ(liveness_->waiting_count(), 2u);
  ASSERT_TRUE(loop_->Post([&] { page.Close(); }));
  EXPECT_LT(MsOfRun(), kSoonMs);
  EXPECT_EQ(closed_, std::vector<shm::EndpointId>{kEp1});
}

// An endpoint that allocates ids by itself, attached, with one claim that it has not committed.
class OwnersLiveness : public LivenessTest {
 protected:
  void SetUp() override {
    LivenessTest::SetUp();
    RegionSpec spec = PlainSpec();
    spec.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
    user_ = TryMake("", {spec}, alice_).value();
    const shm::GrantRange range = user_.buffer->regions()[0].GrantRangeOf(kEp0);
    user_.buffer->endpoint(kEp0).grants_made = 1;
    grant_ = ids().memfd().OpenGrant(shm::FdMode::kReadWrite).value();
    ASSERT_TRUE(shm::LockGrant(grant_.get(), range, 0).ok());
    owner_ = ids().Take(range, 0).value();
    also_ep0_ = Duplicate(alice_, user_.handles[0]).value();
    attachment_ = Redeem(TicketOf(alice_, user_.handles[0]), alice_.uid)->id;
    registry_.SetOwners(attachment_, {{.region_index = 0, .owner = owner_}});
    shm::Mapping::Map(ids().memfd())
        .value()
        .Word<uint64_t>(kSlot)
        .StoreRelease(shm::IdSlot::PendingWord(owner_, 8));
  }
  void TearDown() override {
    ASSERT_TRUE(registry_.DeleteBuffer(alice_, *user_.buffer, /*force=*/true).ok());
    LivenessTest::TearDown();
  }
  SharedIds& ids() { return *user_.buffer->regions()[0].shared_ids(); }
  uint64_t Slot() {
    return shm::ReadOnlyMapping::Map(ids().memfd())
        .value()
        .Word<uint64_t>(kSlot)
        .LoadAcquire()
        .ForHintOnly();
  }
  void EndAttachment() { registry_.EndAttachment(attachment_, {.kind = shm::CloseKind::kKilled}); }
  void EndTheOtherHold() { ASSERT_TRUE(registry_.CloseHandle(alice_, also_ep0_).ok()); }

  static constexpr uint64_t kSlot = shm::IdSlotOffset(0);
  CreatedBuffer user_;
  shm::UniqueFd grant_;
  shm::IdOwner owner_ = 0;
  AttachmentId attachment_ = 0;
  Token also_ep0_;
};

TEST_F(OwnersLiveness, AreSettledWhenTheirGrantIsFreeThoughTheEndpointIsHeld) {
  EndAttachment();
  EXPECT_EQ(ids().left_count(), 1u);
  EXPECT_EQ(Slot(), shm::IdSlot::PendingWord(owner_, 8)) << "its holder may still commit";
  ASSERT_TRUE(loop_->Post([&] { grant_.Close(); }));
  // Nobody is told of it: look until it is done.
  std::function<void()> look;
  Registration timer;
  look = [&] {
    if (ids().left_count() == 0) return loop_->Quit();
    timer = loop_->RunAfterMs(1, look);
  };
  timer = loop_->RunAfterMs(1, look);
  EXPECT_LT(MsOfRun(), kSoonMs);
  EXPECT_EQ(Slot(), shm::IdSlot::TombstoneWord(8));
  EXPECT_TRUE(closed_.empty());
}

TEST_F(OwnersLiveness, AreSettledBeforeTheirEndpointIsToldClosed) {
  uint64_t slot_when_told = 0;
  on_closed_ = [&] {
    slot_when_told = Slot();
    loop_->Quit();
  };
  EndTheOtherHold();
  EndAttachment();
  EXPECT_TRUE(closed_.empty());
  ASSERT_TRUE(loop_->Post([&] { grant_.Close(); }));
  EXPECT_LT(MsOfRun(), kSoonMs);
  ASSERT_EQ(closed_.size(), 1u);
  EXPECT_EQ(slot_when_told, shm::IdSlot::TombstoneWord(8));
  on_closed_ = nullptr;
}

TEST_F(OwnersLiveness, AreSettledAtOnceWhenNobodyHoldsTheGrant) {
  grant_.Close();
  EndAttachment();
  EXPECT_EQ(ids().left_count(), 0u);
  EXPECT_EQ(Slot(), shm::IdSlot::TombstoneWord(8));
  EXPECT_TRUE(closed_.empty());
}

}  // namespace
}  // namespace iob::server
