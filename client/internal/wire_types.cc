#include "client/internal/wire_types.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/placement_wire.h"
#include "shm/result.h"

namespace iob {
namespace {

// `value` as an Enum between `low` and `high`, else `otherwise`.
template <typename Enum>
Enum EnumFromWire(int value, Enum low, Enum high, Enum otherwise) {
  const bool known = value >= static_cast<int>(low) && value <= static_cast<int>(high);
  return known ? static_cast<Enum>(value) : otherwise;
}

Enforcement FromWire(v1::Enforcement enforcement) {
  return EnumFromWire(enforcement, Enforcement::kAdvisory, Enforcement::kMediated,
                      Enforcement::kUnspecified);
}

CloseReason FromWire(const v1::CloseReason& reason) {
  if (reason.kind() == v1::CLOSE_KIND_UNSPECIFIED) return {};
  return {
      .kind = EnumFromWire(reason.kind(), CloseKind::kClosed, CloseKind::kDied, CloseKind::kDied),
      .code = reason.code()};
}

Holder FromWire(const v1::Holder& holder) {
  return {.uid = holder.uid(), .gid = holder.gid(), .pid = holder.pid()};
}

std::chrono::system_clock::time_point FromWire(const google::protobuf::Timestamp& time) {
  // Beyond what the clock can count, a time is a mistake of the daemon's; none is as good.
  constexpr int64_t kSecondsMax = 9'000'000'000;
  if (time.seconds() < -kSecondsMax || time.seconds() > kSecondsMax) return {};
  return std::chrono::system_clock::time_point(std::chrono::seconds(time.seconds()) +
                                               std::chrono::nanoseconds(time.nanos()));
}

IdAllocatorInfo FromWire(const v1::IdAllocatorInfo& info) {
  return {.next_id = info.next_id(),
          .free_bytes = info.free_bytes(),
          .shared = info.shared(),
          .damaged = info.damaged()};
}

MediatedRingOptions FromWire(const v1::MediatedRingOptions& options) {
  return {.policy = EnumFromWire(options.policy(), RingPolicy::kDropNew, RingPolicy::kBlock,
                                 RingPolicy::kDropNew),
          .block = std::chrono::milliseconds(options.block_ms()),
          .gap_records = options.gap_records(),
          .stamped = options.stamped(),
          .followers = options.followers(),
          .writer_records_max = options.writer_records_max(),
          .writer_bytes_max = options.writer_bytes_max()};
}

ReserveRingOptions FromWire(const v1::ReserveRingOptions& options) {
  return {.mode = EnumFromWire(options.mode(), ReserveMode::kLanes, ReserveMode::kShared,
                               ReserveMode::kLanes),
          .lanes = options.lanes(),
          .granule_bytes = options.granule_bytes(),
          .consumer_clears = options.consumer_clears(),
          .stamped = options.stamped(),
          .on_stall = EnumFromWire(options.on_stall(), StallPolicy::kWait, StallPolicy::kRenew,
                                   StallPolicy::kWait),
          .stall = std::chrono::milliseconds(options.stall_ms())};
}

Discipline FromWire(v1::Discipline discipline, Discipline otherwise) {
  return EnumFromWire(discipline, Discipline::kNone, Discipline::kSlot, otherwise);
}

// nullopt for a message that was left out.
template <typename Message>
auto OptionalFromWire(bool present, const Message& message) {
  return present ? std::optional(FromWire(message)) : std::nullopt;
}

RegionInfo FromWire(const v1::RegionInfo& region) {
  const Discipline discipline = FromWire(region.discipline(), Discipline::kNone);
  return {.index = region.index(),
          .type = EnumFromWire(region.type(), RegionType::kPrivate, RegionType::kShared,
                               RegionType::kPrivate),
          .discipline = discipline,
          .size_bytes = region.size_bytes(),
          .access = AccessBits(region.access_bits()),
          .koid = region.koid(),
          .tag = region.tag(),
          .ep0_enforcement = FromWire(region.ep0_enforcement()),
          .ep1_enforcement = FromWire(region.ep1_enforcement()),
          .id_allocator = OptionalFromWire(region.has_id_allocator(), region.id_allocator()),
          .mediated_ring = OptionalFromWire(region.has_mediated_ring(), region.mediated_ring()),
          .reserve_ring = OptionalFromWire(region.has_reserve_ring(), region.reserve_ring()),
          .slot_value_bytes = discipline == Discipline::kSlot
                                  ? std::optional(region.slot_value_bytes())
                                  : std::nullopt,
          .placement = iob::FromWire(region.placement())};
}

EndpointInfo FromWire(const v1::EndpointInfo& endpoint) {
  EndpointInfo info{.endpoint = iob::FromWire(endpoint.endpoint()),
                    .koid = endpoint.koid(),
                    .handles = endpoint.handles(),
                    .attachments = endpoint.attachments(),
                    .memory_held = endpoint.memory_held(),
                    .closed = FromWire(endpoint.closed()),
                    .holders = {},
                    .signals = endpoint.signals()};
  for (const v1::Holder& holder : endpoint.holders()) info.holders.push_back(FromWire(holder));
  return info;
}

template <typename Losses>
std::vector<LossCount> LossesFromWire(const Losses& losses) {
  std::vector<LossCount> counts;
  for (const v1::LossCount& loss : losses) {
    counts.push_back({.cause = EnumFromWire(loss.cause(), LossCause::kFull, LossCause::kTooLarge,
                                            LossCause::kPolicy),
                      .records = loss.records(),
                      .bytes = loss.bytes()});
  }
  return counts;
}

WriterShare FromWire(const v1::WriterStats& writer) {
  return {.endpoint = iob::FromWire(writer.endpoint()),
          .tag = writer.tag(),
          .attempted_records = writer.attempted_records(),
          .attempted_bytes = writer.attempted_bytes(),
          .stored_records = writer.stored_records(),
          .stored_bytes = writer.stored_bytes(),
          .rejected = LossesFromWire(writer.rejected()),
          .seat = writer.seat(),
          .discarded_records = writer.discarded_records()};
}

absl::Status ToWire(const MediatedRingOptions& options, v1::MediatedRingOptions* ret_options) {
  IOB_ASSIGN_OR_RETURN(const uint32_t block_ms, MillisecondsToWire("a wait", options.block));
  ret_options->set_policy(static_cast<v1::RingPolicy>(options.policy));
  ret_options->set_block_ms(block_ms);
  ret_options->set_gap_records(options.gap_records);
  ret_options->set_stamped(options.stamped);
  ret_options->set_followers(options.followers);
  ret_options->set_writer_records_max(options.writer_records_max);
  ret_options->set_writer_bytes_max(options.writer_bytes_max);
  return absl::OkStatus();
}

absl::Status ToWire(const ReserveRingOptions& options, v1::ReserveRingOptions* ret_options) {
  IOB_ASSIGN_OR_RETURN(const uint32_t stall_ms, MillisecondsToWire("a stall", options.stall));
  ret_options->set_mode(static_cast<v1::ReserveMode>(options.mode));
  ret_options->set_lanes(options.lanes);
  ret_options->set_granule_bytes(options.granule_bytes);
  ret_options->set_consumer_clears(options.consumer_clears);
  ret_options->set_stamped(options.stamped);
  // The one that is the default is not said: it is for one of the modes only.
  if (options.on_stall != StallPolicy::kWait)
    ret_options->set_on_stall(static_cast<v1::StallPolicy>(options.on_stall));
  ret_options->set_stall_ms(stall_ms);
  return absl::OkStatus();
}

absl::StatusOr<Secret> SecretFromWire(const std::string& bytes) {
  Secret secret;
  if (bytes.size() != secret.size()) {
    return absl::InternalError(
        absl::StrCat("the daemon sent a secret of ", bytes.size(), " bytes, not ", secret.size()));
  }
  std::transform(bytes.begin(), bytes.end(), secret.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return secret;
}

}  // namespace

v1::EndpointId ToWire(EndpointId endpoint) {
  return endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1;
}

std::string ToWire(const Handle& handle) {
  return std::string(reinterpret_cast<const char*>(handle.secret().data()), handle.secret().size());
}

absl::Status ToWire(const RegionSpec& spec, v1::RegionSpec* ret_spec) {
  ret_spec->set_type(static_cast<v1::RegionType>(spec.type));
  ret_spec->set_discipline(static_cast<v1::Discipline>(spec.discipline));
  ret_spec->set_size_bytes(spec.size_bytes);
  ret_spec->set_access_bits(spec.access.bits());
  ret_spec->set_tag(spec.tag);
  ret_spec->set_required_enforcement(static_cast<v1::Enforcement>(spec.required_enforcement));
  if (spec.shared_region) ret_spec->set_shared_region(ToWire(*spec.shared_region));
  ret_spec->set_interned_blobs_max(spec.interned_blobs_max);
  // Left out when nothing is chosen, as in a program that does not know that there is a choice.
  if (spec.mediated_ring != MediatedRingOptions()) {
    IOB_RETURN_IF_ERROR(ToWire(spec.mediated_ring, ret_spec->mutable_mediated_ring()));
  }
  if (spec.reserve_ring != ReserveRingOptions() || spec.discipline == Discipline::kReserveRing) {
    IOB_RETURN_IF_ERROR(ToWire(spec.reserve_ring, ret_spec->mutable_reserve_ring()));
  }
  ret_spec->set_slot_value_bytes(spec.slot_value_bytes);
  if (spec.placement != Placement()) ToWire(spec.placement, ret_spec->mutable_placement());
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> LeaseToWire(std::chrono::milliseconds lease) {
  return MillisecondsToWire("a lease", lease);
}

absl::StatusOr<uint32_t> MillisecondsToWire(absl::string_view what,
                                            std::chrono::milliseconds time) {
  if (time.count() < 0) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(what, " of ", time.count(), " ms")),
                      "INVALID_ARGUMENT");
  }
  return static_cast<uint32_t>(std::min<int64_t>(time.count(), UINT32_MAX));
}

