// Handles and what they allow: default rights (1.7), duplicate, replace, close and transfer (2.8),
// and the effective rights, which are those of the region AND those of the handle (3.2).

#include <fcntl.h>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

constexpr uint32_t kExecute = 1u << 4;

class RightsContract : public ByWay {
 protected:
  void SetUp() override {
    ByWay::SetUp();
    made_ = Make({PlainRegion(), RingRegion()});
    shared_ = MakeShared();
  }
  void TearDown() override {
    Close(shared_.handle);
    ByWay::TearDown();
  }

  uint32_t RightsOf(const std::string& handle) {
    v1::HandleInfo info;
    EXPECT_EQ(control().GetHandleInfo(handle, &info), zx::kOk);
    return info.rights();
  }
  bool IsGone(const std::string& handle) {
    v1::HandleInfo info;
    return control().GetHandleInfo(handle, &info) == zx::kBadHandle;
  }

  NewBuffer made_;
  NewRegion shared_;
  std::string handle_;
};

// --- 1.7 -----------------------------------------------------------------------------------------

class Rights_1_7 : public RightsContract {};
IOB_OVER_CONTROL_WAYS(Rights_1_7);

TEST_P(Rights_1_7, BothEndpointsStartWithZirconsDefaultRights) {
  // TRANSFER | DUPLICATE | WAIT | INSPECT | READ | WRITE | GET_ and SET_PROPERTY | MAP | SIGNAL |
  // SIGNAL_PEER, by value.
  EXPECT_EQ(RightsOf(made_.ep0), 0xf0efu);
  EXPECT_EQ(RightsOf(made_.ep1), 0xf0efu);
}

TEST_P(Rights_1_7, ASharedRegionCannotBeReadWrittenMappedOrSignalledAsAPeer) {
  EXPECT_EQ(RightsOf(shared_.handle), 0xd0c3u);
}

TEST_P(Rights_1_7, ASharedRegionIsUsedByAHandleWithoutAnyRight) {
  const std::string bare = Dup(shared_.handle, 0);
  EXPECT_EQ(RightsOf(bare), 0u);
  NewBuffer buffer;
  EXPECT_EQ(control().CreateBuffer(BufferOf({SharedRegionOf(bare)}), &buffer), zx::kOk);
  Close(bare);
}

TEST_P(Rights_1_7, ThereIsNoRightToExecute) {
  EXPECT_EQ(RightsOf(made_.ep0) & kExecute, 0u);
  EXPECT_EQ(control().Duplicate(made_.ep0, kExecute, &handle_), zx::kInvalidArgs);
}

// --- 2.8 -----------------------------------------------------------------------------------------

class Handle_2_8 : public RightsContract {};
IOB_OVER_CONTROL_WAYS(Handle_2_8);

TEST_P(Handle_2_8, DuplicateOfAnUnknownHandleIsBad) {
  EXPECT_EQ(control().Duplicate(std::string(16, '\0'), 0, &handle_), zx::kBadHandle);
  const std::string closed = Dup(made_.ep0);
  ASSERT_EQ(control().Close(closed), zx::kOk);
  EXPECT_EQ(control().Duplicate(closed, Rights::kSameRights, &handle_), zx::kBadHandle);
}

TEST_P(Handle_2_8, DuplicateNeedsTheRight) {
  const std::string source = Dup(made_.ep0, Rights::kEndpointDefault & ~Rights::kDuplicate);
  EXPECT_EQ(control().Duplicate(source, Rights::kSameRights, &handle_), zx::kAccessDenied);
  EXPECT_EQ(control().Duplicate(source, UINT32_MAX, &handle_), zx::kAccessDenied)
      << "before the rights that are asked for";
}

