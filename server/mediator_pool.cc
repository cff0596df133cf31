#include "server/mediator_pool.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/mutex_lock.h"
#include "shm/mapping.h"
#include "shm/result.h"

namespace iob::server {

absl::StatusOr<std::unique_ptr<MediatorPool>> MediatorPool::Start(size_t threads,
                                                                  Dependencies dependencies) {
  std::unique_ptr<MediatorPool> pool(new MediatorPool(std::move(dependencies)));
  for (size_t i = 0; i < threads; ++i) {
    IOB_ASSIGN_OR_RETURN(std::unique_ptr<MediatorThread> thread,
                         MediatorThread::Start(pool->dependencies_.loop, *pool));
    pool->threads_.push_back(std::move(thread));
  }
  return pool;
}

absl::StatusOr<MediatorPool::OpenedQueue> MediatorPool::Open(
    const Mediator::Target& target, uint32_t uid, uint32_t entry_bytes,
    absl::AnyInvocable<void()> on_violation) {
  if (entry_bytes > kEntryBytesMax) {
    return BadArgument("entry_bytes",
                       absl::StrCat(entry_bytes, ", at most ", kEntryBytesMax, " are allowed"));
  }
  shm::SubmissionLayout::Sizes sizes;
  if (entry_bytes != 0) sizes.capacity_bytes = shm::RoundUpToPages(entry_bytes);
  IOB_ASSIGN_OR_RETURN(const shm::SubmissionLayout layout, shm::SubmissionLayout::ForQueue(sizes));
  IOB_ASSIGN_OR_RETURN(
      Charge charge, dependencies_.quota.ChargeRegion(
                         uid, layout.submit_section_bytes() + layout.complete_section_bytes(), 1));
  IOB_ASSIGN_OR_RETURN(shm::SubmissionServer server, shm::SubmissionServer::Create(layout));
  shm::UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!kick.valid()) return shm::ErrnoStatus(errno, "eventfd");
  OpenedQueue opened{.id = next_queue_++,
                     .layout = layout,
                     .submission = {},
                     .completion = {},
                     .kick = shm::UniqueFd(::fcntl(kick.get(), F_DUPFD_CLOEXEC, 0))};
  if (!opened.kick.valid()) return shm::ErrnoStatus(errno, "F_DUPFD_CLOEXEC of an eventfd");
  IOB_ASSIGN_OR_RETURN(opened.submission, server.submit_memfd().OpenGrant(shm::FdMode::kReadWrite));
  IOB_ASSIGN_OR_RETURN(opened.completion,
                       server.complete_memfd().OpenGrant(shm::FdMode::kReadOnly));
  // Nobody else will ever get these sections.
  server.CloseDescriptors();

  Entry& entry = queues_[opened.id];
  entry = {.buffer = target.buffer->koid(),
           .region = target.region,
           .charge = std::move(charge),
           .on_violation = std::move(on_violation),
           .done = nullptr};
  by_buffer_[entry.buffer].push_back(opened.id);
  RefreshConsumer(entry);
  ThreadOf(target.region->koid())
      .Add(opened.id,
           {.buffer = entry.buffer,
            .region_index = target.region_index,
            .region = target.region,
            .writer = target.writer,
            .tag = target.tag},
           std::move(server), std::move(kick));
  return opened;
}

void MediatorPool::Close(QueueId id, absl::AnyInvocable<void()> done) {
  Entry& entry = queues_.at(id);
  entry.done = std::move(done);
  ThreadOf(entry.region->koid()).Close(id);
}

void MediatorPool::RoomMade(Region& region) {
  MediatedRing& ring = *region.ring();
  {
    const MutexLock lock(ring.mutex.get());
    if (ring.wants[static_cast<size_t>(MediatedRing::Waiter::kQueues)] == 0) return;
  }
  ThreadOf(region.koid()).RoomMade(region.koid());
}

void MediatorPool::RefreshConsumer(const Entry& entry) {
  const Buffer* const buffer = dependencies_.registry.Find(entry.buffer);
  if (buffer == nullptr) return;
  const bool left = ConsumerLeft(*buffer, *entry.region);
  MediatedRing& ring = *entry.region->ring();
  {
    const MutexLock lock(ring.mutex.get());
    if (std::exchange(ring.consumer_left, left) == left) return;
  }
  // Entries that wait for room must hear of it.
  if (!left) ThreadOf(entry.region->koid()).RoomMade(entry.region->koid());
}

void MediatorPool::RefreshConsumers(Koid buffer) {
  const auto found = by_buffer_.find(buffer);
  if (found != by_buffer_.end()) {
    for (const QueueId id : found->second) RefreshConsumer(queues_.at(id));
  }
  // Others may share a region with it.
  if (dependencies_.registry.shared_regions().empty()) return;
  for (const auto& [id, entry] : queues_) {
    if (entry.region->shared() != nullptr) RefreshConsumer(entry);
  }
}

void MediatorPool::OnQueueReadable(Koid buffer, uint32_t region_index) {
  dependencies_.on_readable(buffer, region_index);
}

void MediatorPool::OnQueueUpdated(Koid koid) {
  SharedRegion* const region = dependencies_.registry.FindSharedRegion(koid);
  if (region == nullptr) return;
  {
    const MutexLock lock(region->ring()->mutex.get());
    region->ring()->update_posted = false;
  }
  dependencies_.on_updated(koid);
}

void MediatorPool::OnQueueViolation(QueueId id) {
  const auto found = queues_.find(id);
  if (found != queues_.end() && found->second.done == nullptr) found->second.on_violation();
}

void MediatorPool::OnQueueClosed(QueueId id) {
  const auto found = queues_.find(id);
  if (found == queues_.end()) return;
  absl::AnyInvocable<void()> done = std::move(found->second.done);
  const auto of_buffer = by_buffer_.find(found->second.buffer);
  std::erase(of_buffer->second, id);
  if (of_buffer->second.empty()) by_buffer_.erase(of_buffer);
  queues_.erase(found);
  done();
}

uint64_t MediatorPool::entries_served() const {
  uint64_t sum = 0;
  for (const auto& thread : threads_) sum += thread->entries_served();
  return sum;
}

uint64_t MediatorPool::sleeps() const {
  uint64_t sum = 0;
  for (const auto& thread : threads_) sum += thread->sleeps();
  return sum;
}

}  // namespace iob::server
