// The registry's rules R1 to R5: who may hold an endpoint how, and what follows when a hold goes.

#include "server/registry.h"

#include <gmock/gmock.h>

#include <set>

#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using test::IsOk;
using test::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kUnauthenticated = absl::StatusCode::kUnauthenticated;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

class RegistryTest : public RegistryHarness {};

TEST_F(RegistryTest, CreationGivesTwoHandlesOfTheCaller) {
  const CreatedBuffer made = Make();
  EXPECT_EQ(registry_.handle_count(), 2u);
  EXPECT_EQ(Held(alice_, made.handles[0]).endpoint, kEp0);
  EXPECT_EQ(Held(alice_, made.handles[1]).endpoint, kEp1);
  EXPECT_EQ(quota_.memory_bytes(), 8192u + 4096u + 4096u);
  EXPECT_THAT(observer_.Take(), ElementsAre("created 1 \"\" 16384", "process 11 holds"));
}

TEST_F(RegistryTest, HandlesOfAnotherUidAreUnknown) {
  const CreatedBuffer made = Make();
  EXPECT_THAT(registry_.ResolveEndpoint(bob_, made.handles[0], 0), StatusIs(kUnauthenticated));
  EXPECT_THAT(registry_.CloseHandle(bob_, made.handles[0]), StatusIs(kUnauthenticated));
  EXPECT_THAT(registry_.IssueTicket(bob_, made.handles[0], std::nullopt, 0),
              StatusIs(kUnauthenticated));
  // Root too: a handle is possession, not administration.
  EXPECT_THAT(registry_.ResolveEndpoint(root_, made.handles[0], 0), StatusIs(kUnauthenticated));
  // Another process of the same uid may use it.
  EXPECT_THAT(registry_.ResolveEndpoint(alice_again_, made.handles[0], 0), IsOk());
}

TEST_F(RegistryTest, ClosingTheLastHandleClosesTheEndpointAndBothEndTheBuffer) {
  const CreatedBuffer made = Make("name");
  observer_.Take();
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[0]), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("unheld 1 ep0", "handle gone", "closed 1 ep0 1 0"));
  EXPECT_THAT(observer_.gone_handles, ElementsAre(made.handles[0]));
  EXPECT_THAT(registry_.CloseHandle(alice_, made.handles[0]), StatusIs(kUnauthenticated));
  EXPECT_NE(registry_.Find(1), nullptr);
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[1]), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("process 11 holds nothing", "unheld 1 ep1",
                                            "handle gone", "closed 1 ep1 1 0", "gone 1"));
  EXPECT_EQ(registry_.Find(1), nullptr);
  EXPECT_EQ(quota_.memory_bytes(), 0u);
  EXPECT_THAT(TryMake("name", {RingSpec()}, alice_), IsOk());
}

TEST_F(RegistryTest, AnUnheldEndpointWhoseMemoryIsMappedIsNotClosed) {
  observer_.mapped = true;
  const CreatedBuffer made = Make();
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[0]), IsOk());
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[1]), IsOk());
  EXPECT_NE(registry_.Find(1), nullptr);
  EXPECT_FALSE(registry_.Find(1)->endpoint(kEp0).closed);
  registry_.EndpointReleased(1, kEp0);
  EXPECT_TRUE(registry_.Find(1)->endpoint(kEp0).closed);
  registry_.EndpointReleased(1, kEp0);
  registry_.EndpointReleased(1, kEp1);
  EXPECT_EQ(registry_.Find(1), nullptr);
  registry_.EndpointReleased(1, kEp1);
}

TEST_F(RegistryTest, AnUnheldEndpointCanBeOpenedAgainAndAClosedOneCannot) {
  observer_.mapped = true;
  const CreatedBuffer made = Make("again");
  ASSERT_THAT(registry_.CloseHandle(alice_, made.handles[0]), IsOk());
  const auto opened = registry_.OpenBuffer(alice_, "again", kEp0);
  ASSERT_THAT(opened, IsOk());
  // Too late: it is held again.
  registry_.EndpointReleased(1, kEp0);
  EXPECT_FALSE(made.buffer->endpoint(kEp0).closed);
  observer_.mapped = false;
  ASSERT_THAT(registry_.CloseHandle(alice_, opened->handle), IsOk());
  EXPECT_TRUE(made.buffer->endpoint(kEp0).closed);
  const auto closed = registry_.OpenBuffer(alice_, "again", kEp0);
  EXPECT_THAT(closed, StatusIs(absl::StatusCode::kFailedPrecondition, "ep0 is closed for good"));
  EXPECT_EQ(ReasonOf(closed.status()), v1::ERROR_REASON_PEER_CLOSED);
  EXPECT_THAT(registry_.OpenBuffer(alice_, "again", kEp1), IsOk());
}

