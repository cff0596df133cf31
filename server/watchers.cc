#include "server/watchers.h"

#include <grpcpp/server_context.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/logging.h"
#include "server/refusal.h"
#include "shm/check.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr uint32_t kRootUid = 0;

// Whether this is the end of what the scope is about; there is no end of everything.
bool IsEndOf(const WatchScope& scope, const v1::WatchEventsResponse& event) {
  if (scope.everything || !event.has_gone()) return false;
  if (scope.shared_region != 0) return event.shared_region_koid() == scope.shared_region;
  return event.buffer_koid() == scope.buffer;
}

bool SeesBufferEvent(const WatchScope& scope, const v1::WatchEventsResponse& event) {
  if (event.buffer_koid() != scope.buffer) return false;
  using What = v1::WatchEventsResponse::WhatCase;
  switch (event.what_case()) {
    case What::kClosed:
    case What::kGone:
      return true;
    case What::kRenamed:
      return scope.sees_name;
    case What::kAttached:
    case What::kDetached:
    case What::kStalled:
      return scope.sees_holders;
    case What::kSignals:
      return event.endpoint() == ToProto(scope.endpoint);
    case What::kCreated:  // Before there was a handle.
    case What::kStarted:
    case What::kResyncRequired:
    case What::kUpdated:
    case What::WHAT_NOT_SET:
      return false;
  }
  return false;
}

bool Sees(const WatchScope& scope, const EventLog::Entry& entry) {
  if (scope.everything) {
    return entry.event.buffer_koid() != 0 &&
           (scope.uid == kRootUid || scope.uid == entry.owner_uid);
  }
  if (scope.shared_region != 0) return entry.event.shared_region_koid() == scope.shared_region;
  return SeesBufferEvent(scope, entry.event);
}

}  // namespace

// One call. gRPC's threads run its reactions, which touch nothing but the loop's queue; the fields
// are the loop's.
struct Watchers::Stream final : Reactor {
  Stream(Watchers& all, grpc::CallbackServerContext* call_context,
         const v1::WatchEventsRequest* call_request, CallerLookup caller_lookup)
      : watchers(all),
        context(call_context),
        request(call_request),
        look_up_caller(std::move(caller_lookup)) {}

  void OnWriteDone(bool ok) override {
    watchers.loop_.PostUrgent([this, ok] { watchers.OnWritten(*this, ok); });
  }
  void OnCancel() override {
    watchers.loop_.PostUrgent([this] { watchers.End(*this, grpc::Status::CANCELLED); });
  }
  void OnDone() override {
    watchers.loop_.PostUrgent([this] { watchers.OnDone(*this); });
  }

  Watchers& watchers;
  grpc::CallbackServerContext* const context;   // gRPC's, until Finish.
  const v1::WatchEventsRequest* const request;  // The same.
  CallerLookup look_up_caller;

  Caller caller;
  std::optional<Token> handle;
  WatchScope scope;
  bool counted = false;  // Until the end of the call.
  bool indexed = false;  // Until the end of the stream.

  // What is to be said. While `pending`, `next` is the first event that is for this watcher and
  // that it has not got. Otherwise there is none, and its place is the end of the log (W7).
  uint64_t next = 0;
  bool pending = false;
  bool missed = false;  // From the start: its token was of no use.
  bool strobed = false;
  bool event_was_last = false;
  bool queued = false;  // In ready_.

  v1::WatchEventsResponse message;  // gRPC's while `writing`.
  bool writing = false;
  std::optional<grpc::Status> ending;
};

Watchers::Watchers(Dependencies dependencies)
    : dependencies_(std::move(dependencies)),
      loop_(dependencies_.loop),
      log_(dependencies_.log),
      room_(dependencies_.watchers_max) {}

Watchers::~Watchers() = default;

// --- Coming --------------------------------------------------------------------------------------

Watchers::Reactor* Watchers::Watch(grpc::CallbackServerContext* context,
                                   const v1::WatchEventsRequest* request, CallerLookup caller) {
  auto stream = std::make_unique<Stream>(*this, context, request, std::move(caller));
  Reactor* const reactor = stream.get();
  // Before gRPC learns of the reactor, so that this task comes before those of its reactions.
  const bool posted =
      loop_.Post([this, owned = std::move(stream)]() mutable { Start(std::move(owned)); });
  if (posted) return reactor;
  return RefuseStream<Reactor>(ToGrpcStatus(LoopIsBehind()));
}

void Watchers::Start(std::unique_ptr<Stream> owned) {
  Stream& stream = *owned;
  streams_[&stream] = std::move(owned);
  if (const absl::Status status = Admit(stream); !status.ok()) {
    End(stream, status);
    return;
  }
  Join(stream);
  SendStarted(stream);
}

