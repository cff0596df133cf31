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
//   B3  What a region hands out follows from its access bits alone; a handle can only take away.
//
// Values and rules only: nothing here knows sockets, callers or time. Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "iob/v1/types.pb.h"
#include "server/quota.h"
#include "shm/access.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"
#include "shm/signal_page.h"

namespace iob::server {

// Kernel-object-id style: from one counter, never reused within a run.
using Koid = uint64_t;

// Who made or holds something, for people.
struct HolderInfo {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int32_t pid = 0;
};

// What CreateBuffer asked for; `discipline` and `type` are valid enumerators.
struct RegionSpec {
  v1::RegionType type = v1::REGION_TYPE_PRIVATE;
  v1::Discipline discipline = v1::DISCIPLINE_NONE;
  uint64_t size_bytes = 0;
  shm::AccessBits access;
  uint64_t tag = 0;
  v1::Enforcement required_enforcement = v1::ENFORCEMENT_UNSPECIFIED;
};

// Raw memory.
struct PlainMemory {
  std::optional<shm::SealedMemfd> data;  // Empty for a region of 0 bytes.
};

// A mediated ring with its books: one for the ring, one per writing endpoint.
struct MediatedRing {
  shm::MediatedRingWriter writer;
  shm::Ledger ledger;
  std::array<shm::Ledger, 2> by_endpoint;

  void CountStored(shm::EndpointId endpoint, uint64_t bytes) {
    ledger.CountStored(bytes);
    by_endpoint[static_cast<size_t>(endpoint)].CountStored(bytes);
  }
  void CountRejected(shm::EndpointId endpoint, shm::LossCause cause, uint64_t bytes) {
    ledger.CountRejected(cause, bytes);
    by_endpoint[static_cast<size_t>(endpoint)].CountRejected(cause, bytes);
  }
};

// One descriptor that an endpoint is to get.
struct SectionPlan {
  v1::SectionKind kind = v1::SECTION_KIND_UNSPECIFIED;
  const shm::SealedMemfd* memfd = nullptr;
  shm::FdMode mode = shm::FdMode::kReadOnly;
};

class Region {
 public:
  // INVALID_ARGUMENT, OUT_OF_RANGE, RESOURCE_EXHAUSTED, UNAVAILABLE. `spec` was validated
  // (ValidateRegionSpec) and its size is whole pages.
  static absl::StatusOr<Region> Create(const RegionSpec& spec, Koid koid);

  const RegionSpec& spec() const { return spec_; }
  Koid koid() const { return koid_; }
  uint64_t memory_bytes() const;

  // nullptr for other disciplines.
  MediatedRing* ring() { return std::get_if<MediatedRing>(&memory_); }
  const MediatedRing* ring() const { return std::get_if<MediatedRing>(&memory_); }

  // In address order; empty without a map right.
  std::vector<SectionPlan> SectionsFor(shm::RegionRights rights) const;
  // All sections, for asking whether grants are held.
  std::vector<const shm::SealedMemfd*> Sections() const;

  // How strongly a holder with `rights`, running as `holder_uid`, is kept to them by a broker that
  // runs as `broker_uid`.
  v1::Enforcement EnforcementFor(shm::RegionRights rights, uint32_t holder_uid,
                                 uint32_t broker_uid) const;

 private:
  using Memory = std::variant<PlainMemory, MediatedRing>;
  Region(const RegionSpec& spec, Koid koid, Memory memory)
      : spec_(spec), koid_(koid), memory_(std::move(memory)) {}
  RegionSpec spec_;
  Koid koid_;
  Memory memory_;
};

// Checks one region against the model's rules, in Zircon's order (zx_iob_create), and rounds its
// size up to pages. `index` names it in errors.
absl::StatusOr<RegionSpec> ValidateRegionSpec(RegionSpec spec, size_t index, const Limits& limits);

// Bytes of memory that a region of this kind takes, before it is made.
uint64_t MemoryBytesFor(const RegionSpec& spec);

using AttachmentId = uint64_t;

// Who holds an endpoint by a live connection.
struct AttachedHolder {
  AttachmentId attachment = 0;
  HolderInfo who;
};

struct Endpoint {
  Koid koid = 0;
  uint32_t handles = 0;                     // Tickets included.
  std::vector<AttachedHolder> attachments;  // Oldest first.
  uint32_t grants_made = 0;                 // Numbers the lock bytes.
  bool closed = false;
  // How the last attachment ended; how the last handle went if there never was an attachment. Who
  // used the endpoint says more than who kept a handle to it. Final once closed.
  shm::CloseReason reason;
  bool was_attached = false;

  bool held() const { return handles != 0 || !attachments.empty(); }
};

// Who else may open an endpoint by name.
struct OpenRule {
  bool anyone = false;
  std::vector<uint32_t> uids;
};

class Buffer {
 public:
  Buffer(Koid koid, std::string name, HolderInfo owner, absl::Time create_time,
         std::vector<Region> regions, shm::SignalPageWriter signal, Charge charge)
      : koid_(koid),
        name_(std::move(name)),
        owner_(owner),
        create_time_(create_time),
        regions_(std::move(regions)),
        signal_(std::move(signal)),
        charge_(std::move(charge)) {}

  Koid koid() const { return koid_; }
  const std::string& name() const { return name_; }
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
  shm::SignalPageWriter& signal() { return signal_; }
  const shm::SignalPageWriter& signal() const { return signal_; }

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
  shm::SignalPageWriter signal_;
  Charge charge_;
};

}  // namespace iob::server
