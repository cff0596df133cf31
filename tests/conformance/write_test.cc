// Mediated writes: the order of checks of zx_iob_writev (2.4), over all four ways, and the ring
// that they end in (4.3), read as bytes from the memory of its consumer.

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <thread>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kRecordMax = 65519;
// In the small ring's one page: four of them fit, not five.
const std::string kQuarter(1000, 'q');
constexpr uint64_t kQuarterBytes = 1016;

class WriteContract : public ByWay {
 protected:
  void SetUp() override {
    ByWay::SetUp();
    made_ = Make({RingRegion(), PlainRegion()});
    consumer_ = AttachRaw(Dup(made_.ep0));
  }
  void TearDown() override {
    consumer_.reset();
    hand_.reset();
    ByWay::TearDown();
  }

  // One record by ep1, over a hand that lasts.
  Outcome Write(const std::string& record) {
    if (!hand_) hand_ = Take(Dup(made_.ep1));
    return hand_->Write(0, record);
  }
  // One write that may end its hand.
  Outcome WriteOnce(const std::string& handle, uint32_t region_index,
                    const std::string& record = "record") {
    return Take(Dup(handle))->Write(region_index, record);
  }
  Outcome WriteOnceWithout(uint32_t right, uint32_t region_index) {
    return Take(Dup(made_.ep1, Rights::kEndpointDefault & ~right))->Write(region_index, "record");
  }
  bool takes_parts() const { return GetParam() != Way::kSocket; }

  NewBuffer made_;
  std::unique_ptr<RawClient> consumer_;
  std::unique_ptr<Hand> hand_;
};

// --- 2.4: the order of checks --------------------------------------------------------------------

class Write_2_4 : public WriteContract {};
IOB_OVER_ALL_WAYS(Write_2_4);

TEST_P(Write_2_4, R2_AHandleThatIsNoneIsBad) {
  if (GetParam() == Way::kSocket || GetParam() == Way::kEndpoint)
    GTEST_SKIP() << "an attachment is a live connection, not a number";
  Control& control = ByWay::control();
  EXPECT_EQ(control.Write(std::string(16, '\0'), 0, {"record"}), zx::kBadHandle);
  const std::string closed = Dup(made_.ep1);
  Close(closed);
  EXPECT_EQ(control.Write(closed, 0, {"record"}), zx::kBadHandle);
  EXPECT_EQ(control.Write(closed, 9, std::vector<std::string>(9, "x")), zx::kBadHandle)
      << "before the rest";
}

TEST_P(Write_2_4, R2_AHandleToASharedRegionIsOfTheWrongType) {
  if (GetParam() == Way::kSocket || GetParam() == Way::kEndpoint)
    GTEST_SKIP() << "only endpoints can be attached";
  const NewRegion shared = MakeShared();
  EXPECT_EQ(ByWay::control().Write(shared.handle, 9, {"record"}), zx::kWrongObject)
      << "before the right, which it has not either";
  Close(shared.handle);
}

TEST_P(Write_2_4, R2_WithoutTheRightToWriteItIsDenied) {
  EXPECT_EQ(WriteOnceWithout(Rights::kWrite, 0), zx::kAccessDenied);
}

TEST_P(Write_2_4, R2_TheRightToWriteComesBeforeTheIndexAndTheDiscipline) {
  EXPECT_EQ(WriteOnceWithout(Rights::kWrite, 9), zx::kAccessDenied);
  EXPECT_EQ(WriteOnceWithout(Rights::kWrite, 1), zx::kAccessDenied);
}

TEST_P(Write_2_4, R2_OnlyTheRightToWriteIsNeeded) {
  const std::string handle = Dup(made_.ep1, Rights::kWrite);
  EXPECT_EQ(Take(handle)->Write(0, "record"), zx::kOk);
}

TEST_P(Write_2_4, R3_ARegionThatDoesNotExistIsOutOfRange) {
  EXPECT_EQ(WriteOnce(made_.ep1, 2), zx::kOutOfRange);
  EXPECT_EQ(WriteOnce(made_.ep1, UINT32_MAX), zx::kOutOfRange);
  EXPECT_EQ(WriteOnce(made_.ep0, 2), zx::kOutOfRange) << "before the region's rights";
}

