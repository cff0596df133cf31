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
    target_ = Mediator::Resolve(*made_.buffer, kEp1, {}, 0).value();
    head_page_.emplace(shm::Mapping::Map(ring().writer.head_memfd()).value());
  }

  MediatedRing& ring() { return *made_.buffer->regions()[0].ring(); }
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
    for (const shm::Ledger& ledger : ring().by_endpoint) check(ledger);
  }
  uint64_t RejectedFor(LossCause cause) {
    return ring().ledger.rejected_records[static_cast<size_t>(cause)];
  }

  CreatedBuffer made_;
  Mediator::Target target_;
  std::optional<shm::Mapping> head_page_;
  std::vector<uint32_t> readable_;
  Mediator mediator_{
      [this](const Buffer&, uint32_t region_index) { readable_.push_back(region_index); }};
};

TEST_F(MediatorTest, ChecksRegionThenDisciplineThenRight) {
  const auto resolve = [this](shm::EndpointId writer, uint32_t region_index,
                              const shm::HandleRights& rights = {}) {
    return Mediator::Resolve(*made_.buffer, writer, rights, region_index);
  };
  EXPECT_THAT(resolve(kEp0, 3),
              StatusIs(absl::StatusCode::kOutOfRange, "region_index: 3, the buffer has 3"));
  EXPECT_THAT(resolve(kEp0, UINT32_MAX), StatusIs(absl::StatusCode::kOutOfRange));
  // ep0 has no right to write region 1 either: the discipline is looked at first.
  EXPECT_THAT(resolve(kEp0, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, "region 1 is DISCIPLINE_NONE"));
  EXPECT_THAT(resolve(kEp0, 0),
              StatusIs(absl::StatusCode::kPermissionDenied, "ep0 has no mediated-write right"));
  EXPECT_THAT(resolve(kEp1, 0, {.read = true, .write = false, .map = true}),
              StatusIs(absl::StatusCode::kPermissionDenied));
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
  MediatedRing& shared = *made_.buffer->regions()[2].ring();
  for (const shm::EndpointId writer : {kEp0, kEp1}) {
    const Mediator::Target target = Mediator::Resolve(*made_.buffer, writer, {}, 2).value();
    ASSERT_THAT(mediator_.Write(target, RecordsOf({writer == kEp0 ? 10u : 20u})), IsOk());
  }
  EXPECT_EQ(shared.by_endpoint[0].stored_bytes, 10u);
  EXPECT_EQ(shared.by_endpoint[1].stored_bytes, 20u);
  EXPECT_EQ(shared.ledger.stored_bytes, 30u);
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
