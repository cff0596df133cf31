#include "server/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/policy.h"
#include "shm/check.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;
using shm::EndpointId;

constexpr std::array<EndpointId, 2> kEndpoints = {EndpointId::kEp0, EndpointId::kEp1};

absl::Status BadHandle() {
  return MakeError(v1::ERROR_REASON_BAD_HANDLE,
                   "no such handle or ticket (unknown, spent or expired)");
}

absl::Status NoSuchBuffer() {
  return MakeError(v1::ERROR_REASON_NOT_FOUND, "no such buffer, or it is not yours to see");
}

absl::Status EndpointGone(EndpointId endpoint) {
  return MakeError(v1::ERROR_REASON_PEER_CLOSED,
                   absl::StrCat("endpoint ep", static_cast<int>(endpoint), " is closed for good"));
}

}  // namespace

Registry::~Registry() {
  observer_ = nullptr;
  events_.clear();
}

void Registry::Emit(Event event) {
  if (observer_ != nullptr) events_.push_back(std::move(event));
}

void Registry::DeliverEvents() {
  // An observer that calls back adds to the queue; this pass, further down the stack, takes it.
  if (delivering_) return;
  delivering_ = true;
  while (!events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    event(*observer_);
  }
  delivering_ = false;
}

absl::Status Registry::CheckName(absl::string_view name) const {
  if (name.size() > kNameBytesMax) {
    return BadArgument(
        "name", absl::StrCat(name.size(), " bytes, at most ", kNameBytesMax, " are allowed"));
  }
  if (!std::all_of(name.begin(), name.end(),
                   [](char c) { return absl::ascii_isprint(static_cast<unsigned char>(c)); })) {
    return BadArgument("name", "only printable ASCII is allowed");
  }
  if (name.front() == '#')
    return BadArgument("name", "\"#7\" is how ids are written; start otherwise");
  if (by_name_.contains(std::string(name))) {
    return MakeError(v1::ERROR_REASON_NAME_TAKEN, absl::StrCat("name: \"", name, "\" is taken"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RegionSpec>> Registry::CheckRegions(
    std::vector<RegionSpec> specs) const {
  if (specs.size() > kRegionsMax) {
    return MakeError(
        v1::ERROR_REASON_OUT_OF_RANGE,
        absl::StrCat("regions: ", specs.size(), ", at most ", kRegionsMax, " are allowed"));
  }
  if (specs.empty()) return BadArgument("regions", "empty, at least one is needed");
  for (size_t i = 0; i < specs.size(); ++i) {
    IOB_ASSIGN_OR_RETURN(specs[i], ValidateRegionSpec(specs[i], i, limits_));
  }
  return specs;
}

absl::StatusOr<std::vector<Region>> Registry::MakeRegions(const std::vector<RegionSpec>& specs) {
  std::vector<Region> regions;
  for (const RegionSpec& spec : specs) {
    IOB_ASSIGN_OR_RETURN(Region region, Region::Create(spec, next_koid_ + 3 + regions.size()));
    regions.push_back(std::move(region));
  }
  return regions;
}

absl::StatusOr<CreatedBuffer> Registry::CreateBuffer(const Caller& caller, CreateParams params,
                                                     absl::Time now) {
  IOB_ASSIGN_OR_RETURN(const std::vector<RegionSpec> specs,
                       CheckRegions(std::move(params.regions)));
  if (!params.name.empty()) IOB_RETURN_IF_ERROR(CheckName(params.name));
  if (handle_count() + 2 > limits_.handles_max) {
    return MakeError(v1::ERROR_REASON_QUOTA, absl::StrCat("handles of the daemon: ", handle_count(),
                                                          " of ", limits_.handles_max, " in use"));
  }
  uint64_t memory_bytes = shm::PageBytes();  // The signal page.
  for (const RegionSpec& spec : specs) {
    const uint64_t more = MemoryBytesFor(spec);
    // Saturates: a sum that wrapped around would slip through the quota.
    memory_bytes = more > UINT64_MAX - memory_bytes ? UINT64_MAX : memory_bytes + more;
  }
  IOB_ASSIGN_OR_RETURN(Charge charge, quota_.ChargeBuffer(caller.uid, memory_bytes));
  IOB_ASSIGN_OR_RETURN(std::vector<Region> regions, MakeRegions(specs));
  IOB_ASSIGN_OR_RETURN(shm::SignalPageWriter signal,
                       shm::SignalPageWriter::Create(/*generation=*/1));

  // Nothing fails from here on. Koids: the buffer, ep0, ep1, then the regions (MakeRegions counts
  // on it).
  const Koid koid = next_koid_;
  auto owned =
      std::make_unique<Buffer>(koid, std::move(params.name),
                               HolderInfo{.uid = caller.uid, .gid = caller.gid, .pid = caller.pid},
                               now, std::move(regions), std::move(signal), std::move(charge));
  Buffer& buffer = *owned;
  next_koid_ += 3 + buffer.regions().size();
  for (const EndpointId endpoint : kEndpoints) {
    buffer.endpoint(endpoint).koid = koid + 1 + static_cast<Koid>(endpoint);
    buffer.open_rule(endpoint) = std::move(params.open_rules[static_cast<size_t>(endpoint)]);
  }
  if (!buffer.name().empty()) by_name_[buffer.name()] = &buffer;
  buffers_[koid] = std::move(owned);
  buffers_created_ += 1;
  CreatedBuffer created{.buffer = &buffer, .handles = {}};
  for (const EndpointId endpoint : kEndpoints) {
    created.handles[static_cast<size_t>(endpoint)] = AddHandle(caller, buffer, endpoint);
  }
  DeliverEvents();
  return created;
}

absl::StatusOr<OpenedEndpoint> Registry::OpenBuffer(const Caller& caller, absl::string_view name,
                                                    EndpointId endpoint) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || !MayKnowOf(*found->second, caller.uid)) return NoSuchBuffer();
  Buffer& buffer = *found->second;
  if (!MayOpen(buffer, endpoint, caller.uid)) {
    return MakeError(v1::ERROR_REASON_POLICY,
                     absl::StrCat("the owner of \"", name, "\" does not let uid ", caller.uid,
                                  " open ep", static_cast<int>(endpoint)));
  }
  if (buffer.endpoint(endpoint).closed) return EndpointGone(endpoint);
  if (handle_count() + 1 > limits_.handles_max) {
    return MakeError(v1::ERROR_REASON_QUOTA, absl::StrCat("handles of the daemon: ", handle_count(),
                                                          " of ", limits_.handles_max, " in use"));
  }
  OpenedEndpoint opened{.buffer = &buffer, .handle = AddHandle(caller, buffer, endpoint)};
  DeliverEvents();
  return opened;
}

Token Registry::AddHandle(const Caller& caller, Buffer& buffer, EndpointId endpoint) {
  const Token token = Token::Random();
  handles_[token] = {.buffer = &buffer,
                     .endpoint = endpoint,
                     .rights = {},
                     .uid = caller.uid,
                     .process = caller.process};
  buffer.endpoint(endpoint).handles += 1;
  auto& of_process = by_process_[caller.process];
  of_process.insert(token);
  if (of_process.size() == 1) {
    Emit([process = caller.process](RegistryObserver& observer) {
      observer.OnProcessHoldsHandles(process, true);
    });
  }
  return token;
}

void Registry::RemoveHandle(const Token& token) {
  const auto found = handles_.find(token);
  const ProcessId process = found->second.process;
  const auto of_process = by_process_.find(process);
  of_process->second.erase(token);
  if (of_process->second.empty()) {
    by_process_.erase(of_process);
    Emit([process](RegistryObserver& observer) { observer.OnProcessHoldsHandles(process, false); });
  }
  handles_.erase(found);
}

absl::StatusOr<const Registry::Handle*> Registry::FindHandle(const Caller& caller,
                                                             const Token& handle) const {
  const auto found = handles_.find(handle);
  if (found == handles_.end() || found->second.uid != caller.uid) return BadHandle();
  return &found->second;
}

absl::Status Registry::CloseHandle(const Caller& caller, const Token& token) {
  IOB_ASSIGN_OR_RETURN(const Handle* handle, FindHandle(caller, token));
  Buffer& buffer = *handle->buffer;
  const EndpointId endpoint = handle->endpoint;
  RemoveHandle(token);
  buffer.endpoint(endpoint).handles -= 1;
  DropHold(buffer, endpoint, {.kind = CloseKind::kClosed});
  DeliverEvents();
  return absl::OkStatus();
}

absl::StatusOr<Registry::HeldEndpoint> Registry::Resolve(const Caller& caller, const Token& token) {
  IOB_ASSIGN_OR_RETURN(const Handle* handle, FindHandle(caller, token));
  return HeldEndpoint{
      .buffer = handle->buffer, .endpoint = handle->endpoint, .rights = handle->rights};
}

absl::StatusOr<IssuedTicket> Registry::IssueTicket(const Caller& caller, const Token& token,
                                                   std::optional<uint32_t> recipient_uid,
                                                   int64_t now_ns) {
  IOB_ASSIGN_OR_RETURN(const Handle* handle, FindHandle(caller, token));
  const int64_t lifetime_ns = int64_t{limits_.ticket_lifetime_ms} * 1'000'000;
  const Ticket ticket{.buffer = handle->buffer,
                      .endpoint = handle->endpoint,
                      .rights = handle->rights,
                      .recipient_uid = recipient_uid.value_or(caller.uid),
                      .expires_ns = now_ns + lifetime_ns};
  // The count stays: the hold moves from the handle to the ticket.
  RemoveHandle(token);
  const Token ticket_token = Token::Random();
  tickets_[ticket_token] = ticket;
  expiries_.emplace_back(ticket.expires_ns, ticket_token);
  DeliverEvents();
  return IssuedTicket{.ticket = ticket_token, .endpoint = ticket.endpoint};
}

absl::StatusOr<Attachment> Registry::LookUpTicket(const Token& token, const HolderInfo& holder,
                                                  int64_t now_ns) const {
  const auto found = tickets_.find(token);
  if (found == tickets_.end() || found->second.expires_ns <= now_ns ||
      found->second.recipient_uid != holder.uid) {
    return BadHandle();
  }
  const Ticket& ticket = found->second;
  IOB_RETURN_IF_ERROR(CheckEnforcement(ticket, holder.uid));
  if (attachments_.size() >= limits_.attachments_max) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("attachments of the daemon: ", attachments_.size(), " of ",
                                  limits_.attachments_max, " in use"));
  }
  return Attachment{.id = 0,
                    .buffer = ticket.buffer,
                    .endpoint = ticket.endpoint,
                    .rights = ticket.rights,
                    .holder = holder};
}

