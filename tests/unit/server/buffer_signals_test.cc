// The signals of a buffer's endpoints: the same, whether the page that shows them was made before
// they changed or after.

#include "server/buffer_signals.h"

#include <gtest/gtest.h>

#include "shm/mapping.h"
#include "tests/support/status_matchers.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using test::IsOk;

constexpr uint32_t kUser0 = 1u << 24;
constexpr uint32_t kUser7 = 1u << 31;
constexpr shm::CloseReason kKilledBy9{.kind = shm::CloseKind::kKilled, .code = 9};

class Signals : public ::testing::Test {
 protected:
  shm::SignalLine LineOf(EndpointId endpoint) {
    const shm::SealedMemfd* const page = signals_.Page().value();
    return shm::SignalLine::Map(*page, shm::SignalLineOffset(endpoint)).value();
  }
  BufferSignals signals_;
};

TEST_F(Signals, NeedNoPageUntilSomebodyLooks) {
  EXPECT_TRUE(signals_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  signals_.RaisePeerClosed(EndpointId::kEp1, kKilledBy9);
  EXPECT_EQ(signals_.page_if_made(), nullptr);
  EXPECT_EQ(signals_.signals(EndpointId::kEp0), kUser0);
  EXPECT_EQ(signals_.signals(EndpointId::kEp1), shm::kSignalPeerClosed);
  ASSERT_OK_AND_ASSIGN(const shm::SealedMemfd* page, signals_.Page());
  EXPECT_EQ(signals_.page_if_made(), page);
  EXPECT_EQ(signals_.Page().value(), page) << "there is one page";
}

TEST_F(Signals, APageShowsWhatCameBeforeItAndWhatComesAfter) {
  EXPECT_TRUE(signals_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  signals_.RaisePeerClosed(EndpointId::kEp0, kKilledBy9);
  const shm::SignalLine ep0 = LineOf(EndpointId::kEp0);
  const shm::SignalLine ep1 = LineOf(EndpointId::kEp1);
  EXPECT_EQ(ep0.signals(), kUser0 | shm::kSignalPeerClosed);
  EXPECT_EQ(ep0.close_reason(), kKilledBy9);
  EXPECT_EQ(ep1.signals(), 0u);
  EXPECT_TRUE(signals_.ChangeUserSignals(EndpointId::kEp0, kUser0, kUser7));
  EXPECT_EQ(ep0.signals(), kUser7 | shm::kSignalPeerClosed);
  EXPECT_EQ(ep1.signals(), 0u);
  signals_.RaisePeerClosed(EndpointId::kEp1, {.kind = shm::CloseKind::kExpired});
  EXPECT_EQ(ep1.signals(), shm::kSignalPeerClosed);
  EXPECT_EQ(ep1.close_reason().kind, shm::CloseKind::kExpired);
}

TEST_F(Signals, PeerClosedStaysWithItsFirstReason) {
  for (const bool with_page : {false, true}) {
    BufferSignals signals;
    if (with_page) {
      ASSERT_THAT(signals.Page(), IsOk());
    }
    signals.RaisePeerClosed(EndpointId::kEp0, kKilledBy9);
    signals.RaisePeerClosed(EndpointId::kEp0, {.kind = shm::CloseKind::kClosed});
    EXPECT_FALSE(signals.ChangeUserSignals(EndpointId::kEp0, UINT32_MAX, 0));
    EXPECT_EQ(signals.signals(EndpointId::kEp0), shm::kSignalPeerClosed);
    ASSERT_OK_AND_ASSIGN(const shm::SealedMemfd* page, signals.Page());
    ASSERT_OK_AND_ASSIGN(const shm::SignalLine line, shm::SignalLine::Map(*page, 0));
    EXPECT_EQ(line.signals(), shm::kSignalPeerClosed);
    EXPECT_EQ(line.close_reason(), kKilledBy9);
  }
}

TEST_F(Signals, OnlyUserSignalsChangeAndOnlyChangesCount) {
  EXPECT_FALSE(signals_.ChangeUserSignals(EndpointId::kEp0, 0, ~shm::kUserSignals));
  EXPECT_EQ(signals_.signals(EndpointId::kEp0), 0u);
  EXPECT_TRUE(signals_.ChangeUserSignals(EndpointId::kEp0, kUser0, kUser0 | kUser7));
  EXPECT_FALSE(signals_.ChangeUserSignals(EndpointId::kEp0, kUser0, kUser0));
  EXPECT_TRUE(signals_.ChangeUserSignals(EndpointId::kEp0, kUser0, 0));
  EXPECT_EQ(signals_.signals(EndpointId::kEp0), kUser7);
}

}  // namespace
}  // namespace iob::server
