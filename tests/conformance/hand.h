// Hand: an endpoint, held in one of the four ways there are, and what can be asked of it in all of
// them. A rule that can be seen from an endpoint is tested over every Hand.
//
//   kGrpc      a handle, by gRPC                     kSocket    an attachment, by raw packets
//   kLibrary   a handle, by iob::Broker              kEndpoint  an attachment, by iob::Endpoint
//
// An attachment whose write breaks a rule is over: take a new hand for each broken rule. One thread
// at a time.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/endpoint.h"
#include "tests/conformance/control.h"
#include "tests/conformance/outcome.h"
#include "tests/support/raw_client.h"

namespace iob::test {

enum class Way { kGrpc, kLibrary, kSocket, kEndpoint };

inline constexpr Way kControlWays[] = {Way::kGrpc, Way::kLibrary};
inline constexpr Way kAllWays[] = {Way::kGrpc, Way::kLibrary, Way::kSocket, Way::kEndpoint};

std::string WayName(const ::testing::TestParamInfo<Way>& info);

class Hand {
 public:
  virtual ~Hand() = default;

  // One record made of `parts`; the attach socket takes records whole.
  virtual Outcome Write(uint32_t region_index, const std::vector<std::string>& parts) = 0;
  Outcome Write(uint32_t region_index, const std::string& record) {
    return Write(region_index, std::vector<std::string>{record});
  }
  // `ret_id` is touched on success only.
  virtual Outcome AllocateId(uint32_t region_index, const std::string& blob, uint32_t* ret_id) = 0;
  virtual Outcome SetName(const std::string& name) = 0;
  virtual Outcome Signal(uint32_t clear, uint32_t set) = 0;
  virtual Outcome SignalPeer(uint32_t clear, uint32_t set) = 0;
};

std::unique_ptr<Hand> HandByControl(Control& control, std::string handle);
std::unique_ptr<Hand> HandBySocket(std::unique_ptr<RawClient> client);
std::unique_ptr<Hand> HandByEndpoint(Endpoint endpoint);

}  // namespace iob::test
