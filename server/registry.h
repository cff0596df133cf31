// Registry: all buffers and shared regions, and every way of holding one of them.
//
//   handle (16 secret bytes, of a uid)                                        handle_table.h
//     |-- Attach ----> ticket (16 secret bytes, of a uid, runs out)
//     |                  |-- redeemed on the attach socket --> attachment -- ended: gone
//     |                  |-- ran out: gone
//     |-- DuplicateHandle --> another one, with no more rights
//     |-- CloseHandle, ReplaceHandle, process ended, lease ran out: gone
//
//   R1  Every handle, ticket and attachment belongs to one endpoint of one live buffer, or to one
//       live shared region, and each object lists them.
//   R2  A closed endpoint has no handle, ticket or attachment, and never gets one again.
//   R3  A buffer lives until both endpoints are closed; then its memory goes and its charge comes
//       home. A shared region lives until it has neither a handle nor a buffer that uses it.
//   R4  Names are unique among the buffers that are not being deleted.
//   R5  On failure nothing has changed. (ReplaceHandle closes its source all the same, as in
//       Zircon.)
//   R6  Rights only shrink, from a handle to whatever is made of it.
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
#include "server/handle_table.h"
#include "server/limits.h"
#include "server/quota.h"
#include "server/token.h"

namespace iob::server {

// Who calls.
struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;  // For display.
  ProcessId process = 0;
};

// How long a handle lives by itself, from when; ms 0: as long as its process.
struct Lease {
  uint32_t ms = 0;
  int64_t now_ns = 0;
};

struct CreateParams {
  std::string name;
  std::vector<RegionSpec> regions;
  std::array<OpenRule, 2> open_rules;
  Lease lease = {};
  bool snapshot_on_crash = false;
};

struct CreatedBuffer {
  Buffer* buffer = nullptr;
  std::array<Token, 2> handles;
};

struct OpenedEndpoint {
  Buffer* buffer = nullptr;
  Token handle;
};

struct CreatedSharedRegion {
  SharedRegion* region = nullptr;
  Token handle;
};

struct IssuedTicket {
  Token ticket;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
};

// What a duplicate or a replacement is to be.
struct HandleWish {
  uint32_t rights = shm::HandleRights::kSameRights;
  std::optional<uint32_t> recipient_uid = std::nullopt;
  Lease lease = {};
};

// The number under which an attachment writes a region by itself.
struct OwnerOf {
  uint32_t region_index = 0;
  uint32_t owner = 0;  // An id owner, or a seat in a direct ring.
};

// An endpoint held by a live connection on the attach socket.
struct Attachment {
  AttachmentId id = 0;
  Buffer* buffer = nullptr;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  shm::HandleRights rights;
  HolderInfo holder;
  std::vector<OwnerOf> owners = {};

  HeldEndpoint held() const { return {.buffer = buffer, .endpoint = endpoint, .rights = rights}; }
};

// A buffer as events name it: it may be gone by the time they are told.
struct BufferLabel {
  Koid koid = 0;
  std::string name;
  uint32_t owner_uid = 0;
};

// What others must do after a change, and what they may want to know. Nothing here may fail.
class RegistryObserver {
 public:
  virtual ~RegistryObserver() = default;
  // The process has its first handle, or none any more: whether its end matters.
  virtual void OnProcessHoldsHandles(ProcessId process, bool holds) = 0;
  // `endpoint` has no handle, ticket or attachment: find out whether mappings are left, and call
  // EndpointReleased when there are none. It may be held again by then.
  virtual void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) = 0;
  // `endpoint` is closed. Its peer's attachments are to be told.
  virtual void OnEndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                                shm::CloseReason reason) = 0;
  // The broker takes this attachment away: disconnect it, then call EndAttachment.
  virtual void OnRevoke(AttachmentId attachment) = 0;
  // The buffer and its memory are gone.
  virtual void OnBufferGone(const BufferLabel& buffer) = 0;
  // User signals of `endpoint` changed. Its attachments are to be told.
  virtual void OnSignals(const BufferLabel& /*buffer*/, shm::EndpointId /*endpoint*/,
                         uint32_t /*signals*/) {}
  // Records are there for a consumer that asked for a packet, and whoever owed it that is dead.
  virtual void OnRecordsReadable(Koid /*buffer*/, uint32_t /*region_index*/) {}
  // Somebody who wrote a region by himself has let go: call ReapOwners until it is done.
  virtual void OnOwnersLeft(Koid /*buffer*/) {}

  // The handle leads nowhere any more: closed, spent or run out.
  virtual void OnHandleGone(const Token& /*handle*/) {}

  // For the record only.
  virtual void OnBufferCreated(const BufferLabel& /*buffer*/, const HolderInfo& /*owner*/,
                               uint64_t /*memory_bytes*/) {}
  virtual void OnBufferRenamed(const BufferLabel& /*buffer*/, const std::string& /*old_name*/) {}
  virtual void OnAttached(const BufferLabel& /*buffer*/, shm::EndpointId /*endpoint*/,
                          const HolderInfo& /*holder*/) {}
  virtual void OnDetached(const BufferLabel& /*buffer*/, shm::EndpointId /*endpoint*/,
                          const HolderInfo& /*holder*/, shm::CloseReason /*reason*/) {}
  virtual void OnRegionSignals(Koid /*shared_region*/, uint32_t /*owner_uid*/,
                               uint32_t /*signals*/) {}
  virtual void OnRegionGone(Koid /*shared_region*/, uint32_t /*owner_uid*/) {}
};

