// A registry with everything around it replaced by the test: time, and an observer that plays the
// rest of the daemon (attachments end when revoked, endpoints are released when nothing maps them).
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/registry.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace iob::server {

inline constexpr shm::EndpointId kEp0 = shm::EndpointId::kEp0;
inline constexpr shm::EndpointId kEp1 = shm::EndpointId::kEp1;
inline constexpr uint32_t kBrokerUid = 900;

// An error with this reason; its code follows from it.
MATCHER_P(HasReason, reason,
          (negation ? "has not reason " : "has reason ") +
              std::string(v1::ErrorReason_Name(reason))) {
  *result_listener << "which is " << test::StatusOf(arg).ToString();
  return ReasonOf(test::StatusOf(arg)) == reason;
}

// Writes down what it is told, one line per event and in order. Handles are named in gone_handles,
// in the order of the lines that say "handle gone".
class RecordingObserver final : public RegistryObserver {
 public:
  explicit RecordingObserver(Registry& registry) : registry_(registry) {}

  void OnProcessHoldsHandles(ProcessId process, bool holds) override {
    Note("process ", process, holds ? " holds" : " holds nothing");
  }
  void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) override {
    Note("unheld ", buffer, " ", EndpointName(endpoint));
    if (!mapped) registry_.EndpointReleased(buffer, endpoint);
  }
  void OnEndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                        shm::CloseReason reason) override {
    Note("closed ", buffer.koid, " ", EndpointName(endpoint), " ", static_cast<int>(reason.kind),
         " ", reason.code);
  }
  void OnRevoke(AttachmentId attachment) override {
    Note("revoke ", attachment);
    registry_.EndAttachment(attachment, {.kind = shm::CloseKind::kRevoked});
  }
  void OnBufferGone(const BufferLabel& buffer) override { Note("gone ", buffer.koid); }
  void OnSignals(const BufferLabel& buffer, shm::EndpointId endpoint, uint32_t signals) override {
    Note("signals ", buffer.koid, " ", EndpointName(endpoint), " ", absl::Hex(signals));
  }
  void OnOwnersLeft(Koid buffer) override { Note("owners left ", buffer); }
  void OnHandleGone(const Token& handle) override {
    Note("handle gone");
    gone_handles.push_back(handle);
  }
  void OnBufferCreated(const BufferLabel& buffer, const HolderInfo& owner,
                       uint64_t memory_bytes) override {
    EXPECT_EQ(owner.uid, buffer.owner_uid);
    Note("created ", buffer.koid, " \"", buffer.name, "\" ", memory_bytes);
  }
  void OnBufferRenamed(const BufferLabel& buffer, const std::string& old_name) override {
    Note("renamed ", buffer.koid, " \"", old_name, "\" \"", buffer.name, "\"");
  }
  void OnAttached(const BufferLabel& buffer, shm::EndpointId endpoint,
                  const HolderInfo& holder) override {
    Note("attached ", buffer.koid, " ", EndpointName(endpoint), " uid ", holder.uid);
  }
  void OnDetached(const BufferLabel& buffer, shm::EndpointId endpoint, const HolderInfo& holder,
                  shm::CloseReason reason) override {
    Note("detached ", buffer.koid, " ", EndpointName(endpoint), " uid ", holder.uid, " ",
         static_cast<int>(reason.kind));
  }
  void OnRegionSignals(Koid shared_region, uint32_t owner_uid, uint32_t signals) override {
    Note("region signals ", shared_region, " of uid ", owner_uid, " ", absl::Hex(signals));
  }
  void OnRegionGone(Koid shared_region, uint32_t owner_uid) override {
    Note("region gone ", shared_region, " of uid ", owner_uid);
  }

  std::vector<std::string> Take() { return std::exchange(events, {}); }

  // Endpoints stay unheld instead of closing at once.
  bool mapped = false;
  std::vector<std::string> events;
  std::vector<Token> gone_handles;

 private:
  static std::string EndpointName(shm::EndpointId endpoint) {
    return absl::StrCat("ep", static_cast<int>(endpoint));
  }
  template <typename... Parts>
  void Note(const Parts&... parts) {
    events.push_back(absl::StrCat(parts...));
  }

  Registry& registry_;
};

