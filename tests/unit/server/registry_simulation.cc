#include "tests/unit/server/registry_simulation.h"

#include <algorithm>
#include <set>

namespace iob::server {

std::vector<RegistrySimulation::Operation> RegistrySimulation::Deck() {
  using Self = RegistrySimulation;
  const std::pair<Operation, size_t> weights[] = {
      {&Self::Create, 8},    {&Self::CreateRegion, 3}, {&Self::Open, 8},
      {&Self::CloseOne, 8},  {&Self::Duplicate, 12},   {&Self::Replace, 8},
      {&Self::KeepAlive, 4}, {&Self::Issue, 12},       {&Self::RedeemOne, 12},
      {&Self::EndOne, 5},    {&Self::EndProcess, 2},   {&Self::Expire, 6},
      {&Self::Delete, 2},    {&Self::Map, 3},          {&Self::Unmap, 6},
      {&Self::SetName, 6},   {&Self::Signal, 6},       {&Self::SignalPeer, 6},
      {&Self::Write, 6}};
  std::vector<Operation> deck;
  for (const auto& [operation, weight] : weights) deck.insert(deck.end(), weight, operation);
  return deck;
}

std::optional<DrawnHold> RegistrySimulation::DrawHold(std::string_view operation) {
  if (!model_.attachments.empty() && OneIn(2)) {
    const auto picked = Pick(model_.attachments);
    return DrawnHold{.model = picked->second,
                     .held = registry_.attachments().at(picked->first).held()};
  }
  const ModelHandle* const handle = DrawHandle();
  const Caller caller = DrawCaller(handle);
  const auto held = registry_.ResolveEndpoint(caller, TokenOf(handle), /*rights=*/0);
  if (!Agree(operation, RegistryModel::CheckEndpoint(caller, handle), held.status()))
    return std::nullopt;
  return DrawnHold{.model = *handle, .held = *held};
}

RegionSpec RegistrySimulation::SpecOf(const ModelSpec& spec) {
  RegionSpec ids = PlainSpec();
  ids.discipline = v1::DISCIPLINE_ID_ALLOCATOR;
  switch (spec.kind) {
    case ModelSpec::Kind::kPrivate:
      return PlainSpec(0);
    case ModelSpec::Kind::kIdAllocator:
      return ids;
    case ModelSpec::Kind::kUseless:
      return PlainSpec(0, 0x11);
    case ModelSpec::Kind::kShared:
      break;
  }
  return SharedSpec(TokenOf(spec.handle));
}

void RegistrySimulation::Create() {
  const Caller caller = DrawCaller(OneIn(2) ? DrawHandle() : nullptr);
  const std::string name = DrawName();
  const std::vector<ModelSpec> specs = DrawSpecs(caller);
  CreateParams params{.name = name, .regions = {}, .open_rules = {DrawRule(), DrawRule()}};
  params.lease = DrawLease();
  for (const ModelSpec& spec : specs) params.regions.push_back(SpecOf(spec));
  const Reason expected = model_.CheckCreate(caller, name, specs);
  const auto made = registry_.CreateBuffer(caller, params, clock_.WallTime());
  if (!Agree("create", expected, made.status())) return;
  model_.Create(caller, name, specs, params.open_rules, params.lease, *made);
  const std::vector<Koid>& regions = model_.buffers.at(made->buffer->koid()).regions;
  std::set<Koid> different(regions.begin(), regions.end());
  const auto others = std::count(regions.begin(), regions.end(), 0);
  different.erase(0);
  if (different.size() + static_cast<size_t>(others) < regions.size()) same_region_twice_ += 1;
}

void RegistrySimulation::CreateRegion() {
  constexpr uint64_t kSizes[] = {0,         1,         kPage,     kPage,
                                 2 * kPage, 2 * kPage, 2 * kPage, UINT64_MAX << 12};
  const Caller caller = DrawCaller();
  const uint64_t size_bytes = kSizes[Draw(std::size(kSizes))];
  const Lease lease = DrawLease();
  const Reason expected = model_.CheckCreateRegion(caller, size_bytes);
  const auto made = registry_.CreateSharedRegion(caller, size_bytes, clock_.WallTime(), lease);
  if (Agree("create_region", expected, made.status()))
    model_.CreateRegion(caller, size_bytes, lease, *made);
}

void RegistrySimulation::Open() {
  const Caller caller = DrawCaller();
  const std::string name =
      model_.buffers.empty() || OneIn(3) ? DrawName() : Pick(model_.buffers)->second.name;
  const EndpointId endpoint = DrawEndpoint();
  const Lease lease = DrawLease();
  const Reason expected = model_.CheckOpen(caller, name, endpoint);
  const auto opened = registry_.OpenBuffer(caller, name, endpoint, lease);
  if (Agree("open", expected, opened.status())) model_.Open(caller, endpoint, lease, *opened);
}

void RegistrySimulation::CloseOne() {
  const ModelHandle* const handle = DrawHandle();
  const Caller caller = DrawCaller(handle);
  const Token token = TokenOf(handle);
  const Reason expected = RegistryModel::CheckHandle(caller, handle);
  if (!Agree("close", expected, registry_.CloseHandle(caller, token))) return;
  model_.Close(NumberOf(token), {.kind = shm::CloseKind::kClosed});
  spent_ = token;
}

void RegistrySimulation::Duplicate() {
  const ModelHandle* const source = DrawHandle();
  const Caller caller = DrawCaller(source);
  const HandleWish wish = DrawWish(source);
  const Reason expected = model_.CheckDuplicate(caller, source, wish);
  const auto made = registry_.DuplicateHandle(caller, TokenOf(source), wish);
  if (Agree("duplicate", expected, made.status()))
    model_.Duplicate(caller, ModelHandle(*source), wish, *made);
}

void RegistrySimulation::Replace() {
  const ModelHandle* const source = DrawHandle();
  const Caller caller = DrawCaller(source);
  const HandleWish wish = DrawWish(source);
  const Token token = TokenOf(source);
  Reason expected = RegistryModel::CheckHandle(caller, source);
  const bool spends = expected == RegistryModel::kWorks;
  if (spends) expected = RegistryModel::CheckWish(caller, *source, wish);
  const auto made = registry_.ReplaceHandle(caller, token, wish);
  if (Agree("replace", expected, made.status()))
    model_.Duplicate(caller, ModelHandle(*source), wish, *made);
  if (!spends) return;
  model_.Close(NumberOf(token), {.kind = shm::CloseKind::kClosed});
  spent_ = token;
}

void RegistrySimulation::KeepAlive() {
  std::vector<Token> tokens;
  std::vector<uint64_t> numbers;
  const ModelHandle* const first = DrawHandle();
  const Caller caller = DrawCaller(first);
  Reason expected = RegistryModel::kWorks;
  for (uint32_t i = Draw(3) + 1; i > 0; --i) {
    const ModelHandle* const handle = tokens.empty() ? first : DrawHandle();
    tokens.push_back(TokenOf(handle));
    if (RegistryModel::CheckHandle(caller, handle) != RegistryModel::kWorks)
      expected = v1::ERROR_REASON_BAD_HANDLE;
    if (handle != nullptr) numbers.push_back(NumberOf(handle->token));
  }
  const int64_t now_ns = clock_.MonotonicNs();
  if (!Agree("keepalive", expected, registry_.KeepAlive(caller, tokens, now_ns))) return;
  for (const uint64_t number : numbers) {
    ModelHandle& handle = model_.handles.at(number);
    if (handle.lease_ms != 0) handle.expires_ns = now_ns + int64_t{handle.lease_ms} * 1'000'000;
  }
}

void RegistrySimulation::Issue() {
  const ModelHandle* const handle = DrawHandle();
  const Caller caller = DrawCaller(handle);
  const Token token = TokenOf(handle);
  const std::optional<uint32_t> recipient = DrawRecipient();
  const uint32_t recipient_uid = recipient.value_or(caller.uid);
  const int64_t now_ns = clock_.MonotonicNs();
  const Reason expected = RegistryModel::CheckIssue(caller, handle, recipient_uid);
  const auto issued = registry_.IssueTicket(caller, token, recipient, now_ns);
  if (!Agree("issue", expected, issued.status())) return;
  EXPECT_EQ(issued->endpoint, handle->object.endpoint);
  model_.Issue(NumberOf(token), recipient_uid, issued->ticket, now_ns);
  spent_ = token;
}

void RegistrySimulation::RedeemOne() {
  if (model_.tickets.empty()) return;
  const auto picked = Pick(model_.tickets);
  const ModelHandle ticket = picked->second;
  const uint32_t uid = OneIn(8) ? Draw(kUids) : ticket.uid;
  const Reason expected = model_.CheckRedeem(ticket, uid, clock_.MonotonicNs());
  const auto attachment = Redeem(ticket.token, uid);
  if (!Agree("redeem", expected, attachment.status())) return;
  EXPECT_EQ(attachment->buffer->koid(), ticket.object.buffer);
  EXPECT_EQ(attachment->endpoint, ticket.object.endpoint);
  EXPECT_EQ(attachment->rights.bits(), ticket.rights);
  EXPECT_FALSE(Redeem(ticket.token, uid).ok());
  model_.Redeem(picked->first, attachment->id);
  // As the attach listener does it.
  std::vector<OwnerOf> owners;
  std::vector<Region>& regions = attachment->buffer->regions();
  for (uint32_t i = 0; i < regions.size(); ++i) {
    SharedIds* const ids = regions[i].shared_ids();
    if (ids == nullptr) continue;
    const shm::GrantRange range = regions[i].GrantRangeOf(attachment->endpoint);
    owners.push_back({.region_index = i, .owner = ids->Take(range, 0).value()});
  }
  registry_.SetOwners(attachment->id, std::move(owners));
}

void RegistrySimulation::EndOne() {
  if (model_.attachments.empty()) return;
  const AttachmentId id = Pick(model_.attachments)->first;
  const shm::CloseReason reason = DrawReason();
  registry_.EndAttachment(id, reason);
  Agree("end", RegistryModel::kWorks, absl::OkStatus());
  model_.EndAttachment(id, reason);
}

void RegistrySimulation::EndProcess() {
  const ProcessId process = 1 + Draw(kProcesses);
  const shm::CloseReason reason = DrawReason();
  registry_.ProcessEnded(process, reason);
  Agree("process", RegistryModel::kWorks, absl::OkStatus());
  model_.EndProcess(process, reason);
}

void RegistrySimulation::Expire() {
  clock_.AdvanceMs(Draw(3000));
  if (OneIn(2)) return;
  const size_t before = registry_.handle_count();
  registry_.Expire(clock_.MonotonicNs());
  if (registry_.handle_count() != before) Agree("expire", RegistryModel::kWorks, absl::OkStatus());
  model_.Expire(clock_.MonotonicNs());
}

void RegistrySimulation::Delete() {
  if (model_.buffers.empty()) return;
  const Koid koid = OneIn(16) ? 999'999'999 : Pick(model_.buffers)->first;
  const Caller caller = DrawCaller();
  const bool force = OneIn(2);
  const Reason expected = model_.CheckDelete(caller, koid, force);
  const auto found = registry_.FindForOwner(caller, koid);
  absl::Status deleted = found.status();
  if (found.ok()) deleted = registry_.DeleteBuffer(caller, **found, force);
  if (Agree("delete", expected, deleted)) model_.Delete(koid);
}

// What clients do with their descriptors, and what liveness finds out about it.
void RegistrySimulation::Map() {
  if (model_.attachments.empty()) return;
  const ModelObject object = Pick(model_.attachments)->second.object;
  model_.buffers.at(object.buffer).endpoint(object.endpoint).mapped = true;
  Agree("map", RegistryModel::kWorks, absl::OkStatus());
}

void RegistrySimulation::Unmap() {
  if (model_.buffers.empty()) return;
  const Koid koid = Pick(model_.buffers)->first;
  const EndpointId endpoint = DrawEndpoint();
  if (!model_.buffers.at(koid).endpoint(endpoint).mapped) return;
  Agree("unmap", RegistryModel::kWorks, absl::OkStatus());
  registry_.EndpointReleased(koid, endpoint);
  model_.Unmap(koid, endpoint);
}

void RegistrySimulation::SetName() {
  const auto hold = DrawHold("set_name");
  if (!hold) return;
  const std::string name = DrawName();
  const Reason expected = model_.CheckSetName(hold->model, name);
  if (Agree("set_name", expected, registry_.SetName(hold->held, name)))
    model_.SetName(hold->model, name);
}

void RegistrySimulation::Signal() {
  const ModelHandle* const handle = DrawHandle();
  const Caller caller = DrawCaller(handle);
  const uint32_t clear = DrawMask();
  const uint32_t set = DrawMask();
  Reason expected = RegistryModel::CheckHandle(caller, handle);
  if (expected == RegistryModel::kWorks)
    expected = model_.CheckSignal(*handle, /*peer=*/false, clear, set);
  if (Agree("signal", expected, registry_.ChangeOwnSignals(caller, TokenOf(handle), clear, set)))
    model_.Signal(*handle, /*peer=*/false, clear, set);
}

void RegistrySimulation::SignalPeer() {
  const auto hold = DrawHold("signal_peer");
  if (!hold) return;
  const bool peer = !OneIn(4);
  const uint32_t clear = DrawMask();
  const uint32_t set = DrawMask();
  const Reason expected = model_.CheckSignal(hold->model, peer, clear, set);
  if (Agree("signal_peer", expected, registry_.ChangeSignals(hold->held, peer, clear, set)))
    model_.Signal(hold->model, peer, clear, set);
}

void RegistrySimulation::Write() {
  const auto hold = DrawHold("write");
  if (!hold) return;
  const uint32_t region_index = Draw(4);
  const Reason expected = model_.CheckWrite(hold->model, region_index);
  const auto target = Mediator::Resolve(hold->held, region_index);
  absl::Status written = target.status();
  if (target.ok()) {
    Mediator::Records record;
    record.Add(std::string(RegistryModel::kPayloadBytes, 'r'));
    written = mediator_.Write(*target, record);
  }
  Agree("write", expected, written);
  if (target.ok()) model_.Write(hold->model, region_index, expected);
}

}  // namespace iob::server
