#include "server/stats_watchers.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/logging.h"
#include "server/refusal.h"
#include "shm/check.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

}  // namespace

void FillStats(Buffer& buffer, v1::GetStatsResponse& response) {
  response.set_buffer_koid(buffer.koid());
  for (uint32_t i = 0; i < buffer.regions().size(); ++i) {
    if (auto stats = RingStatsOf(buffer, i)) *response.add_rings() = *std::move(stats);
  }
}

// One call. gRPC's threads run its reactions, which touch nothing but the loop's queue; the fields
// are the loop's.
struct StatsWatchers::Stream final : Reactor {
  Stream(StatsWatchers& all, grpc::CallbackServerContext* call_context,
         const v1::WatchStatsRequest* call_request, SubjectLookup subject_lookup)
      : watchers(all),
        context(call_context),
        request(call_request),
        look_up_subject(std::move(subject_lookup)) {}

  void OnWriteDone(bool ok) override {
    watchers.loop_.PostUrgent([this, ok] { watchers.OnWritten(*this, ok); });
  }
  void OnCancel() override {
    watchers.loop_.PostUrgent([this] { watchers.End(*this, grpc::Status::CANCELLED); });
  }
  void OnDone() override {
    watchers.loop_.PostUrgent([this] { watchers.OnDone(*this); });
  }

  StatsWatchers& watchers;
  grpc::CallbackServerContext* const context;  // gRPC's, until Finish.
  const v1::WatchStatsRequest* const request;  // The same.
  SubjectLookup look_up_subject;

  Subject subject;
  bool counted = false;  // Until the end of the call.
  bool indexed = false;  // Until the end of the stream.

  int64_t interval_ns = 0;
  int64_t due_ns = 0;  // Of the next beat.
  Registration timer;

  v1::WatchStatsResponse message;  // gRPC's while `writing`.
  bool writing = false;
  std::optional<grpc::Status> ending;
};

StatsWatchers::StatsWatchers(Dependencies dependencies)
    : dependencies_(std::move(dependencies)),
      loop_(dependencies_.loop),
      room_(dependencies_.watchers_max) {}

StatsWatchers::~StatsWatchers() = default;

// --- Coming --------------------------------------------------------------------------------------

StatsWatchers::Reactor* StatsWatchers::Watch(grpc::CallbackServerContext* context,
                                             const v1::WatchStatsRequest* request,
                                             SubjectLookup subject) {
  auto stream = std::make_unique<Stream>(*this, context, request, std::move(subject));
  Reactor* const reactor = stream.get();
  // Before gRPC learns of the reactor, so that this task comes before those of its reactions.
  const bool posted =
      loop_.Post([this, owned = std::move(stream)]() mutable { Start(std::move(owned)); });
  if (posted) return reactor;
  return RefuseStream<Reactor>(ToGrpcStatus(LoopIsBehind()));
}

void StatsWatchers::Start(std::unique_ptr<Stream> owned) {
  Stream& stream = *owned;
  streams_[&stream] = std::move(owned);
  if (const absl::Status status = Admit(stream); !status.ok()) {
    End(stream, status);
    return;
  }
  stream.indexed = true;
  by_buffer_[stream.subject.buffer].insert(&stream);
  stream.due_ns = loop_.clock().MonotonicNs();
  OnBeat(stream);
}

absl::Status StatsWatchers::Admit(Stream& stream) {
  if (stopped_) return MakeError(v1::ERROR_REASON_BUSY, "the daemon is shutting down");
  uint32_t interval_ms = stream.request->interval_ms();
  if (interval_ms == 0) interval_ms = kStatsIntervalMsDefault;
  if (interval_ms < kStatsIntervalMsMin || interval_ms > kStatsIntervalMsMax) {
    return BadArgument("interval_ms", absl::StrCat(interval_ms, ", must be ", kStatsIntervalMsMin,
                                                   " to ", kStatsIntervalMsMax));
  }
  stream.interval_ns = int64_t{interval_ms} * kNsPerMs;
  IOB_ASSIGN_OR_RETURN(stream.subject, stream.look_up_subject());
  IOB_RETURN_IF_ERROR(room_.Take(stream.subject.uid));
  stream.counted = true;
  return absl::OkStatus();
}