TEST_F(RegistryTest, NamesAreUniqueWhileTheyLive) {
  const CreatedBuffer made = Make("one");
  const auto taken = TryMake("one", {RingSpec()}, bob_);
  EXPECT_THAT(taken, StatusIs(absl::StatusCode::kAlreadyExists, "\"one\" is taken"));
  EXPECT_EQ(quota_.buffers(), 1u);
  // A deleted buffer gives its name back at once, though its memory is still mapped somewhere.
  observer_.mapped = true;
  ASSERT_THAT(registry_.DeleteBuffer(alice_, *made.buffer, false), IsOk());
  const auto second = TryMake("one", {RingSpec()}, bob_);
  ASSERT_THAT(second, IsOk());
  // And the end of the first does not take the name from the second.
  registry_.EndpointReleased(1, kEp0);
  registry_.EndpointReleased(1, kEp1);
  EXPECT_EQ(registry_.Find(1), nullptr);
  EXPECT_THAT(registry_.OpenBuffer(bob_, "one", kEp0), IsOk());
}

TEST_F(RegistryTest, OpenRulesSayWhoMayAndWhoMayKnow) {
  const OpenRule for_bob = {.anyone = false, .uids = {2}};
  ASSERT_THAT(TryMake("shared", {RingSpec()}, alice_, {}, for_bob), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(bob_, "shared", kEp1), IsOk());
  const auto refused = registry_.OpenBuffer(bob_, "shared", kEp0);
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kPermissionDenied, "does not let uid 2 open ep0"));
  EXPECT_EQ(ReasonOf(refused.status()), v1::ERROR_REASON_POLICY);
  // Who may open neither cannot tell the buffer from one that is not there.
  const Caller carol = CallerOf(3, 41);
  EXPECT_EQ(registry_.OpenBuffer(carol, "shared", kEp0).status(),
            registry_.OpenBuffer(carol, "nothing", kEp0).status());
  EXPECT_THAT(registry_.OpenBuffer(root_, "shared", kEp0), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(alice_again_, "shared", kEp0), IsOk());
  ASSERT_THAT(TryMake("public", {RingSpec()}, alice_, {.anyone = true, .uids = {}}), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(carol, "public", kEp0), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(carol, "", kEp0), StatusIs(kNotFound));
}

TEST_F(RegistryTest, OnlyTheOwnerAndRootAdminister) {
  const CreatedBuffer made = TryMake("mine", {RingSpec()}, alice_, {.anyone = true, .uids = {}},
                                     {.anyone = true, .uids = {}})
                                 .value();
  EXPECT_THAT(registry_.FindForOwner(bob_, made.buffer->koid()), StatusIs(kNotFound));
  EXPECT_THAT(registry_.FindForOwner(bob_, "mine"), StatusIs(kNotFound));
  EXPECT_THAT(registry_.FindForOwner(alice_again_, "mine"), IsOk());
  EXPECT_THAT(registry_.FindForOwner(root_, made.buffer->koid()), IsOk());
  EXPECT_THAT(registry_.FindForOwner(root_, Koid{999}), StatusIs(kNotFound));
  EXPECT_THAT(registry_.List(bob_, 0, "", 10), IsEmpty());
  EXPECT_THAT(registry_.List(root_, 0, "", 10), ElementsAre(made.buffer));
  EXPECT_THAT(registry_.List(alice_, 0, "no", 10), IsEmpty());
}

