// Endpoint::Map: what may be asked for, in which order that is checked, and what is there then.
//
// Where a request breaks one rule, it breaks as many of the later ones as it can, so that the
// answer shows which rule came first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;

constexpr Prot kReadWrite = Prot::kRead | Prot::kWrite;
constexpr Prot kUnknownProt = static_cast<Prot>(1 | 64);
const uint64_t kPage = shm::PageBytes();
// The last page that an offset can name.
const uint64_t kLastPage = ~(kPage - 1);

class MapTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRawPages = 4;
  static constexpr uint64_t kRingCapacity = 16 << 10;

  void Attach(HandleRights rights = HandleRights()) {
    endpoint_.emplace(AttachTo(&broker_, buffer_.Give(rights)).value());
  }

  std::byte* ByteOf(uint32_t region, uint64_t offset) {
    written_.emplace(shm::Mapping::Map(buffer_.raw(region)).value());
    return written_->base() + offset;
  }

  FakeBroker broker_;
  TestBuffer buffer_;
  uint32_t raw_ = buffer_.AddRaw(kRawPages * kPage, 0x13);
  uint32_t read_only_ = buffer_.AddRaw(kPage, 0x31);
  uint32_t unmapped_ = buffer_.AddRing(kRingCapacity, 0x38);
  uint32_t ring_ = buffer_.AddRing(kRingCapacity, 0x83);
  uint32_t ids_ = buffer_.AddIds(2, 0x81);
  uint32_t shared_ids_ = buffer_.AddIds(2, 0x33);
  uint32_t empty_ = buffer_.AddRaw(0, 0x13);
  std::optional<Endpoint> endpoint_;
  std::optional<shm::Mapping> written_;
};

// One request, and what must be said about it.
struct Wrong {
  uint32_t region;
  uint64_t offset_bytes;
  uint64_t length_bytes;
  Prot prot;
  StatusCode code;
  const char* reason;
  const char* message = "";
};

void ExpectRefused(const Endpoint& endpoint, const Wrong& wrong) {
  const absl::Status status =
      endpoint.Map(wrong.region, wrong.offset_bytes, wrong.length_bytes, wrong.prot).status();
  SCOPED_TRACE(absl::StrCat("region ", wrong.region, ", ", wrong.length_bytes, " bytes at ",
                            wrong.offset_bytes, " for ", ToString(wrong.prot)));
  EXPECT_THAT(status, StatusIs(wrong.code, wrong.message));
  EXPECT_EQ(ReasonOf(status), wrong.reason);
}

TEST_F(MapTest, ChecksInZirconsOrder) {
  Attach();
  const auto denied = StatusCode::kPermissionDenied;
  const auto invalid = StatusCode::kInvalidArgument;
  const auto range = StatusCode::kOutOfRange;
  const Wrong wrongs[] = {
      // Index.
      {99, 1, 0, Prot::kExecute, range, "OUT_OF_RANGE", "region 99"},
      {UINT32_MAX, 1, 0, Prot::kWrite, range, "OUT_OF_RANGE", "region"},
      // Any map right.
      {unmapped_, 1, UINT64_MAX, Prot::kExecute, denied, "ACCESS_DENIED", "may not map region"},
      {unmapped_, 1, 0, Prot{}, denied, "ACCESS_DENIED"},
      // Without kRead.
      {read_only_, 0, UINT64_MAX, Prot::kWrite, invalid, "INVALID_ARGUMENT", "must be readable"},
      {read_only_, 0, UINT64_MAX, Prot::kExecute, invalid, "INVALID_ARGUMENT", "must be readable"},
      {read_only_, 0, UINT64_MAX, Prot{}, invalid, "INVALID_ARGUMENT", "must be readable"},
      // Each right.
      {read_only_, 1, 0, kReadWrite, denied, "ACCESS_DENIED", "write"},
      {raw_, 1, 0, Prot::kRead | Prot::kExecute, denied, "ACCESS_DENIED", "execute"},
      {raw_, 1, 0, kReadWrite | Prot::kExecute, denied, "ACCESS_DENIED", "execute"},
      {ids_, 1, 0, kReadWrite, denied, "ACCESS_DENIED", "write"},
      {empty_, 1, 0, Prot::kRead | Prot::kExecute, denied, "ACCESS_DENIED", "execute"},
      // Bits without a meaning.
      {raw_, 0, UINT64_MAX, kUnknownProt, invalid, "INVALID_ARGUMENT", "0x40"},
      // Alignment.
      {raw_, 1, UINT64_MAX, Prot::kRead, invalid, "INVALID_ARGUMENT", "multiple"},
      {raw_, kPage - 1, UINT64_MAX, kReadWrite, invalid, "INVALID_ARGUMENT", "multiple"},
      {raw_, UINT64_MAX, UINT64_MAX, kReadWrite, invalid, "INVALID_ARGUMENT", "multiple"},
      // Overflow: of the rounded length, of the end.
      {raw_, 0, UINT64_MAX, Prot::kRead, range, "OUT_OF_RANGE", "every address"},
      {raw_, 0, kLastPage + 1, Prot::kRead, range, "OUT_OF_RANGE", "every address"},
      {raw_, kLastPage, kPage, Prot::kRead, range, "OUT_OF_RANGE", "every address"},
      {raw_, kPage, kLastPage, Prot::kRead, range, "OUT_OF_RANGE", "every address"},
      // No bytes.
      {raw_, 0, 0, kReadWrite, invalid, "INVALID_ARGUMENT", "no bytes"},
      {raw_, kLastPage, 0, kReadWrite, invalid, "INVALID_ARGUMENT", "no bytes"},
      {empty_, 0, 0, kReadWrite, invalid, "INVALID_ARGUMENT", "no bytes"},
      // Beyond the region.
      {raw_, 0, kRawPages * kPage + 1, kReadWrite, range, "OUT_OF_RANGE", "leave the region"},
      {raw_, kPage, kRawPages * kPage, kReadWrite, range, "OUT_OF_RANGE", "leave the region"},
      {raw_, kRawPages * kPage, 1, Prot::kRead, range, "OUT_OF_RANGE", "leave the region"},
      {raw_, kLastPage - kPage, kPage, Prot::kRead, range, "OUT_OF_RANGE", "leave the region"},
      {raw_, 0, kLastPage, Prot::kRead, range, "OUT_OF_RANGE", "leave the region"},
      {empty_, 0, 1, Prot::kRead, range, "OUT_OF_RANGE", "leave the region"},
      // A ring's records: behind its end, its ledger page is not part of it.
      {ring_, 0, kRingCapacity + kPage + 1, kReadWrite, range, "OUT_OF_RANGE", "leave the region"},
      {ring_, 0, kPage + 1, kReadWrite, denied, "ACCESS_DENIED", "records are sealed"},
      {ring_, kPage, 1, kReadWrite, denied, "ACCESS_DENIED", "records are sealed"},
  };
  for (const Wrong& wrong : wrongs) ExpectRefused(*endpoint_, wrong);
}

