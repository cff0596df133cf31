// Names and signals: what is checked before they change, who sees the change, and what stays.

#include <gmock/gmock.h>

#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

using shm::HandleRights;
using test::IsOk;
using test::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr auto kAccessDenied = v1::ERROR_REASON_ACCESS_DENIED;
constexpr auto kBadHandle = v1::ERROR_REASON_BAD_HANDLE;
constexpr auto kInvalid = v1::ERROR_REASON_INVALID_ARGUMENT;
constexpr auto kNameTaken = v1::ERROR_REASON_NAME_TAKEN;
constexpr auto kNotFound = v1::ERROR_REASON_NOT_FOUND;
constexpr auto kPeerClosedReason = v1::ERROR_REASON_PEER_CLOSED;

constexpr uint32_t kUser0 = 1u << 24;
constexpr uint32_t kUser7 = 1u << 31;

class RegistryNames : public RegistryHarness {
 protected:
  absl::Status SetName(const Token& handle, const std::string& name) {
    return registry_.SetName(Held(alice_, handle), name);
  }
  bool CanBeOpened(const std::string& name) {
    const auto opened = registry_.OpenBuffer(alice_, name, kEp0);
    if (!opened.ok()) return false;
    EXPECT_THAT(registry_.CloseHandle(alice_, opened->handle), IsOk());
    return true;
  }
};

TEST_F(RegistryNames, AnyHolderWithTheRightRenamesForAll) {
  const CreatedBuffer made = Make("old");
  observer_.Take();
  ASSERT_THAT(SetName(made.handles[1], "new"), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("renamed 1 \"old\" \"new\""));
  EXPECT_EQ(made.buffer->name(), "new");
  EXPECT_TRUE(CanBeOpened("new"));
  EXPECT_THAT(registry_.OpenBuffer(alice_, "old", kEp0), HasReason(kNotFound));
  EXPECT_THAT(registry_.FindForOwner(alice_, "old"), HasReason(kNotFound));
  EXPECT_EQ(registry_.FindForOwner(alice_, "new").value(), made.buffer);
  EXPECT_THAT(registry_.List(alice_, 0, "new", 10), ElementsAre(made.buffer));
  // The old one is free at once.
  EXPECT_THAT(TryMake("old", {PlainSpec()}, bob_), IsOk());
  // Through an attachment too.
  const auto attachment = Redeem(TicketOf(alice_, made.handles[0]), 1);
  ASSERT_THAT(registry_.SetName(attachment->held(), "newest"), IsOk());
  EXPECT_TRUE(CanBeOpened("newest"));
}

TEST_F(RegistryNames, AreCutToThirtyOneBytesWhenTheyAreSet) {
  const CreatedBuffer made = Make();
  const std::string most(31, 'n');
  ASSERT_THAT(SetName(made.handles[0], most + "and more"), IsOk());
  EXPECT_EQ(made.buffer->name(), most);
  EXPECT_TRUE(CanBeOpened(most));
  // What is cut off may be anything; what is left is what counts.
  ASSERT_THAT(SetName(made.handles[0], std::string(31, 'm') + "\n"), IsOk());
  const CreatedBuffer other = Make();
  EXPECT_THAT(SetName(other.handles[0], std::string(31, 'm') + "other"), HasReason(kNameTaken));
  ASSERT_THAT(SetName(other.handles[0], std::string(1 << 20, 'x')), IsOk());
  EXPECT_EQ(other.buffer->name(), std::string(31, 'x'));
}

TEST_F(RegistryNames, ATakenNameStaysWhereItIs) {
  const CreatedBuffer first = Make("first");
  const CreatedBuffer second = TryMake("second", {PlainSpec()}, bob_).value();
  observer_.Take();
  EXPECT_THAT(SetName(first.handles[0], "second"),
              StatusIs(absl::StatusCode::kAlreadyExists, "\"second\" is taken"));
  EXPECT_THAT(observer_.Take(), IsEmpty());
  EXPECT_EQ(first.buffer->name(), "first");
  EXPECT_EQ(registry_.FindForOwner(alice_, "first").value(), first.buffer);
  EXPECT_EQ(registry_.FindForOwner(bob_, "second").value(), second.buffer);
  // One's own is no other's.
  EXPECT_THAT(SetName(first.handles[0], "first"), IsOk());
  EXPECT_THAT(observer_.Take(), IsEmpty()) << "nothing has changed";
  EXPECT_TRUE(CanBeOpened("first"));
}