TEST_F(RegistryTest, ListsInOrderOfCreationPageByPage) {
  std::vector<Buffer*> made;
  for (int i = 0; i < 5; ++i) made.push_back(Make(absl::StrCat("b", i)).buffer);
  EXPECT_EQ(registry_.List(alice_, 0, "b", 2), (std::vector<Buffer*>{made[0], made[1]}));
  EXPECT_EQ(registry_.List(alice_, made[1]->koid(), "", 10),
            (std::vector<Buffer*>{made[2], made[3], made[4]}));
  EXPECT_THAT(registry_.List(alice_, made[4]->koid(), "", 10), IsEmpty());
}

TEST_F(RegistryTest, ATicketIsSpentByOneRedemption) {
  const CreatedBuffer made = Make();
  const Token ticket = TicketOf(alice_, made.handles[0]);
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, made.handles[0], 0), StatusIs(kUnauthenticated));
  EXPECT_EQ(registry_.handle_count(), 2u);
  const auto attachment = Redeem(ticket, 1);
  ASSERT_THAT(attachment, IsOk());
  EXPECT_EQ(attachment->endpoint, kEp0);
  EXPECT_EQ(registry_.handle_count(), 1u);
  EXPECT_EQ(made.buffer->endpoint(kEp0).attachments.size(), 1u);
  EXPECT_THAT(Redeem(ticket, 1), StatusIs(kUnauthenticated));
  EXPECT_THAT(Redeem(Token::Random(), 1), StatusIs(kUnauthenticated));
  registry_.EndAttachment(attachment->id, {.kind = shm::CloseKind::kExited, .code = 3});
  EXPECT_TRUE(made.buffer->endpoint(kEp0).closed);
  EXPECT_EQ(made.buffer->endpoint(kEp0).reason,
            (shm::CloseReason{.kind = shm::CloseKind::kExited, .code = 3}));
}

TEST_F(RegistryTest, LookingATicketUpDoesNotSpendIt) {
  const CreatedBuffer made = Make();
  const Token ticket = TicketOf(alice_, made.handles[1]);
  for (int i = 0; i < 3; ++i) {
    const auto seen = registry_.LookUpTicket(ticket, {.uid = 1, .gid = 1, .pid = 1}, 0);
    ASSERT_THAT(seen, IsOk());
    EXPECT_EQ(seen->id, 0u);
  }
  EXPECT_THAT(Redeem(ticket, 1), IsOk());
}

TEST_F(RegistryTest, ATicketIsForItsRecipientAlone) {
  const CreatedBuffer made = Make();
  const Token own = TicketOf(alice_, made.handles[0]);
  EXPECT_THAT(Redeem(own, 2), StatusIs(kUnauthenticated));
  EXPECT_THAT(Redeem(own, 0), StatusIs(kUnauthenticated));
  EXPECT_THAT(Redeem(own, 1), IsOk());
  const Token given = TicketOf(alice_, made.handles[1], 2);
  EXPECT_THAT(Redeem(given, 1), StatusIs(kUnauthenticated));
  EXPECT_THAT(Redeem(given, 2), IsOk());
}

TEST_F(RegistryTest, ATicketRunsOut) {
  const CreatedBuffer made = Make();
  const Token early = TicketOf(alice_, made.handles[0]);
  const int64_t first_expiry_ns = registry_.NextExpiryNs().value();
  clock_.AdvanceMs(1);
  const Token late = TicketOf(alice_, made.handles[1]);
  clock_.AdvanceNs(first_expiry_ns - clock_.MonotonicNs() - 1);
  registry_.Expire(clock_.MonotonicNs());
  EXPECT_EQ(registry_.handle_count(), 2u);
  EXPECT_THAT(registry_.LookUpTicket(early, {.uid = 1, .gid = 1, .pid = 1}, clock_.MonotonicNs()),
              IsOk());
  clock_.AdvanceNs(1);
  // From that nanosecond on, swept or not.
  EXPECT_THAT(Redeem(early, 1), StatusIs(kUnauthenticated));
  observer_.Take();
  registry_.Expire(clock_.MonotonicNs());
  EXPECT_THAT(observer_.Take(), ElementsAre("unheld 1 ep0", "closed 1 ep0 5 0"));
  EXPECT_THAT(Redeem(late, 1), IsOk());
  clock_.AdvanceMs(limits_.ticket_lifetime_ms);
  registry_.Expire(clock_.MonotonicNs());
  EXPECT_FALSE(registry_.NextExpiryNs().has_value());
  EXPECT_FALSE(made.buffer->endpoint(kEp1).closed);
}

