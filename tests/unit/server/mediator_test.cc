// The mediator: the order of its checks, batches that wait, and books in which every record appears
// exactly once.

#include "server/mediator.h"

#include <gmock/gmock.h>

#include <numeric>

#include "shm/mapping.h"
#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using shm::LossCause;
using test::IsOk;
using test::StatusIs;

constexpr uint64_t kCapacity = 4096;

class MediatorTest : public RegistryHarness {
 protected:
  void SetUp() override {
    RegionSpec both = RingSpec();
    both.access = shm::AccessBits(0x8b);
    made_ = TryMake("", {RingSpec(), PlainSpec(), both}, alice_).value();
    target_ = Mediator::Resolve(HeldBy(kEp1), 0).value();
    head_page_.emplace(shm::Mapping::Map(ring().writer.head_memfd()).value());
  }

  HeldEndpoint HeldBy(shm::EndpointId endpoint, shm::HandleRights rights = {}) {
    return {.buffer = made_.buffer, .endpoint = endpoint, .rights = rights};
  }
  Region& region() { return made_.buffer->regions()[0]; }
  MediatedRing& ring() { return *region().ring(); }
  void SetTail(uint64_t tail) { head_page_->Word<uint64_t>(shm::kTailOffset).StoreRelease(tail); }
  uint32_t WantedRoom() {
    const auto data = shm::ReadOnlyMapping::Map(ring().writer.data_memfd()).value();
    return data.Word<uint32_t>(kCapacity + shm::kLedgerWantRoom).LoadAcquire().ForHintOnly();
  }
  static Mediator::Records RecordsOf(const std::vector<size_t>& sizes) {
    Mediator::Records records;
    for (const size_t size : sizes) records.Add(std::string(size, 'r'));
    return records;
  }
  static uint32_t Lost(const Mediator::Progress& progress) {
    return std::accumulate(progress.lost.begin(), progress.lost.end(), 0u,
                           [](uint32_t sum, const auto& loss) { return sum + loss.count; });
  }
  void ExpectBalanced() {
    const auto check = [](const shm::Ledger& ledger) {
      EXPECT_EQ(ledger.attempted_records,
                std::accumulate(ledger.rejected_records.begin(), ledger.rejected_records.end(),
                                ledger.stored_records));
      EXPECT_EQ(ledger.attempted_bytes,
                std::accumulate(ledger.rejected_bytes.begin(), ledger.rejected_bytes.end(),
                                ledger.stored_bytes));
    };
    check(ring().ledger);
    uint64_t by_writers = 0;
    for (const shm::EndpointId writer : {kEp0, kEp1}) {
      check(region().ledger_of(writer));
      by_writers += region().ledger_of(writer).attempted_records;
    }
    EXPECT_EQ(ring().ledger.attempted_records, by_writers);
  }
  uint64_t RejectedFor(LossCause cause) {
    return ring().ledger.rejected_records[static_cast<size_t>(cause)];
  }

  CreatedBuffer made_;
  Mediator::Target target_;
  std::optional<shm::Mapping> head_page_;
  std::vector<uint32_t> readable_;
  std::vector<Koid> updated_;
  Mediator mediator_{
      [this](const Buffer&, uint32_t region_index) { readable_.push_back(region_index); },
      [this](Koid shared_region) { updated_.push_back(shared_region); }};
};

