// EventLoop: the one thread that owns the daemon's state.
//
//   fd readiness --epoll-->  +------+
//   timers (Clock) ------->  | loop |--> callbacks, one at a time, never nested
//   Post() from anywhere ->  +------+
//
//   E1  Everything but Post and Quit is for the loop thread (or before Run).
//   E2  Registrations have ids that are never reused: an event for a closed and reused descriptor
//       number finds no registration and is dropped.
//   E3  A callback may end any registration, its own too.
//   E4  Post is bounded: false means the loop is behind, and the caller must say "busy".
//   E5  With nothing registered to happen, the loop sleeps without a timeout.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/clock.h"
#include "shm/unique_fd.h"

namespace iob::server {

// 4096 tasks are about 40 ms of work: longer than that, and a client is better served by
// UNAVAILABLE and its own back-off.
inline constexpr size_t kPostedTasksMax = 4096;

class EventLoop;

// A registration; ends when destroyed. Empty by default.
class Registration {
 public:
  Registration() = default;
  Registration(Registration&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), id_(other.id_) {}
  Registration& operator=(Registration&& other) noexcept;
  ~Registration() { End(); }

  bool active() const { return loop_ != nullptr; }
  void End();

 private:
  friend class EventLoop;
  Registration(EventLoop* loop, uint64_t id) : loop_(loop), id_(id) {}
  EventLoop* loop_ = nullptr;
  uint64_t id_ = 0;
};

class EventLoop {
 public:
  using Task = absl::AnyInvocable<void()>;
  using FdCallback = absl::AnyInvocable<void(uint32_t events)>;

  // `clock` outlives the loop.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(const Clock& clock);

  // Calls back while `fd` shows any of `events` (EPOLLIN, ...; EPOLLERR and EPOLLHUP always count).
  // The descriptor must outlive the registration. UNAVAILABLE when the kernel has no room.
  absl::StatusOr<Registration> WatchFd(int fd, uint32_t events, FdCallback callback);
  // Other events for a registration of WatchFd.
  void ChangeEvents(const Registration& registration, uint32_t events);

  // Calls back once, at or after `deadline_ns` of the monotonic clock.
  Registration RunAt(int64_t deadline_ns, Task task);
  Registration RunAfterMs(int64_t delay_ms, Task task);

  // From any thread: runs `task` soon, on the loop. False when kPostedTasksMax are waiting.
  [[nodiscard]] bool Post(Task task);
  // The same without the bound: for the few things that a loop must hear that is behind.
  void PostUrgent(Task task);

  // Runs until Quit, then what was posted before it.
  void Run();
  // From any thread, once.
  void Quit();

  const Clock& clock() const { return clock_; }

  // Tasks that Post turned away.
  uint64_t posts_refused() const { return posts_refused_.load(std::memory_order_relaxed); }

 private:
  friend class Registration;
  struct FdEntry {
    int fd = -1;
    FdCallback callback;
  };

  EventLoop(const Clock& clock, shm::UniqueFd epoll, shm::UniqueFd wakeup);
  void End(uint64_t id);
  int TimeoutMs() const;
  void RunFdCallback(uint64_t id, uint32_t events);
  void RunDueTimers();
  void RunPosted();
  void Wake();

  const Clock& clock_;
  shm::UniqueFd epoll_;
  shm::UniqueFd wakeup_;  // An eventfd.
  uint64_t next_id_ = 1;  // 0 is the wakeup descriptor.
  absl::flat_hash_map<uint64_t, std::unique_ptr<FdEntry>> fds_;
  absl::btree_map<std::pair<int64_t, uint64_t>, Task> timers_;
  absl::flat_hash_map<uint64_t, int64_t> timer_deadlines_;
  // The entry whose callback runs now, kept alive when the callback ends its own registration (E3).
  uint64_t running_id_ = 0;
  std::unique_ptr<FdEntry> ended_while_running_;

  absl::Mutex mutex_;
  std::vector<Task> posted_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> quit_ = false;
  std::atomic<uint64_t> posts_refused_ = 0;
};

}  // namespace iob::server
