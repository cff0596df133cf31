// Watchers: every stream of WatchEvents.
//
// A watcher is a place in the event log, not a queue: whatever it does, it costs one message. One
// that the log has overtaken is told so (resync_required), and goes on with the newest.
//
//                 started                      anything to say?
//   Watch --> loop -----> writing <----------------------------------- idle
//               |            | '---- written (OnWriteDone) ------------>|
//               | refused    | ended                                    | ended
//               '------------+--------> Finish --> OnDone: deleted <----'
//
//   W1  One write is in flight per stream at most, and Finish waits for it.
//   W2  Finish happens once; nothing touches the call after it but OnDone.
//   W3  Reactions only post to the loop. What OnDone posts is the last task that names a stream,
//       so that task deletes it.
//   W4  A stream that has ended is in no index: nothing wakes it.
//   W5  A handle is looked up anew before each message. When it is gone, so is the stream; only
//       when the object's end is in the log already, the watcher is told that first.
//   W6  Between two tasks, ready_ is not empty if and only if PumpReady is posted.
//   W7  A stream knows the first event that it has not been told of, or that there is none. So what
//       the log forgets is missed only by those whom it was for.
//
// Everything but Watch belongs to the loop thread.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iob/v1/broker.pb.h"
#include "server/event_log.h"
#include "server/event_loop.h"
#include "server/holder.h"
#include "server/registry.h"
#include "server/token.h"
#include "server/watcher_room.h"
#include "shm/access.h"
#include "shm/signal_page.h"

namespace iob::server {

// What a watcher may hear: one of three.
struct WatchScope {
  // Without a handle: every buffer of `uid`, or of everybody when that is root.
  bool everything = false;
  uint32_t uid = 0;
  // A handle to an endpoint: its buffer, and its own signals.
  Koid buffer = 0;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  bool sees_holders = false;  // The handle has INSPECT: who attaches and detaches.
  bool sees_name = true;      // The handle has GET_PROPERTY: the buffer's name.
  // A handle to a shared region.
  Koid shared_region = 0;
};

// The state of a handle's object, which events change.
struct WatchState {
  uint32_t signals = 0;
  shm::CloseReason peer_closed;
};

class Watchers {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::WatchEventsResponse>;
  // Who calls; asked once, on the loop.
  using CallerLookup = absl::AnyInvocable<absl::StatusOr<Caller>()>;

  // The loop and the log outlive the watchers.
  struct Dependencies {
    EventLoop& loop;
    EventLog& log;
    // What a handle lets its caller hear; fails when it is gone, or lets him hear nothing.
    absl::AnyInvocable<absl::StatusOr<WatchScope>(const Caller&, const Token&)> resolve;
    // Of a scope that `resolve` has just given.
    absl::AnyInvocable<WatchState(const WatchScope&)> state_of;
    // Streams at once; one uid gets a quarter.
    size_t watchers_max = 0;
  };
  explicit Watchers(Dependencies dependencies);
  // When gRPC is shut down.
  ~Watchers();

  // The handler of WatchEvents, on a gRPC thread.
  Reactor* Watch(grpc::CallbackServerContext* context, const v1::WatchEventsRequest* request,
                 CallerLookup caller);

  // The event with this sequence was appended to the log just now.
  void Wake(uint64_t sequence);
  // Records were written to the shared region. Cheap: a bit per watcher of that region, which
  // becomes one message however often it is set, once the stream can take it.
  void Strobe(Koid shared_region);
  // The handle is closed or spent: its streams end now instead of at their next event.
  void HandleGone(const Token& handle);

  // Ends every stream with BUSY, and refuses new ones from here on. A client that does not read is
  // cut off a moment later, for which the loop must still run.
  void Stop();

  // Streams that have started and whose calls are not over: a client that does not read keeps its
  // place, so that its streams are bounded too.
  size_t count() const { return room_.count(); }
  // How often resync_required was said.
  uint64_t resyncs() const { return resyncs_; }

 private:
  struct Stream;
  // What a stream is woken by: each has one.
  enum class TopicKind { kUid, kBuffer, kSharedRegion };
  using Topic = std::pair<TopicKind, uint64_t>;
  using StreamSet = absl::flat_hash_set<Stream*>;

  static Topic TopicOf(const WatchScope& scope);

  void Start(std::unique_ptr<Stream> owned);
  absl::Status Admit(Stream& stream);
  void Join(Stream& stream);
  void Leave(Stream& stream);

  void WakeTopic(Topic topic, uint64_t sequence);
  void MakeReady(Stream& stream);
  void PumpReady();
  void Pump(Stream& stream);
  void FindNext(Stream& stream) const;
  bool EndIsAhead(const Stream& stream) const;

  void SendStarted(Stream& stream);
  void SendResync(Stream& stream);
  void SendEvent(Stream& stream);
  void SendUpdated(Stream& stream);
  WatchState StateOf(const Stream& stream);
  // A message that is not in the log.
  void Stamp(Stream& stream);
  void Write(Stream& stream);

  void End(Stream& stream, const absl::Status& status);
  void End(Stream& stream, grpc::Status status);
  void OnWritten(Stream& stream, bool ok);
  void OnDone(Stream& stream);

  Dependencies dependencies_;
  EventLoop& loop_;
  EventLog& log_;
  WatcherRoom room_;
  absl::flat_hash_map<Stream*, std::unique_ptr<Stream>> streams_;
  absl::flat_hash_map<Topic, StreamSet> by_topic_;
  absl::flat_hash_map<Token, StreamSet> by_handle_;
  std::vector<Stream*> ready_;
  uint64_t resyncs_ = 0;
  bool stopped_ = false;
  Registration stop_timer_;
};

}  // namespace iob::server
