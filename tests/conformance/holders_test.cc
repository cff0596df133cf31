// Who holds an endpoint, and what ends with whom: creators that die, leases, tickets, buffers that
// are deleted while in use (5.1, A9). Zircon's handles end with their process too; leases, tickets,
// deletion and reasons are ours.

#include <signal.h>

#include "tests/conformance/lifetime_contract.h"

namespace iob::test {
namespace {

using Service = v1::BrokerService::StubInterface;

class Holders_5_1 : public LifetimeContract {
 protected:
  // A buffer that `agent` makes, with `lease_ms`; ep1 or ep0 watches from here, the other handle is
  // the agent's alone.
  void MadeByAgent(Agent& agent, uint32_t lease_ms = 0) {
    DeleteFirst();
    v1::CreateBufferRequest request = BufferOf({PlainRegion()});
    request.set_lease_ms(lease_ms);
    v1::CreateBufferResponse response;
    ASSERT_EQ(agent.Call("CreateBuffer", request, &response), zx::kOk);
    made_ = {.info = response.buffer(), .ep0 = response.ep0_handle(), .ep1 = response.ep1_handle()};
    // A duplicate of ours, so that the watch outlives the agent.
    (Mortal() == EndpointId::kEp0 ? made_.ep1 : made_.ep0) = Dup(witness());
    watch_ = Watch(witness());
  }
  void DeleteFirst() {
    watch_.reset();
    ASSERT_EQ(control().DeleteBuffer(made_.koid(), true), zx::kOk);
    ASSERT_TRUE(Eventually([] { return Metric("iob_buffers") == 0; }));
  }
  // A buffer of ours that nobody keeps alive: a clock that runs for as long as a lease.
  static NewBuffer MakeLeased(uint32_t lease_ms) {
    v1::CreateBufferRequest request = BufferOf({PlainRegion()});
    request.set_lease_ms(lease_ms);
    NewBuffer made;
    EXPECT_EQ(control().CreateBuffer(request, &made), zx::kOk);
    return made;
  }
  static bool IsGone(const std::string& handle) {
    v1::HandleInfo info;
    return control().GetHandleInfo(handle, &info) == zx::kBadHandle;
  }
};
IOB_OVER_ENDPOINTS(Holders_5_1);

TEST_P(Holders_5_1, ACreatorThatIsKilledTakesItsHandlesWithIt) {
  Agent agent(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(agent));
  watch_->ExpectOpen();
  EXPECT_EQ(WTERMSIG(agent.Kill(SIGKILL)), SIGKILL);
  ExpectClosed(CloseKind::kKilled, SIGKILL);
  EXPECT_TRUE(IsGone(mortal()));
}

TEST_P(Holders_5_1, ACreatorThatExitsTakesItsHandlesWithIt) {
  Agent agent(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(agent));
  EXPECT_EQ(WEXITSTATUS(agent.Exit(5)), 5);
  ExpectClosed(CloseKind::kExited, 5);
}

TEST_P(Holders_5_1, ABufferThatNobodyElseHoldsGoesWithItsCreator) {
  ASSERT_NO_FATAL_FAILURE(DeleteFirst());
  Agent agent(daemon());
  v1::CreateSharedRegionRequest region;
  region.set_size_bytes(kSmallRing);
  v1::CreateSharedRegionResponse made_region;
  ASSERT_EQ(agent.Call("CreateSharedRegion", region, &made_region), zx::kOk);
  v1::CreateBufferResponse made;
  ASSERT_EQ(agent.Call("CreateBuffer", BufferOf({SharedRegionOf(made_region.handle())}), &made),
            zx::kOk);
  EXPECT_EQ(Metric("iob_buffers"), 1);
  agent.Kill(SIGKILL);
  EXPECT_TRUE(
      Eventually([] { return Metric("iob_buffers") == 0 && Metric("iob_shared_regions") == 0; }));
}

TEST_P(Holders_5_1, AnAttachmentOutlivesTheCreatorOfItsHandle) {
  Agent creator(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(creator));
  const auto holder = AgentWith(Dup(mortal()));
  creator.Kill(SIGKILL);
  ASSERT_TRUE(Eventually([&] { return IsGone(mortal()); }));
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  watch_->ExpectOpen();
  holder->Kill(SIGTERM);
  ExpectClosed(CloseKind::kKilled, SIGTERM);
}

TEST_P(Holders_5_1, ATicketOutlivesTheProcessThatAskedForIt) {
  Agent creator(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(creator));
  v1::AttachRequest attach;
  attach.set_handle(mortal());
  v1::AttachResponse attached;
  ASSERT_EQ(creator.Call("Attach", attach, &attached), zx::kOk);
  creator.Kill(SIGKILL);
  RawClient client(daemon().attach_path());
  ASSERT_EQ(client.Attach(attached.ticket().ticket()), "");
  watch_->ExpectOpen();
}

class Leases_5_1 : public Holders_5_1 {
 protected:
  // Long enough for a busy machine to do a few calls in.
  static constexpr uint32_t kLeaseMs = 700;
};
INSTANTIATE_TEST_SUITE_P(If, Leases_5_1, ::testing::Values(EndpointId::kEp0), EndpointName);

TEST_P(Leases_5_1, ALeaseEndsByItself) {
  Agent agent(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(agent, kLeaseMs));
  ExpectClosed(CloseKind::kExpired);
  EXPECT_TRUE(IsGone(mortal()));
}

TEST_P(Leases_5_1, ALeaseOutlivesItsCreatorAndKeepAliveExtendsIt) {
  Agent agent(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(agent, kLeaseMs));
  agent.Kill(SIGKILL);
  // Twice as long as it would live by itself.
  for (int i = 0; i < 2; ++i) {
    const NewBuffer clock = MakeLeased(kLeaseMs);
    ASSERT_TRUE(Eventually([&] {
      EXPECT_EQ(control().KeepAlive({mortal()}), zx::kOk);
      return IsGone(clock.ep0);
    }));
  }
  watch_->ExpectOpen();
  ExpectClosed(CloseKind::kExpired);
}

TEST_P(Leases_5_1, KeepAliveIsForAllOrNone) {
  const NewBuffer other = Make({PlainRegion()});
  EXPECT_EQ(control().KeepAlive({other.ep0, std::string(16, '\0')}), zx::kBadHandle);
  EXPECT_EQ(control().KeepAlive({other.ep0, other.ep1}), zx::kOk) << "without a lease: no effect";
  EXPECT_EQ(control().KeepAlive({}), zx::kOk);
}

TEST_P(Leases_5_1, AnAttachedLeaseDoesNotRunOut) {
  Agent agent(daemon());
  ASSERT_NO_FATAL_FAILURE(MadeByAgent(agent, kLeaseMs));
  const auto client = AttachRaw(mortal());
  const NewBuffer clock = MakeLeased(kLeaseMs);
  ASSERT_TRUE(Eventually([&] { return IsGone(clock.ep0); }));
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed());
  watch_->ExpectOpen();
}

TEST(Tickets_5_1, ATicketThatNobodyRedeemsRunsOut) {
  const auto daemon =
      TestDaemon::Start(DaemonKind::kThread, {.flags = {"--ticket-lifetime-ms", "100"}});
  ASSERT_NE(daemon, nullptr);
  const auto control = GrpcControl(daemon->stub());
  NewBuffer made;
  ASSERT_EQ(control->CreateBuffer(BufferOf({PlainRegion()}), &made), zx::kOk);
  NewTicket ticket;
  ASSERT_EQ(control->Attach(made.ep0, &ticket), zx::kOk);
  v1::GetBufferResponse view;
  ASSERT_TRUE(Eventually([&] {
    EXPECT_EQ(control->GetBuffer(made.ep1, &view), zx::kOk);
    return view.buffer().endpoints(0).has_closed();
  }));
  EXPECT_EQ(view.buffer().endpoints(0).closed().kind(), v1::CLOSE_KIND_EXPIRED);
  RawClient late(daemon->attach_path());
  ASSERT_EQ(late.SendRedeem(ticket.bytes), 0);
  const auto error = late.ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(OutcomeOfAnswer(*error), zx::kBadHandle);
  EXPECT_EQ(daemon->Stop(), "");
}

class Delete_5_1 : public LifetimeContract {};
IOB_OVER_ENDPOINTS(Delete_5_1);

TEST_P(Delete_5_1, WhatIsInUseIsDeletedWithForceOnly) {
  const auto agent = AgentWith(mortal());
  EXPECT_EQ(control().DeleteBuffer(made_.koid(), /*force=*/false), kInUse);
  watch_->ExpectOpen();
  EXPECT_FALSE(LookAt(made_.koid(), Mortal()).has_closed()) << "nothing changed";
}

TEST_P(Delete_5_1, ForceRevokesBothEndpointsAndEveryHandle) {
  const std::string duplicate = Dup(witness());
  const auto ours = AttachRaw(Dup(witness()));
  const auto agent = AgentWith(mortal());
  watch_.reset();
  ASSERT_EQ(control().DeleteBuffer(made_.koid(), /*force=*/true), zx::kOk);
  v1::HandleInfo info;
  EXPECT_EQ(control().GetHandleInfo(duplicate, &info), zx::kBadHandle);
  const auto packet = ours->Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_TRUE(packet->event().has_revoked()) << packet->ShortDebugString();
  EXPECT_FALSE(ours->ReadToEnd().has_value());
  // Its descriptors are still there: only without them is the endpoint closed, as revoked.
  EXPECT_EQ(ours->Signals(), 0u);
  ASSERT_EQ(agent->Do("close-fds 1"), "");
  ASSERT_TRUE(Eventually([&] { return ours->Signals() == kPeerClosedSignal; }));
  EXPECT_EQ(ours->SignalReason().kind(), v1::CLOSE_KIND_REVOKED);
}

TEST_P(Delete_5_1, MemoryThatIsMappedStaysValid) {
  const auto agent = AgentWith(mortal());
  ASSERT_EQ(agent->Do("map 1 1 0 1"), "");
  std::optional<Endpoint> endpoint = AttachLibrary(Dup(witness()));
  std::optional<MappedRegion> mapped = *endpoint->Map(0);
  watch_.reset();
  ASSERT_EQ(control().DeleteBuffer(made_.koid(), /*force=*/true), zx::kOk);
  mapped->writable_bytes()[kPage] = std::byte{'d'};
  std::string byte;
  ASSERT_EQ(agent->Do("peek 1 4096", "", &byte), "");
  EXPECT_EQ(byte, "d");
  EXPECT_EQ(Metric("iob_buffers"), 1) << "it is still held";
}

TEST_P(Delete_5_1, TheNameIsFreeAtOnce) {
  ASSERT_EQ(control().SetName(witness(), "mine"), zx::kOk);
  const auto agent = AgentWith(mortal());
  watch_.reset();
  ASSERT_EQ(control().DeleteBuffer(made_.koid(), /*force=*/true), zx::kOk);
  const NewBuffer next = Make({PlainRegion()});
  EXPECT_EQ(control().SetName(next.ep0, "mine"), zx::kOk);
}

TEST_P(Delete_5_1, ARingReaderHoldsItsEndpointLikeAnyMapping) {
  watch_.reset();
  ASSERT_EQ(control().DeleteBuffer(made_.koid(), true), zx::kOk);
  MakeAndWatch({RingRegion(kSmallRing, kBothMap | kEp0MediatedWrite | kEp1MediatedWrite)});
  std::optional<Endpoint> endpoint = AttachLibrary(mortal());
  ASSERT_EQ(control().Write(witness(), 0, {"record"}), zx::kOk);
  std::optional<RingReader> reader = *endpoint->OpenReader(0);
  endpoint.reset();
  ExpectHeldByMemoryAlone();
  Record record;
  ASSERT_OK_AND_ASSIGN(const bool read, reader->TryRead(&record));
  EXPECT_TRUE(read);
  EXPECT_EQ(record.payload.size(), 6u);
  reader.reset();
  ExpectClosed(CloseKind::kClosed);
}

}  // namespace
}  // namespace iob::test
