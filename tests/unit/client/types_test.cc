// The nouns of libiob: names for people, values of the wire, and what the helper specs ask for.
#include "client/types.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "client/error.h"
#include "client/event_watch.h"
#include "client/internal/wire_types.h"
#include "iob/v1/types.pb.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

Handle TestHandle(unsigned char fill) {
  Secret secret;
  secret.fill(std::byte{fill});
  return Handle(secret);
}

TEST(Names, OfRights) {
  EXPECT_EQ(ToString(HandleRights(0)), "none");
  EXPECT_EQ(ToString(HandleRights()),
            "duplicate,transfer,read,write,map,get-property,set-property,signal,signal-peer,wait,"
            "inspect");
  EXPECT_EQ(ToString(HandleRights(HandleRights::kSameRights)), "same-rights");
  EXPECT_EQ(ToString(HandleRights(HandleRights::kMap | 1 << 30)), "map,0x40000000");
}

TEST(Names, OfProtsAndSignalsAndObjects) {
  EXPECT_EQ(ToString(Prot{}), "none");
  EXPECT_EQ(ToString(Prot::kRead | Prot::kWrite | Prot::kExecute), "read,write,execute");
  EXPECT_EQ(ToString(static_cast<Prot>(64)), "0x40");
  EXPECT_EQ(SignalsToString(0), "none");
  EXPECT_EQ(SignalsToString(kSignalPeerClosed | UserSignal(0) | UserSignal(7)),
            "peer-closed,user-0,user-7");
  EXPECT_EQ(ToString(ObjectType::kEndpoint), "endpoint");
  EXPECT_EQ(ToString(ObjectType::kSharedRegion), "shared-region");
}

TEST(Names, OfWatchedEventsAreDifferent) {
  std::set<std::string> names;
  for (int kind = 0; kind <= static_cast<int>(WatchedEvent::Kind::kSharedRegionUpdated); ++kind) {
    names.insert(ToString(static_cast<WatchedEvent::Kind>(kind)));
  }
  EXPECT_EQ(names.size(), 10u);
  EXPECT_FALSE(names.contains("unknown"));
}

TEST(Values, AreZircons) {
  EXPECT_EQ(kSignalPeerClosed, 4u);
  uint32_t all = 0;
  for (uint32_t number = 0; number < 8; ++number) all |= UserSignal(number);
  EXPECT_EQ(all, kUserSignals);
  EXPECT_EQ(UserSignal(0), 0x01000000u);
  EXPECT_EQ(UserSignal(8), 0u);
  EXPECT_EQ(HandleRights::kMap, v1::HANDLE_RIGHT_MAP);
  EXPECT_EQ(HandleRights::kInspect, v1::HANDLE_RIGHT_INSPECT);
  uint32_t wire = 0;
  for (int i = 0; i < v1::HandleRight_descriptor()->value_count(); ++i) {
    wire |= static_cast<uint32_t>(v1::HandleRight_descriptor()->value(i)->number());
  }
  EXPECT_EQ(wire, HandleRights::kEndpointDefault);
  EXPECT_EQ(static_cast<int>(ObjectType::kSharedRegion), v1::OBJECT_TYPE_SHARED_REGION);
}

TEST(Reasons, OfTheDaemonAreAllKnown) {
  const google::protobuf::EnumDescriptor* const reasons = v1::ErrorReason_descriptor();
  for (int i = 0; i < reasons->value_count(); ++i) {
    const std::string name = reasons->value(i)->name().substr(sizeof("ERROR_REASON_") - 1);
    if (reasons->value(i)->number() == 0) continue;
    EXPECT_EQ(ReasonOf(WithReason(absl::UnknownError(""), name)), name);
  }
}

TEST(Specs, OfASharedRing) {
  const RegionSpec spec = SharedRingSpec(TestHandle(0x11));
  EXPECT_EQ(spec.type, RegionType::kShared);
  EXPECT_EQ(spec.discipline, Discipline::kMediatedRing);
  EXPECT_EQ(spec.size_bytes, 0u);
  EXPECT_EQ(spec.access, MediatedRingSpec(8192).access);
  v1::RegionSpec wire;
  ASSERT_THAT(ToWire(spec, &wire), IsOk());
  EXPECT_EQ(wire.type(), v1::REGION_TYPE_SHARED);
  EXPECT_EQ(wire.shared_region(), std::string(16, '\x11'));
}

TEST(Specs, OfAnIdAllocator) {
  RegionSpec spec = IdAllocatorSpec(4096);
  EXPECT_EQ(spec.type, RegionType::kPrivate);
  EXPECT_EQ(spec.discipline, Discipline::kIdAllocator);
  EXPECT_FALSE(spec.access.any_map_write());
  EXPECT_TRUE(spec.access.For(EndpointId::kEp0).map_read());
  EXPECT_FALSE(spec.access.For(EndpointId::kEp0).mediated_write());
  EXPECT_TRUE(spec.access.For(EndpointId::kEp1).mediated_write());
  EXPECT_FALSE(spec.access.For(EndpointId::kEp1).may_map());
  spec.interned_blobs_max = 100;
  v1::RegionSpec wire;
  ASSERT_THAT(ToWire(spec, &wire), IsOk());
  EXPECT_EQ(wire.interned_blobs_max(), 100u);
  EXPECT_TRUE(wire.shared_region().empty());
}

