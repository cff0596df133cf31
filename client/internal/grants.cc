#include "client/internal/grants.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/placement_wire.h"
#include "iob/v1/attach.pb.h"
#include "shm/id_allocator_layout.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob {
namespace {

// Hands out each received descriptor once (V1).
class FdTable {
 public:
  explicit FdTable(std::vector<shm::UniqueFd> fds) : fds_(std::move(fds)), left_(fds_.size()) {}

  size_t left() const { return left_; }

  absl::StatusOr<shm::UniqueFd> Take(uint32_t claimed_index) {
    if (claimed_index >= fds_.size()) {
      return ProtocolError(absl::StrCat("fd_index ", claimed_index, " with ", fds_.size(),
                                        " descriptors in the packet"));
    }
    if (!fds_[claimed_index].valid()) {
      return ProtocolError(absl::StrCat("fd_index ", claimed_index, " is used twice"));
    }
    left_ -= 1;
    return std::move(fds_[claimed_index]);
  }

 private:
  std::vector<shm::UniqueFd> fds_;
  size_t left_;
};

absl::Status IntegrityError(const std::string& what, absl::string_view why) {
  return WithReason(absl::DataLossError(absl::StrCat(what, ": ", why)), "INTEGRITY");
}

// V2, V3.
absl::StatusOr<Section> AdoptSection(const v1::SectionGrant& claimed, bool writers_sealed,
                                     FdTable* fds, const std::string& what,
                                     const shm::MapPolicy& policy = {}) {
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd fd, fds->Take(claimed.fd_index()));
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0) return shm::ErrnoStatus(errno, "F_GETFL of a received descriptor");
  if (((flags & O_ACCMODE) == O_RDWR) != claimed.writable()) {
    return ProtocolError(absl::StrCat(what, ": the descriptor's access mode is not the one said"));
  }
  absl::StatusOr<shm::SealedMemfd> memfd =
      shm::SealedMemfd::Adopt(std::move(fd), claimed.size_bytes(), writers_sealed);
  if (!memfd.ok()) return IntegrityError(what, memfd.status().message());
  memfd->set_map_policy(policy);
  return Section{.memfd = std::move(*memfd), .writable = claimed.writable()};
}

template <typename Enum>
bool InRange(int value, Enum low, Enum high) {
  return value >= static_cast<int>(low) && value <= static_cast<int>(high);
}

MediatedRingOptions ParseOptions(const v1::MediatedRingOptions& claimed) {
  return {.policy = InRange(claimed.policy(), RingPolicy::kDropNew, RingPolicy::kBlock)
                        ? static_cast<RingPolicy>(claimed.policy())
                        : RingPolicy::kDropNew,
          .block = std::chrono::milliseconds(claimed.block_ms()),
          .gap_records = claimed.gap_records(),
          .stamped = claimed.stamped(),
          .followers = claimed.followers(),
          .writer_records_max = claimed.writer_records_max(),
          .writer_bytes_max = claimed.writer_bytes_max()};
}

// Advice only: a broker that says the wrong thing here gets pages touched early or late.
shm::MapPolicy PolicyOf(const ObtainedPlacement& placement) {
  return {.prefault = placement.prefault,
          .secret = placement.sensitive,
          .huge = placement.huge_pages == HugePages::kTransparent};
}

absl::StatusOr<GrantedRegion> ParseRegion(const v1::RegionGrant& claimed, uint32_t position) {
  const auto wrong = [position](const std::string& what) {
    return ProtocolError(absl::StrCat("region ", position, ": ", what));
  };
  if (claimed.index() != position) return wrong(absl::StrCat("it says index ", claimed.index()));
  if (!InRange(claimed.type(), RegionType::kPrivate, RegionType::kShared)) return wrong("its type");
  if (!InRange(claimed.discipline(), Discipline::kNone, Discipline::kSlot)) {
    return wrong("its discipline");
  }
  if (!InRange(claimed.enforcement(), Enforcement::kUnspecified, Enforcement::kMediated)) {
    return wrong("its enforcement");
  }
  const bool may_be_empty = claimed.discipline() == v1::DISCIPLINE_NONE;
  if ((claimed.size_bytes() == 0 && !may_be_empty) ||
      claimed.size_bytes() % shm::PageBytes() != 0) {
    return wrong(absl::StrCat("its size of ", claimed.size_bytes(), " bytes is not whole pages"));
  }
  const AccessBits access(claimed.access_bits());
  if (!access.valid()) return wrong(absl::StrCat("access bits ", access.bits()));
  return GrantedRegion{.index = position,
                       .type = static_cast<RegionType>(claimed.type()),
                       .discipline = static_cast<Discipline>(claimed.discipline()),
                       .size_bytes = claimed.size_bytes(),
                       .access = access,
                       .enforcement = static_cast<Enforcement>(claimed.enforcement()),
                       .tag = claimed.tag(),
                       .koid = claimed.koid(),
                       .head = std::nullopt,
                       .data = std::nullopt,
                       .mediated_ring = ParseOptions(claimed.mediated_ring()),
                       .follow = std::nullopt,
                       .id_owner = claimed.id_owner(),
                       .direct = nullptr,
                       .placement = FromWire(claimed.placement())};
}

