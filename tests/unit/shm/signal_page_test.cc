// The signal page: each endpoint learns of its peer's end once, with the reason, and is woken.
#include "shm/signal_page.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>

#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::IsOk;
using test::StatusIs;

constexpr int64_t kPatienceNs = 10'000'000'000;
// ZX_USER_SIGNAL_0 and 7.
constexpr uint32_t kUser0 = 1u << 24;
constexpr uint32_t kUser7 = 1u << 31;
static_assert(kUserSignals == 0xff00'0000 && kSignalPeerClosed == 4);
constexpr CloseReason kKilledBy9{.kind = CloseKind::kKilled, .code = 9};

// Until the child sleeps: there is only the futex that it could sleep on.
void AwaitSleep(const test::Child& child) {
  const std::string path = "/proc/" + std::to_string(child.pid()) + "/stat";
  for (const int64_t deadline_ns = MonotonicNs() + kPatienceNs; MonotonicNs() < deadline_ns;) {
    std::string pid, name, state;
    std::ifstream(path) >> pid >> name >> state;
    if (state == "S") return;
    ::sched_yield();
  }
  ADD_FAILURE() << "the child does not sleep";
}

class SignalPage : public ::testing::Test {
 protected:
  SignalPage() : writer_(SignalPageWriter::Create(77).value()) {}

  // As an endpoint maps it: from a read-only grant, believing nothing.
  SignalLine LineOf(EndpointId endpoint) const {
    UniqueFd grant = writer_.memfd().OpenGrant(FdMode::kReadOnly).value();
    const SealedMemfd memfd =
        SealedMemfd::Adopt(std::move(grant), PageBytes(), /*writers_sealed=*/true).value();
    return SignalLine::Map(memfd, SignalLineOffset(endpoint)).value();
  }

  SignalPageWriter writer_;
};

TEST_F(SignalPage, StartsOpenWithItsGeneration) {
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    const SignalLine line = LineOf(endpoint);
    EXPECT_FALSE(line.peer_closed());
    EXPECT_EQ(line.close_reason(), CloseReason{});
    EXPECT_EQ(line.ChangeWord().expected, 0u);
    ASSERT_OK_AND_ASSIGN(const ReadOnlyMapping page, ReadOnlyMapping::Map(writer_.memfd()));
    const uint64_t generation_offset = SignalLineOffset(endpoint) + 16;
    EXPECT_EQ(page.Word<uint64_t>(generation_offset).LoadAcquire().ForHintOnly(), 77u);
  }
}

TEST_F(SignalPage, TellsOnlyTheListenerAndWhy) {
  const SignalLine ep0 = LineOf(EndpointId::kEp0);
  const SignalLine ep1 = LineOf(EndpointId::kEp1);
  writer_.RaisePeerClosed(EndpointId::kEp1, kKilledBy9);
  EXPECT_TRUE(ep1.peer_closed());
  EXPECT_EQ(ep1.close_reason(), kKilledBy9);
  EXPECT_EQ(ep1.ChangeWord().expected, 1u);
  EXPECT_FALSE(ep0.peer_closed());
  EXPECT_EQ(ep0.ChangeWord().expected, 0u);
}

TEST_F(SignalPage, KeepsTheFirstReason) {
  const SignalLine line = LineOf(EndpointId::kEp0);
  writer_.RaisePeerClosed(EndpointId::kEp0, kKilledBy9);
  writer_.RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kExited, .code = 0});
  EXPECT_EQ(line.close_reason(), kKilledBy9);
  EXPECT_EQ(line.ChangeWord().expected, 1u);
}

TEST_F(SignalPage, CarriesEveryReasonAndNegativeCodes) {
  for (uint32_t kind = 1; kind <= 6; ++kind) {
    ASSERT_OK_AND_ASSIGN(SignalPageWriter writer, SignalPageWriter::Create(1));
    const CloseReason reason{.kind = static_cast<CloseKind>(kind), .code = -1};
    writer.RaisePeerClosed(EndpointId::kEp0, reason);
    ASSERT_OK_AND_ASSIGN(const SignalLine line, SignalLine::Map(writer.memfd(), 0));
    EXPECT_EQ(line.close_reason(), reason);
  }
}

TEST_F(SignalPage, WakesAnEndpointThatSleepsInAnotherProcess) {
  const SignalLine line = LineOf(EndpointId::kEp1);
  test::Child child([&line] {
    const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
    while (true) {
      const std::array<FutexWord, 1> words = {line.ChangeWord()};
      if (line.peer_closed()) break;
      ASSERT_EQ(FutexWaitAny(words, deadline_ns), FutexOutcome::kLook);
    }
    EXPECT_EQ(line.close_reason(), kKilledBy9);
  });
  AwaitSleep(child);
  writer_.RaisePeerClosed(EndpointId::kEp1, kKilledBy9);
  EXPECT_EQ(child.Join(), 0);
}

