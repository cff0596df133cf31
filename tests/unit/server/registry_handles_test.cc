// Handles: what they allow, what can be made of one, and how they end. Rights only shrink (R6), and
// whoever lives by a lease outlives its process but not its time.

#include <gmock/gmock.h>

#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using shm::HandleRights;
using test::IsOk;
using test::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kBadHandle = v1::ERROR_REASON_BAD_HANDLE;
constexpr auto kAccessDenied = v1::ERROR_REASON_ACCESS_DENIED;
constexpr auto kInvalid = v1::ERROR_REASON_INVALID_ARGUMENT;
constexpr auto kQuota = v1::ERROR_REASON_QUOTA;
constexpr auto kWrongObject = v1::ERROR_REASON_WRONG_OBJECT;

constexpr uint32_t kAllBits[] = {
    HandleRights::kDuplicate, HandleRights::kTransfer,    HandleRights::kRead,
    HandleRights::kWrite,     HandleRights::kMap,         HandleRights::kGetProperty,
    HandleRights::kSignal,    HandleRights::kSetProperty, HandleRights::kSignalPeer,
    HandleRights::kWait,      HandleRights::kInspect};

class RegistryHandles : public RegistryHarness {
 protected:
  uint32_t RightsOf(const Caller& caller, const Token& handle) {
    return registry_.FindHandle(caller, handle).value().rights.bits();
  }
  bool Knows(const Caller& caller, const Token& handle) {
    return registry_.FindHandle(caller, handle).ok();
  }
  absl::StatusOr<Token> Replace(const Caller& caller, const Token& handle, uint32_t rights,
                                std::optional<uint32_t> recipient_uid = std::nullopt) {
    return registry_.ReplaceHandle(caller, handle,
                                   {.rights = rights, .recipient_uid = recipient_uid});
  }
  absl::Status KeepAlive(const std::vector<Token>& handles) {
    return registry_.KeepAlive(alice_, handles, clock_.MonotonicNs());
  }
  void ExpireNow() { registry_.Expire(clock_.MonotonicNs()); }
  void ExpectNothingHappened(size_t handles) {
    EXPECT_EQ(registry_.handle_count(), handles);
    EXPECT_THAT(observer_.Take(), IsEmpty());
  }
};

// --- What a handle allows ------------------------------------------------------------------------

TEST_F(RegistryHandles, NewOnesHaveZirconsDefaultRights) {
  const CreatedBuffer made = Make("named");
  const uint32_t endpoint = 0xf0ef;
  EXPECT_EQ(RightsOf(alice_, made.handles[0]), endpoint);
  EXPECT_EQ(RightsOf(alice_, made.handles[1]), endpoint);
  EXPECT_EQ(RightsOf(alice_, registry_.OpenBuffer(alice_, "named", kEp0)->handle), endpoint);
  // No READ, WRITE, MAP and SIGNAL_PEER.
  EXPECT_EQ(RightsOf(alice_, MakeRegion().handle), 0xd0c3u);
}

TEST_F(RegistryHandles, AreCheckedBeforeTheirObjectAndThatBeforeTheirRights) {
  const CreatedBuffer made = Make();
  const Token region = Duplicate(alice_, MakeRegion().handle, 0).value();
  const Token endpoint = Duplicate(alice_, made.handles[0], 0).value();
  const uint32_t read = HandleRights::kRead;
  EXPECT_THAT(registry_.ResolveEndpoint(bob_, region, read), HasReason(kBadHandle));
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, region, read), HasReason(kWrongObject));
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, endpoint, read), HasReason(kAccessDenied));
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, endpoint, 0), IsOk());
  EXPECT_THAT(registry_.ResolveSharedRegion(bob_, endpoint, read), HasReason(kBadHandle));
  EXPECT_THAT(registry_.ResolveSharedRegion(alice_, endpoint, read), HasReason(kWrongObject));
  EXPECT_THAT(registry_.ResolveSharedRegion(alice_, region, read), HasReason(kAccessDenied));
  EXPECT_THAT(registry_.ResolveSharedRegion(alice_, region, 0), IsOk());
  EXPECT_THAT(registry_.IssueTicket(alice_, region, std::nullopt, 0), HasReason(kWrongObject));
}

