// Signals of endpoints and of shared regions (1.10), raising and clearing them (2.9), and waiting
// for them (2.10).

#include <thread>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

constexpr uint32_t kUser0 = kUserSignal0;
constexpr uint32_t kUser1 = kUserSignal0 << 1;
constexpr uint32_t kUser7 = 1u << 31;
constexpr uint32_t kAllUser = 0xff000000;

// Events are there when the call that made them was answered, or shortly after.
Deadline Soon() { return After(std::chrono::seconds(10)); }
Deadline Now() { return After(std::chrono::nanoseconds(0)); }

class SignalContract : public ByWay {
 protected:
  void SetUp() override {
    ByWay::SetUp();
    made_ = Make({PlainRegion(), RingRegion()});
  }

  // What is raised, as the broker says it.
  uint32_t SignalsOf(EndpointId endpoint) { return LookAt(made_.koid(), endpoint).signals(); }

  NewBuffer made_;
};

// --- 2.9 -----------------------------------------------------------------------------------------

class Signal_2_9 : public SignalContract {};
IOB_OVER_ALL_WAYS(Signal_2_9);

TEST_P(Signal_2_9, RaisesAndClearsOnesOwn) {
  const auto ep0 = Take(Dup(made_.ep0));
  ASSERT_EQ(ep0->Signal(0, kUser0 | kUser7), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), kUser0 | kUser7);
  EXPECT_EQ(SignalsOf(EndpointId::kEp1), 0u);
  ASSERT_EQ(ep0->Signal(kUser0, kUser1), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), kUser1 | kUser7);
  ASSERT_EQ(ep0->Signal(kAllUser, 0), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), 0u);
}

TEST_P(Signal_2_9, SignalPeerRaisesAndClearsTheOthers) {
  const auto ep0 = Take(Dup(made_.ep0));
  ASSERT_EQ(ep0->SignalPeer(0, kUser0), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), 0u);
  EXPECT_EQ(SignalsOf(EndpointId::kEp1), kUser0);
  const auto ep1 = Take(Dup(made_.ep1));
  ASSERT_EQ(ep1->SignalPeer(0, kUser7), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), kUser7);
  ASSERT_EQ(ep0->SignalPeer(kUser0, 0), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp1), 0u);
}

TEST_P(Signal_2_9, ClearsBeforeItRaises) {
  const auto ep0 = Take(Dup(made_.ep0));
  ASSERT_EQ(ep0->Signal(kUser0, kUser0), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), kUser0);
}

TEST_P(Signal_2_9, OnlyUserSignalsCanBeChanged) {
  const auto ep0 = Take(Dup(made_.ep0));
  for (const uint32_t mask : {1u, kPeerClosedSignal, 1u << 3, kUser0 | 1u, 1u << 23}) {
    EXPECT_EQ(ep0->Signal(0, mask), zx::kInvalidArgs) << mask;
    EXPECT_EQ(ep0->Signal(mask, 0), zx::kInvalidArgs) << mask;
    EXPECT_EQ(ep0->SignalPeer(0, mask), zx::kInvalidArgs) << mask;
    EXPECT_EQ(ep0->SignalPeer(mask, 0), zx::kInvalidArgs) << mask;
  }
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), 0u);
  EXPECT_EQ(SignalsOf(EndpointId::kEp1), 0u);
}

TEST_P(Signal_2_9, NeedsTheRight) {
  const auto mute = Take(Dup(made_.ep0, Rights::kEndpointDefault & ~Rights::kSignal));
  EXPECT_EQ(mute->Signal(0, kUser0), zx::kAccessDenied);
  EXPECT_EQ(mute->SignalPeer(0, kUser0), zx::kOk);
  const auto alone = Take(Dup(made_.ep0, Rights::kEndpointDefault & ~Rights::kSignalPeer));
  EXPECT_EQ(alone->SignalPeer(0, kUser0), zx::kAccessDenied);
  EXPECT_EQ(alone->Signal(0, kUser0), zx::kOk);
}

