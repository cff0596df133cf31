// Mediator: appends records, and stores blobs, on behalf of endpoints that may not map.
//
// The one place that writes mediated rings. It stamps the writer's tag, keeps the books (a record
// is counted exactly once, when its fate is final) and publishes once per batch.
//
//   batch --Continue--> all records decided: done
//              '--> one that may wait finds no room: published, and the ring's consumer is asked to
//                   tell  --room made--> Continue
//                         --deadline, or no consumer left--> GiveUp
//
// Checks come in zx_iob_writev's order: right of the handle, region index, discipline, right to the
// region, length, room, integrity.
// Owned by the loop thread.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/buffer.h"
#include "shm/access.h"

namespace iob::server {

class Mediator {
 public:
  using Records = google::protobuf::RepeatedPtrField<std::string>;
  // A consumer of the ring asked to be told by a packet that there are records.
  using OnReadable = absl::AnyInvocable<void(const Buffer& buffer, uint32_t region_index)>;

  // A shared region got records.
  using OnUpdated = absl::AnyInvocable<void(Koid shared_region)>;

  Mediator(OnReadable on_readable, OnUpdated on_updated)
      : on_readable_(std::move(on_readable)), on_updated_(std::move(on_updated)) {}

  // Where a writer writes.
  struct Target {
    Buffer* buffer = nullptr;
    shm::EndpointId writer = shm::EndpointId::kEp0;
    uint32_t region_index = 0;
    Region* region = nullptr;
    MediatedRing* ring = nullptr;
    uint64_t tag = 0;
  };
  // ACCESS_DENIED (the handle), OUT_OF_RANGE, WRONG_DISCIPLINE, ACCESS_DENIED (the region), in this
  // order.
  static absl::StatusOr<Target> Resolve(const HeldEndpoint& held, uint32_t region_index);

  // Stores `blob` in an id allocator. Errors as Resolve, then INVALID_ARGUMENT (too long),
  // INTEGRITY, REGION_FULL, BUSY.
  static absl::StatusOr<uint32_t> AllocateId(const HeldEndpoint& held, uint32_t region_index,
                                             absl::string_view blob);

  // Appends one record made of `parts`. INVALID_ARGUMENT (more than 8 parts, too long), RING_FULL,
  // INTEGRITY; the books know either way.
  absl::Status Write(const Target& target, const Records& parts);

  // How far a batch got.
  struct Progress {
    struct Loss {
      uint32_t first_index = 0;
      uint32_t count = 0;
      shm::LossCause cause = shm::LossCause::kFull;
    };
    int next = 0;  // First record that is not decided yet.
    uint32_t stored = 0;
    std::vector<Loss> lost;  // Runs, in order.

    void Lose(int index, shm::LossCause cause);
  };
  // Appends from progress.next on. True when all records are decided; false when `may_wait` and the
  // next one waits for room.
  bool Continue(const Target& target, const Records& records, bool may_wait, Progress& progress);
  // The records that are left are rejected with `cause`.
  void GiveUp(const Target& target, const Records& records, shm::LossCause cause,
              Progress& progress);

  // Nobody waits for room in this ring any more.
  static void EndWant(MediatedRing& ring);

 private:
  // With the ring's mutex held.
  static void Want(MediatedRing& ring, uint64_t room_bytes);
  static void Reject(const Target& target, shm::LossCause cause, uint64_t payload_bytes);
  // `stored`: records were, since the last time.
  void Publish(const Target& target, bool stored);
  OnReadable on_readable_;
  OnUpdated on_updated_;
  std::string joined_;  // Scratch for records of several parts.
};

// Whether an endpoint is left that could move the tail of this region's ring, in any buffer that
// uses it.
bool ConsumerLeft(const Buffer& buffer, const Region& region);
bool ConsumerLeft(const SharedRegion& region);

}  // namespace iob::server