TEST_F(MediatorTest, ChecksHandleThenRegionThenDisciplineThenRight) {
  const auto resolve = [this](shm::EndpointId writer, uint32_t region_index,
                              shm::HandleRights rights = {}) {
    return Mediator::Resolve(HeldBy(writer, rights), region_index);
  };
  const shm::HandleRights no_write(shm::HandleRights::kEndpointDefault &
                                   ~shm::HandleRights::kWrite);
  // No such region either: the handle is looked at first.
  EXPECT_THAT(resolve(kEp0, 3, no_write),
              StatusIs(absl::StatusCode::kPermissionDenied, "the handle has no right WRITE"));
  EXPECT_THAT(resolve(kEp1, 0, no_write),
              StatusIs(absl::StatusCode::kPermissionDenied, "the handle has no right WRITE"));
  EXPECT_THAT(resolve(kEp0, 3),
              StatusIs(absl::StatusCode::kOutOfRange, "region_index: 3, the buffer has 3"));
  EXPECT_THAT(resolve(kEp0, UINT32_MAX), StatusIs(absl::StatusCode::kOutOfRange));
  // ep0 has no right to write region 1 either: the discipline is looked at first.
  EXPECT_THAT(resolve(kEp0, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, "region 1 is DISCIPLINE_NONE"));
  EXPECT_EQ(ReasonOf(resolve(kEp0, 1).status()), v1::ERROR_REASON_WRONG_DISCIPLINE);
  EXPECT_THAT(resolve(kEp0, 0),
              StatusIs(absl::StatusCode::kPermissionDenied, "ep0 has no mediated-write right"));
  EXPECT_THAT(resolve(kEp1, 0, shm::HandleRights(shm::HandleRights::kWrite)), IsOk());
  EXPECT_THAT(resolve(kEp1, 0), IsOk());
  EXPECT_EQ(resolve(kEp1, 0)->tag, made_.buffer->endpoint(kEp1).koid);
}

TEST_F(MediatorTest, OneRecordOfPartsHasLimits) {
  EXPECT_THAT(mediator_.Write(target_, RecordsOf(std::vector<size_t>(9, 1))),
              StatusIs(absl::StatusCode::kInvalidArgument, "parts: 9, at most 8"));
  EXPECT_THAT(mediator_.Write(target_, RecordsOf({65519, 1})),
              StatusIs(absl::StatusCode::kInvalidArgument, "65520 bytes, at most 65519"));
  // Within the record limit, beyond this ring.
  const absl::Status too_long = mediator_.Write(target_, RecordsOf({65519}));
  EXPECT_THAT(too_long, StatusIs(absl::StatusCode::kResourceExhausted, "never fits"));
  EXPECT_THAT(mediator_.Write(target_, RecordsOf(std::vector<size_t>(8, 10))), IsOk());
  EXPECT_THAT(mediator_.Write(target_, {}), IsOk());
  EXPECT_EQ(ring().ledger.stored_records, 2u);
  EXPECT_EQ(ring().ledger.stored_bytes, 80u);
  EXPECT_EQ(RejectedFor(LossCause::kTooLarge), 2u);
  ExpectBalanced();
}

TEST_F(MediatorTest, RoomIsLookedAtBeforeTheTail) {
  ASSERT_THAT(mediator_.Write(target_, RecordsOf({4000})), IsOk());
  EXPECT_EQ(ReasonOf(mediator_.Write(target_, RecordsOf({4000}))), v1::ERROR_REASON_RING_FULL);
  SetTail(5);
  EXPECT_EQ(ReasonOf(mediator_.Write(target_, RecordsOf({4000}))), v1::ERROR_REASON_INTEGRITY);
  EXPECT_EQ(ReasonOf(mediator_.Write(target_, RecordsOf({5000}))), v1::ERROR_REASON_RING_FULL);
  ExpectBalanced();
}

TEST_F(MediatorTest, ABatchThatMayNotWaitIsDecidedAtOnce) {
  const Mediator::Records records = RecordsOf({2000, 2000, 65520, 2000, 8});
  Mediator::Progress progress;
  EXPECT_TRUE(mediator_.Continue(target_, records, /*may_wait=*/false, progress));
  EXPECT_EQ(progress.stored, 3u);
  ASSERT_EQ(progress.lost.size(), 2u);
  EXPECT_EQ(progress.lost[0].first_index, 2u);
  EXPECT_EQ(progress.lost[0].cause, LossCause::kTooLarge);
  EXPECT_EQ(progress.lost[1].first_index, 3u);
  EXPECT_EQ(progress.lost[1].cause, LossCause::kFull);
  ExpectBalanced();
}

