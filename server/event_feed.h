// EventFeed: what happened to objects, in plain values, becomes events that watchers get.
//
//   registry's observer --values--> feed --message--> log
//                                     '--sequence--> watchers
//
// To be called when the change is complete: a watcher that starts right after it sees the new
// state, and one that started before gets the event. No policy here. Owned by the loop thread.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "iob/v1/broker.pb.h"
#include "server/event_log.h"
#include "server/holder.h"
#include "server/registry.h"
#include "server/ring_keeper.h"
#include "server/watchers.h"
#include "shm/access.h"
#include "shm/signal_page.h"

namespace iob::server {

class EventFeed {
 public:
  // Both outlive the feed.
  EventFeed(EventLog& log, Watchers& watchers) : log_(log), watchers_(watchers) {}

  void BufferCreated(const BufferLabel& buffer, const HolderInfo& owner, uint64_t memory_bytes);
  void BufferRenamed(const BufferLabel& buffer, absl::string_view old_name);
  void EndpointAttached(const BufferLabel& buffer, shm::EndpointId endpoint,
                        const HolderInfo& holder);
  void EndpointDetached(const BufferLabel& buffer, shm::EndpointId endpoint,
                        const HolderInfo& holder, shm::CloseReason reason);
  void EndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint, shm::CloseReason reason);
  void BufferGone(const BufferLabel& buffer);
  // `signals`: all that are raised now.
  void SignalsChanged(const BufferLabel& buffer, shm::EndpointId endpoint, uint32_t signals);

  // A producer of this region has stopped in the middle of a record.
  void ProducerStalled(const RingKeeper::Stall& stall);

  void RegionSignalsChanged(Koid shared_region, uint32_t owner_uid, uint32_t signals);
  void RegionGone(Koid shared_region, uint32_t owner_uid);

 private:
  void Publish(v1::WatchEventsResponse event, uint32_t owner_uid);

  EventLog& log_;
  Watchers& watchers_;
};

}  // namespace iob::server