EndpointId FromWire(v1::EndpointId endpoint) {
  return endpoint == v1::ENDPOINT_ID_EP1 ? EndpointId::kEp1 : EndpointId::kEp0;
}

BufferInfo FromWire(const v1::BufferInfo& info) {
  BufferInfo buffer{.koid = info.koid(),
                    .name = info.name(),
                    .owner = FromWire(info.owner()),
                    .create_time = FromWire(info.create_time()),
                    .regions = {},
                    .endpoints = {},
                    .memory_bytes = info.memory_bytes()};
  for (const v1::RegionInfo& region : info.regions()) buffer.regions.push_back(FromWire(region));
  for (const v1::EndpointInfo& endpoint : info.endpoints()) {
    buffer.endpoints.push_back(FromWire(endpoint));
  }
  return buffer;
}

SharedRegionInfo FromWire(const v1::SharedRegionInfo& info) {
  SharedRegionInfo region{.koid = info.koid(),
                          .owner = FromWire(info.owner()),
                          .create_time = FromWire(info.create_time()),
                          .size_bytes = info.size_bytes(),
                          .handles = info.handles(),
                          .memory_bytes = info.memory_bytes(),
                          .user_count = info.user_count(),
                          .users = {},
                          .signals = info.signals(),
                          .placement = iob::FromWire(info.placement())};
  for (const v1::SharedRegionUser& user : info.users()) {
    region.users.push_back({.buffer_koid = user.buffer_koid(),
                            .buffer_name = user.buffer_name(),
                            .region_index = user.region_index()});
  }
  return region;
}

