// A random life of the registry against a small model: after every operation the invariants hold
// and the model agrees. IOB_SEED replays a run.

#include <array>
#include <cstdlib>
#include <map>
#include <random>

#include "tests/unit/server/registry_harness.h"

namespace iob::server {
namespace {

constexpr int kOperations = 200'000;
constexpr size_t kBuffersMax = 6;
constexpr uint32_t kUids = 3;
constexpr ProcessId kProcesses = 5;

struct ModelHold {
  Koid buffer = 0;
  shm::EndpointId endpoint = kEp0;
  uint32_t uid = 0;
  ProcessId process = 0;
  int64_t expires_ns = 0;
};

struct ModelEndpoint {
  uint32_t handles = 0;
  uint32_t attachments = 0;
  bool closed = false;
};

struct ModelBuffer {
  std::string name;
  uint32_t owner = 0;
  bool deleted = false;
  std::array<ModelEndpoint, 2> endpoints;
};

class RegistrySimulation : public RegistryHarness {
 protected:
  static uint64_t Seed() {
    const char* const given = std::getenv("IOB_SEED");
    return given == nullptr ? std::random_device()() : std::strtoull(given, nullptr, 10);
  }

  uint32_t Draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }
  Caller DrawCaller() {
    const ProcessId process = 1 + Draw(kProcesses);
    return CallerOf(static_cast<uint32_t>(process % kUids), process);
  }
  template <typename Key, typename Value>
  typename std::map<Key, Value>::iterator Pick(std::map<Key, Value>& of) {
    return std::next(of.begin(), Draw(static_cast<uint32_t>(of.size())));
  }
  ModelEndpoint& EndpointOf(const ModelHold& hold) {
    return buffers_.at(hold.buffer).endpoints[static_cast<size_t>(hold.endpoint)];
  }

  // The model's rule for a hold that went: no hold and no mapping closes, both closed is gone.
  void Settle(Koid koid, shm::EndpointId id) {
    if (observer_.mapped) return;
    ModelEndpoint& endpoint = buffers_.at(koid).endpoints[static_cast<size_t>(id)];
    if (endpoint.handles == 0 && endpoint.attachments == 0) endpoint.closed = true;
    const auto& both = buffers_.at(koid).endpoints;
    if (both[0].closed && both[1].closed) buffers_.erase(koid);
  }
  bool NameTaken(const std::string& name) const {
    for (const auto& [koid, buffer] : buffers_) {
      if (!buffer.deleted && !name.empty() && buffer.name == name) return true;
    }
    return false;
  }

  void Create();
  void Open();
  void CloseOne();
  void Issue();
  void RedeemOne();
  void EndOne();
  void EndProcess();
  void Expire();
  void Delete();
  void Unmap();
  void Step();
  void ExpectAgreement();

