#include "server/copy_thread.h"

#include <sys/resource.h>

#include <utility>

#include "server/mutex_lock.h"

namespace iob::server {
namespace {

// Enough for loop and mediators to run as soon as they wake, where they have to share a processor
// with the thread; little enough to get on beside them.
constexpr int kNice = 5;

}  // namespace

CopyThread::CopyThread() : thread_([this] { Loop(); }) {}

CopyThread::~CopyThread() {
  {
    const MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void CopyThread::Run(Work work) {
  const MutexLock lock(&mutex_);
  queue_.push_back(std::move(work));
}

void CopyThread::Loop() {
  // Of this thread alone. Where it is refused, others wait longer for their turn.
  (void)::setpriority(PRIO_PROCESS, 0, kNice);
  while (true) {
    std::vector<Work> taken;
    {
      const MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CopyThread::HasWork));
      if (stop_) return;
      taken.swap(queue_);
    }
    for (Work& work : taken) work();
  }
}

}  // namespace iob::server
