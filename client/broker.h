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
// a ticket was made of them or an attachment holds them.
//
// Errors of every call, besides those listed at each:
//   UNAVAILABLE / DISCONNECTED   the daemon cannot be reached
//   UNAVAILABLE / BUSY           overloaded or shutting down, until the deadline
//   DEADLINE_EXCEEDED / DEADLINE no answer in time
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
};

struct CreatedBuffer {
  BufferInfo info;
  // Unset for an endpoint in CreateOptions::attach.
  std::optional<Handle> ep0_handle;
  std::optional<Handle> ep1_handle;
  std::vector<Ticket> tickets;  // In the order of CreateOptions::attach.
};

// A buffer by id or by name.
using BufferKey = std::variant<uint64_t, std::string>;

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
  //   ALREADY_EXISTS / NAME_TAKEN
  //   RESOURCE_EXHAUSTED / QUOTA
  absl::StatusOr<CreatedBuffer> CreateBuffer(const CreateOptions& options);

  // A new handle to, a ticket for, or an attachment of an endpoint of a named buffer.
  //   NOT_FOUND                          no such name, or the caller may not know of it
  //   FAILED_PRECONDITION / PEER_CLOSED  that endpoint is closed for good
  absl::StatusOr<Handle> OpenHandle(const std::string& name, EndpointId endpoint);
  absl::StatusOr<Ticket> OpenTicket(const std::string& name, EndpointId endpoint);
  // Errors also as Endpoint::Attach.
  absl::StatusOr<Endpoint> OpenEndpoint(const std::string& name, EndpointId endpoint);

  // Turns a handle into a ticket; the handle is spent. Only `recipient_uid` (default: the caller's
  // own) can redeem it.
  //   UNAUTHENTICATED / BAD_HANDLE
  absl::StatusOr<Ticket> Attach(const Handle& handle,
                                std::optional<uint32_t> recipient_uid = std::nullopt);

  // Closes one handle. When it was an endpoint's last hold, the endpoint closes.
  //   UNAUTHENTICATED / BAD_HANDLE
  absl::Status CloseHandle(const Handle& handle);

  // The caller's buffers (all of them for root), oldest first; all pages.
  absl::StatusOr<std::vector<BufferInfo>> ListBuffers(const std::string& name_prefix = "");

  // NOT_FOUND also for buffers of others. In ep0's view.
  absl::StatusOr<BufferInfo> GetBuffer(const BufferKey& key);
  absl::StatusOr<BufferStats> GetStats(const BufferKey& key);

  // Takes both endpoints away from whoever holds them (reason `revoked`).
  //   FAILED_PRECONDITION / IN_USE  attached, and `force` is not set
  absl::Status DeleteBuffer(const BufferKey& key, bool force = false);

  // Appends one record made of up to 8 parts to a mediated ring (zx_iob_writev), one round trip per
  // record. RingWriter streams.
  //   OUT_OF_RANGE, FAILED_PRECONDITION / WRONG_DISCIPLINE, PERMISSION_DENIED / ACCESS_DENIED,
  //   INVALID_ARGUMENT, RESOURCE_EXHAUSTED / RING_FULL, DATA_LOSS / INTEGRITY; checked in this
  //   order
  absl::Status Write(const Handle& handle, uint32_t region_index,
                     std::span<const std::span<const std::byte>> parts);

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
