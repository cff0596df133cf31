// What an attachment gets of a direct ring, as an honest broker hands it out for every mode and
// role, and with one lie each: sections that are missing, of the wrong kind, size or mode, seats
// that cannot be, options that make no ring.
#include "client/internal/direct_grant.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "client/error.h"
#include "iob/v1/attach.pb.h"
#include "shm/mapping.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using absl::StatusCode;

constexpr RegionRights kProducer(RegionRights::kMapRead | RegionRights::kMapWrite);
constexpr RegionRights kConsumer(RegionRights::kMapRead);
constexpr uint32_t kLanes = 2;

struct Offer {
  v1::RegionGrant claimed;
  RegionRights rights = RegionRights(0);
  std::vector<ConfirmedSection> sections;

  void Add(v1::SectionKind kind, uint64_t size_bytes, bool writable, uint32_t lane = 0) {
    sections.push_back(
        {.kind = kind, .lane = lane, .writable = writable, .memfd = MakeMemfd(size_bytes)});
  }
  absl::StatusOr<DirectGrant> Make() && {
    return MakeDirectGrant(claimed, rights, std::move(sections));
  }
};

Offer Begin(v1::Discipline discipline, RegionRights rights) {
  Offer offer;
  offer.rights = rights;
  offer.claimed.set_discipline(discipline);
  offer.claimed.set_size_bytes(4 * shm::PageBytes());
  return offer;
}

Offer LanesOffer(RegionRights rights) {
  Offer offer = Begin(v1::DISCIPLINE_RESERVE_RING, rights);
  v1::ReserveRingOptions& options = *offer.claimed.mutable_reserve_ring();
  options.set_mode(v1::RESERVE_MODE_LANES);
  options.set_lanes(kLanes);
  const bool produces = rights.map_write();
  if (produces) {
    offer.claimed.set_seat(1);
    offer.claimed.mutable_lane_start()->set_position(64);
  }
  for (uint32_t lane = produces ? 1 : 0; lane < kLanes; ++lane) {
    offer.Add(v1::SECTION_KIND_LANE, 3 * shm::PageBytes(), produces, lane);
    offer.Add(v1::SECTION_KIND_LANE_CONTROL, shm::PageBytes(), !produces, lane);
  }
  return offer;
}

Offer SharedOffer(RegionRights rights) {
  Offer offer = Begin(v1::DISCIPLINE_RESERVE_RING, rights);
  v1::ReserveRingOptions& options = *offer.claimed.mutable_reserve_ring();
  options.set_mode(v1::RESERVE_MODE_SHARED);
  options.set_granule_bytes(64);
  options.set_on_stall(v1::STALL_POLICY_KILL);
  options.set_stall_ms(20);
  const bool produces = rights.map_write();
  if (produces) offer.claimed.set_seat(63);
  const shm::SharedLayout layout = shm::SharedLayout::ForSize(4 * shm::PageBytes(), 64).value();
  offer.Add(v1::SECTION_KIND_RESERVE_CONTROL, layout.ctl_section_bytes(), produces);
  offer.Add(v1::SECTION_KIND_DATA, layout.data_section_bytes(), produces);
  offer.Add(v1::SECTION_KIND_CONSUMER, layout.cons_section_bytes(), !produces);
  return offer;
}

Offer LatestOffer(v1::Discipline discipline, RegionRights rights) {
  Offer offer = Begin(discipline, rights);
  if (rights.map_write()) offer.claimed.set_seat(0);
  if (discipline == v1::DISCIPLINE_SLOT) offer.claimed.set_slot_value_bytes(1000);
  offer.Add(v1::SECTION_KIND_DATA, 4 * shm::PageBytes(), rights.map_write());
  offer.Add(v1::SECTION_KIND_FOLLOW, shm::PageBytes(), true);
  return offer;
}