TEST_F(RegistryHandles, TheRightThatIsMissingIsNamed) {
  const CreatedBuffer made = Make();
  for (const uint32_t bit : kAllBits) {
    const Token without = Without(made.handles[0], bit);
    EXPECT_THAT(registry_.ResolveEndpoint(alice_, without, bit), HasReason(kAccessDenied)) << bit;
    const uint32_t others = HandleRights::kEndpointDefault & ~bit;
    EXPECT_THAT(registry_.ResolveEndpoint(alice_, without, others), IsOk()) << bit;
  }
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, Without(made.handles[0], HandleRights::kSignalPeer),
                                        HandleRights::kSignalPeer | HandleRights::kWait),
              StatusIs(absl::StatusCode::kPermissionDenied, "the handle has no right SIGNAL_PEER"));
}

TEST_F(RegistryHandles, AnAttachmentHasTheRightsOfTheHandleItWasMadeOf) {
  const CreatedBuffer made = Make();
  const uint32_t rights = HandleRights::kRead | HandleRights::kMap;
  const Token handle = Duplicate(alice_, made.handles[0], rights).value();
  const auto attachment = Redeem(TicketOf(alice_, handle), 1);
  ASSERT_THAT(attachment, IsOk());
  EXPECT_EQ(attachment->held().rights.bits(), rights);
  EXPECT_EQ(registry_.attachments().at(attachment->id).rights.bits(), rights);
}

TEST_F(RegistryHandles, ATicketForAnotherUidNeedsTransfer) {
  const CreatedBuffer made = Make();
  const Token kept = Without(made.handles[0], HandleRights::kTransfer);
  observer_.Take();
  EXPECT_THAT(registry_.IssueTicket(alice_, kept, 2, 0),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right TRANSFER"));
  ExpectNothingHappened(3);
  // To name oneself is no transfer.
  EXPECT_THAT(registry_.IssueTicket(alice_, kept, 1, 0), IsOk());
}

// --- DuplicateHandle -----------------------------------------------------------------------------

TEST_F(RegistryHandles, ADuplicateIsAHoldOfItsOwn) {
  const CreatedBuffer made = Make();
  ASSERT_OK_AND_ASSIGN(const Token copy, Duplicate(alice_, made.handles[0]));
  EXPECT_FALSE(copy == made.handles[0]);
  EXPECT_EQ(RightsOf(alice_, copy), HandleRights::kEndpointDefault);
  EXPECT_EQ(Held(alice_, copy).endpoint, kEp0);
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[0]), IsOk());
  EXPECT_FALSE(made.buffer->endpoint(kEp0).closed);
  EXPECT_TRUE(Knows(alice_, copy));
  ASSERT_THAT(registry_.CloseHandle(alice_, copy), IsOk());
  EXPECT_TRUE(made.buffer->endpoint(kEp0).closed);
}

