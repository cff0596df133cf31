// Convert: between the registry's values and the messages of proto/. No policy, no state.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "iob/v1/broker.pb.h"
#include "server/buffer.h"
#include "server/registry.h"

namespace iob::server {

// INVALID_ARGUMENT for ENDPOINT_ID_UNSPECIFIED and values that this daemon does not know.
absl::StatusOr<shm::EndpointId> FromProto(v1::EndpointId endpoint);
v1::EndpointId ToProto(shm::EndpointId endpoint);

// Shapes only; the registry checks the values.
absl::StatusOr<CreateParams> FromProto(const v1::CreateBufferRequest& request, int64_t now_ns);

// As `viewer` sees it. `broker_uid` decides the enforcement levels shown.
v1::BufferInfo ToProto(const Buffer& buffer, uint32_t broker_uid,
                       shm::EndpointId viewer = shm::EndpointId::kEp0);

v1::SharedRegionInfo ToProto(const SharedRegion& region);

v1::HandleInfo ToProto(const Handle& handle);

// 16 bytes, or INVALID_ARGUMENT that names `argument`.
absl::StatusOr<Token> TokenFromProto(const std::string& claimed_bytes, absl::string_view argument);

// INVALID_ARGUMENT above the longest lease.
absl::StatusOr<Lease> LeaseFromProto(uint32_t lease_ms, int64_t now_ns);

v1::CloseReason ToProto(const shm::CloseReason& reason);

void SetTime(absl::Time time, google::protobuf::Timestamp& stamp);

// What a ring was made with, into a RegionInfo or a RegionGrant.
template <typename Message>
void FillRingOptions(const RegionSpec& spec, Message& message) {
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING)
    *message.mutable_mediated_ring() = spec.mediated;
  if (spec.reserve) *message.mutable_reserve_ring() = *spec.reserve;
  message.set_slot_value_bytes(spec.slot_value_bytes);
}

// The ledger of one region's ring, as of now; nullopt for other disciplines.
std::optional<v1::RingStats> RingStatsOf(Buffer& buffer, uint32_t region_index);

}  // namespace iob::server
