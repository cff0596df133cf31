#include "tests/conformance/peer_watch.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

constexpr std::chrono::seconds kPatience{10};

CloseReason FromWire(const v1::CloseReason& reason) {
  return {.kind = static_cast<CloseKind>(reason.kind()), .code = reason.code()};
}

}  // namespace

PeerWatch::PeerWatch(std::unique_ptr<RawClient> raw, Endpoint endpoint, EventWatch events)
    : raw_(std::move(raw)), endpoint_(std::move(endpoint)), events_(std::move(events)) {}

void PeerWatch::ExpectOpen() {
  EXPECT_EQ(raw_->Signals() & kPeerClosedSignal, 0u);
  EXPECT_EQ(raw_->SignalReason().kind(), v1::CLOSE_KIND_UNSPECIFIED);
  while (const auto packet = raw_->Receive(/*deadline_ms=*/0)) {
    EXPECT_FALSE(packet->event().has_peer_closed()) << packet->ShortDebugString();
  }
  EXPECT_TRUE(raw_->timed_out()) << "the connection is over";
  EXPECT_FALSE(endpoint_.peer_closed());
  EXPECT_EQ(endpoint_.close_reason().kind, CloseKind::kOpen);
  while (true) {
    const auto event = events_.Next(After(std::chrono::nanoseconds(0)));
    ASSERT_TRUE(event.ok()) << event.status();
    if (!event->has_value()) return;
    EXPECT_NE((*event)->kind, WatchedEvent::Kind::kEndpointClosed);
  }
}

void PeerWatch::ExpectClosed(CloseKind kind, int code) {
  const CloseReason expected{.kind = kind, .code = code};
  const auto told = raw_->ReceivePeerClosed();
  ASSERT_TRUE(told.has_value()) << "no peer_closed packet";
  EXPECT_EQ(ToString(FromWire(*told)), ToString(expected)) << "by packet";
  EXPECT_NE(raw_->Signals() & kPeerClosedSignal, 0u);
  EXPECT_EQ(ToString(FromWire(raw_->SignalReason())), ToString(expected)) << "in the signal page";
  const auto seen = endpoint_.WaitSignals(kSignalPeerClosed, After(kPatience));
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_FALSE(seen->timed_out);
  EXPECT_EQ(ToString(endpoint_.close_reason()), ToString(expected)) << "by libiob";
  while (true) {
    const auto event = events_.Next(After(kPatience));
    ASSERT_TRUE(event.ok()) << event.status();
    ASSERT_TRUE(event->has_value()) << "no event";
    const bool from_the_start =
        (*event)->kind == WatchedEvent::Kind::kStarted && (*event)->reason.kind != CloseKind::kOpen;
    if (!from_the_start && (*event)->kind != WatchedEvent::Kind::kEndpointClosed) continue;
    EXPECT_EQ(ToString((*event)->reason), ToString(expected)) << "by WatchEvents";
    return;
  }
}

}  // namespace iob::test