absl::StatusOr<Attachment> Registry::RedeemTicket(const Token& token, const HolderInfo& holder,
                                                  int64_t now_ns) {
  IOB_ASSIGN_OR_RETURN(Attachment attachment, LookUpTicket(token, holder, now_ns));
  tickets_.erase(token);
  // Spent tickets at the front need no expiry any more.
  while (!expiries_.empty() && !tickets_.contains(expiries_.front().second)) expiries_.pop_front();
  Endpoint& endpoint = attachment.buffer->endpoint(attachment.endpoint);
  endpoint.handles -= 1;
  attachment.id = next_attachment_++;
  endpoint.attachments.push_back({.attachment = attachment.id, .who = holder});
  attachments_[attachment.id] = attachment;
  return attachment;
}

absl::Status Registry::CheckEnforcement(const Ticket& ticket, uint32_t holder_uid) const {
  const std::vector<Region>& regions = ticket.buffer->regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    const shm::RegionRights rights =
        shm::EffectiveRights(regions[i].spec().access.For(ticket.endpoint), ticket.rights);
    const v1::Enforcement level = regions[i].EnforcementFor(rights, holder_uid, broker_uid_);
    if (level >= regions[i].spec().required_enforcement) continue;
    return MakeError(
        v1::ERROR_REASON_ENFORCEMENT,
        absl::StrCat("regions[", i,
                     "]: ", v1::Enforcement_Name(regions[i].spec().required_enforcement),
                     " is required, but uid ", holder_uid, " as ep",
                     static_cast<int>(ticket.endpoint), " of a broker with uid ", broker_uid_,
                     " can only be held by ", v1::Enforcement_Name(level)));
  }
  return absl::OkStatus();
}

