// A registry and its model side by side, operations drawn at random, and the comparison of the two.
//
//   draw --> model: what must come of it --+
//     '----> registry: what does ----------+--> agree --> model does it too --> all there is agrees
//                 '--> observer: what was told ------------------------------------'
//
// Everything drawn comes from one generator, and is picked by number instead of by token, so that a
// seed is a run.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/mediator.h"
#include "tests/unit/server/registry_harness.h"
#include "tests/unit/server/registry_model.h"

namespace iob::server {

// Writes down what the registry tells; plays liveness and the attach listener.
class SimulationObserver final : public RegistryObserver {
 public:
  using EndpointId = shm::EndpointId;
  using Kind = ModelEvent::Kind;
  using IsMapped = std::function<bool(Koid, EndpointId)>;
  SimulationObserver(Registry& registry, IsMapped is_mapped)
      : registry_(registry), is_mapped_(std::move(is_mapped)) {}

  void OnProcessHoldsHandles(ProcessId process, bool holds) override {
    Note(Kind::kProcessHolds, process, holds ? 1 : 0);
  }
  void OnEndpointUnheld(Koid buffer, EndpointId endpoint) override {
    Note(Kind::kUnheld, ModelEvent::Endpoint(buffer, endpoint));
    if (!is_mapped_(buffer, endpoint)) registry_.EndpointReleased(buffer, endpoint);
  }
  void OnEndpointClosed(const BufferLabel& buffer, EndpointId endpoint,
                        shm::CloseReason reason) override {
    Note(Kind::kClosed, ModelEvent::Endpoint(buffer.koid, endpoint), ModelEvent::Reason(reason),
         buffer.name);
  }
  void OnRevoke(AttachmentId attachment) override {
    registry_.EndAttachment(attachment, {.kind = shm::CloseKind::kRevoked});
  }
  void OnBufferGone(const BufferLabel& buffer) override {
    Note(Kind::kBufferGone, buffer.koid, buffer.owner_uid, buffer.name);
  }
  void OnSignals(const BufferLabel& buffer, EndpointId endpoint, uint32_t signals) override {
    Note(Kind::kSignals, ModelEvent::Endpoint(buffer.koid, endpoint), signals);
  }
  void OnHandleGone(const Token& handle) override {
    Note(Kind::kHandleGone, ModelEvent::Short(handle));
  }
  void OnOwnersLeft(Koid buffer) override {
    Note(Kind::kOwnersLeft, buffer);
    EXPECT_TRUE(registry_.ReapOwners(buffer)) << "there are no grants that could hold them";
  }
  void OnBufferCreated(const BufferLabel& buffer, const HolderInfo& owner,
                       uint64_t /*memory_bytes*/) override {
    EXPECT_EQ(owner.uid, buffer.owner_uid);
    Note(Kind::kBufferCreated, buffer.koid, buffer.owner_uid, buffer.name);
  }
  void OnBufferRenamed(const BufferLabel& buffer, const std::string& old_name) override {
    Note(Kind::kRenamed, buffer.koid, 0, old_name + " -> " + buffer.name);
  }
  void OnAttached(const BufferLabel& buffer, EndpointId endpoint,
                  const HolderInfo& holder) override {
    Note(Kind::kAttached, ModelEvent::Endpoint(buffer.koid, endpoint), holder.uid, buffer.name);
  }
  void OnDetached(const BufferLabel& buffer, EndpointId endpoint, const HolderInfo& /*holder*/,
                  shm::CloseReason reason) override {
    Note(Kind::kDetached, ModelEvent::Endpoint(buffer.koid, endpoint), ModelEvent::Reason(reason),
         buffer.name);
  }
  void OnRegionSignals(Koid shared_region, uint32_t /*owner_uid*/, uint32_t signals) override {
    Note(Kind::kRegionSignals, shared_region, signals);
  }
  void OnRegionGone(Koid shared_region, uint32_t owner_uid) override {
    Note(Kind::kRegionGone, shared_region, owner_uid);
  }
  void OnUpdated(Koid shared_region) { Note(Kind::kRegionUpdated, shared_region); }

  std::vector<ModelEvent> TakeEvents() { return std::exchange(events_, {}); }

 private:
  void Note(Kind kind, uint64_t object, uint64_t detail = 0, const std::string& name = {}) {
    events_.push_back({.kind = kind, .object = object, .detail = detail, .name = name});
  }

  Registry& registry_;
  IsMapped is_mapped_;
  std::vector<ModelEvent> events_;
};

// What an operation goes through: a handle of a caller's, or an attachment.
struct DrawnHold {
  ModelHandle model;
  HeldEndpoint held;
};

class RegistrySimulation : public RegistryHarness {
 protected:
  using EndpointId = shm::EndpointId;
  using Reason = v1::ErrorReason;
  using Operation = void (RegistrySimulation::*)();
  using UidList = std::vector<uint32_t>;

  static constexpr uint32_t kUids = 3;
  static constexpr ProcessId kProcesses = 6;
  static constexpr uint64_t kPage = RegistryModel::kPage;

  // Few of everything: what goes wrong, goes wrong with three buffers, and is checked faster.
  RegistrySimulation() {
    limits_.handles_max = 24;
    limits_.buffers_max = 6;
    limits_.attachments_max = 8;
    limits_.memory_bytes_max = 22 * kPage;
    limits_.memory_bytes_per_uid_max = 12 * kPage;
    registry_.SetObserver(&told_);
  }

