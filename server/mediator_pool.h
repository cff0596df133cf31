// MediatorPool: the threads that serve submission queues, and which queue is on which.
//
//   attach connection --Open--> queue --on the thread of its ring--> served
//                     --Close-> what was published is decided --> done()
//
//   P1  All queues of one ring are on one thread, so their records keep the order of their turns.
//   P2  A queue's memory and descriptors are charged to its client until it is closed.
//   P3  Nobody is called back for a queue after its done().
//
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/event_loop.h"
#include "server/mediator.h"
#include "server/mediator_thread.h"
#include "server/quota.h"
#include "server/registry.h"
#include "shm/submission_layout.h"
#include "shm/unique_fd.h"

namespace iob::server {

class MediatorPool final : public QueueListener {
 public:
  using OnReadable = absl::AnyInvocable<void(Koid buffer, uint32_t region_index)>;
  using OnUpdated = absl::AnyInvocable<void(Koid shared_region)>;
  struct Dependencies {
    EventLoop& loop;
    Registry& registry;
    Quota& quota;
    OnReadable on_readable;
    OnUpdated on_updated;
  };

  // UNAVAILABLE when the kernel has no room.
  static absl::StatusOr<std::unique_ptr<MediatorPool>> Start(size_t threads,
                                                             Dependencies dependencies);

  // What a client gets of a queue.
  struct OpenedQueue {
    QueueId id = 0;
    shm::SubmissionLayout layout;
    shm::UniqueFd submission;
    shm::UniqueFd completion;
    shm::UniqueFd kick;
  };
  // A queue of `uid` into the ring of `target`. `on_violation`: its words cannot be.
  //   INVALID_ARGUMENT (more than kEntryBytesMax), RESOURCE_EXHAUSTED / QUOTA, UNAVAILABLE
  absl::StatusOr<OpenedQueue> Open(const Mediator::Target& target, uint32_t uid,
                                   uint32_t entry_bytes, absl::AnyInvocable<void()> on_violation);
  static constexpr uint32_t kEntryBytesMax = 16u << 20;

  // Decides what the client has published, then calls `done` on the loop.
  void Close(QueueId id, absl::AnyInvocable<void()> done);

  // Room was made in this region's ring.
  void RoomMade(Region& region);
  // An endpoint was closed, or a buffer made: whether somebody is left to consume may have changed.
  void RefreshConsumers(Koid buffer);

  size_t queue_count() const { return queues_.size(); }
  size_t thread_count() const { return threads_.size(); }
  uint64_t entries_served() const;
  uint64_t sleeps() const;

  // QueueListener.
  void OnQueueReadable(Koid buffer, uint32_t region_index) override;
  void OnQueueUpdated(Koid shared_region) override;
  void OnQueueViolation(QueueId queue) override;
  void OnQueueClosed(QueueId queue) override;

 private:
  struct Entry {
    Koid buffer = 0;
    Region* region = nullptr;
    Charge charge;
    absl::AnyInvocable<void()> on_violation;
    absl::AnyInvocable<void()> done;
  };

  explicit MediatorPool(Dependencies dependencies) : dependencies_(std::move(dependencies)) {}
  MediatorThread& ThreadOf(Koid ring) { return *threads_[ring % threads_.size()]; }
  void RefreshConsumer(const Entry& entry);

  Dependencies dependencies_;
  QueueId next_queue_ = 1;
  absl::flat_hash_map<QueueId, Entry> queues_;
  absl::flat_hash_map<Koid, std::vector<QueueId>> by_buffer_;
  std::vector<std::unique_ptr<MediatorThread>> threads_;  // Last: they end first.
};

}  // namespace iob::server
