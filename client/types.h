// The nouns of libiob: what a buffer is made of, who holds it, what was counted, and the secrets
// that lead to it.
//
// Plain values, the same as in iob/v1/types.proto, without a protobuf header. Sizes are in bytes.
// Enumerators have the values of the wire format.
//
// Handle and Ticket are bearer secrets until they are spent. Neither prints itself: their text
// forms are redacted, and the bytes come out only through functions whose names say so.
//
// Values: thread-compatible, freely copied.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "shm/access.h"
#include "shm/mediated_ring_writer.h"
#include "shm/ring_layout.h"
#include "shm/signal_page.h"

namespace iob {

using shm::AccessBits;
using shm::CloseKind;
using shm::CloseReason;
using shm::EndpointId;
using shm::LossCause;
using shm::RegionRights;

inline constexpr size_t kRegionsMax = 64;
inline constexpr uint64_t kRecordPayloadBytesMax = shm::kRecordPayloadBytesMax;
inline constexpr size_t kRecordPartsMax = shm::kRecordPartsMax;

// A moment on CLOCK_MONOTONIC until which a call may wait. A moment in the past means: look, do not
// wait.
using Deadline = std::chrono::steady_clock::time_point;

// `timeout` from now; the far future when that overflows.
Deadline After(std::chrono::nanoseconds timeout);

enum class RegionType : uint8_t { kPrivate = 1, kShared = 2 };

enum class Discipline : uint8_t {
  kNone = 1,
  kIdAllocator = 2,
  kMediatedRing = 3,
  kReserveRing = 4,
  kBroadcast = 5,
  kSlot = 6,
};

// Larger is stronger. kUnspecified: nothing is required.
enum class Enforcement : uint8_t {
  kUnspecified = 0,
  kAdvisory = 1,
  kDac = 2,
  kSealed = 3,
  kMediated = 4,
};

// Lower-case names for people and programs: "ep0", "private", "mediated-ring", "sealed", "full".
std::string ToString(EndpointId endpoint);
std::string ToString(RegionType type);
std::string ToString(Discipline discipline);
std::string ToString(Enforcement enforcement);
std::string ToString(LossCause cause);
// "open", "closed", "exited(1)", "killed(9)", "revoked", "expired", "died".
std::string ToString(const CloseReason& reason);

// What CreateBuffer is asked for, per region.
struct RegionSpec {
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  uint64_t size_bytes = 0;  // Rounded up to whole pages; a mediated ring needs two.
  AccessBits access;        // In ep0's view.
  uint64_t tag = 0;         // Stamped into records; 0: the koid of the endpoint that wrote them.
  Enforcement required_enforcement = Enforcement::kUnspecified;
};

// A mediated ring that ep0 consumes (map-read, map-write) and ep1 writes (mediated-write).
RegionSpec MediatedRingSpec(uint64_t size_bytes);

// One region as CreateBuffer made it, in ep0's view.
struct RegionInfo {
  uint32_t index = 0;
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  uint64_t size_bytes = 0;
  AccessBits access;
  uint64_t koid = 0;
  uint64_t tag = 0;
  Enforcement ep0_enforcement = Enforcement::kUnspecified;
  Enforcement ep1_enforcement = Enforcement::kUnspecified;
};

// Who holds something, as the kernel told the broker.
struct Holder {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;  // For people only: pids are reused.
};

struct EndpointInfo {
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t koid = 0;
  uint32_t handles = 0;      // Tickets under way included.
  uint32_t attachments = 0;  // Live connections.
  bool memory_held = false;  // Descriptors or mappings it was given are still held, by whomever.
  CloseReason closed;        // Kind kOpen while it lives.
  std::vector<Holder> holders;
};

struct BufferInfo {
  uint64_t koid = 0;
  std::string name;
  Holder owner;
  std::chrono::system_clock::time_point create_time;
  std::vector<RegionInfo> regions;
  std::vector<EndpointInfo> endpoints;  // ep0 first.
  uint64_t memory_bytes = 0;
};

// Records that were not stored, for one cause.
struct LossCount {
  LossCause cause = LossCause::kFull;
  uint64_t records = 0;
  uint64_t bytes = 0;
};

// One endpoint's share of a ring's ledger. attempted = stored + sum(rejected).
struct WriterShare {
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t tag = 0;
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  std::vector<LossCount> rejected;
};

// The ledger of one ring. At every quiescent point
//   attempted = stored + sum(rejected)   and   stored = consumed + overwritten + resident.
struct RingStats {
  uint32_t region_index = 0;
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  std::vector<LossCount> rejected;  // Causes with nothing are left out.
  uint64_t consumed_records = 0;
  uint64_t overwritten_records = 0;
  uint64_t resident_records = 0;
  uint64_t resident_bytes = 0;  // Ring bytes, headers and padding included; so are the next two.
  uint64_t high_water_bytes = 0;
  uint64_t capacity_bytes = 0;
  uint64_t tail_violations = 0;
  std::vector<WriterShare> writers;
};

struct BufferStats {
  uint64_t buffer_koid = 0;
  std::vector<RingStats> rings;
};

// One probe of the daemon's self-test.
struct KernelFeature {
  std::string name;
  bool available = false;
  std::string effect;
};

struct Limits {
  uint32_t regions_max = 0;
  uint64_t region_bytes_max = 0;
  uint32_t record_bytes_max = 0;
  uint32_t record_parts_max = 0;
  uint32_t attach_packet_bytes_max = 0;
  uint64_t buffers_max = 0;
  uint64_t memory_bytes_max = 0;
  uint64_t memory_bytes_per_uid_max = 0;
  uint32_t page_bytes = 0;
  std::chrono::milliseconds ticket_lifetime{0};
  std::vector<KernelFeature> kernel_features;
};

// 128 random bits.
inline constexpr size_t kSecretBytes = 16;
using Secret = std::array<std::byte, kSecretBytes>;

// A counted reference to one endpoint. Lives as long as the process that made it, until it is
// closed or becomes a ticket.
class Handle {
 public:
  explicit Handle(const Secret& secret) : secret_(secret) {}