TEST_F(MediatorTest, ABatchThatWaitsGoesOnWhereItStopped) {
  const Mediator::Records records = RecordsOf({4000, 100, 100, 3000});
  Mediator::Progress progress;
  EXPECT_FALSE(mediator_.Continue(target_, records, /*may_wait=*/true, progress));
  EXPECT_EQ(progress.next, 1);
  EXPECT_EQ(progress.stored, 1u);
  EXPECT_EQ(WantedRoom(), 120u);
  // What waits is not counted yet.
  EXPECT_EQ(ring().ledger.attempted_records, 1u);
  EXPECT_FALSE(mediator_.Continue(target_, records, true, progress));
  EXPECT_EQ(progress.next, 1);
  SetTail(4016);
  EXPECT_TRUE(mediator_.Continue(target_, records, true, progress));
  EXPECT_EQ(progress.stored, 4u);
  EXPECT_TRUE(progress.lost.empty());
  // Others may wait as well; who knows says when nobody does.
  Mediator::EndWant(ring());
  EXPECT_EQ(WantedRoom(), 0u);
  ExpectBalanced();
}

TEST_F(MediatorTest, GivingUpAccountsForEveryRecordThatIsLeft) {
  const Mediator::Records records = RecordsOf({4000, 100, 20, 30});
  Mediator::Progress progress;
  ASSERT_FALSE(mediator_.Continue(target_, records, true, progress));
  mediator_.GiveUp(target_, records, LossCause::kDeadline, progress);
  EXPECT_EQ(progress.stored + Lost(progress), 4u);
  ASSERT_EQ(progress.lost.size(), 1u);
  EXPECT_EQ(progress.lost[0].first_index, 1u);
  EXPECT_EQ(progress.lost[0].count, 3u);
  EXPECT_EQ(RejectedFor(LossCause::kDeadline), 3u);
  EXPECT_EQ(ring().ledger.rejected_bytes[static_cast<size_t>(LossCause::kDeadline)], 150u);
  ExpectBalanced();
}

TEST_F(MediatorTest, GivingUpFromTheStartLosesAll) {
  const Mediator::Records records = RecordsOf({1, 2, 3});
  Mediator::Progress progress;
  mediator_.GiveUp(target_, records, LossCause::kClosed, progress);
  EXPECT_EQ(progress.stored, 0u);
  EXPECT_EQ(Lost(progress), 3u);
  EXPECT_EQ(RejectedFor(LossCause::kClosed), 3u);
  ExpectBalanced();
}

TEST_F(MediatorTest, LossesAreToldAsRuns) {
  Mediator::Progress progress;
  progress.Lose(0, LossCause::kFull);
  progress.Lose(1, LossCause::kFull);
  progress.Lose(2, LossCause::kTooLarge);
  progress.Lose(4, LossCause::kTooLarge);
  ASSERT_EQ(progress.lost.size(), 3u);
  EXPECT_EQ(progress.lost[0].count, 2u);
  EXPECT_EQ(progress.lost[1].count, 1u);
  EXPECT_EQ(progress.lost[2].first_index, 4u);
}

TEST_F(MediatorTest, TheReaderIsToldWhenItAskedForAPacket) {
  ASSERT_THAT(mediator_.Write(target_, RecordsOf({1})), IsOk());
  EXPECT_TRUE(readable_.empty());
  head_page_->Word<uint32_t>(shm::kWaitingOffset).StoreRelease(shm::kWaitingOnSocket);
  ASSERT_THAT(mediator_.Write(target_, RecordsOf({1})), IsOk());
  EXPECT_EQ(readable_, std::vector<uint32_t>{0});
}

TEST_F(MediatorTest, EachWriterHasBooksOfItsOwn) {
  const Region& both = made_.buffer->regions()[2];
  for (const shm::EndpointId writer : {kEp0, kEp1}) {
    const Mediator::Target target = Mediator::Resolve(HeldBy(writer), 2).value();
    ASSERT_THAT(mediator_.Write(target, RecordsOf({writer == kEp0 ? 10u : 20u})), IsOk());
  }
  EXPECT_EQ(both.ledger_of(kEp0).stored_bytes, 10u);
  EXPECT_EQ(both.ledger_of(kEp1).stored_bytes, 20u);
  EXPECT_EQ(both.ring()->ledger.stored_bytes, 30u);
}

