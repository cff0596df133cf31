// EventLog: the latest events, in order, so that a watcher is no more than a place in it.
//
//   sequence:     0 ........ oldest .............. end
//                   forgotten  |  kept: kEventsMax | not happened yet
//
//   V1  Sequences go up by one with each event and are never reused within a run.
//   V2  A resume token is an epoch and a sequence: of this run, and of the event to go on with. The
//       epoch is random, so a token of another run is told apart from one of this run.
//   V3  An event never changes once it was appended.
//
// In memory only: what was forgotten cannot be had again, and whoever missed it reads the state
// anew. Owned by the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "iob/v1/broker.pb.h"
#include "server/clock.h"

namespace iob::server {

// An event takes some 300 bytes, so this is about a megabyte, and some seconds of a busy daemon.
inline constexpr size_t kEventsMax = 4096;

class EventLog {
 public:
  struct Entry {
    v1::WatchEventsResponse event;  // Complete, as it is sent.
    uint32_t owner_uid = 0;         // Of the object that it is about.
  };

  // `clock` outlives the log.
  explicit EventLog(const Clock& clock);

  // Stamps the event and keeps it. Returns its sequence.
  uint64_t Append(v1::WatchEventsResponse event, uint32_t owner_uid);

  // The sequences of the first event that is kept and of the next one to come; equal when there is
  // none.
  uint64_t oldest() const { return end_ - ring_.size(); }
  uint64_t end() const { return end_; }
  // oldest() <= `sequence` < end().
  const Entry& At(uint64_t sequence) const;

  // Puts the time and a token on a message after which `next` is the event to go on with.
  void Stamp(uint64_t next, v1::WatchEventsResponse& message) const;
  // The sequence to go on with; nullopt when events in between are lost: the token is of another
  // run, or too old. INVALID_ARGUMENT when it is not one of ours.
  absl::StatusOr<std::optional<uint64_t>> Parse(absl::string_view claimed_token) const;

 private:
  const Clock& clock_;
  const uint64_t epoch_;
  uint64_t end_ = 0;
  std::vector<Entry> ring_;  // Sequence s is at s % kEventsMax.
};

}  // namespace iob::server