  const Secret& secret() const { return secret_; }

  // "handle:<redacted>".
  friend std::ostream& operator<<(std::ostream& stream, const Handle& handle);

 private:
  Secret secret_;
};

// A handle under way to the attach socket: one use, short life, bound to one uid.
class Ticket {
 public:
  Ticket(const Secret& secret, EndpointId endpoint, std::string socket_path,
         std::chrono::milliseconds lifetime)
      : secret_(secret),
        endpoint_(endpoint),
        socket_path_(std::move(socket_path)),
        lifetime_(lifetime) {}

  // The other end of ToHex, in the process that received it.
  // INVALID_ARGUMENT unless `hex` is 32 hexadecimal digits.
  static absl::StatusOr<Ticket> FromHex(const std::string& hex, EndpointId endpoint,
                                        std::string socket_path);

  // The secret itself, to hand the endpoint to another process. Whoever sees it, and runs under the
  // uid that the ticket is bound to, can spend it.
  std::string ToHex() const;

  const Secret& secret() const { return secret_; }
  EndpointId endpoint() const { return endpoint_; }
  // The SOCK_SEQPACKET socket to redeem it on.
  const std::string& socket_path() const { return socket_path_; }
  // How long it lived when it was issued; zero when it came from another process.
  std::chrono::milliseconds lifetime() const { return lifetime_; }

  // "ticket:<redacted>".
  friend std::ostream& operator<<(std::ostream& stream, const Ticket& ticket);

 private:
  Secret secret_;
  EndpointId endpoint_;
  std::string socket_path_;
  std::chrono::milliseconds lifetime_;
};

}  // namespace iob