TEST_P(Write_2_4, R4_ARegionWithoutARingIsOfTheWrongType) {
  EXPECT_EQ(WriteOnce(made_.ep1, 1), zx::kWrongDiscipline);
  EXPECT_EQ(WriteOnce(made_.ep0, 1), zx::kWrongDiscipline) << "before the region's rights";
}

TEST_P(Write_2_4, R5_WithoutMediatedWriteItIsDenied) {
  EXPECT_EQ(WriteOnce(made_.ep0, 0), zx::kAccessDenied);
  if (takes_parts()) {
    EXPECT_EQ(Take(Dup(made_.ep0))->Write(0, std::vector<std::string>(9, "x")), zx::kAccessDenied)
        << "before the parts are counted";
  }
}

TEST_P(Write_2_4, R6_MoreThanEightPartsAreInvalid) {
  if (!takes_parts()) GTEST_SKIP() << "the attach socket takes records whole";
  EXPECT_EQ(Take(Dup(made_.ep1))->Write(0, std::vector<std::string>(9, "x")), zx::kInvalidArgs);
  EXPECT_EQ(Take(Dup(made_.ep1))->Write(0, std::vector<std::string>(9)), zx::kInvalidArgs)
      << "also empty ones";
  EXPECT_EQ(Take(Dup(made_.ep1))->Write(0, std::vector<std::string>(8, "x")), zx::kOk);
  EXPECT_THAT(ReadRing(*consumer_), ElementsAre(RingRecord{.tag = made_.info.endpoints(1).koid(),
                                                           .payload = "xxxxxxxx"}));
}

TEST_P(Write_2_4, R6_MoreThan65519BytesAreInvalid) {
  EXPECT_EQ(WriteOnce(made_.ep1, 0, std::string(kRecordMax + 1, 'x')), zx::kInvalidArgs);
  if (takes_parts()) {
    EXPECT_EQ(Take(Dup(made_.ep1))->Write(0, {std::string(kRecordMax, 'x'), "y"}),
              zx::kInvalidArgs);
  }
  EXPECT_EQ(WriteOnce(made_.ep1, 0, std::string(kRecordMax, 'x')), zx::kNoSpace)
      << "the longest record there is does not fit into this ring";
}

TEST_P(Write_2_4, R6_TheLongestRecordIsStored) {
  const NewBuffer large = Make({RingRegion(64 * kPage)});
  const auto consumer = AttachRaw(Dup(large.ep0));
  const std::string record(kRecordMax, 'm');
  EXPECT_EQ(WriteOnce(large.ep1, 0, record), zx::kOk);
  EXPECT_THAT(ReadRing(*consumer),
              ElementsAre(RingRecord{.tag = large.info.endpoints(1).koid(), .payload = record}));
}

TEST_P(Write_2_4, R7_MoreThanTheRingIsNoSpace) {
  EXPECT_EQ(Write(std::string(kPage - 16 + 1, 'x')), zx::kNoSpace);
  EXPECT_EQ(Write(std::string(kPage, 'x')), zx::kNoSpace);
  EXPECT_EQ(Write(std::string(kPage - 16, 'x')), zx::kOk) << "exactly the ring";
}

TEST_P(Write_2_4, R7_ComesBeforeIntegrity) {
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Write(kQuarter), zx::kOk);
  consumer_->SetTail(0, 1);
  EXPECT_EQ(Write(std::string(kPage, 'x')), zx::kNoSpace);
  EXPECT_EQ(Write(kQuarter), zx::kIntegrity);
}

