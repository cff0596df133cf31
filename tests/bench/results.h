// Results: what a run found, and its four shapes: text for a terminal, Markdown, JSON, and plots.
//
// A row is one contender in one case. Ratios are of medians of the same run:
//   to bare       the fastest reference that does the same case at all
//   to its like   the reference that is held to the same: consumer maps read-only, may sleep, or
//                 goes through a second process; equal to the first where nothing holds it back
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/bench/contender.h"
#include "tests/bench/harness.h"

namespace iob::bench {

struct Quartiles {
  double low = 0;
  double median = 0;
  double high = 0;
};

// Of at least one value.
Quartiles QuartilesOf(std::vector<double> values);

struct Row {
  std::string contender;
  Family family = Family::kBare;
  Case measured;
  Quartiles ns;  // Per record, or of the medians of one-way times.
  double p99_ns = 0;
  double p999_ns = 0;
  double to_bare = 0;  // 0: there is no reference.
  double to_like = 0;
  std::string like;  // The reference of to_like.
  size_t rounds = 0;
  int repeated = 0;
  int noisy = 0;
  std::string error;
};

struct Report {
  std::string machine;
  std::vector<Row> rows;           // Grouped by case, each group from fast to slow.
  std::vector<std::string> notes;  // Meanings, memory of services, noise; one line each.
};

// "rate, 64 B, spinning"
std::string CaseName(const Case& measured);

// Rows of everything that ran; notes on what the contenders are and on what went wrong.
Report MakeReport(const Harness& harness, const Plan& plan, const std::vector<Series>& all);

std::string ToText(const Report& report);
std::string ToMarkdown(const Report& report);
std::string ToJson(const Report& report);
// ns per record over sizes, of the spinning rates.
std::string RatePlot(const Report& report);
// p50, p99 and p99.9 of one case, of all contenders.
std::string LatencyPlot(const Report& report, const Case& measured);

// Writes NAME.txt, NAME.md, NAME.json and the plots to a directory, which it makes.
absl::Status WriteReport(const Report& report, const std::string& directory,
                         const std::string& name);

}  // namespace iob::bench
