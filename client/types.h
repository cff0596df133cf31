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
#include "client/placement.h"
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

// What a mediated ring does with a record for which it has no room.
enum class RingPolicy : uint8_t {
  kDropNew = 1,          // The record is rejected, cause kFull (Zircon's NO_SPACE).
  kOverwriteOldest = 2,  // The oldest records make room; readers learn how many they lost.
  kBlock = 3,            // The writer waits for room.
};

// How the producers of a reserve ring share it.
enum class ReserveMode : uint8_t {
  kLanes = 1,   // Each attachment that produces has a ring of its own; none can harm another.
  kShared = 2,  // All of them reserve in one ring, in one order, and must trust each other.
};

// What happens to a producer that has stopped in the middle of a record of a shared reserve ring,
// alive, while records wait behind it. A dead one is always dealt with at once.
enum class StallPolicy : uint8_t {
  kWait = 1,  // It is told (kProducerStalled), and everybody waits.
  kKill = 2,  // It is told, and the producer is killed if it runs as the uid of the buffer's owner.
  // It is told, and the ring gets new memory into which everybody else goes on; what the stopped
  // one has reserved comes when it goes on. Costs the memory of the ring once more meanwhile.
  kRenew = 3,
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
std::string ToString(RingPolicy policy);     // "drop-new", "overwrite", "block".
std::string ToString(ReserveMode mode);      // "lanes", "shared".
std::string ToString(StallPolicy on_stall);  // "wait", "kill", "renew".
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

// Choices for a mediated ring. The default is Zircon's ring, byte for byte.
struct MediatedRingOptions {
  RingPolicy policy = RingPolicy::kDropNew;
  // Policy kBlock: how long a write waits that names no time of its own, at most a minute.
  std::chrono::milliseconds block{0};
  // Rejected records are told in the stream: a record of tag 2^64 - 1 before the next stored one.
  bool gap_records = false;
  // Each payload begins with {u64 record number, u64 CLOCK_MONOTONIC ns}, written by the broker.
  bool stamped = false;
  // Readers that only follow (map-read without map-write) can sleep.
  bool followers = false;
  // Of one writer in the ring at once, headers included; 0: no limit. Beyond: cause kBudget.
  uint64_t writer_records_max = 0;
  uint64_t writer_bytes_max = 0;

  friend bool operator==(const MediatedRingOptions&, const MediatedRingOptions&) = default;
};

// Choices for a reserve ring.
struct ReserveRingOptions {
  ReserveMode mode = ReserveMode::kLanes;
  // Mode kLanes: producers that can be attached at once, 1 to 32; 0 means 1. Each has an equal part
  // of the size, and two pages more.
  uint32_t lanes = 0;
  // Mode kShared: reservations are whole granules, a power of two from 16 to 4096; 0 means 64.
  uint32_t granule_bytes = 0;
  // Mode kLanes: the consumer may write the lanes too, and zeroes what it consumed: it can spoil
  // only its own input, and the producer's next pass is several times cheaper.
  bool consumer_clears = false;
  // Mode kLanes: records carry the time at which they were submitted, for merging lanes.
  bool stamped = false;
  // Mode kShared: about a producer that has stopped, and how long that is; 0 means a second.
  StallPolicy on_stall = StallPolicy::kWait;
  std::chrono::milliseconds stall{0};

  friend bool operator==(const ReserveRingOptions&, const ReserveRingOptions&) = default;
};

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
  MediatedRingOptions mediated_ring = {};  // Of that discipline, type private.
  ReserveRingOptions reserve_ring = {};    // Of that discipline.
  // Discipline slot: bytes of the value, for which a size of 0 is made to measure. 0: as much as
  // the size holds four times.
  uint64_t slot_value_bytes = 0;
  Placement placement = {};  // Type private; a shared region was placed when it was made.
};

// A mediated ring that ep0 consumes (map-read, map-write) and ep1 writes (mediated-write).
RegionSpec MediatedRingSpec(uint64_t size_bytes);

// The same in a region object that many buffers refer to: the records of all of them come out of
// one ring, told apart by their tags.
RegionSpec SharedRingSpec(const Handle& shared_region);

// An id allocator that only the broker writes (enforcement: sealed): ep0 reads ids and blobs
// (map-read), ep1 gets ids for blobs (mediated-write), without memory of its own.
RegionSpec IdAllocatorSpec(uint64_t size_bytes);

// Rings without the broker on the path: ep1 produces (map-read, map-write), ep0 consumes
// (map-read). A reserve ring hands every record to one consumer;
RegionSpec ReserveRingSpec(uint64_t size_bytes, const ReserveRingOptions& options = {});
// a broadcast ring shows all of them to any number of followers, overwriting the oldest;
RegionSpec BroadcastSpec(uint64_t size_bytes);
// a slot has the latest value only, of at most `value_bytes`.
RegionSpec SlotSpec(uint64_t value_bytes);

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
  // Each of its discipline only.
  std::optional<IdAllocatorInfo> id_allocator = std::nullopt;
  std::optional<MediatedRingOptions> mediated_ring = std::nullopt;
  std::optional<ReserveRingOptions> reserve_ring = std::nullopt;  // What was 0 is filled in.
  std::optional<uint64_t> slot_value_bytes = std::nullopt;
  ObtainedPlacement placement = {};  // Of a shared region: the object's.
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
  ObtainedPlacement placement = {};
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

// One writer's share of a ring's ledger. attempted = stored + sum(rejected).
struct WriterShare {
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t tag = 0;
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  std::vector<LossCount> rejected;
  // Of claimed figures only: which lane, or which owner number in a shared ring; and reservations
  // that were given up.
  uint32_t seat = 0;
  uint64_t discarded_records = 0;
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
  // Ring bytes, headers and padding included; so are the next two, and overwritten_bytes.
  uint64_t resident_bytes = 0;
  uint64_t high_water_bytes = 0;
  uint64_t capacity_bytes = 0;
  uint64_t tail_violations = 0;
  std::vector<WriterShare> writers;
  uint64_t overwritten_bytes = 0;
  // Counted by the producers and the consumer themselves, in their own memory, because the broker
  // is not on the path: reserve ring, broadcast, slot.
  bool claimed = false;
  Discipline discipline = Discipline::kMediatedRing;
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
  bool optional = false;  // Nothing is wrong without it: what placements can ask for.
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
  uint32_t watchers_max = 0;     // Broker::Watch, and as many of WatchStats, at once.
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