TEST_P(Write_2_4, R8_ATailThatCannotBeIsIntegrity) {
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Write(kQuarter), zx::kOk);
  const uint64_t head = consumer_->Head(0);
  for (const uint64_t tail : {head + 8, UINT64_MAX, uint64_t{1} << 63, uint64_t{4}}) {
    consumer_->SetTail(0, tail);
    EXPECT_EQ(Write(kQuarter), zx::kIntegrity) << tail;
    EXPECT_EQ(consumer_->Head(0), head) << "nothing was written";
  }
  // Going back is no better than running ahead.
  consumer_->SetTail(0, 2 * kQuarterBytes);
  ASSERT_EQ(Write(kQuarter), zx::kOk);
  ASSERT_EQ(Write(kQuarter), zx::kOk);
  consumer_->SetTail(0, kQuarterBytes);
  EXPECT_EQ(Write(kQuarter), zx::kIntegrity);
  consumer_->SetTail(0, 3 * kQuarterBytes);
  EXPECT_EQ(Write(kQuarter), zx::kOk) << "a tail that can be heals it";
}

// Zircon looks at every write; here the tail is read when the room that is known of is used up.
TEST_P(Write_2_4, R8_ATailIsLookedAtWhenRoomIsNeeded) {
  ASSERT_EQ(Write(kQuarter), zx::kOk);
  consumer_->SetTail(0, 1);
  EXPECT_EQ(Write(kQuarter), zx::kOk);
  EXPECT_EQ(Write(kQuarter), zx::kOk);
  EXPECT_EQ(Write(kQuarter), zx::kOk);
  EXPECT_EQ(Write(kQuarter), zx::kIntegrity);
}

TEST_P(Write_2_4, R9_AFullRingIsNoSpaceAndNothingIsOverwritten) {
  std::vector<RingRecord> written;
  for (int i = 0; i < 4; ++i) {
    written.push_back({.tag = made_.info.endpoints(1).koid(),
                       .payload = std::string(1000, static_cast<char>('a' + i))});
    ASSERT_EQ(Write(written.back().payload), zx::kOk);
  }
  const uint64_t head = consumer_->Head(0);
  EXPECT_EQ(Write(kQuarter), zx::kNoSpace);
  EXPECT_EQ(consumer_->Head(0), head);
  EXPECT_EQ(ReadRing(*consumer_), written);
  EXPECT_EQ(Write(kQuarter), zx::kOk) << "released room is room";
}

TEST_P(Write_2_4, R9_TheRingMayBeFullToTheLastByte) {
  ASSERT_EQ(Write(std::string(kPage - 2 * 16 - 8, 'x')), zx::kOk);
  ASSERT_EQ(Write(std::string(8, 'y')), zx::kOk);
  EXPECT_EQ(consumer_->Head(0) - consumer_->Tail(0), kPage);
  EXPECT_EQ(Write(""), zx::kNoSpace);
}

TEST_P(Write_2_4, NoPartAndEmptyPartsAreARecordOfSixteenBytes) {
  const uint64_t tag = made_.info.endpoints(1).koid();
  EXPECT_EQ(Write(""), zx::kOk);
  EXPECT_EQ(consumer_->Head(0), 16u);
  if (takes_parts()) {
    EXPECT_EQ(hand_->Write(0, std::vector<std::string>{}), zx::kOk);
    EXPECT_EQ(hand_->Write(0, std::vector<std::string>(8)), zx::kOk);
    EXPECT_EQ(consumer_->Head(0), 48u);
  }
  for (const RingRecord& record : ReadRing(*consumer_)) {
    EXPECT_EQ(record, (RingRecord{.tag = tag, .payload = ""}));
  }
}

TEST_P(Write_2_4, AClosedPeerDoesNotMatter) {
  consumer_.reset();
  Close(made_.ep0);
  ASSERT_TRUE(Eventually([&] { return LookAt(made_.koid(), EndpointId::kEp0).has_closed(); }));
  EXPECT_EQ(Write("record"), zx::kOk);
  EXPECT_EQ(Stats(made_.koid()).stored_records(), 1u);
}

class WriteSocket_2_4 : public WriteContract {};
INSTANTIATE_TEST_SUITE_P(By, WriteSocket_2_4, ::testing::Values(Way::kSocket), WayName);

