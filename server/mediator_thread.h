// MediatorThread: serves submission queues, the fast way into mediated rings.
//
//   loop --Add, Close, RoomMade--> inbox --> +--------+ --Serve--> ring (its lock held per turn)
//   client --eventfd kick------------------> | thread | --Posted--> loop: readable, updated, cut,
//                                            +--------+                   closed
//
//   T1  A queue belongs to one thread from Add until its Close is answered; its ring and region
//       live at least as long.
//   T2  What a client has published before its end is decided before Close is answered: stored
//       while there is room, else rejected and counted.
//   T3  Rings are shared with the loop, which writes them for sockets and gRPC and reads their
//       books: whoever touches one holds its lock, for one turn of one queue at most.
//   T4  With no queue active the thread sleeps, without a timeout unless an entry waits for room.
//
// Add, Close and RoomMade are for the loop; the rest belongs to the thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/event_loop.h"
#include "server/holder.h"
#include "server/queue_scheduler.h"
#include "server/region.h"
#include "shm/access.h"
#include "shm/submission_server.h"
#include "shm/unique_fd.h"

namespace iob::server {

// Where the records of a queue go.
struct QueueTarget {
  Koid buffer = 0;
  uint32_t region_index = 0;
  Region* region = nullptr;  // Of a mediated ring.
  shm::EndpointId writer = shm::EndpointId::kEp0;
  uint64_t tag = 0;

  RecordSink SinkFor(int64_t now_ns) const { return region->SinkFor(writer, tag, now_ns); }
};

// What the thread has to say. Called on the loop.
class QueueListener {
 public:
  virtual ~QueueListener() = default;
  // A consumer of the ring asked for a packet.
  virtual void OnQueueReadable(Koid buffer, uint32_t region_index) = 0;
  // A shared region got records.
  virtual void OnQueueUpdated(Koid shared_region) = 0;
  // The queue's words cannot be: its client is to be cut off.
  virtual void OnQueueViolation(QueueId queue) = 0;
  // The answer to Close.
  virtual void OnQueueClosed(QueueId queue) = 0;
};

class MediatorThread final : public QueueHost {
 public:
  // Loop and listener outlive it. UNAVAILABLE when the kernel has no room.
  static absl::StatusOr<std::unique_ptr<MediatorThread>> Start(EventLoop& loop,
                                                               QueueListener& listener);
  // Every queue is forgotten; what it has published stays undecided.
  ~MediatorThread() override;

  // `kick` is an eventfd that the client writes.
  void Add(QueueId id, const QueueTarget& target, shm::SubmissionServer server, shm::UniqueFd kick);
  void Close(QueueId id);
  // Room was made in this ring, or nobody is left to make any.
  void RoomMade(Koid ring);

  // Turns that decided something, and the entries of them; for metrics.
  uint64_t entries_served() const { return entries_served_.load(std::memory_order_relaxed); }
  // Times that the thread went to sleep.
  uint64_t sleeps() const { return sleeps_.load(std::memory_order_relaxed); }

 private:
  struct Queue {
    QueueTarget target;
    shm::SubmissionServer server;
    shm::UniqueFd kick;
    shm::Ledger accounted;        // Of server.totals(): in the ring's books.
    uint64_t rejected_noted = 0;  // Of server.totals(): told to the ring's gap records.
    uint64_t rejected_bytes_noted = 0;
    bool violation_told = false;
  };
  struct NewQueue {
    QueueId id = 0;
    std::unique_ptr<Queue> queue;
  };
  struct ClosedQueue {
    QueueId id = 0;
  };
  struct RoomInRing {
    Koid ring = 0;
  };
  using Message = std::variant<NewQueue, ClosedQueue, RoomInRing>;

  MediatorThread(EventLoop& loop, QueueListener& listener, shm::UniqueFd epoll,
                 shm::UniqueFd inbox);

  void Run();
  void Send(Message message);
  void TakeMessages();
  void OnNewQueue(NewQueue added);
  void OnClosedQueue(QueueId id);
  void Sleep(int64_t wake_at_ns);
  // Takes what epoll has without waiting, or waits up to `timeout_ms`.
  void TakeEvents(int timeout_ms);
  void Listen(QueueId id, const Queue& queue, bool listen);

  // QueueHost.
  shm::ServeResult Serve(QueueId id, const shm::ServeLimits& limits) override;
  bool BecomeIdle(QueueId id) override;
  void Activate(QueueId id) override;
  void Unmute(QueueId id) override;

  shm::ServeResult ServeLocked(QueueId id, Queue& queue, const shm::ServeLimits& limits);
  static void NoteRejected(Queue& queue, MediatedRing& ring);
  // What the queue has decided goes into the ring's books, and is published.
  void Account(Queue& queue, MediatedRing& ring);
  // This queue waits for so much room in its ring; 0: it does not.
  void Want(QueueId id, Queue& queue, uint64_t room_bytes);

  EventLoop& loop_;
  QueueListener& listener_;
  shm::UniqueFd epoll_;
  shm::UniqueFd inbox_;  // An eventfd.
  QueueScheduler scheduler_;
  absl::flat_hash_map<QueueId, std::unique_ptr<Queue>> queues_;
  // By ring: what each queue that waits there wants.
  absl::flat_hash_map<Koid, absl::btree_map<QueueId, uint64_t>> wants_;

  absl::Mutex mutex_;
  std::vector<Message> messages_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> has_messages_ = false;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> entries_served_ = 0;
  std::atomic<uint64_t> sleeps_ = 0;
  std::thread thread_;
};

}  // namespace iob::server
