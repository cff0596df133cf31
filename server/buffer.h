// The object model: Buffer, its Regions and Endpoints.
//
//     Buffer --owns--> Region 0..63 --owns--> sections (memfds, broker's mappings)
//        |----------> Endpoint ep0, ep1 <--counts-- handles, tickets, attachments (registry)
//        |----------> signal page            <--holds-- grants (liveness)
//
//   B1  Geometry never changes after construction.
//   B2  An endpoint goes held -> unheld (no handle, ticket or attachment) -> closed (no grant held
//       either), or back from unheld to held only while its buffer is not being deleted; never back
//       from closed.
//
// Values and rules only: nothing here knows sockets, callers or time. Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "server/buffer_signals.h"
#include "server/holder.h"
#include "server/quota.h"
#include "server/region.h"
#include "server/token.h"
#include "shm/access.h"
#include "shm/signal_page.h"

namespace iob::server {

using AttachmentId = uint64_t;

// Who holds an endpoint by a live connection.
struct AttachedHolder {
  AttachmentId attachment = 0;
  HolderInfo who;
};

struct Endpoint {
  Koid koid = 0;
  absl::flat_hash_set<Token> handles;       // Tickets included.
  std::vector<AttachedHolder> attachments;  // Oldest first.
  uint32_t grants_made = 0;                 // Numbers the lock bytes.
  bool closed = false;
  // How the last attachment ended; how the last handle went if there never was an attachment. Who
  // used the endpoint says more than who kept a handle to it. Final once closed.
  shm::CloseReason reason;
  bool was_attached = false;

  bool held() const { return !handles.empty() || !attachments.empty(); }
};

// Who else may open an endpoint by name.
struct OpenRule {
  bool anyone = false;
  std::vector<uint32_t> uids;
};

class Buffer {
 public:
  Buffer(Koid koid, std::string name, HolderInfo owner, absl::Time create_time,
         std::vector<Region> regions, Charge charge)
      : koid_(koid),
        name_(std::move(name)),
        owner_(owner),
        create_time_(create_time),
        regions_(std::move(regions)),
        charge_(std::move(charge)) {}

  Koid koid() const { return koid_; }
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  const HolderInfo& owner() const { return owner_; }
  absl::Time create_time() const { return create_time_; }
  uint64_t memory_bytes() const { return charge_.memory_bytes(); }

  std::vector<Region>& regions() { return regions_; }
  const std::vector<Region>& regions() const { return regions_; }
  Endpoint& endpoint(shm::EndpointId id) { return endpoints_[static_cast<size_t>(id)]; }
  const Endpoint& endpoint(shm::EndpointId id) const { return endpoints_[static_cast<size_t>(id)]; }
  OpenRule& open_rule(shm::EndpointId id) { return open_rules_[static_cast<size_t>(id)]; }
  const OpenRule& open_rule(shm::EndpointId id) const {
    return open_rules_[static_cast<size_t>(id)];
  }
  // Whether a copy is kept when an endpoint crashes.
  bool snapshot_on_crash() const { return snapshot_on_crash_; }
  void set_snapshot_on_crash(bool on) { snapshot_on_crash_ = on; }
  BufferSignals& signal() { return signal_; }
  const BufferSignals& signal() const { return signal_; }

  // The tag that records of this endpoint carry in this region.
  uint64_t TagOf(const Region& region, shm::EndpointId writer) const {
    return region.spec().tag != 0 ? region.spec().tag : endpoint(writer).koid;
  }

  // Whether any descriptor or mapping that `endpoint` was given is still held, anywhere.
  bool AnyGrantHeld(shm::EndpointId endpoint) const;

 private:
  Koid koid_;
  std::string name_;
  HolderInfo owner_;
  absl::Time create_time_;
  std::vector<Region> regions_;
  std::array<Endpoint, 2> endpoints_;
  std::array<OpenRule, 2> open_rules_;
  BufferSignals signal_;
  bool snapshot_on_crash_ = false;
  Charge charge_;
};

// An endpoint, and what its holder may do with it.
struct HeldEndpoint {
  Buffer* buffer = nullptr;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  shm::HandleRights rights;
};

}  // namespace iob::server
