// Beats of a buffer's ledgers, told together with what has happened since the beat before.
//
//     beat 1 ---------- beat 2 ---------- beat 3
//             rates 2            rates 3      the difference of figures over that of times
//
// Figures that went back (a producer of a direct ring may write what it likes) count as no change,
// and so does a clock that did. Thread-compatible.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "client/stats_watch.h"
#include "client/types.h"

namespace iob::ctl {

class StatsReport {
 public:
  // `name` as the person wrote it.
  explicit StatsReport(std::string name) : name_(std::move(name)) {}

  // The beat that is told from here on.
  void Take(StatsBeat beat);

  // For a terminal: a table. For a file: a line per ring. For a program: one object.
  std::string Table() const;
  std::string Lines() const;
  std::string Json() const;

 private:
  // The same ring at the beat before; nullptr when there is none, or no time has passed.
  const RingStats* Before(const RingStats& ring) const;

  std::string name_;
  StatsBeat now_;
  std::optional<StatsBeat> before_;
  std::chrono::duration<double> elapsed_{0};
};

// "0", "0.5", "12", "1,234": per second.
std::string FormatRate(double rate);

}  // namespace iob::ctl
