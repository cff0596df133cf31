// StatsWatch: the ledgers of a buffer, again and again, as a stream.
//
//     absl::StatusOr<iob::StatsWatch> watch = broker.WatchStats("logs", 500ms);
//     while (true) {
//       absl::StatusOr<std::optional<iob::StatsBeat>> beat = watch->Next(iob::After(1s));
//       if (!beat.ok()) break;           // The end, and why.
//       if (*beat) Use(**beat);
//     }
//
//   B1  The first beat comes at once, the others an interval apart.
//   B2  A beat has the figures of its `time`. Who reads too slowly misses beats, and is never told
//       old figures in their place, but for one that was under way.
//   B3  Figures only grow, but for those of what is in the ring now: what happened between two
//       beats is their difference, and the time that it took is that of their times.
//
// Destroying it ends the stream. It needs no Broker any more once it was made. Thread-compatible.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "client/types.h"

namespace iob {

class StatsStream;

struct StatsBeat {
  std::chrono::system_clock::time_point time;  // The daemon's.
  BufferStats stats;
};

class StatsWatch {
 public:
  StatsWatch(StatsWatch&& other) noexcept;
  StatsWatch& operator=(StatsWatch&& other) noexcept;
  ~StatsWatch();

  // The next beat; nothing when none came until `deadline`, and one in the past looks without
  // waiting. The end, from then on:
  //   NOT_FOUND                           the buffer is gone
  //   UNAVAILABLE / DISCONNECTED, BUSY    the daemon went away
  absl::StatusOr<std::optional<StatsBeat>> Next(Deadline deadline);

 private:
  friend class Broker;
  explicit StatsWatch(std::unique_ptr<StatsStream> stream);
  std::unique_ptr<StatsStream> stream_;
};

}  // namespace iob
