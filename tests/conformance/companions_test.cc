// The companions of an I/O buffer: immutable mappings (7.1) and bounded windows of memory (7.3), as
// a program sees them through libiob and a real daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "client/error.h"
#include "client/iob.h"
#include "shm/mapping.h"
#include "tests/support/shm_process.h"
#include "tests/support/snapshot_fixture.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using iob::ReasonOf;

const uint64_t kPage = shm::PageBytes();

// A region of three pages that both endpoints may map for writing.
class Companions : public SnapshotFixture {
 protected:
  void SetUp() override {
    StartDaemon();
    buffer_.emplace(Create({.regions = {{.size_bytes = 3 * kPage, .access = AccessBits(0x33)}}}));
    ep1_.emplace(Endpoint::Attach(broker_->Attach(*buffer_->ep1_handle).value()).value());
    all_.emplace(ep1_->OpenWindow(0).value());
  }
  void TearDown() override {
    all_.reset();
    ep1_.reset();
    buffer_.reset();
    SnapshotFixture::TearDown();
  }
  Snapshot Take(Populate populate) {
    return broker_->TakeSnapshot(*buffer_->ep0_handle, {.populate = populate}).value();
  }
  void Put(uint64_t offset, std::byte byte, uint64_t count) {
    ASSERT_THAT(all_->Write(offset, std::vector<std::byte>(count, byte)), IsOk());
  }

  std::optional<CreatedBuffer> buffer_;
  std::optional<Endpoint> ep1_;
  std::optional<Window> all_;
};

using ImmutableMapping_7_1 = Companions;
using Window_7_3 = Companions;

TEST_F(ImmutableMapping_7_1, ReadsTheBytesThenZerosToTheEnd) {
  Put(0, std::byte{7}, 7);
  for (const Populate populate : {Populate::kEager, Populate::kLazy}) {
    const Snapshot copy = Take(populate);
    ASSERT_EQ(copy.bytes(0).size(), 3 * kPage);
    for (uint64_t i = 0; i < 3 * kPage; ++i)
      ASSERT_EQ(copy.bytes(0)[i], i < 7 ? std::byte{7} : std::byte{0}) << i;
  }
}

TEST_F(ImmutableMapping_7_1, OfNothingIsEmptyAndMakesNothing) {
  const CreatedBuffer nothing =
      Create({.regions = {{.size_bytes = 0, .access = AccessBits(0x33)}}});
  ASSERT_OK_AND_ASSIGN(const Snapshot copy, broker_->TakeSnapshot(*nothing.ep0_handle));
  EXPECT_TRUE(copy.bytes().empty());
  EXPECT_EQ(Metric("iob_snapshots"), 0);
}

TEST_F(ImmutableMapping_7_1, LaterWritesAreNotSeenInPagesTouchedOrNot) {
  Put(0, std::byte{1}, 3 * kPage);
  for (const Populate populate : {Populate::kEager, Populate::kLazy}) {
    const Snapshot copy = Take(populate);
    EXPECT_EQ(copy.bytes(0)[0], std::byte{1});
    Put(0, std::byte{2}, 3 * kPage);
    const auto bytes = copy.bytes(0);
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), std::byte{1}), 3 * kPage);
    Put(0, std::byte{1}, 3 * kPage);
  }
}

TEST_F(ImmutableMapping_7_1, OutlivesItsSource) {
  Put(0, std::byte{1}, 3 * kPage);
  const Snapshot copy = Take(Populate::kLazy);
  all_.reset();
  ep1_.reset();
  ASSERT_THAT(broker_->CloseHandle(*buffer_->ep0_handle), IsOk());
  EXPECT_EQ(copy.bytes(0)[3 * kPage - 1], std::byte{1});
}

TEST_F(ImmutableMapping_7_1, UnmappingIsAllTheCleanUpThereIs) {
  for (const Populate populate : {Populate::kEager, Populate::kLazy}) {
    std::optional<Snapshot> copy = Take(populate);
    ExpectMetricBecomes("iob_snapshots", 1);
    copy.reset();
    ExpectMetricBecomes("iob_snapshots", 0);
  }
}

TEST_F(ImmutableMapping_7_1, AWriteIsAFaultOfTheWriter) {
  const Snapshot copy = Take(Populate::kEager);
  const int end = Child([&copy] {
                    ::signal(SIGSEGV, SIG_DFL);
                    *const_cast<volatile std::byte*>(copy.bytes(0).data()) = std::byte{1};
                  }).Join();
  EXPECT_EQ(end, 128 + SIGSEGV);
}

