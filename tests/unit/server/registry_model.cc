#include "tests/unit/server/registry_model.h"

#include <algorithm>
#include <cstring>

namespace iob::server {
namespace {

using shm::EndpointId;
using shm::HandleRights;
using Reason = RegistryModel::Reason;

constexpr std::array<EndpointId, 2> kEndpoints = {EndpointId::kEp0, EndpointId::kEp1};
constexpr uint32_t kRegionRights = 0xd0c3;
constexpr uint32_t kEndpointRights = 0xf0ef;

std::string Cut(const std::string& name) { return name.substr(0, 31); }

bool Has(const ModelHandle& handle, uint32_t right) { return (handle.rights & right) != 0; }

bool Administers(uint32_t uid, uint32_t owner_uid) { return uid == 0 || uid == owner_uid; }

bool May(const OpenRule& rule, uint32_t uid) {
  return rule.anyone || std::count(rule.uids.begin(), rule.uids.end(), uid) != 0;
}

}  // namespace

uint64_t ModelEvent::Short(const Token& token) {
  uint64_t part = 0;
  std::memcpy(&part, token.ToBytes().data(), sizeof(part));
  return part;
}

// --- What there is -------------------------------------------------------------------------------

uint64_t RegistryModel::MemoryBytesOf(std::optional<uint32_t> uid) const {
  uint64_t bytes = 0;
  for (const auto& [koid, buffer] : buffers) {
    if (!uid || buffer.owner_uid == *uid) bytes += (1 + buffer.id_allocators) * kPage;
  }
  for (const auto& [koid, region] : regions) {
    if (!uid || region.owner_uid == *uid) bytes += region.size_bytes + kPage;
  }
  return bytes;
}

uint64_t RegistryModel::Descriptors() const {
  uint64_t descriptors = 0;
  for (const auto& [koid, buffer] : buffers) descriptors += buffer.id_allocators;
  for (const auto& [koid, region] : regions) descriptors += region.size_bytes > kPage ? 2 : 0;
  return descriptors;
}

bool RegistryModel::HasRoomFor(const Caller& caller, uint64_t memory_bytes,
                               size_t more_handles) const {
  return handles.size() + tickets.size() + more_handles <= limits_.handles_max &&
         MemoryBytes() + memory_bytes <= limits_.memory_bytes_max &&
         MemoryBytesOf(caller.uid) + memory_bytes <= limits_.memory_bytes_per_uid_max;
}

std::optional<int64_t> RegistryModel::NextExpiryNs() const {
  std::optional<int64_t> next_ns;
  const auto consider = [&](int64_t ns) { next_ns = std::min(ns, next_ns.value_or(INT64_MAX)); };
  for (const auto& [number, ticket] : tickets) consider(ticket.expires_ns);
  for (const auto& [number, handle] : handles) {
    if (handle.lease_ms != 0) consider(handle.expires_ns);
  }
  return next_ns;
}

const ModelBuffer* RegistryModel::Named(const std::string& name, Koid* ret_koid) const {
  for (const auto& [koid, buffer] : buffers) {
    if (buffer.deleted || name.empty() || buffer.name != name) continue;
    if (ret_koid != nullptr) *ret_koid = koid;
    return &buffer;
  }
  return nullptr;
}

size_t RegistryModel::HandlesOf(ProcessId process) const {
  return static_cast<size_t>(
      std::count_if(handles.begin(), handles.end(), [process](const auto& entry) {
        return entry.second.lease_ms == 0 && entry.second.process == process;
      }));
}

// --- Holds ---------------------------------------------------------------------------------------

void RegistryModel::Add(const Caller& caller, const ModelObject& object, uint32_t rights,
                        uint32_t uid, Lease lease, const Token& token) {
  if (lease.ms == 0 && HandlesOf(caller.process) == 0) Tell(Kind::kProcessHolds, caller.process, 1);
  handles[next_number_++] = {.token = token,
                             .object = object,
                             .rights = rights,
                             .uid = uid,
                             .process = lease.ms == 0 ? caller.process : 0,
                             .lease_ms = lease.ms,
                             .expires_ns = lease.now_ns + int64_t{lease.ms} * 1'000'000};
  if (object.region != 0) {
    regions.at(object.region).handles += 1;
  } else {
    buffers.at(object.buffer).endpoint(object.endpoint).handles += 1;
  }
}

// The handle alone; its object still counts it.
void RegistryModel::Remove(uint64_t number) {
  const ModelHandle handle = handles.at(number);
  handles.erase(number);
  Tell(Kind::kHandleGone, ModelEvent::Short(handle.token));
  if (handle.lease_ms == 0 && HandlesOf(handle.process) == 0)
    Tell(Kind::kProcessHolds, handle.process, 0);
}

void RegistryModel::Close(uint64_t number, shm::CloseReason reason) {
  const ModelObject object = handles.at(number).object;
  Remove(number);
  if (object.region != 0) {
    regions.at(object.region).handles -= 1;
    SettleRegion(object.region);
    return;
  }
  buffers.at(object.buffer).endpoint(object.endpoint).handles -= 1;
  DropHold(object, reason);
}

void RegistryModel::DropHold(const ModelObject& object, shm::CloseReason reason) {
  ModelEndpoint& endpoint = buffers.at(object.buffer).endpoint(object.endpoint);
  // Who used it says more than who kept a handle to it.
  if (!endpoint.was_attached) endpoint.reason = reason;
  if (endpoint.held()) return;
  Tell(Kind::kUnheld, ModelEvent::Endpoint(object.buffer, object.endpoint));
  Settle(object.buffer, object.endpoint);
}

void RegistryModel::Settle(Koid koid, EndpointId id) {
  const auto found = buffers.find(koid);
  if (found == buffers.end()) return;
  ModelBuffer& buffer = found->second;
  ModelEndpoint& endpoint = buffer.endpoint(id);
  if (endpoint.held() || endpoint.mapped || endpoint.closed) return;
  endpoint.closed = true;
  ModelEndpoint& peer = buffer.endpoint(shm::PeerOf(id));
  peer.signals |= shm::kSignalPeerClosed;
  Tell(Kind::kClosed, ModelEvent::Endpoint(koid, id), ModelEvent::Reason(endpoint.reason),
       buffer.name);
  if (!peer.closed) return;
  Tell(Kind::kBufferGone, koid, buffer.owner_uid, buffer.name);
  const std::vector<Koid> used = buffer.regions;
  buffers.erase(found);
  for (const Koid region : used) {
    if (region != 0) regions.at(region).uses -= 1;
  }
  for (const Koid region : std::set<Koid>(used.begin(), used.end())) {
    if (region != 0) SettleRegion(region);
  }
}

void RegistryModel::SettleRegion(Koid koid) {
  const ModelRegion& region = regions.at(koid);
  if (region.handles + region.uses != 0) return;
  retired_stored += region.stored;
  retired_rejected += region.rejected;
  Tell(Kind::kRegionGone, koid, region.owner_uid);
  regions.erase(koid);
}

void RegistryModel::Unmap(Koid buffer, EndpointId id) {
  buffers.at(buffer).endpoint(id).mapped = false;
  Settle(buffer, id);
}

// --- Making and opening --------------------------------------------------------------------------

Reason RegistryModel::CheckHandle(const Caller& caller, const ModelHandle* handle) {
  const bool known = handle != nullptr && handle->uid == caller.uid;
  return known ? kWorks : v1::ERROR_REASON_BAD_HANDLE;
}

Reason RegistryModel::CheckEndpoint(const Caller& caller, const ModelHandle* handle) {
  if (const Reason reason = CheckHandle(caller, handle); reason != kWorks) return reason;
  return handle->object.region == 0 ? kWorks : v1::ERROR_REASON_WRONG_OBJECT;
}

Reason RegistryModel::CheckName(const std::string& name, Koid renamed) const {
  const bool printable =
      std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (name.size() > 31 || !printable || (!name.empty() && name[0] == '#'))
    return v1::ERROR_REASON_INVALID_ARGUMENT;
  Koid has_it = 0;
  const bool taken = Named(name, &has_it) != nullptr && has_it != renamed;
  return taken ? v1::ERROR_REASON_NAME_TAKEN : kWorks;
}

Reason RegistryModel::CheckCreate(const Caller& caller, const std::string& name,
                                  const std::vector<ModelSpec>& specs) const {
  if (specs.empty()) return v1::ERROR_REASON_INVALID_ARGUMENT;
  uint64_t memory_bytes = kPage;
  for (const ModelSpec& spec : specs) {
    if (spec.kind == ModelSpec::Kind::kIdAllocator) memory_bytes += kPage;
    if (spec.kind == ModelSpec::Kind::kPrivate || spec.kind == ModelSpec::Kind::kIdAllocator)
      continue;
    if (spec.kind == ModelSpec::Kind::kUseless) return v1::ERROR_REASON_INVALID_ARGUMENT;
    if (CheckHandle(caller, spec.handle) != kWorks) return v1::ERROR_REASON_BAD_HANDLE;
    if (spec.handle->object.region == 0) return v1::ERROR_REASON_WRONG_OBJECT;
    if (regions.at(spec.handle->object.region).size_bytes < 2 * kPage)
      return v1::ERROR_REASON_INVALID_ARGUMENT;
  }
  if (const Reason reason = CheckName(name, 0); reason != kWorks) return reason;
  const bool room = HasRoomFor(caller, memory_bytes, 2) && buffers.size() < limits_.buffers_max;
  return room ? kWorks : v1::ERROR_REASON_QUOTA;
}

void RegistryModel::Create(const Caller& caller, const std::string& name,
                           const std::vector<ModelSpec>& specs,
                           const std::array<OpenRule, 2>& rules, Lease lease,
                           const CreatedBuffer& made) {
  const Koid koid = made.buffer->koid();
  ModelBuffer& buffer = buffers[koid];
  buffer.name = name;
  buffer.owner_uid = caller.uid;
  buffer.rules = rules;
  for (const ModelSpec& spec : specs) {
    const bool shared = spec.kind == ModelSpec::Kind::kShared;
    buffer.regions.push_back(shared ? spec.handle->object.region : 0);
    if (shared) regions.at(buffer.regions.back()).uses += 1;
    if (spec.kind == ModelSpec::Kind::kIdAllocator) buffer.id_allocators += 1;
  }
  Tell(Kind::kBufferCreated, koid, caller.uid, name);
  for (const EndpointId id : kEndpoints) {
    Add(caller, {.buffer = koid, .endpoint = id}, kEndpointRights, caller.uid, lease,
        made.handles[static_cast<size_t>(id)]);
  }
}

Reason RegistryModel::CheckCreateRegion(const Caller& caller, uint64_t size_bytes) const {
  if (size_bytes == 0 || size_bytes % kPage != 0) return v1::ERROR_REASON_INVALID_ARGUMENT;
  if (size_bytes > uint64_t{2} << 30) return v1::ERROR_REASON_OUT_OF_RANGE;
  return HasRoomFor(caller, size_bytes + kPage, 1) ? kWorks : v1::ERROR_REASON_QUOTA;
}

void RegistryModel::CreateRegion(const Caller& caller, uint64_t size_bytes, Lease lease,
                                 const CreatedSharedRegion& made) {
  const Koid koid = made.region->koid();
  regions[koid].owner_uid = caller.uid;
  regions[koid].size_bytes = size_bytes;
  Add(caller, {.region = koid}, kRegionRights, caller.uid, lease, made.handle);
}

Reason RegistryModel::CheckOpen(const Caller& caller, const std::string& name,
                                EndpointId endpoint) const {
  const ModelBuffer* const buffer = Named(name);
  if (buffer == nullptr) return v1::ERROR_REASON_NOT_FOUND;
  const bool owns = Administers(caller.uid, buffer->owner_uid);
  const OpenRule& rule = buffer->rules[static_cast<size_t>(endpoint)];
  const OpenRule& other = buffer->rules[1 - static_cast<size_t>(endpoint)];
  if (!owns && !May(rule, caller.uid) && !May(other, caller.uid)) return v1::ERROR_REASON_NOT_FOUND;
  if (!owns && !May(rule, caller.uid)) return v1::ERROR_REASON_POLICY;
  if (buffer->endpoints[static_cast<size_t>(endpoint)].closed) return v1::ERROR_REASON_PEER_CLOSED;
  return HasRoomFor(caller, 0, 1) ? kWorks : v1::ERROR_REASON_QUOTA;
}

void RegistryModel::Open(const Caller& caller, EndpointId endpoint, Lease lease,
                         const OpenedEndpoint& opened) {
  Add(caller, {.buffer = opened.buffer->koid(), .endpoint = endpoint}, kEndpointRights, caller.uid,
      lease, opened.handle);
}

// --- From one handle to another ------------------------------------------------------------------

Reason RegistryModel::CheckWish(const Caller& caller, const ModelHandle& source,
                                const HandleWish& wish) {
  if (wish.recipient_uid.value_or(caller.uid) != caller.uid &&
      !Has(source, HandleRights::kTransfer)) {
    return v1::ERROR_REASON_ACCESS_DENIED;
  }
  const bool shrinks =
      wish.rights == HandleRights::kSameRights || (wish.rights & ~source.rights) == 0;
  return shrinks ? kWorks : v1::ERROR_REASON_INVALID_ARGUMENT;
}

Reason RegistryModel::CheckDuplicate(const Caller& caller, const ModelHandle* source,
                                     const HandleWish& wish) const {
  if (const Reason reason = CheckHandle(caller, source); reason != kWorks) return reason;
  if (!Has(*source, HandleRights::kDuplicate)) return v1::ERROR_REASON_ACCESS_DENIED;
  if (const Reason reason = CheckWish(caller, *source, wish); reason != kWorks) return reason;
  return HasRoomFor(caller, 0, 1) ? kWorks : v1::ERROR_REASON_QUOTA;
}

void RegistryModel::Duplicate(const Caller& caller, const ModelHandle& source,
                              const HandleWish& wish, const Token& made) {
  const uint32_t rights = wish.rights == HandleRights::kSameRights ? source.rights : wish.rights;
  Add(caller, source.object, rights, wish.recipient_uid.value_or(caller.uid), wish.lease, made);
}

Reason RegistryModel::CheckIssue(const Caller& caller, const ModelHandle* handle,
                                 uint32_t recipient_uid) {
  if (const Reason reason = CheckEndpoint(caller, handle); reason != kWorks) return reason;
  const bool may = recipient_uid == caller.uid || Has(*handle, HandleRights::kTransfer);
  return may ? kWorks : v1::ERROR_REASON_ACCESS_DENIED;
}

void RegistryModel::Issue(uint64_t number, uint32_t recipient_uid, const Token& ticket,
                          int64_t now_ns) {
  ModelHandle moved = handles.at(number);
  Remove(number);
  moved.token = ticket;
  moved.uid = recipient_uid;
  moved.expires_ns = now_ns + int64_t{limits_.ticket_lifetime_ms} * 1'000'000;
  tickets[next_number_++] = moved;
}

Reason RegistryModel::CheckRedeem(const ModelHandle& ticket, uint32_t uid, int64_t now_ns) const {
  if (ticket.uid != uid || ticket.expires_ns <= now_ns) return v1::ERROR_REASON_BAD_HANDLE;
  return attachments.size() < limits_.attachments_max ? kWorks : v1::ERROR_REASON_QUOTA;
}

void RegistryModel::Redeem(uint64_t number, AttachmentId attachment) {
  const ModelHandle ticket = tickets.at(number);
  tickets.erase(number);
  attachments[attachment] = ticket;
  ModelEndpoint& endpoint = buffers.at(ticket.object.buffer).endpoint(ticket.object.endpoint);
  endpoint.handles -= 1;
  endpoint.attachments += 1;
  Tell(Kind::kAttached, ModelEvent::Endpoint(ticket.object.buffer, ticket.object.endpoint),
       ticket.uid, buffers.at(ticket.object.buffer).name);
}

void RegistryModel::EndAttachment(AttachmentId id, shm::CloseReason reason) {
  const ModelHandle attachment = attachments.at(id);
  attachments.erase(id);
  const ModelObject& object = attachment.object;
  ModelEndpoint& endpoint = buffers.at(object.buffer).endpoint(object.endpoint);
  endpoint.attachments -= 1;
  endpoint.was_attached = true;
  endpoint.reason = reason;
  Tell(Kind::kDetached, ModelEvent::Endpoint(object.buffer, object.endpoint),
       ModelEvent::Reason(reason), buffers.at(object.buffer).name);
  if (buffers.at(object.buffer).id_allocators != 0) Tell(Kind::kOwnersLeft, object.buffer);
  DropHold(object, reason);
}

// --- Ends ----------------------------------------------------------------------------------------

void RegistryModel::EndProcess(ProcessId process, shm::CloseReason reason) {
  std::vector<uint64_t> gone;
  for (const auto& [number, handle] : handles) {
    if (handle.lease_ms == 0 && handle.process == process) gone.push_back(number);
  }
  for (const uint64_t number : gone) Close(number, reason);
}

void RegistryModel::Expire(int64_t now_ns) {
  constexpr shm::CloseReason kExpired = {.kind = shm::CloseKind::kExpired};
  std::vector<uint64_t> gone;
  for (const auto& [number, ticket] : tickets) {
    if (ticket.expires_ns <= now_ns) gone.push_back(number);
  }
  for (const uint64_t number : gone) {
    const ModelObject object = tickets.at(number).object;
    tickets.erase(number);
    buffers.at(object.buffer).endpoint(object.endpoint).handles -= 1;
    DropHold(object, kExpired);
  }
  gone.clear();
  for (const auto& [number, handle] : handles) {
    if (handle.lease_ms != 0 && handle.expires_ns <= now_ns) gone.push_back(number);
  }
  for (const uint64_t number : gone) Close(number, kExpired);
}

Reason RegistryModel::CheckDelete(const Caller& caller, Koid koid, bool force) const {
  const auto found = buffers.find(koid);
  if (found == buffers.end() || !Administers(caller.uid, found->second.owner_uid))
    return v1::ERROR_REASON_NOT_FOUND;
  const auto& ends = found->second.endpoints;
  const bool attached = ends[0].attachments + ends[1].attachments != 0;
  return attached && !force ? v1::ERROR_REASON_IN_USE : kWorks;
}

void RegistryModel::Delete(Koid koid) {
  constexpr shm::CloseReason kRevoked = {.kind = shm::CloseKind::kRevoked};
  buffers.at(koid).deleted = true;
  std::vector<uint64_t> gone;
  for (const auto& [number, handle] : handles) {
    if (handle.object.buffer == koid) gone.push_back(number);
  }
  for (const uint64_t number : gone) Close(number, kRevoked);
  gone.clear();
  for (const auto& [number, ticket] : tickets) {
    if (ticket.object.buffer == koid) gone.push_back(number);
  }
  for (const uint64_t number : gone) {
    const ModelObject object = tickets.at(number).object;
    tickets.erase(number);
    buffers.at(koid).endpoint(object.endpoint).handles -= 1;
    DropHold(object, kRevoked);
  }
  std::vector<AttachmentId> revoked;
  for (const auto& [id, attachment] : attachments) {
    if (attachment.object.buffer == koid) revoked.push_back(id);
  }
  for (const AttachmentId id : revoked) EndAttachment(id, kRevoked);
}

// --- Names, signals, records ---------------------------------------------------------------------

Reason RegistryModel::CheckSetName(const ModelHandle& held, const std::string& name) const {
  if (!Has(held, HandleRights::kSetProperty)) return v1::ERROR_REASON_ACCESS_DENIED;
  return CheckName(Cut(name), held.object.buffer);
}

void RegistryModel::SetName(const ModelHandle& held, const std::string& name) {
  ModelBuffer& buffer = buffers.at(held.object.buffer);
  if (buffer.name == Cut(name)) return;
  const std::string old_name = std::exchange(buffer.name, Cut(name));
  Tell(Kind::kRenamed, held.object.buffer, 0, old_name + " -> " + buffer.name);
}

Reason RegistryModel::CheckSignal(const ModelHandle& held, bool peer, uint32_t clear,
                                  uint32_t set) const {
  if (((clear | set) & 0x00ffffff) != 0) return v1::ERROR_REASON_INVALID_ARGUMENT;
  if (!Has(held, peer ? HandleRights::kSignalPeer : HandleRights::kSignal))
    return v1::ERROR_REASON_ACCESS_DENIED;
  if (!peer) return kWorks;
  const auto& ends = buffers.at(held.object.buffer).endpoints;
  const bool has_peer = ends[1 - static_cast<size_t>(held.object.endpoint)].held();
  return has_peer ? kWorks : v1::ERROR_REASON_PEER_CLOSED;
}

void RegistryModel::Signal(const ModelHandle& held, bool peer, uint32_t clear, uint32_t set) {
  const bool of_region = held.object.region != 0;
  const EndpointId id = peer ? shm::PeerOf(held.object.endpoint) : held.object.endpoint;
  uint32_t& signals = of_region ? regions.at(held.object.region).signals
                                : buffers.at(held.object.buffer).endpoint(id).signals;
  const uint32_t before = std::exchange(signals, (signals & ~clear) | set);
  if (signals == before) return;
  if (of_region) {
    Tell(Kind::kRegionSignals, held.object.region, signals);
  } else {
    Tell(Kind::kSignals, ModelEvent::Endpoint(held.object.buffer, id), signals);
  }
}

Reason RegistryModel::CheckWrite(const ModelHandle& held, uint32_t region_index) const {
  if (!Has(held, HandleRights::kWrite)) return v1::ERROR_REASON_ACCESS_DENIED;
  const std::vector<Koid>& used = buffers.at(held.object.buffer).regions;
  if (region_index >= used.size()) return v1::ERROR_REASON_OUT_OF_RANGE;
  if (used[region_index] == 0) return v1::ERROR_REASON_WRONG_DISCIPLINE;
  if (held.object.endpoint == EndpointId::kEp0) return v1::ERROR_REASON_ACCESS_DENIED;
  const ModelRegion& region = regions.at(used[region_index]);
  const bool fits = (region.stored + 1) * kRecordBytes <= region.size_bytes - kPage;
  return fits ? kWorks : v1::ERROR_REASON_RING_FULL;
}

void RegistryModel::Write(const ModelHandle& held, uint32_t region_index, Reason outcome) {
  const Koid koid = buffers.at(held.object.buffer).regions[region_index];
  ModelRegion& region = regions.at(koid);
  if (outcome == v1::ERROR_REASON_RING_FULL) {
    region.rejected += 1;
    return;
  }
  region.stored += 1;
  Tell(Kind::kRegionUpdated, koid);
}

}  // namespace iob::server