void Registry::EndAttachment(AttachmentId id, CloseReason reason) {
  const auto found = attachments_.find(id);
  IOB_CHECK(found != attachments_.end());
  const Attachment attachment = found->second;
  attachments_.erase(found);
  Endpoint& endpoint = attachment.buffer->endpoint(attachment.endpoint);
  endpoint.attachments.erase(
      std::find_if(endpoint.attachments.begin(), endpoint.attachments.end(),
                   [id](const AttachedHolder& holder) { return holder.attachment == id; }));
  endpoint.was_attached = true;
  endpoint.reason = reason;
  DropHold(*attachment.buffer, attachment.endpoint, reason);
  DeliverEvents();
}

void Registry::ProcessEnded(ProcessId process, CloseReason reason) {
  const auto found = by_process_.find(process);
  if (found == by_process_.end()) return;
  const absl::flat_hash_set<Token> tokens = found->second;
  for (const Token& token : tokens) {
    Buffer& buffer = *handles_.at(token).buffer;
    const EndpointId endpoint = handles_.at(token).endpoint;
    RemoveHandle(token);
    buffer.endpoint(endpoint).handles -= 1;
    DropHold(buffer, endpoint, reason);
  }
  DeliverEvents();
}

void Registry::ExpireTickets(int64_t now_ns) {
  while (!expiries_.empty() && expiries_.front().first <= now_ns) {
    const Token token = expiries_.front().second;
    expiries_.pop_front();
    const auto found = tickets_.find(token);
    if (found == tickets_.end()) continue;  // Redeemed in time.
    const Ticket ticket = found->second;
    tickets_.erase(found);
    ticket.buffer->endpoint(ticket.endpoint).handles -= 1;
    DropHold(*ticket.buffer, ticket.endpoint, {.kind = CloseKind::kExpired});
  }
  DeliverEvents();
}

