// iobctl stat --follow: the ledgers of one buffer, a beat at a time, until it is gone.
//
// On a terminal one table that is drawn over itself; elsewhere a line per ring and beat; with
// --json one object per beat. Thread-compatible.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "client/iobctl/command.h"

namespace iob::ctl {

// "500ms"; INVALID_ARGUMENT below 10 ms and above an hour.
absl::StatusOr<std::chrono::milliseconds> ParseInterval(const std::string& text);

// Exit code 0 when the buffer is gone, nobody reads, or it was told to stop.
absl::StatusOr<int> FollowStats(const Globals& globals, const std::string& name,
                                std::chrono::milliseconds interval);

// A few lines of a terminal that are drawn again and again.
class Redrawing {
 public:
  // What to send to a terminal of `rows` lines (0: not known) so that `text`, whole lines, stands
  // in the place of what was drawn before. Lines are cut at the right edge, and what is too long
  // for the screen at the bottom: a line that has left it cannot be drawn over.
  std::string Draw(const std::string& text, size_t rows);

 private:
  size_t drawn_lines_ = 0;
};

}  // namespace iob::ctl
