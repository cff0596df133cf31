// What a buffer may be made of: 1.1 to 1.6, the order of checks of zx_iob_create (2.1), the access
// bits (3.1) and the creation matrix (3.3). Over gRPC and libiob: the attach socket makes nothing.

#include <set>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

using ::testing::SizeIs;

// As many bytes as a handle has, and no handle: ZX_HANDLE_INVALID.
const std::string kNoHandle(16, '\0');

class CreateContract : public ByWay {
 protected:
  Outcome Create(const std::vector<v1::RegionSpec>& regions) {
    return control().CreateBuffer(BufferOf(regions), &made_);
  }
  // As it was asked for, with one thing changed.
  static v1::RegionSpec With(v1::RegionSpec region, void (*change)(v1::RegionSpec&)) {
    change(region);
    return region;
  }
  static v1::RegionSpec Impossible() { return PlainRegion(kPage, /*access=*/0); }
  static v1::RegionSpec Endless() { return PlainRegion(UINT64_MAX); }

  NewBuffer made_;
};

// --- 1.1 to 1.6: the model -----------------------------------------------------------------------

class Model_1 : public CreateContract {};
IOB_OVER_CONTROL_WAYS(Model_1);

TEST_P(Model_1, R1_OneToSixtyFourRegionsKeepTheirOrder) {
  for (const size_t count : {size_t{1}, size_t{2}, size_t{64}}) {
    std::vector<v1::RegionSpec> regions;
    for (size_t i = 0; i < count; ++i) regions.push_back(PlainRegion((i % 3 + 1) * kPage));
    ASSERT_EQ(Create(regions), zx::kOk);
    ASSERT_THAT(made_.info.regions(), SizeIs(count));
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(made_.info.regions(static_cast<int>(i)).index(), i);
      EXPECT_EQ(made_.info.regions(static_cast<int>(i)).size_bytes(), (i % 3 + 1) * kPage);
    }
    EXPECT_THAT(made_.info.endpoints(), SizeIs(2));
  }
}

TEST_P(Model_1, R1_GeometryNeverChanges) {
  ASSERT_EQ(Create({PlainRegion(3 * kPage), RingRegion()}), zx::kOk);
  const auto geometry = [this] {
    v1::BufferInfo info = Look(made_.koid());
    info.clear_name();
    info.clear_endpoints();
    return info.SerializeAsString();
  };
  const std::string before = geometry();
  const auto client = AttachRaw(Dup(made_.ep0));
  ASSERT_EQ(control().SetName(made_.ep0, "another"), zx::kOk);
  ASSERT_EQ(control().Write(made_.ep1, 1, {"record"}), zx::kOk);
  // By the descriptors that it hands out, neither.
  const int fd = client->SectionFd(0, v1::SECTION_KIND_DATA);
  EXPECT_NE(::ftruncate(fd, 0), 0);
  EXPECT_NE(::ftruncate(fd, 8 * kPage), 0);
  EXPECT_EQ(geometry(), before);
}

TEST_P(Model_1, R2_SizesAreRoundedUpToPages) {
  ASSERT_EQ(Create({PlainRegion(1), PlainRegion(kPage - 1), PlainRegion(kPage),
                    PlainRegion(kPage + 1), IdRegion(1), RingRegion(kPage + 1)}),
            zx::kOk);
  std::vector<uint64_t> sizes;
  for (const v1::RegionInfo& region : made_.info.regions()) sizes.push_back(region.size_bytes());
  EXPECT_THAT(sizes, ::testing::ElementsAre(kPage, kPage, kPage, 2 * kPage, kPage, 2 * kPage));
}

TEST_P(Model_1, R3_TheHandleToASharedRegionIsNotConsumed) {
  const NewRegion shared = MakeShared();
  ASSERT_EQ(Create({SharedRegionOf(shared.handle)}), zx::kOk);
  EXPECT_EQ(made_.info.regions(0).type(), v1::REGION_TYPE_SHARED);
  v1::HandleInfo info;
  EXPECT_EQ(control().GetHandleInfo(shared.handle, &info), zx::kOk);
  ASSERT_EQ(Create({SharedRegionOf(shared.handle)}), zx::kOk);
  Close(shared.handle);
}

