// A random life of the registry against its model: after every operation the invariants hold, the
// outcome is the model's, so is everything there is, and the observer was told exactly what
// happened. IOB_SEED replays a run.

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

#include "tests/unit/server/registry_simulation.h"

namespace iob::server {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif
constexpr int kOperations = kSanitized ? 100'000 : 1'000'000;

using Kind = ModelEvent::Kind;

// What must have come of each operation, besides success.
const std::vector<std::pair<std::string_view, std::vector<v1::ErrorReason>>> kOutcomes = {
    {"create",
     {v1::ERROR_REASON_INVALID_ARGUMENT, v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_WRONG_OBJECT,
      v1::ERROR_REASON_NAME_TAKEN, v1::ERROR_REASON_QUOTA}},
    {"create_region",
     {v1::ERROR_REASON_INVALID_ARGUMENT, v1::ERROR_REASON_OUT_OF_RANGE, v1::ERROR_REASON_QUOTA}},
    {"open",
     {v1::ERROR_REASON_NOT_FOUND, v1::ERROR_REASON_POLICY, v1::ERROR_REASON_PEER_CLOSED,
      v1::ERROR_REASON_QUOTA}},
    {"close", {v1::ERROR_REASON_BAD_HANDLE}},
    {"duplicate",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_ACCESS_DENIED,
      v1::ERROR_REASON_INVALID_ARGUMENT, v1::ERROR_REASON_QUOTA}},
    {"replace",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_ACCESS_DENIED,
      v1::ERROR_REASON_INVALID_ARGUMENT}},
    {"keepalive", {v1::ERROR_REASON_BAD_HANDLE}},
    {"issue",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_WRONG_OBJECT, v1::ERROR_REASON_ACCESS_DENIED}},
    {"redeem", {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_QUOTA}},
    {"end", {}},
    {"process", {}},
    {"expire", {}},
    {"delete", {v1::ERROR_REASON_NOT_FOUND, v1::ERROR_REASON_IN_USE}},
    {"map", {}},
    {"unmap", {}},
    {"set_name",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_WRONG_OBJECT, v1::ERROR_REASON_ACCESS_DENIED,
      v1::ERROR_REASON_INVALID_ARGUMENT, v1::ERROR_REASON_NAME_TAKEN}},
    {"signal",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_ACCESS_DENIED,
      v1::ERROR_REASON_INVALID_ARGUMENT}},
    {"signal_peer",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_WRONG_OBJECT, v1::ERROR_REASON_INVALID_ARGUMENT,
      v1::ERROR_REASON_ACCESS_DENIED, v1::ERROR_REASON_PEER_CLOSED}},
    {"write",
     {v1::ERROR_REASON_BAD_HANDLE, v1::ERROR_REASON_WRONG_OBJECT, v1::ERROR_REASON_ACCESS_DENIED,
      v1::ERROR_REASON_OUT_OF_RANGE, v1::ERROR_REASON_WRONG_DISCIPLINE,
      v1::ERROR_REASON_RING_FULL}},
};

uint64_t Seed() {
  const char* const given = std::getenv("IOB_SEED");
  return given == nullptr ? std::random_device()() : std::strtoull(given, nullptr, 10);
}

TEST_F(RegistrySimulation, AgreesWithItsModel) {
  const uint64_t seed = Seed();
  random_.seed(seed);
  std::cout << "IOB_SEED=" << seed << std::endl;
  RecordProperty("seed", std::to_string(seed));
  const std::vector<Operation> deck = Deck();
  for (int i = 0; i < kOperations; ++i) {
    (this->*deck[Draw(static_cast<uint32_t>(deck.size()))])();
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement()) << "operation " << i << ", IOB_SEED=" << seed;
    ASSERT_FALSE(HasFailure()) << "operation " << i << ", IOB_SEED=" << seed;
  }
  // The run was worth something: everything happened, often.
  for (const auto& [operation, reasons] : kOutcomes) {
    EXPECT_GE((done_[{operation, RegistryModel::kWorks}]), kOperations / 1000) << operation;
    for (const Reason reason : reasons) {
      EXPECT_GE((done_[{operation, reason}]), kOperations / 10'000)
          << operation << " " << v1::ErrorReason_Name(reason);
    }
  }
  for (int kind = 0; kind <= static_cast<int>(Kind::kRegionGone); ++kind) {
    EXPECT_GE(told_of_[static_cast<Kind>(kind)], kOperations / 1000) << "event " << kind;
  }
  EXPECT_GE(same_region_twice_, kOperations / 10'000);
}

}  // namespace