void StatsWatchers::Leave(Stream& stream) {
  stream.timer.End();
  if (!std::exchange(stream.indexed, false)) return;
  const auto found = by_buffer_.find(stream.subject.buffer);
  found->second.erase(&stream);
  if (found->second.empty()) by_buffer_.erase(found);
}

size_t StatsWatchers::WritingForTest() const {
  return static_cast<size_t>(std::count_if(streams_.begin(), streams_.end(),
                                           [](const auto& entry) { return entry.first->writing; }));
}

// --- Beating -------------------------------------------------------------------------------------

void StatsWatchers::OnBeat(Stream& stream) {
  stream.timer.End();
  // What a loop that was held up has missed is missed (S5).
  const int64_t late_ns = loop_.clock().MonotonicNs() - stream.due_ns;
  stream.due_ns += (late_ns / stream.interval_ns + 1) * stream.interval_ns;
  stream.timer = loop_.RunAt(stream.due_ns, [this, &stream] { OnBeat(stream); });
  if (stream.writing) {
    ++beats_skipped_;
  } else {
    Write(stream);
  }
}

void StatsWatchers::Write(Stream& stream) {
  stream.message.Clear();
  SetTime(loop_.clock().WallTime(), *stream.message.mutable_time());
  if (!dependencies_.stats_of(stream.subject.buffer, *stream.message.mutable_stats())) {
    End(stream, grpc::Status::OK);
    return;
  }
  stream.writing = true;
  stream.StartWrite(&stream.message);
}

// --- Going ---------------------------------------------------------------------------------------

void StatsWatchers::BufferGone(Koid buffer) {
  const auto found = by_buffer_.find(buffer);
  if (found == by_buffer_.end()) return;
  // A copy: whoever ends leaves the set.
  for (Stream* const stream : StreamSet(found->second)) End(*stream, grpc::Status::OK);
}

void StatsWatchers::End(Stream& stream, const absl::Status& status) {
  if (ReasonOf(status) == v1::ERROR_REASON_INTERNAL) {
    LogError("call_failed", {{"detail", std::string(status.message())}});
  }
  End(stream, ToGrpcStatus(status));
}

// The first end is the one that counts.
void StatsWatchers::End(Stream& stream, grpc::Status status) {
  if (stream.ending) return;
  stream.ending = std::move(status);
  Leave(stream);
  if (!stream.writing) stream.Finish(*stream.ending);
}

void StatsWatchers::OnWritten(Stream& stream, bool ok) {
  stream.writing = false;
  if (stream.ending) {
    stream.Finish(*stream.ending);
  } else if (!ok) {
    End(stream, grpc::Status::CANCELLED);
  }
}

void StatsWatchers::OnDone(Stream& stream) {
  IOB_CHECK(!stream.indexed && !stream.timer.active());
  if (stream.counted) room_.Return(stream.subject.uid);
  streams_.erase(&stream);
}

void StatsWatchers::Stop() {
  stopped_ = true;
  const absl::Status busy = MakeError(v1::ERROR_REASON_BUSY, "the daemon is shutting down");
  for (const auto& [stream, owned] : streams_) End(*stream, busy);
  stop_timer_ = loop_.RunAfterMs(kStopGraceMs, [this] {
    // Cancelling fails the write, and OnWritten finishes the stream. One that is not writing is
    // finished already, and its context is gRPC's again (S2).
    for (const auto& [stream, owned] : streams_) {
      if (stream->writing) stream->context->TryCancel();
    }
  });
}

}  // namespace iob::server