TEST_P(Model_1, R4_ThreeDisciplinesAreWhatTheyWereMadeAs) {
  ASSERT_EQ(Create({PlainRegion(), IdRegion(), RingRegion()}), zx::kOk);
  EXPECT_EQ(made_.info.regions(0).discipline(), v1::DISCIPLINE_NONE);
  EXPECT_EQ(made_.info.regions(1).discipline(), v1::DISCIPLINE_ID_ALLOCATOR);
  EXPECT_EQ(made_.info.regions(2).discipline(), v1::DISCIPLINE_MEDIATED_RING);
}

// Zircon keeps them without a look.
TEST_P(Model_1, R6_AccessBitsBeyondEightAreRefused) {
  for (int bit = 8; bit < 32; ++bit) {
    EXPECT_EQ(Create({PlainRegion(kPage, kBothMap | 1u << bit)}), zx::kInvalidArgs) << bit;
  }
}

// --- 2.1: the order of checks --------------------------------------------------------------------

class Create_2_1 : public CreateContract {
 protected:
  void SetUp() override {
    CreateContract::SetUp();
    shared_ = MakeShared();
  }
  void TearDown() override {
    Close(shared_.handle);
    CreateContract::TearDown();
  }

  NewRegion shared_;
};
IOB_OVER_CONTROL_WAYS(Create_2_1);

TEST_P(Create_2_1, R3_SixtyFiveRegionsAreOutOfRange) {
  EXPECT_EQ(Create(std::vector(65, PlainRegion())), zx::kOutOfRange);
  // Whatever they are.
  EXPECT_EQ(Create(std::vector(65, Impossible())), zx::kOutOfRange);
  std::vector<v1::RegionSpec> regions(65, PlainRegion());
  regions[0] = SharedRegionOf(kNoHandle);
  EXPECT_EQ(Create(regions), zx::kOutOfRange);
}

TEST_P(Create_2_1, R3_AMalformedHandleDoesNotHideSixtyFiveRegions) {
  if (GetParam() != Way::kGrpc) GTEST_SKIP() << "libiob has no handle of another length";
  std::vector<v1::RegionSpec> regions(65, PlainRegion());
  regions[64].set_shared_region("short");
  EXPECT_EQ(Create(regions), zx::kOutOfRange);
}

TEST_P(Create_2_1, R5_NoRegionIsInvalid) { EXPECT_EQ(Create({}), zx::kInvalidArgs); }

TEST_P(Create_2_1, R7_ASizeThatCannotBeRoundedIsOutOfRange) {
  for (const uint64_t size : {UINT64_MAX, UINT64_MAX - kPage + 2, uint64_t{1} << 63}) {
    EXPECT_EQ(Create({PlainRegion(size)}), zx::kOutOfRange) << size;
    EXPECT_EQ(Create({IdRegion(size)}), zx::kOutOfRange) << size;
    EXPECT_EQ(Create({RingRegion(size)}), zx::kOutOfRange) << size;
  }
}

TEST_P(Create_2_1, R7_ComesBeforeAccessAndDiscipline) {
  EXPECT_EQ(Create({PlainRegion(UINT64_MAX, /*access=*/0)}), zx::kOutOfRange);
  EXPECT_EQ(
      Create({With(Endless(),
                   [](auto& region) { region.set_discipline(static_cast<v1::Discipline>(42)); })}),
      zx::kOutOfRange);
}

TEST_P(Create_2_1, R8_NoBytesAreLegalWithoutADiscipline) {
  ASSERT_EQ(Create({PlainRegion(0)}), zx::kOk);
  EXPECT_EQ(made_.info.regions(0).size_bytes(), 0u);
}

TEST_P(Create_2_1, R9_MoreThanThereIsIsQuota) {
  const uint64_t most = broker().GetLimits()->region_bytes_max;
  EXPECT_EQ(Create(std::vector(64, PlainRegion(most))), zx::kQuota);
}

TEST_P(Create_2_1, R10_ASharedRegionWithASizeIsInvalid) {
  const auto sized = [](const std::string& handle) {
    v1::RegionSpec region = SharedRegionOf(handle);
    region.set_size_bytes(kSmallRing);
    return region;
  };
  EXPECT_EQ(Create({sized(shared_.handle)}), zx::kInvalidArgs);
  // Before the handle is looked at.
  EXPECT_EQ(Create({sized(kNoHandle)}), zx::kInvalidArgs);
}