HandleInfo FromWire(const v1::HandleInfo& info) {
  return {.type = EnumFromWire(info.type(), ObjectType::kEndpoint, ObjectType::kSharedRegion,
                               ObjectType::kEndpoint),
          .koid = info.koid(),
          .related_koid = info.related_koid(),
          .rights = HandleRights(info.rights()),
          .lease = std::chrono::milliseconds(info.lease_ms())};
}

std::optional<WatchedEvent> FromWire(const v1::WatchEventsResponse& event) {
  using Kind = WatchedEvent::Kind;
  WatchedEvent result;
  result.resume_token = event.resume_token();
  result.time = FromWire(event.time());
  result.buffer_koid = event.buffer_koid();
  result.buffer_name = event.buffer_name();
  if (event.endpoint() != v1::ENDPOINT_ID_UNSPECIFIED) result.endpoint = FromWire(event.endpoint());
  result.shared_region_koid = event.shared_region_koid();
  switch (event.what_case()) {
    case v1::WatchEventsResponse::kStarted:
      result.kind = Kind::kStarted;
      result.signals = event.started().signals();
      result.reason = FromWire(event.started().peer_closed());
      return result;
    case v1::WatchEventsResponse::kResyncRequired:
      result.kind = Kind::kResyncRequired;
      result.signals = event.resync_required().signals();
      return result;
    case v1::WatchEventsResponse::kCreated:
      result.kind = Kind::kBufferCreated;
      result.holder = FromWire(event.created().owner());
      result.memory_bytes = event.created().memory_bytes();
      return result;
    case v1::WatchEventsResponse::kRenamed:
      result.kind = Kind::kBufferRenamed;
      result.old_name = event.renamed().old_name();
      return result;
    case v1::WatchEventsResponse::kAttached:
      result.kind = Kind::kEndpointAttached;
      result.holder = FromWire(event.attached().holder());
      return result;
    case v1::WatchEventsResponse::kDetached:
      result.kind = Kind::kEndpointDetached;
      result.holder = FromWire(event.detached().holder());
      result.reason = FromWire(event.detached().reason());
      return result;
    case v1::WatchEventsResponse::kClosed:
      result.kind = Kind::kEndpointClosed;
      result.reason = FromWire(event.closed().reason());
      return result;
    case v1::WatchEventsResponse::kGone:
      result.kind = Kind::kBufferGone;
      return result;
    case v1::WatchEventsResponse::kSignals:
      result.kind = Kind::kSignalsChanged;
      result.signals = event.signals().signals();
      return result;
    case v1::WatchEventsResponse::kUpdated:
      result.kind = Kind::kSharedRegionUpdated;
      return result;
    case v1::WatchEventsResponse::kStalled:
      result.kind = Kind::kProducerStalled;
      result.region_index = event.stalled().region_index();
      result.holder = FromWire(event.stalled().holder());
      result.killed = event.stalled().killed();
      result.renewed = event.stalled().renewed();
      return result;
    case v1::WatchEventsResponse::WHAT_NOT_SET:
      break;
  }
  return std::nullopt;
}