inline RegionSpec RingSpec(uint64_t size_bytes = 8192) {
  return {.type = v1::REGION_TYPE_PRIVATE,
          .discipline = v1::DISCIPLINE_MEDIATED_RING,
          .size_bytes = size_bytes,
          .access = shm::AccessBits(0x83)};
}

inline RegionSpec PlainSpec(uint64_t size_bytes = 4096, uint32_t access_bits = 0x33) {
  return {.type = v1::REGION_TYPE_PRIVATE,
          .discipline = v1::DISCIPLINE_NONE,
          .size_bytes = size_bytes,
          .access = shm::AccessBits(access_bits)};
}

// A region of a buffer that refers to the shared region which `handle` leads to: ep0 consumes, ep1
// writes through the broker.
inline RegionSpec SharedSpec(const Token& handle, uint32_t access_bits = 0x83) {
  return {.type = v1::REGION_TYPE_SHARED,
          .discipline = v1::DISCIPLINE_MEDIATED_RING,
          .size_bytes = 0,
          .access = shm::AccessBits(access_bits),
          .shared_handle = handle};
}

class RegistryHarness : public ::testing::Test {
 protected:
  RegistryHarness() {
    limits_.memory_bytes_max = limits_.memory_bytes_per_uid_max = uint64_t{1} << 30;
    registry_.SetObserver(&observer_);
  }
  ~RegistryHarness() override { registry_.SetObserver(nullptr); }
  void TearDown() override { registry_.CheckInvariants(); }

  static Caller CallerOf(uint32_t uid, ProcessId process) {
    return {.uid = uid, .gid = uid, .pid = static_cast<int32_t>(process), .process = process};
  }
  absl::StatusOr<CreatedBuffer> TryMake(const std::string& name, std::vector<RegionSpec> regions,
                                        const Caller& caller, OpenRule ep0_rule = {},
                                        OpenRule ep1_rule = {}, Lease lease = {}) {
    CreateParams params{
        .name = name, .regions = std::move(regions), .open_rules = {}, .lease = lease};
    params.open_rules[0] = std::move(ep0_rule);
    params.open_rules[1] = std::move(ep1_rule);
    return registry_.CreateBuffer(caller, std::move(params), clock_.WallTime());
  }
  CreatedBuffer Make(const std::string& name = "") {
    return TryMake(name, {RingSpec()}, alice_).value();
  }
  CreatedSharedRegion MakeRegion(uint64_t size_bytes = 8192) {
    return registry_.CreateSharedRegion(alice_, size_bytes, clock_.WallTime()).value();
  }
  Lease LeaseOf(uint32_t ms) const { return {.ms = ms, .now_ns = clock_.MonotonicNs()}; }
  HeldEndpoint Held(const Caller& caller, const Token& handle) {
    return registry_.ResolveEndpoint(caller, handle, 0).value();
  }
  absl::StatusOr<Token> Duplicate(const Caller& caller, const Token& handle,
                                  uint32_t rights = shm::HandleRights::kSameRights,
                                  std::optional<uint32_t> recipient_uid = std::nullopt) {
    return registry_.DuplicateHandle(caller, handle,
                                     {.rights = rights, .recipient_uid = recipient_uid});
  }
  // A handle of alice's to the same object, with every right but these.
  Token Without(const Token& handle, uint32_t rights) {
    const uint32_t has = registry_.FindHandle(alice_, handle).value().rights.bits();
    return Duplicate(alice_, handle, has & ~rights).value();
  }
  Token TicketOf(const Caller& caller, const Token& handle,
                 std::optional<uint32_t> recipient_uid = std::nullopt) {
    return registry_.IssueTicket(caller, handle, recipient_uid, clock_.MonotonicNs())
        .value()
        .ticket;
  }
  absl::StatusOr<Attachment> Redeem(const Token& ticket, uint32_t uid) {
    return registry_.RedeemTicket(ticket, HolderInfo{.uid = uid, .gid = uid, .pid = 1},
                                  clock_.MonotonicNs());
  }

  const Caller alice_ = CallerOf(1, 11);
  const Caller alice_again_ = CallerOf(1, 12);
  const Caller bob_ = CallerOf(2, 21);
  const Caller root_ = CallerOf(0, 31);
  Limits limits_;
  test::FakeClock clock_;
  Quota quota_{limits_};
  Registry registry_{limits_, quota_, kBrokerUid};
  RecordingObserver observer_{registry_};
};

}  // namespace iob::server
