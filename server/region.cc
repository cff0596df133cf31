#include "server/region.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/check.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using shm::FdMode;
using shm::RegionRights;

absl::Status BadRegion(size_t index, absl::string_view message) {
  return BadArgument(absl::StrCat("regions[", index, "]"), message);
}

absl::Status RegionTooLarge(size_t index, uint64_t size_bytes, uint64_t limit) {
  return MakeError(v1::ERROR_REASON_OUT_OF_RANGE,
                   absl::StrCat("regions[", index, "].size_bytes: ", size_bytes, ", at most ",
                                limit, " are allowed"));
}

absl::Status CheckNone(const RegionSpec& spec, size_t index) {
  if (spec.type == v1::REGION_TYPE_SHARED)
    return BadRegion(index, "a shared region needs a discipline; mediated ring is the one");
  if (spec.access.any_mediated()) {
    return BadRegion(index, "discipline none has no mediated operations; drop the mediated bits");
  }
  if (!spec.access.any_map_write()) {
    return BadRegion(index, "no endpoint may map-write, so nobody could ever put a byte in");
  }
  return absl::OkStatus();
}

absl::Status CheckIdAllocator(const RegionSpec& spec, size_t index) {
  if (spec.type == v1::REGION_TYPE_SHARED)
    return BadRegion(index, "an id allocator cannot be shared between buffers");
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    const RegionRights rights = spec.access.For(endpoint);
    if (rights.mediated_read() && !rights.mediated_write()) {
      return BadRegion(index, "an id allocator has no mediated-read without mediated-write");
    }
  }
  const auto layout = shm::IdAllocatorLayout::ForRegion(spec.size_bytes);
  if (absl::IsOutOfRange(layout.status()))
    return RegionTooLarge(index, spec.size_bytes, UINT32_MAX - (shm::PageBytes() - 1));
  if (!layout.ok()) return BadRegion(index, layout.status().message());
  if (spec.interned_blobs_max > shm::InternTable::kEntriesMax) {
    return BadRegion(index,
                     absl::StrCat("interned_blobs_max: ", spec.interned_blobs_max, ", at most ",
                                  shm::InternTable::kEntriesMax, " are allowed"));
  }
  if (spec.interned_blobs_max != 0 && spec.access.any_map_write()) {
    return BadRegion(index,
                     "interned_blobs_max: with an endpoint that may map-write, stored blobs can "
                     "change, and equal ones cannot be told");
  }
  return absl::OkStatus();
}

absl::Status CheckMediatedRing(const RegionSpec& spec, size_t index) {
  const auto layout = shm::RingLayout::ForRegion(spec.size_bytes);
  if (!layout.ok()) {
    return absl::IsOutOfRange(layout.status())
               ? MakeError(v1::ERROR_REASON_OUT_OF_RANGE, layout.status().message())
               : BadRegion(index, layout.status().message());
  }
  return absl::OkStatus();
}

absl::Status CheckDiscipline(const RegionSpec& spec, size_t index) {
  if (spec.interned_blobs_max != 0 && spec.discipline != v1::DISCIPLINE_ID_ALLOCATOR)
    return BadRegion(index, "interned_blobs_max is for id allocators");
  switch (spec.discipline) {
    case v1::DISCIPLINE_NONE:
      return CheckNone(spec, index);
    case v1::DISCIPLINE_ID_ALLOCATOR:
      return CheckIdAllocator(spec, index);
    case v1::DISCIPLINE_MEDIATED_RING:
      return CheckMediatedRing(spec, index);
    case v1::DISCIPLINE_RESERVE_RING:
    case v1::DISCIPLINE_BROADCAST:
    case v1::DISCIPLINE_SLOT:
      return MakeError(v1::ERROR_REASON_UNSUPPORTED,
                       absl::StrCat("regions[", index, "]: discipline ",
                                    v1::Discipline_Name(spec.discipline), " is not offered yet"));
    case v1::DISCIPLINE_UNSPECIFIED:
    case v1::Discipline_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::Discipline_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return BadRegion(index, "discipline is missing or unknown");
}

// Memory that can be written can be read on this hardware (and mmap wants O_RDWR for it): granting
// the one alone would hand out the other unasked.
absl::Status CheckAccess(const RegionSpec& spec, size_t index) {
  if (!spec.access.valid()) {
    return BadRegion(index, absl::StrCat("access_bits ", spec.access.bits(),
                                         ": only the low eight bits have a meaning"));
  }
  if (!spec.access.useful()) {
    return BadRegion(index, absl::StrCat("access_bits ", spec.access.bits(),
                                         " give no endpoint a way to put anything in"));
  }
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    const RegionRights rights = spec.access.For(endpoint);
    if (rights.map_write() && !rights.map_read()) {
      return BadRegion(index,
                       "map-write without map-read cannot be enforced on Linux; ask for both");
    }
  }
  return absl::OkStatus();
}

