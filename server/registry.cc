#include "server/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/mutex_lock.h"
#include "server/policy.h"
#include "shm/check.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;
using shm::EndpointId;

constexpr std::array<EndpointId, 2> kEndpoints = {EndpointId::kEp0, EndpointId::kEp1};

absl::Status BadTicket() {
  return MakeError(v1::ERROR_REASON_BAD_HANDLE,
                   "no such handle or ticket (unknown, spent or expired)");
}

absl::Status NoSuch(absl::string_view what) {
  return MakeError(v1::ERROR_REASON_NOT_FOUND,
                   absl::StrCat("no such ", what, ", or it is not yours to see"));
}

BufferLabel LabelOf(const Buffer& buffer) {
  return {.koid = buffer.koid(), .name = buffer.name(), .owner_uid = buffer.owner().uid};
}

absl::Status EndpointGone(EndpointId endpoint) {
  return MakeError(v1::ERROR_REASON_PEER_CLOSED,
                   absl::StrCat("endpoint ep", static_cast<int>(endpoint), " is closed for good"));
}

}  // namespace

Registry::Registry(const Limits& limits, Quota& quota, uint32_t broker_uid)
    : limits_(limits),
      quota_(quota),
      broker_uid_(broker_uid),
      handles_([this](ProcessId process, bool holds) {
        Emit([process, holds](RegistryObserver& observer) {
          observer.OnProcessHoldsHandles(process, holds);
        });
      }) {}

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

absl::Status Registry::CheckName(absl::string_view name, const Buffer* renamed) const {
  if (name.empty()) return absl::OkStatus();
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
  const auto named = by_name_.find(name);
  if (named != by_name_.end() && named->second != renamed) {
    return MakeError(v1::ERROR_REASON_NAME_TAKEN, absl::StrCat("name: \"", name, "\" is taken"));
  }
  return absl::OkStatus();
}

absl::Status Registry::CheckHandleRoom(size_t more) const {
  if (handle_count() + more <= limits_.handles_max) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_QUOTA, absl::StrCat("handles of the daemon: ", handle_count(),
                                                        " of ", limits_.handles_max, " in use"));
}

absl::StatusOr<std::vector<RegionSpec>> Registry::CheckRegions(
    const Caller& caller, std::vector<RegionSpec> specs) const {
  if (specs.size() > kRegionsMax) {
    return MakeError(
        v1::ERROR_REASON_OUT_OF_RANGE,
        absl::StrCat("regions: ", specs.size(), ", at most ", kRegionsMax, " are allowed"));
  }
  if (specs.empty()) return BadArgument("regions", "empty, at least one is needed");
  for (size_t i = 0; i < specs.size(); ++i) {
    IOB_ASSIGN_OR_RETURN(specs[i],
                         ValidateRegionSpec(specs[i], i, limits_, [&](const Token& token) {
                           return ResolveSharedRegion(caller, token, /*rights=*/0);
                         }));
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
                       CheckRegions(caller, std::move(params.regions)));
  IOB_RETURN_IF_ERROR(CheckName(params.name, nullptr));
  IOB_RETURN_IF_ERROR(CheckHandleRoom(2));
  uint64_t memory_bytes = shm::PageBytes();  // The signal page.
  uint64_t descriptors = 0;
  uint64_t elsewhere_bytes = 0;
  for (const RegionSpec& spec : specs) {
    descriptors += SectionsOf(spec);
    if (!TakesOrdinaryMemory(spec.placement, spec.size_bytes)) elsewhere_bytes += spec.size_bytes;
    const uint64_t more = MemoryBytesFor(spec);
    // Saturates: a sum that wrapped around would slip through the quota.
    memory_bytes = more > UINT64_MAX - memory_bytes ? UINT64_MAX : memory_bytes + more;
  }
  IOB_ASSIGN_OR_RETURN(Charge charge, quota_.ChargeBuffer(caller.uid, memory_bytes, descriptors));
  IOB_RETURN_IF_ERROR(quota_.CheckRoom(memory_bytes - elsewhere_bytes));
  IOB_ASSIGN_OR_RETURN(std::vector<Region> regions, MakeRegions(specs));

  // Nothing fails from here on. Koids: the buffer, ep0, ep1, then the regions (MakeRegions counts
  // on it).
  const Koid koid = next_koid_;
  auto owned =
      std::make_unique<Buffer>(koid, std::move(params.name),
                               HolderInfo{.uid = caller.uid, .gid = caller.gid, .pid = caller.pid},
                               now, std::move(regions), std::move(charge));
  Buffer& buffer = *owned;
  next_koid_ += 3 + buffer.regions().size();
  for (const EndpointId endpoint : kEndpoints) {
    buffer.endpoint(endpoint).koid = koid + 1 + static_cast<Koid>(endpoint);
    buffer.open_rule(endpoint) = std::move(params.open_rules[static_cast<size_t>(endpoint)]);
  }
  if (!buffer.name().empty()) by_name_[buffer.name()] = &buffer;
  for (uint32_t i = 0; i < buffer.regions().size(); ++i) {
    const Region& region = buffer.regions()[i];
    if (region.shared() != nullptr)
      region.shared()->AddUse(region.user(), {.buffer = &buffer, .region_index = i});
  }
  buffer.set_snapshot_on_crash(params.snapshot_on_crash);
  buffers_[koid] = std::move(owned);
  buffers_created_ += 1;
  Emit([label = LabelOf(buffer), owner = buffer.owner(), bytes = buffer.memory_bytes()](
           RegistryObserver& observer) { observer.OnBufferCreated(label, owner, bytes); });
  CreatedBuffer created{.buffer = &buffer, .handles = {}};
  for (const EndpointId endpoint : kEndpoints) {
    created.handles[static_cast<size_t>(endpoint)] =
        AddHandle(caller, {.buffer = &buffer, .endpoint = endpoint}, {}, caller.uid, params.lease);
  }
  DeliverEvents();
  return created;
}

