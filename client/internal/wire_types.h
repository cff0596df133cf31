// Native structs from and to the messages of iob.v1.
//
// Replies come from the daemon, which is trusted with its own figures; values that this version
// does not know are kept in range, so that a newer daemon cannot confuse an older client.
//
// Internal to the library; includes generated code, so only .cc files include it. Thread-safe: pure
// functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/event_watch.h"
#include "client/snapshot.h"
#include "client/stats_watch.h"
#include "client/types.h"
#include "iob/v1/broker.pb.h"
#include "iob/v1/types.pb.h"

namespace iob {

v1::EndpointId ToWire(EndpointId endpoint);
std::string ToWire(const Handle& handle);
// INVALID_ARGUMENT for a time that is negative.
absl::Status ToWire(const RegionSpec& spec, v1::RegionSpec* ret_spec);

// A lease that no field can hold is sent as the longest that one can. INVALID_ARGUMENT for one that
// is negative.
absl::StatusOr<uint32_t> LeaseToWire(std::chrono::milliseconds lease);
// The same of any other time, which is called `what` when it is refused: "an interval".
absl::StatusOr<uint32_t> MillisecondsToWire(absl::string_view what, std::chrono::milliseconds time);

EndpointId FromWire(v1::EndpointId endpoint);
BufferInfo FromWire(const v1::BufferInfo& info);
SharedRegionInfo FromWire(const v1::SharedRegionInfo& info);
HandleInfo FromWire(const v1::HandleInfo& info);
// Nothing for an event that this version does not know.
std::optional<WatchedEvent> FromWire(const v1::WatchEventsResponse& event);
// Why a watch is over whose object is gone: NOT_FOUND.
absl::Status EndOfWatch();
RingStats FromWire(const v1::RingStats& stats);
BufferStats FromWire(const v1::GetStatsResponse& stats);
StatsBeat FromWire(const v1::WatchStatsResponse& beat);
Limits FromWire(const v1::GetLimitsResponse& limits);
SnapshotInfo FromWire(const v1::SnapshotInfo& info);
AutopsyInfo FromWire(const v1::Autopsy& autopsy);

// INTERNAL unless it is 16 bytes: then the daemon is not one of ours.
absl::StatusOr<Handle> HandleFromWire(const std::string& bytes);
absl::StatusOr<Ticket> FromWire(const v1::Ticket& ticket);
absl::StatusOr<Ticket> FromWire(const v1::SnapshotTicket& ticket);

}  // namespace iob
