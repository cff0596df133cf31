// A region that is copied while it is written: whatever happens between two looks, and however late
// a run is carried out, the copy is the region as the last look saw it.
#include "server/region_copy.h"

#include <gmock/gmock.h>

#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "shm/id_allocator_reader.h"
#include "shm/mapping.h"
#include "shm/record_unit.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using test::IsOk;

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A record whose content says which it is, of a length that follows from it.
std::string RecordText(uint64_t number) {
  std::string text = absl::StrCat("record ", number, ":");
  while (text.size() < 20 + number * 37 % 300)
    text.push_back(static_cast<char>('a' + (number + text.size()) % 26));
  return text;
}

constexpr uint64_t kTag = 0x7a67;

// What a copy is made into, and what is still to be carried out.
class Target {
 public:
  explicit Target(uint64_t size_bytes) : bytes_(size_bytes) {}

  void Take(RegionCopy& copy) {
    for (const CopyRun& run : copy.TakePending()) due_.push_back(run);
  }
  // The oldest run, or a part of it.
  void CarryOut(uint64_t bytes_max) {
    if (due_.empty()) return;
    CopyRun& run = due_.front();
    const uint64_t bytes = std::min(run.size_bytes, bytes_max);
    std::memcpy(bytes_.data() + run.target_offset_bytes, run.source, bytes);
    run.source += bytes;
    run.target_offset_bytes += bytes;
    run.size_bytes -= bytes;
    if (run.size_bytes == 0) due_.pop_front();
  }
  void CarryOutAll() {
    while (!due_.empty()) CarryOut(UINT64_MAX);
  }
  void Finish(const RegionCopy& copy) {
    for (const CopyPatch& patch : copy.Patches())
      std::memcpy(bytes_.data() + patch.target_offset_bytes, patch.bytes.data(),
                  patch.bytes.size());
    for (const CopyHole& hole : copy.Holes())
      std::memset(bytes_.data() + hole.target_offset_bytes, 0, hole.size_bytes);
  }

  bool idle() const { return due_.empty(); }
  uint64_t Word(uint64_t offset_bytes) const {
    uint64_t word = 0;
    std::memcpy(&word, bytes_.data() + offset_bytes, sizeof(word));
    return word;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::deque<CopyRun> due_;
};

// A ring with its writer and its consumer, who have their own idea of what is in it.
class LiveRing {
 public:
  explicit LiveRing(v1::RingPolicy policy = v1::RING_POLICY_UNSPECIFIED) {
    RegionSpec spec = RingSpec(shm::PageBytes() + kCapacity);
    spec.mediated.set_policy(policy);
    region_.emplace(Region::Create(spec, 1).value());
    head_page_.emplace(shm::Mapping::Map(ring().writer.head_memfd()).value());
  }
  static constexpr uint64_t kCapacity = 16384;

  Region& region() { return *region_; }
  MediatedRing& ring() { return *region_->ring(); }

  void Append() {
    const std::string text = RecordText(next_);
    if (ring().writer.Append(kTag, BytesOf(text)) != shm::AppendOutcome::kStored) return;
    records_.push_back({ring().writer.head_position(), next_});
    next_ += 1;
    ring().writer.Publish(ring().ledger);
  }
  // Up to the end of some record.
  void Consume(uint64_t records) {
    for (; records != 0 && !records_.empty(); --records) {
      SetTail(records_.front().end);
      records_.pop_front();
    }
  }
  void SetTail(uint64_t tail) { head_page_->Word<uint64_t>(shm::kTailOffset).StoreRelease(tail); }
  // The number of the record that begins at `position`.
  std::optional<uint64_t> FirstAt(uint64_t position) {
    while (!records_.empty() && records_.front().end <= position) records_.pop_front();
    if (records_.empty()) return std::nullopt;
    return records_.front().number;
  }
  uint64_t next() const { return next_; }