TEST_P(Handle_2_8, DuplicateOnlyShrinksRights) {
  const std::string source = Dup(made_.ep0, Rights::kDuplicate | Rights::kRead);
  ASSERT_EQ(control().Duplicate(source, Rights::kRead, &handle_), zx::kOk);
  EXPECT_EQ(RightsOf(handle_), uint32_t{Rights::kRead});
  ASSERT_EQ(control().Duplicate(source, 0, &handle_), zx::kOk);
  EXPECT_EQ(RightsOf(handle_), 0u);
  for (const uint32_t rights :
       {Rights::kRead | Rights::kWrite, uint32_t{Rights::kMap}, kExecute, 1u << 30}) {
    EXPECT_EQ(control().Duplicate(source, rights, &handle_), zx::kInvalidArgs) << rights;
  }
  EXPECT_FALSE(IsGone(source)) << "a failed duplicate leaves its source";
}

TEST_P(Handle_2_8, SameRightsCopiesThem) {
  const std::string source = Dup(made_.ep0, Rights::kDuplicate | Rights::kWait);
  ASSERT_EQ(control().Duplicate(source, Rights::kSameRights, &handle_), zx::kOk);
  EXPECT_EQ(RightsOf(handle_), Rights::kDuplicate | Rights::kWait);
  EXPECT_EQ(control().Duplicate(source, Rights::kSameRights | Rights::kRead, &handle_),
            zx::kInvalidArgs);
}

TEST_P(Handle_2_8, ADuplicateLeadsToTheSameObject) {
  ASSERT_EQ(control().Duplicate(made_.ep1, Rights::kSameRights, &handle_), zx::kOk);
  EXPECT_NE(handle_, made_.ep1);
  v1::HandleInfo info;
  v1::HandleInfo of_source;
  ASSERT_EQ(control().GetHandleInfo(handle_, &info), zx::kOk);
  ASSERT_EQ(control().GetHandleInfo(made_.ep1, &of_source), zx::kOk);
  EXPECT_EQ(info.SerializeAsString(), of_source.SerializeAsString());
  ASSERT_EQ(control().Close(handle_), zx::kOk);
  EXPECT_FALSE(IsGone(made_.ep1));
}

TEST_P(Handle_2_8, ReplaceNeedsNoRightAndSpendsItsSource) {
  const std::string source = Dup(made_.ep0, Rights::kRead | Rights::kWait);
  ASSERT_EQ(control().Replace(source, Rights::kRead, &handle_), zx::kOk);
  EXPECT_EQ(RightsOf(handle_), uint32_t{Rights::kRead});
  EXPECT_TRUE(IsGone(source));
}

TEST_P(Handle_2_8, ReplaceWithMoreRightsIsInvalidAndSpendsItsSourceToo) {
  const std::string source = Dup(made_.ep0, Rights::kRead);
  EXPECT_EQ(control().Replace(source, Rights::kRead | Rights::kWrite, &handle_), zx::kInvalidArgs);
  EXPECT_TRUE(handle_.empty());
  EXPECT_TRUE(IsGone(source));
}

TEST_P(Handle_2_8, ReplaceWithSameRightsKeepsThem) {
  const std::string source = Dup(shared_.handle);
  ASSERT_EQ(control().Replace(source, Rights::kSameRights, &handle_), zx::kOk);
  EXPECT_EQ(RightsOf(handle_), 0xd0c3u);
  EXPECT_TRUE(IsGone(source));
  Close(handle_);
}

TEST_P(Handle_2_8, ReplaceOfAnUnknownHandleIsBad) {
  EXPECT_EQ(control().Replace(std::string(16, '\0'), 0, &handle_), zx::kBadHandle);
}

TEST_P(Handle_2_8, TheLastHandleCanBeReplacedWithoutClosingItsEndpoint) {
  ASSERT_EQ(control().Replace(made_.ep0, Rights::kSameRights, &handle_), zx::kOk);
  EXPECT_FALSE(LookAt(made_.koid(), EndpointId::kEp0).has_closed());
}

TEST_P(Handle_2_8, CloseOfAnUnknownHandleIsBad) {
  EXPECT_EQ(control().Close(std::string(16, '\x5a')), zx::kBadHandle);
  const std::string handle = Dup(made_.ep0);
  EXPECT_EQ(control().Close(handle), zx::kOk);
  EXPECT_EQ(control().Close(handle), zx::kBadHandle) << "twice";
}

