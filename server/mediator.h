// Mediator: appends records on behalf of endpoints that may not map.
//
// The one place that writes mediated rings. It stamps the writer's tag, keeps the books (a record
// is counted exactly once, when its fate is final) and publishes once per batch.
//
//   batch --Continue--> all records decided: done
//              '--> one that may wait finds no room: published, and the ring's consumer is asked to
//                   tell  --room made--> Continue
//                         --deadline, or no consumer left--> GiveUp
//
// Checks come in zx_iob_writev's order: region index, discipline, right, length, room, integrity.
// Owned by the loop thread.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/buffer.h"
#include "shm/access.h"

namespace iob::server {

class Mediator {
 public:
  using Records = google::protobuf::RepeatedPtrField<std::string>;
  // A consumer of the ring asked to be told by a packet that there are records.
  using OnReadable = absl::AnyInvocable<void(const Buffer& buffer, uint32_t region_index)>;

  explicit Mediator(OnReadable on_readable) : on_readable_(std::move(on_readable)) {}

  // Where a writer writes.
  struct Target {
    Buffer* buffer = nullptr;
    shm::EndpointId writer = shm::EndpointId::kEp0;
    uint32_t region_index = 0;
    MediatedRing* ring = nullptr;
    uint64_t tag = 0;
  };
  // OUT_OF_RANGE, WRONG_DISCIPLINE, ACCESS_DENIED, in this order.
  static absl::StatusOr<Target> Resolve(Buffer& buffer, shm::EndpointId writer,
                                        const shm::HandleRights& rights, uint32_t region_index);

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
  static void EndWant(MediatedRing& ring) { ring.writer.WantRoom(0); }

 private:
  void Publish(const Target& target);
  OnReadable on_readable_;
  std::string joined_;  // Scratch for records of several parts.
};

// Whether an endpoint is left that could move the tail of this region's ring.
bool ConsumerLeft(const Buffer& buffer, const Region& region);

}  // namespace iob::server