std::optional<int64_t> Registry::NextExpiryNs() const {
  if (expiries_.empty()) return std::nullopt;
  return expiries_.front().first;
}

void Registry::DropHold(Buffer& buffer, EndpointId id, CloseReason reason) {
  Endpoint& endpoint = buffer.endpoint(id);
  if (!endpoint.was_attached) endpoint.reason = reason;
  if (endpoint.held()) return;
  Emit([koid = buffer.koid(), id](RegistryObserver& observer) {
    observer.OnEndpointUnheld(koid, id);
  });
}

void Registry::EndpointReleased(Koid koid, EndpointId id) {
  Buffer* const buffer = Find(koid);
  if (buffer == nullptr) return;
  const Endpoint& endpoint = buffer->endpoint(id);
  if (endpoint.held() || endpoint.closed) return;
  CloseEndpoint(*buffer, id);
  DeliverEvents();
}

void Registry::CloseEndpoint(Buffer& buffer, EndpointId id) {
  Endpoint& endpoint = buffer.endpoint(id);
  endpoint.closed = true;
  const Koid koid = buffer.koid();
  const EndpointId peer = shm::PeerOf(id);
  buffer.signal().RaisePeerClosed(peer, endpoint.reason);
  Emit([koid, id, reason = endpoint.reason](RegistryObserver& observer) {
    observer.OnEndpointClosed(koid, id, reason);
  });
  if (!buffer.endpoint(peer).closed) return;
  // R3. The observer hears of it when the memory is gone already.
  ReleaseName(buffer);
  RetireLedgers(buffer);
  Emit([koid](RegistryObserver& observer) { observer.OnBufferGone(koid); });
  buffers_.erase(koid);
}

void Registry::RetireLedgers(Buffer& buffer) {
  for (Region& region : buffer.regions()) {
    MediatedRing* const ring = region.ring();
    if (ring == nullptr) continue;
    retired_.ledger.Add(ring->ledger);
    retired_.consumed_records += ring->writer.Occupancy().consumed_records;
  }
}

absl::Status Registry::DeleteBuffer(const Caller& caller, Buffer& buffer, bool force) {
  IOB_CHECK(MayAdminister(buffer, caller.uid));
  size_t attachments = 0;
  for (const EndpointId endpoint : kEndpoints)
    attachments += buffer.endpoint(endpoint).attachments.size();
  if (attachments != 0 && !force) {
    return MakeError(v1::ERROR_REASON_IN_USE, absl::StrCat("the buffer is attached ", attachments,
                                                           " times; force takes it away"));
  }
  RevokeHolds(buffer);
  DeliverEvents();
  return absl::OkStatus();
}