 private:
  struct Record {
    uint64_t end = 0;
    uint64_t number = 0;
  };
  std::optional<Region> region_;
  std::optional<shm::Mapping> head_page_;
  std::deque<Record> records_;
  uint64_t next_ = 0;
};

// Every record from tail to head, whole and in order, and nothing else in the ring's memory.
void ExpectRing(const Target& target, std::optional<uint64_t> first_number, uint64_t end_number) {
  const uint64_t page = shm::PageBytes();
  const uint64_t head = target.Word(0);
  const uint64_t tail = target.Word(8);
  ASSERT_LE(tail, head);
  ASSERT_LE(head - tail, LiveRing::kCapacity);
  std::vector<std::byte> line(head - tail + 64);
  std::vector<bool> used(LiveRing::kCapacity, false);
  for (uint64_t position = tail; position < head; ++position) {
    const uint64_t offset = position % LiveRing::kCapacity;
    line[position - tail] = target.bytes()[page + offset];
    used[offset] = true;
  }
  uint64_t number = first_number.value_or(end_number);
  for (uint64_t at = 0; at < head - tail;) {
    const auto unit = shm::ParseRecordUnit(line.data() + at, head - tail - at, {});
    ASSERT_TRUE(unit.has_value()) << "record " << number << " at " << tail + at;
    const std::string text(reinterpret_cast<const char*>(line.data() + at + unit->payload_offset),
                           unit->payload_bytes);
    ASSERT_EQ(text, RecordText(number));
    ASSERT_EQ(unit->tag, kTag);
    at += unit->ring_bytes;
    number += 1;
  }
  EXPECT_EQ(number, end_number);
  for (uint64_t offset = 0; offset < LiveRing::kCapacity; ++offset) {
    if (!used[offset]) {
      ASSERT_EQ(target.bytes()[page + offset], std::byte{0}) << offset;
    }
  }
}

class CopyOfARing : public ::testing::TestWithParam<v1::RingPolicy> {};

INSTANTIATE_TEST_SUITE_P(RegionCopy, CopyOfARing,
                         ::testing::Values(v1::RING_POLICY_DROP_NEW,
                                           v1::RING_POLICY_OVERWRITE_OLDEST),
                         [](const auto& policy) {
                           return policy.param == v1::RING_POLICY_DROP_NEW ? "DropNew"
                                                                           : "Overwrite";
                         });

TEST_P(CopyOfARing, IsTheRingOfTheLastLookWhateverHappenedBefore) {
  uint64_t with_holes = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto pick = [&random](uint32_t below) { return static_cast<uint32_t>(random() % below); };
    LiveRing live(GetParam());
    for (uint32_t i = 0; i < pick(400); ++i) {
      live.Append();
      if (pick(3) == 0) live.Consume(pick(6));
    }
    RegionCopy copy = RegionCopy::Open(live.region(), 0).value();
    Target target(copy.size_bytes());
    copy.Look(live.ring());
    target.Take(copy);
    const uint32_t steps = 20 + pick(300);
    for (uint32_t i = 0; i < steps; ++i) {
      switch (pick(5)) {
        case 0:
        case 1:
          for (uint32_t more = pick(8); more != 0; --more) live.Append();
          break;
        case 2:
          live.Consume(pick(8));
          break;
        case 3:
          target.CarryOut(1 + pick(3000));
          break;
        default:
          // As the loop does it: the next look comes when everything before was carried out.
          if (!target.idle()) break;
          copy.Look(live.ring());
          target.Take(copy);
      }
    }
    target.CarryOutAll();
    copy.Look(live.ring());
    const auto first = live.FirstAt(live.ring().writer.released_position());
    target.Take(copy);
    target.CarryOutAll();
    target.Finish(copy);
    if (!copy.Holes().empty()) with_holes += 1;
    ExpectRing(target, first, live.next());
    if (HasFatalFailure()) return;
  }
  // Not for want of anything to clear.
  EXPECT_GT(with_holes, 50u);
}

TEST(RegionCopy, BelievesNoTailThatCannotBe) {
  LiveRing live;
  for (int i = 0; i < 20; ++i) live.Append();
  live.Consume(5);
  RegionCopy copy = RegionCopy::Open(live.region(), 0).value();
  copy.Look(live.ring());
  const uint64_t good = live.ring().writer.released_position();
  for (const uint64_t lie : {uint64_t{0}, good + 4, live.ring().writer.head_position() + 8,
                             UINT64_MAX, uint64_t{1} << 63}) {
    live.SetTail(lie);
    copy.Look(live.ring());
    EXPECT_EQ(copy.pending_bytes(), live.ring().writer.head_position() - good) << lie;
  }
}

