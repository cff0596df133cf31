#include "server/event_feed.h"

#include <string>
#include <utility>

#include "server/convert.h"

namespace iob::server {
namespace {

v1::WatchEventsResponse About(const BufferLabel& buffer) {
  v1::WatchEventsResponse event;
  event.set_buffer_koid(buffer.koid);
  event.set_buffer_name(buffer.name);
  return event;
}

v1::WatchEventsResponse About(const BufferLabel& buffer, shm::EndpointId endpoint) {
  v1::WatchEventsResponse event = About(buffer);
  event.set_endpoint(ToProto(endpoint));
  return event;
}

v1::WatchEventsResponse About(Koid shared_region) {
  v1::WatchEventsResponse event;
  event.set_shared_region_koid(shared_region);
  return event;
}

v1::Holder ToHolder(const HolderInfo& info) {
  v1::Holder holder;
  holder.set_uid(info.uid);
  holder.set_gid(info.gid);
  holder.set_pid(info.pid);
  return holder;
}

}  // namespace

void EventFeed::BufferCreated(const BufferLabel& buffer, const HolderInfo& owner,
                              uint64_t memory_bytes) {
  v1::WatchEventsResponse event = About(buffer);
  *event.mutable_created()->mutable_owner() = ToHolder(owner);
  event.mutable_created()->set_memory_bytes(memory_bytes);
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::BufferRenamed(const BufferLabel& buffer, absl::string_view old_name) {
  v1::WatchEventsResponse event = About(buffer);
  event.mutable_renamed()->set_old_name(std::string(old_name));
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::EndpointAttached(const BufferLabel& buffer, shm::EndpointId endpoint,
                                 const HolderInfo& holder) {
  v1::WatchEventsResponse event = About(buffer, endpoint);
  *event.mutable_attached()->mutable_holder() = ToHolder(holder);
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::EndpointDetached(const BufferLabel& buffer, shm::EndpointId endpoint,
                                 const HolderInfo& holder, shm::CloseReason reason) {
  v1::WatchEventsResponse event = About(buffer, endpoint);
  *event.mutable_detached()->mutable_holder() = ToHolder(holder);
  *event.mutable_detached()->mutable_reason() = ToProto(reason);
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::EndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                               shm::CloseReason reason) {
  v1::WatchEventsResponse event = About(buffer, endpoint);
  *event.mutable_closed()->mutable_reason() = ToProto(reason);
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::BufferGone(const BufferLabel& buffer) {
  v1::WatchEventsResponse event = About(buffer);
  event.mutable_gone();
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::SignalsChanged(const BufferLabel& buffer, shm::EndpointId endpoint,
                               uint32_t signals) {
  v1::WatchEventsResponse event = About(buffer, endpoint);
  event.mutable_signals()->set_signals(signals);
  Publish(std::move(event), buffer.owner_uid);
}

void EventFeed::ProducerStalled(const RingKeeper::Stall& stall) {
  v1::WatchEventsResponse event = About(stall.buffer, stall.endpoint);
  v1::ProducerStalled& stalled = *event.mutable_stalled();
  stalled.set_region_index(stall.region_index);
  *stalled.mutable_holder() = ToHolder(stall.holder);
  stalled.set_killed(stall.killed);
  stalled.set_renewed(stall.renewed);
  Publish(std::move(event), stall.buffer.owner_uid);
}

void EventFeed::RegionSignalsChanged(Koid shared_region, uint32_t owner_uid, uint32_t signals) {
  v1::WatchEventsResponse event = About(shared_region);
  event.mutable_signals()->set_signals(signals);
  Publish(std::move(event), owner_uid);
}

void EventFeed::RegionGone(Koid shared_region, uint32_t owner_uid) {
  v1::WatchEventsResponse event = About(shared_region);
  event.mutable_gone();
  Publish(std::move(event), owner_uid);
}

void EventFeed::Publish(v1::WatchEventsResponse event, uint32_t owner_uid) {
  watchers_.Wake(log_.Append(std::move(event), owner_uid));
}

}  // namespace iob::server