absl::Status EndOfWatch() {
  return WithReason(absl::NotFoundError("what was watched is gone: the watch is over"),
                    "NOT_FOUND");
}

RingStats FromWire(const v1::RingStats& stats) {
  RingStats ring{.region_index = stats.region_index(),
                 .attempted_records = stats.attempted_records(),
                 .attempted_bytes = stats.attempted_bytes(),
                 .stored_records = stats.stored_records(),
                 .stored_bytes = stats.stored_bytes(),
                 .rejected = LossesFromWire(stats.rejected()),
                 .consumed_records = stats.consumed_records(),
                 .overwritten_records = stats.overwritten_records(),
                 .resident_records = stats.resident_records(),
                 .resident_bytes = stats.resident_bytes(),
                 .high_water_bytes = stats.high_water_bytes(),
                 .capacity_bytes = stats.capacity_bytes(),
                 .tail_violations = stats.tail_violations(),
                 .writers = {},
                 .overwritten_bytes = stats.overwritten_bytes(),
                 .claimed = stats.claimed(),
                 .discipline = FromWire(stats.discipline(), Discipline::kMediatedRing)};
  for (const v1::WriterStats& writer : stats.writers()) ring.writers.push_back(FromWire(writer));
  return ring;
}

BufferStats FromWire(const v1::GetStatsResponse& stats) {
  BufferStats result{.buffer_koid = stats.buffer_koid(), .rings = {}};
  for (const v1::RingStats& ring : stats.rings()) result.rings.push_back(FromWire(ring));
  return result;
}

StatsBeat FromWire(const v1::WatchStatsResponse& beat) {
  return {.time = FromWire(beat.time()), .stats = FromWire(beat.stats())};
}

Limits FromWire(const v1::GetLimitsResponse& limits) {
  Limits result{.regions_max = limits.regions_max(),
                .region_bytes_max = limits.region_bytes_max(),
                .record_bytes_max = limits.record_bytes_max(),
                .record_parts_max = limits.record_parts_max(),
                .attach_packet_bytes_max = limits.attach_packet_bytes_max(),
                .buffers_max = limits.buffers_max(),
                .memory_bytes_max = limits.memory_bytes_max(),
                .memory_bytes_per_uid_max = limits.memory_bytes_per_uid_max(),
                .page_bytes = limits.page_bytes(),
                .ticket_lifetime = std::chrono::milliseconds(limits.ticket_lifetime_ms()),
                .kernel_features = {},
                .mediated_ring_bytes_max = limits.mediated_ring_bytes_max(),
                .id_allocator_bytes_max = limits.id_allocator_bytes_max(),
                .id_blob_bytes_max = limits.id_blob_bytes_max(),
                .interned_blobs_max = limits.interned_blobs_max(),
                .name_bytes_max = limits.name_bytes_max(),
                .handles_max = limits.handles_max(),
                .attachments_max = limits.attachments_max(),
                .watchers_max = limits.watchers_max(),
                .lease_max = std::chrono::milliseconds(limits.lease_ms_max()),
                .descriptors_max = limits.descriptors_max(),
                .descriptors_open = limits.descriptors_open()};
  for (const v1::KernelFeature& feature : limits.kernel_features()) {
    result.kernel_features.push_back({.name = feature.name(),
                                      .available = feature.available(),
                                      .effect = feature.effect(),
                                      .optional = feature.optional()});
  }
  return result;
}

