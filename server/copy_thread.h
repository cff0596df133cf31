// CopyThread: does one thing after the other, beside the loop.
//
//   loop --Run(work)--> queue --> thread: work() --> what the work itself posts to the loop
//
// For copying: a page that has to be made and filled takes longer than the loop has. Work is cut
// into slices by whoever asks, so that several copies share the thread. Run is for one thread.
#pragma once

#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace iob::server {

class CopyThread {
 public:
  using Work = absl::AnyInvocable<void()>;

  CopyThread();
  // Finishes what runs; what waits is dropped.
  ~CopyThread();

  void Run(Work work);

 private:
  void Loop();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || !queue_.empty(); }

  absl::Mutex mutex_;
  std::vector<Work> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: it uses the rest.
};

}  // namespace iob::server