TEST_F(MediatorTest, ASharedRingCountsForAllAndForEachBuffer) {
  const CreatedSharedRegion shared = MakeRegion();
  const CreatedBuffer users[] = {TryMake("", {SharedSpec(shared.handle)}, alice_).value(),
                                 TryMake("", {SharedSpec(shared.handle)}, alice_).value()};
  for (const CreatedBuffer& user : users) {
    const HeldEndpoint held{.buffer = user.buffer, .endpoint = kEp1, .rights = {}};
    const Mediator::Target target = Mediator::Resolve(held, 0).value();
    EXPECT_EQ(target.tag, user.buffer->endpoint(kEp1).koid);
    EXPECT_EQ(target.ring, shared.region->ring());
    ASSERT_THAT(mediator_.Write(target, RecordsOf({10})), IsOk());
    EXPECT_EQ(ReasonOf(mediator_.Write(target, RecordsOf({4090}))), v1::ERROR_REASON_RING_FULL);
    EXPECT_EQ(target.region->ledger_of(kEp1).stored_bytes, 10u);
    EXPECT_EQ(target.region->ledger_of(kEp1).attempted_bytes, 4100u);
  }
  EXPECT_EQ(shared.region->ring()->ledger.stored_bytes, 20u);
  EXPECT_EQ(shared.region->ring()->ledger.attempted_bytes, 8200u);
  // Watchers of the region hear of each write that stored something; a private ring has none.
  EXPECT_EQ(updated_, std::vector<Koid>(2, shared.region->koid()));
  updated_.clear();
  ASSERT_THAT(mediator_.Write(target_, RecordsOf({10})), IsOk());
  EXPECT_TRUE(updated_.empty());
}

TEST_F(MediatorTest, ABatchUpdatesASharedRingWheneverItShowsMoreOfIt) {
  const CreatedSharedRegion shared = MakeRegion();
  const CreatedBuffer user = TryMake("", {SharedSpec(shared.handle)}, alice_).value();
  const HeldEndpoint held{.buffer = user.buffer, .endpoint = kEp1, .rights = {}};
  const Mediator::Target target = Mediator::Resolve(held, 0).value();
  Mediator::Progress progress;
  EXPECT_TRUE(mediator_.Continue(target, RecordsOf({65520, 65520}), false, progress));
  EXPECT_EQ(updated_.size(), 0u) << "nothing was stored";
  const Mediator::Records records = RecordsOf({1000, 1000, 4000, 10});
  progress = {};
  EXPECT_FALSE(mediator_.Continue(target, records, true, progress));
  EXPECT_EQ(updated_.size(), 1u) << "what is stored is shown before the rest waits";
  EXPECT_FALSE(mediator_.Continue(target, records, true, progress));
  EXPECT_EQ(updated_.size(), 1u);
  mediator_.GiveUp(target, records, LossCause::kDeadline, progress);
  EXPECT_EQ(updated_.size(), 1u);
  progress = {};
  EXPECT_TRUE(mediator_.Continue(target, RecordsOf({8, 8, 8}), true, progress));
  EXPECT_EQ(updated_.size(), 2u) << "once per batch";
}

class MediatedIds : public MediatorTest {
 protected:
  // Region 0: only the broker writes; region 1: ep1 does too; region 2: a ring.
  void SetUp() override {
    RegionSpec sealed = PlainSpec(4096, 0x99);
    RegionSpec shared = PlainSpec(4096, 0x39);
    sealed.discipline = shared.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
    made_ = TryMake("", {sealed, shared, RingSpec()}, alice_).value();
  }
  absl::StatusOr<uint32_t> Allocate(shm::EndpointId endpoint, uint32_t region_index,
                                    size_t bytes = 1, shm::HandleRights rights = {}) {
    return Mediator::AllocateId(HeldBy(endpoint, rights), region_index, std::string(bytes, 'b'));
  }
};

