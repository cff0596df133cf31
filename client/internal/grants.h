// Grants: what the broker's answer to a ticket says, believed only after the kernel confirmed it.
//
// A broker that lies could make its client fault, read a stranger's memory or trust bytes that
// somebody else can change. So nothing of a GrantSet is used before all of it was checked:
//
//   V1  Each descriptor is named by exactly one section; none is missing, none is left over.
//   V2  Each is a memfd that cannot be resized, of the announced size and access mode.
//   V3  What is read in place (records of a mediated ring, blobs of an id allocator that no
//       endpoint may map for writing, the signal page) is sealed against every future writer.
//   V4  Regions are 1 to 64, in order, of whole pages (of none at all for discipline none), with
//       the sections of their discipline. Sections are only where a map right is, in the region and
//       in the handle; writable ones only where map-write is, but for the followers' page.
//   V5  An id allocator that some endpoint may map for writing is not sealed: its writers could not
//       be there. Whoever may map it for writing has an owner number, and nobody else has.
//   V6  There is a signal page if and only if the handle has WAIT.
//   V7  A ring that its producers write by themselves is as direct_grant.h says; nobody has a seat
//       in a region of another discipline.
//
// Internal to the library. Values: thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/internal/direct_grant.h"
#include "client/types.h"
#include "shm/memfd.h"
#include "shm/submission_layout.h"
#include "shm/unique_fd.h"

namespace iob::v1 {
class GrantSet;
class QueueGrant;
class RingGrant;
}  // namespace iob::v1

namespace iob {

struct Section {
  shm::SealedMemfd memfd;
  bool writable = false;
};

struct GrantedRegion {
  uint32_t index = 0;
  RegionType type = RegionType::kPrivate;
  Discipline discipline = Discipline::kNone;
  uint64_t size_bytes = 0;
  AccessBits access;  // This endpoint's own bits in the low four.
  Enforcement enforcement = Enforcement::kUnspecified;
  uint64_t tag = 0;
  uint64_t koid = 0;
  std::optional<Section> head;
  std::optional<Section> data;
  MediatedRingOptions mediated_ring;
  std::optional<Section> follow;  // Of a mediated ring that was made for followers.
  uint32_t id_owner = 0;          // Of an id allocator with a writable section; 0 otherwise.
  // Of a reserve ring, broadcast or slot (V7). Shared with the ring's reader or writer, who puts
  // newer memory in its place.
  std::shared_ptr<DirectGrant> direct = nullptr;
  ObtainedPlacement placement = {};  // As the broker says; sections are mapped so.
};

struct Grants {
  uint64_t buffer_koid = 0;
  std::string name;
  EndpointId endpoint = EndpointId::kEp0;
  uint64_t endpoint_koid = 0;
  uint64_t peer_koid = 0;
  HandleRights rights;
  bool queues = false;  // The broker makes submission queues.
  std::vector<GrantedRegion> regions;
  std::optional<shm::SealedMemfd> signal;
  uint32_t signal_offset_bytes = 0;
};

// DATA_LOSS, reason PROTOCOL for an answer that contradicts itself, INTEGRITY for memory that is
// not what was announced. All descriptors are closed on failure.
absl::StatusOr<Grants> VerifyGrants(const v1::GrantSet& claimed, std::vector<shm::UniqueFd> fds,
                                    EndpointId expected_endpoint);

// A submission queue. V1 and V2 hold for it, and COMPLETE is sealed against every future writer.
struct QueueSections {
  shm::SubmissionLayout layout;
  shm::SealedMemfd submission;
  shm::SealedMemfd completion;
  shm::UniqueFd kick;
};
// The descriptors of a queue, and no more.
inline constexpr size_t kQueueFds = 3;

// Errors as VerifyGrants. `claimed` is one without a failure.
absl::StatusOr<QueueSections> VerifyQueue(const v1::QueueGrant& claimed,
                                          std::vector<shm::UniqueFd> fds);

// Newer memory of a shared reserve ring in which this endpoint has `rights` (V1, V2, V7). Errors as
// VerifyGrants. `claimed` is one without a failure.
absl::StatusOr<DirectGrant> VerifyRing(const v1::RingGrant& claimed, uint32_t region_index,
                                       RegionRights rights, std::vector<shm::UniqueFd> fds);
// The descriptors of one generation of a shared ring, and no more.
inline constexpr size_t kRingFds = 3;

}  // namespace iob
