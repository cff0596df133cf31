#include "server/region.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/limits.h"
#include "shm/check.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/ring_layout.h"
#include "shm/section.h"

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

shm::RingOptions RingOptionsOf(const v1::MediatedRingOptions& mediated) {
  shm::RingOptions options{.policy = shm::RingPolicy::kDropNew,
                           .gap_records = mediated.gap_records(),
                           .stamped = mediated.stamped(),
                           .followers = mediated.followers()};
  if (mediated.policy() == v1::RING_POLICY_OVERWRITE_OLDEST)
    options.policy = shm::RingPolicy::kOverwriteOldest;
  if (mediated.policy() == v1::RING_POLICY_BLOCK) options.policy = shm::RingPolicy::kBlock;
  return options;
}

shm::BudgetLimits BudgetOf(const v1::MediatedRingOptions& mediated) {
  return {.records_max = mediated.writer_records_max(), .bytes_max = mediated.writer_bytes_max()};
}

absl::Status CheckMediatedOptions(const RegionSpec& spec, size_t index) {
  const v1::MediatedRingOptions& mediated = spec.mediated;
  if (!v1::RingPolicy_IsValid(mediated.policy()))
    return BadRegion(index, "mediated_ring.policy is unknown");
  const bool blocks = mediated.policy() == v1::RING_POLICY_BLOCK;
  if (blocks != (mediated.block_ms() != 0)) {
    return BadRegion(index,
                     "mediated_ring.block_ms goes with policy BLOCK, and must be given then");
  }
  if (mediated.block_ms() > kWriteWaitMsMax) {
    return BadRegion(index, absl::StrCat("mediated_ring.block_ms: ", mediated.block_ms(),
                                         ", at most ", kWriteWaitMsMax, " are allowed"));
  }
  if (mediated.gap_records() && spec.tag == shm::kGapTag)
    return BadRegion(index, "tag: 2^64 - 1 marks gap records");
  if (spec.type == v1::REGION_TYPE_SHARED && mediated.ByteSizeLong() != 0)
    return BadRegion(index, "mediated_ring: a shared region's ring was made with its object");
  constexpr uint64_t kBudgetRecordsMax = uint64_t{1} << 24;
  if (mediated.writer_records_max() > kBudgetRecordsMax) {
    return BadRegion(
        index, absl::StrCat("mediated_ring.writer_records_max: ", mediated.writer_records_max(),
                            ", at most ", kBudgetRecordsMax, " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status CheckMediatedRing(const RegionSpec& spec, size_t index) {
  IOB_RETURN_IF_ERROR(CheckMediatedOptions(spec, index));
  const auto layout = shm::RingLayout::ForRegion(spec.size_bytes);
  if (!layout.ok()) {
    return absl::IsOutOfRange(layout.status())
               ? MakeError(v1::ERROR_REASON_OUT_OF_RANGE, layout.status().message())
               : BadRegion(index, layout.status().message());
  }
  return absl::OkStatus();
}

// One endpoint writes, the other reads: in these rings the roles follow from the access bits.
absl::Status CheckDirectAccess(const RegionSpec& spec, size_t index) {
  if (spec.type == v1::REGION_TYPE_SHARED) {
    return BadRegion(index,
                     absl::StrCat("a region of discipline ", v1::Discipline_Name(spec.discipline),
                                  " cannot be shared between buffers"));
  }
  if (spec.access.any_mediated()) {
    return BadRegion(index, "its records do not pass through the broker; drop the mediated bits");
  }
  const RegionRights ep0 = spec.access.For(EndpointId::kEp0);
  const RegionRights ep1 = spec.access.For(EndpointId::kEp1);
  if (ep0.map_write() != ep1.map_write() && ep0.map_read() && ep1.map_read())
    return absl::OkStatus();
  return BadRegion(index, absl::StrCat("access_bits ", spec.access.bits(),
                                       ": one endpoint must map-read and map-write, and so "
                                       "produce, the other one only map-read, and so consume"));
}

absl::Status CheckDirect(RegionSpec& spec, size_t index) {
  IOB_RETURN_IF_ERROR(CheckDirectAccess(spec, index));
  DirectRingSpec direct = DirectSpecOf(spec);
  const absl::Status checked = CheckDirectRing(direct);
  if (absl::IsOutOfRange(checked)) {
    return MakeError(v1::ERROR_REASON_OUT_OF_RANGE,
                     absl::StrCat("regions[", index, "]: ", checked.message()));
  }
  if (!checked.ok()) return BadRegion(index, checked.message());
  spec.size_bytes = shm::RoundUpToPages(direct.size_bytes);
  if (spec.discipline == v1::DISCIPLINE_RESERVE_RING) spec.reserve = direct.reserve;
  spec.slot_value_bytes = direct.slot_value_bytes;
  return absl::OkStatus();
}

absl::Status CheckOptions(const RegionSpec& spec, size_t index) {
  if (spec.reserve && spec.discipline != v1::DISCIPLINE_RESERVE_RING)
    return BadRegion(index, "reserve_ring is for reserve rings");
  if (spec.mediated.ByteSizeLong() != 0 && spec.discipline != v1::DISCIPLINE_MEDIATED_RING)
    return BadRegion(index, "mediated_ring is for mediated rings");
  if (spec.slot_value_bytes != 0 && spec.discipline != v1::DISCIPLINE_SLOT)
    return BadRegion(index, "slot_value_bytes is for slots");
  return absl::OkStatus();
}

absl::Status CheckDiscipline(RegionSpec& spec, size_t index) {
  IOB_RETURN_IF_ERROR(CheckOptions(spec, index));
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
      return CheckDirect(spec, index);
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

DirectRingSpec DirectSpecOf(const RegionSpec& spec) {
  return {.discipline = spec.discipline,
          .size_bytes = spec.size_bytes,
          .reserve = spec.reserve.value_or(v1::ReserveRingOptions()),
          .slot_value_bytes = spec.slot_value_bytes,
          .placement = {}};
}

absl::Status SealAgainstSeals(const shm::SealedMemfd& memfd) {
  if (::fcntl(memfd.fd(), F_ADD_SEALS, F_SEAL_SEAL) != 0)
    return shm::ErrnoStatus(errno, "F_ADD_SEALS SEAL of a section");
  return absl::OkStatus();
}

absl::StatusOr<MediatedRing> MakeMediatedRing(uint64_t size_bytes, const shm::RingOptions& options,
                                              const shm::Placement& placement) {
  IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout, shm::RingLayout::ForRegion(size_bytes));
  IOB_ASSIGN_OR_RETURN(shm::MediatedRingWriter writer,
                       shm::MediatedRingWriter::Create(layout, options, placement));
  IOB_RETURN_IF_ERROR(SealAgainstSeals(writer.head_memfd()));
  if (writer.follow_memfd() != nullptr)
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*writer.follow_memfd()));
  return MediatedRing{.writer = std::move(writer)};
}

absl::StatusOr<PlacedRing> MakePlacedRing(uint64_t size_bytes, const v1::Placement& wish) {
  PlacementPlan plan(wish);
  absl::StatusOr<MediatedRing> made = MakeMediatedRing(size_bytes, {}, plan.now());
  while (!made.ok()) {
    IOB_RETURN_IF_ERROR(plan.FallBack(made.status()));
    made = MakeMediatedRing(size_bytes, {}, plan.now());
  }
  const std::array sections = {&made->writer.head_memfd(), &made->writer.data_memfd()};
  IOB_ASSIGN_OR_RETURN(v1::ObtainedPlacement placement, plan.Measure(sections));
  return PlacedRing{.ring = std::move(*made), .placement = std::move(placement)};
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
  IOB_RETURN_IF_ERROR(
      CheckPlacement(spec.placement, {.argument = absl::StrCat("regions[", index, "]"),
                                      .discipline = spec.discipline,
                                      .size_bytes = spec.size_bytes,
                                      .shared = spec.shared != nullptr}));
  return spec;
}

uint64_t SectionsOf(const RegionSpec& spec) {
  if (spec.shared != nullptr || spec.size_bytes == 0) return 0;
  if (spec.direct()) return DirectRingSections(DirectSpecOf(spec));
  if (spec.discipline != v1::DISCIPLINE_MEDIATED_RING) return 1;
  return spec.mediated.followers() ? 3 : 2;
}

namespace {

// What a writer's budget remembers: 16 bytes for each record that it may have in the ring.
uint64_t BudgetBytes(const RegionSpec& spec) {
  const uint64_t by_bytes = spec.mediated.writer_bytes_max() / shm::kRecordHeaderBytes;
  const uint64_t by_records = spec.mediated.writer_records_max();
  uint64_t records = std::max(by_bytes, by_records);
  if (by_bytes != 0 && by_records != 0) records = std::min(by_bytes, by_records);
  return 16 * std::min(records, spec.size_bytes / shm::kRecordHeaderBytes);
}

}  // namespace

uint64_t MemoryBytesFor(const RegionSpec& spec) {
  if (spec.shared != nullptr) return 0;
  if (spec.direct()) return DirectRingMemoryBytes(DirectSpecOf(spec));
  // A ring's ledger page comes on top of the region, and so does what interning remembers.
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING) {
    const uint64_t extra_pages = spec.mediated.followers() ? 2 : 1;
    return spec.size_bytes + extra_pages * shm::PageBytes() + 2 * BudgetBytes(spec);
  }
  return spec.size_bytes + spec.interned_blobs_max * sizeof(shm::InternTable::Entry);
}

