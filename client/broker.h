// Broker: a connection to the daemon's control plane.
//
//     absl::StatusOr<iob::Broker> broker = iob::Broker::Connect();
//     absl::StatusOr<iob::CreatedBuffer> buffer = broker->CreateBuffer(
//         {.name = "logs", .regions = {iob::MediatedRingSpec(4 << 20)}});
//
// Every call has a deadline (ConnectOptions::timeout for the whole call, retries included). Calls
// that change something carry a random request_id, so that a call that got no answer can be
// repeated without doing it twice; with that, UNAVAILABLE is retried with back-off until the
// deadline.
//
// Handles belong to the process that made them: when it ends, or closes them, they are gone, unless
// a ticket was made of them or an attachment holds them. With a lease they live without it, until
// that time has passed without a KeepAlive. A handle is good for one uid; what it leads to (an
// endpoint or a shared region) and what it allows (HandleRights) never grows.
//
// Errors of every call, besides those listed at each:
//   UNAVAILABLE / DISCONNECTED   the daemon cannot be reached
//   UNAVAILABLE / BUSY           overloaded or shutting down, until the deadline
//   DEADLINE_EXCEEDED / DEADLINE no answer in time
//   RESOURCE_EXHAUSTED / QUOTA   of calls that make something
// Calls with a handle check it first: UNAUTHENTICATED / BAD_HANDLE for one that is unknown, spent,
// expired or another uid's; then FAILED_PRECONDITION / WRONG_OBJECT for one to another kind of
// object; then PERMISSION_DENIED / ACCESS_DENIED for the right that is named at the call; then the
// rest in the order written there.
//
// Thread-safe. To be created after fork, not before.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "client/event_watch.h"
#include "client/snapshot.h"
#include "client/stats_watch.h"
#include "client/types.h"

namespace iob {

struct ConnectOptions {
  // Holds grpc.sock and attach.sock. Empty: $IOB_RUNTIME_DIR, else $XDG_RUNTIME_DIR/iob if that
  // exists, else /run/iob.
  std::string runtime_dir = {};
  // The control socket itself, where it is not RUNTIME_DIR/grpc.sock.
  std::string grpc_socket_path = {};
  // For each call, and for the handshake of OpenEndpoint.
  std::chrono::milliseconds timeout{5'000};
};

// The directory that ConnectOptions{.runtime_dir = configured} leads to.
std::string ResolveRuntimeDir(const std::string& configured);

// Who may open an endpoint by name, besides the owner's uid and root.
struct OpenRule {
  std::vector<uint32_t> uids = {};
  bool anyone = false;
};

struct CreateOptions {
  std::string name = {};  // At most 31 printable ASCII characters; empty: none.
  std::vector<RegionSpec> regions = {};
  OpenRule ep0_open = {};
  OpenRule ep1_open = {};
  // Endpoints to get tickets for at once, instead of handles; bound to the caller's uid.
  std::vector<EndpointId> attach = {};
  // Not zero: the handles live by a lease of that long (Limits::lease_max at most) instead of with
  // this process.
  std::chrono::milliseconds lease{0};
  // When an endpoint crashes, the daemon keeps a copy of all regions: see GetAutopsy.
  bool snapshot_on_crash = false;
};

struct CreatedBuffer {
  BufferInfo info;
  // Unset for an endpoint in CreateOptions::attach.
  std::optional<Handle> ep0_handle;
  std::optional<Handle> ep1_handle;
  std::vector<Ticket> tickets;  // In the order of CreateOptions::attach.
};

struct CreatedSharedRegion {
  Handle handle;
  SharedRegionInfo info;
};

// Of a handle that is made of another.
struct HandleOptions {
  // Who can use it. Unset: the caller's own uid. Another one needs the right TRANSFER.
  std::optional<uint32_t> recipient_uid = {};
  // As CreateOptions::lease.
  std::chrono::milliseconds lease{0};
};

// A buffer by id or by name.
using BufferKey = std::variant<uint64_t, std::string>;

// A buffer as one of its endpoints sees it.
struct BufferView {
  // Access bits with the viewer's own in the low four. The name is empty without GET_PROPERTY.
  BufferInfo info;
  EndpointId viewer = EndpointId::kEp0;
};

struct ListOptions {
  std::string name_prefix = {};  // Only names that start with this.
  uint32_t page_size = 0;        // 1 to 1000; 0 means 100.
  std::string page_token = {};   // From the page before; empty for the first.
};

struct BufferPage {
  std::vector<BufferInfo> buffers;
  std::string next_page_token;  // Empty on the last page.
};

struct Health {
  bool serving = false;
  std::chrono::nanoseconds round_trip{0};
};

class Broker {
 public:
  // UNAVAILABLE / DISCONNECTED at once when nobody listens; INVALID_ARGUMENT for a path of more
  // than 107 bytes.
  static absl::StatusOr<Broker> Connect(const ConnectOptions& options = {});

  Broker(Broker&& other) noexcept;
  Broker& operator=(Broker&& other) noexcept;
  ~Broker();

  const std::string& socket_path() const;