void Registry::ReleaseName(const Buffer& buffer) {
  const auto named = by_name_.find(buffer.name());
  // After a delete the name may belong to a newer buffer already.
  if (named != by_name_.end() && named->second == &buffer) by_name_.erase(named);
}

void Registry::RevokeHolds(Buffer& buffer) {
  // Without a name nobody can open it again.
  ReleaseName(buffer);
  constexpr CloseReason kReason = {.kind = CloseKind::kRevoked};
  std::vector<Token> handles;
  for (const auto& [token, handle] : handles_) {
    if (handle.buffer == &buffer) handles.push_back(token);
  }
  for (const Token& token : handles) {
    const EndpointId endpoint = handles_.at(token).endpoint;
    RemoveHandle(token);
    buffer.endpoint(endpoint).handles -= 1;
    DropHold(buffer, endpoint, kReason);
  }
  std::vector<Token> tickets;
  for (const auto& [token, ticket] : tickets_) {
    if (ticket.buffer == &buffer) tickets.push_back(token);
  }
  for (const Token& token : tickets) {
    const EndpointId endpoint = tickets_.at(token).endpoint;
    tickets_.erase(token);
    buffer.endpoint(endpoint).handles -= 1;
    DropHold(buffer, endpoint, kReason);
  }
  for (const auto& [id, attachment] : attachments_) {
    if (attachment.buffer != &buffer) continue;
    Emit([revoked = id](RegistryObserver& observer) { observer.OnRevoke(revoked); });
  }
}

Buffer* Registry::Find(Koid koid) {
  const auto found = buffers_.find(koid);
  return found == buffers_.end() ? nullptr : found->second.get();
}

absl::StatusOr<Buffer*> Registry::FindForOwner(const Caller& caller, Koid koid) {
  Buffer* const buffer = Find(koid);
  if (buffer == nullptr || !MayAdminister(*buffer, caller.uid)) return NoSuchBuffer();
  return buffer;
}

absl::StatusOr<Buffer*> Registry::FindForOwner(const Caller& caller, absl::string_view name) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || !MayAdminister(*found->second, caller.uid)) return NoSuchBuffer();
  return found->second;
}

std::vector<Buffer*> Registry::List(const Caller& caller, Koid after, absl::string_view name_prefix,
                                    size_t count_max) {
  std::vector<Buffer*> page;
  for (auto it = buffers_.upper_bound(after); it != buffers_.end() && page.size() < count_max;
       ++it) {
    Buffer& buffer = *it->second;
    if (!MayAdminister(buffer, caller.uid) || !absl::StartsWith(buffer.name(), name_prefix))
      continue;
    page.push_back(&buffer);
  }
  return page;
}

void Registry::CheckInvariants() const {
  absl::flat_hash_map<const Endpoint*, std::pair<uint32_t, uint32_t>> counted;
  const auto count_hold = [&](const Buffer* buffer, EndpointId id, bool attachment) {
    const auto owned = buffers_.find(buffer->koid());
    IOB_CHECK(owned != buffers_.end() && owned->second.get() == buffer);
    auto& [handles, attachments] = counted[&buffer->endpoint(id)];
    (attachment ? attachments : handles) += 1;
  };
  for (const auto& [token, handle] : handles_) {
    count_hold(handle.buffer, handle.endpoint, false);
    IOB_CHECK(by_process_.at(handle.process).contains(token));
  }
  for (const auto& [token, ticket] : tickets_) count_hold(ticket.buffer, ticket.endpoint, false);
  for (const auto& [id, attachment] : attachments_) {
    count_hold(attachment.buffer, attachment.endpoint, true);
  }
  for (const auto& [name, buffer] : by_name_) IOB_CHECK(buffer->name() == name);  // R4
  for (const auto& [koid, buffer] : buffers_) {
    for (const EndpointId id : kEndpoints) {
      const Endpoint& endpoint = buffer->endpoint(id);
      const auto [handles, attachments] = counted[&endpoint];
      IOB_CHECK(handles == endpoint.handles && attachments == endpoint.attachments.size());  // R1
      IOB_CHECK(!endpoint.closed || !endpoint.held());                                       // R2
    }
    IOB_CHECK(!buffer->endpoint(EndpointId::kEp0).closed ||
              !buffer->endpoint(EndpointId::kEp1).closed);
  }
}

}  // namespace iob::server