  std::mt19937_64 random_;
  std::map<Koid, ModelBuffer> buffers_;
  std::map<std::string, ModelHold> handles_;  // By token bytes.
  std::map<std::string, ModelHold> tickets_;
  std::map<AttachmentId, ModelHold> attachments_;
  std::map<std::string, int> done_;
};

void RegistrySimulation::Create() {
  if (buffers_.size() >= kBuffersMax) return;
  const Caller caller = DrawCaller();
  const std::string name = Draw(3) == 0 ? "" : absl::StrCat("n", Draw(4));
  const auto made = TryMake(name, {PlainSpec(0)}, caller, {.anyone = true, .uids = {}},
                            {.anyone = false, .uids = {1}});
  ASSERT_EQ(made.ok(), !NameTaken(name)) << made.status();
  if (!made.ok()) return;
  ++done_["create"];
  const Koid koid = made->buffer->koid();
  buffers_[koid] = {.name = name, .owner = caller.uid, .deleted = false, .endpoints = {}};
  for (const shm::EndpointId endpoint : {kEp0, kEp1}) {
    buffers_[koid].endpoints[static_cast<size_t>(endpoint)].handles = 1;
    handles_[made->handles[static_cast<size_t>(endpoint)].ToBytes()] = {.buffer = koid,
                                                                        .endpoint = endpoint,
                                                                        .uid = caller.uid,
                                                                        .process = caller.process,
                                                                        .expires_ns = 0};
  }
}

void RegistrySimulation::Open() {
  if (buffers_.empty()) return;
  const auto& [koid, buffer] = *Pick(buffers_);
  const shm::EndpointId endpoint = Draw(2) == 0 ? kEp0 : kEp1;
  const Caller caller = DrawCaller();
  const auto opened = registry_.OpenBuffer(caller, buffer.name, endpoint);
  const bool allowed =
      caller.uid == 0 || caller.uid == buffer.owner || endpoint == kEp0 || caller.uid == 1;
  ModelEndpoint& model = buffers_.at(koid).endpoints[static_cast<size_t>(endpoint)];
  if (buffer.name.empty() || buffer.deleted) {
    // Somebody else's name by now, or nobody's.
    if (!opened.ok()) return;
    ASSERT_NE(opened->buffer->koid(), koid);
    ASSERT_TRUE(registry_.CloseHandle(caller, opened->handle).ok());
    Settle(opened->buffer->koid(), endpoint);
    return;
  }
  ASSERT_EQ(opened.ok(), allowed && !model.closed) << opened.status();
  if (!opened.ok()) return;
  ++done_["open"];
  model.handles += 1;
  handles_[opened->handle.ToBytes()] = {.buffer = koid,
                                        .endpoint = endpoint,
                                        .uid = caller.uid,
                                        .process = caller.process,
                                        .expires_ns = 0};
}

void RegistrySimulation::CloseOne() {
  const Caller caller = DrawCaller();
  if (handles_.empty()) {
    ASSERT_FALSE(registry_.CloseHandle(caller, Token::Random()).ok());
    return;
  }
  const auto found = Pick(handles_);
  const ModelHold hold = found->second;
  const absl::Status closed = registry_.CloseHandle(caller, *Token::FromBytes(found->first));
  ASSERT_EQ(closed.ok(), caller.uid == hold.uid) << closed;
  if (!closed.ok()) return;
  ++done_["close"];
  handles_.erase(found);
  EndpointOf(hold).handles -= 1;
  Settle(hold.buffer, hold.endpoint);
}

void RegistrySimulation::Issue() {
  if (handles_.empty()) return;
  const auto found = Pick(handles_);
  ModelHold hold = found->second;
  const Caller caller = DrawCaller();
  const bool to_other = Draw(3) == 0;
  const uint32_t recipient = Draw(kUids);
  const auto issued = registry_.IssueTicket(
      caller, *Token::FromBytes(found->first),
      to_other ? std::optional<uint32_t>(recipient) : std::nullopt, clock_.MonotonicNs());
  ASSERT_EQ(issued.ok(), caller.uid == hold.uid);
  if (!issued.ok()) return;
  ++done_["issue"];
  handles_.erase(found);
  hold.uid = to_other ? recipient : caller.uid;
  hold.expires_ns = clock_.MonotonicNs() + int64_t{limits_.ticket_lifetime_ms} * 1'000'000;
  tickets_[issued->ticket.ToBytes()] = hold;
}

void RegistrySimulation::RedeemOne() {
  if (tickets_.empty()) return;
  const auto found = Pick(tickets_);
  const ModelHold hold = found->second;
  const uint32_t uid = Draw(kUids);
  const Token token = *Token::FromBytes(found->first);
  const auto attachment = Redeem(token, uid);
  ASSERT_EQ(attachment.ok(), uid == hold.uid && clock_.MonotonicNs() < hold.expires_ns);
  if (!attachment.ok()) return;
  ++done_["redeem"];
  ASSERT_FALSE(Redeem(token, uid).ok());
  tickets_.erase(found);
  attachments_[attachment->id] = hold;
  EndpointOf(hold).handles -= 1;
  EndpointOf(hold).attachments += 1;
}

void RegistrySimulation::EndOne() {
  if (attachments_.empty()) return;
  ++done_["end"];
  const auto found = Pick(attachments_);
  const ModelHold hold = found->second;
  registry_.EndAttachment(found->first, {.kind = shm::CloseKind::kClosed});
  attachments_.erase(found);
  EndpointOf(hold).attachments -= 1;
  Settle(hold.buffer, hold.endpoint);
}

void RegistrySimulation::EndProcess() {
  if (Draw(8) != 0) return;
  const ProcessId process = 1 + Draw(kProcesses);
  registry_.ProcessEnded(process, {.kind = shm::CloseKind::kKilled, .code = 9});
  std::vector<ModelHold> gone;
  std::erase_if(handles_, [&](const auto& entry) {
    if (entry.second.process != process) return false;
    gone.push_back(entry.second);
    return true;
  });
  for (const ModelHold& hold : gone) EndpointOf(hold).handles -= 1;
  for (const ModelHold& hold : gone) {
    if (buffers_.contains(hold.buffer)) Settle(hold.buffer, hold.endpoint);
  }
  if (!gone.empty()) ++done_["process"];
}

void RegistrySimulation::Expire() {
  clock_.AdvanceMs(Draw(limits_.ticket_lifetime_ms / 2));
  if (Draw(2) == 0) return;
  registry_.ExpireTickets(clock_.MonotonicNs());
  std::vector<ModelHold> gone;
  std::erase_if(tickets_, [&](const auto& entry) {
    if (entry.second.expires_ns > clock_.MonotonicNs()) return false;
    gone.push_back(entry.second);
    return true;
  });
  for (const ModelHold& hold : gone) EndpointOf(hold).handles -= 1;
  for (const ModelHold& hold : gone) {
    if (buffers_.contains(hold.buffer)) Settle(hold.buffer, hold.endpoint);
  }
  if (!gone.empty()) ++done_["expire"];
}

void RegistrySimulation::Delete() {
  if (buffers_.empty() || Draw(4) != 0) return;
  const auto& [picked, buffer] = *Pick(buffers_);
  const Koid koid = picked;
  const Caller caller = DrawCaller();
  const auto found = registry_.FindForOwner(caller, koid);
  ASSERT_EQ(found.ok(), caller.uid == 0 || caller.uid == buffer.owner);
  if (!found.ok()) return;
  const bool force = Draw(2) == 0;
  const bool attached =
      buffer.endpoints[0].attachments != 0 || buffer.endpoints[1].attachments != 0;
  ASSERT_EQ(registry_.DeleteBuffer(caller, **found, force).ok(), force || !attached);
  if (attached && !force) return;
  ++done_["delete"];
  const auto of_buffer = [koid](const auto& entry) { return entry.second.buffer == koid; };
  std::erase_if(handles_, of_buffer);
  std::erase_if(tickets_, of_buffer);
  std::erase_if(attachments_, of_buffer);
  ModelBuffer& model = buffers_.at(koid);
  model.deleted = true;
  for (ModelEndpoint& endpoint : model.endpoints) endpoint.handles = endpoint.attachments = 0;
  for (const shm::EndpointId endpoint : {kEp0, kEp1}) {
    if (buffers_.contains(koid)) Settle(koid, endpoint);
  }
}

// What liveness does: mappings come and go, and unheld endpoints are released late.
void RegistrySimulation::Unmap() {
  observer_.mapped = !observer_.mapped;
  if (observer_.mapped) return;
  std::vector<Koid> koids;
  for (const auto& [koid, buffer] : buffers_) koids.push_back(koid);
  for (const Koid koid : koids) {
    for (const shm::EndpointId endpoint : {kEp0, kEp1}) {
      registry_.EndpointReleased(koid, endpoint);
      if (buffers_.contains(koid)) Settle(koid, endpoint);
    }
  }
  ++done_["unmap"];
}

void RegistrySimulation::Step() {
  switch (Draw(16)) {
    case 0:
    case 1:
      return Create();
    case 2:
    case 3:
      return Open();
    case 4:
    case 5:
      return CloseOne();
    case 6:
    case 7:
    case 8:
      return Issue();
    case 9:
    case 10:
    case 11:
      return RedeemOne();
    case 12:
      return EndOne();
    case 13:
      return EndProcess();
    case 14:
      return Expire();
    default:
      return Draw(2) == 0 ? Delete() : Unmap();
  }
}

void RegistrySimulation::ExpectAgreement() {
  registry_.CheckInvariants();
  ASSERT_EQ(registry_.buffers().size(), buffers_.size());
  ASSERT_EQ(registry_.handle_count(), handles_.size() + tickets_.size());
  ASSERT_EQ(registry_.attachments().size(), attachments_.size());
  ASSERT_EQ(quota_.buffers(), buffers_.size());
  for (const auto& [koid, model] : buffers_) {
    const Buffer* const buffer = registry_.Find(koid);
    ASSERT_NE(buffer, nullptr);
    for (const shm::EndpointId id : {kEp0, kEp1}) {
      const ModelEndpoint& endpoint = model.endpoints[static_cast<size_t>(id)];
      ASSERT_EQ(buffer->endpoint(id).handles, endpoint.handles);
      ASSERT_EQ(buffer->endpoint(id).attachments.size(), endpoint.attachments);
      ASSERT_EQ(buffer->endpoint(id).closed, endpoint.closed);
    }
  }
}

TEST_F(RegistrySimulation, AgreesWithItsModel) {
  const uint64_t seed = Seed();
  random_.seed(seed);
  SCOPED_TRACE(absl::StrCat("IOB_SEED=", seed));
  RecordProperty("seed", std::to_string(seed));
  for (int i = 0; i < kOperations; ++i) {
    Step();
    ASSERT_NO_FATAL_FAILURE(ExpectAgreement()) << "operation " << i << ", IOB_SEED=" << seed;
    ASSERT_FALSE(HasFatalFailure()) << "operation " << i << ", IOB_SEED=" << seed;
    observer_.events.clear();
  }
  // The run was worth something: everything happened, often.
  for (const char* what : {"create", "open", "close", "issue", "redeem", "end", "process", "expire",
                           "delete", "unmap"}) {
    EXPECT_GT(done_[what], kOperations / 1000) << what;
  }
}

}  // namespace
}  // namespace iob::server
