// RingKeeper: what shared reserve rings need from the broker while everybody lives.
//
//   consumer: "I am stuck" --Report--> suspect --still there after stall_ms--> told; killed, or
//                                         '-- gone: forgotten                  left behind
//
//   K1  A stall is believed only when the ring itself shows it, at the beginning and at the end of
//       stall_ms by the broker's own clock: no consumer can have a producer killed that is at work.
//   K2  Only a producer that runs as the uid of the buffer's owner is ever killed.
//   K3  One alarm per record that is stuck.
//   K4  A ring that is renewed is looked at once a second, until its old memory is free again.
//
// Once a minute, while anybody is attached to such a ring, old stamps are replaced
// (shm/reserve_shared_recovery.h, R5). Owned by the loop thread.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/functional/any_invocable.h"
#include "server/event_loop.h"
#include "server/registry.h"

namespace iob::server {

class RingKeeper {
 public:
  struct Stall {
    BufferLabel buffer;
    shm::EndpointId endpoint = shm::EndpointId::kEp0;
    uint32_t region_index = 0;
    HolderInfo holder;
    bool killed = false;
    bool renewed = false;
  };
  // Kills the process that holds an attachment; false when that is not possible.
  using Kill = absl::AnyInvocable<bool(AttachmentId)>;
  using Tell = absl::AnyInvocable<void(const Stall&)>;

  // Loop and registry outlive the keeper.
  RingKeeper(EventLoop& loop, Registry& registry, Kill kill, Tell tell)
      : loop_(loop), registry_(registry), kill_(std::move(kill)), tell_(std::move(tell)) {}

  // The consumer of this ring says that it is stuck.
  void Report(Koid buffer, uint32_t region_index);
  // Somebody was attached to this buffer.
  void OnAttached(Koid buffer);
  void OnBufferGone(Koid buffer);

  uint64_t stalls() const { return stalls_; }
  uint64_t renewals() const { return renewals_; }

 private:
  using Key = std::pair<Koid, uint32_t>;
  struct Suspect {
    StalledSeat seat;
    bool told = false;
    Registration timer;
  };

  DirectRing* RingOf(const Key& key);
  void LookAgain(const Key& key);
  const Attachment* HolderOf(const Key& key, uint32_t seat) const;
  bool Renew(const Key& key);
  void ReapGenerations();
  void ArmReaping();
  void Maintain();
  void ArmMaintenance();

  EventLoop& loop_;
  Registry& registry_;
  Kill kill_;
  Tell tell_;
  absl::btree_map<Key, Suspect> suspects_;
  absl::btree_set<Key> renewed_;  // With old memory.
  Registration reaping_;
  Registration maintenance_;
  uint64_t stalls_ = 0;
  uint64_t renewals_ = 0;
};

}  // namespace iob::server