absl::StatusOr<Region> Region::Create(const RegionSpec& spec, Koid koid) {
  if (spec.shared != nullptr) {
    return Region(spec, spec.shared->koid(), spec.shared->NewUserNumber(), std::monostate());
  }
  PlacementPlan plan(spec.placement);
  absl::StatusOr<Region> made = Make(spec, koid, plan.now());
  while (!made.ok()) {
    IOB_RETURN_IF_ERROR(plan.FallBack(made.status()));
    made = Make(spec, koid, plan.now());
  }
  IOB_ASSIGN_OR_RETURN(made->placement_, plan.Measure(made->Sections()));
  return made;
}

absl::StatusOr<Region> Region::Make(const RegionSpec& spec, Koid koid,
                                    const shm::Placement& placement) {
  if (spec.discipline == v1::DISCIPLINE_MEDIATED_RING) {
    IOB_ASSIGN_OR_RETURN(
        MediatedRing ring,
        MakeMediatedRing(spec.size_bytes, RingOptionsOf(spec.mediated), placement));
    const shm::RingLayout layout = ring.writer.layout();
    Region region(spec, koid, 0, std::move(ring));
    for (shm::WriterBudget& budget : region.budgets_)
      budget = shm::WriterBudget(BudgetOf(spec.mediated), layout);
    return region;
  }
  if (spec.discipline == v1::DISCIPLINE_ID_ALLOCATOR) {
    IOB_ASSIGN_OR_RETURN(const shm::IdAllocatorLayout layout,
                         shm::IdAllocatorLayout::ForRegion(spec.size_bytes));
    if (spec.access.any_map_write()) {
      IOB_ASSIGN_OR_RETURN(auto made, shm::IdAllocatorSharedWriter::Create(layout, placement));
      IOB_RETURN_IF_ERROR(SealAgainstSeals(made.first));
      return Region(spec, koid, 0, SharedIds(std::move(made.first), std::move(made.second)));
    }
    IOB_ASSIGN_OR_RETURN(
        shm::IdAllocatorSealedWriter writer,
        shm::IdAllocatorSealedWriter::Create(
            layout, {.interned_max = spec.interned_blobs_max, .placement = placement}));
    return Region(spec, koid, 0, SealedIds{.writer = std::move(writer)});
  }
  if (spec.direct()) {
    DirectRingSpec direct_spec = DirectSpecOf(spec);
    direct_spec.placement = placement;
    IOB_ASSIGN_OR_RETURN(std::unique_ptr<DirectRing> direct, DirectRing::Create(direct_spec));
    return Region(spec, koid, 0, std::move(direct));
  }
  PlainMemory memory;
  if (spec.size_bytes != 0) {
    IOB_ASSIGN_OR_RETURN(memory.data, shm::MakeSection("iob-region", spec.size_bytes, placement));
    IOB_RETURN_IF_ERROR(SealAgainstSeals(*memory.data));
  }
  return Region(spec, koid, 0, std::move(memory));
}

