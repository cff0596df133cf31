// Convert: between the registry's values and the messages of proto/. No policy, no state.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "iob/v1/broker.pb.h"
#include "server/buffer.h"
#include "server/registry.h"

namespace iob::server {

// INVALID_ARGUMENT for ENDPOINT_ID_UNSPECIFIED and values that this daemon does not know.
absl::StatusOr<shm::EndpointId> FromProto(v1::EndpointId endpoint);
v1::EndpointId ToProto(shm::EndpointId endpoint);

// Shapes only; the registry checks the values.
absl::StatusOr<CreateParams> FromProto(const v1::CreateBufferRequest& request);

// In ep0's view. `broker_uid` decides the enforcement levels shown.
v1::BufferInfo ToProto(const Buffer& buffer, uint32_t broker_uid);

v1::CloseReason ToProto(const shm::CloseReason& reason);

// The ledger of one region's ring, as of now; nullopt for other disciplines.
std::optional<v1::RingStats> RingStatsOf(Buffer& buffer, uint32_t region_index);

}  // namespace iob::server
