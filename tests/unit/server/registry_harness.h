// A registry with everything around it replaced by the test: time, and an observer that plays the
// rest of the daemon (attachments end when revoked, endpoints are released when nothing maps them).
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
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

class RecordingObserver final : public RegistryObserver {
 public:
  explicit RecordingObserver(Registry& registry) : registry_(registry) {}

  void OnProcessHoldsHandles(ProcessId process, bool holds) override {
    events.push_back(absl::StrCat("process ", process, holds ? " holds" : " holds nothing"));
  }
  void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) override {
    events.push_back(absl::StrCat("unheld ", buffer, " ep", static_cast<int>(endpoint)));
    if (!mapped) registry_.EndpointReleased(buffer, endpoint);
  }
  void OnEndpointClosed(Koid buffer, shm::EndpointId endpoint, shm::CloseReason reason) override {
    events.push_back(absl::StrCat("closed ", buffer, " ep", static_cast<int>(endpoint), " ",
                                  static_cast<int>(reason.kind), " ", reason.code));
  }
  void OnRevoke(AttachmentId attachment) override {
    events.push_back(absl::StrCat("revoke ", attachment));
    registry_.EndAttachment(attachment, {.kind = shm::CloseKind::kRevoked});
  }
  void OnBufferGone(Koid buffer) override { events.push_back(absl::StrCat("gone ", buffer)); }

  std::vector<std::string> Take() { return std::exchange(events, {}); }

  // Endpoints stay unheld instead of closing at once.
  bool mapped = false;
  std::vector<std::string> events;

 private:
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
                                        OpenRule ep1_rule = {}) {
    CreateParams params{.name = name, .regions = std::move(regions), .open_rules = {}};
    params.open_rules[0] = std::move(ep0_rule);
    params.open_rules[1] = std::move(ep1_rule);
    return registry_.CreateBuffer(caller, std::move(params), clock_.WallTime());
  }
  CreatedBuffer Make(const std::string& name = "") {
    return TryMake(name, {RingSpec()}, alice_).value();
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
