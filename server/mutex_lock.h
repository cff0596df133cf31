// MutexLock: absl::MutexLock, as ThreadSanitizer needs it.
//
// Debian's libabsl is built without ThreadSanitizer, which therefore sees a mutex do nothing and
// reports what it guards as races. Under ThreadSanitizer this lock says what really happened; in
// all other builds it is absl::MutexLock.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IOB_UNDER_TSAN 1
#include <sanitizer/tsan_interface.h>
#endif
#endif

namespace iob::server {

#if defined(IOB_UNDER_TSAN)
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(absl::Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
    __tsan_acquire(mutex_);
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() ABSL_UNLOCK_FUNCTION() {
    __tsan_release(mutex_);
    mutex_->Unlock();
  }

 private:
  absl::Mutex* mutex_;
};
#else
using absl::MutexLock;
#endif

}  // namespace iob::server