absl::StatusOr<OpenedEndpoint> Registry::OpenBuffer(const Caller& caller, absl::string_view name,
                                                    EndpointId endpoint, Lease lease) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || !MayKnowOf(*found->second, caller.uid)) return NoSuch("buffer");
  Buffer& buffer = *found->second;
  if (!MayOpen(buffer, endpoint, caller.uid)) {
    return MakeError(v1::ERROR_REASON_POLICY,
                     absl::StrCat("the owner of \"", name, "\" does not let uid ", caller.uid,
                                  " open ep", static_cast<int>(endpoint)));
  }
  if (buffer.endpoint(endpoint).closed) return EndpointGone(endpoint);
  IOB_RETURN_IF_ERROR(CheckHandleRoom(1));
  const OpenedEndpoint opened{.buffer = &buffer,
                              .handle = AddHandle(caller, {.buffer = &buffer, .endpoint = endpoint},
                                                  {}, caller.uid, lease)};
  DeliverEvents();
  return opened;
}

absl::StatusOr<CreatedSharedRegion> Registry::CreateSharedRegion(const Caller& caller,
                                                                 uint64_t size_bytes,
                                                                 absl::Time now, Lease lease,
                                                                 const v1::Placement& placement) {
  const uint64_t page = shm::PageBytes();
  if (size_bytes == 0 || size_bytes % page != 0) {
    return BadArgument("size_bytes",
                       absl::StrCat(size_bytes, ", a shared region is whole pages of ", page,
                                    " bytes, at least one"));
  }
  const uint64_t bytes_max = std::min(limits_.region_bytes_max, shm::RingLayout::kRegionBytesMax);
  if (size_bytes > bytes_max) {
    return MakeError(
        v1::ERROR_REASON_OUT_OF_RANGE,
        absl::StrCat("size_bytes: ", size_bytes, ", at most ", bytes_max, " are allowed"));
  }
  IOB_RETURN_IF_ERROR(CheckPlacement(placement, {.argument = "region",
                                                 .discipline = v1::DISCIPLINE_MEDIATED_RING,
                                                 .size_bytes = size_bytes,
                                                 .shared = false}));
  IOB_RETURN_IF_ERROR(CheckHandleRoom(1));
  // Its ledger page comes on top.
  const uint64_t descriptors = size_bytes > page ? 2 : 0;
  IOB_ASSIGN_OR_RETURN(Charge charge,
                       quota_.ChargeRegion(caller.uid, size_bytes + page, descriptors));
  IOB_RETURN_IF_ERROR(quota_.CheckRoom(charge.memory_bytes()));
  std::optional<MediatedRing> ring;
  v1::ObtainedPlacement obtained;
  if (size_bytes > page) {
    IOB_ASSIGN_OR_RETURN(PlacedRing placed, MakePlacedRing(size_bytes, placement));
    ring = std::move(placed.ring);
    obtained = std::move(placed.placement);
  }
  const Koid koid = next_koid_++;
  const HolderInfo owner{.uid = caller.uid, .gid = caller.gid, .pid = caller.pid};
  auto owned = std::make_unique<SharedRegion>(koid, owner, now, size_bytes, std::move(ring),
                                              std::move(charge), std::move(obtained));
  SharedRegion& region = *owned;
  shared_regions_[koid] = std::move(owned);
  const CreatedSharedRegion created{
      .region = &region,
      .handle =
          AddHandle(caller, {.shared_region = &region},
                    shm::HandleRights(shm::HandleRights::kSharedRegionDefault), caller.uid, lease)};
  DeliverEvents();
  return created;
}