TEST_F(MapTest, SaysFirstThatItIsClosed) {
  Attach();
  endpoint_->Close();
  ExpectRefused(*endpoint_,
                {99, 1, 0, Prot::kExecute, StatusCode::kFailedPrecondition, "DETACHED"});
}

TEST_F(MapTest, NeedsMapInTheHandle) {
  Attach(RightsWithout(HandleRights::kMap));
  ExpectRefused(*endpoint_,
                {raw_, 0, kPage, Prot::kRead, StatusCode::kPermissionDenied, "ACCESS_DENIED"});
  ExpectRefused(*endpoint_,
                {empty_, 0, 0, Prot::kWrite, StatusCode::kPermissionDenied, "ACCESS_DENIED"});
  EXPECT_EQ(ReasonOf(endpoint_->Map(raw_).status()), "ACCESS_DENIED");
}

TEST_F(MapTest, NeedsReadInTheHandle) {
  Attach(RightsWithout(HandleRights::kRead));
  ExpectRefused(*endpoint_,
                {raw_, 1, 0, Prot::kRead, StatusCode::kPermissionDenied, "ACCESS_DENIED", "read"});
  ExpectRefused(*endpoint_,
                {raw_, 1, 0, kReadWrite, StatusCode::kPermissionDenied, "ACCESS_DENIED", "read"});
  // The region and the handle both say that it may be mapped, and what is asked for is nonsense.
  ExpectRefused(*endpoint_,
                {raw_, 0, kPage, Prot::kWrite, StatusCode::kInvalidArgument, "INVALID_ARGUMENT"});
}

TEST_F(MapTest, NeedsWriteInTheHandleForWriting) {
  Attach(RightsWithout(HandleRights::kWrite));
  ExpectRefused(*endpoint_,
                {raw_, 1, 0, kReadWrite, StatusCode::kPermissionDenied, "ACCESS_DENIED", "write"});
  ExpectRefused(*endpoint_,
                {ring_, 0, kPage, kReadWrite, StatusCode::kPermissionDenied, "ACCESS_DENIED"});
  EXPECT_THAT(endpoint_->Map(raw_, 0, kPage, Prot::kRead), IsOk());
  ASSERT_OK_AND_ASSIGN(const MappedRegion whole, endpoint_->Map(raw_));
  EXPECT_FALSE(whole.writable());
  EXPECT_EQ(whole.bytes().size(), kRawPages * kPage);
}

