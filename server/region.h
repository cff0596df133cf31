// Region: one range of memory of a buffer: private, or a use of a shared region.
//
// What it hands out follows from its access bits and the handle's rights alone; a handle can only
// take away. Geometry never changes after construction.
//
// Values and rules only: nothing here knows sockets, callers or time. Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "iob/v1/types.pb.h"
#include "server/direct_ring.h"
#include "server/holder.h"
#include "server/limits.h"
#include "server/placement.h"
#include "server/region_memory.h"
#include "server/section_plan.h"
#include "server/shared_region.h"
#include "server/token.h"
#include "shm/access.h"
#include "shm/grant_lock.h"
#include "shm/memfd.h"
#include "shm/writer_budget.h"

namespace iob::server {

// What CreateBuffer asked for. Validated: `discipline` and `type` are valid enumerators, the size
// is whole pages, `shared` is set for shared regions.
struct RegionSpec {
  v1::RegionType type = v1::REGION_TYPE_PRIVATE;
  v1::Discipline discipline = v1::DISCIPLINE_NONE;
  uint64_t size_bytes = 0;
  shm::AccessBits access;
  uint64_t tag = 0;
  v1::Enforcement required_enforcement = v1::ENFORCEMENT_UNSPECIFIED;
  std::optional<Token> shared_handle = std::nullopt;
  size_t malformed_handle_bytes = 0;  // Length of a shared_region that is no handle at all.
  uint32_t interned_blobs_max = 0;
  v1::MediatedRingOptions mediated = {};
  std::optional<v1::ReserveRingOptions> reserve = std::nullopt;
  uint64_t slot_value_bytes = 0;
  v1::Placement placement = {};  // Of a private region.
  SharedRegion* shared = nullptr;

  // Reserve ring, broadcast, slot.
  bool direct() const {
    return discipline == v1::DISCIPLINE_RESERVE_RING || discipline == v1::DISCIPLINE_BROADCAST ||
           discipline == v1::DISCIPLINE_SLOT;
  }
};

// Of a direct ring.
DirectRingSpec DirectSpecOf(const RegionSpec& spec);

// One endpoint's way into a ring, found once per batch. Counts nothing.
struct RecordSink {
  shm::MediatedRingWriter* writer = nullptr;
  shm::WriterBudget* budget = nullptr;
  uint64_t tag = 0;
  int64_t now_ns = 0;  // For stamps.

  shm::AppendOutcome Append(std::span<const std::byte> payload) const {
    if (!budget->Admit(*writer, payload.size())) [[unlikely]]
      return shm::AppendOutcome::kBudget;
    const shm::AppendOutcome outcome = writer->Append(tag, payload, now_ns);
    if (outcome == shm::AppendOutcome::kStored) budget->Charge(*writer, payload.size());
    return outcome;
  }
};

class Region {
 public:
  // INVALID_ARGUMENT, OUT_OF_RANGE, RESOURCE_EXHAUSTED, UNAVAILABLE. `spec` was validated. `koid`
  // is for a private region; a shared one has the koid of its object.
  static absl::StatusOr<Region> Create(const RegionSpec& spec, Koid koid);

  const RegionSpec& spec() const { return spec_; }
  Koid koid() const { return koid_; }

  // Of a shared region: the object, and which of its users this is.
  SharedRegion* shared() const { return spec_.shared; }
  // Never to be seen in a snapshot, a tail or an autopsy.
  bool sensitive() const { return placement().sensitive(); }
  // What its memory got.
  const v1::ObtainedPlacement& placement() const {
    return spec_.shared != nullptr ? spec_.shared->placement() : placement_;
  }
  uint64_t user() const { return user_; }

  // nullptr for other disciplines.
  MediatedRing* ring();
  const MediatedRing* ring() const { return const_cast<Region*>(this)->ring(); }
  SharedIds* shared_ids() { return std::get_if<SharedIds>(&memory_); }
  const SharedIds* shared_ids() const { return std::get_if<SharedIds>(&memory_); }
  SealedIds* sealed_ids() { return std::get_if<SealedIds>(&memory_); }
  const SealedIds* sealed_ids() const { return std::get_if<SealedIds>(&memory_); }
  DirectRing* direct() { return const_cast<DirectRing*>(std::as_const(*this).direct()); }
  const DirectRing* direct() const {
    const auto* const ring = std::get_if<std::unique_ptr<DirectRing>>(&memory_);
    return ring == nullptr ? nullptr : ring->get();
  }