// Type, object and size.
absl::Status ResolveShared(RegionSpec& spec, size_t index, SharedRegionLookup find_shared) {
  if (spec.size_bytes != 0) {
    return BadRegion(index, absl::StrCat("size_bytes: ", spec.size_bytes,
                                         "; a shared region has a size already, give 0"));
  }
  if (spec.malformed_handle_bytes != 0) {
    return BadArgument(
        absl::StrCat("regions[", index, "].shared_region"),
        absl::StrCat(spec.malformed_handle_bytes, " bytes, a handle has ", Token::kBytes));
  }
  if (!spec.shared_handle) {
    return MakeError(v1::ERROR_REASON_BAD_HANDLE,
                     absl::StrCat("regions[", index, "].shared_region: no handle"));
  }
  IOB_ASSIGN_OR_RETURN(spec.shared, find_shared(*spec.shared_handle));
  spec.size_bytes = spec.shared->size_bytes();
  if (spec.shared->usable()) return absl::OkStatus();
  return BadRegion(index, absl::StrCat("a shared region of ", spec.size_bytes,
                                       " bytes has no room for records; it needs two pages"));
}

absl::Status ResolvePrivate(RegionSpec& spec, size_t index, const Limits& limits) {
  if (spec.size_bytes > limits.region_bytes_max)
    return RegionTooLarge(index, spec.size_bytes, limits.region_bytes_max);
  if (spec.shared_handle || spec.malformed_handle_bytes != 0)
    return BadRegion(index, "shared_region is for regions of type shared");
  spec.size_bytes = shm::RoundUpToPages(spec.size_bytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status SealAgainstSeals(const shm::SealedMemfd& memfd) {
  if (::fcntl(memfd.fd(), F_ADD_SEALS, F_SEAL_SEAL) != 0)
    return shm::ErrnoStatus(errno, "F_ADD_SEALS SEAL of a section");
  return absl::OkStatus();
}

absl::StatusOr<MediatedRing> MakeMediatedRing(uint64_t size_bytes) {
  IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout, shm::RingLayout::ForRegion(size_bytes));
  IOB_ASSIGN_OR_RETURN(shm::MediatedRingWriter writer, shm::MediatedRingWriter::Create(layout));
  IOB_RETURN_IF_ERROR(SealAgainstSeals(writer.head_memfd()));
  return MediatedRing{.writer = std::move(writer), .ledger = {}};
}

absl::StatusOr<RegionSpec> ValidateRegionSpec(RegionSpec spec, size_t index, const Limits& limits,
                                              SharedRegionLookup find_shared) {
  switch (spec.type) {
    case v1::REGION_TYPE_PRIVATE:
      IOB_RETURN_IF_ERROR(ResolvePrivate(spec, index, limits));
      break;
    case v1::REGION_TYPE_SHARED:
      IOB_RETURN_IF_ERROR(ResolveShared(spec, index, find_shared));
      break;
    case v1::REGION_TYPE_UNSPECIFIED:
    case v1::RegionType_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::RegionType_INT_MAX_SENTINEL_DO_NOT_USE_:
    default:
      return BadRegion(index, "type is missing or unknown");
  }
  IOB_RETURN_IF_ERROR(CheckAccess(spec, index));
  IOB_RETURN_IF_ERROR(CheckDiscipline(spec, index));
  if (!v1::Enforcement_IsValid(spec.required_enforcement))
    return BadRegion(index, "required_enforcement is unknown");
  return spec;
}

uint64_t SectionsOf(const RegionSpec& spec) {
  if (spec.shared != nullptr || spec.size_bytes == 0) return 0;
  return spec.discipline == v1::DISCIPLINE_MEDIATED_RING ? 2 : 1;
}

uint64_t MemoryBytesFor(const RegionSpec& spec) {
  if (spec.shared != nullptr) return 0;
  // A ring's ledger page comes on top of the region, and so does what interning remembers.
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING) return spec.size_bytes + shm::PageBytes();
  return spec.size_bytes + spec.interned_blobs_max * sizeof(shm::InternTable::Entry);
}