TEST_F(RegistryTest, ProcessEndedClosesItsHandlesAndNoOthers) {
  const CreatedBuffer first = Make("first");
  const CreatedBuffer second = TryMake("second", {RingSpec()}, alice_again_).value();
  const Token ticket = TicketOf(alice_, first.handles[1]);
  observer_.Take();
  registry_.ProcessEnded(alice_.process, {.kind = shm::CloseKind::kKilled, .code = 9});
  EXPECT_THAT(observer_.Take(), ElementsAre("process 11 holds nothing", "unheld 1 ep0",
                                            "handle gone", "closed 1 ep0 3 9"));
  // The ticket is under way, whoever asked for it.
  EXPECT_THAT(Redeem(ticket, 1), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("attached 1 ep1 uid 1"));
  EXPECT_THAT(registry_.ResolveEndpoint(alice_again_, second.handles[0], 0), IsOk());
  registry_.ProcessEnded(alice_.process, {.kind = shm::CloseKind::kKilled, .code = 9});
  registry_.ProcessEnded(777, {.kind = shm::CloseKind::kKilled, .code = 9});
  EXPECT_THAT(observer_.Take(), IsEmpty());
}

TEST_F(RegistryTest, DeletionOfAnAttachedBufferNeedsForce) {
  const CreatedBuffer made = Make();
  const auto attachment = Redeem(TicketOf(alice_, made.handles[0]), 1);
  observer_.Take();
  const absl::Status in_use = registry_.DeleteBuffer(alice_, *made.buffer, false);
  EXPECT_THAT(in_use, StatusIs(absl::StatusCode::kFailedPrecondition, "attached 1 times"));
  EXPECT_EQ(ReasonOf(in_use), v1::ERROR_REASON_IN_USE);
  EXPECT_THAT(observer_.Take(), IsEmpty());
  EXPECT_THAT(registry_.ResolveEndpoint(alice_, made.handles[1], 0), IsOk());
  ASSERT_THAT(registry_.DeleteBuffer(alice_, *made.buffer, true), IsOk());
  EXPECT_THAT(observer_.Take(),
              ElementsAre(absl::StrCat("revoke ", attachment->id), "process 11 holds nothing",
                          "unheld 1 ep1", "handle gone", "detached 1 ep0 uid 1 4", "unheld 1 ep0",
                          "closed 1 ep1 4 0", "closed 1 ep0 4 0", "gone 1"));
  EXPECT_THAT(registry_.attachments(), IsEmpty());
}

TEST_F(RegistryTest, DeletionTakesHandlesAndTickets) {
  const CreatedBuffer made = Make("name");
  const Token ticket = TicketOf(alice_, made.handles[0]);
  ASSERT_THAT(registry_.OpenBuffer(root_, "name", kEp0), IsOk());
  ASSERT_THAT(registry_.DeleteBuffer(root_, *made.buffer, false), IsOk());
  EXPECT_EQ(registry_.handle_count(), 0u);
  EXPECT_THAT(registry_.buffers(), IsEmpty());
  EXPECT_THAT(Redeem(ticket, 1), StatusIs(kUnauthenticated));
  EXPECT_THAT(registry_.OpenBuffer(alice_, "name", kEp0), StatusIs(kNotFound));
}

TEST_F(RegistryTest, RequiredEnforcementRefusesTheWeakHolderAndKeepsTheTicket) {
  RegionSpec spec = PlainSpec(4096, 0x13);
  spec.required_enforcement = v1::ENFORCEMENT_DAC;
  const CreatedBuffer made = TryMake("", {RingSpec(), spec}, alice_).value();
  const Token for_broker = TicketOf(alice_, made.handles[1], kBrokerUid);
  for (int i = 0; i < 2; ++i) {
    const auto refused = Redeem(for_broker, kBrokerUid);
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition,
                                  "regions[1]: ENFORCEMENT_DAC is required"));
    EXPECT_EQ(ReasonOf(refused.status()), v1::ERROR_REASON_ENFORCEMENT);
  }
  EXPECT_EQ(registry_.handle_count(), 2u);
  EXPECT_THAT(Redeem(TicketOf(alice_, made.handles[0], kBrokerUid), kBrokerUid), IsOk());
}