TEST_P(Signal_2_9, TheMaskComesBeforeTheRight) {
  const auto mute = Take(Dup(made_.ep0, Rights::kWait));
  EXPECT_EQ(mute->Signal(0, 1), zx::kInvalidArgs);
  EXPECT_EQ(mute->SignalPeer(0, 1), zx::kInvalidArgs);
}

TEST_P(Signal_2_9, APeerThatNobodyHoldsIsClosedAndTheMaskComesBeforeThat) {
  const auto ep0 = Take(Dup(made_.ep0));
  Close(made_.ep1);
  EXPECT_EQ(ep0->SignalPeer(0, kUser0), zx::kPeerClosed);
  EXPECT_EQ(ep0->SignalPeer(0, 1), zx::kInvalidArgs);
  EXPECT_EQ(ep0->Signal(0, kUser0), zx::kOk) << "its own are its own";
  const auto alone = Take(Dup(made_.ep0, Rights::kWait));
  EXPECT_EQ(alone->SignalPeer(0, kUser0), zx::kAccessDenied) << "the right comes before the peer";
}

TEST_P(Signal_2_9, PeerClosedCannotBeCleared) {
  const auto ep0 = Take(Dup(made_.ep0));
  Close(made_.ep1);
  ASSERT_TRUE(Eventually([&] { return SignalsOf(EndpointId::kEp0) == kPeerClosedSignal; }));
  EXPECT_EQ(ep0->Signal(UINT32_MAX, 0), zx::kInvalidArgs);
  ASSERT_EQ(ep0->Signal(kAllUser, kUser0), zx::kOk);
  EXPECT_EQ(SignalsOf(EndpointId::kEp0), kPeerClosedSignal | kUser0);
}

class SignalByHandle_2_9 : public SignalContract {};
IOB_OVER_CONTROL_WAYS(SignalByHandle_2_9);

TEST_P(SignalByHandle_2_9, AnUnknownHandleIsBad) {
  EXPECT_EQ(control().Signal(std::string(16, '\0'), 0, 1), zx::kBadHandle);
  EXPECT_EQ(control().SignalPeer(std::string(16, '\0'), 0, 1), zx::kBadHandle);
}

TEST_P(SignalByHandle_2_9, ASharedRegionHasUserSignalsAndNoPeer) {
  const NewRegion shared = MakeShared();
  ASSERT_EQ(control().Signal(shared.handle, 0, kUser0 | kUser1), zx::kOk);
  ASSERT_EQ(control().Signal(shared.handle, kUser0, 0), zx::kOk);
  v1::SharedRegionInfo info;
  ASSERT_EQ(control().GetSharedRegion(shared.handle, &info), zx::kOk);
  EXPECT_EQ(info.signals(), kUser1);
  EXPECT_EQ(control().Signal(shared.handle, 0, kPeerClosedSignal), zx::kInvalidArgs);
  EXPECT_EQ(control().Signal(shared.handle, 0, 1u << 3), zx::kInvalidArgs);
  EXPECT_EQ(control().SignalPeer(shared.handle, 0, kUser0), zx::kAccessDenied);
  EXPECT_EQ(control().SignalPeer(shared.handle, 0, 1), zx::kInvalidArgs) << "the mask is first";
  const std::string mute = Dup(shared.handle, Rights::kWait);
  EXPECT_EQ(control().Signal(mute, 0, kUser0), zx::kAccessDenied);
  Close(mute);
  Close(shared.handle);
}

// --- 1.10 ----------------------------------------------------------------------------------------