absl::StatusOr<Handle> HandleFromWire(const std::string& bytes) {
  IOB_ASSIGN_OR_RETURN(const Secret secret, SecretFromWire(bytes));
  return Handle(secret);
}

absl::StatusOr<Ticket> FromWire(const v1::Ticket& ticket) {
  IOB_ASSIGN_OR_RETURN(const Secret secret, SecretFromWire(ticket.ticket()));
  return Ticket(secret, FromWire(ticket.endpoint()), ticket.socket_path(),
                std::chrono::milliseconds(ticket.lifetime_ms()));
}

static SnapshotRegion SnapshotRegionFromWire(const v1::SnapshotRegion& wire) {
  SnapshotRegion region{.index = wire.index(),
                        .discipline = FromWire(wire.discipline(), Discipline::kNone),
                        .koid = wire.koid(),
                        .omission = EnumFromWire(wire.omission(), Omission::kNone,
                                                 Omission::kFailed, Omission::kFailed),
                        .may_be_torn = wire.may_be_torn(),
                        .sections = {},
                        .mediated_ring = FromWire(wire.mediated_ring()),
                        .reserve_ring = FromWire(wire.reserve_ring()),
                        .slot_value_bytes = wire.slot_value_bytes(),
                        .head = wire.head(),
                        .tail = wire.tail()};
  for (const v1::SnapshotSection& section : wire.sections()) {
    region.sections.push_back({.kind = EnumFromWire(section.kind(), SectionKind::kUnknown,
                                                    SectionKind::kConsumer, SectionKind::kUnknown),
                               .lane = section.lane(),
                               .offset_bytes = section.offset_bytes(),
                               .size_bytes = section.size_bytes()});
  }
  if (wire.has_stats()) region.stats = FromWire(wire.stats());
  if (wire.has_unfinished()) {
    region.unfinished = UnfinishedReservation{.seat = wire.unfinished().seat(),
                                              .position = wire.unfinished().position()};
  }
  return region;
}

SnapshotInfo FromWire(const v1::SnapshotInfo& info) {
  SnapshotInfo snapshot{.buffer_koid = info.buffer_koid(),
                        .buffer_name = info.buffer_name(),
                        .time = FromWire(info.time()),
                        .regions = {},
                        .size_bytes = info.size_bytes(),
                        .may_be_torn = info.may_be_torn()};
  for (const v1::SnapshotRegion& region : info.regions())
    snapshot.regions.push_back(SnapshotRegionFromWire(region));
  return snapshot;
}

AutopsyInfo FromWire(const v1::Autopsy& autopsy) {
  return {.id = autopsy.id(),
          .buffer_koid = autopsy.buffer_koid(),
          .buffer_name = autopsy.buffer_name(),
          .owner_uid = autopsy.owner_uid(),
          .endpoint = iob::FromWire(autopsy.endpoint()),
          .reason = FromWire(autopsy.reason()),
          .time = FromWire(autopsy.time()),
          .size_bytes = autopsy.size_bytes(),
          .omission = EnumFromWire(autopsy.omission(), Omission::kNone, Omission::kFailed,
                                   Omission::kFailed)};
}

absl::StatusOr<Ticket> FromWire(const v1::SnapshotTicket& ticket) {
  IOB_ASSIGN_OR_RETURN(const Secret secret, SecretFromWire(ticket.ticket()));
  return Ticket(secret, EndpointId::kEp0, ticket.socket_path(),
                std::chrono::milliseconds(ticket.lifetime_ms()));
}

}  // namespace iob
