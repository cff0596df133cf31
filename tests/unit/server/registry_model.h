// The registry's rules told a second time, in the smallest words: numbers instead of objects, no
// lists but of what there is. A simulation compares the two.
//
// Of each operation, Check... says what must come of it (UNSPECIFIED: it works), and the function
// of the same name does it. What happens on the way is written down as events, for comparison with
// what the registry's observer was told.
//
//   hold that went --> its endpoint has none left --nobody maps it--> closed --both--> buffer gone
//                                                                        its shared regions <--'
//                                                                        lose a user
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "server/registry.h"

namespace iob::server {

struct ModelEvent {
  enum class Kind {
    kBufferCreated,
    kRenamed,
    kAttached,
    kDetached,
    kUnheld,
    kClosed,
    kBufferGone,
    kOwnersLeft,
    kSignals,
    kHandleGone,
    kProcessHolds,
    kRegionSignals,
    kRegionUpdated,
    kRegionGone,
  };
  Kind kind = Kind::kHandleGone;
  uint64_t object = 0;  // A koid, with its endpoint in the lowest bit, a token or a process.
  uint64_t detail = 0;
  std::string name = {};

  friend auto operator<=>(const ModelEvent&, const ModelEvent&) = default;
  friend std::ostream& operator<<(std::ostream& out, const ModelEvent& event) {
    return out << "{" << static_cast<int>(event.kind) << " " << event.object << " " << event.detail
               << " \"" << event.name << "\"}";
  }

  static uint64_t Endpoint(Koid buffer, shm::EndpointId id) {
    return buffer << 1 | static_cast<uint64_t>(id);
  }
  static uint64_t Reason(shm::CloseReason reason) {
    return uint64_t{static_cast<uint32_t>(reason.kind)} << 32 | static_cast<uint32_t>(reason.code);
  }
  // Enough of it to tell tokens apart.
  static uint64_t Short(const Token& token);
};

struct ModelEndpoint {
  uint32_t handles = 0;  // Tickets included.
  uint32_t attachments = 0;
  uint32_t signals = 0;
  bool mapped = false;  // Somebody has its memory mapped, whether the endpoint is held or not.
  bool closed = false;
  bool was_attached = false;
  shm::CloseReason reason;

  bool held() const { return handles + attachments != 0; }
};

struct ModelBuffer {
  std::string name;
  uint32_t owner_uid = 0;
  bool deleted = false;
  std::array<OpenRule, 2> rules;
  std::vector<Koid> regions;   // The shared region that each is; 0: a private one.
  uint32_t id_allocators = 0;  // Among the private ones; every attachment writes them.
  std::array<ModelEndpoint, 2> endpoints;

  ModelEndpoint& endpoint(shm::EndpointId id) { return endpoints[static_cast<size_t>(id)]; }
};

struct ModelRegion {
  uint32_t owner_uid = 0;
  uint64_t size_bytes = 0;
  uint32_t handles = 0;
  uint32_t uses = 0;
  uint32_t signals = 0;
  uint64_t stored = 0;  // Records.
  uint64_t rejected = 0;
};

// An endpoint, or a shared region when `region` is not 0.
struct ModelObject {
  Koid buffer = 0;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  Koid region = 0;
};

struct ModelHandle {
  Token token;
  ModelObject object;
  uint32_t rights = 0;
  uint32_t uid = 0;
  ProcessId process = 0;
  uint32_t lease_ms = 0;
  int64_t expires_ns = 0;  // Of a ticket too.
};

// What a buffer is to be made of.
struct ModelSpec {
  enum class Kind { kPrivate, kIdAllocator, kUseless, kShared };
  Kind kind = Kind::kPrivate;
  const ModelHandle* handle = nullptr;  // nullptr: one that nobody knows.
};

class RegistryModel {
 public:
  using Reason = v1::ErrorReason;
  static constexpr Reason kWorks = v1::ERROR_REASON_UNSPECIFIED;
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kPayloadBytes = 2000;  // Of every record.
  static constexpr uint64_t kRecordBytes = 2016;

  explicit RegistryModel(const Limits& limits) : limits_(limits) {}

  // By number, oldest first: tokens are random, and a run must be the same each time.
  std::map<uint64_t, ModelHandle> handles;
  std::map<uint64_t, ModelHandle> tickets;
  std::map<AttachmentId, ModelHandle> attachments;
  std::map<Koid, ModelBuffer> buffers;
  std::map<Koid, ModelRegion> regions;
  uint64_t retired_stored = 0;
  uint64_t retired_rejected = 0;