// Zircon's ZX_HANDLE_INVALID may be closed; here nothing is the name of no handle.
TEST_P(Handle_2_8, TheHandleOfZerosIsAsUnknownAsAnyOther) {
  EXPECT_EQ(control().Close(std::string(16, '\0')), zx::kBadHandle);
}

TEST_P(Handle_2_8, CloseNeedsNoRight) {
  ASSERT_EQ(control().Duplicate(made_.ep0, 0, &handle_), zx::kOk);
  EXPECT_EQ(control().Close(handle_), zx::kOk);
}

TEST_P(Handle_2_8, TransferToAnotherUidNeedsTheRight) {
  const std::string source = Dup(made_.ep0, Rights::kEndpointDefault & ~Rights::kTransfer);
  EXPECT_EQ(control().Duplicate(source, Rights::kSameRights, &handle_, kNobodyUid),
            zx::kAccessDenied);
  NewTicket ticket;
  EXPECT_EQ(control().Attach(source, &ticket, kNobodyUid), zx::kAccessDenied);
  EXPECT_FALSE(IsGone(source)) << "a ticket that is not made spends nothing";
  EXPECT_EQ(control().Replace(source, Rights::kSameRights, &handle_, kNobodyUid),
            zx::kAccessDenied);
  EXPECT_TRUE(IsGone(source)) << "a replace spends its source whatever happens";
}

TEST_P(Handle_2_8, AHandleForAnotherUidIsBadInOurs) {
  ASSERT_EQ(control().Duplicate(made_.ep0, Rights::kSameRights, &handle_, kNobodyUid), zx::kOk);
  EXPECT_EQ(control().Close(handle_), zx::kBadHandle);
  EXPECT_EQ(control().Write(handle_, 1, {"record"}), zx::kBadHandle);
}

TEST_P(Handle_2_8, OnlyEndpointsCanBeAttached) {
  NewTicket ticket;
  EXPECT_EQ(control().Attach(std::string(16, '\0'), &ticket), zx::kBadHandle);
  EXPECT_EQ(control().Attach(shared_.handle, &ticket), zx::kWrongObject);
  ASSERT_EQ(control().Duplicate(made_.ep0, 0, &handle_), zx::kOk);
  EXPECT_EQ(control().Attach(handle_, &ticket), zx::kOk) << "no right is needed";
  EXPECT_TRUE(IsGone(handle_)) << "it travels in the ticket";
}

TEST_P(Handle_2_8, ATicketIsGoodOnce) {
  NewTicket ticket;
  ASSERT_EQ(control().Attach(Dup(made_.ep0), &ticket), zx::kOk);
  RawClient first(daemon().attach_path());
  ASSERT_EQ(first.Attach(ticket.bytes), "");
  RawClient second(daemon().attach_path());
  ASSERT_EQ(second.SendRedeem(ticket.bytes), 0);
  const auto error = second.ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(OutcomeOfAnswer(*error), zx::kBadHandle);
}

// --- 3.2 -----------------------------------------------------------------------------------------

class Effective_3_2 : public Contract {
 protected:
  // What an endpoint may do with its region by memory.
  enum class Memory { kNone, kRead, kReadWrite };
  static Memory Expect(uint32_t access, uint32_t rights) {
    const bool read = (access & kEp0MapRead) != 0 && (rights & Rights::kRead) != 0;
    const bool write = (access & kEp0MapWrite) != 0 && (rights & Rights::kWrite) != 0;
    if ((rights & Rights::kMap) == 0 || !read) return Memory::kNone;
    return write ? Memory::kReadWrite : Memory::kRead;
  }
};

