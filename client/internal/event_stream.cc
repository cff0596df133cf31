#include "client/internal/event_stream.h"

#include <utility>

#include "client/internal/wire_types.h"
#include "shm/result.h"

namespace iob {

EventStream::EventStream(std::shared_ptr<grpc::Channel> channel,
                         const v1::WatchEventsRequest& request)
    : messages_(std::move(channel), &v1::BrokerService::Stub::PrepareAsyncWatchEvents, request),
      resume_token_(request.resume_token()) {}

absl::StatusOr<std::optional<WatchedEvent>> EventStream::Next(Deadline deadline) {
  while (true) {
    IOB_ASSIGN_OR_RETURN(const v1::WatchEventsResponse* const message, messages_.Next(deadline));
    if (message == nullptr) return std::optional<WatchedEvent>();
    resume_token_ = message->resume_token();
    // One of a newer daemon has no native form; its place in the stream counts all the same.
    std::optional<WatchedEvent> event = FromWire(*message);
    if (event) return event;
  }
}

}  // namespace iob
