// Registry: all buffers, and every way of holding one of their endpoints.
//
//   handle (16 secret bytes, of a process)
//     |-- Attach ----> ticket (16 secret bytes, of a uid, runs out)
//     |                  |-- redeemed on the attach socket --> attachment -- ended: gone
//     |                  |-- ran out: gone
//     |-- CloseHandle, process ended: gone
//
//   R1  Every handle, ticket and attachment belongs to one endpoint of one live buffer, and the
//       counts in Endpoint say how many there are.
//   R2  A closed endpoint has no handle, ticket or attachment, and never gets one again.
//   R3  A buffer lives until both endpoints are closed; then its memory goes and its charge comes
//       home.
//   R4  Names are unique among the buffers that are not being deleted.
//   R5  On failure nothing has changed.
//
// Plain state: no sockets, no gRPC, no clock but the time passed in. What follows from a change
// (evict a connection, look for mappings, tell a peer) goes to the Observer after the operation is
// complete, one event at a time, in order; observers may call the registry back. Owned by the loop
// thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/buffer.h"
#include "server/limits.h"
#include "server/quota.h"
#include "server/token.h"

namespace iob::server {

// A process that talks gRPC with us; handed out by the connection table.
using ProcessId = uint64_t;

// Who calls.
struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;  // For display.
  ProcessId process = 0;
};

struct CreateParams {
  std::string name;
  std::vector<RegionSpec> regions;
  std::array<OpenRule, 2> open_rules;
};

struct CreatedBuffer {
  Buffer* buffer = nullptr;
  std::array<Token, 2> handles;
};

struct OpenedEndpoint {
  Buffer* buffer = nullptr;
  Token handle;
};

struct IssuedTicket {
  Token ticket;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
};

// An endpoint held by a live connection on the attach socket.
struct Attachment {
  AttachmentId id = 0;
  Buffer* buffer = nullptr;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  shm::HandleRights rights;
  HolderInfo holder;
};

// What others must do after a change. Nothing here may fail.
class RegistryObserver {
 public:
  virtual ~RegistryObserver() = default;
  // The process has its first handle, or none any more: whether its end matters.
  virtual void OnProcessHoldsHandles(ProcessId process, bool holds) = 0;
  // `endpoint` has no handle, ticket or attachment: find out whether mappings are left, and call
  // EndpointReleased when there are none. It may be held again by then.
  virtual void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) = 0;
  // `endpoint` is closed. Its peer's attachments are to be told.
  virtual void OnEndpointClosed(Koid buffer, shm::EndpointId endpoint, shm::CloseReason reason) = 0;
  // The broker takes this attachment away: disconnect it, then call EndAttachment.
  virtual void OnRevoke(AttachmentId attachment) = 0;
  // The buffer and its memory are gone.
  virtual void OnBufferGone(Koid buffer) = 0;
};

class Registry {
 public:
  // All outlive the registry. `broker_uid`: the daemon's own.
  Registry(const Limits& limits, Quota& quota, uint32_t broker_uid)
      : limits_(limits), quota_(quota), broker_uid_(broker_uid) {}
  ~Registry();

  // Before the first operation.
  void SetObserver(RegistryObserver* observer) { observer_ = observer; }

  // See BrokerService for the errors of each.
  absl::StatusOr<CreatedBuffer> CreateBuffer(const Caller& caller, CreateParams params,
                                             absl::Time now);
  absl::StatusOr<OpenedEndpoint> OpenBuffer(const Caller& caller, absl::string_view name,
                                            shm::EndpointId endpoint);
  absl::Status CloseHandle(const Caller& caller, const Token& handle);
  absl::StatusOr<IssuedTicket> IssueTicket(const Caller& caller, const Token& handle,
                                           std::optional<uint32_t> recipient_uid, int64_t now_ns);
  absl::Status DeleteBuffer(const Caller& caller, Buffer& buffer, bool force);

  // The endpoint that a handle leads to, for one mediated operation.
  struct HeldEndpoint {
    Buffer* buffer = nullptr;
    shm::EndpointId endpoint = shm::EndpointId::kEp0;
    shm::HandleRights rights;
  };
  absl::StatusOr<HeldEndpoint> Resolve(const Caller& caller, const Token& handle);

  // What a ticket would attach, without spending it (id 0). UNAUTHENTICATED / BAD_HANDLE whether it
  // is unknown, spent, expired or another uid's: one answer for all. FAILED_PRECONDITION /
  // ENFORCEMENT, RESOURCE_EXHAUSTED / QUOTA.
  absl::StatusOr<Attachment> LookUpTicket(const Token& ticket, const HolderInfo& holder,
                                          int64_t now_ns) const;
  // Spends it; the endpoint is attached from here on. Errors as LookUpTicket, and the ticket stays.
  absl::StatusOr<Attachment> RedeemTicket(const Token& ticket, const HolderInfo& holder,
                                          int64_t now_ns);
  void EndAttachment(AttachmentId attachment, shm::CloseReason reason);