  std::vector<ModelEvent> TakeEvents() { return std::exchange(events_, {}); }
  uint64_t MemoryBytes() const { return MemoryBytesOf(std::nullopt); }
  uint64_t Descriptors() const;
  std::optional<int64_t> NextExpiryNs() const;

  // A handle may be nullptr: one that nobody knows.
  static Reason CheckHandle(const Caller& caller, const ModelHandle* handle);
  static Reason CheckEndpoint(const Caller& caller, const ModelHandle* handle);

  Reason CheckCreate(const Caller& caller, const std::string& name,
                     const std::vector<ModelSpec>& specs) const;
  void Create(const Caller& caller, const std::string& name, const std::vector<ModelSpec>& specs,
              const std::array<OpenRule, 2>& rules, Lease lease, const CreatedBuffer& made);
  Reason CheckCreateRegion(const Caller& caller, uint64_t size_bytes) const;
  void CreateRegion(const Caller& caller, uint64_t size_bytes, Lease lease,
                    const CreatedSharedRegion& made);
  Reason CheckOpen(const Caller& caller, const std::string& name, shm::EndpointId endpoint) const;
  void Open(const Caller& caller, shm::EndpointId endpoint, Lease lease,
            const OpenedEndpoint& opened);
  void Close(uint64_t number, shm::CloseReason reason);

  Reason CheckDuplicate(const Caller& caller, const ModelHandle* source,
                        const HandleWish& wish) const;
  // Also of a replacement, before its source closes.
  void Duplicate(const Caller& caller, const ModelHandle& source, const HandleWish& wish,
                 const Token& made);
  static Reason CheckWish(const Caller& caller, const ModelHandle& source, const HandleWish& wish);

  static Reason CheckIssue(const Caller& caller, const ModelHandle* handle, uint32_t recipient_uid);
  void Issue(uint64_t number, uint32_t recipient_uid, const Token& ticket, int64_t now_ns);
  Reason CheckRedeem(const ModelHandle& ticket, uint32_t uid, int64_t now_ns) const;
  void Redeem(uint64_t number, AttachmentId attachment);
  void EndAttachment(AttachmentId id, shm::CloseReason reason);

  void EndProcess(ProcessId process, shm::CloseReason reason);
  void Expire(int64_t now_ns);
  Reason CheckDelete(const Caller& caller, Koid buffer, bool force) const;
  void Delete(Koid buffer);
  void Unmap(Koid buffer, shm::EndpointId endpoint);

  // Of a handle or an attachment to an endpoint.
  Reason CheckSetName(const ModelHandle& held, const std::string& name) const;
  void SetName(const ModelHandle& held, const std::string& name);
  Reason CheckSignal(const ModelHandle& held, bool peer, uint32_t clear, uint32_t set) const;
  void Signal(const ModelHandle& held, bool peer, uint32_t clear, uint32_t set);
  Reason CheckWrite(const ModelHandle& held, uint32_t region_index) const;
  void Write(const ModelHandle& held, uint32_t region_index, Reason outcome);

 private:
  using Kind = ModelEvent::Kind;

  uint64_t MemoryBytesOf(std::optional<uint32_t> uid) const;
  bool HasRoomFor(const Caller& caller, uint64_t memory_bytes, size_t more_handles) const;
  Reason CheckName(const std::string& name, Koid renamed) const;
  const ModelBuffer* Named(const std::string& name, Koid* ret_koid = nullptr) const;
  void Add(const Caller& caller, const ModelObject& object, uint32_t rights, uint32_t uid,
           Lease lease, const Token& token);
  void Remove(uint64_t number);
  void DropHold(const ModelObject& object, shm::CloseReason reason);
  void Settle(Koid buffer, shm::EndpointId endpoint);
  void SettleRegion(Koid region);
  size_t HandlesOf(ProcessId process) const;
  void Tell(Kind kind, uint64_t object, uint64_t detail = 0, const std::string& name = {}) {
    events_.push_back({.kind = kind, .object = object, .detail = detail, .name = name});
  }

  const Limits& limits_;
  uint64_t next_number_ = 1;
  std::vector<ModelEvent> events_;
};

}  // namespace iob::server