class Signals_1_10 : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    made_ = Make({RingRegion()});
  }

  // The next event of a watch, of any kind.
  static WatchedEvent Next(EventWatch& watch) {
    auto event = watch.Next(Soon());
    EXPECT_TRUE(event.ok() && event->has_value()) << event.status();
    return event.ok() && event->has_value() ? **event : WatchedEvent();
  }
  static bool NothingMore(EventWatch& watch) {
    const auto event = watch.Next(Now());
    return event.ok() && !event->has_value();
  }
  static EventWatch Watch(const std::string& handle) {
    auto watch = broker().Watch(Handle(SecretOf(handle)));
    EXPECT_TRUE(watch.ok()) << watch.status();
    const WatchedEvent started = Next(*watch);
    EXPECT_EQ(started.kind, WatchedEvent::Kind::kStarted);
    return *std::move(watch);
  }

  NewBuffer made_;
};

TEST_F(Signals_1_10, TheBitsAreZircons) {
  EXPECT_EQ(kSignalPeerClosed, 1u << 2);
  EXPECT_EQ(kUserSignals, 0xff000000u);
  EXPECT_EQ(UserSignal(0), 1u << 24);
  EXPECT_EQ(UserSignal(7), 1u << 31);
}

TEST_F(Signals_1_10, EveryHolderOfAnEndpointSeesTheSame) {
  const auto raw = AttachRaw(Dup(made_.ep0));
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  EventWatch watch = Watch(Dup(made_.ep0));
  ASSERT_EQ(control().SignalPeer(made_.ep1, 0, kUser0), zx::kOk);
  ASSERT_TRUE(Eventually([&] { return raw->Signals() == kUser0; }));
  EXPECT_EQ(endpoint.signals(), kUser0);
  const auto packet = raw->Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->event().signaled().signals(), kUser0);
  const WatchedEvent event = Next(watch);
  EXPECT_EQ(event.kind, WatchedEvent::Kind::kSignalsChanged);
  EXPECT_EQ(event.signals, kUser0);
  EXPECT_EQ(event.endpoint, EndpointId::kEp0);
}

TEST_F(Signals_1_10, OnesOwnSignalsAreNotThePeers) {
  const auto ep0 = AttachRaw(Dup(made_.ep0));
  EventWatch watch = Watch(Dup(made_.ep0));
  ASSERT_EQ(control().Signal(made_.ep1, 0, kUser0), zx::kOk);
  ASSERT_EQ(control().Signal(made_.ep0, 0, kUser1), zx::kOk);
  EXPECT_EQ(Next(watch).signals, kUser1) << "the first that it hears of";
  EXPECT_EQ(ep0->Signals(), kUser1);
}

TEST_F(Signals_1_10, PeerClosedIsRaisedByTheBrokerAloneAndStays) {
  const auto raw = AttachRaw(Dup(made_.ep0));
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  EventWatch watch = Watch(Dup(made_.ep0));
  Close(made_.ep1);
  const WatchedEvent event = Next(watch);
  EXPECT_EQ(event.kind, WatchedEvent::Kind::kEndpointClosed);
  EXPECT_EQ(event.endpoint, EndpointId::kEp1);
  ASSERT_TRUE(raw->ReceivePeerClosed().has_value());
  EXPECT_EQ(raw->Signals(), kPeerClosedSignal);
  EXPECT_EQ(endpoint.signals(), kPeerClosedSignal);
  const Endpoint late = AttachLibrary(Dup(made_.ep0));
  EXPECT_EQ(late.signals(), kPeerClosedSignal) << "whoever comes later sees it too";
}

