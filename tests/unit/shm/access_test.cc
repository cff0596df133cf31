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

// ZX_RIGHT_DUPLICATE .. ZX_RIGHT_INSPECT, ZX_RIGHT_SAME_RIGHTS, and the defaults of both objects.
static_assert(HandleRights::kDuplicate == 0x0001);
static_assert(HandleRights::kTransfer == 0x0002);
static_assert(HandleRights::kRead == 0x0004);
static_assert(HandleRights::kWrite == 0x0008);
static_assert(HandleRights::kMap == 0x0020);
static_assert(HandleRights::kGetProperty == 0x0040);
static_assert(HandleRights::kSetProperty == 0x0080);
static_assert(HandleRights::kSignal == 0x1000);
static_assert(HandleRights::kSignalPeer == 0x2000);
static_assert(HandleRights::kWait == 0x4000);
static_assert(HandleRights::kInspect == 0x8000);
static_assert(HandleRights::kSameRights == 0x8000'0000);
static_assert(HandleRights::kEndpointDefault == 0xf0ef);
static_assert(HandleRights::kSharedRegionDefault == 0xd0c3);
// What nobody asked for is what a new endpoint has.
static_assert(HandleRights() == HandleRights(HandleRights::kEndpointDefault));

TEST(Access, HandlesHaveTheRightsTheyWereGivenAndNoOthers) {
  for (int bit = 0; bit < 32; ++bit) {
    const HandleRights rights(1u << bit);
    EXPECT_EQ(rights.bits(), 1u << bit);
    EXPECT_EQ(rights.read(), rights.Has(HandleRights::kRead));
    EXPECT_EQ(rights.write(), rights.Has(HandleRights::kWrite));
    EXPECT_EQ(rights.map(), rights.Has(HandleRights::kMap));
    for (int other = 0; other < 32; ++other) EXPECT_EQ(rights.Has(1u << other), bit == other);
  }
  const HandleRights both(HandleRights::kRead | HandleRights::kWait);
  EXPECT_TRUE(both.Has(HandleRights::kRead | HandleRights::kWait));
  EXPECT_FALSE(both.Has(HandleRights::kRead | HandleRights::kWrite)) << "all of them, not any";
}

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
      const bool read = (handle & 1) != 0;
      const bool write = (handle & 2) != 0;
      const bool map = (handle & 4) != 0;
      const HandleRights rights((read ? HandleRights::kRead : 0) |
                                (write ? HandleRights::kWrite : 0) |
                                (map ? HandleRights::kMap : 0));
      for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
        const RegionRights region = AccessBits(bits).For(endpoint);
        const RegionRights effective = EffectiveRights(region, rights);
        EXPECT_EQ(effective.map_read(), region.map_read() && map && read);
        EXPECT_EQ(effective.map_write(), region.map_write() && map && read && write);
        EXPECT_EQ(effective.mediated_read(), region.mediated_read() && read);
        EXPECT_EQ(effective.mediated_write(), region.mediated_write() && write);
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