// V4 for one mediated ring: all its sections or none, of the sizes that the region's size makes
// them.
absl::Status CheckRing(const GrantedRegion& region) {
  const std::string what = absl::StrCat("region ", region.index, ": ");
  const absl::StatusOr<shm::RingLayout> layout = shm::RingLayout::ForRegion(region.size_bytes);
  if (!layout.ok()) return ProtocolError(absl::StrCat(what, layout.status().message()));
  if (region.head.has_value() != region.data.has_value()) {
    return ProtocolError(absl::StrCat(what, "half a ring"));
  }
  if (region.follow.has_value() != (region.head && region.mediated_ring.followers)) {
    return ProtocolError(absl::StrCat(what, "followers without their page, or the reverse"));
  }
  if (region.follow && (region.follow->memfd.size_bytes() != layout->follow_section_bytes() ||
                        !region.follow->writable)) {
    return ProtocolError(absl::StrCat(what, "the followers' page is not one writable page"));
  }
  if (!region.head) return absl::OkStatus();
  if (region.head->memfd.size_bytes() != layout->head_section_bytes() ||
      region.data->memfd.size_bytes() != layout->data_section_bytes()) {
    return ProtocolError(absl::StrCat(what, "sections of ", region.head->memfd.size_bytes(),
                                      " and ", region.data->memfd.size_bytes(),
                                      " bytes do not make a ring of ", region.size_bytes));
  }
  if (region.data->writable) return ProtocolError(absl::StrCat(what, "writable ring data"));
  return absl::OkStatus();
}

// V4, V5 for one id allocator; that a region which only the broker writes is sealed, was checked.
absl::Status CheckIds(const GrantedRegion& region) {
  const std::string what = absl::StrCat("region ", region.index);
  const absl::StatusOr<shm::IdAllocatorLayout> layout =
      shm::IdAllocatorLayout::ForRegion(region.size_bytes);
  if (!layout.ok()) return ProtocolError(absl::StrCat(what, ": ", layout.status().message()));
  const bool writable = region.data && region.data->writable;
  const bool owner_fits =
      writable ? region.id_owner > shm::kIdOwnerBroker && region.id_owner <= shm::kIdOwnersMax
               : region.id_owner == 0;
  if (!owner_fits) {
    return ProtocolError(absl::StrCat(what, ": owner number ", region.id_owner, " for a ",
                                      writable ? "writer" : "reader", " of ids"));
  }
  if (!region.data || !region.access.any_map_write()) return absl::OkStatus();
  const int seals = ::fcntl(region.data->memfd.fd(), F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) != 0) {
    return IntegrityError(what, "sealed against the writers that its access bits allow");
  }
  return absl::OkStatus();
}

// V4 for everything but rings.
absl::Status CheckData(const GrantedRegion& region) {
  const std::string what = absl::StrCat("region ", region.index);
  const bool plain = region.discipline == Discipline::kNone;
  const bool ids = region.discipline == Discipline::kIdAllocator;
  if ((plain || ids) && region.data && region.data->memfd.size_bytes() != region.size_bytes) {
    return ProtocolError(absl::StrCat(what, ": a section of ", region.data->memfd.size_bytes(),
                                      " bytes for a region of ", region.size_bytes));
  }
  return ids ? CheckIds(region) : absl::OkStatus();
}

bool IsDirect(Discipline discipline) {
  return discipline == Discipline::kReserveRing || discipline == Discipline::kBroadcast ||
         discipline == Discipline::kSlot;
}

// V7.
absl::StatusOr<DirectGrant> AdoptDirect(const v1::RegionGrant& claimed, RegionRights rights,
                                        shm::MapPolicy policy, FdTable* fds) {
  const std::string what = absl::StrCat("region ", claimed.index());
  std::vector<ConfirmedSection> confirmed;
  for (const v1::SectionGrant& claimed_section : claimed.sections()) {
    IOB_ASSIGN_OR_RETURN(Section section, AdoptSection(claimed_section, /*writers_sealed=*/false,
                                                       fds, what, policy));
    confirmed.push_back({.kind = claimed_section.kind(),
                         .lane = claimed_section.lane(),
                         .writable = section.writable,
                         .memfd = std::move(section.memfd)});
  }
  return MakeDirectGrant(claimed, rights, std::move(confirmed));
}