class Registry {
 public:
  // All outlive the registry. `broker_uid`: the daemon's own.
  Registry(const Limits& limits, Quota& quota, uint32_t broker_uid);
  ~Registry();

  // Before the first operation.
  void SetObserver(RegistryObserver* observer) { observer_ = observer; }

  // Called while `endpoint` closes, in the middle of an operation and before any memory goes: to
  // look, not to change anything.
  using LastLook =
      absl::AnyInvocable<void(Buffer& buffer, shm::EndpointId endpoint, shm::CloseReason reason)>;
  void SetLastLook(LastLook last_look) { last_look_ = std::move(last_look); }

  // See BrokerService for the errors of each.
  absl::StatusOr<CreatedBuffer> CreateBuffer(const Caller& caller, CreateParams params,
                                             absl::Time now);
  absl::StatusOr<OpenedEndpoint> OpenBuffer(const Caller& caller, absl::string_view name,
                                            shm::EndpointId endpoint, Lease lease = {});
  absl::StatusOr<CreatedSharedRegion> CreateSharedRegion(const Caller& caller, uint64_t size_bytes,
                                                         absl::Time now, Lease lease = {},
                                                         const v1::Placement& placement = {});
  absl::Status CloseHandle(const Caller& caller, const Token& handle);
  absl::StatusOr<Token> DuplicateHandle(const Caller& caller, const Token& handle,
                                        const HandleWish& wish);
  absl::StatusOr<Token> ReplaceHandle(const Caller& caller, const Token& handle,
                                      const HandleWish& wish);
  absl::Status KeepAlive(const Caller& caller, const std::vector<Token>& handles, int64_t now_ns);
  absl::StatusOr<IssuedTicket> IssueTicket(const Caller& caller, const Token& handle,
                                           std::optional<uint32_t> recipient_uid, int64_t now_ns);
  absl::Status DeleteBuffer(const Caller& caller, Buffer& buffer, bool force);

  // What a handle is. BAD_HANDLE: unknown, spent, expired or another uid's: one answer for all.
  absl::StatusOr<Handle> FindHandle(const Caller& caller, const Token& handle) const;
  // The endpoint that a handle leads to. BAD_HANDLE, WRONG_OBJECT, ACCESS_DENIED without `rights`.
  absl::StatusOr<HeldEndpoint> ResolveEndpoint(const Caller& caller, const Token& handle,
                                               uint32_t rights) const;
  absl::StatusOr<SharedRegion*> ResolveSharedRegion(const Caller& caller, const Token& handle,
                                                    uint32_t rights) const;

  // Through a handle or an attachment; they check `held.rights`.
  absl::Status SetName(const HeldEndpoint& held, std::string name);
  absl::Status ChangeSignals(const HeldEndpoint& held, bool peer, uint32_t clear, uint32_t set);
  // Of the handle's own object, whatever it is.
  absl::Status ChangeOwnSignals(const Caller& caller, const Token& handle, uint32_t clear,
                                uint32_t set);
  // Of the other endpoint; a shared region has none, and its handles no SIGNAL_PEER.
  absl::Status ChangePeerSignals(const Caller& caller, const Token& handle, uint32_t clear,
                                 uint32_t set);

  // What a ticket would attach, without spending it (id 0). UNAUTHENTICATED / BAD_HANDLE whether it
  // is unknown, spent, expired or another uid's: one answer for all. FAILED_PRECONDITION /
  // ENFORCEMENT, RESOURCE_EXHAUSTED / QUOTA.
  absl::StatusOr<Attachment> LookUpTicket(const Token& ticket, const HolderInfo& holder,
                                          int64_t now_ns) const;
  // Spends it; the endpoint is attached from here on. Errors as LookUpTicket, and the ticket stays.
  absl::StatusOr<Attachment> RedeemTicket(const Token& ticket, const HolderInfo& holder,
                                          int64_t now_ns);
  void EndAttachment(AttachmentId attachment, shm::CloseReason reason);
  // The numbers that this attachment writes under; they are let go of when it ends.
  void SetOwners(AttachmentId attachment, std::vector<OwnerOf> owners);
  // Settles what owners have left unfinished, as far as nobody can still finish it. True when
  // nothing is left to settle.
  bool ReapOwners(Koid buffer);
  // New memory for a shared reserve ring, charged to the buffer's owner. RESOURCE_EXHAUSTED,
  // UNAVAILABLE.
  absl::Status RenewRing(Koid buffer, uint32_t region_index);
  // Gives up the old memory, as far as nobody needs it. True when only the newest is left.
  bool ReapGenerations(Koid buffer, uint32_t region_index);

