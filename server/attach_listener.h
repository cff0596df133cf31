// AttachListener: the table of attach connections, and what the registry wants them to hear.
//
// It accepts, bounds how many may be silent at once, keeps the order of batches that wait for room
// in a ring, and carries registry events (peer closed, revoke) to the connections they concern.
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "server/acceptor.h"
#include "server/attach_connection.h"
#include "server/event_loop.h"
#include "server/limits.h"
#include "server/mediator.h"
#include "server/mediator_pool.h"
#include "server/registry.h"
#include "server/ring_keeper.h"
#include "server/snapshots.h"

namespace iob::server {

class AttachListener final : public AttachHost {
 public:
  // All outlive the listener.
  struct Dependencies {
    EventLoop& loop;
    Registry& registry;
    Mediator& mediator;
    MediatorPool& mediator_pool;
    RingKeeper& ring_keeper;
    Snapshots& snapshots;
    const Limits& limits;
  };
  // `listening` is the attach socket.
  static absl::StatusOr<std::unique_ptr<AttachListener>> Start(const Dependencies& dependencies,
                                                               shm::UniqueFd listening);

  // From the registry's observer.
  void OnEndpointClosed(Koid buffer, shm::EndpointId endpoint, shm::CloseReason reason);
  void OnRevoke(AttachmentId attachment);
  void OnSignals(Koid buffer, shm::EndpointId endpoint);
  // From the mediators, and from producers of direct rings: a consumer asked for a packet.
  void OnReadable(const Buffer& buffer, uint32_t region_index) override;

  // For a stall policy: kills the process that holds this attachment. False when it is gone, or
  // not ours to kill.
  bool KillHolder(AttachmentId attachment);

  void StopAccepting() { acceptor_->Stop(); }

  struct Counters {
    uint64_t attached = 0;
    absl::flat_hash_map<int, uint64_t> refused_by_reason;  // By ErrorReason.
    uint64_t turned_away = 0;  // No descriptors, or too many silent ones.
  };
  Counters counters() const;
  size_t connection_count() const { return connections_.size(); }

  // AttachHost.
  EventLoop& loop() override { return loop_; }
  Registry& registry() override { return registry_; }
  Mediator& mediator() override { return mediator_; }
  MediatorPool& mediator_pool() override { return mediator_pool_; }
  std::optional<absl::Status> SendSnapshot(const Token& ticket, uint32_t peer_uid,
                                           shm::FdChannel& channel) override;
  void OnAttached(ConnectionId connection, AttachmentId attachment) override;
  void OnRefused(const absl::Status& why, const Identity& who) override;
  void OnWaitsForRoom(ConnectionId connection, Region& region) override;
  void OnWaitsNoMore(ConnectionId connection, Region& region) override;
  bool OthersWait(ConnectionId connection, const Region& region) const override;
  void OnRoomMade(Region& region) override;
  void OnStalled(const Buffer& buffer, uint32_t region_index) override;
  void OnGone(ConnectionId connection, AttachmentId attachment) override;

 private:
  explicit AttachListener(const Dependencies& dependencies)
      : loop_(dependencies.loop),
        registry_(dependencies.registry),
        mediator_(dependencies.mediator),
        mediator_pool_(dependencies.mediator_pool),
        ring_keeper_(dependencies.ring_keeper),
        snapshots_(dependencies.snapshots),
        limits_(dependencies.limits) {}
  void OnConnection(shm::UniqueFd socket);
  AttachConnection* OfAttachment(AttachmentId attachment);
  std::vector<AttachConnection*> AttachedTo(const Buffer& buffer, shm::EndpointId endpoint);
  void GiveUpWaiting(const Buffer& buffer);
  void GiveUpWaiting(Koid region);

  EventLoop& loop_;
  Registry& registry_;
  Mediator& mediator_;
  MediatorPool& mediator_pool_;
  RingKeeper& ring_keeper_;
  Snapshots& snapshots_;
  const Limits& limits_;
  ConnectionId next_connection_ = 1;
  absl::flat_hash_map<ConnectionId, std::unique_ptr<AttachConnection>> connections_;
  absl::flat_hash_set<ConnectionId> pending_;  // Without a ticket yet.
  absl::flat_hash_map<AttachmentId, ConnectionId> by_attachment_;
  // By the region's koid; first come, first served.
  absl::flat_hash_map<Koid, std::deque<ConnectionId>> waiting_;
  std::vector<std::unique_ptr<AttachConnection>> gone_;
  Registration sweep_;
  Counters counters_;
  std::unique_ptr<Acceptor> acceptor_;
};

}  // namespace iob::server