TEST_F(Window_7_3, SlicesAreRelativeAndAlias) {
  ASSERT_OK_AND_ASSIGN(const Window slice, all_->Slice(kPage, kPage));
  ASSERT_OK_AND_ASSIGN(const Window inner, slice.Slice(16, kPage - 16));
  ASSERT_THAT(all_->WriteOnce<uint8_t>(kPage + 16, 42), IsOk());
  EXPECT_EQ(inner.ReadOnce<uint8_t>(0).value(), 42);
  EXPECT_EQ(slice.ReadOnce<uint8_t>(16).value(), 42);
  ASSERT_THAT(inner.WriteOnce<uint8_t>(kPage - 17, 43), IsOk());
  EXPECT_EQ(all_->ReadOnce<uint8_t>(2 * kPage - 1).value(), 43);
  EXPECT_EQ(ReasonOf(slice.Slice(1, kPage).status()), "INVALID_ARGUMENT");
}

TEST_F(Window_7_3, ARangeThatIsNotAllInsideMovesNothing) {
  std::vector<std::byte> bytes(2);
  EXPECT_THAT(all_->Read(3 * kPage, std::span(bytes).first(0)), IsOk());
  for (const uint64_t offset : {3 * kPage - 1, 3 * kPage, UINT64_MAX, UINT64_MAX - 1}) {
    EXPECT_EQ(ReasonOf(all_->Read(offset, bytes)), "INVALID_ARGUMENT") << offset;
    EXPECT_EQ(ReasonOf(all_->Write(offset, bytes)), "INVALID_ARGUMENT") << offset;
  }
  EXPECT_EQ(all_->ReadOnce<uint8_t>(3 * kPage - 1).value(), 0);
}

TEST_F(Window_7_3, NumbersAreCheckedForRangeThenAlignmentOfTheAddress) {
  ASSERT_OK_AND_ASSIGN(const Window odd, all_->Slice(4, 100));
  ASSERT_THAT(odd.WriteOnce<uint64_t>(4, 0x0102030405060708), IsOk());
  EXPECT_EQ(odd.ReadOnce<uint64_t>(4).value(), 0x0102030405060708u);
  EXPECT_EQ(odd.ReadOnce<uint32_t>(4).value(), 0x05060708u);
  EXPECT_EQ(odd.ReadOnce<uint16_t>(4).value(), 0x0708u);
  EXPECT_EQ(odd.ReadOnce<uint8_t>(5).value(), 0x07u);
  EXPECT_THAT(odd.ReadOnce<uint64_t>(0), StatusIs(StatusCode::kInvalidArgument, "a number of 8"));
  EXPECT_THAT(odd.ReadOnce<uint64_t>(97), StatusIs(StatusCode::kInvalidArgument, "leave"));
}

TEST_F(Window_7_3, FillZerosDoesWhatFitsAndNothingIsFineAnywhere) {
  Put(0, std::byte{9}, 3 * kPage);
  EXPECT_THAT(all_->FillZeros(UINT64_MAX, 0).status, IsOk());
  const Moved over = all_->FillZeros(3 * kPage - 10, 11);
  EXPECT_EQ(ReasonOf(over.status), "INVALID_ARGUMENT");
  EXPECT_EQ(over.moved_bytes, 10u);
  EXPECT_EQ(all_->ReadOnce<uint8_t>(3 * kPage - 10).value(), 0);
  EXPECT_EQ(all_->ReadOnce<uint8_t>(3 * kPage - 11).value(), 9);
  EXPECT_EQ(all_->FillZeros(3 * kPage, 1).moved_bytes, 0u);
}

TEST_F(Window_7_3, FallibleCopiesSayHowMuchTheyMoved) {
  std::vector<std::byte> bytes(100, std::byte{5});
  EXPECT_EQ(all_->WriteFallible(kPage - 50, bytes).moved_bytes, 100u);
  std::vector<std::byte> back(100);
  EXPECT_EQ(all_->ReadFallible(kPage - 50, back).moved_bytes, 100u);
  EXPECT_EQ(back, bytes);
  const Moved outside = all_->ReadFallible(3 * kPage - 50, back);
  EXPECT_EQ(ReasonOf(outside.status), "INVALID_ARGUMENT");
  EXPECT_EQ(outside.moved_bytes, 0u);
}

TEST_F(Window_7_3, AnAcquiredRangeIsNobodyElsesUntilItIsReleased) {
  ASSERT_OK_AND_ASSIGN(AcquiredRange mine, ep1_->Acquire(0, 10, 10, RangeMode::kExclusive));
  for (const uint64_t offset : {uint64_t{1}, uint64_t{19}}) {
    EXPECT_EQ(ReasonOf(ep1_->Acquire(0, offset, 10, RangeMode::kShared).status()), "RANGE_TAKEN");
  }
  EXPECT_THAT(ep1_->Acquire(0, 20, 10, RangeMode::kExclusive), IsOk());
  EXPECT_FALSE(ep1_->Acquire(0, 30, 0, RangeMode::kExclusive).ok());
  EXPECT_FALSE(ep1_->Acquire(0, 3 * kPage, 1, RangeMode::kExclusive).ok());
  mine.Release();
  EXPECT_THAT(ep1_->Acquire(0, 10, 10, RangeMode::kExclusive), IsOk());
}

}  // namespace
}  // namespace iob::test