TEST_P(Create_2_1, R11_AnUnknownHandleIsBad) {
  EXPECT_EQ(Create({SharedRegionOf(kNoHandle)}), zx::kBadHandle);
  EXPECT_EQ(Create({SharedRegionOf("")}), zx::kBadHandle);
  const NewRegion gone = MakeShared();
  Close(gone.handle);
  EXPECT_EQ(Create({SharedRegionOf(gone.handle)}), zx::kBadHandle);
  // Before access and discipline are.
  EXPECT_EQ(Create({SharedRegionOf(kNoHandle, 0, /*access=*/0)}), zx::kBadHandle);
}

TEST_P(Create_2_1, R12_AHandleToAnEndpointIsOfTheWrongType) {
  const NewBuffer other = Make({PlainRegion()});
  EXPECT_EQ(Create({SharedRegionOf(other.ep0)}), zx::kWrongObject);
  EXPECT_EQ(Create({SharedRegionOf(other.ep0, 0, /*access=*/0)}), zx::kWrongObject);
}

TEST_P(Create_2_1, R13_SharedRegionBelowTwoPagesIsInvalid) {
  const NewRegion small = MakeShared(kPage);
  EXPECT_EQ(Create({SharedRegionOf(small.handle)}), zx::kInvalidArgs);
  Close(small.handle);
  EXPECT_EQ(Create({SharedRegionOf(shared_.handle)}), zx::kOk) << "two pages";
}

TEST_P(Create_2_1, R14_AnotherTypeIsInvalid) {
  for (const int type : {0, 3, 42}) {
    v1::RegionSpec region = PlainRegion();
    region.set_type(static_cast<v1::RegionType>(type));
    EXPECT_EQ(Create({region}), zx::kInvalidArgs) << type;
  }
}

TEST_P(Create_2_1, R15_NobodyWhoCouldPutAnythingInIsInvalid) {
  for (const uint32_t access : {0u, kEp0MapRead, kEp1MapRead, kEp0MapRead | kEp1MapRead}) {
    EXPECT_EQ(Create({PlainRegion(kPage, access)}), zx::kInvalidArgs) << access;
    EXPECT_EQ(Create({IdRegion(kPage, access)}), zx::kInvalidArgs) << access;
    EXPECT_EQ(Create({SharedRegionOf(shared_.handle, 0, access)}), zx::kInvalidArgs) << access;
  }
}

TEST_P(Create_2_1, R17_AnIdAllocatorOfNoBytesIsInvalid) {
  EXPECT_EQ(Create({IdRegion(0)}), zx::kInvalidArgs);
}

TEST_P(Create_2_1, TheFirstRegionThatFailsIsTheAnswer) {
  EXPECT_EQ(Create({Impossible(), Endless()}), zx::kInvalidArgs);
  EXPECT_EQ(Create({Endless(), Impossible()}), zx::kOutOfRange);
  EXPECT_EQ(Create({PlainRegion(), SharedRegionOf(kNoHandle), Impossible()}), zx::kBadHandle);
  EXPECT_EQ(Create({PlainRegion(), Impossible(), SharedRegionOf(kNoHandle)}), zx::kInvalidArgs);
}

TEST_P(Create_2_1, AMalformedHandleIsAnErrorOfItsRegion) {
  if (GetParam() != Way::kGrpc) GTEST_SKIP() << "libiob has no handle of another length";
  EXPECT_EQ(Create({Endless(), SharedRegionOf("short")}), zx::kOutOfRange);
  EXPECT_EQ(Create({SharedRegionOf("short"), Endless()}), zx::kInvalidArgs);
}

