// What the tests of lifetimes share: one buffer, its ep0 in the hands of whoever ends, and ep1
// watching by every road.
#pragma once

#include <sys/wait.h>

#include <memory>
#include <string>

#include "tests/conformance/agent.h"
#include "tests/conformance/contract.h"
#include "tests/conformance/peer_watch.h"

namespace iob::test {

inline constexpr int kData = v1::SECTION_KIND_DATA;

// `Mortal` is the endpoint that ends; the other one watches. Every rule holds for both (P3).
class LifetimeContract : public Contract, public ::testing::WithParamInterface<EndpointId> {
 protected:
  void SetUp() override {
    Contract::SetUp();
    MakeAndWatch({PlainRegion(4 * kPage), PlainRegion(2 * kPage)});
  }
  void TearDown() override {
    watch_.reset();
    Contract::TearDown();
  }

  static EndpointId Mortal() { return GetParam(); }

  void MakeAndWatch(const std::vector<v1::RegionSpec>& regions) {
    made_ = Make(regions);
    watch_ = Watch(Mortal() == EndpointId::kEp0 ? made_.ep1 : made_.ep0);
  }
  // From the endpoint that this handle leads to. The handle stays.
  static std::unique_ptr<PeerWatch> Watch(const std::string& handle) {
    auto raw = AttachRaw(Dup(handle));
    Endpoint endpoint = AttachLibrary(Dup(handle));
    auto events = broker().Watch(Handle(SecretOf(handle)));
    EXPECT_TRUE(events.ok()) << events.status();
    return std::make_unique<PeerWatch>(std::move(raw), std::move(endpoint), *std::move(events));
  }

  // The only handle to the endpoint that ends.
  const std::string& mortal() const { return Mortal() == EndpointId::kEp0 ? made_.ep0 : made_.ep1; }
  const std::string& witness() const {
    return Mortal() == EndpointId::kEp0 ? made_.ep1 : made_.ep0;
  }

  static std::string TicketOf(const std::string& handle) {
    NewTicket ticket;
    EXPECT_EQ(control().Attach(handle, &ticket), zx::kOk);
    return ticket.bytes;
  }
  // An agent that holds the endpoint as slot 1, without any mapping.
  static std::unique_ptr<Agent> AgentWith(const std::string& handle) {
    auto agent = std::make_unique<Agent>(daemon());
    EXPECT_EQ(agent->Do("attach 1", TicketOf(handle)), "");
    return agent;
  }

  // No handle and no connection is left, the broker has looked, and memory alone holds it.
  void ExpectHeldByMemoryAlone() {
    v1::EndpointInfo info;
    ASSERT_TRUE(Eventually([&] {
      info = LookAt(made_.koid(), Mortal());
      return info.handles() == 0 && info.attachments() == 0;
    })) << info.ShortDebugString();
    EXPECT_TRUE(info.memory_held());
    EXPECT_FALSE(info.has_closed()) << info.ShortDebugString();
    watch_->ExpectOpen();
  }
  void ExpectClosed(CloseKind kind, int code = 0) { watch_->ExpectClosed(kind, code); }

  NewBuffer made_;
  std::unique_ptr<PeerWatch> watch_;
};

inline std::string EndpointName(const ::testing::TestParamInfo<EndpointId>& info) {
  return info.param == EndpointId::kEp0 ? "Ep0Ends" : "Ep1Ends";
}

#define IOB_OVER_ENDPOINTS(suite)                                                            \
  INSTANTIATE_TEST_SUITE_P(If, suite, ::testing::Values(EndpointId::kEp0, EndpointId::kEp1), \
                           ::iob::test::EndpointName)

}  // namespace iob::test