TEST_F(MediatedIds, AreCheckedInZirconsOrder) {
  const shm::HandleRights no_write(shm::HandleRights::kRead);
  EXPECT_THAT(Allocate(kEp0, 3, 65520, no_write),
              StatusIs(absl::StatusCode::kPermissionDenied, "the handle has no right WRITE"));
  EXPECT_THAT(Allocate(kEp1, 3, 65520), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(ReasonOf(Allocate(kEp1, 2, 65520).status()), v1::ERROR_REASON_WRONG_DISCIPLINE);
  EXPECT_EQ(ReasonOf(Allocate(kEp1, 1, 65520).status()), v1::ERROR_REASON_ACCESS_DENIED);
  EXPECT_THAT(Allocate(kEp0, 1, 65520),
              StatusIs(absl::StatusCode::kInvalidArgument, "65520 bytes, at most 65519"));
  // Then the words, then the room.
  SharedIds& shared = *made_.buffer->regions()[1].shared_ids();
  const auto region = shm::Mapping::Map(shared.memfd()).value();
  region.Word<uint64_t>(0).StoreRelease(UINT64_MAX);
  EXPECT_EQ(ReasonOf(Allocate(kEp0, 1, 65519).status()), v1::ERROR_REASON_INTEGRITY);
  region.Word<uint64_t>(0).StoreRelease(uint64_t{4096} << 32);
  EXPECT_EQ(ReasonOf(Allocate(kEp0, 1, 65519).status()), v1::ERROR_REASON_REGION_FULL);
  EXPECT_EQ(Allocate(kEp0, 1).value(), 0u);
}

TEST_F(MediatedIds, AreDensePerRegionWhoeverAllocates) {
  for (uint32_t id = 0; id < 20; ++id) {
    EXPECT_EQ(Allocate(id % 2 == 0 ? kEp0 : kEp1, 0, id).value(), id);
  }
  EXPECT_EQ(Allocate(kEp0, 1).value(), 0u);
  EXPECT_EQ(Allocate(kEp0, 0, 0).value(), 20u);
  // A full region refuses, and the next blob that fits gets the next id.
  EXPECT_EQ(ReasonOf(Allocate(kEp0, 0, 4096).status()), v1::ERROR_REASON_REGION_FULL);
  EXPECT_EQ(Allocate(kEp0, 0).value(), 21u);
}

TEST_F(MediatorTest, AConsumerIsLeftUntilItsEndpointIsClosed) {
  const Region& region = made_.buffer->regions()[0];
  EXPECT_TRUE(ConsumerLeft(*made_.buffer, region));
  ASSERT_THAT(registry_.CloseHandle(alice_, made_.handles[1]), IsOk());
  EXPECT_TRUE(ConsumerLeft(*made_.buffer, region));
  made_.buffer->endpoint(kEp0).closed = true;
  EXPECT_FALSE(ConsumerLeft(*made_.buffer, region));
  made_.buffer->endpoint(kEp0).closed = false;
}

// Random batches against random consumers: nothing is lost from the books, whatever happens.
TEST_F(MediatorTest, BooksBalanceWhateverHappens) {
  uint64_t state = 7;
  const auto draw = [&state](uint64_t below) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % below;
  };
  uint64_t sent = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<size_t> sizes(draw(6));
    for (size_t& size : sizes) size = draw(20) == 0 ? 66000 : draw(2000);
    const Mediator::Records records = RecordsOf(sizes);
    Mediator::Progress progress;
    sent += sizes.size();
    while (!mediator_.Continue(target_, records, draw(2) == 0, progress)) {
      if (draw(3) == 0) {
        mediator_.GiveUp(target_, records, LossCause::kDeadline, progress);
        break;
      }
      if (draw(2) == 0) SetTail(ring().ledger.stored_bytes * draw(2) + draw(16));
      SetTail(head_page_->Word<uint64_t>(shm::kHeadOffset).LoadAcquire().ForHintOnly());
    }
    ASSERT_EQ(progress.stored + Lost(progress), sizes.size());
    ASSERT_EQ(ring().ledger.attempted_records, sent);
  }
  ExpectBalanced();
  EXPECT_GT(ring().ledger.stored_records, 100u);
  EXPECT_GT(RejectedFor(LossCause::kFull), 10u);
  EXPECT_GT(RejectedFor(LossCause::kDeadline), 10u);
}

}  // namespace
}  // namespace iob::server