TEST(RegionCopy, OfARingSaysNothingOfItsHeadPageButTheTwoPositions) {
  LiveRing live;
  for (int i = 0; i < 3; ++i) live.Append();
  // What a consumer may scribble.
  const shm::Mapping page = shm::Mapping::Map(live.ring().writer.head_memfd()).value();
  for (uint64_t at = 16; at < page.size_bytes(); at += 8) page.Word<uint64_t>(at).StoreRelaxed(~at);
  RegionCopy copy = RegionCopy::Open(live.region(), 0).value();
  Target target(copy.size_bytes());
  copy.Look(live.ring());
  target.Take(copy);
  target.CarryOutAll();
  target.Finish(copy);
  EXPECT_EQ(target.Word(0), live.ring().writer.head_position());
  EXPECT_EQ(target.Word(8), 0u);
  for (uint64_t at = 16; at < shm::PageBytes(); at += 8) EXPECT_EQ(target.Word(at), 0u) << at;
}

TEST(RegionCopy, OfIdsHasEveryIdThatTheLastLookCounted) {
  RegionSpec spec{.discipline = v1::DISCIPLINE_ID_ALLOCATOR,
                  .size_bytes = 65536,
                  .access = shm::AccessBits(0x81)};
  Region region = Region::Create(spec, 1).value();
  auto allocate = [&region, next = uint64_t{0}]() mutable {
    EXPECT_THAT(region.AllocateId(BytesOf(RecordText(next++))), IsOk());
  };
  for (int i = 0; i < 10; ++i) allocate();
  RegionCopy copy = RegionCopy::Open(region, 0).value();
  Target target(copy.size_bytes());
  copy.Look(*region.sealed_ids());
  target.Take(copy);
  for (int i = 0; i < 15; ++i) allocate();
  target.CarryOutAll();
  copy.Look(*region.sealed_ids());
  target.Take(copy);
  target.CarryOutAll();
  target.Finish(copy);
  // The broker's own memory, byte for byte.
  const auto memory = shm::ReadOnlyMapping::Map(region.sealed_ids()->writer.memfd()).value();
  EXPECT_EQ(std::memcmp(target.bytes().data(), memory.base(), memory.size_bytes()), 0);
  EXPECT_EQ(target.Word(0) & UINT32_MAX, 25u);
}

// --- Who may read it, and whether it is torn -----------------------------------------------------

TEST(RegionCopy, MayBeReadByWhoeverMayReadTheRegion) {
  const shm::HandleRights all;
  const shm::HandleRights no_read(all.bits() & ~shm::HandleRights::kRead);
  const shm::HandleRights no_map(all.bits() & ~shm::HandleRights::kMap);
  Region ring = Region::Create(RingSpec(), 1).value();
  EXPECT_TRUE(MayReadCopy(ring, kEp0, all));
  EXPECT_FALSE(MayReadCopy(ring, kEp0, no_read));
  // It could not map what the copy would show.
  EXPECT_FALSE(MayReadCopy(ring, kEp0, no_map));
  // The writer has nothing but mediated-write.
  EXPECT_FALSE(MayReadCopy(ring, kEp1, all));

  Region plain = Region::Create(PlainSpec(4096, 0x13), 1).value();
  EXPECT_TRUE(MayReadCopy(plain, kEp0, all));
  EXPECT_TRUE(MayReadCopy(plain, kEp1, all));

  RegionSpec lanes_spec{.discipline = v1::DISCIPLINE_RESERVE_RING,
                        .size_bytes = 16384,
                        .access = shm::AccessBits(0x31)};
  lanes_spec = ValidateRegionSpec(lanes_spec, 0, Limits(), [](const Token&) {
                 return absl::StatusOr<SharedRegion*>(nullptr);
               }).value();
  Region lanes = Region::Create(lanes_spec, 1).value();
  EXPECT_TRUE(MayReadCopy(lanes, kEp0, all));
  // Each producer sees its own lane, and the copy would show all of them.
  EXPECT_FALSE(MayReadCopy(lanes, kEp1, all));
}

TEST(RegionCopy, IsTornOnlyWhereSomebodyElseWrites) {
  Region ring = Region::Create(RingSpec(), 1).value();
  EXPECT_FALSE(MayBeTorn(ring, {true, true}));
  // ep0 writes, ep1 reads.
  Region plain = Region::Create(PlainSpec(4096, 0x13), 1).value();
  EXPECT_TRUE(MayBeTorn(plain, {true, true}));
  EXPECT_TRUE(MayBeTorn(plain, {true, false}));
  EXPECT_FALSE(MayBeTorn(plain, {false, true}));
  EXPECT_FALSE(MayBeTorn(plain, {false, false}));
}

}  // namespace
}  // namespace iob::server