TEST_P(Create_2_1, OnFailureNothingIsMade) {
  const double memory = Metric("iob_memory_bytes");
  const double handles = Metric("iob_handles");
  v1::CreateBufferRequest request =
      BufferOf({PlainRegion(), SharedRegionOf(shared_.handle), Impossible()});
  request.set_name("taken-by-nobody");
  EXPECT_EQ(control().CreateBuffer(request, &made_), zx::kInvalidArgs);
  EXPECT_TRUE(made_.ep0.empty() && made_.ep1.empty());
  EXPECT_EQ(Metric("iob_buffers"), 0);
  EXPECT_EQ(Metric("iob_memory_bytes"), memory);
  EXPECT_EQ(Metric("iob_handles"), handles);
  v1::SharedRegionInfo info;
  ASSERT_EQ(control().GetSharedRegion(shared_.handle, &info), zx::kOk);
  EXPECT_EQ(info.user_count(), 0u);
  request.mutable_regions()->RemoveLast();
  EXPECT_EQ(control().CreateBuffer(request, &made_), zx::kOk) << "the name is free";
}

TEST(CreateLimits_2_1, R18_NoRoomForMoreIsQuotaAndMakesNothing) {
  const auto daemon = TestDaemon::Start(DaemonKind::kThread,
                                        {.flags = {"--buffers-max", "2", "--memory-max", "64KiB"}});
  ASSERT_NE(daemon, nullptr);
  const auto control = GrpcControl(daemon->stub());
  NewBuffer made;
  EXPECT_EQ(control->CreateBuffer(BufferOf({PlainRegion(64 << 10)}), &made), zx::kQuota);
  EXPECT_TRUE(made.ep0.empty());
  ASSERT_EQ(control->CreateBuffer(BufferOf({PlainRegion()}), &made), zx::kOk);
  ASSERT_EQ(control->CreateBuffer(BufferOf({PlainRegion()}), &made), zx::kOk);
  NewBuffer third;
  EXPECT_EQ(control->CreateBuffer(BufferOf({PlainRegion()}), &third), zx::kQuota);
  EXPECT_TRUE(third.ep0.empty());
  EXPECT_EQ(control->CreateBuffer(BufferOf({PlainRegion(kPage, 0)}), &third), zx::kInvalidArgs)
      << "what cannot be is said before what does not fit";
  EXPECT_EQ(daemon->Stop(), "");
}

// --- 3.1 and 3.3: access bits --------------------------------------------------------------------

class AccessBits_3_1 : public CreateContract {};
IOB_OVER_CONTROL_WAYS(AccessBits_3_1);

TEST_P(AccessBits_3_1, TheViewersOwnBitsAreTheLowFour) {
  ASSERT_EQ(Create({PlainRegion(kPage, kEp0Map | kEp1MapRead), RingRegion()}), zx::kOk);
  v1::GetBufferResponse from_ep0;
  v1::GetBufferResponse from_ep1;
  ASSERT_EQ(control().GetBuffer(made_.ep0, &from_ep0), zx::kOk);
  ASSERT_EQ(control().GetBuffer(made_.ep1, &from_ep1), zx::kOk);
  EXPECT_EQ(from_ep0.viewer(), v1::ENDPOINT_ID_EP0);
  EXPECT_EQ(from_ep1.viewer(), v1::ENDPOINT_ID_EP1);
  EXPECT_EQ(from_ep0.buffer().regions(0).access_bits(), 0x13u);
  EXPECT_EQ(from_ep1.buffer().regions(0).access_bits(), 0x31u);
  EXPECT_EQ(from_ep0.buffer().regions(1).access_bits(), 0x83u);
  EXPECT_EQ(from_ep1.buffer().regions(1).access_bits(), 0x38u);
}

// What may be made, of all 256 access bytes (3.3), less what is refused here on purpose
// (map-write without map-read) and with what is allowed here on purpose (private rings).
class Matrix_3_3 : public CreateContract {
 protected:
  static uint32_t OwnBits(uint32_t access, int endpoint) { return access >> (4 * endpoint) & 0xf; }
  static bool MayBe(v1::Discipline discipline, bool shared, uint32_t access) {
    for (const int endpoint : {0, 1}) {
      const uint32_t own = OwnBits(access, endpoint);
      if ((own & kEp0Map) == kEp0MapWrite) return false;
      const uint32_t mediated = own & (kEp0MediatedRead | kEp0MediatedWrite);
      if (discipline == v1::DISCIPLINE_NONE && mediated != 0) return false;
      if (discipline == v1::DISCIPLINE_ID_ALLOCATOR && mediated == kEp0MediatedRead) return false;
    }
    if (shared && discipline != v1::DISCIPLINE_MEDIATED_RING) return false;
    constexpr uint32_t kMapReadsOnly = kEp0MapRead | kEp1MapRead;
    return (access & ~kMapReadsOnly) != 0;
  }
};
IOB_OVER_CONTROL_WAYS(Matrix_3_3);

