// Region: one range of memory of a buffer: private, or a use of a shared region.
//
// What it hands out follows from its access bits and the handle's rights alone; a handle can only
// take away. Geometry never changes after construction.
//
// Values and rules only: nothing here knows sockets, callers or time. Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "iob/v1/types.pb.h"
#include "server/holder.h"
#include "server/limits.h"
#include "server/region_memory.h"
#include "server/shared_region.h"
#include "server/token.h"
#include "shm/access.h"
#include "shm/grant_lock.h"
#include "shm/memfd.h"

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
  SharedRegion* shared = nullptr;
};

// One descriptor that an endpoint is to get.
struct SectionPlan {
  v1::SectionKind kind = v1::SECTION_KIND_UNSPECIFIED;
  const shm::SealedMemfd* memfd = nullptr;
  shm::FdMode mode = shm::FdMode::kReadOnly;
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
  uint64_t user() const { return user_; }

  // nullptr for other disciplines.
  MediatedRing* ring();
  const MediatedRing* ring() const { return const_cast<Region*>(this)->ring(); }
  SharedIds* shared_ids() { return std::get_if<SharedIds>(&memory_); }
  const SharedIds* shared_ids() const { return std::get_if<SharedIds>(&memory_); }
  SealedIds* sealed_ids() { return std::get_if<SealedIds>(&memory_); }
  const SealedIds* sealed_ids() const { return std::get_if<SealedIds>(&memory_); }

  // The ring's books are the sum over all its writers; these are this buffer's share of them.
  void CountStored(shm::EndpointId endpoint, uint64_t bytes);
  void CountRejected(shm::EndpointId endpoint, shm::LossCause cause, uint64_t bytes);
  const shm::Ledger& ledger_of(shm::EndpointId endpoint) const {
    return by_endpoint_[static_cast<size_t>(endpoint)];
  }

  // Stores a blob on behalf of an endpoint. REGION_FULL, INTEGRITY, BUSY.
  absl::StatusOr<uint32_t> AllocateId(std::span<const std::byte> blob);

  // In address order; empty without a map right.
  std::vector<SectionPlan> SectionsFor(shm::RegionRights rights) const;
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
  using Memory = std::variant<PlainMemory, MediatedRing, SealedIds, SharedIds, std::monostate>;
  Region(const RegionSpec& spec, Koid koid, uint64_t user, Memory memory)
      : spec_(spec), koid_(koid), user_(user), memory_(std::move(memory)) {}

  RegionSpec spec_;
  Koid koid_;
  uint64_t user_;
  Memory memory_;
  std::array<shm::Ledger, 2> by_endpoint_;
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