  // Whether this endpoint is the one that writes a direct ring, if its handle lets it.
  bool Produces(shm::EndpointId endpoint) const {
    return direct() != nullptr && spec_.access.For(endpoint).map_write();
  }
  // Whether an endpoint with these rights takes records out of this region's ring, or follows it.
  bool Reads(shm::RegionRights rights) const;

  // The number under which an attachment of `uid` writes by itself: an id owner, or a seat in a
  // direct ring. Nothing when it does not. RESOURCE_EXHAUSTED / QUOTA.
  absl::StatusOr<std::optional<uint32_t>> TakeOwner(shm::RegionRights rights, uint32_t uid,
                                                    shm::EndpointId endpoint,
                                                    uint32_t grant_number);
  // Its attachment is over.
  void LeaveOwner(uint32_t owner);
  // Settles what owners left unfinished. True when nothing is left to settle.
  bool ReapOwners();

  // How one endpoint writes a mediated ring, whose mutex is held: for one batch.
  RecordSink SinkFor(shm::EndpointId writer, uint64_t tag, int64_t now_ns);

  // The ring's books are the sum over all its writers; these are this buffer's share of them.
  void Count(shm::EndpointId endpoint, const shm::Ledger& more);
  void CountStored(shm::EndpointId endpoint, uint64_t bytes);
  void CountRejected(shm::EndpointId endpoint, shm::LossCause cause, uint64_t bytes);
  const shm::Ledger& ledger_of(shm::EndpointId endpoint) const {
    return by_endpoint_[static_cast<size_t>(endpoint)];
  }

  // Stores a blob on behalf of an endpoint. REGION_FULL, INTEGRITY, BUSY.
  absl::StatusOr<uint32_t> AllocateId(std::span<const std::byte> blob);

  // In address order; empty without a map right. `owner`: as TakeOwner gave it.
  std::vector<SectionPlan> SectionsFor(shm::RegionRights rights,
                                       std::optional<uint32_t> owner = std::nullopt) const;
  // All sections, for asking whether grants are held.
  std::vector<const shm::SealedMemfd*> Sections() const;
  // Where the locks of an endpoint's grants are.
  shm::GrantRange GrantRangeOf(shm::EndpointId endpoint) const {
    return shm::GrantRange(endpoint, user_);
  }

  // How strongly a holder with `rights`, running as `holder_uid`, is kept to them by a broker that
  // runs as `broker_uid`.
  v1::Enforcement EnforcementFor(shm::RegionRights rights, uint32_t holder_uid,
                                 uint32_t broker_uid) const;

 private:
  // The last one: the memory is the shared region's.
  using Memory = std::variant<PlainMemory, MediatedRing, SealedIds, SharedIds,
                              std::unique_ptr<DirectRing>, std::monostate>;
  Region(const RegionSpec& spec, Koid koid, uint64_t user, Memory memory)
      : spec_(spec), koid_(koid), user_(user), memory_(std::move(memory)) {}
  // Strictly so placed, or an error about one item (shm::FailedItem).
  static absl::StatusOr<Region> Make(const RegionSpec& spec, Koid koid,
                                     const shm::Placement& placement);

  RegionSpec spec_;
  Koid koid_;
  uint64_t user_;
  Memory memory_;
  v1::ObtainedPlacement placement_;
  std::array<shm::Ledger, 2> by_endpoint_;
  std::array<shm::WriterBudget, 2> budgets_;
};

// The shared region that a handle leads to: BAD_HANDLE, WRONG_OBJECT.
using SharedRegionLookup = absl::FunctionRef<absl::StatusOr<SharedRegion*>(const Token&)>;

// Checks one region against the model's rules, in Zircon's order (zx_iob_create), and rounds its
// size up to pages; a shared region gets its object and its size. `index` names it in errors.
absl::StatusOr<RegionSpec> ValidateRegionSpec(RegionSpec spec, size_t index, const Limits& limits,
                                              SharedRegionLookup find_shared);

// Sections, and so descriptors, that a region of this kind has.
uint64_t SectionsOf(const RegionSpec& spec);

// Bytes of memory that a region of this kind takes, before it is made. A shared region is charged
// to whoever made it.
uint64_t MemoryBytesFor(const RegionSpec& spec);

}  // namespace iob::server