void RegistrySimulation::ExpectSameObjects() {
  ASSERT_EQ(registry_.buffers().size(), model_.buffers.size());
  for (auto& [koid, expected] : model_.buffers) {
    const Buffer* const buffer = registry_.Find(koid);
    ASSERT_NE(buffer, nullptr);
    ASSERT_EQ(buffer->name(), expected.name);
    for (const EndpointId id : {kEp0, kEp1}) {
      const Endpoint& endpoint = buffer->endpoint(id);
      const ModelEndpoint& wanted = expected.endpoint(id);
      ASSERT_EQ(endpoint.handles.size(), wanted.handles);
      ASSERT_EQ(endpoint.attachments.size(), wanted.attachments);
      ASSERT_EQ(endpoint.closed, wanted.closed);
      ASSERT_EQ(endpoint.reason, wanted.reason);
      ASSERT_EQ(buffer->signal().signals(id), wanted.signals);
    }
    const auto& ends = expected.endpoints;
    for (const Region& region : buffer->regions()) {
      const SharedIds* const ids = region.shared_ids();
      if (ids == nullptr) continue;
      ASSERT_EQ(ids->live_count(), ends[0].attachments + ends[1].attachments);
      ASSERT_EQ(ids->left_count(), 0u);
    }
  }
  ASSERT_EQ(registry_.shared_regions().size(), model_.regions.size());
  for (const auto& [koid, expected] : model_.regions) {
    const SharedRegion* const region = registry_.FindSharedRegion(koid);
    ASSERT_NE(region, nullptr);
    ASSERT_EQ(region->handles().size(), expected.handles);
    ASSERT_EQ(region->uses().size(), expected.uses);
    ASSERT_EQ(region->signals(), expected.signals);
    if (region->ring() == nullptr) continue;
    ASSERT_EQ(region->ring()->ledger.stored_records, expected.stored);
    ASSERT_EQ(region->ring()->ledger.attempted_records, expected.stored + expected.rejected);
  }
  const shm::Ledger& retired = registry_.retired().ledger;
  ASSERT_EQ(retired.stored_records, model_.retired_stored);
  ASSERT_EQ(retired.attempted_records, model_.retired_stored + model_.retired_rejected);
  ASSERT_EQ(quota_.buffers(), model_.buffers.size());
  ASSERT_EQ(quota_.memory_bytes(), model_.MemoryBytes());
  ASSERT_EQ(quota_.descriptors(), model_.Descriptors());
}

void RegistrySimulation::ExpectSameHandles() {
  ASSERT_EQ(registry_.handle_count(), model_.handles.size() + model_.tickets.size());
  ASSERT_EQ(registry_.attachments().size(), model_.attachments.size());
  for (const auto& [number, expected] : model_.handles) {
    const auto handle = registry_.FindHandle(CallerOf(expected.uid, 1), expected.token);
    ASSERT_TRUE(handle.ok());
    ASSERT_EQ(handle->rights.bits(), expected.rights);
    ASSERT_EQ(handle->process, expected.process);
    ASSERT_EQ(handle->lease_ms, expected.lease_ms);
    ASSERT_TRUE(expected.lease_ms == 0 || handle->lease_expires_ns == expected.expires_ns);
    const bool to_region = handle->object.shared_region != nullptr;
    const Koid object =
        to_region ? handle->object.shared_region->koid() : handle->object.buffer->koid();
    ASSERT_EQ(object, to_region ? expected.object.region : expected.object.buffer);
    ASSERT_TRUE(to_region || handle->object.endpoint == expected.object.endpoint);
  }
  // Never later than needed; a spent ticket may still wake it for nothing.
  const auto expected_ns = model_.NextExpiryNs();
  ASSERT_TRUE(!expected_ns || registry_.NextExpiryNs().value_or(INT64_MAX) <= *expected_ns);
}

void RegistrySimulation::ExpectAgreement() {
  registry_.CheckInvariants();
  ASSERT_NO_FATAL_FAILURE(ExpectSameObjects());
  ASSERT_NO_FATAL_FAILURE(ExpectSameHandles());
  std::vector<ModelEvent> expected = model_.TakeEvents();
  std::vector<ModelEvent> told = told_.TakeEvents();
  for (const ModelEvent& event : told) told_of_[event.kind] += 1;
  std::sort(expected.begin(), expected.end());
  std::sort(told.begin(), told.end());
  ASSERT_EQ(told, expected);
}

}  // namespace iob::server
