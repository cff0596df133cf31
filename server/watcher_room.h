// WatcherRoom: how many streams there may be at once, in all and of one uid.
//
// A stream takes its place when it starts and returns it when its call is over, not when it has
// ended: a client that does not read keeps the place, so that such streams are bounded too.
//
// Belongs to the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace iob::server {

class WatcherRoom {
 public:
  // One uid gets a quarter of `streams_max`.
  explicit WatcherRoom(size_t streams_max) : streams_max_(streams_max) {}

  // QUOTA when there is none left; then nothing was taken.
  absl::Status Take(uint32_t uid);
  void Return(uint32_t uid);

  size_t count() const { return count_; }

 private:
  const size_t streams_max_;
  size_t count_ = 0;
  absl::flat_hash_map<uint32_t, size_t> count_by_uid_;
};

}  // namespace iob::server
