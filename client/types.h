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
#include <optional>
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
using shm::HandleRights;
using shm::LossCause;
using shm::RegionRights;

// Signals of an endpoint, with Zircon's values. The other endpoint is gone for good
// (ZX_IOB_PEER_CLOSED): raised by the broker alone, and never cleared.
using shm::kSignalPeerClosed;
// ZX_USER_SIGNAL_0 to 7: raised and cleared by whoever has the right, without a meaning of their
// own. A shared region has these too.
using shm::kUserSignals;

// ZX_USER_SIGNAL_`number`, 0 to 7; no signal for other numbers.
constexpr uint32_t UserSignal(uint32_t number) {
  return number < 8 ? uint32_t{1} << (24 + number) : 0;
}

inline constexpr size_t kRegionsMax = 64;
inline constexpr uint64_t kRecordPayloadBytesMax = shm::kRecordPayloadBytesMax;
inline constexpr size_t kRecordPartsMax = shm::kRecordPartsMax;

// A moment on CLOCK_MONOTONIC until which a call may wait. A moment in the past means: look, do not
// wait.
using Deadline = std::chrono::steady_clock::time_point;

// `timeout` from now; the far future when that overflows.
Deadline After(std::chrono::nanoseconds timeout);

// How long a call on the attach socket waits for its answer, unless it is told otherwise.
inline constexpr std::chrono::milliseconds kCallTimeout{10'000};

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

// 128 random bits.
inline constexpr size_t kSecretBytes = 16;
using Secret = std::array<std::byte, kSecretBytes>;

// A counted reference to an endpoint or to a shared region, with rights of its own (HandleRights):
// what it may do is what the region's access bits AND its rights allow. Good for one uid. Lives as
// long as the process that made it, or by a lease (see Broker::KeepAlive), until it is closed or
// becomes a ticket.
class Handle {
 public:
  explicit Handle(const Secret& secret) : secret_(secret) {}

  const Secret& secret() const { return secret_; }

  // "handle:<redacted>".
  friend std::ostream& operator<<(std::ostream& stream, const Handle& handle);

 private:
  Secret secret_;
};

// What a handle leads to.
enum class ObjectType : uint8_t { kEndpoint = 1, kSharedRegion = 2 };

// What a mapping is for; combined with |.
enum class Prot : uint32_t { kRead = 1, kWrite = 2, kExecute = 4 };
constexpr Prot operator|(Prot one, Prot other) {
  return static_cast<Prot>(static_cast<uint32_t>(one) | static_cast<uint32_t>(other));
}
// Whether `prot` contains all of `part`.
constexpr bool Has(Prot prot, Prot part) {
  return (static_cast<uint32_t>(prot) & static_cast<uint32_t>(part)) == static_cast<uint32_t>(part);
}

// Lower-case names for people and programs: "ep0", "private", "mediated-ring", "sealed", "full".
std::string ToString(EndpointId endpoint);
std::string ToString(RegionType type);
std::string ToString(Discipline discipline);
std::string ToString(Enforcement enforcement);
std::string ToString(LossCause cause);
std::string ToString(ObjectType type);  // "endpoint", "shared-region".
// "duplicate,transfer,read,...", in the order of the bits; "none" for none, "same-rights" for that.
std::string ToString(HandleRights rights);
std::string ToString(Prot prot);  // "read,write"; "none" for none.
// "open", "closed", "exited(1)", "killed(9)", "revoked", "expired", "died".
std::string ToString(const CloseReason& reason);
// "peer-closed,user-0,..."; "none" for none.
std::string SignalsToString(uint32_t signals);

// What CreateBuffer is asked for, per region.
struct RegionSpec {
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  // Rounded up to whole pages. A mediated ring needs two, an id allocator one; discipline none may
  // have no byte at all. Type shared: 0, the object has a size.
  uint64_t size_bytes = 0;
  AccessBits access = AccessBits();  // In ep0's view.
  uint64_t tag = 0;  // Stamped into records; 0: the koid of the endpoint that wrote them.
  Enforcement required_enforcement = Enforcement::kUnspecified;
  // Type shared: the region object. The handle needs no right, and stays (zx_iob_create).
  std::optional<Handle> shared_region = std::nullopt;
  // Id allocator that only the broker writes: remember up to this many blobs, so that equal ones
  // get one id. 0: every blob gets an id of its own, as in Zircon.
  uint32_t interned_blobs_max = 0;
};

// A mediated ring that ep0 consumes (map-read, map-write) and ep1 writes (mediated-write).
RegionSpec MediatedRingSpec(uint64_t size_bytes);

// The same in a region object that many buffers refer to: the records of all of them come out of
// one ring, told apart by their tags.
RegionSpec SharedRingSpec(const Handle& shared_region);

// An id allocator that only the broker writes (enforcement: sealed): ep0 reads ids and blobs
// (map-read), ep1 gets ids for blobs (mediated-write), without memory of its own.
RegionSpec IdAllocatorSpec(uint64_t size_bytes);

// An id allocator's state.
struct IdAllocatorInfo {
  uint32_t next_id = 0;     // Ids handed out: 0 to next_id - 1.
  uint64_t free_bytes = 0;  // For blobs and their slots (8 bytes each) together.
  bool shared = false;      // An endpoint may map it for writing and allocate by itself.
  bool damaged = false;     // The header in memory cannot be: whoever may write it has spoiled it.
};

// One region of a buffer (ZX_INFO_IOB_REGIONS).
struct RegionInfo {
  uint32_t index = 0;
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  uint64_t size_bytes = 0;
  AccessBits access = AccessBits();  // The viewer's own bits in the low four.
  uint64_t koid = 0;                 // Of a shared region: the object's, in every buffer.
  uint64_t tag = 0;
  Enforcement ep0_enforcement = Enforcement::kUnspecified;
  Enforcement ep1_enforcement = Enforcement::kUnspecified;
  std::optional<IdAllocatorInfo> id_allocator = std::nullopt;  // Of that discipline only.
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
  uint32_t signals = 0;  // Raised now.
};

// A handle, as its holder may always see it (ZX_INFO_HANDLE_BASIC).
struct HandleInfo {
  ObjectType type = ObjectType::kEndpoint;
  uint64_t koid = 0;
  // Of an endpoint: the other endpoint's koid, also when that is closed. Of a shared region: 0.
  uint64_t related_koid = 0;
  HandleRights rights;
  // By how much KeepAlive extends its life; zero when it lives with its process.
  std::chrono::milliseconds lease{0};
};

// One use of a shared region.
struct SharedRegionUser {
  uint64_t buffer_koid = 0;
  std::string buffer_name;
  uint32_t region_index = 0;
};

// A region object that buffers refer to.
struct SharedRegionInfo {
  uint64_t koid = 0;
  Holder owner;
  std::chrono::system_clock::time_point create_time;
  uint64_t size_bytes = 0;
  uint32_t handles = 0;  // To the object itself; buffers do not count.
  uint64_t memory_bytes = 0;
  uint32_t user_count = 0;              // Regions of buffers that refer to it.
  std::vector<SharedRegionUser> users;  // The oldest of them, at most 1000.
  uint32_t signals = 0;                 // Raised user signals.
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
  uint64_t mediated_ring_bytes_max = 0;  // Head page included.
  uint64_t id_allocator_bytes_max = 0;
  uint32_t id_blob_bytes_max = 0;   // Of one blob that the broker stores.
  uint32_t interned_blobs_max = 0;  // That one id allocator remembers.
  uint32_t name_bytes_max = 0;
  uint64_t handles_max = 0;      // Tickets included; so are the next ones, of the whole daemon.
  uint32_t attachments_max = 0;  // At once.
  uint32_t watchers_max = 0;     // Broker::Watch, at once.
  std::chrono::milliseconds lease_max{0};
  uint64_t descriptors_max = 0;   // That the daemon may have open.
  uint64_t descriptors_open = 0;  // That it has open.
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
