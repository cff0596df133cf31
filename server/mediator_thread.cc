#include "server/mediator_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "server/mutex_lock.h"
#include "shm/futex.h"
#include "shm/kernel.h"
#include "shm/result.h"
#include "shm/waiter.h"

namespace iob::server {
namespace {

constexpr uint64_t kInboxTag = 0;  // Queue ids start at 1.
// Rounds with work between two looks at kicks: what an idle queue may have to wait behind others.
constexpr uint32_t kRoundsPerLook = 32;

void Drain(int fd) {
  uint64_t count = 0;
  // Nonblocking; whoever writes it makes it readable again.
  (void)!::read(fd, &count, sizeof(count));
}

shm::Ledger Since(const shm::Ledger& before, const shm::Ledger& now) {
  shm::Ledger more;
  more.attempted_records = now.attempted_records - before.attempted_records;
  more.attempted_bytes = now.attempted_bytes - before.attempted_bytes;
  more.stored_records = now.stored_records - before.stored_records;
  more.stored_bytes = now.stored_bytes - before.stored_bytes;
  for (size_t cause = 0; cause < shm::kLossCauses; ++cause) {
    more.rejected_records[cause] = now.rejected_records[cause] - before.rejected_records[cause];
    more.rejected_bytes[cause] = now.rejected_bytes[cause] - before.rejected_bytes[cause];
  }
  return more;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MediatorThread>> MediatorThread::Start(EventLoop& loop,
                                                                      QueueListener& listener) {
  shm::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return shm::ErrnoStatus(errno, "epoll_create1");
  shm::UniqueFd inbox(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!inbox.valid()) return shm::ErrnoStatus(errno, "eventfd");
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = kInboxTag;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, inbox.get(), &event) != 0)
    return shm::ErrnoStatus(errno, "epoll_ctl");
  std::unique_ptr<MediatorThread> thread(
      new MediatorThread(loop, listener, std::move(epoll), std::move(inbox)));
  thread->thread_ = std::thread([self = thread.get()] { self->Run(); });
  ::pthread_setname_np(thread->thread_.native_handle(), "iob-mediator");
  return thread;
}

MediatorThread::MediatorThread(EventLoop& loop, QueueListener& listener, shm::UniqueFd epoll,
                               shm::UniqueFd inbox)
    : loop_(loop),
      listener_(listener),
      epoll_(std::move(epoll)),
      inbox_(std::move(inbox)),
      scheduler_(*this) {}

MediatorThread::~MediatorThread() {
  stop_.store(true, std::memory_order_release);
  const uint64_t one = 1;
  (void)!::write(inbox_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

// --- The loop's side -----------------------------------------------------------------------------

void MediatorThread::Send(Message message) {
  {
    const MutexLock lock(&mutex_);
    messages_.push_back(std::move(message));
    has_messages_.store(true, std::memory_order_release);
  }
  const uint64_t one = 1;
  (void)!::write(inbox_.get(), &one, sizeof(one));
}

void MediatorThread::Add(QueueId id, const QueueTarget& target, shm::SubmissionServer server,
                         shm::UniqueFd kick) {
  Send(NewQueue{.id = id,
                .queue = std::make_unique<Queue>(Queue{.target = target,
                                                       .server = std::move(server),
                                                       .kick = std::move(kick),
                                                       .accounted = {},
                                                       .rejected_noted = 0,
                                                       .rejected_bytes_noted = 0,
                                                       .violation_told = false})});
}

void MediatorThread::Close(QueueId id) { Send(ClosedQueue{.id = id}); }

void MediatorThread::RoomMade(Koid ring) { Send(RoomInRing{.ring = ring}); }

// --- The thread ----------------------------------------------------------------------------------

void MediatorThread::Run() {
  uint32_t rounds = 0;
  while (!stop_.load(std::memory_order_acquire)) {
    if (has_messages_.load(std::memory_order_acquire)) TakeMessages();
    const QueueScheduler::RoundResult round = scheduler_.RunRound(shm::MonotonicNs());
    if (!round.active) {
      Sleep(round.wake_at_ns);
      rounds = 0;
      continue;
    }
    if (++rounds % kRoundsPerLook == 0) TakeEvents(0);
    if (round.did_work) continue;
    if (shm::Waiter::SeveralProcessors()) {
      shm::CpuRelax();
    } else {
      // Spinning would keep the client from filling its queue.
      ::sched_yield();
    }
  }
}

void MediatorThread::TakeMessages() {
  std::vector<Message> messages;
  {
    const MutexLock lock(&mutex_);
    messages.swap(messages_);
    has_messages_.store(false, std::memory_order_relaxed);
  }
  for (Message& message : messages) {
    if (auto* const added = std::get_if<NewQueue>(&message)) OnNewQueue(std::move(*added));
    if (const auto* const closed = std::get_if<ClosedQueue>(&message)) OnClosedQueue(closed->id);
    if (const auto* const room = std::get_if<RoomInRing>(&message)) scheduler_.RoomMade(room->ring);
  }
}

void MediatorThread::OnNewQueue(NewQueue added) {
  const Queue& queue = *added.queue;
  Listen(added.id, queue, true);
  scheduler_.Add(added.id, {.weight = 1, .ring_id = queue.target.region->koid()});
  queues_[added.id] = std::move(added.queue);
}

void MediatorThread::OnClosedQueue(QueueId id) {
  const auto found = queues_.find(id);
  if (found == queues_.end()) return;
  Queue& queue = *found->second;
  scheduler_.Remove(id);
  {
    MediatedRing& ring = *queue.target.region->ring();
    const MutexLock lock(ring.mutex.get());
    const RecordSink sink = queue.target.SinkFor(shm::MonotonicNs());
    queue.server.FinishAll(
        shm::LossCause::kClosed,
        [&](std::span<const std::byte> payload) {
          NoteRejected(queue, ring);
          return sink.Append(payload);
        },
        [&] { Account(queue, ring); });
    Want(id, queue, 0);
  }
  queues_.erase(found);
  loop_.PostUrgent([this, id] { listener_.OnQueueClosed(id); });
}

void MediatorThread::Listen(QueueId id, const Queue& queue, bool listen) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.u64 = id;
  // Without room in the kernel the queue is served all the same, while others are: it is looked at
  // whenever it is active, and a client that waits for it kicks again.
  ::epoll_ctl(epoll_.get(), listen ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, queue.kick.get(), &event);
}

void MediatorThread::Sleep(int64_t wake_at_ns) {
  int timeout_ms = -1;
  if (wake_at_ns != QueueScheduler::kNever) {
    constexpr int64_t kNsPerMs = 1'000'000;
    const int64_t left_ns = std::max<int64_t>(0, wake_at_ns - shm::MonotonicNs());
    timeout_ms = static_cast<int>(std::min<int64_t>((left_ns + kNsPerMs - 1) / kNsPerMs, 60'000));
  }
  sleeps_.store(sleeps_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  TakeEvents(timeout_ms);
}

void MediatorThread::TakeEvents(int timeout_ms) {
  std::array<epoll_event, 64> events;
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  const int64_t now_ns = shm::MonotonicNs();
  for (int i = 0; i < count; ++i) {
    const QueueId id = events[static_cast<size_t>(i)].data.u64;
    if (id == kInboxTag) {
      Drain(inbox_.get());
      continue;
    }
    const auto found = queues_.find(id);
    if (found == queues_.end()) continue;
    const Queue& queue = *found->second;
    Drain(queue.kick.get());
    if (scheduler_.Kick(id, now_ns) == QueueScheduler::KickOutcome::kMuted)
      Listen(id, queue, false);
  }
}

// --- Serving -------------------------------------------------------------------------------------

bool MediatorThread::BecomeIdle(QueueId id) { return queues_.at(id)->server.BecomeIdle(); }

void MediatorThread::Activate(QueueId id) { queues_.at(id)->server.Activate(); }

void MediatorThread::Unmute(QueueId id) { Listen(id, *queues_.at(id), true); }

shm::ServeResult MediatorThread::Serve(QueueId id, const shm::ServeLimits& limits) {
  Queue& queue = *queues_.at(id);
  const MutexLock lock(queue.target.region->ring()->mutex.get());
  const shm::ServeResult result = ServeLocked(id, queue, limits);
  if (result.state == shm::ServeState::kViolation && !std::exchange(queue.violation_told, true)) {
    loop_.PostUrgent([this, id] { listener_.OnQueueViolation(id); });
  }
  return result;
}

shm::ServeResult MediatorThread::ServeLocked(QueueId id, Queue& queue,
                                             const shm::ServeLimits& limits) {
  MediatedRing& ring = *queue.target.region->ring();
  const RecordSink sink = queue.target.SinkFor(limits.now_ns);
  shm::ServeResult result = queue.server.Serve(
      limits,
      [&](std::span<const std::byte> payload) {
        NoteRejected(queue, ring);
        return sink.Append(payload);
      },
      // The client learns that a record is stored when readers can see it.
      [&] { Account(queue, ring); });
  if (result.state == shm::ServeState::kBlocked && !ring.consumer_left) {
    queue.server.GiveUp(shm::LossCause::kClosed);
    Account(queue, ring);
    result.entries += 1;
    result.state = shm::ServeState::kMore;
  }
  if (result.entries != 0) {
    entries_served_.store(entries_served_.load(std::memory_order_relaxed) + result.entries,
                          std::memory_order_relaxed);
  }
  if (result.state != shm::ServeState::kBlocked) {
    Want(id, queue, 0);
    return result;
  }
  // The consumer sees what is there, for it was published. Say what is wanted, and look once more:
  // it may have made the room before it could read the wish.
  const uint64_t room_bytes = result.room_bytes + ring.writer.options().stamp_bytes();
  Want(id, queue, room_bytes);
  ring.writer.RefreshTail();
  if (ring.FreeBytes() >= room_bytes) result.state = shm::ServeState::kMore;
  return result;
}

// Just before the next record is stored, so that a gap is told where it is.
void MediatorThread::NoteRejected(Queue& queue, MediatedRing& ring) {
  const shm::Ledger& totals = queue.server.totals();
  const uint64_t rejected = totals.attempted_records - totals.stored_records;
  if (rejected == queue.rejected_noted) [[likely]]
    return;
  const uint64_t bytes = totals.attempted_bytes - totals.stored_bytes;
  ring.writer.NoteRejected(rejected - queue.rejected_noted, bytes - queue.rejected_bytes_noted);
  queue.rejected_noted = rejected;
  queue.rejected_bytes_noted = bytes;
}

void MediatorThread::Account(Queue& queue, MediatedRing& ring) {
  NoteRejected(queue, ring);
  Region& region = *queue.target.region;
  const shm::Ledger more = Since(queue.accounted, queue.server.totals());
  if (more.attempted_records == 0) return;
  queue.accounted = queue.server.totals();
  region.Count(queue.target.writer, more);
  if (ring.writer.Publish(ring.ledger)) {
    loop_.PostUrgent([this, buffer = queue.target.buffer, index = queue.target.region_index] {
      listener_.OnQueueReadable(buffer, index);
    });
  }
  if (more.stored_records == 0 || region.shared() == nullptr) return;
  // One message to the loop at a time, however many turns there are until it gets there.
  if (std::exchange(ring.update_posted, true)) return;
  loop_.PostUrgent([this, koid = region.koid()] { listener_.OnQueueUpdated(koid); });
}

void MediatorThread::Want(QueueId id, Queue& queue, uint64_t room_bytes) {
  MediatedRing& ring = *queue.target.region->ring();
  const Koid koid = queue.target.region->koid();
  const auto found = wants_.find(koid);
  if (room_bytes == 0) {
    if (found == wants_.end() || found->second.erase(id) == 0) return;
  } else {
    wants_[koid][id] = room_bytes;
  }
  uint64_t least = 0;
  for (const auto& [queue_id, bytes] : wants_[koid])
    least = least == 0 ? bytes : std::min(least, bytes);
  if (least == 0) wants_.erase(koid);
  ring.Want(MediatedRing::Waiter::kQueues, least);
}

}  // namespace iob::server