absl::StatusOr<IssuedTicket> Registry::IssueTicket(const Caller& caller, const Token& token,
                                                   std::optional<uint32_t> recipient_uid,
                                                   int64_t now_ns) {
  const uint32_t recipient = recipient_uid.value_or(caller.uid);
  const uint32_t rights = recipient == caller.uid ? 0 : shm::HandleRights::kTransfer;
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held, ResolveEndpoint(caller, token, rights));
  const int64_t lifetime_ns = int64_t{limits_.ticket_lifetime_ms} * 1'000'000;
  const Ticket ticket{.held = held, .recipient_uid = recipient, .expires_ns = now_ns + lifetime_ns};
  // The hold moves from the handle to the ticket.
  handles_.Remove(token);
  Emit([token](RegistryObserver& observer) { observer.OnHandleGone(token); });
  const Token ticket_token = Token::Random();
  tickets_[ticket_token] = ticket;
  held.buffer->endpoint(held.endpoint).handles.insert(ticket_token);
  expiries_.emplace_back(ticket.expires_ns, ticket_token);
  DeliverEvents();
  return IssuedTicket{.ticket = ticket_token, .endpoint = held.endpoint};
}

absl::StatusOr<Attachment> Registry::LookUpTicket(const Token& token, const HolderInfo& holder,
                                                  int64_t now_ns) const {
  const auto found = tickets_.find(token);
  if (found == tickets_.end() || found->second.expires_ns <= now_ns ||
      found->second.recipient_uid != holder.uid) {
    return BadTicket();
  }
  const Ticket& ticket = found->second;
  IOB_RETURN_IF_ERROR(CheckEnforcement(ticket, holder.uid));
  if (attachments_.size() >= limits_.attachments_max) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("attachments of the daemon: ", attachments_.size(), " of ",
                                  limits_.attachments_max, " in use"));
  }
  return Attachment{.id = 0,
                    .buffer = ticket.held.buffer,
                    .endpoint = ticket.held.endpoint,
                    .rights = ticket.held.rights,
                    .holder = holder};
}

absl::StatusOr<Attachment> Registry::RedeemTicket(const Token& token, const HolderInfo& holder,
                                                  int64_t now_ns) {
  IOB_ASSIGN_OR_RETURN(Attachment attachment, LookUpTicket(token, holder, now_ns));
  tickets_.erase(token);
  // Spent tickets at the front need no expiry any more.
  while (!expiries_.empty() && !tickets_.contains(expiries_.front().second)) expiries_.pop_front();
  Endpoint& endpoint = attachment.buffer->endpoint(attachment.endpoint);
  endpoint.handles.erase(token);
  attachment.id = next_attachment_++;
  endpoint.attachments.push_back({.attachment = attachment.id, .who = holder});
  attachments_[attachment.id] = attachment;
  Emit([label = LabelOf(*attachment.buffer), id = attachment.endpoint,
        holder](RegistryObserver& observer) { observer.OnAttached(label, id, holder); });
  DeliverEvents();
  return attachment;
}