TEST_F(MapTest, NeedsMapReadInTheRegion) {
  const uint32_t write_only = buffer_.AddRaw(kPage, 0x12);
  Attach();
  ExpectRefused(*endpoint_, {write_only, 1, 0, kReadWrite, StatusCode::kPermissionDenied,
                             "ACCESS_DENIED", "read"});
  ExpectRefused(*endpoint_, {write_only, 0, kPage, Prot::kWrite, StatusCode::kInvalidArgument,
                             "INVALID_ARGUMENT"});
}

TEST_F(MapTest, MapsWindowsOfTheSamePages) {
  Attach();
  ASSERT_OK_AND_ASSIGN(MappedRegion first, endpoint_->Map(raw_, kPage, 2 * kPage, kReadWrite));
  ASSERT_OK_AND_ASSIGN(const MappedRegion second, endpoint_->Map(raw_, 2 * kPage, 1, Prot::kRead));
  ASSERT_OK_AND_ASSIGN(const MappedRegion whole, endpoint_->Map(raw_));
  EXPECT_EQ(first.offset_bytes(), kPage);
  EXPECT_EQ(first.bytes().size(), 2 * kPage);
  EXPECT_EQ(second.offset_bytes(), 2 * kPage);
  // Rounded up.
  EXPECT_EQ(second.bytes().size(), kPage);
  first.writable_bytes()[kPage + 5] = std::byte{42};
  EXPECT_EQ(second.bytes()[5], std::byte{42});
  EXPECT_EQ(whole.bytes()[2 * kPage + 5], std::byte{42});
  EXPECT_EQ(*ByteOf(raw_, 2 * kPage + 5), std::byte{42});
}

TEST_F(MapTest, GivesNoMoreThanWasAskedFor) {
  Attach();
  ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint_->Map(raw_, 0, kPage, Prot::kRead));
  EXPECT_FALSE(region.writable());
  EXPECT_TRUE(region.writable_bytes().empty());
  Child child([&] { const_cast<std::byte&>(region.bytes()[0]) = std::byte{1}; });
  EXPECT_NE(child.Join(), 0);
  EXPECT_EQ(*ByteOf(raw_, 0), std::byte{0});
}

TEST_F(MapTest, EndsWhereTheWindowEnds) {
  Attach();
  ASSERT_OK_AND_ASSIGN(const MappedRegion region, endpoint_->Map(raw_, kPage, kPage, Prot::kRead));
  for (const std::ptrdiff_t beyond : {std::ptrdiff_t{-1}, static_cast<std::ptrdiff_t>(kPage)}) {
    Child child([&] {
      const volatile std::byte byte = *(region.bytes().data() + beyond);
      static_cast<void>(byte);
    });
    EXPECT_NE(child.Join(), 0) << beyond;
  }
}

TEST_F(MapTest, KeepsTheMemoryAfterTheEndpointIsClosed) {
  Attach();
  ASSERT_OK_AND_ASSIGN(MappedRegion region, endpoint_->Map(raw_, kPage, kPage, kReadWrite));
  MappedRegion moved = std::move(region);
  EXPECT_TRUE(region.bytes().empty());
  endpoint_.reset();
  moved.writable_bytes()[3] = std::byte{9};
  EXPECT_EQ(*ByteOf(raw_, kPage + 3), std::byte{9});
}

TEST_F(MapTest, WorksWhenThePeerIsGone) {
  Attach();
  buffer_.signal().RaisePeerClosed(EndpointId::kEp0, {.kind = CloseKind::kKilled, .code = 9});
  EXPECT_TRUE(endpoint_->peer_closed());
  EXPECT_THAT(endpoint_->Map(raw_, 0, kPage, kReadWrite), IsOk());
  EXPECT_THAT(endpoint_->Map(raw_), IsOk());
}

TEST_F(MapTest, ShowsARingAsOneRange) {
  Attach();
  CountingWriter& ring = buffer_.ring(ring_);
  ASSERT_EQ(ring.Append(77, std::string("payload")), shm::AppendOutcome::kStored);
  ring.Publish();
  ASSERT_OK_AND_ASSIGN(const MappedRegion whole,
                       endpoint_->Map(ring_, 0, kPage + kRingCapacity, Prot::kRead));
  ASSERT_EQ(whole.bytes().size(), kPage + kRingCapacity);
  const auto word = [](const MappedRegion& region, uint64_t offset) {
    uint64_t value = 0;
    std::memcpy(&value, region.bytes().data() + offset, sizeof(value));
    return value;
  };
  EXPECT_EQ(word(whole, 0), 24u);      // head
  EXPECT_EQ(word(whole, kPage), 77u);  // tag
  EXPECT_EQ(word(whole, kPage + 8), 7u);
  EXPECT_EQ(TextOf(whole.bytes().subspan(kPage + 16, 7)), "payload");
  // Records alone; the last page, which is not the ledger page.
  ASSERT_OK_AND_ASSIGN(const MappedRegion records,
                       endpoint_->Map(ring_, kPage, kRingCapacity, Prot::kRead));
  EXPECT_EQ(word(records, 0), 77u);
  ASSERT_OK_AND_ASSIGN(const MappedRegion last,
                       endpoint_->Map(ring_, kRingCapacity, 1, Prot::kRead));
  EXPECT_EQ(last.bytes().size(), kPage);
  EXPECT_EQ(word(last, 0), 0u);
  // Both sides of the seam.
  ASSERT_OK_AND_ASSIGN(const MappedRegion seam, endpoint_->Map(ring_, 0, 2 * kPage, Prot::kRead));
  EXPECT_EQ(word(seam, kPage), 77u);
}