MediatedRing* Region::ring() {
  return spec_.shared != nullptr ? spec_.shared->ring() : std::get_if<MediatedRing>(&memory_);
}

RecordSink Region::SinkFor(EndpointId writer, uint64_t tag, int64_t now_ns) {
  return {.writer = &ring()->writer,
          .budget = &budgets_[static_cast<size_t>(writer)],
          .tag = tag,
          .now_ns = now_ns};
}

void Region::Count(EndpointId endpoint, const shm::Ledger& more) {
  ring()->ledger.Add(more);
  by_endpoint_[static_cast<size_t>(endpoint)].Add(more);
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

bool Region::Reads(RegionRights rights) const {
  if (direct() != nullptr) return rights.map_read() && !rights.map_write();
  return ring() != nullptr &&
         (rights.map_write() || (spec_.mediated.followers() && rights.map_read()));
}

absl::StatusOr<std::optional<uint32_t>> Region::TakeOwner(RegionRights rights, uint32_t uid,
                                                          EndpointId endpoint,
                                                          uint32_t grant_number) {
  if (!rights.map_write()) return std::optional<uint32_t>();
  if (SharedIds* const ids = shared_ids()) {
    IOB_ASSIGN_OR_RETURN(const shm::IdOwner owner, ids->Take(GrantRangeOf(endpoint), grant_number));
    return std::optional<uint32_t>(owner);
  }
  if (DirectRing* const ring = direct()) {
    IOB_ASSIGN_OR_RETURN(const uint32_t seat,
                         ring->Take(uid, GrantRangeOf(endpoint), grant_number));
    return std::optional<uint32_t>(seat);
  }
  return std::optional<uint32_t>();
}

void Region::LeaveOwner(uint32_t owner) {
  if (SharedIds* const ids = shared_ids()) ids->Leave(static_cast<shm::IdOwner>(owner));
  if (DirectRing* const ring = direct()) ring->Leave(owner);
}

bool Region::ReapOwners() {
  if (SharedIds* const ids = shared_ids()) return ids->Reap();
  if (DirectRing* const ring = direct()) return ring->Reap();
  return true;
}

std::vector<SectionPlan> Region::SectionsFor(RegionRights rights,
                                             std::optional<uint32_t> owner) const {
  if (!rights.may_map()) return {};
  if (const DirectRing* const ring = direct()) {
    return owner ? ring->ProducerSections(*owner) : ring->ConsumerSections();
  }
  const FdMode mode = rights.map_write() ? FdMode::kReadWrite : FdMode::kReadOnly;
  if (const MediatedRing* mediated = ring()) {
    std::vector<SectionPlan> plans = {
        {.kind = v1::SECTION_KIND_HEAD, .memfd = &mediated->writer.head_memfd(), .mode = mode},
        {.kind = v1::SECTION_KIND_DATA,
         .memfd = &mediated->writer.data_memfd(),
         .mode = FdMode::kReadOnly}};
    if (const shm::SealedMemfd* const follow = mediated->writer.follow_memfd()) {
      plans.push_back(
          {.kind = v1::SECTION_KIND_FOLLOW, .memfd = follow, .mode = FdMode::kReadWrite});
    }
    return plans;
  }
  const auto sections = Sections();
  if (sections.empty()) return {};
  return {{.kind = v1::SECTION_KIND_DATA, .memfd = sections.front(), .mode = mode}};
}

std::vector<const shm::SealedMemfd*> Region::Sections() const {
  if (const MediatedRing* mediated = ring()) {
    std::vector<const shm::SealedMemfd*> sections = {&mediated->writer.head_memfd(),
                                                     &mediated->writer.data_memfd()};
    if (mediated->writer.follow_memfd() != nullptr)
      sections.push_back(mediated->writer.follow_memfd());
    return sections;
  }
  if (const DirectRing* const direct_ring = direct()) return direct_ring->Sections();
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
  // The same goes for the writer of a broadcast or slot; the producer of a reserve ring has the
  // consumer's word withheld from it.
  const bool withheld = spec_.discipline == v1::DISCIPLINE_RESERVE_RING;
  if ((rights.map_write() && !withheld) || sealed_ids() != nullptr) return v1::ENFORCEMENT_SEALED;
  // Read-only on a section that somebody else writes through a descriptor of his own (HEAD, or
  // plain memory): only file modes keep this holder from reopening it.
  const bool modes_bind = holder_uid != 0 && holder_uid != broker_uid;
  return modes_bind ? v1::ENFORCEMENT_DAC : v1::ENFORCEMENT_ADVISORY;
}

}  // namespace iob::server