  // Makes a buffer, and a handle or a ticket for each endpoint (zx_iob_create).
  //   INVALID_ARGUMENT     no region, impossible size or access bits, bad name
  //   OUT_OF_RANGE         more than 64 regions, a region over the limit
  //   UNAUTHENTICATED / BAD_HANDLE, FAILED_PRECONDITION / WRONG_OBJECT  of a shared_region
  //   ALREADY_EXISTS / NAME_TAKEN
  //   FAILED_PRECONDITION / PLACEMENT  a required placement cannot be had on that machine
  absl::StatusOr<CreatedBuffer> CreateBuffer(const CreateOptions& options);

  // A region object that many buffers can refer to (zx_iob_create_shared_region), for
  // RegionSpec::shared_region. Its memory is freed when no handle, no buffer and no mapping is
  // left.
  //   INVALID_ARGUMENT     0 bytes, or not whole pages; a buffer can use it from two pages on
  //   OUT_OF_RANGE         over the size limit of a mediated ring
  //   FAILED_PRECONDITION / PLACEMENT
  absl::StatusOr<CreatedSharedRegion> CreateSharedRegion(
      uint64_t size_bytes, std::chrono::milliseconds lease = std::chrono::milliseconds(0),
      const Placement& placement = {});

  // A new handle to, a ticket for, or an attachment of an endpoint of a named buffer.
  //   NOT_FOUND                          no such name, or the caller may not know of it
  //   FAILED_PRECONDITION / PEER_CLOSED  that endpoint is closed for good
  // `lease` as CreateOptions::lease.
  absl::StatusOr<Handle> OpenHandle(const std::string& name, EndpointId endpoint,
                                    std::chrono::milliseconds lease = std::chrono::milliseconds(0));
  absl::StatusOr<Ticket> OpenTicket(const std::string& name, EndpointId endpoint);
  // Errors also as Endpoint::Attach.
  absl::StatusOr<Endpoint> OpenEndpoint(const std::string& name, EndpointId endpoint);

  // Turns a handle to an endpoint into a ticket; the handle is spent. Only `recipient_uid`
  // (default: the caller's own) can redeem it. Right for another uid: TRANSFER.
  absl::StatusOr<Ticket> Attach(const Handle& handle,
                                std::optional<uint32_t> recipient_uid = std::nullopt);

  // Another handle to the same object (zx_handle_duplicate). Right: DUPLICATE, and TRANSFER for
  // another uid. `rights` may be HandleRights(HandleRights::kSameRights).
  //   INVALID_ARGUMENT     rights that the source has not
  absl::StatusOr<Handle> DuplicateHandle(const Handle& handle, HandleRights rights,
                                         const HandleOptions& options = {});

  // A handle with fewer rights in place of another (zx_handle_replace). No DUPLICATE is needed. The
  // source is gone, also when the call fails for INVALID_ARGUMENT or TRANSFER.
  absl::StatusOr<Handle> ReplaceHandle(const Handle& handle, HandleRights rights,
                                       const HandleOptions& options = {});

  // What a handle is (ZX_INFO_HANDLE_BASIC). No right is needed.
  absl::StatusOr<HandleInfo> GetHandleInfo(const Handle& handle);

  // Extends handles that have a lease, each by its own from now on; all of them or none. Those
  // without a lease are left as they are.
  //   INVALID_ARGUMENT     more than 1000
  absl::Status KeepAlive(std::span<const Handle> handles);

  // Closes one handle (zx_handle_close). When it was an endpoint's last hold, the endpoint closes.
  absl::Status CloseHandle(const Handle& handle);

  // The buffer's name (ZX_PROP_NAME); may be empty. A shared region has none: WRONG_OBJECT. Right:
  // GET_PROPERTY.
  absl::StatusOr<std::string> GetName(const Handle& handle);

  // Names the buffer, for both endpoints. Only the first 31 bytes count, as in Zircon; empty: no
  // name. Right: SET_PROPERTY.
  //   INVALID_ARGUMENT             not printable ASCII, or starts with '#'
  //   ALREADY_EXISTS / NAME_TAKEN  another buffer has it: unlike in Zircon, names open buffers
  absl::Status SetName(const Handle& handle, const std::string& name);

  // Clears, then raises, user signals of the handle's own object (zx_object_signal). Right: SIGNAL,
  // which is checked after the bits.
  //   INVALID_ARGUMENT     a bit outside of kUserSignals
  absl::Status Signal(const Handle& handle, uint32_t clear, uint32_t set);

  // The same for the other endpoint (zx_object_signal_peer). Right: SIGNAL_PEER, which no handle to
  // a shared region has. Errors as Signal, and
  //   FAILED_PRECONDITION / PEER_CLOSED  the peer has no handle and no attachment left, even if
  //                                      mappings still delay kSignalPeerClosed
  absl::Status SignalPeer(const Handle& handle, uint32_t clear, uint32_t set);

