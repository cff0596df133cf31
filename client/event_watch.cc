#include "client/event_watch.h"

#include <utility>

#include "client/internal/event_stream.h"

namespace iob {

std::string ToString(WatchedEvent::Kind kind) {
  switch (kind) {
    case WatchedEvent::Kind::kStarted:
      return "started";
    case WatchedEvent::Kind::kResyncRequired:
      return "resync-required";
    case WatchedEvent::Kind::kBufferCreated:
      return "buffer-created";
    case WatchedEvent::Kind::kBufferRenamed:
      return "buffer-renamed";
    case WatchedEvent::Kind::kEndpointAttached:
      return "endpoint-attached";
    case WatchedEvent::Kind::kEndpointDetached:
      return "endpoint-detached";
    case WatchedEvent::Kind::kEndpointClosed:
      return "endpoint-closed";
    case WatchedEvent::Kind::kBufferGone:
      return "buffer-gone";
    case WatchedEvent::Kind::kSignalsChanged:
      return "signals-changed";
    case WatchedEvent::Kind::kSharedRegionUpdated:
      return "shared-region-updated";
    case WatchedEvent::Kind::kProducerStalled:
      return "producer-stalled";
  }
  return "unknown";
}

EventWatch::EventWatch(std::unique_ptr<EventStream> stream) : stream_(std::move(stream)) {}
EventWatch::EventWatch(EventWatch&& other) noexcept = default;
EventWatch& EventWatch::operator=(EventWatch&& other) noexcept = default;
EventWatch::~EventWatch() = default;

absl::StatusOr<std::optional<WatchedEvent>> EventWatch::Next(Deadline deadline) {
  return stream_->Next(deadline);
}

const std::string& EventWatch::resume_token() const { return stream_->resume_token(); }

}  // namespace iob
