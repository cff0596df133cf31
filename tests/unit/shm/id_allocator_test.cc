// The id allocator, sealed and shared: bytes in the region, ids, what is refused, what is found
// again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/id_allocator_intern.h"
#include "tests/support/shm_id_region.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::IsOk;
using test::PatternText;
using test::StatusIs;
using test::TextOf;

// ---- Layout -----------------------------------------------------------------------------------

TEST(IdAllocatorLayout, TakesWholePagesUpToWhatAnOffsetCanReach) {
  const uint64_t page = PageBytes();
  EXPECT_THAT(IdAllocatorLayout::ForRegion(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(IdAllocatorLayout::ForRegion(page - 1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(IdAllocatorLayout::ForRegion(page), IsOk());
  EXPECT_THAT(IdAllocatorLayout::ForRegion((uint64_t{1} << 32) - page), IsOk());
  for (const uint64_t bytes : {(uint64_t{1} << 32) - page + 1, uint64_t{UINT32_MAX},
                               uint64_t{1} << 32, uint64_t{1} << 40, UINT64_MAX}) {
    EXPECT_THAT(IdAllocatorLayout::ForRegion(bytes), StatusIs(absl::StatusCode::kOutOfRange));
  }
}

TEST(IdAllocatorLayout, ChecksAHeaderAgainstItsRegion) {
  const auto check = [](uint64_t next_id, uint64_t blob_head) {
    return IdHeader::Check(Untrusted<uint64_t>(next_id | blob_head << 32), 4096).has_value();
  };
  EXPECT_TRUE(check(0, 4096));
  EXPECT_TRUE(check(0, 8));
  EXPECT_FALSE(check(0, 7));
  EXPECT_FALSE(check(0, 0)) << "a punched page";
  EXPECT_FALSE(check(0, 4097));
  EXPECT_TRUE(check(511, 4096));
  EXPECT_FALSE(check(512, 4096));
  EXPECT_FALSE(check(511, 4095));
  EXPECT_FALSE(check(0x20000000, 4096)) << "8 + 8 * next_id is 8 in 32 bits";
  EXPECT_FALSE(check(0x1fffffff, 4096)) << "8 + 8 * next_id is 0 in 32 bits";
  EXPECT_FALSE(check(UINT32_MAX, UINT32_MAX));
  const uint32_t largest = 0xfffff000;
  const auto check_largest = [](uint64_t next_id) {
    return IdHeader::Check(Untrusted<uint64_t>(next_id | uint64_t{largest} << 32), largest);
  };
  EXPECT_TRUE(check_largest(largest / 8 - 1).has_value());
  EXPECT_FALSE(check_largest(largest / 8).has_value());
  EXPECT_FALSE(check_largest(0x20000000).has_value());
}

TEST(IdAllocatorLayout, MarksPendingAndTombstoneWhereNoBlobCanBe) {
  for (const IdOwner owner : {1u, 2u, kIdOwnersMax}) {
    for (const uint32_t bytes : {0u, 1u, UINT32_MAX}) {
      const uint64_t word = IdSlot::PendingWord(owner, bytes);
      const IdSlot slot = IdSlot::Parse(Untrusted<uint64_t>(word));
      EXPECT_EQ(slot.state, IdSlot::State::kPending);
      EXPECT_EQ(slot.owner, owner);
      EXPECT_EQ(slot.claimed_bytes, bytes);
      EXPECT_GT(word >> 32, 0xfffff000u) << "beyond the largest region";
      const IdSlot tombstone = IdSlot::Parse(Untrusted<uint64_t>(IdSlot::TombstoneWord(bytes)));
      EXPECT_EQ(tombstone.state, IdSlot::State::kTombstone);
      EXPECT_EQ(tombstone.claimed_bytes, bytes);
    }
  }
  const IdSlot last = IdSlot::Parse(Untrusted<uint64_t>(IdSlot::BlobWord(0, 0xfffff000)));
  EXPECT_EQ(last.state, IdSlot::State::kBlob) << "an empty blob at the end of the largest region";
  EXPECT_EQ(IdSlot::Parse(Untrusted<uint64_t>(0)).state, IdSlot::State::kEmpty);
}

TEST(IdAllocatorLayout, GivesEachOutcomeItsCode) {
  using enum absl::StatusCode;
  EXPECT_THAT(StatusOf(AllocateOutcome::kAllocated), IsOk());
  EXPECT_THAT(StatusOf(AllocateOutcome::kInterned), IsOk());
  EXPECT_THAT(StatusOf(AllocateOutcome::kOutOfMemory), StatusIs(kResourceExhausted, "REGION_FULL"));
  EXPECT_THAT(StatusOf(AllocateOutcome::kBusy), StatusIs(kUnavailable));
  EXPECT_THAT(StatusOf(AllocateOutcome::kInvalidHeader), StatusIs(kDataLoss));
  EXPECT_THAT(StatusOf(AllocateOutcome::kNonEmptyIndex), StatusIs(kDataLoss));
  EXPECT_THAT(StatusOf(BlobOutcome::kBlob, 7), IsOk());
  EXPECT_THAT(StatusOf(BlobOutcome::kInvalidHeader, 7), StatusIs(kDataLoss));
  EXPECT_THAT(StatusOf(BlobOutcome::kUnallocatedId, 7), StatusIs(kNotFound, "id 7"));
  EXPECT_THAT(StatusOf(BlobOutcome::kUncommitted, 7), StatusIs(kUnavailable, "id 7"));
  EXPECT_THAT(StatusOf(BlobOutcome::kTombstone, 7), StatusIs(kNotFound, "died"));
  EXPECT_THAT(StatusOf(BlobOutcome::kInvalidIndex, 7), StatusIs(kDataLoss, "id 7"));
  EXPECT_THAT(StatusOf(BlobOutcome::kTooLarge, 7), StatusIs(kResourceExhausted));
}

// ---- Both kinds -------------------------------------------------------------------------------

enum class Kind { kSealed, kShared };

class IdAllocator : public ::testing::TestWithParam<Kind> {
 protected:
  static std::unique_ptr<Region> Make(uint64_t pages) {
    if (GetParam() == Kind::kSealed) return std::make_unique<SealedRegion>(Pages(pages));
    return std::make_unique<SharedRegion>(Pages(pages));
  }
};
std::string NameOf(const ::testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kSealed ? "Sealed" : "Shared";
}
INSTANTIATE_TEST_SUITE_P(Kinds, IdAllocator, ::testing::Values(Kind::kSealed, Kind::kShared),
                         NameOf);

TEST_P(IdAllocator, LaysBytesOutAsZirconDoes) {
  const auto region = Make(1);
  std::string expected(4096, '\0');
  const auto put = [&expected](size_t offset, std::initializer_list<uint32_t> words) {
    for (const uint32_t word : words) {
      std::memcpy(expected.data() + offset, &word, sizeof(word));
      offset += sizeof(word);
    }
  };
  if (PageBytes() != 4096) GTEST_SKIP() << "written for pages of 4096 bytes";
  put(0, {0, 4096});
  EXPECT_EQ(region->Image(), expected);
  EXPECT_EQ(region->MustAllocate("abc"), 0u);
  EXPECT_EQ(region->MustAllocate(""), 1u);
  EXPECT_EQ(region->MustAllocate("hello"), 2u);
  put(0, {3, 4088, 3, 4093, 0, 4093, 5, 4088});
  std::memcpy(expected.data() + 4088, "helloabc", 8);
  EXPECT_EQ(region->Image(), expected);
}

TEST_P(IdAllocator, GivesDenseIdsAndEveryBlobBack) {
  const auto region = Make(4);
  const ReadOnlyMapping raw = region->MapForReading();
  for (uint32_t id = 0; id < 100; ++id)
    ASSERT_EQ(region->MustAllocate(PatternText(id, id % 70)), id);
  for (uint32_t id = 0; id < 100; ++id) {
    const std::string blob = PatternText(id, id % 70);
    EXPECT_EQ(region->MustGet(id), blob);
    std::string seen_by_zircon;
    EXPECT_EQ(ZirconGet(raw, id, &seen_by_zircon), ZirconError::kNone);
    EXPECT_EQ(seen_by_zircon, blob);
  }
  std::string blob = "untouched";
  EXPECT_EQ(region->Get(100, &blob), BlobOutcome::kUnallocatedId);
  EXPECT_EQ(region->Get(UINT32_MAX, &blob), BlobOutcome::kUnallocatedId);
  EXPECT_EQ(blob, "untouched");
}

TEST_P(IdAllocator, CanBeFilledToTheLastByteByOneBlob) {
  const auto region = Make(1);
  const std::string blob = PatternText(1, PageBytes() - 16);
  uint32_t id = 77;
  EXPECT_EQ(region->Allocate(blob + "x", &id), AllocateOutcome::kOutOfMemory);
  EXPECT_EQ(id, 77u);
  EXPECT_EQ(region->MustAllocate(blob), 0u);
  EXPECT_EQ(region->Allocate("", &id), AllocateOutcome::kOutOfMemory);
  EXPECT_EQ(region->MustGet(0), blob);
}

TEST_P(IdAllocator, CanBeFilledToTheLastByteByEmptyBlobs) {
  const auto region = Make(1);
  const auto ids = static_cast<uint32_t>(PageBytes() / 8 - 1);
  for (uint32_t id = 0; id < ids; ++id) ASSERT_EQ(region->MustAllocate(""), id);
  uint32_t id = 77;
  EXPECT_EQ(region->Allocate("", &id), AllocateOutcome::kOutOfMemory);
  for (uint32_t i = 0; i < ids; ++i) ASSERT_EQ(region->MustGet(i), "");
}

TEST_P(IdAllocator, RefusesWhatDoesNotFitAndChangesNothing) {
  // Every number of bytes left over, so that a slot without room for it is met as well.
  for (uint64_t left = 0; left < 24; ++left) {
    const auto region = Make(1);
    region->MustAllocate(PatternText(left, PageBytes() - 16 - left));
    const std::string before = region->Image();
    uint32_t id = 77;
    const uint64_t fits = left < 8 ? 0 : left - 8;
    EXPECT_EQ(region->Allocate(std::string(fits + 1, 'x'), &id), AllocateOutcome::kOutOfMemory);
    EXPECT_EQ(region->Allocate(std::string(PageBytes(), 'x'), &id), AllocateOutcome::kOutOfMemory);
    if (left < 8) {
      EXPECT_EQ(region->Allocate("", &id), AllocateOutcome::kOutOfMemory);
    }
    EXPECT_EQ(id, 77u);
    EXPECT_EQ(region->Image(), before);
    if (left >= 8) {
      EXPECT_EQ(region->MustAllocate(std::string(fits, 'x')), 1u);
    }
  }
}

TEST_P(IdAllocator, FindsTheLowestIdOfABlob) {
  const auto region = Make(16);
  const std::string large = PatternText(9, 3 * 4096 + 5);
  for (const std::string& blob : {std::string("b"), std::string("a"), std::string(""), large,
                                  std::string("a"), std::string(""), large}) {
    region->MustAllocate(blob);
  }
  const auto find = [&region](const std::string& blob) -> std::optional<uint32_t> {
    uint32_t id = UINT32_MAX;
    const FindOutcome outcome = region->Find(blob, &id);
    EXPECT_TRUE(outcome == FindOutcome::kFound || outcome == FindOutcome::kAbsent);
    EXPECT_EQ(outcome == FindOutcome::kFound, id != UINT32_MAX);
    return outcome == FindOutcome::kFound ? std::optional(id) : std::nullopt;
  };
  EXPECT_EQ(find("a"), 1u);
  EXPECT_EQ(find("b"), 0u);
  EXPECT_EQ(find(""), 2u);
  EXPECT_EQ(find(large), 3u);
  EXPECT_EQ(find("c"), std::nullopt);
  std::string almost = large;
  almost.back() = static_cast<char>(almost.back() ^ 1);
  EXPECT_EQ(find(almost), std::nullopt);
}

TEST_P(IdAllocator, AgreesWithItsModel) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    const uint64_t pages = 1 + random() % 3;
    const auto region = Make(pages);
    const ReadOnlyMapping raw = region->MapForReading();
    std::vector<std::string> model;
    uint64_t room = pages * PageBytes() - 8;
    const uint64_t longest = seed % 3 == 0 ? 8 : seed % 3 == 1 ? 200 : 3000;
    for (int step = 0; step < 1500; ++step) {
      const std::string blob = PatternText(random(), random() % longest);
      uint32_t id = UINT32_MAX;
      const AllocateOutcome outcome = region->Allocate(blob, &id);
      if (room >= 8 && blob.size() <= room - 8) {
        ASSERT_EQ(outcome, AllocateOutcome::kAllocated) << "seed " << seed << ", step " << step;
        ASSERT_EQ(id, model.size());
        model.push_back(blob);
        room -= 8 + blob.size();
      } else {
        ASSERT_EQ(outcome, AllocateOutcome::kOutOfMemory) << "seed " << seed << ", step " << step;
      }
      const auto header = IdHeader::Check(raw.Word<uint64_t>(0).LoadAcquire(),
                                          static_cast<uint32_t>(pages * PageBytes()));
      ASSERT_TRUE(header.has_value());
      ASSERT_EQ(header->next_id, model.size());
      ASSERT_EQ(header->free_bytes(), room);
      const auto choice = static_cast<uint32_t>(random() % (model.size() + 1));
      std::string found;
      ASSERT_EQ(region->Get(choice, &found),
                choice < model.size() ? BlobOutcome::kBlob : BlobOutcome::kUnallocatedId);
      if (choice < model.size()) {
        ASSERT_EQ(found, model[choice]);
      }
    }
    for (uint32_t id = 0; id < model.size(); ++id) ASSERT_EQ(region->MustGet(id), model[id]);
  }
}

// ---- Sealed -----------------------------------------------------------------------------------

TEST(IdAllocatorSealed, CannotBeMappedForWritingByAnybodyElse) {
  SealedRegion region(Pages(1));
  EXPECT_FALSE(Mapping::Map(region.memfd()).ok());
  EXPECT_FALSE(IdAllocatorSharedWriter::Map(Pages(1), region.memfd(), 2).ok());
}

TEST(IdAllocatorSealed, IsReadInPlaceOnlyWhenItIsSealed) {
  SharedRegion region(Pages(1));
  EXPECT_THAT(IdAllocatorSealedReader::Map(Pages(1), region.memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "not sealed"));
  EXPECT_THAT(IdAllocatorSealedReader::Map(Pages(2), SealedRegion(Pages(1)).memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "4096"));
}

TEST(IdAllocatorSealed, HandsOutTheSameBytesEachTime) {
  SealedRegion region(Pages(1));
  region.MustAllocate("abc");
  ASSERT_OK_AND_ASSIGN(const IdAllocatorSealedReader reader,
                       IdAllocatorSealedReader::Map(Pages(1), region.memfd()));
  std::span<const std::byte> first;
  std::span<const std::byte> second;
  ASSERT_EQ(reader.GetView(0, &first), BlobOutcome::kBlob);
  region.MustAllocate("def");
  ASSERT_EQ(reader.GetView(0, &second), BlobOutcome::kBlob);
  EXPECT_EQ(first.data(), second.data());
  EXPECT_EQ(TextOf(first), "abc");
}

TEST(IdAllocatorSealed, StoresEqualBlobsAgainUnlessAskedToIntern) {
  SealedRegion region(Pages(1));
  EXPECT_EQ(region.MustAllocate("same"), 0u);
  EXPECT_EQ(region.MustAllocate("same"), 1u);
}

TEST(IdAllocatorSealed, InternsEqualBlobs) {
  SealedRegion region(Pages(1), 64);
  EXPECT_EQ(region.MustAllocate("same"), 0u);
  EXPECT_EQ(region.MustAllocate("Same"), 1u);
  EXPECT_EQ(region.MustAllocate(""), 2u);
  const std::string before = region.Image();
  for (const auto& [blob, expected] :
       {std::pair("same", 0u), std::pair("Same", 1u), std::pair("", 2u)}) {
    uint32_t id = UINT32_MAX;
    EXPECT_EQ(region.Allocate(blob, &id), AllocateOutcome::kInterned);
    EXPECT_EQ(id, expected);
  }
  EXPECT_EQ(region.Image(), before);
}

TEST(IdAllocatorSealed, FindsInternedBlobsInAFullRegionToo) {
  SealedRegion region(Pages(1), 4);
  const std::string blob = PatternText(1, PageBytes() - 16);
  region.MustAllocate(blob);
  uint32_t id = 77;
  EXPECT_EQ(region.Allocate("", &id), AllocateOutcome::kOutOfMemory);
  EXPECT_EQ(region.Allocate(blob, &id), AllocateOutcome::kInterned);
  EXPECT_EQ(id, 0u);
}

TEST(IdAllocatorSealed, ForgetsRatherThanGrowsWhenInterningIsFull) {
  SealedRegion region(Pages(16), 32);
  for (uint32_t i = 0; i < 500; ++i) region.MustAllocate(std::to_string(i));
  int interned = 0;
  for (uint32_t i = 0; i < 500; ++i) {
    uint32_t id = UINT32_MAX;
    const AllocateOutcome outcome = region.Allocate(std::to_string(i), &id);
    if (outcome == AllocateOutcome::kInterned) {
      EXPECT_EQ(id, i);
      ++interned;
    } else {
      EXPECT_EQ(outcome, AllocateOutcome::kAllocated);
      EXPECT_GE(id, 500u);
    }
  }
  EXPECT_GT(interned, 16);
  EXPECT_LE(interned, 32);
  EXPECT_THAT(IdAllocatorSealedWriter::Create(Pages(1), {.interned_max = UINT32_MAX}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(IdAllocatorSealed, HashesAsSipHashDoes) {
  const SipHashKey key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  std::string message;
  EXPECT_EQ(SipHash(key, BytesOf(message)), 0x726fdb47dd0e0e31u);
  for (char byte = 0; byte < 15; ++byte) message.push_back(byte);
  EXPECT_EQ(SipHash(key, BytesOf(message)), 0xa129ca6149be45e5u);
}

TEST(IdAllocatorSealed, IsReadWhileItIsWritten) {
  const IdAllocatorLayout layout = Pages(64);
  SealedRegion region(layout);
  ASSERT_OK_AND_ASSIGN(const IdAllocatorSealedReader reader,
                       IdAllocatorSealedReader::Map(layout, region.memfd()));
  std::atomic<bool> full = false;
  std::thread reading([&] {
    uint32_t id = 0;
    while (true) {
      const bool last = full.load(std::memory_order_acquire);
      std::span<const std::byte> blob;
      BlobOutcome outcome = BlobOutcome::kBlob;
      while ((outcome = reader.GetView(id, &blob)) == BlobOutcome::kBlob) {
        ASSERT_EQ(TextOf(blob), PatternText(id, id % 50));
        ++id;
      }
      ASSERT_EQ(outcome, BlobOutcome::kUnallocatedId) << "never uncommitted";
      if (last) break;
    }
    EXPECT_EQ(id, region.writer().next_id());
  });
  uint32_t id = 0;
  while (region.Allocate(PatternText(id, id % 50), &id) == AllocateOutcome::kAllocated) ++id;
  full.store(true, std::memory_order_release);
  reading.join();
}

// ---- Shared -----------------------------------------------------------------------------------

TEST(IdAllocatorShared, WantsItsOwnSizeAndAnOwnerThatFitsIntoASlot) {
  SharedRegion region(Pages(1));
  EXPECT_THAT(IdAllocatorSharedWriter::Map(Pages(1), region.memfd(), 0),
              StatusIs(absl::StatusCode::kInvalidArgument, "owner 0"));
  EXPECT_THAT(IdAllocatorSharedWriter::Map(Pages(1), region.memfd(), kIdOwnersMax + 1),
              StatusIs(absl::StatusCode::kInvalidArgument, "owner 4095"));
  EXPECT_THAT(IdAllocatorSharedWriter::Map(Pages(1), region.memfd(), kIdOwnersMax), IsOk());
  EXPECT_THAT(IdAllocatorSharedWriter::Map(Pages(2), region.memfd(), 2),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(IdAllocatorSharedReader::Map(Pages(2), region.memfd()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(region.broker().TombstoneOwner(0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(region.broker().TombstoneOwner(4095), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(IdAllocatorShared, NumbersTheBlobsOfAllWritersTogether) {
  SharedRegion region(Pages(1));
  const IdAllocatorSharedWriter endpoint = region.WriterOf(2);
  uint32_t id = 0;
  for (uint32_t i = 0; i < 20; i += 2) {
    EXPECT_EQ(region.MustAllocate("broker" + std::to_string(i)), i);
    EXPECT_EQ(endpoint.Allocate(BytesOf("endpoint"), &id), AllocateOutcome::kAllocated);
    EXPECT_EQ(id, i + 1);
  }
  EXPECT_EQ(region.MustGet(4), "broker4");
  EXPECT_EQ(region.MustGet(5), "endpoint");
}

// A claim of owner 3 for 100 bytes, as it stands when its process dies before or after the swing.
class DeadClaim : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(HeaderSwung, DeadClaim, ::testing::Bool());

TEST_P(DeadClaim, IsPassedByOthersAndBecomesATombstone) {
  for (const bool others_first : {false, true}) {
    SharedRegion region(Pages(1));
    const ReadOnlyMapping raw = region.MapForReading();
    region.MustAllocate("before");
    const IdHeader header = *region.broker().LoadHeader();
    region.Set(IdSlotOffset(1), IdSlot::PendingWord(3, 100));
    if (GetParam()) region.Set(0, header.Plus(100).word());
    if (others_first) {
      EXPECT_EQ(region.MustAllocate("after"), 2u);
    }
    std::string blob = "untouched";
    const BlobOutcome outcome = region.Get(1, &blob);
    EXPECT_EQ(outcome,
              GetParam() || others_first ? BlobOutcome::kUncommitted : BlobOutcome::kUnallocatedId);
    EXPECT_EQ(region.Entomb(2), 0u) << "somebody else";
    EXPECT_EQ(region.Entomb(3), 1u);
    EXPECT_EQ(region.Entomb(3), 0u);
    EXPECT_EQ(region.Get(1, &blob), BlobOutcome::kTombstone);
    EXPECT_EQ(ZirconGet(raw, 1, &blob), ZirconError::kInvalidIndex);
    EXPECT_EQ(blob, "untouched");
    if (!others_first) {
      EXPECT_EQ(region.MustAllocate("after"), 2u);
    }
    EXPECT_EQ(region.MustGet(0), "before");
    EXPECT_EQ(region.MustGet(2), "after");
    uint32_t id = UINT32_MAX;
    EXPECT_EQ(region.Find("after", &id), FindOutcome::kFound);
    EXPECT_EQ(id, 2u);
    // The bytes of the tombstone stay taken; nothing else is lost.
    EXPECT_EQ(region.broker().LoadHeader()->free_bytes(), PageBytes() - 8 - 3 * 8 - 6 - 100 - 5);
  }
}

TEST(IdAllocatorShared, FindsAClaimInTheVeryLastSlot) {
  SharedRegion region(Pages(1));
  region.MustAllocate(std::string(PageBytes() - 8 - 2 * 8 - 5, 'x'));
  region.Set(IdSlotOffset(1), IdSlot::PendingWord(3, 5));
  EXPECT_EQ(region.Entomb(3), 1u);
  EXPECT_EQ(region.broker().LoadHeader()->free_bytes(), 0u);
  uint32_t id = 77;
  EXPECT_EQ(region.Allocate("", &id), AllocateOutcome::kOutOfMemory);
  EXPECT_EQ(region.Entomb(3), 0u) << "no slot to look at";
}

TEST(IdAllocatorShared, RefusesACopyLargerThanAskedFor) {
  SharedRegion region(Pages(1));
  region.MustAllocate("12345");
  std::vector<std::byte> copy;
  EXPECT_EQ(region.reader().GetCopy(0, 4, &copy), BlobOutcome::kTooLarge);
  EXPECT_TRUE(copy.empty());
  EXPECT_EQ(region.reader().GetCopy(0, 5, &copy), BlobOutcome::kBlob);
}

TEST(IdAllocatorShared, DoesNotGiveAForkedChildTheWritersMapping) {
  SharedRegion region(Pages(1));
  test::Child child([&region] {
    uint32_t id = 0;
    (void)region.Allocate("x", &id);  // Faults: there is nothing mapped.
  });
  EXPECT_NE(child.Join(), 0);
  EXPECT_EQ(region.MustAllocate("x"), 0u);
}

}  // namespace
}  // namespace iob::shm
