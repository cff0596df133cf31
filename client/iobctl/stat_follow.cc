#include "client/iobctl/stat_follow.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/iobctl/output.h"
#include "client/iobctl/stats_report.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "client/stats_watch.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookEvery{200};
constexpr milliseconds kIntervalMin{10};
constexpr milliseconds kIntervalMax{3'600'000};

constexpr const char* kClearBelow = "\r\033[J";
constexpr const char* kWrapOff = "\033[?7l";
constexpr const char* kWrapOn = "\033[?7h";

size_t TerminalRows() {
  struct winsize size = {};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_row : 0;
}

// Until somebody stops it, nobody reads, or the watch is over.
absl::Status PrintBeats(const Globals& globals, const std::string& name, StatsWatch* watch) {
  const bool redraw = !globals.json && ::isatty(STDOUT_FILENO) == 1;
  StatsReport report(name);
  Redrawing redrawing;
  while (!StopRequested()) {
    IOB_ASSIGN_OR_RETURN(std::optional<StatsBeat> beat, watch->Next(After(kLookEvery)));
    if (!beat) continue;
    report.Take(*std::move(beat));
    std::string text;
    if (globals.json) {
      text = report.Json() + '\n';
    } else {
      text = redraw ? redrawing.Draw(report.Table(), TerminalRows()) : report.Lines();
    }
    IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(text));
    if (!written) return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

std::string Redrawing::Draw(const std::string& text, size_t rows) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  // The cursor stands below the last one.
  if (rows >= 2 && lines.size() > rows - 1) {
    const size_t left_out = lines.size() - (rows - 2);
    lines.resize(rows - 2);
    lines.push_back(absl::StrCat("... and ", left_out, " lines more"));
  }
  std::string drawing;
  if (drawn_lines_ != 0) absl::StrAppend(&drawing, "\033[", drawn_lines_, "A");
  absl::StrAppend(&drawing, kClearBelow, kWrapOff);
  for (const std::string& line : lines) absl::StrAppend(&drawing, line, "\n");
  absl::StrAppend(&drawing, kWrapOn);
  drawn_lines_ = lines.size();
  return drawing;
}

absl::StatusOr<milliseconds> ParseInterval(const std::string& text) {
  IOB_ASSIGN_OR_RETURN(const milliseconds interval, ParseDuration(text));
  if (interval >= kIntervalMin && interval <= kIntervalMax) return interval;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not from 10ms to 1h"));
}

absl::StatusOr<int> FollowStats(const Globals& globals, const std::string& name,
                                milliseconds interval) {
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  absl::StatusOr<StatsWatch> watch = broker.WatchStats(KeyOf(name), interval);
  if (!watch.ok()) return OfBuffer(name, watch.status());
  const absl::Status end = PrintBeats(globals, name, &*watch);
  if (!absl::IsNotFound(end)) IOB_RETURN_IF_ERROR(end);
  return kExitOk;
}

}  // namespace iob::ctl
