// What a region may be: every case that is refused, and what the others become.

#include <gmock/gmock.h>

#include "shm/mapping.h"
#include "shm/ring_layout.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kOutOfRange = absl::StatusCode::kOutOfRange;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

absl::StatusOr<RegionSpec> Validate(const RegionSpec& spec) {
  return ValidateRegionSpec(spec, 7, Limits());
}

TEST(RegionValidation, RingSizes) {
  const uint64_t page = shm::PageBytes();
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, page - 1, page}) {
    EXPECT_THAT(Validate(RingSpec(size)), StatusIs(kInvalid, "regions[7]")) << size;
  }
  EXPECT_EQ(Validate(RingSpec(page + 1))->size_bytes, 2 * page);
  EXPECT_EQ(Validate(RingSpec(2 * page))->size_bytes, 2 * page);
  EXPECT_THAT(Validate(RingSpec(shm::RingLayout::kRegionBytesMax)), IsOk());
  for (const uint64_t size :
       {shm::RingLayout::kRegionBytesMax + 1, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_THAT(Validate(RingSpec(size)), StatusIs(kOutOfRange)) << size;
  }
}

TEST(RegionValidation, PlainSizes) {
  const uint64_t page = shm::PageBytes();
  EXPECT_EQ(Validate(PlainSpec(0))->size_bytes, 0u);
  EXPECT_EQ(Validate(PlainSpec(1))->size_bytes, page);
  EXPECT_EQ(Validate(PlainSpec(page - 1))->size_bytes, page);
  EXPECT_EQ(Validate(PlainSpec(page))->size_bytes, page);
  const uint64_t most = Limits().region_bytes_max;
  EXPECT_THAT(Validate(PlainSpec(most)), IsOk());
  for (const uint64_t size : {most + 1, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_THAT(Validate(PlainSpec(size)),
                StatusIs(kOutOfRange, absl::StrCat("regions[7].size_bytes: ", size)));
  }
}

TEST(RegionValidation, AccessBits) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const shm::AccessBits access(bits);
    bool write_only = false;
    for (const shm::EndpointId endpoint : {kEp0, kEp1}) {
      const shm::RegionRights rights = access.For(endpoint);
      write_only = write_only || (rights.map_write() && !rights.map_read());
    }
    const bool plain_ok = !write_only && (bits & 0xcc) == 0 && (bits & 0x22) != 0;
    EXPECT_EQ(Validate(PlainSpec(4096, bits)).ok(), plain_ok) << bits;
    RegionSpec ring = RingSpec();
    ring.access = access;
    const bool ring_ok = !write_only && (bits & 0xee) != 0;
    EXPECT_EQ(Validate(ring).ok(), ring_ok) << bits;
  }
  for (const uint32_t bits : {0x100u, 0x133u, 0x80000033u, UINT32_MAX}) {
    EXPECT_THAT(Validate(PlainSpec(4096, bits)), StatusIs(kInvalid, "low eight bits"));
  }
}

TEST(RegionValidation, TypesAndDisciplines) {
  RegionSpec spec = PlainSpec();
  spec.type = v1::REGION_TYPE_SHARED;
  EXPECT_THAT(Validate(spec), StatusIs(kUnimplemented, "regions[7]: shared regions"));
  for (const int type : {0, 3, -1, INT32_MAX}) {
    spec.type = static_cast<v1::RegionType>(type);
    EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "type is missing or unknown"));
  }
  spec = PlainSpec();
  for (const v1::Discipline discipline : {v1::DISCIPLINE_ID_ALLOCATOR, v1::DISCIPLINE_RESERVE_RING,
                                          v1::DISCIPLINE_BROADCAST, v1::DISCIPLINE_SLOT}) {
    spec.discipline = discipline;
    EXPECT_THAT(Validate(spec), StatusIs(kUnimplemented, v1::Discipline_Name(discipline)));
  }
  for (const int discipline : {0, 7, -1, INT32_MAX}) {
    spec.discipline = static_cast<v1::Discipline>(discipline);
    EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "discipline is missing or unknown"));
  }
  spec = PlainSpec();
  for (const int level : {5, -1, INT32_MAX}) {
    spec.required_enforcement = static_cast<v1::Enforcement>(level);
    EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "required_enforcement is unknown"));
  }
}

class BufferShape : public RegistryHarness {};

TEST_F(BufferShape, OneToSixtyFourRegions) {
  EXPECT_THAT(TryMake("", {}, alice_), StatusIs(kInvalid, "regions: empty"));
  EXPECT_THAT(TryMake("", std::vector<RegionSpec>(65, PlainSpec()), alice_),
              StatusIs(kOutOfRange, "regions: 65, at most 64"));
  EXPECT_THAT(TryMake("", std::vector<RegionSpec>(64, PlainSpec()), alice_), IsOk());
  std::vector<RegionSpec> last_is_wrong(64, PlainSpec());
  last_is_wrong[63].size_bytes = UINT64_MAX;
  EXPECT_THAT(TryMake("", last_is_wrong, alice_), StatusIs(kOutOfRange, "regions[63]"));
}

TEST_F(BufferShape, Names) {
  EXPECT_THAT(TryMake(std::string(31, 'n'), {PlainSpec()}, alice_), IsOk());
  for (const size_t size : {32, 33, 1 << 20}) {
    EXPECT_THAT(TryMake(std::string(size, 'n'), {PlainSpec()}, alice_),
                StatusIs(kInvalid, absl::StrCat("name: ", size, " bytes, at most 31")));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = {'x', static_cast<char>(byte)};
    const bool printable = byte >= 0x20 && byte < 0x7f;
    EXPECT_EQ(TryMake(name, {PlainSpec()}, alice_).ok(), printable) << byte;
  }
  EXPECT_THAT(TryMake("\xc3\xa9t\xc3\xa9", {PlainSpec()}, alice_),
              StatusIs(kInvalid, "printable ASCII"));
  EXPECT_THAT(TryMake("", {PlainSpec()}, alice_), IsOk());
  EXPECT_THAT(TryMake("", {PlainSpec()}, alice_), IsOk());
}

TEST_F(BufferShape, EnforcementFollowsFromRightsAndHolder) {
  const CreatedBuffer made = TryMake("", {RingSpec(), PlainSpec(4096, 0x13)}, alice_).value();
  const Region& ring = made.buffer->regions()[0];
  const Region& plain = made.buffer->regions()[1];
  const auto level = [](const Region& region, shm::EndpointId endpoint, uint32_t uid) {
    return region.EnforcementFor(region.spec().access.For(endpoint), uid, kBrokerUid);
  };
  // The consumer is kept from the records by the seal, the producer has no descriptor at all.
  EXPECT_EQ(level(ring, kEp0, 1), v1::ENFORCEMENT_SEALED);
  EXPECT_EQ(level(ring, kEp0, 0), v1::ENFORCEMENT_SEALED);
  EXPECT_EQ(level(ring, kEp1, 0), v1::ENFORCEMENT_MEDIATED);
  // Read-only plain memory hangs on file modes, which bind neither root nor the broker's own uid.
  EXPECT_EQ(level(plain, kEp1, 1), v1::ENFORCEMENT_DAC);
  EXPECT_EQ(level(plain, kEp1, 0), v1::ENFORCEMENT_ADVISORY);
  EXPECT_EQ(level(plain, kEp1, kBrokerUid), v1::ENFORCEMENT_ADVISORY);
}

}  // namespace
}  // namespace iob::server