absl::StatusOr<Region> Region::Create(const RegionSpec& spec, Koid koid) {
  if (spec.shared != nullptr) {
    return Region(spec, spec.shared->koid(), spec.shared->NewUserNumber(), std::monostate());
  }
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING) {
    IOB_ASSIGN_OR_RETURN(MediatedRing ring, MakeMediatedRing(spec.size_bytes));
    return Region(spec, koid, 0, std::move(ring));
  }
  if (spec.discipline == v1::DISCIPLINE_ID_ALLOCATOR) {
    IOB_ASSIGN_OR_RETURN(const shm::IdAllocatorLayout layout,
                         shm::IdAllocatorLayout::ForRegion(spec.size_bytes));
    if (spec.access.any_map_write()) {
      IOB_ASSIGN_OR_RETURN(auto made, shm::IdAllocatorSharedWriter::Create(layout));
      IOB_RETURN_IF_ERROR(SealAgainstSeals(made.first));
      return Region(spec, koid, 0, SharedIds(std::move(made.first), std::move(made.second)));
    }
    IOB_ASSIGN_OR_RETURN(
        shm::IdAllocatorSealedWriter writer,
        shm::IdAllocatorSealedWriter::Create(layout, {.interned_max = spec.interned_blobs_max}));
    return Region(spec, koid, 0, SealedIds{.writer = std::move(writer)});
  }
  PlainMemory memory;
  if (spec.size_bytes != 0) {
    IOB_ASSIGN_OR_RETURN(shm::Memfd fresh, shm::Memfd::Create("iob-region"));
    IOB_ASSIGN_OR_RETURN(memory.data, std::move(fresh).SealSize(spec.size_bytes));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*memory.data));
  }
  return Region(spec, koid, 0, std::move(memory));
}

MediatedRing* Region::ring() {
  return spec_.shared != nullptr ? spec_.shared->ring() : std::get_if<MediatedRing>(&memory_);
}

void Region::CountStored(EndpointId endpoint, uint64_t bytes) {
  ring()->ledger.CountStored(bytes);
  by_endpoint_[static_cast<size_t>(endpoint)].CountStored(bytes);
}

void Region::CountRejected(EndpointId endpoint, shm::LossCause cause, uint64_t bytes) {
  ring()->ledger.CountRejected(cause, bytes);
  by_endpoint_[static_cast<size_t>(endpoint)].CountRejected(cause, bytes);
}

absl::StatusOr<uint32_t> Region::AllocateId(std::span<const std::byte> blob) {
  uint32_t id = 0;
  shm::AllocateOutcome outcome = shm::AllocateOutcome::kOutOfMemory;
  if (SealedIds* const sealed = sealed_ids()) {
    outcome = sealed->writer.Allocate(blob, &id);
  } else if (SharedIds* const shared = shared_ids()) {
    outcome = shared->writer().Allocate(blob, &id);
  }
  const absl::Status status = shm::StatusOf(outcome);
  if (status.ok()) return id;
  v1::ErrorReason reason = v1::ERROR_REASON_INTEGRITY;
  if (outcome == shm::AllocateOutcome::kOutOfMemory) reason = v1::ERROR_REASON_REGION_FULL;
  if (outcome == shm::AllocateOutcome::kBusy) reason = v1::ERROR_REASON_BUSY;
  return MakeError(reason, absl::StrCat("a blob of ", blob.size(), " bytes: ", status.message()));
}

std::vector<SectionPlan> Region::SectionsFor(RegionRights rights) const {
  if (!rights.may_map()) return {};
  const FdMode mode = rights.map_write() ? FdMode::kReadWrite : FdMode::kReadOnly;
  if (const MediatedRing* mediated = ring()) {
    return {{.kind = v1::SECTION_KIND_HEAD, .memfd = &mediated->writer.head_memfd(), .mode = mode},
            {.kind = v1::SECTION_KIND_DATA,
             .memfd = &mediated->writer.data_memfd(),
             .mode = FdMode::kReadOnly}};
  }
  const auto sections = Sections();
  if (sections.empty()) return {};
  return {{.kind = v1::SECTION_KIND_DATA, .memfd = sections.front(), .mode = mode}};
}

std::vector<const shm::SealedMemfd*> Region::Sections() const {
  if (const MediatedRing* mediated = ring()) {
    return {&mediated->writer.head_memfd(), &mediated->writer.data_memfd()};
  }
  if (const SealedIds* sealed = sealed_ids()) return {&sealed->writer.memfd()};
  if (const SharedIds* shared = shared_ids()) return {&shared->memfd()};
  const auto& data = std::get<PlainMemory>(memory_).data;
  if (!data) return {};
  return {&*data};
}

v1::Enforcement Region::EnforcementFor(RegionRights rights, uint32_t holder_uid,
                                       uint32_t broker_uid) const {
  if (!rights.may_map()) return v1::ENFORCEMENT_MEDIATED;
  // With both map rights there is nothing to withhold in plain memory; a ring's consumer is kept
  // from its data by the seal, and owns HEAD. Ids that only the broker writes are sealed.
  if (rights.map_write() || sealed_ids() != nullptr) return v1::ENFORCEMENT_SEALED;
  // Read-only on a section that somebody else writes through a descriptor of his own (HEAD, or
  // plain memory): only file modes keep this holder from reopening it.
  const bool modes_bind = holder_uid != 0 && holder_uid != broker_uid;
  return modes_bind ? v1::ENFORCEMENT_DAC : v1::ENFORCEMENT_ADVISORY;
}

}  // namespace iob::server