absl::Status Registry::CheckEnforcement(const Ticket& ticket, uint32_t holder_uid) const {
  const HeldEndpoint& held = ticket.held;
  const std::vector<Region>& regions = held.buffer->regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    const shm::RegionRights rights =
        shm::EffectiveRights(regions[i].spec().access.For(held.endpoint), held.rights);
    const v1::Enforcement level = regions[i].EnforcementFor(rights, holder_uid, broker_uid_);
    if (level >= regions[i].spec().required_enforcement) continue;
    return MakeError(
        v1::ERROR_REASON_ENFORCEMENT,
        absl::StrCat("regions[", i,
                     "]: ", v1::Enforcement_Name(regions[i].spec().required_enforcement),
                     " is required, but uid ", holder_uid, " as ep",
                     static_cast<int>(held.endpoint), " of a broker with uid ", broker_uid_,
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
  Emit([label = LabelOf(*attachment.buffer), ep = attachment.endpoint, holder = attachment.holder,
        reason](RegistryObserver& observer) { observer.OnDetached(label, ep, holder, reason); });
  for (const OwnerOf& of : attachment.owners)
    attachment.buffer->regions()[of.region_index].LeaveOwner(of.owner);
  if (!attachment.owners.empty()) {
    Emit([koid = attachment.buffer->koid()](RegistryObserver& observer) {
      observer.OnOwnersLeft(koid);
    });
  }
  DropHold(*attachment.buffer, attachment.endpoint, reason);
  DeliverEvents();
}

void Registry::ProcessEnded(ProcessId process, CloseReason reason) {
  for (const Token& token : handles_.OfProcess(process)) CloseOne(token, reason);
  DeliverEvents();
}

void Registry::Expire(int64_t now_ns) {
  constexpr CloseReason kReason = {.kind = CloseKind::kExpired};
  while (!expiries_.empty() && expiries_.front().first <= now_ns) {
    const Token token = expiries_.front().second;
    expiries_.pop_front();
    if (tickets_.contains(token)) CloseTicket(token, kReason);  // Else redeemed in time.
  }
  for (const Token& token : handles_.ExpiredBy(now_ns)) CloseOne(token, kReason);
  DeliverEvents();
}

std::optional<int64_t> Registry::NextExpiryNs() const {
  std::optional<int64_t> next_ns = handles_.NextExpiryNs();
  if (expiries_.empty()) return next_ns;
  return std::min(expiries_.front().first, next_ns.value_or(INT64_MAX));
}

void Registry::CloseOne(const Token& token, CloseReason reason) {
  const ObjectRef object = handles_.Remove(token).object;
  if (object.buffer != nullptr) {
    DropHold(*object.buffer, object.endpoint, reason);
  } else {
    ReleaseIfUnneeded(*object.shared_region);
  }
  Emit([token](RegistryObserver& observer) { observer.OnHandleGone(token); });
}

void Registry::CloseTicket(const Token& token, CloseReason reason) {
  const HeldEndpoint held = tickets_.at(token).held;
  tickets_.erase(token);
  held.buffer->endpoint(held.endpoint).handles.erase(token);
  DropHold(*held.buffer, held.endpoint, reason);
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
  const EndpointId peer = shm::PeerOf(id);
  buffer.signal().RaisePeerClosed(peer, endpoint.reason);
  Emit([label = LabelOf(buffer), id, reason = endpoint.reason](RegistryObserver& observer) {
    observer.OnEndpointClosed(label, id, reason);
  });
  if (last_look_) last_look_(buffer, id, endpoint.reason);
  if (buffer.endpoint(peer).closed) ReleaseBuffer(buffer);
}

// R3. The observer hears of it when the memory is gone already.
void Registry::ReleaseBuffer(Buffer& buffer) {
  ReleaseName(buffer);
  std::vector<SharedRegion*> let_go;
  for (Region& region : buffer.regions()) {
    if (SharedRegion* const shared = region.shared()) {
      shared->RemoveUse(region.user());
      let_go.push_back(shared);
    } else if (MediatedRing* const ring = region.ring()) {
      RetireLedger(*ring);
    }
  }
  Emit([label = LabelOf(buffer)](RegistryObserver& observer) { observer.OnBufferGone(label); });
  buffers_.erase(buffer.koid());
  // A buffer may use one object twice: once it is gone it must not be looked at again.
  std::sort(let_go.begin(), let_go.end());
  let_go.erase(std::unique(let_go.begin(), let_go.end()), let_go.end());
  for (SharedRegion* const shared : let_go) ReleaseIfUnneeded(*shared);
}

void Registry::ReleaseIfUnneeded(SharedRegion& region) {
  if (region.needed()) return;
  if (MediatedRing* const ring = region.ring()) RetireLedger(*ring);
  const Koid koid = region.koid();
  Emit([koid, owner_uid = region.owner().uid](RegistryObserver& observer) {
    observer.OnRegionGone(koid, owner_uid);
  });
  shared_regions_.erase(koid);
}

void Registry::RetireLedger(MediatedRing& ring) {
  const MutexLock lock(ring.mutex.get());
  retired_.ledger.Add(ring.ledger);
  const shm::RingOccupancy now = ring.writer.Occupancy();
  retired_.consumed_records += now.consumed_records;
  retired_.overwritten_records += now.overwritten_records;
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
  std::vector<Token> tokens;
  for (const EndpointId id : kEndpoints) {
    const Endpoint& endpoint = buffer.endpoint(id);
    tokens.insert(tokens.end(), endpoint.handles.begin(), endpoint.handles.end());
    for (const AttachedHolder& holder : endpoint.attachments) {
      Emit([revoked = holder.attachment](RegistryObserver& observer) {
        observer.OnRevoke(revoked);
      });
    }
  }
  for (const Token& token : tokens) {
    if (tickets_.contains(token)) {
      CloseTicket(token, kReason);
    } else {
      CloseOne(token, kReason);
    }
  }
}

Buffer* Registry::Find(Koid koid) {
  const auto found = buffers_.find(koid);
  return found == buffers_.end() ? nullptr : found->second.get();
}

SharedRegion* Registry::FindSharedRegion(Koid koid) {
  const auto found = shared_regions_.find(koid);
  return found == shared_regions_.end() ? nullptr : found->second.get();
}

absl::StatusOr<SharedRegion*> Registry::FindSharedRegionForOwner(const Caller& caller, Koid koid) {
  SharedRegion* const region = FindSharedRegion(koid);
  if (region == nullptr || !MayAdminister(*region, caller.uid)) return NoSuch("shared region");
  return region;
}

absl::StatusOr<Buffer*> Registry::FindForOwner(const Caller& caller, Koid koid) {
  Buffer* const buffer = Find(koid);
  if (buffer == nullptr || !MayAdminister(*buffer, caller.uid)) return NoSuch("buffer");
  return buffer;
}

absl::StatusOr<Buffer*> Registry::FindForOwner(const Caller& caller, absl::string_view name) {
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || !MayAdminister(*found->second, caller.uid))
    return NoSuch("buffer");
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
  handles_.CheckInvariants();
  size_t tokens = 0;  // Of endpoints and shared regions; each is a handle or a ticket (R1).
  size_t attachments = 0;
  for (const auto& [koid, buffer] : buffers_) {
    for (const EndpointId id : kEndpoints) {
      const Endpoint& endpoint = buffer->endpoint(id);
      tokens += endpoint.handles.size();
      attachments += endpoint.attachments.size();
      for (const AttachedHolder& holder : endpoint.attachments) {
        const Attachment& attachment = attachments_.at(holder.attachment);
        IOB_CHECK(attachment.buffer == buffer.get() && attachment.endpoint == id);
      }
      IOB_CHECK(!endpoint.closed || !endpoint.held());  // R2
    }
    IOB_CHECK(!buffer->endpoint(EndpointId::kEp0).closed ||
              !buffer->endpoint(EndpointId::kEp1).closed);  // R3
    for (const Region& region : buffer->regions()) {
      if (region.shared() == nullptr) continue;
      const SharedRegion& shared = *shared_regions_.at(region.koid());
      IOB_CHECK(&shared == region.shared());
      IOB_CHECK(shared.uses().at(region.user()).buffer == buffer.get());
    }
  }
  for (const auto& [koid, region] : shared_regions_) {
    IOB_CHECK(region->needed());  // R3
    tokens += region->handles().size();
    for (const auto& [user, use] : region->uses()) {
      IOB_CHECK(buffers_.at(use.buffer->koid()).get() == use.buffer);
    }
  }
  IOB_CHECK(tokens == handle_count());
  IOB_CHECK(attachments == attachments_.size());
  for (const auto& [token, ticket] : tickets_) {
    IOB_CHECK(ticket.held.buffer->endpoint(ticket.held.endpoint).handles.contains(token));
  }
  for (const auto& [name, buffer] : by_name_) IOB_CHECK(buffer->name() == name);  // R4
}

}  // namespace iob::server
