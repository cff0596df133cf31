#include "server/buffer.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/grant_lock.h"
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

absl::Status CheckNone(const RegionSpec& spec, size_t index) {
  if (spec.access.any_mediated()) {
    return BadRegion(index, "discipline none has no mediated operations; drop the mediated bits");
  }
  if (!spec.access.any_map_write()) {
    return BadRegion(index, "no endpoint may map-write, so nobody could ever put a byte in");
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

// Memory that can be written can be read on this hardware (and mmap wants O_RDWR for it): granting
// the one alone would hand out the other unasked.
absl::Status CheckWriteImpliesRead(const RegionSpec& spec, size_t index) {
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    const RegionRights rights = spec.access.For(endpoint);
    if (rights.map_write() && !rights.map_read()) {
      return BadRegion(index,
                       "map-write without map-read cannot be enforced on Linux; ask for both");
    }
  }
  return absl::OkStatus();
}

// A holder of a writable descriptor could otherwise add F_SEAL_FUTURE_WRITE, and so take from the
// other endpoint the right to map for writing.
absl::Status SealAgainstSeals(const shm::SealedMemfd& memfd) {
  if (::fcntl(memfd.fd(), F_ADD_SEALS, F_SEAL_SEAL) != 0)
    return shm::ErrnoStatus(errno, "F_ADD_SEALS SEAL of a section");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RegionSpec> ValidateRegionSpec(RegionSpec spec, size_t index, const Limits& limits) {
  if (spec.type == v1::REGION_TYPE_SHARED) {
    return MakeError(v1::ERROR_REASON_UNSUPPORTED,
                     absl::StrCat("regions[", index, "]: shared regions are not offered yet"));
  }
  if (spec.type != v1::REGION_TYPE_PRIVATE) return BadRegion(index, "type is missing or unknown");
  if (spec.size_bytes > limits.region_bytes_max) {
    return MakeError(v1::ERROR_REASON_OUT_OF_RANGE,
                     absl::StrCat("regions[", index, "].size_bytes: ", spec.size_bytes,
                                  ", at most ", limits.region_bytes_max, " are allowed"));
  }
  if (!spec.access.valid()) {
    return BadRegion(index, absl::StrCat("access_bits ", spec.access.bits(),
                                         ": only the low eight bits have a meaning"));
  }
  if (!spec.access.useful()) {
    return BadRegion(index, absl::StrCat("access_bits ", spec.access.bits(),
                                         " give no endpoint a way to put anything in"));
  }
  IOB_RETURN_IF_ERROR(CheckWriteImpliesRead(spec, index));
  if (!v1::Enforcement_IsValid(spec.required_enforcement)) {
    return BadRegion(index, "required_enforcement is unknown");
  }
  spec.size_bytes = shm::RoundUpToPages(spec.size_bytes);
  switch (spec.discipline) {
    case v1::DISCIPLINE_NONE:
      IOB_RETURN_IF_ERROR(CheckNone(spec, index));
      return spec;
    case v1::DISCIPLINE_MEDIATED_RING:
      IOB_RETURN_IF_ERROR(CheckMediatedRing(spec, index));
      return spec;
    case v1::DISCIPLINE_ID_ALLOCATOR:
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

uint64_t MemoryBytesFor(const RegionSpec& spec) {
  // A ring's ledger page comes on top of the region.
  return spec.discipline == v1::DISCIPLINE_MEDIATED_RING ? spec.size_bytes + shm::PageBytes()
                                                         : spec.size_bytes;
}

absl::StatusOr<Region> Region::Create(const RegionSpec& spec, Koid koid) {
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING) {
    IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout, shm::RingLayout::ForRegion(spec.size_bytes));
    IOB_ASSIGN_OR_RETURN(shm::MediatedRingWriter writer, shm::MediatedRingWriter::Create(layout));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(writer.head_memfd()));
    return Region(spec, koid,
                  MediatedRing{.writer = std::move(writer), .ledger = {}, .by_endpoint = {}});
  }
  PlainMemory memory;
  if (spec.size_bytes != 0) {
    IOB_ASSIGN_OR_RETURN(shm::Memfd fresh, shm::Memfd::Create("iob-region"));
    IOB_ASSIGN_OR_RETURN(memory.data, std::move(fresh).SealSize(spec.size_bytes));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*memory.data));
  }
  return Region(spec, koid, std::move(memory));
}

uint64_t Region::memory_bytes() const { return MemoryBytesFor(spec_); }

std::vector<SectionPlan> Region::SectionsFor(RegionRights rights) const {
  if (!rights.may_map()) return {};
  const FdMode mode = rights.map_write() ? FdMode::kReadWrite : FdMode::kReadOnly;
  if (const MediatedRing* mediated = ring()) {
    return {{.kind = v1::SECTION_KIND_HEAD, .memfd = &mediated->writer.head_memfd(), .mode = mode},
            {.kind = v1::SECTION_KIND_DATA,
             .memfd = &mediated->writer.data_memfd(),
             .mode = FdMode::kReadOnly}};
  }
  const auto& data = std::get<PlainMemory>(memory_).data;
  if (!data) return {};
  return {{.kind = v1::SECTION_KIND_DATA, .memfd = &*data, .mode = mode}};
}

std::vector<const shm::SealedMemfd*> Region::Sections() const {
  if (const MediatedRing* mediated = ring()) {
    return {&mediated->writer.head_memfd(), &mediated->writer.data_memfd()};
  }
  const auto& data = std::get<PlainMemory>(memory_).data;
  if (!data) return {};
  return {&*data};
}

v1::Enforcement Region::EnforcementFor(RegionRights rights, uint32_t holder_uid,
                                       uint32_t broker_uid) const {
  if (!rights.may_map()) return v1::ENFORCEMENT_MEDIATED;
  // With both map rights there is nothing to withhold in plain memory; a ring's consumer is kept
  // from its data by the seal, and owns HEAD.
  if (rights.map_write()) return v1::ENFORCEMENT_SEALED;
  // Read-only on a section that somebody else writes through a descriptor of his own (HEAD, or
  // plain memory): only file modes keep this holder from reopening it.
  const bool modes_bind = holder_uid != 0 && holder_uid != broker_uid;
  return modes_bind ? v1::ENFORCEMENT_DAC : v1::ENFORCEMENT_ADVISORY;
}

bool Buffer::AnyGrantHeld(EndpointId id) const {
  if (endpoint(id).grants_made == 0) return false;
  const auto held = [id](const shm::SealedMemfd& memfd) {
    // A question that fails is answered with "held": PEER_CLOSED must never be wrong.
    return shm::AnyGrantHeld(memfd.fd(), id).value_or(true);
  };
  if (held(signal_.memfd())) return true;
  return std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
    const auto sections = region.Sections();
    return std::any_of(sections.begin(), sections.end(),
                       [&](const auto* memfd) { return held(*memfd); });
  });
}

}  // namespace iob::server
