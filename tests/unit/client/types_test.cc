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
  ToWire(spec, &wire);
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
  ToWire(spec, &wire);
  EXPECT_EQ(wire.interned_blobs_max(), 100u);
  EXPECT_TRUE(wire.shared_region().empty());
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
