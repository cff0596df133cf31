#include "server/convert.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/ledger_proto.h"
#include "server/mutex_lock.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::EndpointId;

// Cannot fail: what is wrong with a region is said in the order of the regions, by
// ValidateRegionSpec.
RegionSpec FromProto(const v1::RegionSpec& spec) {
  const auto token = Token::FromBytes(spec.shared_region());
  return {.type = spec.type(),
          .discipline = spec.discipline(),
          .size_bytes = spec.size_bytes(),
          .access = shm::AccessBits(spec.access_bits()),
          .tag = spec.tag(),
          .required_enforcement = spec.required_enforcement(),
          .shared_handle = token,
          .malformed_handle_bytes = token ? 0 : spec.shared_region().size(),
          .interned_blobs_max = spec.interned_blobs_max(),
          .mediated = spec.mediated_ring(),
          .reserve = spec.has_reserve_ring() ? std::optional(spec.reserve_ring()) : std::nullopt,
          .slot_value_bytes = spec.slot_value_bytes(),
          .placement = spec.placement()};
}

absl::StatusOr<OpenRule> FromProto(const v1::OpenRule& rule, absl::string_view argument) {
  if (rule.uids_size() > static_cast<int>(kOpenRuleUidsMax)) {
    return BadArgument(argument, absl::StrCat(rule.uids_size(), " uids, at most ", kOpenRuleUidsMax,
                                              " are allowed"));
  }
  return OpenRule{.anyone = rule.anyone(), .uids = {rule.uids().begin(), rule.uids().end()}};
}

void FillHolder(const HolderInfo& info, v1::Holder& holder) {
  holder.set_uid(info.uid);
  holder.set_gid(info.gid);
  holder.set_pid(info.pid);
}

// Given who holds the endpoint now; before anybody does, what an unprivileged stranger would get.
v1::Enforcement EnforcementNow(const Buffer& buffer, const Region& region, EndpointId endpoint,
                               uint32_t broker_uid) {
  constexpr uint32_t kStrangerUid = 65534;
  const shm::RegionRights rights = region.spec().access.For(endpoint);
  v1::Enforcement weakest = region.EnforcementFor(rights, kStrangerUid, broker_uid);
  for (const AttachedHolder& holder : buffer.endpoint(endpoint).attachments) {
    weakest = std::min(weakest, region.EnforcementFor(rights, holder.who.uid, broker_uid));
  }
  return weakest;
}

void FillIdAllocator(const Region& region, v1::RegionInfo& info) {
  if (const SealedIds* const sealed = region.sealed_ids()) {
    info.mutable_id_allocator()->set_next_id(sealed->writer.next_id());
    info.mutable_id_allocator()->set_free_bytes(sealed->writer.free_bytes());
  }
  const SharedIds* const shared = region.shared_ids();
  if (shared == nullptr) return;
  v1::IdAllocatorInfo& ids = *info.mutable_id_allocator();
  ids.set_shared(true);
  const auto header = shared->writer().LoadHeader();
  ids.set_damaged(!header.has_value());
  if (!header) return;
  ids.set_next_id(header->next_id);
  ids.set_free_bytes(header->free_bytes());
}

void FillRegion(const Buffer& buffer, uint32_t index, uint32_t broker_uid, EndpointId viewer,
                v1::RegionInfo& info) {
  const Region& region = buffer.regions()[index];
  const RegionSpec& spec = region.spec();
  info.set_index(index);
  info.set_type(spec.type);
  info.set_discipline(spec.discipline);
  info.set_size_bytes(spec.size_bytes);
  info.set_access_bits(spec.access.SeenFrom(viewer).bits());
  info.set_koid(region.koid());
  info.set_tag(spec.tag);
  info.set_ep0_enforcement(EnforcementNow(buffer, region, EndpointId::kEp0, broker_uid));
  info.set_ep1_enforcement(EnforcementNow(buffer, region, EndpointId::kEp1, broker_uid));
  FillIdAllocator(region, info);
  FillRingOptions(spec, info);
  *info.mutable_placement() = region.placement();
}

