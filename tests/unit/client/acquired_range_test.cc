// Exclusive and shared ranges: of one Endpoint, of two in one process, and of processes that are
// killed, against the real daemon, which has no part in it.
#include "client/acquired_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "client/error.h"
#include "tests/unit/client/direct_rings.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr RangeMode kShared = RangeMode::kShared;
constexpr RangeMode kExclusive = RangeMode::kExclusive;
constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

void ExpectTaken(const absl::Status& status, const char* message = "") {
  EXPECT_THAT(status, StatusIs(StatusCode::kPermissionDenied, message));
  EXPECT_EQ(iob::ReasonOf(status), kReasonRangeTaken);
}

// A buffer with raw memory that both endpoints may write, another that ep0 alone may, and a ring.
class Ranges : public DirectRings {
 protected:
  static constexpr uint64_t kSize = 16 << 10;
  static constexpr uint32_t kBoth = RegionRights::kMapRead | RegionRights::kMapWrite;

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(DirectRings::SetUp());
    const RegionSpec both{.size_bytes = kSize, .access = AccessBits(kBoth | kBoth << 4)};
    const RegionSpec one{.size_bytes = kSize,
                         .access = AccessBits(kBoth | RegionRights::kMapRead << 4)};
    ASSERT_OK_AND_ASSIGN(
        CreatedBuffer buffer,
        broker_->CreateBuffer({.name = "direct",
                               .regions = {both, one, MediatedRingSpec(1 << 16),
                                           RegionSpec{.access = AccessBits(kBoth)}}}));
    buffer_.emplace(std::move(buffer));
    ASSERT_OK_AND_ASSIGN(const Ticket ticket, broker_->Attach(*buffer_->ep0_handle));
    ASSERT_OK_AND_ASSIGN(Endpoint endpoint, Endpoint::Attach(ticket));
    consumer_.emplace(std::move(endpoint));
    ASSERT_OK_AND_ASSIGN(Endpoint other, AttachProducer());
    other_.emplace(std::move(other));
  }
  void TearDown() override {
    other_.reset();
    DirectRings::TearDown();
  }

  Endpoint& mine() { return *consumer_; }
  Endpoint& other() { return *other_; }

  std::optional<Endpoint> other_;
};

TEST_F(Ranges, AreTakenOnceAcrossEndpointsAndWithinOne) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange range, mine().Acquire(0, 100, 50, kExclusive));
  EXPECT_EQ(range.mode(), kExclusive);
  EXPECT_EQ(range.range(), (ByteRange{100, 50}));
  for (Endpoint* const endpoint : {&mine(), &other()}) {
    for (const RangeMode mode : {kShared, kExclusive}) {
      ExpectTaken(endpoint->Acquire(0, 149, 1, mode).status(),
                  "1 bytes at offset 149 of region 0 are taken: 50 bytes at 100 are held "
                  "exclusively by who says it is pid ");
      ExpectTaken(endpoint->Acquire(0, 0, kSize, mode).status());
    }
    // Right beside it, and the same bytes of another region.
    EXPECT_THAT(endpoint->Acquire(0, 0, 100, kExclusive), IsOk());
    EXPECT_THAT(endpoint->Acquire(0, 150, kSize - 150, kExclusive), IsOk());
    EXPECT_THAT(endpoint->Acquire(1, 100, 50, kShared), IsOk());
  }
  range.Release();
  range.Release();
  EXPECT_FALSE(range.held());
  EXPECT_THAT(other().Acquire(0, 0, kSize, kExclusive), IsOk());
  EXPECT_THAT(mine().Acquire(0, 0, kSize, kExclusive), IsOk()) << "it was not given back";
}

TEST_F(Ranges, ReadersShare) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange first, mine().Acquire(0, 0, 100, kShared));
  ASSERT_OK_AND_ASSIGN(AcquiredRange second, mine().Acquire(0, 50, 100, kShared));
  ASSERT_OK_AND_ASSIGN(AcquiredRange third, other().Acquire(0, 80, 10, kShared));
  EXPECT_EQ(iob::ReasonOf(first.window().WriteOnce<uint8_t>(0, 1)), "ACCESS_DENIED");
  ExpectTaken(other().Acquire(0, 99, 1, kExclusive).status(), "are shared");
  first.Release();
  ExpectTaken(other().Acquire(0, 99, 1, kExclusive).status(), "are shared");
  EXPECT_THAT(other().Acquire(0, 0, 50, kExclusive), IsOk());
  second.Release();
  ExpectTaken(mine().Acquire(0, 85, 1, kExclusive).status(), "are shared");
  third.Release();
  EXPECT_THAT(mine().Acquire(0, 85, 1, kExclusive), IsOk());
}

