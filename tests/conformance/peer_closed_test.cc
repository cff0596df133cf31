// When an endpoint is closed, and when it is not (5.1 to 5.3), and every scenario of 5.4 that Linux
// has: real processes, real mappings, descriptors in flight. Each is run with either endpoint as
// the one that ends, and each end is watched by packet, signal page, libiob and WatchEvents.

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "shm/futex.h"
#include "tests/conformance/lifetime_contract.h"

namespace iob::test {
namespace {

// Longer than the slowest of the broker's own looks at an endpoint that only memory holds.
constexpr int64_t kLooksMs = 1200;

class PeerClosed_5_4 : public LifetimeContract {
 protected:
  // With the last mapping, which the agent has, the buffer goes.
  void ExpectBufferGoesWithTheMappingOf(Agent& agent) {
    ASSERT_TRUE(Eventually([&] {
      const v1::EndpointInfo info = LookAt(made_.koid(), Mortal());
      return info.handles() == 0 && info.attachments() == 0;
    }));
    EXPECT_EQ(Metric("iob_buffers"), 1);
    EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
    ASSERT_EQ(agent.Do("unmap 1"), "");
    EXPECT_TRUE(Eventually([] { return Metric("iob_buffers") == 0; }));
    EXPECT_TRUE(daemon().Healthy());
  }
};
IOB_OVER_ENDPOINTS(PeerClosed_5_4);

TEST_P(PeerClosed_5_4, P1_ClosingTheLastHandleIsToldAtOnce) {
  watch_->ExpectOpen();
  Close(mortal());
  EXPECT_TRUE(LookAt(made_.koid(), Mortal()).has_closed()) << "5.3: not only eventually";
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P1_ADetachedSocketIsTold) {
  const auto agent = AgentWith(mortal());
  watch_->ExpectOpen();
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P1_AClosedSocketOfALivingProcessIsTold) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("close-socket 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P1_ADestroyedEndpointIsTold) {
  { const Endpoint endpoint = AttachLibrary(mortal()); }
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P2_P3_EachOfTwoMappingsHoldsIt) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("map 2 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 2"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P2_P3_TheSameByLibrary) {
  std::optional<Endpoint> endpoint = AttachLibrary(mortal());
  std::optional<MappedRegion> one = *endpoint->Map(0, 0, kPage, Prot::kRead);
  std::optional<MappedRegion> two = *endpoint->Map(0, kPage, kPage, Prot::kRead | Prot::kWrite);
  endpoint.reset();
  ExpectHeldByMemoryAlone();
  one.reset();
  ExpectHeldByMemoryAlone();
  two->writable_bytes()[0] = std::byte{1};
  two.reset();
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P2_AMappingHoldsItHoweverOftenTheBrokerLooks) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  const int64_t until_ns = shm::MonotonicNs() + kLooksMs * 1'000'000;
  Eventually([&] { return LookAt(made_.koid(), Mortal()).has_closed(); }, kLooksMs);
  EXPECT_GE(shm::MonotonicNs(), until_ns) << "it was closed under a mapping";
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P4_ADuplicateHoldsIt) {
  const std::string duplicate = Dup(mortal(), /*rights=*/0);
  Close(mortal());
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  watch_->ExpectOpen();
  Close(duplicate);
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P4_ADuplicateInAnotherProcessHoldsIt) {
  Agent agent(daemon());
  v1::DuplicateHandleRequest duplicate;
  duplicate.set_handle(mortal());
  duplicate.set_rights(Rights::kSameRights);
  v1::DuplicateHandleResponse duplicated;
  ASSERT_EQ(agent.Call("DuplicateHandle", duplicate, &duplicated), zx::kOk);
  Close(mortal());
  watch_->ExpectOpen();
  v1::CloseHandleRequest close;
  close.set_handle(duplicated.handle());
  v1::CloseHandleResponse closed;
  ASSERT_EQ(agent.Call("CloseHandle", close, &closed), zx::kOk);
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P5_AMappingThatIsGoneHoldsNothing) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("unmap 1"), "");
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  watch_->ExpectOpen();
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P6_EachOfTwoRegionsHoldsIt) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("map 2 1 1 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 2"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P7_MappingWhenNobodyIsLeftToTellIsFine) {
  watch_.reset();
  Close(witness());
  ASSERT_TRUE(Eventually([&] { return LookAt(made_.koid(), shm::PeerOf(Mortal())).has_closed(); }));
  const auto agent = AgentWith(mortal());
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
    ASSERT_EQ(agent->Do("unmap 1"), "");
  }
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectBufferGoesWithTheMappingOf(*agent);
}