  // --- Drawing ---
  uint32_t Draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }
  bool OneIn(uint32_t n) { return Draw(n) == 0; }
  EndpointId DrawEndpoint() { return OneIn(2) ? kEp0 : kEp1; }
  Caller DrawCaller() {
    const ProcessId process = 1 + Draw(kProcesses);
    return CallerOf(static_cast<uint32_t>(process % kUids), process);
  }
  // Most of the time one who may use the handle.
  Caller DrawCaller(const ModelHandle* handle) {
    Caller caller = DrawCaller();
    while (handle != nullptr && caller.uid != handle->uid && !OneIn(12)) caller = DrawCaller();
    return caller;
  }
  template <typename Map>
  auto Pick(Map& of) {
    return std::next(of.begin(), Draw(static_cast<uint32_t>(of.size())));
  }
  // nullptr: one that nobody knows.
  const ModelHandle* DrawHandle() {
    if (model_.handles.empty() || OneIn(16)) return nullptr;
    return &Pick(model_.handles)->second;
  }
  // Of a handle that nobody knows: one that is spent, when there is one.
  Token TokenOf(const ModelHandle* handle) {
    if (handle != nullptr) return handle->token;
    return OneIn(2) ? spent_ : Token::Random();
  }
  uint64_t NumberOf(const Token& token) const {
    for (const auto& [number, handle] : model_.handles) {
      if (handle.token == token) return number;
    }
    ADD_FAILURE() << "the model has no such handle";
    return 0;
  }
  Lease DrawLease() { return OneIn(3) ? LeaseOf(1000 + Draw(20'000)) : Lease(); }
  std::optional<uint32_t> DrawRecipient() {
    return OneIn(3) ? std::optional<uint32_t>(Draw(kUids)) : std::nullopt;
  }
  std::string DrawName() {
    switch (Draw(12)) {
      case 0:
        return OneIn(2) ? "#1" : "a\n";
      case 1:
        // For SetName to cut.
        return std::string(31 + Draw(3), static_cast<char>('a' + Draw(2)));
      case 2:
      case 3:
        return "";
      default:
        return absl::StrCat("n", Draw(8));
    }
  }
  OpenRule DrawRule() { return {.anyone = OneIn(2), .uids = OneIn(2) ? UidList{1} : UidList{}}; }
  uint32_t DrawRights(const ModelHandle* source) {
    const uint32_t bits = shm::HandleRights::kEndpointDefault & ~static_cast<uint32_t>(random_());
    switch (Draw(8)) {
      case 0:
        return bits;  // Perhaps more than there is.
      case 1:
        return source == nullptr ? bits : source->rights & bits;
      case 2:
        return source == nullptr ? bits : source->rights & ~(1u << Draw(16));
      default:
        return shm::HandleRights::kSameRights;
    }
  }
  HandleWish DrawWish(const ModelHandle* source) {
    return {.rights = DrawRights(source), .recipient_uid = DrawRecipient(), .lease = DrawLease()};
  }
  std::vector<ModelSpec> DrawSpecs(const Caller& caller) {
    std::vector<ModelSpec> specs(OneIn(30) ? 0 : 1 + Draw(3));
    for (ModelSpec& spec : specs) {
      if (OneIn(2)) {
        spec.kind = OneIn(30)  ? ModelSpec::Kind::kUseless
                    : OneIn(8) ? ModelSpec::Kind::kIdAllocator
                               : ModelSpec::Kind::kPrivate;
        continue;
      }
      spec = {.kind = ModelSpec::Kind::kShared, .handle = DrawHandle()};
      // Most of the time one that leads to a region, and that the caller may use.
      const auto fits = [&] {
        return spec.handle != nullptr && spec.handle->object.region != 0 &&
               spec.handle->uid == caller.uid;
      };
      for (int i = 0; i < 20 && !fits(); ++i) spec.handle = DrawHandle();
    }
    return specs;
  }
  uint32_t DrawMask() {
    const auto bits = static_cast<uint32_t>(random_());
    return OneIn(12) ? bits : bits & shm::kUserSignals & (0x11111111u << Draw(4));
  }
  shm::CloseReason DrawReason() {
    return {.kind = static_cast<shm::CloseKind>(1 + Draw(3)), .code = static_cast<int>(Draw(4))};
  }

  // --- Agreement ---
  // Counts what came of it. True when it worked.
  bool Agree(std::string_view operation, Reason expected, const absl::Status& actual) {
    ++done_[{operation, expected}];
    EXPECT_EQ(ReasonOf(actual), expected) << operation << ": " << actual;
    return actual.ok() && expected == RegistryModel::kWorks;
  }
  // nullopt when it has come to an end already, as it should.
  std::optional<DrawnHold> DrawHold(std::string_view operation);
  RegionSpec SpecOf(const ModelSpec& spec);
  void ExpectSameObjects();
  void ExpectSameHandles();
  void ExpectAgreement();

  // --- Operations ---
  // Each as often as it is worth: the first ones make what the others need.
  static std::vector<Operation> Deck();
  void Create();
  void CreateRegion();
  void Open();
  void CloseOne();
  void Duplicate();
  void Replace();
  void KeepAlive();
  void Issue();
  void RedeemOne();
  void EndOne();
  void EndProcess();
  void Expire();
  void Delete();
  void Map();
  void Unmap();
  void SetName();
  void Signal();
  void SignalPeer();
  void Write();

  std::mt19937_64 random_;
  RegistryModel model_{limits_};
  SimulationObserver told_{registry_, [this](Koid buffer, EndpointId endpoint) {
                             return model_.buffers.at(buffer).endpoint(endpoint).mapped;
                           }};
  Mediator mediator_{[](const Buffer&, uint32_t) {}, [this](Koid koid) { told_.OnUpdated(koid); }};
  Token spent_;
  std::map<std::pair<std::string_view, Reason>, int> done_;
  std::map<ModelEvent::Kind, int> told_of_;
  int same_region_twice_ = 0;
};

}  // namespace iob::server