TEST(DirectGrant, TakesWhatAnHonestBrokerOffers) {
  ASSERT_OK_AND_ASSIGN(const DirectGrant lane, LanesOffer(kProducer).Make());
  EXPECT_EQ(lane.seat, 1u);
  EXPECT_EQ(lane.lane_start.position, 64u);
  ASSERT_EQ(lane.lanes.size(), 1u);
  EXPECT_EQ(lane.lanes[0].lane, 1u);
  ASSERT_OK_AND_ASSIGN(const DirectGrant lanes, LanesOffer(kConsumer).Make());
  EXPECT_EQ(lanes.seat, std::nullopt);
  ASSERT_EQ(lanes.lanes.size(), kLanes);
  EXPECT_EQ(lanes.lanes[1].data.size_bytes(), 3 * shm::PageBytes());

  ASSERT_OK_AND_ASSIGN(const DirectGrant owner, SharedOffer(kProducer).Make());
  EXPECT_EQ(owner.seat, 63u);
  ASSERT_OK_AND_ASSIGN(const DirectGrant shared, SharedOffer(kConsumer).Make());
  EXPECT_TRUE(shared.shared.has_value());
  EXPECT_EQ(shared.reserve.on_stall, StallPolicy::kKill);
  EXPECT_EQ(shared.reserve.stall, std::chrono::milliseconds(20));

  for (const auto discipline : {v1::DISCIPLINE_BROADCAST, v1::DISCIPLINE_SLOT}) {
    EXPECT_TRUE(LatestOffer(discipline, kProducer).Make().value().seat.has_value());
    EXPECT_TRUE(LatestOffer(discipline, kConsumer).Make().value().mapped());
  }
}

TEST(DirectGrant, HasNoMemoryWithoutAMapRight) {
  Offer offer = LanesOffer(kConsumer);
  offer.rights = RegionRights(0);
  offer.sections.clear();
  ASSERT_OK_AND_ASSIGN(const DirectGrant grant, std::move(offer).Make());
  EXPECT_FALSE(grant.mapped());
}

TEST(DirectGrant, ConsumerThatClearsMayWriteTheLanes) {
  Offer offer = LanesOffer(kConsumer);
  offer.claimed.mutable_reserve_ring()->set_consumer_clears(true);
  offer.sections[0].writable = offer.sections[2].writable = true;
  EXPECT_THAT(std::move(offer).Make(), IsOk());
}