  // The handles of a process that ended close.
  void ProcessEnded(ProcessId process, shm::CloseReason reason);
  // Tickets that ran out close.
  void ExpireTickets(int64_t now_ns);
  // When ExpireTickets has something to do next.
  std::optional<int64_t> NextExpiryNs() const;

  // No grant of an unheld endpoint is left. Without effect if it is held again or closed.
  void EndpointReleased(Koid buffer, shm::EndpointId endpoint);

  // Only what the caller may administer; NOT_FOUND otherwise.
  absl::StatusOr<Buffer*> FindForOwner(const Caller& caller, Koid koid);
  absl::StatusOr<Buffer*> FindForOwner(const Caller& caller, absl::string_view name);
  // In order of creation, from the first koid above `after` on.
  std::vector<Buffer*> List(const Caller& caller, Koid after, absl::string_view name_prefix,
                            size_t count_max);
  // nullptr when gone.
  Buffer* Find(Koid koid);

  const std::map<Koid, std::unique_ptr<Buffer>>& buffers() const { return buffers_; }
  const absl::flat_hash_map<AttachmentId, Attachment>& attachments() const { return attachments_; }
  size_t handle_count() const { return handles_.size() + tickets_.size(); }
  uint32_t broker_uid() const { return broker_uid_; }
  const Limits& limits() const { return limits_; }
  uint64_t buffers_created() const { return buffers_created_; }

  // The books of rings that are gone, so that totals never go down.
  struct Retired {
    shm::Ledger ledger;
    uint64_t consumed_records = 0;
  };
  const Retired& retired() const { return retired_; }

  // R1 to R4, counted from scratch; aborts when one does not hold. For tests and debug builds.
  void CheckInvariants() const;

 private:
  struct Handle {
    Buffer* buffer = nullptr;
    shm::EndpointId endpoint = shm::EndpointId::kEp0;
    shm::HandleRights rights;
    uint32_t uid = 0;
    ProcessId process = 0;
  };
  struct Ticket {
    Buffer* buffer = nullptr;
    shm::EndpointId endpoint = shm::EndpointId::kEp0;
    shm::HandleRights rights;
    uint32_t recipient_uid = 0;
    int64_t expires_ns = 0;
  };
  using Event = absl::AnyInvocable<void(RegistryObserver&)>;

  absl::Status CheckName(absl::string_view name) const;
  absl::StatusOr<std::vector<RegionSpec>> CheckRegions(std::vector<RegionSpec> specs) const;
  absl::StatusOr<std::vector<Region>> MakeRegions(const std::vector<RegionSpec>& specs);
  absl::StatusOr<const Handle*> FindHandle(const Caller& caller, const Token& handle) const;
  absl::Status CheckEnforcement(const Ticket& ticket, uint32_t holder_uid) const;
  Token AddHandle(const Caller& caller, Buffer& buffer, shm::EndpointId endpoint);
  void RemoveHandle(const Token& token);
  void DropHold(Buffer& buffer, shm::EndpointId endpoint, shm::CloseReason reason);
  void CloseEndpoint(Buffer& buffer, shm::EndpointId endpoint);
  void RetireLedgers(Buffer& buffer);
  void ReleaseName(const Buffer& buffer);
  void RevokeHolds(Buffer& buffer);
  void Emit(Event event);
  void DeliverEvents();

  const Limits& limits_;
  Quota& quota_;
  const uint32_t broker_uid_;
  RegistryObserver* observer_ = nullptr;

  Koid next_koid_ = 1;
  AttachmentId next_attachment_ = 1;
  uint64_t buffers_created_ = 0;
  Retired retired_;
  std::map<Koid, std::unique_ptr<Buffer>> buffers_;
  absl::flat_hash_map<std::string, Buffer*> by_name_;
  absl::flat_hash_map<Token, Handle> handles_;
  absl::flat_hash_map<ProcessId, absl::flat_hash_set<Token>> by_process_;
  absl::flat_hash_map<Token, Ticket> tickets_;
  std::deque<std::pair<int64_t, Token>> expiries_;  // In order: all tickets live equally long.
  absl::flat_hash_map<AttachmentId, Attachment> attachments_;
  std::deque<Event> events_;
  bool delivering_ = false;
};

}  // namespace iob::server