TEST_P(PeerClosed_5_4, P8_AMapThatFailsHoldsNothing) {
  std::optional<Endpoint> endpoint = AttachLibrary(mortal());
  EXPECT_EQ(OutcomeOf(endpoint->Map(0, 0, 0, Prot::kRead).status()), zx::kInvalidArgs);
  EXPECT_EQ(OutcomeOf(endpoint->Map(0, 0, kPage, Prot::kRead | Prot::kExecute).status()),
            zx::kAccessDenied);
  EXPECT_EQ(OutcomeOf(endpoint->Map(0, 1, kPage, Prot::kRead).status()), zx::kInvalidArgs);
  EXPECT_EQ(OutcomeOf(endpoint->Map(0, 0, 99 * kPage, Prot::kRead).status()), zx::kOutOfRange);
  endpoint.reset();
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P9_AsOneMappingGoesAndTheNextComesItIsNeverClosed) {
  const auto client = AttachRaw(mortal());
  // A mapping that moves on without a descriptor: at any moment one of them is there.
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED,
                      client->SectionFd(0, v1::SECTION_KIND_DATA), 0);
  ASSERT_NE(page, MAP_FAILED);
  client->Unmap();
  client->CloseFds();
  client->CloseSocket();
  std::atomic<bool> stop = false;
  std::thread mover([&] {
    while (!stop) {
      void* const next = ::mremap(page, 0, kPage, MREMAP_MAYMOVE);
      ASSERT_NE(next, MAP_FAILED);
      ::munmap(page, kPage);
      page = next;
    }
  });
  for (int i = 0; i < 20; ++i) ExpectHeldByMemoryAlone();
  stop = true;
  mover.join();
  ExpectHeldByMemoryAlone();
  ::munmap(page, kPage);
  ExpectClosed(CloseKind::kClosed);
}

// In Zircon PEER_CLOSED may already be up while such a mapping exists.
TEST_P(PeerClosed_5_4, P10_AMappingThatWinsTheRaceWithTheCloseHoldsIt) {
  int held = 0;
  constexpr int kRaces = 30;
  for (int i = 0; i < kRaces; ++i) {
    MakeAndWatch({PlainRegion()});
    const auto client = AttachRaw(mortal());
    const int fd = client->SectionFd(0, v1::SECTION_KIND_DATA);
    client->Unmap();
    void* page = MAP_FAILED;
    const auto map = [&] { page = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0); };
    const auto close = [&] {
      client->CloseSocket();
      client->CloseFds();
    };
    // The first is won and the last is lost for certain; those between are races.
    if (i == 0) map();
    std::thread closer(close);
    if (i == kRaces - 1) {
      closer.join();
      map();
    } else {
      if (i > 0) map();
      closer.join();
    }
    if (page != MAP_FAILED) {
      ++held;
      ExpectHeldByMemoryAlone();
      ::munmap(page, kPage);
    }
    ExpectClosed(CloseKind::kClosed);
  }
  EXPECT_GT(held, 0);
  EXPECT_LT(held, kRaces);
}

TEST_P(PeerClosed_5_4, P11_BothEndsAtOnceLeaveNothing) {
  watch_.reset();
  Close(mortal());
  Close(witness());
  for (int i = 0; i < 20; ++i) {
    const NewBuffer made = Make({PlainRegion()});
    const auto ep0 = AttachRaw(made.ep0);
    const auto ep1 = AttachRaw(made.ep1);
    const auto end = [](RawClient& client) {
      client.CloseSocket();
      client.CloseFds();
      client.Unmap();
    };
    std::thread other([&] { end(*ep1); });
    end(*ep0);
    other.join();
  }
  EXPECT_TRUE(Eventually([] { return Metric("iob_buffers") == 0; }));
  EXPECT_TRUE(daemon().Healthy());
}

TEST_P(PeerClosed_5_4, P13_SignalPeerKnowsBeforeTheSignalDoes) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  for (const Way way : kAllWays) {
    EXPECT_EQ(Take(way, Dup(witness()))->SignalPeer(0, kUserSignal0), zx::kPeerClosed);
  }
  watch_->ExpectOpen();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P14_MemoryOutlivesBothEndpoints) {
  constexpr uint64_t kLarge = 64 << 20;
  watch_.reset();
  ASSERT_EQ(control().DeleteBuffer(made_.koid(), true), zx::kOk);
  made_ = Make({PlainRegion(kLarge)});
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  std::optional<Endpoint> other = AttachLibrary(witness());
  std::optional<MappedRegion> mapped = *other->Map(0);
  other.reset();
  // Nobody holds anything but memory, and the memory is one.
  ASSERT_TRUE(Eventually([&] {
    const v1::BufferInfo info = Look(made_.koid());
    return info.endpoints(0).handles() + info.endpoints(0).attachments() == 0 &&
           info.endpoints(1).handles() + info.endpoints(1).attachments() == 0;
  }));
  mapped->writable_bytes()[kLarge / 2] = std::byte{'m'};
  std::string byte;
  ASSERT_EQ(agent->Do("peek 1 " + std::to_string(kLarge / 2), "", &byte), "");
  EXPECT_EQ(byte, "m");
  ASSERT_EQ(agent->Do("poke 1 0 97"), "");
  EXPECT_EQ(mapped->bytes()[0], std::byte{'a'});
  const uint64_t shmem_before = ShmemBytes();
  mapped.reset();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  EXPECT_TRUE(Eventually([] { return Metric("iob_buffers") == 0; }));
  EXPECT_TRUE(Eventually([&] { return ShmemBytes() + kLarge / 2 < shmem_before; }))
      << "with the last mapping the memory goes";
}