// --- Rings: there and back -----------------------------------------------------------------------

// What the daemon would say of a region that was made like this.
RegionInfo InfoOf(const RegionSpec& spec) {
  v1::RegionSpec wire;
  EXPECT_THAT(ToWire(spec, &wire), IsOk());
  v1::BufferInfo buffer;
  v1::RegionInfo& region = *buffer.add_regions();
  region.set_discipline(wire.discipline());
  if (wire.has_mediated_ring()) *region.mutable_mediated_ring() = wire.mediated_ring();
  if (wire.has_reserve_ring()) *region.mutable_reserve_ring() = wire.reserve_ring();
  region.set_slot_value_bytes(wire.slot_value_bytes());
  return FromWire(buffer).regions.front();
}

TEST(Specs, OfRingsWithoutTheBrokerHaveOneProducerAndReaders) {
  const RegionSpec specs[] = {ReserveRingSpec(1 << 20), BroadcastSpec(1 << 20), SlotSpec(4096)};
  for (const RegionSpec& spec : specs) {
    EXPECT_EQ(spec.type, RegionType::kPrivate);
    EXPECT_EQ(spec.access.bits(), 0x31u) << ToString(spec.discipline);
    EXPECT_EQ(spec.access.For(EndpointId::kEp0), RegionRights(RegionRights::kMapRead));
    EXPECT_TRUE(spec.access.For(EndpointId::kEp1).map_write());
  }
  EXPECT_EQ(specs[0].discipline, Discipline::kReserveRing);
  EXPECT_EQ(specs[0].size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(specs[1].discipline, Discipline::kBroadcast);
  EXPECT_EQ(specs[1].size_bytes, uint64_t{1} << 20);
  // Made to measure.
  EXPECT_EQ(specs[2].discipline, Discipline::kSlot);
  EXPECT_EQ(specs[2].size_bytes, 0u);
  EXPECT_EQ(specs[2].slot_value_bytes, 4096u);
}

TEST(Options, OfAMediatedRingComeBack) {
  RegionSpec spec = MediatedRingSpec(8192);
  for (const RingPolicy policy :
       {RingPolicy::kDropNew, RingPolicy::kOverwriteOldest, RingPolicy::kBlock}) {
    // Each flag alone, so that none is taken for another.
    for (int flag = 0; flag < 3; ++flag) {
      spec.mediated_ring = {.policy = policy,
                            .block = 250ms,
                            .gap_records = flag == 0,
                            .stamped = flag == 1,
                            .followers = flag == 2,
                            .writer_records_max = 12,
                            .writer_bytes_max = UINT64_MAX};
      EXPECT_EQ(InfoOf(spec).mediated_ring, spec.mediated_ring);
    }
  }
  EXPECT_EQ(InfoOf(spec).reserve_ring, std::nullopt);
  EXPECT_EQ(InfoOf(spec).slot_value_bytes, std::nullopt);
}

TEST(Options, OfAReserveRingComeBack) {
  for (const bool flag : {false, true}) {
    const ReserveRingOptions options = {.mode = flag ? ReserveMode::kShared : ReserveMode::kLanes,
                                        .lanes = 32,
                                        .granule_bytes = 128,
                                        .consumer_clears = flag,
                                        .stamped = !flag,
                                        .on_stall = flag ? StallPolicy::kKill : StallPolicy::kWait,
                                        .stall = 1s};
    const RegionInfo info = InfoOf(ReserveRingSpec(8192, options));
    EXPECT_EQ(info.reserve_ring, options);
    EXPECT_EQ(info.mediated_ring, std::nullopt);
  }
}

TEST(Options, OfASlotComeBack) {
  EXPECT_EQ(InfoOf(SlotSpec(1000)).slot_value_bytes, 1000u);
  EXPECT_EQ(InfoOf(SlotSpec(0)).slot_value_bytes, 0u);
  EXPECT_EQ(InfoOf(BroadcastSpec(8192)).slot_value_bytes, std::nullopt);
}

TEST(Options, ThatNobodyChoseAreNotSent) {
  v1::RegionSpec wire;
  ASSERT_THAT(ToWire(MediatedRingSpec(8192), &wire), IsOk());
  EXPECT_FALSE(wire.has_mediated_ring());
  EXPECT_FALSE(wire.has_reserve_ring());
  wire.Clear();
  // A mode of its own has no place for what is of the other.
  ASSERT_THAT(ToWire(ReserveRingSpec(8192), &wire), IsOk());
  EXPECT_EQ(wire.reserve_ring().mode(), v1::RESERVE_MODE_LANES);
  EXPECT_EQ(wire.reserve_ring().on_stall(), v1::STALL_POLICY_UNSPECIFIED);
  EXPECT_EQ(wire.reserve_ring().stall_ms(), 0u);
  EXPECT_FALSE(wire.has_mediated_ring());
}

TEST(Options, WithTimesThatCannotBeAreRefused) {
  v1::RegionSpec wire;
  RegionSpec spec = MediatedRingSpec(8192);
  spec.mediated_ring.block = -1ms;
  EXPECT_THAT(ToWire(spec, &wire), StatusIs(StatusCode::kInvalidArgument, "a wait of -1 ms"));
  EXPECT_THAT(ToWire(ReserveRingSpec(8192, {.stall = -2ms}), &wire),
              StatusIs(StatusCode::kInvalidArgument, "a stall of -2 ms"));
  EXPECT_EQ(ReasonOf(ToWire(spec, &wire)), "INVALID_ARGUMENT");
  spec.mediated_ring.block = std::chrono::milliseconds::max();
  ASSERT_THAT(ToWire(spec, &wire), IsOk());
  EXPECT_EQ(wire.mediated_ring().block_ms(), UINT32_MAX);
}

TEST(Options, ThatThisVersionDoesNotKnowStayInRange) {
  v1::BufferInfo buffer;
  v1::RegionInfo& region = *buffer.add_regions();
  region.mutable_mediated_ring()->set_policy(static_cast<v1::RingPolicy>(99));
  region.mutable_reserve_ring()->set_mode(static_cast<v1::ReserveMode>(99));
  region.mutable_reserve_ring()->set_on_stall(static_cast<v1::StallPolicy>(-1));
  const RegionInfo info = FromWire(buffer).regions.front();
  EXPECT_EQ(info.mediated_ring, MediatedRingOptions());
  EXPECT_EQ(info.reserve_ring, ReserveRingOptions());
}

TEST(Options, HaveNames) {
  EXPECT_EQ(ToString(RingPolicy::kDropNew), "drop-new");
  EXPECT_EQ(ToString(RingPolicy::kOverwriteOldest), "overwrite");
  EXPECT_EQ(ToString(RingPolicy::kBlock), "block");
  EXPECT_EQ(ToString(ReserveMode::kLanes), "lanes");
  EXPECT_EQ(ToString(ReserveMode::kShared), "shared");
  EXPECT_EQ(ToString(StallPolicy::kWait), "wait");
  EXPECT_EQ(ToString(StallPolicy::kKill), "kill");
}

TEST(Stats, SayWhoCountedAndWhoDiscarded) {
  v1::GetStatsResponse wire;
  wire.set_buffer_koid(7);
  v1::RingStats& ring = *wire.add_rings();
  ring.set_discipline(v1::DISCIPLINE_RESERVE_RING);
  ring.set_claimed(true);
  ring.set_overwritten_bytes(640);
  ring.add_writers()->set_seat(3);
  ring.mutable_writers(0)->set_discarded_records(11);
  // As a daemon that has mediated rings only.
  wire.add_rings();
  const BufferStats stats = FromWire(wire);
  EXPECT_EQ(stats.buffer_koid, 7u);
  ASSERT_EQ(stats.rings.size(), 2u);
  EXPECT_EQ(stats.rings[0].discipline, Discipline::kReserveRing);
  EXPECT_TRUE(stats.rings[0].claimed);
  EXPECT_EQ(stats.rings[0].overwritten_bytes, 640u);
  EXPECT_EQ(stats.rings[0].writers[0].seat, 3u);
  EXPECT_EQ(stats.rings[0].writers[0].discarded_records, 11u);
  EXPECT_EQ(stats.rings[1].discipline, Discipline::kMediatedRing);
  EXPECT_FALSE(stats.rings[1].claimed);
}

TEST(Leases, FitTheirField) {
  EXPECT_EQ(LeaseToWire(0ms).value(), 0u);
  EXPECT_EQ(LeaseToWire(24h).value(), 86'400'000u);
  EXPECT_EQ(LeaseToWire(std::chrono::milliseconds::max()).value(), UINT32_MAX);
  const absl::Status refused = LeaseToWire(-1ms).status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument));
  EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
}

TEST(Replies, WithValuesOutOfRangeStayInRange) {
  v1::HandleInfo handle;
  handle.set_type(static_cast<v1::ObjectType>(99));
  EXPECT_EQ(FromWire(handle).type, ObjectType::kEndpoint);
  v1::SharedRegionInfo region;
  for (const int64_t seconds : {INT64_MAX, INT64_MIN}) {
    region.mutable_create_time()->set_seconds(seconds);
    region.mutable_create_time()->set_nanos(INT32_MAX);
    EXPECT_EQ(FromWire(region).create_time, std::chrono::system_clock::time_point());
  }
  v1::WatchEventsResponse event;
  event.set_endpoint(static_cast<v1::EndpointId>(77));
  event.mutable_closed()->mutable_reason()->set_kind(static_cast<v1::CloseKind>(-5));
  EXPECT_EQ(FromWire(event)->reason.kind, CloseKind::kDied);
  EXPECT_FALSE(FromWire(v1::WatchEventsResponse()).has_value());
}

}  // namespace
}  // namespace iob::test
