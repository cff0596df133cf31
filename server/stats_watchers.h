// StatsWatchers: every stream of WatchStats.
//
// A stream is a timer that writes what GetStats would say. What is written is made for the moment,
// so a reader that is slow misses beats, and never gets old figures:
//
//                 admitted         written
//   Watch --> loop -----> writing <-------> idle    a beat that comes due writes when idle,
//               |            |                |     and is skipped when writing
//               | refused    | ended          | ended
//               '------------+--------> Finish --> OnDone: deleted
//
//   S1  One write is in flight per stream at most, and Finish waits for it.
//   S2  Finish happens once; nothing touches the call after it but OnDone.
//   S3  Reactions only post to the loop. What OnDone posts is the last task that names a stream,
//       so that task deletes it.
//   S4  A stream has a timer from its first message to its end, and is in by_buffer_ as long. So
//       nothing is armed when nobody watches.
//   S5  Beats keep their phase: they come due at whole intervals after the first one, however long
//       one of them took.
//
// Everything but Watch belongs to the loop thread.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iob/v1/broker.pb.h"
#include "server/buffer.h"
#include "server/event_loop.h"
#include "server/watcher_room.h"

namespace iob::server {

inline constexpr uint32_t kStatsIntervalMsMin = 10;
inline constexpr uint32_t kStatsIntervalMsMax = 3'600'000;
inline constexpr uint32_t kStatsIntervalMsDefault = 1000;

// What GetStats and each beat of WatchStats say of a buffer.
void FillStats(Buffer& buffer, v1::GetStatsResponse& response);

class StatsWatchers {
 public:
  using Reactor = grpc::ServerWriteReactor<v1::WatchStatsResponse>;
  // Whose stream it is, and which buffer it is about. That caller may see its figures as long as
  // it lives: neither owner nor root changes.
  struct Subject {
    uint32_t uid = 0;
    Koid buffer = 0;
  };
  // Asked once, on the loop.
  using SubjectLookup = absl::AnyInvocable<absl::StatusOr<Subject>()>;

  // The loop outlives the watchers.
  struct Dependencies {
    EventLoop& loop;
    // Fills in the figures of a buffer; false when it is gone.
    absl::AnyInvocable<bool(Koid, v1::GetStatsResponse&)> stats_of;
    // Streams at once; one uid gets a quarter.
    size_t watchers_max = 0;
  };
  explicit StatsWatchers(Dependencies dependencies);
  // When gRPC is shut down.
  ~StatsWatchers();

  // The handler of WatchStats, on a gRPC thread.
  Reactor* Watch(grpc::CallbackServerContext* context, const v1::WatchStatsRequest* request,
                 SubjectLookup subject);

  // Its streams end, with OK.
  void BufferGone(Koid buffer);

  // Ends every stream with BUSY, and refuses new ones from here on. A client that does not read is
  // cut off a moment later, for which the loop must still run.
  void Stop();

  // Streams that have started and whose calls are not over.
  size_t count() const { return room_.count(); }
  // Messages that were not made because the one before was still being written.
  uint64_t beats_skipped() const { return beats_skipped_; }
  // Streams whose client has not taken the last message.
  size_t WritingForTest() const;

 private:
  struct Stream;
  using StreamSet = absl::flat_hash_set<Stream*>;

  void Start(std::unique_ptr<Stream> owned);
  absl::Status Admit(Stream& stream);
  void Leave(Stream& stream);

  void OnBeat(Stream& stream);
  void Write(Stream& stream);

  void End(Stream& stream, const absl::Status& status);
  void End(Stream& stream, grpc::Status status);
  void OnWritten(Stream& stream, bool ok);
  void OnDone(Stream& stream);

  Dependencies dependencies_;
  EventLoop& loop_;
  WatcherRoom room_;
  absl::flat_hash_map<Stream*, std::unique_ptr<Stream>> streams_;
  absl::flat_hash_map<Koid, StreamSet> by_buffer_;
  uint64_t beats_skipped_ = 0;
  bool stopped_ = false;
  Registration stop_timer_;
};

}  // namespace iob::server