TEST_F(Signals_1_10, AWriteStrobesTheSharedRegionOnlyAndLeavesNothingRaised) {
  const NewRegion shared = MakeShared();
  const NewBuffer made = Make({SharedRegionOf(shared.handle)});
  EventWatch of_region = Watch(shared.handle);
  EventWatch of_endpoint = Watch(Dup(made.ep0));
  const auto consumer = AttachRaw(Dup(made.ep0));
  ASSERT_EQ(Next(of_endpoint).kind, WatchedEvent::Kind::kEndpointAttached);
  ASSERT_EQ(control().Write(made.ep1, 0, {"record"}), zx::kOk);
  const WatchedEvent updated = Next(of_region);
  EXPECT_EQ(updated.kind, WatchedEvent::Kind::kSharedRegionUpdated);
  EXPECT_EQ(updated.shared_region_koid, shared.info.koid());
  v1::SharedRegionInfo info;
  ASSERT_EQ(control().GetSharedRegion(shared.handle, &info), zx::kOk);
  EXPECT_EQ(info.signals(), 0u) << "a strobe is never left asserted";
  EXPECT_EQ(consumer->Signals(), 0u);
  // The next thing that the endpoint hears of came after the write.
  ASSERT_EQ(control().Signal(made.ep0, 0, kUser0), zx::kOk);
  EXPECT_EQ(Next(of_endpoint).signals, kUser0);
  EventWatch late = Watch(shared.handle);
  ASSERT_EQ(control().Signal(shared.handle, 0, kUser1), zx::kOk);
  EXPECT_EQ(Next(late).kind, WatchedEvent::Kind::kSignalsChanged)
      << "who waits only now has missed the strobe";
  Close(shared.handle);
}

// Every write strobes; strobes that meet a watcher who has not read yet become one message.
TEST_F(Signals_1_10, EveryWriterOfASharedRegionStrobesIt) {
  const NewRegion shared = MakeShared(4 * kPage);
  const NewBuffer one = Make({SharedRegionOf(shared.handle)});
  const NewBuffer two = Make({PlainRegion(), SharedRegionOf(shared.handle)});
  EventWatch watch = Watch(shared.handle);
  ASSERT_EQ(control().Write(one.ep1, 0, {"record"}), zx::kOk);
  EXPECT_EQ(Next(watch).kind, WatchedEvent::Kind::kSharedRegionUpdated);
  ASSERT_EQ(Take(Way::kSocket, Dup(two.ep1))->Write(1, "record"), zx::kOk);
  EXPECT_EQ(Next(watch).kind, WatchedEvent::Kind::kSharedRegionUpdated);
  Close(shared.handle);
}

TEST_F(Signals_1_10, AFailedWriteStrobesNothing) {
  const NewRegion shared = MakeShared();
  const NewBuffer made = Make({SharedRegionOf(shared.handle)});
  EventWatch watch = Watch(shared.handle);
  ASSERT_EQ(control().Write(made.ep1, 0, {std::string(kPage, 'x')}), zx::kNoSpace);
  ASSERT_EQ(control().Signal(shared.handle, 0, kUser0), zx::kOk);
  EXPECT_EQ(Next(watch).kind, WatchedEvent::Kind::kSignalsChanged);
  Close(shared.handle);
}

TEST_F(Signals_1_10, ASharedRegionKnowsNothingOfPeersThatClose) {
  const NewRegion shared = MakeShared();
  const NewBuffer made = Make({SharedRegionOf(shared.handle)});
  EventWatch watch = Watch(shared.handle);
  Close(made.ep1);
  ASSERT_TRUE(Eventually([&] { return LookAt(made.koid(), EndpointId::kEp1).has_closed(); }));
  ASSERT_EQ(control().Signal(shared.handle, 0, kUser0), zx::kOk);
  const WatchedEvent event = Next(watch);
  EXPECT_EQ(event.kind, WatchedEvent::Kind::kSignalsChanged);
  EXPECT_EQ(event.signals, kUser0);
  Close(shared.handle);
}

// --- 2.10 ----------------------------------------------------------------------------------------

class Wait_2_10 : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    made_ = Make({PlainRegion()});
  }

  NewBuffer made_;
};

TEST_F(Wait_2_10, ADeadlineIsTimedOutWithWhatWasObserved) {
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  ASSERT_EQ(control().Signal(made_.ep0, 0, kUser1), zx::kOk);
  ASSERT_TRUE(Eventually([&] { return endpoint.signals() == kUser1; }));
  for (const auto wait : {std::chrono::milliseconds(0), std::chrono::milliseconds(20)}) {
    ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, endpoint.WaitSignals(kUser0, After(wait)));
    EXPECT_TRUE(seen.timed_out);
    EXPECT_EQ(seen.signals, kUser1) << "all that is raised, whether it was waited for or not";
  }
}