absl::Status AdoptSections(const v1::RegionGrant& claimed, HandleRights handle, FdTable* fds,
                           GrantedRegion* region) {
  const std::string what = absl::StrCat("region ", region->index);
  const bool ring = region->discipline == Discipline::kMediatedRing;
  const bool sealed_ids =
      region->discipline == Discipline::kIdAllocator && !region->access.any_map_write();
  const RegionRights rights = EffectiveRights(region->access.For(EndpointId::kEp0), handle);
  if (region->id_owner != 0 && region->discipline != Discipline::kIdAllocator) {
    return ProtocolError(absl::StrCat(what, ": an owner number where there are no ids"));
  }
  if (claimed.sections_size() != 0 && !rights.may_map()) {
    return ProtocolError(absl::StrCat(what, ": descriptors without a map right"));
  }
  if (IsDirect(region->discipline)) {
    IOB_ASSIGN_OR_RETURN(DirectGrant direct,
                         AdoptDirect(claimed, rights, PolicyOf(region->placement), fds));
    region->direct = std::make_shared<DirectGrant>(std::move(direct));
    return absl::OkStatus();
  }
  if (claimed.has_seat()) {
    return ProtocolError(absl::StrCat(what, ": a seat where nobody produces by himself"));
  }
  for (const v1::SectionGrant& section : claimed.sections()) {
    const bool data = section.kind() == v1::SECTION_KIND_DATA;
    const bool head = ring && section.kind() == v1::SECTION_KIND_HEAD;
    const bool follow = ring && section.kind() == v1::SECTION_KIND_FOLLOW;
    std::optional<Section>& target = data ? region->data : follow ? region->follow : region->head;
    if ((!data && !head && !follow) || target) {
      return ProtocolError(absl::StrCat(what, ": section kind ", static_cast<int>(section.kind()),
                                        " is not one of its discipline, or comes twice"));
    }
    if (section.writable() && !rights.map_write() && !follow) {
      return ProtocolError(absl::StrCat(what, ": a writable section without map-write"));
    }
    const bool writers_sealed = data && (ring || sealed_ids);
    IOB_ASSIGN_OR_RETURN(
        target, AdoptSection(section, writers_sealed, fds, what, PolicyOf(region->placement)));
  }
  return ring ? CheckRing(*region) : CheckData(*region);
}

// A kick must neither block nor raise SIGPIPE, as it could in a pipe or a socket.
absl::Status CheckKick(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  struct stat status = {};
  if (flags < 0 || ::fstat(fd, &status) != 0) return shm::ErrnoStatus(errno, "fstat of a kick");
  if ((flags & O_NONBLOCK) == 0 || S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode)) {
    return ProtocolError("a queue's kick is no non-blocking eventfd");
  }
  return absl::OkStatus();
}

// V6.
absl::StatusOr<std::optional<shm::SealedMemfd>> AdoptSignal(const v1::GrantSet& claimed,
                                                            HandleRights handle, FdTable* fds) {
  if (claimed.has_signal() != handle.Has(HandleRights::kWait)) {
    return ProtocolError(claimed.has_signal() ? "a signal page for a handle that may not wait"
                                              : "no signal page for a handle that may wait");
  }
  if (!claimed.has_signal()) return std::optional<shm::SealedMemfd>();
  if (claimed.signal().kind() != v1::SECTION_KIND_SIGNAL ||
      claimed.signal().size_bytes() != shm::PageBytes() || claimed.signal().writable()) {
    return ProtocolError("a signal page that is not one read-only page");
  }
  IOB_ASSIGN_OR_RETURN(Section section, AdoptSection(claimed.signal(), /*writers_sealed=*/true, fds,
                                                     "the signal page"));
  return std::optional<shm::SealedMemfd>(std::move(section.memfd));
}

}  // namespace