// A duplication that is wrong in every way, mended from the first complaint to the last.
TEST_F(RegistryHandles, DuplicationIsCheckedInThisOrder) {
  const CreatedBuffer made = Make();
  const uint32_t neither = HandleRights::kDuplicate | HandleRights::kTransfer;
  const Token mute = Without(made.handles[0], neither);
  const Token kept = Without(made.handles[0], HandleRights::kTransfer);
  limits_.handles_max = 4;
  observer_.Take();
  const uint32_t too_much = HandleRights::kEndpointDefault | 1u << 4;
  EXPECT_THAT(Duplicate(bob_, mute, too_much, 3), HasReason(kBadHandle));
  EXPECT_THAT(Duplicate(alice_, Token::Random(), too_much, 3), HasReason(kBadHandle));
  EXPECT_THAT(Duplicate(alice_, mute, too_much, 3),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right DUPLICATE"));
  EXPECT_THAT(Duplicate(alice_, kept, too_much, 3),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right TRANSFER"));
  EXPECT_THAT(Duplicate(alice_, kept, too_much, 1), HasReason(kInvalid));
  EXPECT_THAT(Duplicate(alice_, made.handles[0], too_much, 3), HasReason(kInvalid));
  EXPECT_THAT(Duplicate(alice_, made.handles[0], HandleRights::kRead, 3), HasReason(kQuota));
  ExpectNothingHappened(4);
  limits_.handles_max = 5;
  EXPECT_THAT(Duplicate(alice_, made.handles[0], HandleRights::kRead, 3), IsOk());
}

TEST_F(RegistryHandles, RightsOnlyShrink) {
  const CreatedBuffer made = Make();
  for (const uint32_t bit : kAllBits) {
    ASSERT_OK_AND_ASSIGN(const Token one,
                         Duplicate(alice_, made.handles[0], bit | HandleRights::kDuplicate));
    EXPECT_EQ(RightsOf(alice_, one), bit | HandleRights::kDuplicate);
    for (const uint32_t other : kAllBits) {
      const bool has = other == bit || other == HandleRights::kDuplicate;
      EXPECT_EQ(Duplicate(alice_, one, other).ok(), has) << bit << " " << other;
    }
    // And what was taken away does not come back.
    ASSERT_OK_AND_ASSIGN(const Token same, Duplicate(alice_, one));
    EXPECT_EQ(RightsOf(alice_, same), bit | HandleRights::kDuplicate);
  }
  EXPECT_THAT(Duplicate(alice_, made.handles[0], 1u << 4),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "rights: 0x10, the source has 0xf0ef; rights can only shrink"));
  EXPECT_THAT(Duplicate(alice_, made.handles[0], HandleRights::kSameRights | HandleRights::kRead),
              HasReason(kInvalid));
  EXPECT_EQ(RightsOf(alice_, Duplicate(alice_, made.handles[0], 0).value()), 0u);
}

TEST_F(RegistryHandles, ADuplicateForAnotherUidIsTheOthersAlone) {
  const CreatedBuffer made = Make();
  ASSERT_OK_AND_ASSIGN(const Token given,
                       Duplicate(alice_, made.handles[1], HandleRights::kSameRights, 2));
  EXPECT_TRUE(Knows(bob_, given));
  EXPECT_FALSE(Knows(alice_, given));
  EXPECT_FALSE(Knows(root_, given));
  EXPECT_THAT(registry_.CloseHandle(alice_, given), HasReason(kBadHandle));
  EXPECT_THAT(registry_.KeepAlive(alice_, {given}, 0), HasReason(kBadHandle));
  // It lives with the process that made it, not with the one that uses it.
  registry_.ProcessEnded(bob_.process, {.kind = shm::CloseKind::kExited});
  EXPECT_TRUE(Knows(bob_, given));
  registry_.ProcessEnded(alice_.process, {.kind = shm::CloseKind::kExited});
  EXPECT_FALSE(Knows(bob_, given));
  EXPECT_EQ(registry_.Find(1), nullptr);
}

TEST_F(RegistryHandles, ARegionsHandlesAreDuplicatedTheSameWay) {
  const CreatedSharedRegion made = MakeRegion();
  ASSERT_OK_AND_ASSIGN(const Token copy, Duplicate(alice_, made.handle, HandleRights::kWait, 2));
  EXPECT_EQ(registry_.ResolveSharedRegion(bob_, copy, HandleRights::kWait).value(), made.region);
  EXPECT_THAT(Duplicate(alice_, made.handle, HandleRights::kRead), HasReason(kInvalid));
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handle), IsOk());
  EXPECT_EQ(registry_.FindSharedRegion(1), made.region);
  ASSERT_THAT(registry_.CloseHandle(bob_, copy), IsOk());
  EXPECT_EQ(registry_.FindSharedRegion(1), nullptr);
}