  // Stores a blob in an id allocator and returns its id (zx_iob_allocate_id), one round trip each,
  // without attaching; see IdAllocator. Right: WRITE, and mediated-write on the region.
  //   OUT_OF_RANGE                            no such region
  //   FAILED_PRECONDITION / WRONG_DISCIPLINE
  //   PERMISSION_DENIED / ACCESS_DENIED       no mediated-write
  //   INVALID_ARGUMENT                        more than kMediatedBlobBytesMax
  //   DATA_LOSS / INTEGRITY, RESOURCE_EXHAUSTED / REGION_FULL, UNAVAILABLE / BUSY
  absl::StatusOr<uint32_t> AllocateId(const Handle& handle, uint32_t region_index,
                                      std::span<const std::byte> blob);

  // What happens to the handle's object (right: WAIT), or to all buffers that the caller may
  // administer, as a stream; see EventWatch. `resume_token` is an earlier watch's, of the same
  // kind: to go on after what that one saw. The broker is waited for until the stream has begun.
  //   INVALID_ARGUMENT     a resume_token that is not one of the daemon's
  absl::StatusOr<EventWatch> Watch(const std::optional<Handle>& handle = std::nullopt,
                                   const std::string& resume_token = "");

  // The caller's buffers (all of them for root), oldest first; all pages.
  absl::StatusOr<std::vector<BufferInfo>> ListBuffers(const std::string& name_prefix = "");

  // The same, one page at a time.
  //   INVALID_ARGUMENT     a page size over 1000, a token that is not one of the daemon's
  absl::StatusOr<BufferPage> ListBuffersPage(const ListOptions& options);

  // In ep0's view, for owner and root. NOT_FOUND also for buffers of others.
  absl::StatusOr<BufferInfo> GetBuffer(const BufferKey& key);
  // As that endpoint sees it (ZX_INFO_IOB, ZX_INFO_IOB_REGIONS), for whoever has a handle. Right:
  // INSPECT.
  absl::StatusOr<BufferView> GetBuffer(const Handle& handle);

  // One shared region and who uses it. By id for owner and root, NOT_FOUND also for those of
  // others; by handle with INSPECT.
  absl::StatusOr<SharedRegionInfo> GetSharedRegion(uint64_t koid);
  absl::StatusOr<SharedRegionInfo> GetSharedRegion(const Handle& handle);

  // The ledgers of the buffer's rings, for owner and root. NOT_FOUND also for buffers of others.
  absl::StatusOr<BufferStats> GetStats(const BufferKey& key);
  // The same again and again, until the buffer is gone; see StatsWatch. An interval of 0 means a
  // second. The broker is waited for until the first beat is there.
  //   INVALID_ARGUMENT     an interval below 10 ms or above an hour
  absl::StatusOr<StatsWatch> WatchStats(
      const BufferKey& key, std::chrono::milliseconds interval = std::chrono::milliseconds(0));

  // Takes both endpoints away from whoever holds them (reason `revoked`).
  //   FAILED_PRECONDITION / IN_USE  attached, and `force` is not set
  absl::Status DeleteBuffer(const BufferKey& key, bool force = false);

  // Appends one record made of up to 8 parts to a mediated ring (zx_iob_writev), one round trip per
  // record. RingWriter streams. Right: WRITE, and mediated-write on the region.
  //   OUT_OF_RANGE, FAILED_PRECONDITION / WRONG_DISCIPLINE, PERMISSION_DENIED / ACCESS_DENIED,
  //   INVALID_ARGUMENT, RESOURCE_EXHAUSTED / RING_FULL, DATA_LOSS / INTEGRITY; checked in this
  //   order
  absl::Status Write(const Handle& handle, uint32_t region_index,
                     std::span<const std::span<const std::byte>> parts);

  // An immutable copy of one region, or of all that the handle may read (map-read or mediated-read;
  // of a ring that producers write themselves, its consuming endpoint). It counts as memory of
  // whoever asks, until it is unmapped. See client/snapshot.h for what a copy promises.
  //   OUT_OF_RANGE                         region_index
  //   PERMISSION_DENIED / ACCESS_DENIED    no right to read this region, or any
  //   FAILED_PRECONDITION / MAY_BE_TORN    require_consistent, and an endpoint may write it
  //   FAILED_PRECONDITION / NOT_COPIED     a region that is never copied
  //   UNAVAILABLE / BUSY                   too many copies at once, or a ring that is written
  //                                        faster than it can be copied
  absl::StatusOr<Snapshot> TakeSnapshot(const Handle& handle, const SnapshotOptions& options = {});

  // Endpoints that crashed, of buffers with snapshot_on_crash, newest first: one's own; for root
  // and the daemon's uid all. `buffer_name`: only of buffers that had this name.
  absl::StatusOr<std::vector<AutopsyInfo>> ListAutopsies(const std::string& buffer_name = {});
  // What is left of the last state. NOT_FOUND.
  absl::StatusOr<Autopsy> GetAutopsy(uint64_t id);

  // What CreateBuffer and the attach socket allow, and what this kernel enforces.
  absl::StatusOr<Limits> GetLimits();

  // grpc.health.v1, with the time that it took. Not serving is an answer, not an error.
  absl::StatusOr<Health> CheckHealth();

 private:
  class Impl;
  explicit Broker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace iob
