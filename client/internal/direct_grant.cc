#include "client/internal/direct_grant.h"

#include <fcntl.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "iob/v1/attach.pb.h"
#include "shm/mapping.h"
#include "shm/result.h"

namespace iob {
namespace {

constexpr uint32_t kLanesMax = 32;
// No honest lane gets there.
constexpr uint64_t kPositionMax = uint64_t{1} << 62;

struct ExpectedSection {
  v1::SectionKind kind = v1::SECTION_KIND_UNSPECIFIED;
  uint32_t lane = 0;
  bool writable = false;
  uint64_t size_bytes = 0;
};
using ExpectedSections = std::vector<ExpectedSection>;

absl::Status Wrong(const v1::RegionGrant& claimed, absl::string_view what) {
  return ProtocolError(absl::StrCat("region ", claimed.index(), ": ", what));
}

StallPolicy ToStallPolicy(v1::StallPolicy claimed) {
  if (claimed == v1::STALL_POLICY_KILL) return StallPolicy::kKill;
  return claimed == v1::STALL_POLICY_RENEW ? StallPolicy::kRenew : StallPolicy::kWait;
}

absl::Status ReadOptions(const v1::RegionGrant& claimed, DirectGrant* grant) {
  const v1::ReserveRingOptions& options = claimed.reserve_ring();
  const bool lanes = options.mode() == v1::RESERVE_MODE_LANES;
  if (!lanes && options.mode() != v1::RESERVE_MODE_SHARED) {
    return Wrong(claimed, absl::StrCat("reserve mode ", static_cast<int>(options.mode())));
  }
  if (lanes && (options.lanes() == 0 || options.lanes() > kLanesMax)) {
    return Wrong(claimed, absl::StrCat(options.lanes(), " lanes, 1 to ", kLanesMax, " can be"));
  }
  if (!lanes && options.stall_ms() == 0) return Wrong(claimed, "a stall time of nothing");
  grant->reserve = {.mode = lanes ? ReserveMode::kLanes : ReserveMode::kShared,
                    .lanes = options.lanes(),
                    .granule_bytes = options.granule_bytes(),
                    .consumer_clears = options.consumer_clears(),
                    .stamped = options.stamped(),
                    .on_stall = ToStallPolicy(options.on_stall()),
                    .stall = std::chrono::milliseconds(options.stall_ms())};
  return absl::OkStatus();
}

// Y1, and that the seat is one.
absl::Status ReadSeat(const v1::RegionGrant& claimed, bool produces, DirectGrant* grant) {
  if (claimed.has_seat() != produces) {
    return Wrong(claimed, produces ? "no seat for a producer" : "a seat for a consumer");
  }
  if (!produces) return absl::OkStatus();
  const uint32_t seat = claimed.seat();
  bool fits = seat == 0;
  if (claimed.discipline() == v1::DISCIPLINE_RESERVE_RING) {
    fits = grant->reserve.mode == ReserveMode::kLanes ? seat < grant->reserve.lanes
                                                      : seat != 0 && seat < shm::kSharedOwners;
  }
  if (!fits) return Wrong(claimed, absl::StrCat("seat ", seat));
  grant->seat = seat;
  const v1::LaneStart& start = claimed.lane_start();
  if (start.position() > kPositionMax || start.discards() > start.sequence()) {
    return Wrong(claimed, absl::StrCat("a lane that starts at ", start.position()));
  }
  grant->lane_start = {.position = start.position(),
                       .sequence = start.sequence(),
                       .discards = start.discards(),
                       .payload_bytes = start.payload_bytes()};
  return absl::OkStatus();
}

absl::StatusOr<ExpectedSections> ExpectLanes(const DirectGrant& grant) {
  IOB_ASSIGN_OR_RETURN(const shm::LaneLayout layout, LaneLayoutOf(grant));
  ExpectedSections expected;
  const bool produces = grant.seat.has_value();
  const uint32_t first = produces ? *grant.seat : 0;
  const uint32_t end = produces ? first + 1 : grant.reserve.lanes;
  for (uint32_t lane = first; lane < end; ++lane) {
    expected.push_back({.kind = v1::SECTION_KIND_LANE,
                        .lane = lane,
                        .writable = produces || grant.reserve.consumer_clears,
                        .size_bytes = layout.lane_section_bytes()});
    expected.push_back({.kind = v1::SECTION_KIND_LANE_CONTROL,
                        .lane = lane,
                        .writable = !produces,
                        .size_bytes = layout.control_section_bytes()});
  }
  return expected;
}

absl::StatusOr<ExpectedSections> ExpectShared(const DirectGrant& grant) {
  IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout, SharedLayoutOf(grant));
  const bool produces = grant.seat.has_value();
  return ExpectedSections{{.kind = v1::SECTION_KIND_RESERVE_CONTROL,
                           .lane = 0,
                           .writable = produces,
                           .size_bytes = layout.ctl_section_bytes()},
                          {.kind = v1::SECTION_KIND_DATA,
                           .lane = 0,
                           .writable = produces,
                           .size_bytes = layout.data_section_bytes()},
                          {.kind = v1::SECTION_KIND_CONSUMER,
                           .lane = 0,
                           .writable = !produces,
                           .size_bytes = layout.cons_section_bytes()}};
}

absl::StatusOr<ExpectedSections> ExpectLatest(const DirectGrant& grant, bool slot) {
  // That the region's size can be one of these.
  if (slot) {
    IOB_RETURN_IF_ERROR(SlotLayoutOf(grant).status());
  } else {
    IOB_RETURN_IF_ERROR(BroadcastLayoutOf(grant).status());
  }
  return ExpectedSections{{.kind = v1::SECTION_KIND_DATA,
                           .lane = 0,
                           .writable = grant.seat.has_value(),
                           .size_bytes = grant.size_bytes},
                          {.kind = v1::SECTION_KIND_FOLLOW,
                           .lane = 0,
                           .writable = true,
                           .size_bytes = shm::PageBytes()}};
}

absl::StatusOr<ExpectedSections> Expect(const v1::RegionGrant& claimed, const DirectGrant& grant) {
  if (claimed.discipline() != v1::DISCIPLINE_RESERVE_RING) {
    return ExpectLatest(grant, claimed.discipline() == v1::DISCIPLINE_SLOT);
  }
  return grant.reserve.mode == ReserveMode::kLanes ? ExpectLanes(grant) : ExpectShared(grant);
}

// Y2 and that it is the section that is due.
absl::Status CheckSection(const v1::RegionGrant& claimed, const ExpectedSection& due,
                          const ConfirmedSection& section) {
  if (section.kind != due.kind || section.lane != due.lane || section.writable != due.writable ||
      section.memfd.size_bytes() != due.size_bytes) {
    return Wrong(claimed, absl::StrCat("a section of kind ", section.kind, ", lane ", section.lane,
                                       ", ", section.memfd.size_bytes(), " bytes, ",
                                       section.writable ? "writable" : "read-only", "; due is ",
                                       static_cast<int>(due.kind), ", lane ", due.lane, ", ",
                                       due.size_bytes, " bytes"));
  }
  const int seals = ::fcntl(section.memfd.fd(), F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) != 0) {
    return WithReason(absl::DataLossError(absl::StrCat("region ", claimed.index(),
                                                       ": sealed against those who write it")),
                      "INTEGRITY");
  }
  return absl::OkStatus();
}