TEST_P(PeerClosed_5_4, P15_AKilledProcessLetsGoOfEverything) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("map 2 1 1 1"), "");
  watch_->ExpectOpen();
  EXPECT_EQ(WTERMSIG(agent->Kill(SIGKILL)), SIGKILL);
  ExpectClosed(CloseKind::kKilled, SIGKILL);
}

TEST_P(PeerClosed_5_4, P15_AnExitedProcessSaysHow) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  EXPECT_EQ(WEXITSTATUS(agent->Exit(3)), 3);
  ExpectClosed(CloseKind::kExited, 3);
}

TEST_P(PeerClosed_5_4, P15_AStoppedProcessIsNotADeadOne) {
  const auto agent = AgentWith(mortal());
  ::kill(agent->pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(agent->pid(), &status, WUNTRACED), agent->pid());
  watch_->ExpectOpen();
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  EXPECT_EQ(WTERMSIG(agent->Kill(SIGKILL)), SIGKILL);
  ExpectClosed(CloseKind::kKilled, SIGKILL);
}

TEST_P(PeerClosed_5_4, P16_AForkedCopyOfAMappingHoldsIt) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("fork"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("join"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P16_AForkedCopyHoldsItBeyondADeath) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("fork"), "");
  EXPECT_EQ(WTERMSIG(agent->Kill(SIGKILL)), SIGKILL);
  // The copy has the socket too: for the broker nothing has happened yet.
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  watch_->ExpectOpen();
  agent->EndFork();
  ExpectClosed(CloseKind::kKilled, SIGKILL);
}

TEST_P(PeerClosed_5_4, P17_ADescriptorInFlightHoldsIt) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("fly 1 0 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("land"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("drop"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P17_AMessageThatNobodyReadsLetsGoWhenItIsDropped) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("fly 1 0 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("drop"), "");
  ExpectClosed(CloseKind::kClosed);
}

TEST_P(PeerClosed_5_4, P17_ATicketUnderWayHoldsIt) {
  const std::string ticket = TicketOf(mortal());
  EXPECT_EQ(LookAt(made_.koid(), Mortal()).handles(), 1u);
  watch_->ExpectOpen();
  RawClient client(daemon().attach_path());
  ASSERT_EQ(client.Attach(ticket), "");
  watch_->ExpectOpen();
}

// P18, over all four ways. Writing, ids and maps have theirs in the tests of those calls.
class AfterPeerClosed_5_4 : public ByWay {};
IOB_OVER_ALL_WAYS(AfterPeerClosed_5_4);

TEST_P(AfterPeerClosed_5_4, P18_EverythingButThePeerWorksOn) {
  const NewBuffer made = Make({RingRegion(), IdRegion(), PlainRegion()});
  Close(made.ep0);
  ASSERT_TRUE(Eventually([&] { return LookAt(made.koid(), EndpointId::kEp0).has_closed(); }));
  const auto hand = Take(Dup(made.ep1));
  EXPECT_EQ(hand->Write(0, "record"), zx::kOk);
  uint32_t id = UINT32_MAX;
  EXPECT_EQ(hand->AllocateId(1, "blob", &id), zx::kOk);
  EXPECT_EQ(id, 0u);
  EXPECT_EQ(hand->SetName("alone"), zx::kOk);
  EXPECT_EQ(hand->Signal(0, kUserSignal0), zx::kOk);
  EXPECT_EQ(hand->SignalPeer(0, kUserSignal0), zx::kPeerClosed);
  v1::GetBufferResponse view;
  ASSERT_EQ(Contract::control().GetBuffer(made.ep1, &view), zx::kOk);
  EXPECT_EQ(view.buffer().name(), "alone");
  EXPECT_EQ(view.buffer().endpoints(1).signals(), kPeerClosedSignal | kUserSignal0);
  const Endpoint endpoint = AttachLibrary(Dup(made.ep1));
  EXPECT_EQ(OutcomeOf(endpoint.Map(2, 0, kPage, Prot::kRead | Prot::kWrite).status()), zx::kOk);
}