TEST(DirectGrant, RefusesASectionThatItsWriterCouldNotMap) {
  Offer offer = LatestOffer(v1::DISCIPLINE_SLOT, kConsumer);
  ASSERT_EQ(::fcntl(offer.sections[0].memfd.fd(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  const auto grant = std::move(offer).Make();
  EXPECT_THAT(grant, StatusIs(StatusCode::kDataLoss, "sealed"));
  EXPECT_EQ(ReasonOf(grant.status()), "INTEGRITY");
}

// One lie in an otherwise honest offer.
struct Lie {
  std::string name;
  std::function<Offer()> honest;
  std::function<void(Offer&)> tell;
};

std::vector<Lie> Lies() {
  const auto lanes_in = [] { return LanesOffer(kProducer); };
  const auto lanes_out = [] { return LanesOffer(kConsumer); };
  const auto shared_in = [] { return SharedOffer(kProducer); };
  const auto shared_out = [] { return SharedOffer(kConsumer); };
  const auto slot_in = [] { return LatestOffer(v1::DISCIPLINE_SLOT, kProducer); };
  const auto slot_out = [] { return LatestOffer(v1::DISCIPLINE_SLOT, kConsumer); };
  const auto options = [](Offer& offer) { return offer.claimed.mutable_reserve_ring(); };
  return {
      {"ALaneIsMissing", lanes_out, [](Offer& offer) { offer.sections.pop_back(); }},
      {"ALaneComesTwice", lanes_out, [](Offer& offer) { offer.sections[2].lane = 0; }},
      {"SectionsAreSwapped", lanes_out,
       [](Offer& offer) { std::swap(offer.sections[0], offer.sections[1]); }},
      {"AnotherProducersLane", lanes_in, [](Offer& offer) { offer.sections[0].lane = 0; }},
      {"ASectionTooMany", slot_out,
       [](Offer& offer) { offer.Add(v1::SECTION_KIND_DATA, shm::PageBytes(), false); }},
      {"NoSections", slot_out, [](Offer& offer) { offer.sections.clear(); }},
      {"LanesThatTheConsumerMayWrite", lanes_out,
       [](Offer& offer) { offer.sections[0].writable = true; }},
      {"AControlThatTheConsumerMayNotWrite", lanes_out,
       [](Offer& offer) { offer.sections[1].writable = false; }},
      {"ALaneThatIsTooShort", lanes_out,
       [](Offer& offer) { offer.sections[0].memfd = MakeMemfd(2 * shm::PageBytes()); }},
      {"SharedDataTooShort", shared_in,
       [](Offer& offer) { offer.sections[1].memfd = MakeMemfd(shm::PageBytes()); }},
      {"AConsumerPageThatAProducerMayWrite", shared_in,
       [](Offer& offer) { offer.sections[2].writable = true; }},
      {"AnotherKind", shared_out,
       [](Offer& offer) { offer.sections[0].kind = v1::SECTION_KIND_LANE; }},
      {"SlotSectionTooShort", slot_out,
       [](Offer& offer) { offer.sections[0].memfd = MakeMemfd(shm::PageBytes()); }},
      {"NoSeatForAProducer", lanes_in, [](Offer& offer) { offer.claimed.clear_seat(); }},
      {"ASeatForAConsumer", lanes_out, [](Offer& offer) { offer.claimed.set_seat(0); }},
      {"ASeatBeyondTheLanes", lanes_in, [](Offer& offer) { offer.claimed.set_seat(kLanes); }},
      {"TheBrokersOwnSeat", shared_in, [](Offer& offer) { offer.claimed.set_seat(0); }},
      {"ASeatBeyondTheOwners", shared_in, [](Offer& offer) { offer.claimed.set_seat(64); }},
      {"ASecondWritersSeat", slot_in, [](Offer& offer) { offer.claimed.set_seat(1); }},
      {"AStartThatNoLaneReaches", lanes_in,
       [](Offer& offer) { offer.claimed.mutable_lane_start()->set_position(UINT64_MAX); }},
      {"MoreDiscardsThanNumbers", lanes_in,
       [](Offer& offer) { offer.claimed.mutable_lane_start()->set_discards(1); }},
      {"NoMode", lanes_out,
       [options](Offer& offer) { options(offer)->set_mode(v1::RESERVE_MODE_UNSPECIFIED); }},
      {"NoLanes", lanes_out, [options](Offer& offer) { options(offer)->set_lanes(0); }},
      {"TooManyLanes", lanes_out, [options](Offer& offer) { options(offer)->set_lanes(33); }},
      {"MoreLanesThanPages", lanes_out, [options](Offer& offer) { options(offer)->set_lanes(5); }},
      {"GranulesOfNothing", shared_out,
       [options](Offer& offer) { options(offer)->set_granule_bytes(0); }},
      {"AStallTimeOfNothing", shared_out,
       [options](Offer& offer) { options(offer)->set_stall_ms(0); }},
      {"SharedRingOfAnOddSize", shared_out,
       [](Offer& offer) { offer.claimed.set_size_bytes(3 * shm::PageBytes()); }},
      {"ValuesOfNothing", slot_out, [](Offer& offer) { offer.claimed.set_slot_value_bytes(0); }},
      {"ValuesLongerThanTheirCells", slot_out,
       [](Offer& offer) { offer.claimed.set_slot_value_bytes(shm::PageBytes()); }},
  };
}

class LyingOffer : public ::testing::TestWithParam<Lie> {};
INSTANTIATE_TEST_SUITE_P(All, LyingOffer, ::testing::ValuesIn(Lies()),
                         [](const auto& lie) { return lie.param.name; });

TEST_P(LyingOffer, IsNotBelieved) {
  ASSERT_THAT(GetParam().honest().Make(), IsOk());
  Offer offer = GetParam().honest();
  GetParam().tell(offer);
  const auto grant = std::move(offer).Make();
  EXPECT_THAT(grant, StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(ReasonOf(grant.status()), "PROTOCOL") << grant.status();
}

}  // namespace
}  // namespace iob::test