// In Zircon the kernel reads the payload, and answers NOT_FOUND; here the sender's own sendmsg
// does.
TEST_P(WriteSocket_2_4, R10_MemoryThatCannotBeReadIsTheSendersFault) {
  const auto writer = AttachRaw(Dup(made_.ep1));
  iovec part = {.iov_base = reinterpret_cast<void*>(1), .iov_len = 100};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  EXPECT_EQ(::sendmsg(writer->fd(), &message, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EFAULT);
  ASSERT_EQ(writer->SendWrite(0, {"after"}), 0);
  const auto result = writer->ReceiveResult();
  ASSERT_TRUE(result.has_value()) << "the connection lives on";
  EXPECT_EQ(result->stored(), 1u);
  EXPECT_EQ(Stats(made_.koid()).attempted_records(), 1u);
}

TEST_P(WriteSocket_2_4, ABatchKeepsItsOrderAndSaysWhichWereLost) {
  const auto writer = AttachRaw(Dup(made_.ep1));
  ASSERT_EQ(writer->SendWrite(0, {"one", std::string(kRecordMax / 2, 'x'), "two"}), 0);
  const auto result = writer->ReceiveResult();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->stored(), 2u);
  ASSERT_EQ(result->lost_size(), 1);
  EXPECT_EQ(result->lost(0).first_index(), 1u);
  const std::vector<RingRecord> records = ReadRing(*consumer_);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].payload, "one");
  EXPECT_EQ(records[1].payload, "two");
}

// --- 4.3: the ring -------------------------------------------------------------------------------

class Ring_4_3 : public WriteContract {};
IOB_OVER_ALL_WAYS(Ring_4_3);

TEST_P(Ring_4_3, ARecordIsTagLengthPayloadAndZeroedPadding) {
  // Old bytes below the padding first.
  ASSERT_EQ(Write(std::string(kPage - 16, '\xff')), zx::kOk);
  consumer_->SetTail(0, kPage);
  ASSERT_EQ(Write("abcde"), zx::kOk);
  EXPECT_EQ(consumer_->Head(0), kPage + 24);
  const uint8_t* const record = consumer_->SectionBytes(0, v1::SECTION_KIND_DATA);
  uint64_t words[3];
  std::memcpy(words, record, sizeof(words));
  EXPECT_EQ(words[0], made_.info.endpoints(1).koid());
  EXPECT_EQ(words[1], 5u);
  EXPECT_EQ(std::memcmp(record + 16, "abcde\0\0\0", 8), 0);
}

TEST_P(Ring_4_3, RecordsWrapAtTheEndWhereverItFalls) {
  uint64_t expected_head = 0;
  for (uint64_t size = 0; size < 200; ++size) {
    const std::string payload(size, static_cast<char>('a' + size % 26));
    ASSERT_EQ(Write(payload), zx::kOk);
    expected_head += (16 + size + 7) / 8 * 8;
    ASSERT_EQ(consumer_->Head(0), expected_head) << "a byte counter that never wraps";
    const std::vector<RingRecord> records = ReadRing(*consumer_);
    ASSERT_EQ(records.size(), 1u);
    ASSERT_EQ(records[0].payload, payload) << size;
  }
  EXPECT_GT(expected_head, 5 * kPage);
}

TEST_P(Ring_4_3, ALongPayloadWrapsToo) {
  const std::string payload(3000, 'w');
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(Write(payload + std::string(static_cast<size_t>(i), 'v')), zx::kOk);
    const std::vector<RingRecord> records = ReadRing(*consumer_);
    ASSERT_EQ(records.size(), 1u);
    ASSERT_EQ(records[0].payload, payload + std::string(static_cast<size_t>(i), 'v')) << i;
  }
}

