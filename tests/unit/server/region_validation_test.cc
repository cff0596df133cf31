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

// `found` is what a handle to a shared region leads to.
absl::StatusOr<RegionSpec> Validate(const RegionSpec& spec,
                                    const absl::StatusOr<SharedRegion*>& found =
                                        absl::InternalError("no handle is to be looked up")) {
  return ValidateRegionSpec(spec, 7, Limits(), [&found](const Token&) { return found; });
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

// What of the 256 patterns a region of this kind may have: Zircon's matrix, but for memory that
// would be writable and not readable.
bool MayHave(v1::RegionType type, v1::Discipline discipline, uint32_t bits) {
  const bool ep0_writes_blindly = (bits & 0x03) == 0x02;
  const bool ep1_writes_blindly = (bits & 0x30) == 0x20;
  const bool mediated = (bits & 0xcc) != 0;
  const bool map_write = (bits & 0x22) != 0;
  if (ep0_writes_blindly || ep1_writes_blindly || !(mediated || map_write)) return false;
  const bool is_private = type == v1::REGION_TYPE_PRIVATE;
  if (discipline == v1::DISCIPLINE_NONE) return is_private && !mediated;
  if (discipline == v1::DISCIPLINE_ID_ALLOCATOR) {
    // An endpoint that may read through the broker may write through it.
    return is_private && (bits & 0x0c) != 0x04 && (bits & 0xc0) != 0x40;
  }
  return true;
}

TEST(RegionValidation, TheWholeMatrixOfTypeDisciplineAndAccess) {
  SharedRegion shared(/*koid=*/1, {}, {}, 8192, MakeMediatedRing(8192).value(), {});
  int allowed = 0;
  for (const auto type : {v1::REGION_TYPE_PRIVATE, v1::REGION_TYPE_SHARED}) {
    for (const auto discipline :
         {v1::DISCIPLINE_NONE, v1::DISCIPLINE_ID_ALLOCATOR, v1::DISCIPLINE_MEDIATED_RING}) {
      for (uint32_t bits = 0; bits < 256; ++bits) {
        RegionSpec spec{.type = type, .discipline = discipline, .access = shm::AccessBits(bits)};
        spec.size_bytes = type == v1::REGION_TYPE_PRIVATE ? 8192 : 0;
        if (type == v1::REGION_TYPE_SHARED) spec.shared_handle = Token();
        const auto checked = Validate(spec, &shared);
        ASSERT_EQ(checked.ok(), MayHave(type, discipline, bits))
            << type << " " << discipline << " " << bits << " " << checked.status();
        if (!checked.ok()) {
          ASSERT_EQ(ReasonOf(checked.status()), v1::ERROR_REASON_INVALID_ARGUMENT);
          continue;
        }
        ++allowed;
        ASSERT_EQ(checked->size_bytes, 8192u);
        ASSERT_EQ(checked->shared, type == v1::REGION_TYPE_SHARED ? &shared : nullptr);
      }
    }
  }
  EXPECT_EQ(allowed, 5 + 77 + 2 * 140);
}

TEST(RegionValidation, TypesAndDisciplines) {
  RegionSpec spec = PlainSpec();
  for (const int type : {0, 3, -1, INT32_MAX}) {
    spec.type = static_cast<v1::RegionType>(type);
    EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "type is missing or unknown"));
  }
  spec = PlainSpec();
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