TEST_F(Wait_2_10, WhatIsRaisedAlreadyIsSeenAtOnce) {
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  ASSERT_EQ(control().Signal(made_.ep0, 0, kUser0 | kUser7), zx::kOk);
  ASSERT_OK_AND_ASSIGN(const ObservedSignals seen, endpoint.WaitSignals(kUser0 | kUser1, Soon()));
  EXPECT_FALSE(seen.timed_out);
  EXPECT_EQ(seen.signals, kUser0 | kUser7);
}

TEST_F(Wait_2_10, ASignalEndsTheWait) {
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  absl::StatusOr<ObservedSignals> seen = absl::UnknownError("never waited");
  std::thread waiter([&] { seen = endpoint.WaitSignals(kUser0 | kPeerClosedSignal, Soon()); });
  EXPECT_EQ(control().SignalPeer(made_.ep1, 0, kUser0), zx::kOk);
  waiter.join();
  ASSERT_THAT(seen, IsOk());
  EXPECT_FALSE(seen->timed_out);
  EXPECT_EQ(seen->signals, kUser0);
}

TEST_F(Wait_2_10, PeerClosedEndsTheWait) {
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  absl::StatusOr<ObservedSignals> seen = absl::UnknownError("never waited");
  std::thread waiter([&] { seen = endpoint.WaitSignals(kPeerClosedSignal, Soon()); });
  Close(made_.ep1);
  waiter.join();
  ASSERT_THAT(seen, IsOk());
  EXPECT_EQ(seen->signals, kPeerClosedSignal);
  EXPECT_EQ(endpoint.close_reason().kind, CloseKind::kClosed);
}

TEST_F(Wait_2_10, NeedsTheRight) {
  const uint32_t without = Rights::kEndpointDefault & ~Rights::kWait;
  const Endpoint endpoint = AttachLibrary(Dup(made_.ep0, without));
  EXPECT_EQ(OutcomeOf(endpoint.WaitSignals(kUser0, Now()).status()), zx::kAccessDenied);
  EXPECT_EQ(endpoint.signals(), 0u);
  const auto raw = AttachRaw(Dup(made_.ep0, without));
  EXPECT_FALSE(raw->grants().has_signal());
  auto watch = broker().Watch(Handle(SecretOf(Dup(made_.ep0, without))));
  const absl::Status refused = watch.ok() ? watch->Next(Soon()).status() : watch.status();
  EXPECT_EQ(OutcomeOf(refused), zx::kAccessDenied);
  // And hears of nothing: the next packet is the answer to its own call.
  ASSERT_EQ(control().SignalPeer(made_.ep1, 0, kUser0), zx::kOk);
  ASSERT_EQ(raw->SendChangeSignals(/*peer=*/false, 0, kUser1), 0);
  const auto packet = raw->Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_TRUE(packet->has_call_result()) << packet->ShortDebugString();
}

TEST_F(Wait_2_10, ManyCanBeWaitedForAtOnce) {
  const NewBuffer other = Make({PlainRegion()});
  const Endpoint one = AttachLibrary(Dup(made_.ep0));
  const Endpoint two = AttachLibrary(Dup(other.ep0));
  ASSERT_EQ(control().Signal(other.ep0, 0, kUser7), zx::kOk);
  WaitItem items[] = {{.endpoint = &one, .signals = kUser0}, {.endpoint = &two, .signals = kUser7}};
  ASSERT_OK_AND_ASSIGN(const size_t satisfied, Endpoint::WaitMany(items, Soon()));
  EXPECT_EQ(satisfied, 1u);
  EXPECT_EQ(items[0].observed, 0u);
  EXPECT_EQ(items[1].observed, kUser7);
}

}  // namespace
}  // namespace iob::test