TEST_F(Effective_3_2, MemoryIsMapBitAndMapRightAndReadOrWriteRight) {
  for (const uint32_t access : {kEp0Map | kEp1Map, kEp0MapRead | kEp1Map, kEp1Map}) {
    const NewBuffer made = Make({PlainRegion(kPage, access)});
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t rights = Rights::kWait | (i & 1 ? Rights::kRead : 0) |
                              (i & 2 ? Rights::kWrite : 0) | (i & 4 ? Rights::kMap : 0);
      SCOPED_TRACE(testing::Message() << "access " << access << ", rights " << rights);
      const Memory expected = Expect(access, rights);
      const auto client = AttachRaw(Dup(made.ep0, rights));
      EXPECT_EQ(client->grants().handle_rights(), rights);
      const v1::RegionGrant& region = client->grants().regions(0);
      EXPECT_EQ(region.sections_size(), expected == Memory::kNone ? 0 : 1);
      if (region.sections_size() == 1) {
        const int fd = client->SectionFd(0, v1::SECTION_KIND_DATA);
        const bool writable = (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
        EXPECT_EQ(writable, expected == Memory::kReadWrite);
        EXPECT_EQ(region.sections(0).writable(), writable);
      }
      const Endpoint endpoint = AttachLibrary(Dup(made.ep0, rights));
      EXPECT_EQ(endpoint.Map(0, 0, kPage, Prot::kRead).ok(), expected != Memory::kNone);
      EXPECT_EQ(endpoint.Map(0, 0, kPage, Prot::kRead | Prot::kWrite).ok(),
                expected == Memory::kReadWrite);
    }
  }
}

TEST_F(Effective_3_2, AConsumerWithoutWriteReadsTheRingButCannotMoveItsTail) {
  const NewBuffer made = Make({RingRegion()});
  Endpoint endpoint = AttachLibrary(Dup(made.ep0, Rights::kEndpointDefault & ~Rights::kWrite));
  EXPECT_EQ(OutcomeOf(endpoint.OpenReader(0).status()), zx::kAccessDenied);
  EXPECT_EQ(OutcomeOf(endpoint.Map(0, 0, kSmallRing, Prot::kRead).status()), zx::kOk);
}

TEST_F(Effective_3_2, RightsSurviveTheAttachmentAndNeverGrow) {
  const NewBuffer made = Make({RingRegion(), PlainRegion()});
  const uint32_t few = Rights::kWait | Rights::kRead | Rights::kMap;
  const auto client = AttachRaw(Dup(made.ep1, few));
  EXPECT_EQ(client->grants().handle_rights(), few);
  ASSERT_EQ(client->SendChangeName("name"), 0);
  EXPECT_EQ(OutcomeOfAnswer(client->ReceiveAnswer()->call_result()), zx::kAccessDenied);
  ASSERT_EQ(client->SendWrite(0, {"record"}), 0);
  const auto error = client->ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(OutcomeOfAnswer(*error), zx::kAccessDenied);
}

class EffectiveByWay_3_2 : public ByWay {};
IOB_OVER_ALL_WAYS(EffectiveByWay_3_2);

TEST_P(EffectiveByWay_3_2, MediatedWriteNeedsTheBitAndTheRightAndNothingElse) {
  for (const uint32_t access : {kRingAccess, kRingAccess | kEp0MediatedWrite}) {
    const NewBuffer made = Make({RingRegion(kSmallRing, access)});
    const bool ep0_may = (access & kEp0MediatedWrite) != 0;
    EXPECT_EQ(Take(Dup(made.ep0))->Write(0, "x"), ep0_may ? zx::kOk : zx::kAccessDenied);
    EXPECT_EQ(Take(Dup(made.ep1))->Write(0, "x"), zx::kOk);
    EXPECT_EQ(Take(Dup(made.ep1, Rights::kWrite))->Write(0, "x"), zx::kOk);
    EXPECT_EQ(Take(Dup(made.ep1, Rights::kEndpointDefault & ~Rights::kWrite))->Write(0, "x"),
              zx::kAccessDenied);
  }
}

}  // namespace
}  // namespace iob::test