absl::StatusOr<Grants> VerifyGrants(const v1::GrantSet& claimed, std::vector<shm::UniqueFd> fds,
                                    EndpointId expected_endpoint) {
  FdTable table(std::move(fds));
  const int endpoint =
      expected_endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0 : v1::ENDPOINT_ID_EP1;
  if (claimed.endpoint() != endpoint) {
    return ProtocolError(absl::StrCat("the ticket leads to endpoint id ",
                                      static_cast<int>(claimed.endpoint()), ", not to ",
                                      ToString(expected_endpoint)));
  }
  const HandleRights rights(claimed.handle_rights());
  if ((rights.bits() & ~HandleRights::kEndpointDefault) != 0) {
    return ProtocolError(absl::StrCat("handle rights of ", ToString(rights)));
  }
  const auto region_count = static_cast<size_t>(claimed.regions_size());
  if (region_count == 0 || region_count > kRegionsMax) {
    return ProtocolError(absl::StrCat(region_count, " regions, 1 to ", kRegionsMax, " can be"));
  }
  std::vector<GrantedRegion> regions;
  regions.reserve(region_count);
  for (const v1::RegionGrant& claimed_region : claimed.regions()) {
    IOB_ASSIGN_OR_RETURN(GrantedRegion region,
                         ParseRegion(claimed_region, static_cast<uint32_t>(regions.size())));
    IOB_RETURN_IF_ERROR(AdoptSections(claimed_region, rights, &table, &region));
    regions.push_back(std::move(region));
  }
  IOB_ASSIGN_OR_RETURN(std::optional<shm::SealedMemfd> signal,
                       AdoptSignal(claimed, rights, &table));
  if (table.left() != 0) {
    return ProtocolError(absl::StrCat(table.left(), " descriptors that no section names"));
  }
  return Grants{.buffer_koid = claimed.buffer_koid(),
                .name = claimed.name(),
                .endpoint = expected_endpoint,
                .endpoint_koid = claimed.endpoint_koid(),
                .peer_koid = claimed.peer_koid(),
                .rights = rights,
                .queues = claimed.queues(),
                .regions = std::move(regions),
                .signal = std::move(signal),
                .signal_offset_bytes = claimed.signal_offset_bytes()};
}

absl::StatusOr<QueueSections> VerifyQueue(const v1::QueueGrant& claimed,
                                          std::vector<shm::UniqueFd> fds) {
  if (fds.size() != kQueueFds) {
    return ProtocolError(absl::StrCat("a queue of ", fds.size(), " descriptors"));
  }
  FdTable table(std::move(fds));
  if (claimed.submission().kind() != v1::SECTION_KIND_SUBMISSION ||
      claimed.completion().kind() != v1::SECTION_KIND_COMPLETION ||
      !claimed.submission().writable() || claimed.completion().writable()) {
    return ProtocolError("the sections of a queue are not of its kinds");
  }
  // Completions are as many as in every queue: their section's size, whole pages, does not tell.
  const absl::StatusOr<shm::SubmissionLayout> layout =
      shm::SubmissionLayout::ForQueue({.capacity_bytes = claimed.entry_bytes(),
                                       .completions = shm::SubmissionLayout::kCompletionsDefault});
  if (!layout.ok() || claimed.submission().size_bytes() != layout->submit_section_bytes() ||
      claimed.completion().size_bytes() != layout->complete_section_bytes()) {
    return ProtocolError(absl::StrCat("sections of ", claimed.submission().size_bytes(), " and ",
                                      claimed.completion().size_bytes(),
                                      " bytes do not make a queue of ", claimed.entry_bytes()));
  }
  IOB_ASSIGN_OR_RETURN(Section submission,
                       AdoptSection(claimed.submission(),
                                    /*writers_sealed=*/false, &table, "a queue's entries"));
  IOB_ASSIGN_OR_RETURN(Section completion,
                       AdoptSection(claimed.completion(),
                                    /*writers_sealed=*/true, &table, "a queue's completions"));
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd kick, table.Take(claimed.kick_fd_index()));
  IOB_RETURN_IF_ERROR(CheckKick(kick.get()));
  return QueueSections{.layout = *layout,
                       .submission = std::move(submission.memfd),
                       .completion = std::move(completion.memfd),
                       .kick = std::move(kick)};
}

absl::StatusOr<DirectGrant> VerifyRing(const v1::RingGrant& claimed, uint32_t region_index,
                                       RegionRights rights, std::vector<shm::UniqueFd> fds) {
  const v1::RegionGrant& region = claimed.region();
  if (fds.size() != kRingFds || region.index() != region_index ||
      region.discipline() != v1::DISCIPLINE_RESERVE_RING) {
    return ProtocolError(absl::StrCat("region ", region.index(), " with ", fds.size(),
                                      " descriptors, asked was for the ring of region ",
                                      region_index));
  }
  FdTable table(std::move(fds));
  return AdoptDirect(region, rights, PolicyOf(FromWire(region.placement())), &table);
}

}  // namespace iob