// A region that is wrong in every way, mended from the first complaint to the last.
TEST(RegionValidation, ASharedRegionIsCheckedInZirconsOrder) {
  SharedRegion small(/*koid=*/1, {}, {}, 4096, std::nullopt, {});
  SharedRegion shared(/*koid=*/2, {}, {}, 8192, MakeMediatedRing(8192).value(), {});
  RegionSpec spec{.type = v1::REGION_TYPE_SHARED,
                  .discipline = v1::DISCIPLINE_NONE,
                  .size_bytes = UINT64_MAX,
                  .access = shm::AccessBits(0x100)};
  EXPECT_THAT(Validate(spec, &small), StatusIs(kInvalid, "a shared region has a size already"));
  spec.size_bytes = 1;
  EXPECT_THAT(Validate(spec, &small), StatusIs(kInvalid, "a shared region has a size already"));
  spec.size_bytes = 0;
  const auto no_handle = Validate(spec, &small);
  EXPECT_THAT(no_handle,
              StatusIs(absl::StatusCode::kUnauthenticated, "regions[7].shared_region: no handle"));
  EXPECT_EQ(ReasonOf(no_handle.status()), v1::ERROR_REASON_BAD_HANDLE);
  spec.shared_handle = Token();
  const absl::Status wrong = MakeError(v1::ERROR_REASON_WRONG_OBJECT, "the handle leads elsewhere");
  EXPECT_EQ(Validate(spec, wrong).status(), wrong);
  EXPECT_THAT(Validate(spec, &small), StatusIs(kInvalid, "a shared region of 4096 bytes"));
  EXPECT_THAT(Validate(spec, &shared), StatusIs(kInvalid, "low eight bits"));
  spec.access = shm::AccessBits(0x11);
  EXPECT_THAT(Validate(spec, &shared), StatusIs(kInvalid, "give no endpoint a way"));
  spec.access = shm::AccessBits(0x83);
  EXPECT_THAT(Validate(spec, &shared), StatusIs(kInvalid, "needs a discipline"));
  spec.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
  EXPECT_THAT(Validate(spec, &shared), StatusIs(kInvalid, "cannot be shared"));
  spec.discipline = v1::DISCIPLINE_MEDIATED_RING;
  EXPECT_EQ(Validate(spec, &shared)->shared, &shared);
}

TEST(RegionValidation, APrivateRegionIsCheckedInZirconsOrder) {
  RegionSpec spec{.type = v1::REGION_TYPE_PRIVATE,
                  .discipline = v1::DISCIPLINE_ID_ALLOCATOR,
                  .size_bytes = UINT64_MAX,
                  .access = shm::AccessBits(0x100),
                  .shared_handle = Token()};
  EXPECT_THAT(Validate(spec), StatusIs(kOutOfRange, "size_bytes"));
  spec.size_bytes = 0;
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "shared_region is for regions of type shared"));
  spec.shared_handle.reset();
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "low eight bits"));
  spec.access = shm::AccessBits(0x04);
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "no mediated-read without mediated-write"));
  spec.access = shm::AccessBits(0x88);
  // An id allocator of no bytes: zx_iob_create's INVALID_ARGS too.
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "regions[7]"));
  spec.size_bytes = 1;
  EXPECT_EQ(Validate(spec)->size_bytes, shm::PageBytes());
}

TEST(RegionValidation, IdAllocatorSizesAndInterning) {
  RegionSpec spec = PlainSpec(4096, 0x89);
  spec.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
  const uint64_t most = UINT32_MAX - (shm::PageBytes() - 1);
  spec.size_bytes = most;
  EXPECT_EQ(Validate(spec)->size_bytes, most);
  // 32 bits hold offsets up to here; Zircon's kernel would meet an assertion.
  spec.size_bytes = most + 1;
  EXPECT_THAT(Validate(spec), StatusIs(kOutOfRange, "regions[7].size_bytes: 4294967296"));
  spec.size_bytes = 4096;
  spec.interned_blobs_max = shm::InternTable::kEntriesMax;
  EXPECT_THAT(Validate(spec), IsOk());
  spec.interned_blobs_max += 1;
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "interned_blobs_max"));
  spec.interned_blobs_max = 1;
  spec.access = shm::AccessBits(0x8b);
  EXPECT_THAT(Validate(spec), StatusIs(kInvalid, "with an endpoint that may map-write"));
  RegionSpec ring = RingSpec();
  ring.interned_blobs_max = 1;
  EXPECT_THAT(Validate(ring), StatusIs(kInvalid, "interned_blobs_max is for id allocators"));
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
  // Ids are written with it: "#7".
  for (const char* name : {"#", "#7", "#name"}) {
    EXPECT_THAT(TryMake(name, {PlainSpec()}, alice_), StatusIs(kInvalid, "start otherwise"));
  }
  EXPECT_THAT(TryMake("7#", {PlainSpec()}, alice_), IsOk());
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