// --- 5.1 to 5.3 ----------------------------------------------------------------------------------

class PeerClosed_5_1 : public LifetimeContract {};
IOB_OVER_ENDPOINTS(PeerClosed_5_1);

TEST_P(PeerClosed_5_1, ItStaysAndTheEndpointNeverComesBack) {
  const std::string ticket = TicketOf(Dup(witness()));
  ASSERT_EQ(control().SetName(witness(), "still-here"), zx::kOk);
  Close(mortal());
  ExpectClosed(CloseKind::kClosed);
  v1::OpenBufferRequest open;
  open.set_name("still-here");
  open.set_endpoint(Mortal() == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1);
  v1::OpenBufferResponse opened;
  EXPECT_EQ(OutcomeOf(Call(stub(), &v1::BrokerService::StubInterface::OpenBuffer, open, &opened)),
            zx::kPeerClosed);
  RawClient late(daemon().attach_path());
  ASSERT_EQ(late.Attach(ticket), "");
  const auto told = late.ReceivePeerClosed();
  ASSERT_TRUE(told.has_value()) << "who attaches late is told as well";
  EXPECT_EQ(told->kind(), v1::CLOSE_KIND_CLOSED);
}

TEST_P(PeerClosed_5_1, AnotherHolderMakesNoDifferenceWhileOneIsLeft) {
  const auto first = AttachRaw(Dup(mortal()));
  const auto second = AttachRaw(Dup(mortal()));
  Close(mortal());
  const auto end = [](RawClient& client) {
    client.SendDetach();
    client.CloseSocket();
    client.CloseFds();
    client.Unmap();
  };
  end(*first);
  ASSERT_TRUE(Eventually([&] { return LookAt(made_.koid(), Mortal()).attachments() == 1; }));
  watch_->ExpectOpen();
  end(*second);
  ExpectClosed(CloseKind::kClosed);
}

class PeerClosed_5_2 : public LifetimeContract {};
IOB_OVER_ENDPOINTS(PeerClosed_5_2);

TEST_P(PeerClosed_5_2, TheLastPieceOfAMappingThatWasSplitHoldsIt) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ASSERT_EQ(agent->Do("halve 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("halve 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

// What Zircon does not count: it has no descriptor of memory, and the signal is no page.
TEST_P(PeerClosed_5_2, DescriptorsAndTheSignalPageCountAsWell) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 " + std::to_string(v1::SECTION_KIND_SIGNAL)), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectClosed(CloseKind::kClosed);
}

// Nothing keeps a holder from dropping the lock that says that it holds.
TEST_P(PeerClosed_5_2, AHolderThatLiesLiesToItsOwnLoss) {
  const auto client = AttachRaw(mortal());
  for (const shm::UniqueFd& fd : client->fds()) {
    struct flock everything = {};
    everything.l_type = F_UNLCK;
    everything.l_whence = SEEK_SET;
    ASSERT_EQ(::fcntl(fd.get(), F_OFD_SETLK, &everything), 0);
  }
  watch_->ExpectOpen();
  client->CloseSocket();
  ExpectClosed(CloseKind::kClosed);
  client->SectionBytes(0, v1::SECTION_KIND_DATA)[0] = 1;
  EXPECT_TRUE(daemon().Healthy());
}

TEST_P(PeerClosed_5_2, OneBuffersMappingsOfASharedRegionAreNotAnothers) {
  const NewRegion shared = MakeShared();
  const NewBuffer other = Make({SharedRegionOf(shared.handle)});
  watch_.reset();
  MakeAndWatch({SharedRegionOf(shared.handle, 0, kBothMap)});
  const auto stranger = AttachRaw(Dup(other.ep0));
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  ASSERT_EQ(agent->Do("unmap 1"), "");
  ExpectClosed(CloseKind::kClosed);
  EXPECT_FALSE(LookAt(other.koid(), EndpointId::kEp0).has_closed());
  Close(shared.handle);
}

class PeerClosed_5_3 : public LifetimeContract {};
IOB_OVER_ENDPOINTS(PeerClosed_5_3);

TEST_P(PeerClosed_5_3, AfterAnUnmapItIsToldWithoutAnybodyAsking) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_EQ(agent->Do("detach 1"), "");
  ExpectHeldByMemoryAlone();
  const Endpoint endpoint = AttachLibrary(Dup(witness()));
  ASSERT_EQ(agent->Do("unmap 1"), "");
  const auto seen = endpoint.WaitSignals(kSignalPeerClosed, After(std::chrono::seconds(10)));
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_FALSE(seen->timed_out);
}

}  // namespace
}  // namespace iob::test