absl::Status Watchers::Admit(Stream& stream) {
  if (stopped_) return MakeError(v1::ERROR_REASON_BUSY, "the daemon is shutting down");
  IOB_ASSIGN_OR_RETURN(stream.caller, stream.look_up_caller());
  const std::string& claimed_handle = stream.request->handle();
  if (claimed_handle.empty()) {
    stream.scope = {.everything = true, .uid = stream.caller.uid};
  } else {
    stream.handle = Token::FromBytes(claimed_handle);
    if (!stream.handle) {
      return BadArgument(
          "handle", absl::StrCat(claimed_handle.size(), " bytes, a handle has ", Token::kBytes));
    }
    IOB_ASSIGN_OR_RETURN(stream.scope, dependencies_.resolve(stream.caller, *stream.handle));
  }
  if (!stream.request->resume_token().empty()) {
    IOB_ASSIGN_OR_RETURN(const std::optional<uint64_t> next,
                         log_.Parse(stream.request->resume_token()));
    stream.missed = !next.has_value();
    stream.next = next.value_or(0);
    if (next) FindNext(stream);
  }
  IOB_RETURN_IF_ERROR(room_.Take(stream.caller.uid));
  stream.counted = true;
  return absl::OkStatus();
}

Watchers::Topic Watchers::TopicOf(const WatchScope& scope) {
  if (scope.everything) return {TopicKind::kUid, scope.uid};
  if (scope.shared_region != 0) return {TopicKind::kSharedRegion, scope.shared_region};
  return {TopicKind::kBuffer, scope.buffer};
}

void Watchers::Join(Stream& stream) {
  stream.indexed = true;
  by_topic_[TopicOf(stream.scope)].insert(&stream);
  if (stream.handle) by_handle_[*stream.handle].insert(&stream);
}

void Watchers::Leave(Stream& stream) {
  if (!std::exchange(stream.indexed, false)) return;
  const auto leave = [&stream](auto& index, const auto& key) {
    const auto found = index.find(key);
    found->second.erase(&stream);
    if (found->second.empty()) index.erase(found);
  };
  leave(by_topic_, TopicOf(stream.scope));
  if (stream.handle) leave(by_handle_, *stream.handle);
}

// --- Waking --------------------------------------------------------------------------------------

void Watchers::Wake(uint64_t sequence) {
  const EventLog::Entry& entry = log_.At(sequence);
  if (entry.event.shared_region_koid() != 0) {
    WakeTopic({TopicKind::kSharedRegion, entry.event.shared_region_koid()}, sequence);
    return;
  }
  WakeTopic({TopicKind::kBuffer, entry.event.buffer_koid()}, sequence);
  WakeTopic({TopicKind::kUid, entry.owner_uid}, sequence);
  if (entry.owner_uid != kRootUid) WakeTopic({TopicKind::kUid, kRootUid}, sequence);
}

void Watchers::WakeTopic(Topic topic, uint64_t sequence) {
  const auto found = by_topic_.find(topic);
  if (found == by_topic_.end()) return;
  for (Stream* const stream : found->second) {
    if (stream->pending || !Sees(stream->scope, log_.At(sequence))) continue;
    // All before it were not for this watcher, however many they were.
    stream->pending = true;
    stream->next = sequence;
    MakeReady(*stream);
  }
}

void Watchers::Strobe(Koid shared_region) {
  const auto found = by_topic_.find({TopicKind::kSharedRegion, shared_region});
  if (found == by_topic_.end()) return;
  for (Stream* const stream : found->second) {
    stream->strobed = true;
    MakeReady(*stream);
  }
}

void Watchers::HandleGone(const Token& handle) {
  const auto found = by_handle_.find(handle);
  if (found == by_handle_.end()) return;
  for (Stream* const stream : found->second) MakeReady(*stream);
}

// Not at once: one operation of the registry makes several events, and a buffer's end is the last
// of them (W5).
void Watchers::MakeReady(Stream& stream) {
  // A stream that is writing looks for more by itself when it has written.
  if (stream.writing || std::exchange(stream.queued, true)) return;
  ready_.push_back(&stream);
  if (ready_.size() == 1) loop_.PostUrgent([this] { PumpReady(); });
}

void Watchers::PumpReady() {
  for (Stream* const stream : std::exchange(ready_, {})) {
    stream->queued = false;
    Pump(*stream);
  }
}

// --- Saying --------------------------------------------------------------------------------------

void Watchers::Pump(Stream& stream) {
  if (stream.writing || stream.ending) return;
  if (stream.handle) {
    const absl::Status held = dependencies_.resolve(stream.caller, *stream.handle).status();
    if (!held.ok() && !EndIsAhead(stream)) {
      End(stream, held);
      return;
    }
  }
  if (stream.missed || (stream.pending && stream.next < log_.oldest())) {
    SendResync(stream);
    return;
  }
  // In turns: neither may keep the other from being heard.
  const bool updated_is_due = stream.strobed && stream.event_was_last;
  if (stream.pending && !updated_is_due) {
    SendEvent(stream);
  } else if (stream.strobed) {
    SendUpdated(stream);
  }
}