TEST_F(Ranges, TheWindowIsTheRangeAndNothingElse) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange range, mine().Acquire(0, 4090, 20, kExclusive));
  ASSERT_OK_AND_ASSIGN(const Window all, other().OpenWindow(0));
  EXPECT_EQ(range.window().size_bytes(), 20U);
  EXPECT_EQ(range.window().offset_bytes(), 4090U);
  ASSERT_THAT(range.window().WriteOnce<uint64_t>(6, 42), IsOk());
  EXPECT_EQ(all.ReadOnce<uint64_t>(4096).value(), 42U);
  EXPECT_EQ(range.window().ReadOnce<uint8_t>(20).status().code(), StatusCode::kInvalidArgument);
  // It binds those who ask: whoever has a window on the region writes regardless.
  EXPECT_THAT(all.WriteOnce<uint64_t>(4096, 43), IsOk());
  EXPECT_EQ(range.window().ReadOnce<uint64_t>(6).value(), 43U);
  range.Release();
  EXPECT_EQ(range.window().size_bytes(), 0U);
}

TEST_F(Ranges, ChecksComeInOrder) {
  struct Wrong {
    uint32_t region;
    uint64_t offset;
    uint64_t length;
    StatusCode code;
    const char* reason;
  };
  const auto range = StatusCode::kOutOfRange;
  ASSERT_OK_AND_ASSIGN(const AcquiredRange held, mine().Acquire(1, 0, kSize, kShared));
  for (const Wrong& wrong :
       {Wrong{99, kMax, 0, range, "OUT_OF_RANGE"},
        Wrong{2, kMax, 0, StatusCode::kFailedPrecondition, "WRONG_DISCIPLINE"},
        // ep1 may only read region 1, and not even that in region 3.
        Wrong{1, kMax, 0, StatusCode::kPermissionDenied, "ACCESS_DENIED"},
        Wrong{3, 0, 0, StatusCode::kPermissionDenied, "ACCESS_DENIED"},
        Wrong{0, kMax, 0, StatusCode::kInvalidArgument, "INVALID_ARGUMENT"},
        Wrong{0, kMax, 1, range, "OUT_OF_RANGE"}, Wrong{0, kSize, 1, range, "OUT_OF_RANGE"},
        Wrong{0, 1, kSize, range, "OUT_OF_RANGE"}, Wrong{0, 1, kMax, range, "OUT_OF_RANGE"}}) {
    const absl::Status refused =
        other().Acquire(wrong.region, wrong.offset, wrong.length, kExclusive).status();
    EXPECT_THAT(refused, StatusIs(wrong.code)) << wrong.region << ' ' << wrong.offset;
    EXPECT_EQ(iob::ReasonOf(refused), wrong.reason);
  }
  // A region without a byte.
  EXPECT_THAT(mine().Acquire(3, 0, 1, kExclusive), StatusIs(range));
  EXPECT_THAT(mine().RangeHolds(3).value(), IsEmpty());
  EXPECT_THAT(mine().RangeHolds(0).value(), IsEmpty()) << "a refusal took something";
  EXPECT_EQ(iob::ReasonOf(other().RangeHolds(2).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(iob::ReasonOf(other().RangeHolds(3).status()), "ACCESS_DENIED");
}

TEST_F(Ranges, WhoMayOnlyReadCanShareAndSoKeepWritersOut) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange range, other().Acquire(1, 0, 10, kShared));
  ExpectTaken(mine().Acquire(1, 0, 10, kExclusive).status());
  EXPECT_THAT(mine().Acquire(1, 0, 10, kShared), IsOk());
}

TEST_F(Ranges, MovingMovesTheHold) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange first, mine().Acquire(0, 0, 10, kExclusive));
  ASSERT_OK_AND_ASSIGN(AcquiredRange second, mine().Acquire(0, 10, 10, kExclusive));
  second = std::move(first);
  ExpectTaken(other().Acquire(0, 0, 1, kShared).status());
  EXPECT_THAT(other().Acquire(0, 10, 10, kShared), IsOk()) << "what it had was not given back";
  EXPECT_EQ(second.window().offset_bytes(), 0U);
  const AcquiredRange third(std::move(second));
  EXPECT_TRUE(third.held());
  ExpectTaken(other().Acquire(0, 0, 1, kShared).status());
}