TEST_P(Matrix_3_3, EveryCombinationIsMadeOrInvalid) {
  const NewRegion shared = MakeShared();
  std::set<bool> seen;
  for (const auto discipline :
       {v1::DISCIPLINE_NONE, v1::DISCIPLINE_ID_ALLOCATOR, v1::DISCIPLINE_MEDIATED_RING}) {
    for (const bool is_shared : {false, true}) {
      for (uint32_t access = 0; access < 256; ++access) {
        v1::RegionSpec region = is_shared ? SharedRegionOf(shared.handle) : PlainRegion(2 * kPage);
        region.set_discipline(discipline);
        region.set_access_bits(access);
        const bool may_be = MayBe(discipline, is_shared, access);
        seen.insert(may_be);
        ASSERT_EQ(Create({region}), may_be ? zx::kOk : zx::kInvalidArgs)
            << region.ShortDebugString();
        if (may_be) {
          ASSERT_EQ(control().DeleteBuffer(made_.koid(), false), zx::kOk);
        }
      }
    }
  }
  EXPECT_THAT(seen, SizeIs(2));
  Close(shared.handle);
}

TEST_P(Matrix_3_3, UnknownDisciplinesAreInvalid) {
  const NewRegion shared = MakeShared();
  for (const int discipline : {0, 7, 42}) {
    for (v1::RegionSpec region : {PlainRegion(2 * kPage), SharedRegionOf(shared.handle)}) {
      region.set_discipline(static_cast<v1::Discipline>(discipline));
      EXPECT_EQ(Create({region}), zx::kInvalidArgs) << region.ShortDebugString();
    }
  }
  Close(shared.handle);
}

TEST_P(Matrix_3_3, RingsOfOursWantOneWhoProducesAndOneWhoConsumes) {
  for (const auto discipline :
       {v1::DISCIPLINE_RESERVE_RING, v1::DISCIPLINE_BROADCAST, v1::DISCIPLINE_SLOT}) {
    for (uint32_t bits = 0; bits < 0x100; ++bits) {
      v1::RegionSpec region = PlainRegion(2 * kPage);
      region.set_discipline(discipline);
      region.set_access_bits(bits);
      const bool roles_are_clear = bits == 0x13 || bits == 0x31;
      if (roles_are_clear) continue;  // Made below: two hundred buffers would be many.
      EXPECT_EQ(Create({region}), zx::kInvalidArgs) << region.ShortDebugString();
    }
    for (const uint32_t bits : {0x13u, 0x31u}) {
      v1::RegionSpec region = PlainRegion(2 * kPage);
      region.set_discipline(discipline);
      region.set_access_bits(bits);
      EXPECT_EQ(Create({region}), zx::kOk) << region.ShortDebugString();
    }
  }
}

// Zircon makes it, and no call can use it.
TEST_P(Matrix_3_3, MapWriteWithoutMapReadIsRefused) {
  for (const uint32_t access : {kEp0MapWrite, kEp1MapWrite, kEp0Map | kEp1MapWrite}) {
    EXPECT_EQ(Create({PlainRegion(kPage, access)}), zx::kInvalidArgs) << access;
  }
}

// In Zircon only a shared region can be a ring.
TEST_P(Matrix_3_3, APrivateRingIsAllowed) {
  EXPECT_EQ(Create({RingRegion()}), zx::kOk);
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, kPage}) {
    EXPECT_EQ(Create({RingRegion(size)}), zx::kInvalidArgs) << "no page for records: " << size;
  }
}

TEST_P(Matrix_3_3, AnIdAllocatorThatOnlyMappersWriteIsMadeAndInitialised) {
  ASSERT_EQ(Create({IdRegion(kPage, kBothMap)}), zx::kOk);
  const auto client = AttachRaw(made_.ep0);
  const auto* const words =
      reinterpret_cast<const uint32_t*>(client->SectionBytes(0, v1::SECTION_KIND_DATA));
  EXPECT_EQ(words[0], 0u);
  EXPECT_EQ(words[1], kPage);
}

}  // namespace
}  // namespace iob::test