TEST_F(RegistryNames, AnEmptyNameIsNone) {
  const CreatedBuffer made = Make("named");
  observer_.Take();
  ASSERT_THAT(SetName(made.handles[0], ""), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("renamed 1 \"named\" \"\""));
  EXPECT_FALSE(CanBeOpened("named"));
  EXPECT_FALSE(CanBeOpened(""));
  const CreatedBuffer other = Make();
  EXPECT_THAT(SetName(other.handles[0], ""), IsOk());
  ASSERT_THAT(SetName(other.handles[0], "named"), IsOk());
  ASSERT_THAT(SetName(made.handles[0], "again"), IsOk());
  EXPECT_EQ(registry_.FindForOwner(alice_, "named").value(), other.buffer);
}

TEST_F(RegistryNames, ArePrintableAndDoNotLookLikeIds) {
  const CreatedBuffer made = Make("kept");
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = {'x', static_cast<char>(byte)};
    const bool printable = byte >= 0x20 && byte < 0x7f;
    ASSERT_EQ(SetName(made.handles[0], name).ok(), printable) << byte;
    if (printable) {
      ASSERT_THAT(SetName(made.handles[0], "kept"), IsOk());
    }
    ASSERT_EQ(made.buffer->name(), "kept");
  }
  for (const char* name : {"#", "#7", "#x"}) {
    EXPECT_THAT(SetName(made.handles[0], name), HasReason(kInvalid)) << name;
  }
  EXPECT_THAT(SetName(made.handles[0], "x#7"), IsOk());
}

