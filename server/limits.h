// Every limit of the daemon, in one place: GetLimits, --help and the checks all read this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shm/fd_channel.h"
#include "shm/ring_layout.h"

namespace iob::server {

// Fixed by the model or the protocol.
inline constexpr size_t kRegionsMax = 64;    // ZX_IOB_MAX_REGIONS.
inline constexpr size_t kNameBytesMax = 31;  // ZX_MAX_NAME_LEN without its NUL.
inline constexpr size_t kRequestIdBytesMax = 64;
inline constexpr size_t kOpenRuleUidsMax = 64;
inline constexpr uint32_t kPageSizeDefault = 100;  // Buffers per ListBuffers page.
inline constexpr uint32_t kPageSizeMax = 1000;
inline constexpr size_t kHoldersShownMax = 16;
inline constexpr uint32_t kWriteWaitMsMax = 60'000;  // A longer wait for room is cut to this.
inline constexpr int kWriteBatchRecordsMax = 4096;   // So that every WriteResult fits in a packet.
inline constexpr uint32_t kIdBlobBytesMax = 65519;   // As a record's, so that it fits in a packet.
inline constexpr int kKeepAliveHandlesMax = 1000;
inline constexpr int kRegionUsersShownMax = 1000;
inline constexpr uint32_t kLeaseMsMax = 24 * 3600 * 1000;

// The operator's.
struct Limits {
  uint64_t region_bytes_max = uint64_t{64} << 30;
  uint64_t buffers_max = 16384;
  uint64_t buffers_per_uid_max = 16384;
  // Tickets and handles that no attachment holds.
  uint64_t handles_max = 65536;
  // All region memory, and one uid's share of it. 0: half of the machine's memory.
  uint64_t memory_bytes_max = 0;
  uint64_t memory_bytes_per_uid_max = 0;
  // Of all sections together; the daemon sets it to what RLIMIT_NOFILE leaves.
  uint64_t descriptors_max = UINT64_MAX;
  uint32_t ticket_lifetime_ms = 10'000;
  // From connect to a ticket, and from the descriptors to `mapped`.
  uint32_t attach_step_ms = 5'000;
  // Connections on the attach socket that have not shown a good ticket yet.
  uint32_t attach_pending_max = 64;
  uint32_t attachments_max = 16384;
  uint32_t grpc_connections_max = 1024;
  // Last states of crashed endpoints, per owner: bytes of copies, and entries with or without one.
  uint64_t crash_bytes_per_uid_max = uint64_t{64} << 20;
  uint64_t crash_states_per_uid_max = 16;
  // Streams of WatchEvents; one uid gets a quarter.
  uint32_t watchers_max = 1024;
};

}  // namespace iob::server