// --- ReplaceHandle -------------------------------------------------------------------------------

TEST_F(RegistryHandles, AReplacementTakesItsSourcesPlace) {
  const CreatedBuffer made = Make();
  // Without DUPLICATE, and with every handle taken.
  const Token source = Without(made.handles[0], HandleRights::kDuplicate);
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[0]), IsOk());
  limits_.handles_max = 2;
  observer_.Take();
  observer_.gone_handles.clear();
  ASSERT_OK_AND_ASSIGN(const Token made_of_it, Replace(alice_, source, HandleRights::kRead));
  // The endpoint was held all the time, and so was something of the process.
  EXPECT_THAT(observer_.Take(), ElementsAre("handle gone"));
  EXPECT_THAT(observer_.gone_handles, ElementsAre(source));
  EXPECT_FALSE(Knows(alice_, source));
  EXPECT_EQ(RightsOf(alice_, made_of_it), HandleRights::kRead);
  EXPECT_FALSE(made.buffer->endpoint(kEp0).closed);
  EXPECT_EQ(registry_.handle_count(), 2u);
}

TEST_F(RegistryHandles, AReplacementByAnotherProcessMovesWithIt) {
  const CreatedBuffer made = Make();
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[1]), IsOk());
  observer_.Take();
  ASSERT_OK_AND_ASSIGN(const Token moved,
                       Replace(alice_again_, made.handles[0], HandleRights::kSameRights));
  EXPECT_THAT(observer_.Take(),
              ElementsAre("process 12 holds", "process 11 holds nothing", "handle gone"));
  registry_.ProcessEnded(alice_.process, {.kind = shm::CloseKind::kExited});
  EXPECT_EQ(RightsOf(alice_, moved), HandleRights::kEndpointDefault);
}

