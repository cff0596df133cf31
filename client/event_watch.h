// EventWatch: what happens to a buffer, a shared region, or all of one's buffers, as a stream.
//
//     absl::StatusOr<iob::EventWatch> watch = broker.Watch();
//     while (true) {
//       absl::StatusOr<std::optional<iob::WatchedEvent>> event = watch->Next(iob::After(1s));
//       if (!event.ok()) break;          // The end, and why.
//       if (!*event) continue;           // Nothing happened within the second.
//       Use(**event);
//     }
//     ... broker.Watch(std::nullopt, watch->resume_token());   // Goes on where that one stopped.
//
//   W1  The first event is kStarted, with the signals that are raised then.
//   W2  Events come in the order in which they happened, each once, also over a stream that ended
//       and one that was resumed from its token.
//   W3  Who reads too slowly, or resumes too late, gets kResyncRequired in the place of what is
//       missing: read the state anew, then go on.
//
// Nothing is buffered here: what was not read waits at the daemon, within limits (W3). The right is
// WAIT for a watch by handle; the watch ends when the handle is closed or spent.
//
// Destroying it ends the stream. It needs no Broker any more once it was made. Thread-compatible.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/types.h"

namespace iob {

class EventStream;

// One thing that happened.
struct WatchedEvent {
  enum class Kind : uint8_t {
    kStarted,              // The stream has begun; `signals`, and `reason` if the peer is closed.
    kResyncRequired,       // Events are missing before this one; `signals`.
    kBufferCreated,        // `holder` made it; `memory_bytes`.
    kBufferRenamed,        // From `old_name` to `buffer_name`.
    kEndpointAttached,     // By `holder`.
    kEndpointDetached,     // It was `holder`, and ended for `reason`.
    kEndpointClosed,       // For good, for `reason`; its peer has kSignalPeerClosed now.
    kBufferGone,           // Both endpoints are closed; the memory is free once nobody maps it.
    kSignalsChanged,       // `signals` are raised now.
    kSharedRegionUpdated,  // At least one record was written (ZX_IOB_SHARED_REGION_UPDATED).
    // `holder` stopped in the middle of a record; `region_index`, `killed`, `renewed`.
    kProducerStalled,
  };
  Kind kind = Kind::kStarted;
  std::string resume_token;  // To go on after this event.
  std::chrono::system_clock::time_point time;
  uint64_t buffer_koid = 0;            // 0 for none.
  std::string buffer_name;             // At that time.
  std::optional<EndpointId> endpoint;  // If it is about one.
  uint64_t shared_region_koid = 0;     // 0 for none.
  uint32_t signals = 0;                // Of the handle's object; 0 without a handle.
  CloseReason reason;
  Holder holder;
  uint64_t memory_bytes = 0;
  std::string old_name;
  uint32_t region_index = 0;
  bool killed = false;
  bool renewed = false;
};

// "started", "resync-required", "buffer-created", ...
std::string ToString(WatchedEvent::Kind kind);

class EventWatch {
 public:
  EventWatch(EventWatch&& other) noexcept;
  EventWatch& operator=(EventWatch&& other) noexcept;
  ~EventWatch();

  // The next event; nothing when none came until `deadline`, and one in the past looks without
  // waiting. Events that this version does not know are left out. The end, from then on:
  //   NOT_FOUND                     the object is gone
  //   UNAUTHENTICATED / BAD_HANDLE  the handle was closed or spent, or has expired
  //   UNAVAILABLE / DISCONNECTED, BUSY  the daemon went away: watch again with resume_token()
  absl::StatusOr<std::optional<WatchedEvent>> Next(Deadline deadline);

  // To go on after the last event that Next returned.
  const std::string& resume_token() const;

 private:
  friend class Broker;
  explicit EventWatch(std::unique_ptr<EventStream> stream);
  std::unique_ptr<EventStream> stream_;
};

}  // namespace iob
