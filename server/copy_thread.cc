#include "server/copy_thread.h"

#include <utility>

#include "server/mutex_lock.h"

namespace iob::server {

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
