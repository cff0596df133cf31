// Liveness: when is an endpoint really gone?
//
//   closed(ep) = no handle AND no ticket AND no attachment AND every grant's lock is free
//
// The registry says when the first three hold. The last is asked of the kernel (shm/grant_lock.h):
// at once, then whenever inotify reports that some description of one of the buffer's sections was
// finally closed, a moment after that (the event comes just before the lock goes), and every
// second, because inotify queues overflow. Nothing runs while no endpoint waits.
//
// Whoever allocated ids by himself is settled the same way, once the grant that he did it through
// is free, and before his endpoint counts as closed.
//
// What it does not do: heartbeats (a stopped process is not a dead one), and end of stream (a
// closed socket says nothing about mappings).
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/event_loop.h"
#include "server/registry.h"
#include "shm/unique_fd.h"

namespace iob::server {

class Liveness {
 public:
  // Both outlive it.
  static absl::StatusOr<std::unique_ptr<Liveness>> Create(EventLoop& loop, Registry& registry);

  // From the registry's observer.
  void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint);
  void OnOwnersLeft(Koid buffer);
  void OnBufferGone(Koid buffer);

  // Endpoints whose last hold is gone but whose memory somebody still holds.
  size_t waiting_count() const { return waiting_.size(); }

 private:
  using Key = std::pair<Koid, shm::EndpointId>;

  Liveness(EventLoop& loop, Registry& registry, shm::UniqueFd inotify);
  // True when the endpoint needs no more waiting.
  bool Settle(const Key& key);
  void StopWaiting(const Key& key);
  bool Waits(Koid koid) const;
  void WatchSections(Koid koid);
  void DropWatches(Koid koid);
  void OnInotify();
  void LookAtAll();
  void ArmTimers();

  EventLoop& loop_;
  Registry& registry_;
  shm::UniqueFd inotify_;
  absl::btree_set<Key> waiting_;
  absl::btree_set<Koid> reaping_;  // Buffers with id owners that have left.
  absl::flat_hash_map<Koid, std::vector<int>> watches_;
  absl::flat_hash_map<int, int> watch_users_;  // Buffers that share a region share its watch.
  Registration inotify_watch_;
  Registration soon_;
  Registration slow_;
};

}  // namespace iob::server