  // The handles of a process that ended close.
  void ProcessEnded(ProcessId process, shm::CloseReason reason);
  // Tickets and leases that ran out close.
  void Expire(int64_t now_ns);
  // When Expire has something to do next.
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
  SharedRegion* FindSharedRegion(Koid koid);
  // Only what the caller may administer; NOT_FOUND otherwise.
  absl::StatusOr<SharedRegion*> FindSharedRegionForOwner(const Caller& caller, Koid koid);

  const std::map<Koid, std::unique_ptr<Buffer>>& buffers() const { return buffers_; }
  const absl::flat_hash_map<AttachmentId, Attachment>& attachments() const { return attachments_; }
  const absl::flat_hash_map<Koid, std::unique_ptr<SharedRegion>>& shared_regions() const {
    return shared_regions_;
  }
  size_t handle_count() const { return handles_.size() + tickets_.size(); }
  uint32_t broker_uid() const { return broker_uid_; }
  const Limits& limits() const { return limits_; }
  uint64_t buffers_created() const { return buffers_created_; }

  // The books of rings that are gone, so that totals never go down.
  struct Retired {
    shm::Ledger ledger;
    uint64_t consumed_records = 0;
    uint64_t overwritten_records = 0;
  };
  const Retired& retired() const { return retired_; }

  // R1 to R4 and H2, counted from scratch; aborts when one does not hold. For tests and debug
  // builds.
  void CheckInvariants() const;

 private:
  struct Ticket {
    HeldEndpoint held;
    uint32_t recipient_uid = 0;
    int64_t expires_ns = 0;
  };
  using Event = absl::AnyInvocable<void(RegistryObserver&)>;

  absl::Status CheckName(absl::string_view name, const Buffer* renamed) const;
  absl::Status CheckHandleRoom(size_t more) const;
  absl::StatusOr<std::vector<RegionSpec>> CheckRegions(const Caller& caller,
                                                       std::vector<RegionSpec> specs) const;
  absl::StatusOr<std::vector<Region>> MakeRegions(const std::vector<RegionSpec>& specs);
  absl::Status CheckWish(const Caller& caller, const Handle& source, HandleWish& wish) const;
  absl::Status CheckEnforcement(const Ticket& ticket, uint32_t holder_uid) const;
  Token AddHandle(const Caller& caller, const ObjectRef& object, shm::HandleRights rights,
                  uint32_t uid, Lease lease);
  void CloseOne(const Token& token, shm::CloseReason reason);
  void CloseTicket(const Token& token, shm::CloseReason reason);
  void DropHold(Buffer& buffer, shm::EndpointId endpoint, shm::CloseReason reason);
  void CloseEndpoint(Buffer& buffer, shm::EndpointId endpoint);
  void ReleaseBuffer(Buffer& buffer);
  void ReleaseIfUnneeded(SharedRegion& region);
  void RetireLedger(MediatedRing& ring);
  void ReleaseName(const Buffer& buffer);
  void RevokeHolds(Buffer& buffer);
  void Emit(Event event);
  void TellOwedPacket(Koid buffer, uint32_t region_index);
  void DeliverEvents();

  const Limits& limits_;
  Quota& quota_;
  const uint32_t broker_uid_;
  RegistryObserver* observer_ = nullptr;
  LastLook last_look_;

  Koid next_koid_ = 1;
  AttachmentId next_attachment_ = 1;
  uint64_t buffers_created_ = 0;
  Retired retired_;
  std::map<Koid, std::unique_ptr<Buffer>> buffers_;
  absl::flat_hash_map<Koid, std::unique_ptr<SharedRegion>> shared_regions_;
  absl::flat_hash_map<std::string, Buffer*> by_name_;
  HandleTable handles_;
  absl::flat_hash_map<Token, Ticket> tickets_;
  std::deque<std::pair<int64_t, Token>> expiries_;  // In order: all tickets live equally long.
  absl::flat_hash_map<AttachmentId, Attachment> attachments_;
  std::deque<Event> events_;
  bool delivering_ = false;
};

}  // namespace iob::server