// Direct rings have one producing endpoint, so all of its seats are lines of that endpoint.
v1::RingStats DirectStatsOf(const Buffer& buffer, const Region& region) {
  v1::RingStats stats = region.direct()->Stats();
  stats.set_claimed(true);
  const EndpointId producer =
      region.spec().access.For(EndpointId::kEp0).map_write() ? EndpointId::kEp0 : EndpointId::kEp1;
  for (v1::WriterStats& writer : *stats.mutable_writers()) {
    writer.set_endpoint(ToProto(producer));
    writer.set_tag(buffer.TagOf(region, producer));
  }
  return stats;
}

void FillEndpoint(const Buffer& buffer, EndpointId id, v1::EndpointInfo& info) {
  const Endpoint& endpoint = buffer.endpoint(id);
  info.set_endpoint(ToProto(id));
  info.set_koid(endpoint.koid);
  info.set_handles(static_cast<uint32_t>(endpoint.handles.size()));
  info.set_attachments(static_cast<uint32_t>(endpoint.attachments.size()));
  info.set_memory_held(buffer.AnyGrantHeld(id));
  info.set_signals(buffer.signal().signals(id));
  if (endpoint.closed) *info.mutable_closed() = ToProto(endpoint.reason);
  const size_t shown = std::min(endpoint.attachments.size(), kHoldersShownMax);
  for (size_t i = 0; i < shown; ++i) FillHolder(endpoint.attachments[i].who, *info.add_holders());
}

}  // namespace