TEST_F(RegistryTest, TheNumberOfHandlesAndAttachmentsIsBounded) {
  limits_.handles_max = 5;
  const CreatedBuffer first = Make("first");
  const CreatedBuffer second = Make("second");
  const auto no_pair = TryMake("", {RingSpec()}, alice_);
  EXPECT_THAT(no_pair, StatusIs(absl::StatusCode::kResourceExhausted,
                                "handles of the daemon: 4 of 5 in use"));
  EXPECT_EQ(quota_.buffers(), 2u);
  ASSERT_THAT(registry_.OpenBuffer(alice_, "first", kEp0), IsOk());
  EXPECT_THAT(registry_.OpenBuffer(alice_, "first", kEp0),
              StatusIs(absl::StatusCode::kResourceExhausted));
  limits_.attachments_max = 1;
  const Token ticket = TicketOf(alice_, first.handles[0]);
  ASSERT_THAT(Redeem(TicketOf(alice_, second.handles[0]), 1), IsOk());
  EXPECT_THAT(Redeem(ticket, 1),
              StatusIs(absl::StatusCode::kResourceExhausted, "attachments of the daemon: 1 of 1"));
  limits_.attachments_max = 2;
  EXPECT_THAT(Redeem(ticket, 1), IsOk());
}

TEST_F(RegistryTest, AFailedCreationChangesNothing) {
  limits_.memory_bytes_per_uid_max = 20000;
  EXPECT_THAT(TryMake("a", {RingSpec(), RingSpec()}, alice_),
              StatusIs(absl::StatusCode::kResourceExhausted, "uid 1"));
  EXPECT_THAT(TryMake("a\n", {RingSpec()}, alice_), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(quota_.memory_bytes(), 0u);
  EXPECT_EQ(registry_.buffers_created(), 0u);
  EXPECT_THAT(observer_.Take(), IsEmpty());
  // The failures took no ids either.
  EXPECT_EQ(Make("a").buffer->koid(), 1u);
}

// Somebody raised --region-max as far as it goes, and a client's sizes added up to a little more
// than 2^64: the quota saw a few bytes, and the daemon asked the kernel for all of the machine's
// memory.
TEST_F(RegistryTest, SizesThatAddUpBeyondAllNumbersAreRefusedByTheQuota) {
  limits_.region_bytes_max = UINT64_MAX;
  const auto refused = TryMake("", {PlainSpec(UINT64_MAX)}, alice_);
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kResourceExhausted, "memory bytes of the daemon: 0 of"));
}

TEST_F(RegistryTest, KoidsAreNeverReused) {
  std::set<Koid> seen;
  for (int i = 0; i < 50; ++i) {
    const CreatedBuffer made = TryMake("", {RingSpec(), PlainSpec()}, alice_).value();
    EXPECT_TRUE(seen.insert(made.buffer->koid()).second);
    for (const shm::EndpointId endpoint : {kEp0, kEp1}) {
      EXPECT_TRUE(seen.insert(made.buffer->endpoint(endpoint).koid).second);
    }
    for (const Region& region : made.buffer->regions()) {
      EXPECT_TRUE(seen.insert(region.koid()).second);
    }
    ASSERT_THAT(registry_.DeleteBuffer(alice_, *made.buffer, true), IsOk());
  }
}

TEST_F(RegistryTest, TheBooksOfAGoneBufferAreKept) {
  const CreatedBuffer made = Make();
  Region& region = made.buffer->regions()[0];
  region.CountStored(kEp1, 10);
  region.CountRejected(kEp1, shm::LossCause::kFull, 5);
  ASSERT_THAT(registry_.DeleteBuffer(alice_, *made.buffer, false), IsOk());
  EXPECT_EQ(registry_.retired().ledger.attempted_records, 2u);
  EXPECT_EQ(registry_.retired().ledger.stored_bytes, 10u);
}

}  // namespace
}  // namespace iob::server