TEST_F(RegistryNames, TheRightIsCheckedBeforeTheName) {
  const CreatedBuffer made = Make("kept");
  const Token without = Without(made.handles[0], HandleRights::kSetProperty);
  EXPECT_THAT(SetName(without, "#"),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right SET_PROPERTY"));
  EXPECT_THAT(SetName(without, "kept"), HasReason(kAccessDenied));
  EXPECT_THAT(SetName(Without(made.handles[0], HandleRights::kGetProperty), "new"), IsOk());
}

TEST_F(RegistryNames, DeletionFreesTheNameThatABufferHasThen) {
  const CreatedBuffer made = Make("old");
  ASSERT_THAT(SetName(made.handles[0], "new"), IsOk());
  observer_.mapped = true;  // Its memory lives on.
  ASSERT_THAT(registry_.DeleteBuffer(alice_, *made.buffer, false), IsOk());
  const CreatedBuffer other = Make("new");
  ASSERT_THAT(SetName(other.handles[0], "old"), IsOk());
  registry_.EndpointReleased(1, kEp0);
  registry_.EndpointReleased(1, kEp1);
  EXPECT_EQ(registry_.FindForOwner(alice_, "old").value(), other.buffer);
}

class RegistrySignals : public RegistryHarness {
 protected:
  void SetUp() override {
    made_ = Make();
    observer_.Take();
  }
  absl::Status Signal(const Token& handle, uint32_t clear, uint32_t set) {
    return registry_.ChangeOwnSignals(alice_, handle, clear, set);
  }
  absl::Status SignalPeer(const Token& handle, uint32_t clear, uint32_t set) {
    return registry_.ChangePeerSignals(alice_, handle, clear, set);
  }
  uint32_t SignalsOf(shm::EndpointId endpoint) { return made_.buffer->signal().signals(endpoint); }
  void Close(const Token& handle) { ASSERT_THAT(registry_.CloseHandle(alice_, handle), IsOk()); }

  CreatedBuffer made_;
};

TEST_F(RegistrySignals, EndpointsHaveTheirOwnAndRaiseEachOthers) {
  ASSERT_THAT(Signal(made_.handles[0], 0, kUser0), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("signals 1 ep0 1000000"));
  EXPECT_EQ(SignalsOf(kEp0), kUser0);
  EXPECT_EQ(SignalsOf(kEp1), 0u);
  ASSERT_THAT(SignalPeer(made_.handles[0], 0, kUser7), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("signals 1 ep1 80000000"));
  EXPECT_EQ(SignalsOf(kEp0), kUser0);
  EXPECT_EQ(SignalsOf(kEp1), kUser7);
  ASSERT_THAT(SignalPeer(made_.handles[1], kUser0, kUser7), IsOk());
  EXPECT_EQ(SignalsOf(kEp0), kUser7);
  ASSERT_THAT(Signal(made_.handles[1], kUser7, 0), IsOk());
  EXPECT_EQ(SignalsOf(kEp1), 0u);
  // An attachment does the same.
  const auto attachment = Redeem(TicketOf(alice_, made_.handles[0]), 1);
  ASSERT_THAT(registry_.ChangeSignals(attachment->held(), true, 0, kUser0), IsOk());
  EXPECT_EQ(SignalsOf(kEp1), kUser0);
}

TEST_F(RegistrySignals, AreClearedFirstAndThenRaised) {
  ASSERT_THAT(Signal(made_.handles[0], 0, shm::kUserSignals), IsOk());
  ASSERT_THAT(Signal(made_.handles[0], shm::kUserSignals, kUser0), IsOk());
  EXPECT_EQ(SignalsOf(kEp0), kUser0);
  observer_.Take();
  // Nobody is told of what did not change.
  ASSERT_THAT(Signal(made_.handles[0], kUser0, kUser0), IsOk());
  ASSERT_THAT(Signal(made_.handles[0], kUser7, 0), IsOk());
  ASSERT_THAT(Signal(made_.handles[0], 0, 0), IsOk());
  ASSERT_THAT(SignalPeer(made_.handles[0], shm::kUserSignals, 0), IsOk());
  EXPECT_THAT(observer_.Take(), IsEmpty());
  EXPECT_EQ(SignalsOf(kEp0), kUser0);
}

TEST_F(RegistrySignals, TheMaskIsCheckedBeforeEverythingElse) {
  const Token mute = Without(made_.handles[0], HandleRights::kSignal | HandleRights::kSignalPeer);
  const Token region = Duplicate(alice_, MakeRegion().handle, HandleRights::kWait).value();
  Close(made_.handles[1]);  // Nor is there a peer.
  observer_.Take();
  for (int bit = 0; bit < 24; ++bit) {
    const uint32_t mask = 1u << bit;
    for (const auto& [clear, set] : {std::pair(mask, 0u), std::pair(0u, mask | kUser0)}) {
      EXPECT_THAT(Signal(mute, clear, set), HasReason(kInvalid)) << bit;
      EXPECT_THAT(SignalPeer(mute, clear, set), HasReason(kInvalid)) << bit;
      EXPECT_THAT(Signal(region, clear, set), HasReason(kInvalid)) << bit;
      EXPECT_THAT(SignalPeer(region, clear, set), HasReason(kInvalid)) << bit;
    }
  }
  EXPECT_THAT(Signal(mute, 4, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, "clear: 0x4; only user signals"));
  EXPECT_THAT(Signal(mute, 0, 8), StatusIs(absl::StatusCode::kInvalidArgument, "set: 0x8"));
  // But for the handle: without one there is no object to ask about.
  EXPECT_THAT(registry_.ChangeOwnSignals(bob_, mute, 4, 0), HasReason(kBadHandle));
  EXPECT_THAT(registry_.ChangePeerSignals(bob_, mute, 4, 0), HasReason(kBadHandle));
  EXPECT_THAT(Signal(mute, 0, kUser0),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right SIGNAL"));
  EXPECT_THAT(SignalPeer(mute, 0, kUser0),
              StatusIs(absl::StatusCode::kPermissionDenied, "no right SIGNAL_PEER"));
  EXPECT_THAT(Signal(region, 0, kUser0), HasReason(kAccessDenied));
  EXPECT_THAT(SignalPeer(region, 0, kUser0),
              StatusIs(absl::StatusCode::kPermissionDenied, "a shared region has no peer"));
  EXPECT_THAT(SignalPeer(made_.handles[0], 0, kUser0), HasReason(kPeerClosedReason));
  EXPECT_THAT(observer_.Take(), IsEmpty());
}

TEST_F(RegistrySignals, OneRightEachWay) {
  const Token own_only = Without(made_.handles[0], HandleRights::kSignalPeer);
  const Token peer_only = Without(made_.handles[0], HandleRights::kSignal);
  EXPECT_THAT(Signal(own_only, 0, kUser0), IsOk());
  EXPECT_THAT(SignalPeer(own_only, 0, kUser0), HasReason(kAccessDenied));
  EXPECT_THAT(Signal(peer_only, 0, kUser7), HasReason(kAccessDenied));
  EXPECT_THAT(SignalPeer(peer_only, 0, kUser7), IsOk());
  EXPECT_EQ(SignalsOf(kEp0), kUser0);
  EXPECT_EQ(SignalsOf(kEp1), kUser7);
}

TEST_F(RegistrySignals, AnUnheldPeerCannotBeSignalledThoughItsMappingsLive) {
  observer_.mapped = true;
  Close(made_.handles[1]);
  EXPECT_FALSE(made_.buffer->endpoint(kEp1).closed);
  EXPECT_EQ(SignalsOf(kEp0), 0u) << "PEER_CLOSED waits for the mappings";
  EXPECT_THAT(SignalPeer(made_.handles[0], 0, kUser0), HasReason(kPeerClosedReason));
  EXPECT_THAT(Signal(made_.handles[0], 0, kUser0), IsOk());
}

TEST_F(RegistrySignals, ATicketOrAnAttachmentIsAHold) {
  const Token ticket = TicketOf(alice_, made_.handles[1]);
  EXPECT_THAT(SignalPeer(made_.handles[0], 0, kUser0), IsOk());
  const auto attachment = Redeem(ticket, 1);
  EXPECT_THAT(SignalPeer(made_.handles[0], kUser0, 0), IsOk());
  registry_.EndAttachment(attachment->id, {.kind = shm::CloseKind::kClosed});
  EXPECT_THAT(SignalPeer(made_.handles[0], 0, kUser0), HasReason(kPeerClosedReason));
}

TEST_F(RegistrySignals, PeerClosedStaysAndUserSignalsGoOn) {
  ASSERT_THAT(Signal(made_.handles[0], 0, kUser0), IsOk());
  Close(made_.handles[1]);
  EXPECT_EQ(SignalsOf(kEp0), kUser0 | shm::kSignalPeerClosed);
  observer_.Take();
  ASSERT_THAT(Signal(made_.handles[0], shm::kUserSignals, 0), IsOk());
  EXPECT_EQ(SignalsOf(kEp0), shm::kSignalPeerClosed);
  EXPECT_THAT(observer_.Take(), ElementsAre("signals 1 ep0 4"));
  EXPECT_THAT(Signal(made_.handles[0], shm::kSignalPeerClosed, 0), HasReason(kInvalid));
  ASSERT_THAT(Signal(made_.handles[0], 0, kUser7), IsOk());
  EXPECT_EQ(SignalsOf(kEp0), kUser7 | shm::kSignalPeerClosed);
}

TEST_F(RegistrySignals, ARegionHasSignalsOfItsOwn) {
  const CreatedSharedRegion region = MakeRegion();
  const CreatedBuffer user = TryMake("", {SharedSpec(region.handle)}, alice_).value();
  observer_.Take();
  ASSERT_THAT(Signal(region.handle, 0, kUser0 | kUser7), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("region signals 5 of uid 1 81000000"));
  ASSERT_THAT(Signal(region.handle, kUser7, kUser0), IsOk());
  EXPECT_THAT(observer_.Take(), ElementsAre("region signals 5 of uid 1 1000000"));
  ASSERT_THAT(Signal(region.handle, kUser7, kUser0), IsOk());
  EXPECT_THAT(observer_.Take(), IsEmpty());
  EXPECT_EQ(region.region->signals(), kUser0);
  EXPECT_EQ(user.buffer->signal().signals(kEp0), 0u);
  EXPECT_THAT(registry_.ChangeOwnSignals(bob_, region.handle, 0, kUser0), HasReason(kBadHandle));
  // They are the object's, not the handle's.
  ASSERT_OK_AND_ASSIGN(const Token copy, Duplicate(alice_, region.handle));
  Close(region.handle);
  ASSERT_THAT(Signal(copy, kUser0, 0), IsOk());
  EXPECT_EQ(region.region->signals(), 0u);
}

}  // namespace
}  // namespace iob::server