TEST_F(RegistryHandles, AReplacementThatFailsSpendsItsSourceToo) {
  const CreatedBuffer made = Make();
  observer_.Take();
  EXPECT_THAT(Replace(alice_, made.handles[0], 1u << 4), HasReason(kInvalid));
  EXPECT_FALSE(Knows(alice_, made.handles[0]));
  EXPECT_THAT(observer_.Take(), ElementsAre("unheld 1 ep0", "handle gone", "closed 1 ep0 1 0"));
  const Token kept = Without(made.handles[1], HandleRights::kTransfer);
  observer_.gone_handles.clear();
  EXPECT_THAT(Replace(alice_, kept, HandleRights::kRead, 2),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right TRANSFER"));
  EXPECT_THAT(observer_.gone_handles, ElementsAre(kept));
  EXPECT_FALSE(made.buffer->endpoint(kEp1).closed);
}

TEST_F(RegistryHandles, AHandleOfAnotherUidCannotBeReplaced) {
  const CreatedBuffer made = Make();
  observer_.Take();
  EXPECT_THAT(Replace(bob_, made.handles[0], HandleRights::kRead), HasReason(kBadHandle));
  EXPECT_THAT(Replace(root_, made.handles[0], 1u << 4), HasReason(kBadHandle));
  EXPECT_THAT(Replace(alice_, Token::Random(), HandleRights::kRead), HasReason(kBadHandle));
  ExpectNothingHappened(2);
  EXPECT_TRUE(Knows(alice_, made.handles[0]));
}

TEST_F(RegistryHandles, ARegionLivesThroughAReplacement) {
  const CreatedSharedRegion made = MakeRegion();
  observer_.Take();
  ASSERT_OK_AND_ASSIGN(const Token bobs, Replace(alice_, made.handle, HandleRights::kInspect, 2));
  EXPECT_THAT(observer_.Take(), ElementsAre("handle gone"));
  EXPECT_EQ(registry_.ResolveSharedRegion(bob_, bobs, HandleRights::kInspect).value(), made.region);
  EXPECT_THAT(Replace(bob_, bobs, HandleRights::kRead), HasReason(kInvalid));
  EXPECT_THAT(observer_.Take(),
              ElementsAre("process 11 holds nothing", "region gone 1 of uid 1", "handle gone"));
}

// --- Leases --------------------------------------------------------------------------------------

TEST_F(RegistryHandles, ALeasedHandleOutlivesItsProcessButNotItsTime) {
  ASSERT_THAT(TryMake("leased", {RingSpec()}, alice_, {}, {}, LeaseOf(1000)), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("created 1 \"leased\" 16384"));
  registry_.ProcessEnded(alice_.process, {.kind = shm::CloseKind::kKilled, .code = 9});
  ExpectNothingHappened(2);
  EXPECT_EQ(registry_.NextExpiryNs(), clock_.MonotonicNs() + 1'000'000'000);
  clock_.AdvanceNs(999'999'999);
  ExpireNow();
  ExpectNothingHappened(2);
  clock_.AdvanceNs(1);
  ExpireNow();
  EXPECT_EQ(registry_.handle_count(), 0u);
  EXPECT_EQ(registry_.Find(1), nullptr);
  EXPECT_FALSE(registry_.NextExpiryNs().has_value());
  std::vector<std::string> told = observer_.Take();
  EXPECT_EQ(told.back(), "gone 1");
  EXPECT_THAT(told, ::testing::IsSupersetOf({"closed 1 ep0 5 0", "closed 1 ep1 5 0"}));
}

TEST_F(RegistryHandles, EveryWayToAHandleGivesALease) {
  const CreatedBuffer made = Make("named");
  ASSERT_OK_AND_ASSIGN(const OpenedEndpoint opened,
                       registry_.OpenBuffer(alice_, "named", kEp0, LeaseOf(10)));
  ASSERT_OK_AND_ASSIGN(const CreatedSharedRegion region,
                       registry_.CreateSharedRegion(alice_, 8192, clock_.WallTime(), LeaseOf(20)));
  ASSERT_OK_AND_ASSIGN(const Token copy,
                       registry_.DuplicateHandle(alice_, made.handles[0], {.lease = LeaseOf(30)}));
  ASSERT_OK_AND_ASSIGN(const Token instead,
                       registry_.ReplaceHandle(alice_, made.handles[1], {.lease = LeaseOf(40)}));
  const Token all[] = {opened.handle, region.handle, copy, instead};
  for (size_t gone = 0; gone <= 4; ++gone) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(Knows(alice_, all[i]), i >= gone) << gone << " " << i;
    clock_.AdvanceMs(10);
    ExpireNow();
  }
  EXPECT_EQ(registry_.shared_regions().size(), 0u);
  EXPECT_TRUE(made.buffer->endpoint(kEp1).closed);
  // The first handle had no lease, and what was made of it does not change that.
  EXPECT_TRUE(Knows(alice_, made.handles[0]));
}

TEST_F(RegistryHandles, KeepAliveCountsFromNowAndForEachItsOwnLease) {
  const CreatedBuffer made = Make();
  const Token copy =
      registry_.DuplicateHandle(alice_, made.handles[0], {.lease = LeaseOf(100)}).value();
  const Token longer =
      registry_.DuplicateHandle(alice_, made.handles[0], {.lease = LeaseOf(300)}).value();
  clock_.AdvanceMs(99);
  // A handle without a lease is left as it is; one that is named twice counts once.
  ASSERT_THAT(KeepAlive({copy, made.handles[0], copy}), IsOk());
  EXPECT_EQ(registry_.NextExpiryNs(), clock_.MonotonicNs() + 100'000'000);
  clock_.AdvanceMs(99);
  ExpireNow();
  EXPECT_TRUE(Knows(alice_, copy));
  ASSERT_THAT(KeepAlive({longer}), IsOk());
  clock_.AdvanceMs(1);
  ExpireNow();
  EXPECT_FALSE(Knows(alice_, copy));
  clock_.AdvanceMs(298);
  ExpireNow();
  EXPECT_TRUE(Knows(alice_, longer));
  clock_.AdvanceMs(1);
  ExpireNow();
  EXPECT_FALSE(Knows(alice_, longer));
  EXPECT_TRUE(Knows(alice_, made.handles[0]));
  EXPECT_THAT(KeepAlive({longer}), HasReason(kBadHandle));
}

TEST_F(RegistryHandles, KeepAliveIsForAllOrNone) {
  const CreatedBuffer made = Make();
  const Token copy =
      registry_.DuplicateHandle(alice_, made.handles[0], {.lease = LeaseOf(100)}).value();
  clock_.AdvanceMs(60);
  EXPECT_THAT(KeepAlive({copy, Token::Random()}), HasReason(kBadHandle));
  EXPECT_THAT(registry_.KeepAlive(bob_, {copy}, clock_.MonotonicNs()), HasReason(kBadHandle));
  EXPECT_THAT(KeepAlive({}), IsOk());
  clock_.AdvanceMs(40);
  ExpireNow();
  EXPECT_FALSE(Knows(alice_, copy));
}

TEST_F(RegistryHandles, ALeaseEndsWhereTheTicketBegins) {
  const CreatedBuffer made = TryMake("", {RingSpec()}, alice_, {}, {}, LeaseOf(10)).value();
  const Token ticket = TicketOf(alice_, made.handles[0]);
  EXPECT_THAT(KeepAlive({ticket}), HasReason(kBadHandle));
  clock_.AdvanceMs(10);
  ExpireNow();
  EXPECT_FALSE(Knows(alice_, made.handles[1]));
  EXPECT_THAT(Redeem(ticket, 1), IsOk());
}

TEST_F(RegistryHandles, HowAnAttachmentEndedSaysMoreThanHowALeaseDid) {
  const CreatedBuffer made = Make();
  const Token leased =
      registry_.DuplicateHandle(alice_, made.handles[0], {.lease = LeaseOf(10)}).value();
  const auto attachment = Redeem(TicketOf(alice_, made.handles[0]), 1);
  registry_.EndAttachment(attachment->id, {.kind = shm::CloseKind::kKilled, .code = 9});
  observer_.Take();
  clock_.AdvanceMs(10);
  ExpireNow();
  EXPECT_FALSE(Knows(alice_, leased));
  EXPECT_THAT(observer_.Take(), ElementsAre("unheld 1 ep0", "handle gone", "closed 1 ep0 3 9"));
}

// --- Limits --------------------------------------------------------------------------------------

TEST_F(RegistryHandles, EveryHandleAndTicketCountsAgainstTheLimit) {
  limits_.handles_max = 6;
  const CreatedBuffer made = Make("named");
  const CreatedSharedRegion region = MakeRegion();
  ASSERT_THAT(Duplicate(alice_, made.handles[0]), IsOk());
  const Token ticket = TicketOf(alice_, made.handles[0]);
  // 4 of 6: a pair fits exactly.
  ASSERT_THAT(TryMake("", {PlainSpec()}, alice_), IsOk());
  observer_.Take();
  EXPECT_THAT(TryMake("", {PlainSpec()}, alice_), HasReason(kQuota));
  EXPECT_THAT(registry_.OpenBuffer(alice_, "named", kEp0), HasReason(kQuota));
  EXPECT_THAT(registry_.CreateSharedRegion(alice_, 4096, clock_.WallTime()), HasReason(kQuota));
  EXPECT_THAT(Duplicate(alice_, region.handle), HasReason(kQuota));
  ExpectNothingHappened(6);
  // An attachment is none.
  ASSERT_THAT(Redeem(ticket, 1), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(alice_, "named", kEp0), IsOk());
  EXPECT_THAT(TryMake("", {PlainSpec()}, alice_), StatusIs(absl::StatusCode::kResourceExhausted,
                                                           "handles of the daemon: 6 of 6 in use"));
}

}  // namespace
}  // namespace iob::server
