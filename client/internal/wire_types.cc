#include "client/internal/wire_types.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob {
namespace {

// `value` as an Enum between `low` and `high`, else `otherwise`.
template <typename Enum>
Enum EnumFromWire(int value, Enum low, Enum high, Enum otherwise) {
  const bool known = value >= static_cast<int>(low) && value <= static_cast<int>(high);
  return known ? static_cast<Enum>(value) : otherwise;
}

EndpointId FromWire(v1::EndpointId endpoint) {
  return endpoint == v1::ENDPOINT_ID_EP1 ? EndpointId::kEp1 : EndpointId::kEp0;
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

RegionInfo FromWire(const v1::RegionInfo& region) {
  return {.index = region.index(),
          .type = EnumFromWire(region.type(), RegionType::kPrivate, RegionType::kShared,
                               RegionType::kPrivate),
          .discipline = EnumFromWire(region.discipline(), Discipline::kNone, Discipline::kSlot,
                                     Discipline::kNone),
          .size_bytes = region.size_bytes(),
          .access = AccessBits(region.access_bits()),
          .koid = region.koid(),
          .tag = region.tag(),
          .ep0_enforcement = FromWire(region.ep0_enforcement()),
          .ep1_enforcement = FromWire(region.ep1_enforcement())};
}

EndpointInfo FromWire(const v1::EndpointInfo& endpoint) {
  EndpointInfo info{.endpoint = FromWire(endpoint.endpoint()),
                    .koid = endpoint.koid(),
                    .handles = endpoint.handles(),
                    .attachments = endpoint.attachments(),
                    .memory_held = endpoint.memory_held(),
                    .closed = FromWire(endpoint.closed()),
                    .holders = {}};
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
  return {.endpoint = FromWire(writer.endpoint()),
          .tag = writer.tag(),
          .attempted_records = writer.attempted_records(),
          .attempted_bytes = writer.attempted_bytes(),
          .stored_records = writer.stored_records(),
          .stored_bytes = writer.stored_bytes(),
          .rejected = LossesFromWire(writer.rejected())};
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

void ToWire(const RegionSpec& spec, v1::RegionSpec* ret_spec) {
  ret_spec->set_type(static_cast<v1::RegionType>(spec.type));
  ret_spec->set_discipline(static_cast<v1::Discipline>(spec.discipline));
  ret_spec->set_size_bytes(spec.size_bytes);
  ret_spec->set_access_bits(spec.access.bits());
  ret_spec->set_tag(spec.tag);
  ret_spec->set_required_enforcement(static_cast<v1::Enforcement>(spec.required_enforcement));
}

BufferInfo FromWire(const v1::BufferInfo& info) {
  const auto since_epoch = std::chrono::seconds(info.create_time().seconds()) +
                           std::chrono::nanoseconds(info.create_time().nanos());
  BufferInfo buffer{.koid = info.koid(),
                    .name = info.name(),
                    .owner = FromWire(info.owner()),
                    .create_time = std::chrono::system_clock::time_point(since_epoch),
                    .regions = {},
                    .endpoints = {},
                    .memory_bytes = info.memory_bytes()};
  for (const v1::RegionInfo& region : info.regions()) buffer.regions.push_back(FromWire(region));
  for (const v1::EndpointInfo& endpoint : info.endpoints()) {
    buffer.endpoints.push_back(FromWire(endpoint));
  }
  return buffer;
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
                 .writers = {}};
  for (const v1::WriterStats& writer : stats.writers()) ring.writers.push_back(FromWire(writer));
  return ring;
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
                .kernel_features = {}};
  for (const v1::KernelFeature& feature : limits.kernel_features()) {
    result.kernel_features.push_back(
        {.name = feature.name(), .available = feature.available(), .effect = feature.effect()});
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

}  // namespace iob