// From `next` on (W7). Amortized, an event is looked at once per watcher, and a watcher with
// nothing pending skips all that are not for it.
void Watchers::FindNext(Stream& stream) const {
  while (stream.next < log_.end() && !Sees(stream.scope, log_.At(stream.next))) ++stream.next;
  stream.pending = stream.next < log_.end();
}

bool Watchers::EndIsAhead(const Stream& stream) const {
  if (stream.missed || !stream.pending || stream.next < log_.oldest()) return false;
  for (uint64_t sequence = stream.next; sequence < log_.end(); ++sequence) {
    if (IsEndOf(stream.scope, log_.At(sequence).event)) return true;
  }
  return false;
}

WatchState Watchers::StateOf(const Stream& stream) {
  return stream.handle ? dependencies_.state_of(stream.scope) : WatchState();
}

void Watchers::SendStarted(Stream& stream) {
  const WatchState state = StateOf(stream);
  stream.message.Clear();
  Stamp(stream);
  // What was missed stays missed, for whoever resumes from here.
  if (stream.missed) stream.message.set_resume_token(stream.request->resume_token());
  v1::WatchStarted& started = *stream.message.mutable_started();
  started.set_signals(state.signals);
  if (state.peer_closed.kind != shm::CloseKind::kOpen) {
    *started.mutable_peer_closed() = ToProto(state.peer_closed);
  }
  Write(stream);
}

void Watchers::SendResync(Stream& stream) {
  stream.missed = false;
  stream.pending = false;
  ++resyncs_;
  stream.message.Clear();
  Stamp(stream);
  stream.message.mutable_resync_required()->set_signals(StateOf(stream).signals);
  Write(stream);
}

void Watchers::SendEvent(Stream& stream) {
  stream.event_was_last = true;
  // A copy: the log may forget it before gRPC is done with it.
  stream.message = log_.At(stream.next++).event;
  FindNext(stream);
  if (!stream.scope.sees_name) stream.message.clear_buffer_name();
  const bool is_end = IsEndOf(stream.scope, stream.message);
  Write(stream);
  if (is_end) End(stream, grpc::Status::OK);
}

void Watchers::SendUpdated(Stream& stream) {
  stream.event_was_last = false;
  stream.strobed = false;
  stream.message.Clear();
  Stamp(stream);
  stream.message.mutable_updated();
  Write(stream);
}

void Watchers::Stamp(Stream& stream) {
  log_.Stamp(stream.pending ? stream.next : log_.end(), stream.message);
  stream.message.set_buffer_koid(stream.scope.buffer);
  if (stream.scope.buffer != 0) stream.message.set_endpoint(ToProto(stream.scope.endpoint));
  stream.message.set_shared_region_koid(stream.scope.shared_region);
}

void Watchers::Write(Stream& stream) {
  stream.writing = true;
  stream.StartWrite(&stream.message);
}

// --- Going ---------------------------------------------------------------------------------------

void Watchers::End(Stream& stream, const absl::Status& status) {
  if (ReasonOf(status) == v1::ERROR_REASON_INTERNAL) {
    LogError("call_failed", {{"detail", std::string(status.message())}});
  }
  End(stream, ToGrpcStatus(status));
}

// The first end is the one that counts.
void Watchers::End(Stream& stream, grpc::Status status) {
  if (stream.ending) return;
  stream.ending = std::move(status);
  Leave(stream);
  if (!stream.writing) stream.Finish(*stream.ending);
}

void Watchers::OnWritten(Stream& stream, bool ok) {
  stream.writing = false;
  if (stream.ending) {
    stream.Finish(*stream.ending);
  } else if (ok) {
    Pump(stream);
  } else {
    End(stream, grpc::Status::CANCELLED);
  }
}

void Watchers::OnDone(Stream& stream) {
  // A stream is queued before it ends, so PumpReady was posted before this task (W6).
  IOB_CHECK(!stream.queued && !stream.indexed);
  if (stream.counted) room_.Return(stream.caller.uid);
  streams_.erase(&stream);
}

void Watchers::Stop() {
  stopped_ = true;
  const absl::Status busy = MakeError(v1::ERROR_REASON_BUSY, "the daemon is shutting down");
  for (const auto& [stream, owned] : streams_) End(*stream, busy);
  stop_timer_ = loop_.RunAfterMs(kStopGraceMs, [this] {
    // Cancelling fails the write, and OnWritten finishes the stream. One that is not writing is
    // finished already, and its context is gRPC's again (W2).
    for (const auto& [stream, owned] : streams_) {
      if (stream->writing) stream->context->TryCancel();
    }
  });
}

}  // namespace iob::server