// Checked sections, in the order of Expect.
void TakeSections(std::vector<ConfirmedSection> sections, bool reserve, DirectGrant* grant) {
  if (!reserve) {
    grant->data = std::move(sections[0].memfd);
    grant->follow = std::move(sections[1].memfd);
  } else if (grant->reserve.mode == ReserveMode::kShared) {
    grant->shared.emplace(shm::SharedSections{.ctl = std::move(sections[0].memfd),
                                              .data = std::move(sections[1].memfd),
                                              .cons = std::move(sections[2].memfd)});
  } else {
    for (size_t i = 0; i + 1 < sections.size(); i += 2) {
      grant->lanes.push_back({.lane = sections[i].lane,
                              .data = std::move(sections[i].memfd),
                              .control = std::move(sections[i + 1].memfd)});
    }
  }
}

}  // namespace

absl::StatusOr<shm::LaneLayout> LaneLayoutOf(const DirectGrant& grant) {
  const uint64_t page = shm::PageBytes();
  return shm::LaneLayout::ForCapacity(grant.size_bytes / grant.reserve.lanes / page * page);
}

absl::StatusOr<shm::SharedLayout> SharedLayoutOf(const DirectGrant& grant) {
  return shm::SharedLayout::ForSize(grant.size_bytes, grant.reserve.granule_bytes);
}

absl::StatusOr<shm::BroadcastLayout> BroadcastLayoutOf(const DirectGrant& grant) {
  return shm::BroadcastLayout::ForRegion(grant.size_bytes);
}

absl::StatusOr<shm::SlotLayout> SlotLayoutOf(const DirectGrant& grant) {
  return shm::SlotLayout::ForRegion(grant.size_bytes);
}

absl::Status WithIntegrity(absl::Status status) {
  return absl::IsDataLoss(status) ? WithReason(std::move(status), "INTEGRITY") : status;
}

absl::StatusOr<DirectGrant> MakeDirectGrant(const v1::RegionGrant& claimed, RegionRights rights,
                                            std::vector<ConfirmedSection> sections) {
  const bool reserve = claimed.discipline() == v1::DISCIPLINE_RESERVE_RING;
  DirectGrant grant;
  grant.size_bytes = claimed.size_bytes();
  grant.generation = claimed.generation();
  if (reserve) IOB_RETURN_IF_ERROR(ReadOptions(claimed, &grant));
  IOB_RETURN_IF_ERROR(ReadSeat(claimed, rights.map_write(), &grant));
  const absl::StatusOr<ExpectedSections> expected = Expect(claimed, grant);
  if (!expected.ok()) return Wrong(claimed, expected.status().message());
  if (claimed.discipline() == v1::DISCIPLINE_SLOT) {
    IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout, SlotLayoutOf(grant));
    grant.slot_value_bytes = claimed.slot_value_bytes();
    if (grant.slot_value_bytes == 0 || grant.slot_value_bytes > layout.value_bytes_max()) {
      return Wrong(claimed, absl::StrCat("values of ", grant.slot_value_bytes,
                                         " bytes in cells of ", layout.value_bytes_max()));
    }
  }
  // A producer whose handle may not write gets nothing: it is no consumer.
  const bool cut = shm::AccessBits(claimed.access_bits()).For(EndpointId::kEp0).map_write() &&
                   !rights.map_write();
  if (cut && !sections.empty()) {
    return Wrong(claimed, absl::StrCat(sections.size(), " sections for who may not produce"));
  }
  if (cut || !rights.map_read()) return grant;
  if (sections.size() != expected->size()) {
    return Wrong(claimed,
                 absl::StrCat(sections.size(), " sections, ", expected->size(), " are due"));
  }
  for (size_t i = 0; i < sections.size(); ++i) {
    IOB_RETURN_IF_ERROR(CheckSection(claimed, (*expected)[i], sections[i]));
  }
  TakeSections(std::move(sections), reserve, &grant);
  return grant;
}

}  // namespace iob