TEST_F(MapTest, LetsTheConsumerOfARingWriteItsHeadPageOnly) {
  Attach();
  ASSERT_OK_AND_ASSIGN(MappedRegion head, endpoint_->Map(ring_, 0, 16, kReadWrite));
  ASSERT_EQ(head.writable_bytes().size(), kPage);
  const uint64_t tail = 8;
  std::memcpy(head.writable_bytes().data() + shm::kTailOffset, &tail, sizeof(tail));
  EXPECT_EQ(RogueConsumer(buffer_.ring(ring_).ring()).tail(), 8u);
}

TEST_F(MapTest, ShowsAnIdAllocatorAsItLies) {
  Attach();
  EXPECT_EQ(buffer_.ids(ids_).MustAllocate("blob"), 0u);
  ASSERT_OK_AND_ASSIGN(const MappedRegion region, endpoint_->Map(ids_, 0, 2 * kPage, Prot::kRead));
  EXPECT_EQ(TextOf(region.bytes().last(4)), "blob");
  EXPECT_EQ(TextOf(region.bytes()), buffer_.ids(ids_).Image());
  ASSERT_OK_AND_ASSIGN(MappedRegion shared, endpoint_->Map(shared_ids_, 0, kPage, kReadWrite));
  EXPECT_TRUE(shared.writable());
}

TEST_F(MapTest, KnowsThatARegionMayBeEmpty) {
  Attach();
  EXPECT_EQ(endpoint_->info().regions[empty_].size_bytes, 0u);
  EXPECT_EQ(ReasonOf(endpoint_->Map(empty_).status()), "INVALID_ARGUMENT");
}

TEST_F(MapTest, WholeRegionsAreThoseWithoutADiscipline) {
  Attach();
  EXPECT_EQ(ReasonOf(endpoint_->Map(ring_).status()), "WRONG_DISCIPLINE");
  EXPECT_EQ(ReasonOf(endpoint_->Map(ids_).status()), "WRONG_DISCIPLINE");
  ASSERT_OK_AND_ASSIGN(const MappedRegion read_only, endpoint_->Map(read_only_));
  EXPECT_FALSE(read_only.writable());
}

// A broker that gives less than the rights it tells of.
TEST_F(MapTest, BelievesTheDescriptorsMoreThanTheRights) {
  Given given = buffer_.Give();
  v1::RegionGrant& raw = *given.grants.mutable_regions(static_cast<int>(raw_));
  const uint32_t index = raw.sections(0).fd_index();
  raw.mutable_sections(0)->set_writable(false);
  given.fds[index] = buffer_.raw(raw_).OpenGrant(shm::FdMode::kReadOnly).value();
  endpoint_.emplace(AttachTo(&broker_, std::move(given)).value());
  ExpectRefused(*endpoint_,
                {raw_, 0, kPage, kReadWrite, StatusCode::kPermissionDenied, "ACCESS_DENIED"});
  EXPECT_THAT(endpoint_->Map(raw_, 0, kPage, Prot::kRead), IsOk());
}

TEST_F(MapTest, BelievesThatThereIsNoMemory) {
  Given given = buffer_.Give();
  // The last region with a descriptor before the signal page's.
  v1::RegionGrant& shared_ids = *given.grants.mutable_regions(static_cast<int>(shared_ids_));
  const uint32_t index = shared_ids.sections(0).fd_index();
  ASSERT_EQ(given.grants.signal().fd_index(), index + 1);
  given.grants.mutable_signal()->set_fd_index(index);
  given.fds.erase(given.fds.begin() + index);
  shared_ids.clear_sections();
  shared_ids.set_id_owner(0);
  endpoint_.emplace(AttachTo(&broker_, std::move(given)).value());
  ExpectRefused(*endpoint_, {shared_ids_, 0, kPage, Prot::kRead, StatusCode::kPermissionDenied,
                             "ACCESS_DENIED"});
  EXPECT_EQ(ReasonOf(endpoint_->OpenIdAllocator(shared_ids_).status()), "ACCESS_DENIED");
}

}  // namespace
}  // namespace iob::test