TEST_P(Ring_4_3, AnyNumberOfPagesIsARing) {
  for (const uint64_t pages : {uint64_t{2}, uint64_t{4}, uint64_t{6}, uint64_t{8}}) {
    const NewBuffer made = Make({RingRegion(pages * kPage)});
    const auto consumer = AttachRaw(Dup(made.ep0));
    const auto hand = Take(Dup(made.ep1));
    const uint64_t capacity = (pages - 1) * kPage;
    EXPECT_EQ(hand->Write(0, std::string(capacity - 16, 'x')), zx::kOk) << pages;
    EXPECT_EQ(hand->Write(0, ""), zx::kNoSpace) << pages;
    ASSERT_EQ(ReadRing(*consumer).size(), 1u);
    EXPECT_EQ(hand->Write(0, std::string(100, 'y')), zx::kOk) << pages;
    EXPECT_EQ(ReadRing(*consumer)[0].payload, std::string(100, 'y'));
  }
}

// Zircon reads its position back from memory that a mapper may write, and honours what is
// consistent; here the broker's own positions rule.
TEST_P(Ring_4_3, PlantedPositionsAreNotHonoured) {
  ASSERT_EQ(Write("first"), zx::kOk);
  consumer_->SetHead(0, UINT64_MAX - 31);
  consumer_->SetTail(0, UINT64_MAX - 31);
  ASSERT_EQ(Write("second"), zx::kOk);
  EXPECT_EQ(consumer_->Head(0), 48u) << "the broker says again where it is";
  consumer_->SetTail(0, 0);
  const std::vector<RingRecord> records = ReadRing(*consumer_);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].payload, "first");
  EXPECT_EQ(records[1].payload, "second");
}

TEST_P(Ring_4_3, AnErrorChangesNothing) {
  ASSERT_EQ(Write(kQuarter), zx::kOk);
  const auto shared_words = [this] {
    return std::string(
        reinterpret_cast<const char*>(consumer_->SectionBytes(0, v1::SECTION_KIND_HEAD)), 64);
  };
  const std::string before = shared_words();
  EXPECT_EQ(Write(std::string(kPage, 'x')), zx::kNoSpace);
  EXPECT_EQ(Write(std::string(3500, 'x')), zx::kNoSpace);
  EXPECT_EQ(WriteOnce(made_.ep1, 0, std::string(kRecordMax + 1, 'x')), zx::kInvalidArgs);
  EXPECT_EQ(shared_words(), before);
  EXPECT_EQ(ReadRing(*consumer_).size(), 1u);
}

TEST_P(Ring_4_3, TheTagIsTheBuffersOwn) {
  v1::RegionSpec region = RingRegion();
  region.set_tag(0x1122334455667788);
  const NewBuffer made = Make({region});
  const auto consumer = AttachRaw(Dup(made.ep0));
  const auto hand = Take(Dup(made.ep1));
  ASSERT_EQ(hand->Write(0, "tagged"), zx::kOk);
  EXPECT_THAT(ReadRing(*consumer),
              ElementsAre(RingRecord{.tag = 0x1122334455667788, .payload = "tagged"}));
}

TEST_P(Ring_4_3, ManyBuffersOnOneRegionAreToldApartByTheirTags) {
  const NewRegion shared = MakeShared(4 * kPage);
  const NewBuffer one = Make({SharedRegionOf(shared.handle, 1)});
  const NewBuffer two = Make({SharedRegionOf(shared.handle, 2)});
  const NewBuffer three = Make({SharedRegionOf(shared.handle)});
  const auto consumer = AttachRaw(Dup(one.ep0));
  const auto other_consumer = AttachRaw(Dup(two.ep0));
  for (const NewBuffer* buffer : {&two, &one, &three, &one}) {
    ASSERT_EQ(Take(Dup(buffer->ep1))->Write(0, "record"), zx::kOk);
  }
  EXPECT_EQ(other_consumer->Head(0), 4 * 24u) << "one ring, whoever looks";
  std::vector<uint64_t> tags;
  for (const RingRecord& record : ReadRing(*consumer)) tags.push_back(record.tag);
  EXPECT_THAT(tags, ElementsAre(2, 1, three.info.endpoints(1).koid(), 1));
  Close(shared.handle);
}

