// Access bits and rights: every one of the 256 patterns, for both endpoints and all handles.
#include "shm/access.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace iob::shm {
namespace {

static_assert(PeerOf(EndpointId::kEp0) == EndpointId::kEp1);
static_assert(PeerOf(EndpointId::kEp1) == EndpointId::kEp0);
// ZX_IOB_ACCESS_EP0_CAN_MAP_READ .. ZX_IOB_ACCESS_EP1_CAN_MEDIATED_WRITE.
static_assert(AccessBits(1).For(EndpointId::kEp0).map_read());
static_assert(AccessBits(2).For(EndpointId::kEp0).map_write());
static_assert(AccessBits(4).For(EndpointId::kEp0).mediated_read());
static_assert(AccessBits(8).For(EndpointId::kEp0).mediated_write());
static_assert(AccessBits(16).For(EndpointId::kEp1).map_read());
static_assert(AccessBits(32).For(EndpointId::kEp1).map_write());
static_assert(AccessBits(64).For(EndpointId::kEp1).mediated_read());
static_assert(AccessBits(128).For(EndpointId::kEp1).mediated_write());
static_assert(AccessBits(0xff).valid() && !AccessBits(0x100).valid());
static_assert(!AccessBits(0x8000'0000).valid());

TEST(Access, SwapsTheEndpointsInEveryPattern) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const AccessBits access(bits);
    const AccessBits swapped = access.SeenFrom(EndpointId::kEp1);
    EXPECT_EQ(access.SeenFrom(EndpointId::kEp0), access);
    EXPECT_EQ(swapped.SeenFrom(EndpointId::kEp1), access);
    EXPECT_EQ(swapped.For(EndpointId::kEp0), access.For(EndpointId::kEp1));
    EXPECT_EQ(swapped.For(EndpointId::kEp1), access.For(EndpointId::kEp0));
    for (int bit = 0; bit < 8; ++bit) {
      EXPECT_EQ(swapped.bits() >> bit & 1, bits >> (bit + 4) % 8 & 1) << bits;
    }
  }
}

TEST(Access, GivesAnEndpointExactlyWhatRegionAndHandleBothAllow) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    for (uint32_t handle = 0; handle < 8; ++handle) {
      const HandleRights rights{
          .read = (handle & 1) != 0, .write = (handle & 2) != 0, .map = (handle & 4) != 0};
      for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
        const RegionRights region = AccessBits(bits).For(endpoint);
        const RegionRights effective = EffectiveRights(region, rights);
        EXPECT_EQ(effective.map_read(), region.map_read() && rights.map && rights.read);
        EXPECT_EQ(effective.map_write(), region.map_write() && rights.map && rights.write);
        EXPECT_EQ(effective.mediated_read(), region.mediated_read() && rights.read);
        EXPECT_EQ(effective.mediated_write(), region.mediated_write() && rights.write);
        EXPECT_EQ(effective.bits() & ~region.bits(), 0u) << "never more than the region has";
        EXPECT_EQ(effective.may_map(), effective.map_read() || effective.map_write());
      }
    }
  }
}

TEST(Access, KnowsWhatARegionIsGoodFor) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const AccessBits access(bits);
    const RegionRights ep0 = access.For(EndpointId::kEp0);
    const RegionRights ep1 = access.For(EndpointId::kEp1);
    const bool mediated =
        ep0.mediated_read() || ep0.mediated_write() || ep1.mediated_read() || ep1.mediated_write();
    const bool map_write = ep0.map_write() || ep1.map_write();
    EXPECT_EQ(access.any_mediated(), mediated);
    EXPECT_EQ(access.any_map_write(), map_write);
    EXPECT_EQ(access.useful(), mediated || map_write) << bits;
  }
}

TEST(Access, IgnoresBitsThatAreNotRights) {
  EXPECT_EQ(RegionRights(0xfffffff0).bits(), 0u);
  EXPECT_EQ(AccessBits(0xf0).For(EndpointId::kEp0).bits(), 0u);
  EXPECT_EQ(AccessBits(0xf00).For(EndpointId::kEp1).bits(), 0u);
}

}  // namespace
}  // namespace iob::shm