TEST_F(SignalPage, UserSignalsComeAndGoForOneEndpoint) {
  const SignalLine ep0 = LineOf(EndpointId::kEp0);
  const SignalLine ep1 = LineOf(EndpointId::kEp1);
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp1, 0, kUser0 | kUser7));
  EXPECT_EQ(ep1.signals(), kUser0 | kUser7);
  EXPECT_EQ(writer_.signals(EndpointId::kEp1), kUser0 | kUser7);
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp1, kUser7, 0));
  EXPECT_EQ(ep1.signals(), kUser0);
  // Cleared first, then raised.
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp1, kUserSignals, kUser7));
  EXPECT_EQ(ep1.signals(), kUser7);
  EXPECT_EQ(ep1.ChangeWord().expected, 3u);
  EXPECT_EQ(ep0.signals(), 0u);
  EXPECT_EQ(ep0.ChangeWord().expected, 0u);
  EXPECT_FALSE(ep1.peer_closed());
}

TEST_F(SignalPage, WakesNobodyWhenNothingChanges) {
  const SignalLine line = LineOf(EndpointId::kEp0);
  ASSERT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  const uint32_t changes = line.ChangeWord().expected;
  EXPECT_FALSE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, 0));
  EXPECT_FALSE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  EXPECT_FALSE(writer_.ChangeUserSignals(EndpointId::kEp0, kUser7, 0));
  EXPECT_FALSE(writer_.ChangeUserSignals(EndpointId::kEp0, kUser0, kUser0));
  EXPECT_EQ(line.signals(), kUser0);
  EXPECT_EQ(line.ChangeWord().expected, changes);
  // A signal that is raised and cleared again has changed twice, though it looks as before.
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser7));
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, kUser7, 0));
  EXPECT_EQ(line.ChangeWord().expected, changes + 2);
}

TEST_F(SignalPage, UserSignalsAndPeerClosedDoNotMeet) {
  const SignalLine line = LineOf(EndpointId::kEp0);
  ASSERT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  // Bits that are no user signals are left alone, either way.
  EXPECT_FALSE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kSignalPeerClosed | 1));
  EXPECT_FALSE(line.peer_closed());
  writer_.RaisePeerClosed(EndpointId::kEp0, kKilledBy9);
  EXPECT_EQ(line.signals(), kUser0 | kSignalPeerClosed);
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, UINT32_MAX, 0));
  EXPECT_EQ(line.signals(), kSignalPeerClosed);
  EXPECT_EQ(line.close_reason(), kKilledBy9);
  EXPECT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser7));
  EXPECT_TRUE(line.peer_closed());
}

TEST_F(SignalPage, AUserSignalWakesAnEndpointThatSleepsInAnotherProcess) {
  const SignalLine line = LineOf(EndpointId::kEp0);
  test::Child child([&line] {
    const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
    while (true) {
      const std::array<FutexWord, 1> words = {line.ChangeWord()};
      if ((line.signals() & kUser7) != 0) break;
      ASSERT_EQ(FutexWaitAny(words, deadline_ns), FutexOutcome::kLook);
    }
  });
  AwaitSleep(child);
  ASSERT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser0));
  AwaitSleep(child);
  ASSERT_TRUE(writer_.ChangeUserSignals(EndpointId::kEp0, 0, kUser7));
  EXPECT_EQ(child.Join(), 0);
}

TEST_F(SignalPage, CannotBeWrittenByAnEndpoint) {
  EXPECT_THAT(Mapping::Map(writer_.memfd()), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(SignalPage, IsNotMappedAtALineThatDoesNotFit) {
  for (const uint64_t offset : {uint64_t{4}, PageBytes() - 16, PageBytes(), UINT64_MAX - 7}) {
    EXPECT_THAT(SignalLine::Map(writer_.memfd(), offset),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << offset;
  }
  EXPECT_THAT(SignalLine::Map(writer_.memfd(), PageBytes() - 24), IsOk());
  EXPECT_THAT(SignalLine::Map(test::MakeMemfd(0), 0), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(SignalPage, ReadsAReasonThatNoBrokerWritesAsDied) {
  const SealedMemfd forged = test::MakeMemfd(PageBytes());
  ASSERT_OK_AND_ASSIGN(const Mapping page, Mapping::Map(forged));
  ASSERT_OK_AND_ASSIGN(const SignalLine line, SignalLine::Map(forged, 0));
  page.Word<uint32_t>(0).StoreRelease(kSignalPeerClosed);
  for (const uint32_t kind : {0u, 7u, 0x8000'0000u, UINT32_MAX}) {
    page.Word<uint32_t>(8).StoreRelease(kind);
    EXPECT_EQ(line.close_reason().kind, CloseKind::kDied) << kind;
  }
}

}  // namespace
}  // namespace iob::shm