TEST_P(Ring_4_3, ConcurrentWritersHaveOneOrderAndNeverInterleave) {
  constexpr int kWriters = 4;
  constexpr int kEach = 100;
  const NewRegion shared = MakeShared(64 * kPage);
  std::vector<NewBuffer> buffers;
  std::vector<std::unique_ptr<Hand>> hands;
  for (uint64_t i = 0; i < kWriters; ++i) {
    buffers.push_back(Make({SharedRegionOf(shared.handle, 100 + i)}));
    hands.push_back(Take(Dup(buffers.back().ep1)));
  }
  std::vector<std::thread> threads;
  for (const auto& hand : hands) {
    threads.emplace_back([&hand] {
      for (int i = 0; i < kEach; ++i) {
        EXPECT_EQ(hand->Write(0, std::string(static_cast<size_t>(i % 70), static_cast<char>(i))),
                  zx::kOk);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto consumer = AttachRaw(Dup(buffers[0].ep0));
  std::map<uint64_t, int> next;
  for (const RingRecord& record : ReadRing(*consumer)) {
    const int i = next[record.tag]++;
    EXPECT_EQ(record.payload, std::string(static_cast<size_t>(i % 70), static_cast<char>(i)))
        << "writer " << record.tag << ", record " << i;
  }
  EXPECT_EQ(next.size(), size_t{kWriters});
  for (const auto& [tag, count] : next) EXPECT_EQ(count, kEach) << tag;
  Close(shared.handle);
}

TEST_P(Ring_4_3, TheLedgerAddsUp) {
  for (int i = 0; i < 6; ++i) Write(kQuarter);
  consumer_->SetTail(0, 2 * kQuarterBytes);
  Write(std::string(kPage, 'x'));
  const v1::RingStats stats = Stats(made_.koid());
  uint64_t rejected = 0;
  for (const v1::LossCount& loss : stats.rejected()) rejected += loss.records();
  EXPECT_EQ(stats.attempted_records(), 7u);
  EXPECT_EQ(stats.stored_records(), 4u);
  EXPECT_EQ(rejected, 3u);
  EXPECT_EQ(stats.consumed_records(), 2u);
  EXPECT_EQ(stats.resident_records(), 2u);
  EXPECT_EQ(stats.tail_violations(), 0u);
}

// What a reader makes of a head that another consumer of its endpoint has spoilt. The records are
// sealed: positions are all that anybody could spoil.
class RingReader_4_3 : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    made_ = Make({RingRegion()});
    spoiler_ = AttachRaw(Dup(made_.ep0));
    ASSERT_EQ(control().Write(made_.ep1, 0, {"record"}), zx::kOk);
  }
  void TearDown() override {
    spoiler_.reset();
    Contract::TearDown();
  }

  NewBuffer made_;
  std::unique_ptr<RawClient> spoiler_;
};

TEST_F(RingReader_4_3, DeliversAndReleasesByTheRecord) {
  Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
  ASSERT_OK_AND_ASSIGN(RingReader reader, endpoint.OpenReader(0));
  Record record;
  ASSERT_OK_AND_ASSIGN(const bool read, reader.TryRead(&record));
  EXPECT_TRUE(read);
  EXPECT_EQ(record.tag, made_.info.endpoints(1).koid());
  EXPECT_EQ(record.payload.size(), 6u);
  EXPECT_EQ(spoiler_->Tail(0), 24u);
}

TEST_F(RingReader_4_3, RefusesAHeadThatCannotBe) {
  for (const uint64_t head : {uint64_t{8}, uint64_t{23}, kPage + 8, UINT64_MAX}) {
    Endpoint endpoint = AttachLibrary(Dup(made_.ep0));
    spoiler_->SetHead(0, 24);
    ASSERT_OK_AND_ASSIGN(RingReader reader, endpoint.OpenReader(0));
    spoiler_->SetHead(0, head);
    Record record;
    EXPECT_EQ(OutcomeOf(reader.TryRead(&record).status()), zx::kIntegrity) << head;
    EXPECT_EQ(spoiler_->Tail(0), 0u) << "nothing was released";
  }
}

}  // namespace
}  // namespace iob::test