absl::StatusOr<EndpointId> FromProto(v1::EndpointId endpoint) {
  switch (endpoint) {
    case v1::ENDPOINT_ID_EP0:
      return EndpointId::kEp0;
    case v1::ENDPOINT_ID_EP1:
      return EndpointId::kEp1;
    case v1::ENDPOINT_ID_UNSPECIFIED:
    case v1::EndpointId_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::EndpointId_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return BadArgument("endpoint", "missing or unknown; ep0 is 1, ep1 is 2");
}

v1::EndpointId ToProto(EndpointId endpoint) {
  return endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1;
}

absl::StatusOr<Token> TokenFromProto(const std::string& claimed_bytes, absl::string_view argument) {
  const auto token = Token::FromBytes(claimed_bytes);
  if (token) return *token;
  return BadArgument(argument,
                     absl::StrCat(claimed_bytes.size(), " bytes, a handle has ", Token::kBytes));
}

absl::StatusOr<Lease> LeaseFromProto(uint32_t lease_ms, int64_t now_ns) {
  if (lease_ms <= kLeaseMsMax) return Lease{.ms = lease_ms, .now_ns = now_ns};
  return BadArgument("lease_ms", absl::StrCat(lease_ms, ", at most ", kLeaseMsMax, " are allowed"));
}

absl::StatusOr<CreateParams> FromProto(const v1::CreateBufferRequest& request, int64_t now_ns) {
  CreateParams params{.name = request.name(), .regions = {}, .open_rules = {}, .lease = {}};
  IOB_ASSIGN_OR_RETURN(params.lease, LeaseFromProto(request.lease_ms(), now_ns));
  params.snapshot_on_crash = request.snapshot_on_crash();
  for (const v1::RegionSpec& spec : request.regions()) params.regions.push_back(FromProto(spec));
  IOB_ASSIGN_OR_RETURN(params.open_rules[0], FromProto(request.ep0_open(), "ep0_open"));
  IOB_ASSIGN_OR_RETURN(params.open_rules[1], FromProto(request.ep1_open(), "ep1_open"));
  return params;
}

v1::CloseReason ToProto(const shm::CloseReason& reason) {
  v1::CloseReason told;
  told.set_kind(static_cast<v1::CloseKind>(reason.kind));
  told.set_code(reason.code);
  return told;
}

void SetTime(absl::Time time, google::protobuf::Timestamp& stamp) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  stamp.set_seconds(seconds);
  stamp.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

v1::SharedRegionInfo ToProto(const SharedRegion& region) {
  v1::SharedRegionInfo info;
  info.set_koid(region.koid());
  FillHolder(region.owner(), *info.mutable_owner());
  info.mutable_create_time()->set_seconds(absl::ToUnixSeconds(region.create_time()));
  info.set_size_bytes(region.size_bytes());
  info.set_handles(static_cast<uint32_t>(region.handles().size()));
  info.set_memory_bytes(region.memory_bytes());
  info.set_user_count(static_cast<uint32_t>(region.uses().size()));
  info.set_signals(region.signals());
  *info.mutable_placement() = region.placement();
  for (const auto& [number, use] : region.uses()) {
    if (info.users_size() == kRegionUsersShownMax) break;
    v1::SharedRegionUser& user = *info.add_users();
    user.set_buffer_koid(use.buffer->koid());
    user.set_buffer_name(use.buffer->name());
    user.set_region_index(use.region_index);
  }
  return info;
}

v1::HandleInfo ToProto(const Handle& handle) {
  v1::HandleInfo info;
  info.set_rights(handle.rights.bits());
  info.set_lease_ms(handle.lease_ms);
  if (const Buffer* const buffer = handle.object.buffer) {
    info.set_type(v1::OBJECT_TYPE_ENDPOINT);
    info.set_koid(buffer->endpoint(handle.object.endpoint).koid);
    info.set_related_koid(buffer->endpoint(shm::PeerOf(handle.object.endpoint)).koid);
  } else {
    info.set_type(v1::OBJECT_TYPE_SHARED_REGION);
    info.set_koid(handle.object.shared_region->koid());
  }
  return info;
}

v1::BufferInfo ToProto(const Buffer& buffer, uint32_t broker_uid, EndpointId viewer) {
  v1::BufferInfo info;
  info.set_koid(buffer.koid());
  info.set_name(buffer.name());
  FillHolder(buffer.owner(), *info.mutable_owner());
  info.mutable_create_time()->set_seconds(absl::ToUnixSeconds(buffer.create_time()));
  for (uint32_t i = 0; i < buffer.regions().size(); ++i) {
    FillRegion(buffer, i, broker_uid, viewer, *info.add_regions());
  }
  FillEndpoint(buffer, EndpointId::kEp0, *info.add_endpoints());
  FillEndpoint(buffer, EndpointId::kEp1, *info.add_endpoints());
  info.set_memory_bytes(buffer.memory_bytes());
  return info;
}

std::optional<v1::RingStats> RingStatsOf(Buffer& buffer, uint32_t region_index) {
  Region& region = buffer.regions()[region_index];
  MediatedRing* const ring = region.ring();
  if (ring == nullptr && region.direct() == nullptr) return std::nullopt;
  v1::RingStats stats;
  if (region.direct() != nullptr) stats = DirectStatsOf(buffer, region);
  stats.set_region_index(region_index);
  stats.set_discipline(region.spec().discipline);
  if (ring == nullptr) return stats;
  const MutexLock lock(ring->mutex.get());
  FillLedger(ring->ledger, stats);
  const shm::RingOccupancy occupancy = ring->writer.Occupancy();
  stats.set_consumed_records(occupancy.consumed_records);
  stats.set_resident_records(occupancy.resident_records);
  stats.set_resident_bytes(occupancy.resident_bytes);
  stats.set_high_water_bytes(occupancy.high_water_bytes);
  stats.set_capacity_bytes(occupancy.capacity_bytes);
  stats.set_tail_violations(occupancy.tail_violations);
  stats.set_overwritten_records(occupancy.overwritten_records);
  stats.set_overwritten_bytes(occupancy.overwritten_bytes);
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    if (!region.spec().access.For(endpoint).mediated_write()) continue;
    v1::WriterStats& writer = *stats.add_writers();
    writer.set_endpoint(ToProto(endpoint));
    writer.set_tag(buffer.TagOf(region, endpoint));
    FillLedger(region.ledger_of(endpoint), writer);
  }
  return stats;
}

}  // namespace iob::server
