#include "server/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "server/mutex_lock.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr uint64_t kWakeupId = 0;
constexpr int64_t kNsPerMs = 1'000'000;
constexpr int kEventsPerPass = 64;

}  // namespace

Registration& Registration::operator=(Registration&& other) noexcept {
  if (this != &other) {
    End();
    loop_ = std::exchange(other.loop_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

void Registration::End() {
  if (loop_ == nullptr) return;
  std::exchange(loop_, nullptr)->End(id_);
}

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(const Clock& clock) {
  shm::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return shm::ErrnoStatus(errno, "epoll_create1");
  shm::UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wakeup.valid()) return shm::ErrnoStatus(errno, "eventfd");
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = kWakeupId}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wakeup.get(), &event) != 0) {
    return shm::ErrnoStatus(errno, "epoll_ctl");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(clock, std::move(epoll), std::move(wakeup)));
}

EventLoop::EventLoop(const Clock& clock, shm::UniqueFd epoll, shm::UniqueFd wakeup)
    : clock_(clock), epoll_(std::move(epoll)), wakeup_(std::move(wakeup)) {}

absl::StatusOr<Registration> EventLoop::WatchFd(int fd, uint32_t events, FdCallback callback) {
  const uint64_t id = next_id_++;
  epoll_event event = {.events = events, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return shm::ErrnoStatus(errno, "epoll_ctl ADD");
  }
  fds_[id] = std::make_unique<FdEntry>(FdEntry{.fd = fd, .callback = std::move(callback)});
  return Registration(this, id);
}

void EventLoop::ChangeEvents(const Registration& registration, uint32_t events) {
  const auto found = fds_.find(registration.id_);
  IOB_CHECK(registration.loop_ == this && found != fds_.end());
  epoll_event event = {.events = events, .data = {.u64 = registration.id_}};
  const int result = ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event);
  IOB_CHECK(result == 0);
}

Registration EventLoop::RunAt(int64_t deadline_ns, Task task) {
  const uint64_t id = next_id_++;
  timers_[{deadline_ns, id}] = std::move(task);
  timer_deadlines_[id] = deadline_ns;
  return Registration(this, id);
}

Registration EventLoop::RunAfterMs(int64_t delay_ms, Task task) {
  return RunAt(clock_.MonotonicNs() + delay_ms * kNsPerMs, std::move(task));
}

void EventLoop::End(uint64_t id) {
  if (const auto timer = timer_deadlines_.find(id); timer != timer_deadlines_.end()) {
    timers_.erase({timer->second, id});
    timer_deadlines_.erase(timer);
    return;
  }
  const auto found = fds_.find(id);
  if (found == fds_.end()) return;  // A timer that has run.
  const int result = ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
  // Failing means that the descriptor was closed before its registration: a bug of ours (E2).
  IOB_CHECK(result == 0);
  if (id == running_id_) ended_while_running_ = std::move(found->second);
  fds_.erase(found);
}

bool EventLoop::Post(Task task) {
  {
    const MutexLock lock(&mutex_);
    if (posted_.size() >= kPostedTasksMax) {
      posts_refused_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    posted_.push_back(std::move(task));
    // Somebody else has woken the loop for the tasks before this one.
    if (posted_.size() > 1) return true;
  }
  Wake();
  return true;
}

void EventLoop::PostUrgent(Task task) {
  {
    const MutexLock lock(&mutex_);
    posted_.push_back(std::move(task));
  }
  Wake();
}

void EventLoop::Quit() {
  quit_.store(true, std::memory_order_release);
  Wake();
}

void EventLoop::Wake() {
  const uint64_t one = 1;
  // Can only fail when the counter is full, and then the loop is awake already.
  [[maybe_unused]] const ssize_t written = ::write(wakeup_.get(), &one, sizeof(one));
}

int EventLoop::TimeoutMs() const {
  if (timers_.empty()) return -1;
  const int64_t left_ns = timers_.begin()->first.first - clock_.MonotonicNs();
  return static_cast<int>(
      std::clamp<int64_t>((left_ns + kNsPerMs - 1) / kNsPerMs, 0, int64_t{24} * 3600 * 1000));
}

void EventLoop::RunFdCallback(uint64_t id, uint32_t events) {
  const auto found = fds_.find(id);
  if (found == fds_.end()) return;
  running_id_ = id;
  found->second->callback(events);
  running_id_ = 0;
  ended_while_running_.reset();
}

void EventLoop::RunDueTimers() {
  // Only those due now: a timer that arms itself again waits for the next pass.
  const int64_t now_ns = clock_.MonotonicNs();
  const uint64_t first_new_id = next_id_;
  while (!timers_.empty()) {
    const auto first = timers_.begin();
    const auto [deadline_ns, id] = first->first;
    if (deadline_ns > now_ns || id >= first_new_id) return;
    Task task = std::move(first->second);
    timers_.erase(first);
    timer_deadlines_.erase(id);
    task();
  }
}

void EventLoop::RunPosted() {
  std::vector<Task> tasks;
  {
    const MutexLock lock(&mutex_);
    tasks.swap(posted_);
  }
  for (Task& task : tasks) task();
}

void EventLoop::Run() {
  std::array<epoll_event, kEventsPerPass> events;
  while (!quit_.load(std::memory_order_acquire)) {
    const int ready = ::epoll_wait(epoll_.get(), events.data(), kEventsPerPass, TimeoutMs());
    IOB_CHECK(ready >= 0 || errno == EINTR);
    for (int i = 0; i < ready; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 != kWakeupId) {
        RunFdCallback(event.data.u64, event.events);
        continue;
      }
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t size = ::read(wakeup_.get(), &count, sizeof(count));
    }
    RunPosted();
    RunDueTimers();
  }
  // For tests, which run a loop in turns with what they do to it.
  quit_.store(false, std::memory_order_relaxed);
  RunPosted();
}

}  // namespace iob::server