TEST_F(Ranges, OutliveTheirEndpoint) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange range, mine().Acquire(0, 0, 10, kExclusive));
  mine().Close();
  EXPECT_EQ(iob::ReasonOf(mine().Acquire(0, 20, 1, kShared).status()), kReasonDetached);
  EXPECT_EQ(iob::ReasonOf(mine().RangeHolds(0).status()), kReasonDetached);
  EXPECT_THAT(range.window().WriteOnce<uint8_t>(0, 7), IsOk());
  ExpectTaken(other().Acquire(0, 0, 1, kShared).status());
  range.Release();
  EXPECT_THAT(other().Acquire(0, 0, 1, kExclusive), IsOk());
}

// --- Processes ----------------------------------------------------------------------------------

TEST_F(Ranges, AKilledHolderGivesUpEverything) {
  const Ticket ticket = ProducerTicket();
  Turn held;
  Turn never;
  Producer holder([&] {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    const AcquiredRange one = endpoint.Acquire(0, 0, 100, kExclusive).value();
    const AcquiredRange two = endpoint.Acquire(0, 4096, 100, kShared).value();
    IOB_CHECK(one.window().WriteOnce<uint64_t>(0, 4711).ok());
    held.Give();
    never.Take();
  });
  ASSERT_TRUE(held.Take());
  EXPECT_THAT(mine().RangeHolds(0).value(),
              ElementsAre(RangeHold{{0, 100}, kExclusive, holder.pid()},
                          RangeHold{{4096, 100}, kShared, holder.pid()}));
  ExpectTaken(mine().Acquire(0, 99, 1, kShared).status());
  EXPECT_THAT(mine().Acquire(0, 4096, 1, kShared), IsOk());
  ::kill(holder.pid(), SIGSTOP);
  ExpectTaken(mine().Acquire(0, 99, 1, kShared).status());
  holder.Kill();
  EXPECT_EQ(holder.Join(), 128 + SIGKILL);
  // The kernel gave them back before it could be waited for.
  EXPECT_THAT(mine().RangeHolds(0).value(), IsEmpty());
  ASSERT_OK_AND_ASSIGN(const AcquiredRange range, mine().Acquire(0, 0, kSize, kExclusive));
  EXPECT_EQ(range.window().ReadOnce<uint64_t>(0).value(), 4711U) << "its bytes are as it left them";
}

// Counters that nobody may update but the holder of their range: with plain, unordered steps, no
// step of any process is lost.
TEST_F(Ranges, KeepProcessesOutOfEachOthersWay) {
  constexpr uint64_t kSteps = 300;
  constexpr int kProcesses = 3;
  std::vector<Ticket> tickets;
  for (int i = 0; i < kProcesses; ++i) tickets.push_back(ProducerTicket());
  {
    std::vector<std::unique_ptr<Producer>> processes;
    for (const Ticket& ticket : tickets) {
      processes.push_back(std::make_unique<Producer>([&ticket] {
        Endpoint endpoint = Endpoint::Attach(ticket).value();
        for (uint64_t done = 0; done < kSteps;) {
          const absl::StatusOr<AcquiredRange> range = endpoint.Acquire(0, 8, 8, kExclusive);
          if (!range.ok()) {
            ExpectTaken(range.status());
            sched_yield();
            continue;
          }
          const uint64_t value = range->window().ReadOnce<uint64_t>(0).value();
          sched_yield();
          EXPECT_THAT(range->window().WriteOnce<uint64_t>(0, value + 1), IsOk());
          done += 1;
        }
      }));
    }
    for (const auto& process : processes) EXPECT_EQ(process->Join(), 0);
  }
  ASSERT_OK_AND_ASSIGN(const Window window, mine().OpenWindow(0));
  EXPECT_EQ(window.ReadOnce<uint64_t>(8).value(), kProcesses * kSteps);
}

TEST_F(Ranges, LeaveNoDescriptorBehind) {
  const int before = OpenFds();
  for (int i = 0; i < 50; ++i) {
    ASSERT_OK_AND_ASSIGN(const AcquiredRange one, mine().Acquire(0, 0, 10, kExclusive));
    ASSERT_OK_AND_ASSIGN(const AcquiredRange two, mine().Acquire(0, 10, 10, kShared));
    ExpectTaken(mine().Acquire(0, 10, 10, kExclusive).status());
    EXPECT_EQ(mine().RangeHolds(0)->size(), 2U);
  }
  EXPECT_EQ(OpenFds(), before);
}

TEST_F(Ranges, WithoutADescriptorToSpareNothingIsTaken) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "UBSan looks at objects through a pipe: it needs descriptors itself";
#endif
  ExpectInChild([this] {
    LimitOpenFds(0);
    EXPECT_THAT(mine().Acquire(0, 0, 10, kExclusive), StatusIs(StatusCode::kUnavailable));
  });
  EXPECT_THAT(other().RangeHolds(0).value(), IsEmpty());
}

}  // namespace
}  // namespace iob::test
