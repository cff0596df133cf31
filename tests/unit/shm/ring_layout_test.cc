// The mediated ring's layout: the offsets that clients in other languages rely on, and which sizes
// are refused.
#include "shm/ring_layout.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "shm/mapping.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::StatusIs;

static_assert(kHeadOffset == 0 && kTailOffset == 8 && kWaitingOffset == 64);
static_assert(kLedgerStoredRecords == 0 && kLedgerStoredBytes == 8 &&
              kLedgerRejectedRecords == 16 && kLedgerRejectedBytes == 24 &&
              kLedgerTailAccepted == 32 && kLedgerWantRoom == 64);
static_assert(kRecordPayloadBytesMax == 65519 && kRecordPartsMax == 8);
static_assert(RecordBytes(0) == 16 && RecordBytes(1) == 24 && RecordBytes(8) == 24);
static_assert(RecordBytes(kRecordPayloadBytesMax) == 65536);

TEST(RingLayout, RoundsARecordUpToEightBytes) {
  for (uint64_t payload = 0; payload <= kRecordPayloadBytesMax; ++payload) {
    const uint64_t record = RecordBytes(payload);
    ASSERT_EQ(record % 8, 0u);
    ASSERT_GE(record, payload + 16);
    ASSERT_LT(record, payload + 24);
  }
}

TEST(RingLayout, SplitsARegionIntoHeadAndRecords) {
  const uint64_t page = PageBytes();
  for (const uint64_t pages : {2u, 3u, 5u, 17u, 4096u}) {
    ASSERT_OK_AND_ASSIGN(const RingLayout layout, RingLayout::ForRegion(pages * page));
    EXPECT_EQ(layout.region_bytes(), pages * page);
    EXPECT_EQ(layout.page_bytes(), page);
    EXPECT_EQ(layout.head_section_bytes(), page);
    EXPECT_EQ(layout.capacity_bytes(), (pages - 1) * page);
    EXPECT_EQ(layout.data_section_bytes(), pages * page);
  }
}

TEST(RingLayout, RefusesSizesThatCannotBeARing) {
  const uint64_t page = PageBytes();
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, page, page + 1, 2 * page - 8, 2 * page + 8,
                               RingLayout::kRegionBytesMax - 1}) {
    EXPECT_THAT(RingLayout::ForRegion(bytes),
                StatusIs(absl::StatusCode::kInvalidArgument, std::to_string(bytes)));
  }
}

TEST(RingLayout, RefusesSizesAboveTheLimit) {
  EXPECT_THAT(RingLayout::ForRegion(RingLayout::kRegionBytesMax), test::IsOk());
  for (const uint64_t bytes :
       {RingLayout::kRegionBytesMax + 1, RingLayout::kRegionBytesMax + PageBytes(),
        uint64_t{1} << 63, UINT64_MAX - PageBytes() + 1, UINT64_MAX}) {
    EXPECT_THAT(RingLayout::ForRegion(bytes), StatusIs(absl::StatusCode::kOutOfRange));
  }
}

}  // namespace
}  // namespace iob::shm
