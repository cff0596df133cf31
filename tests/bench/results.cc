#include "tests/bench/results.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shm/result.h"
#include "tests/bench/bare_contenders.h"
#include "tests/bench/plot.h"
#include "tests/bench/quiet.h"

namespace iob::bench {
namespace {

const char* FamilyName(Family family) {
  switch (family) {
    case Family::kBare:
      return "bare";
    case Family::kOurs:
      return "iob";
    case Family::kPeer:
      return "peer";
  }
  return "";
}

const char* MeasureName(Measure measure) {
  switch (measure) {
    case Measure::kRate:
      return "rate";
    case Measure::kSteady:
      return "one way, steady";
    case Measure::kAfterIdle:
      return "one way, after 50 us idle";
  }
  return "";
}

bool IsRate(const Row& row) { return row.measured.measure == Measure::kRate; }

// The reference that is held to what this contender is held to.
const char* LikeOf(const Traits& traits, const Case& measured) {
  if (traits.there_and_back) return kBareStagingName;
  if (measured.waiting == Waiting::kSleep) return kBareSleepName;
  if (traits.read_only_consumer) return kBareReadOnlyName;
  return kBareName;
}

Row RowOf(const Traits& traits, const Case& measured, const Series& series) {
  Row row;
  row.contender = traits.name;
  row.family = traits.family;
  row.measured = measured;
  row.like = LikeOf(traits, measured);
  row.rounds = series.samples.size();
  row.repeated = series.repeated;
  row.noisy = series.noisy;
  row.error = series.error;
  if (series.samples.empty()) return row;
  const auto quartiles = [&](double Sample::*field) {
    std::vector<double> values;
    for (const Sample& sample : series.samples) values.push_back(sample.*field);
    return QuartilesOf(std::move(values));
  };
  row.ns = quartiles(IsRate(row) ? &Sample::ns_per_record : &Sample::p50_ns);
  row.p99_ns = quartiles(&Sample::p99_ns).median;
  row.p999_ns = quartiles(&Sample::p999_ns).median;
  return row;
}

// The median of a reference in the same case; 0 when it did not run.
double MedianOf(const std::vector<Row>& rows, const std::string& name, const Case& measured) {
  for (const Row& row : rows) {
    if (row.contender == name && row.measured == measured) return row.ns.median;
  }
  return 0;
}

double FastestBare(const std::vector<Row>& rows, const Case& measured) {
  double fastest = 0;
  for (const Row& row : rows) {
    const bool counts =
        row.family == Family::kBare && row.measured == measured && row.ns.median > 0;
    if (counts && (fastest == 0 || row.ns.median < fastest)) fastest = row.ns.median;
  }
  return fastest;
}

std::string Number(double value) {
  if (value < 100) return absl::StrFormat("%.1f", value);
  return absl::StrFormat("%.0f", value);
}

std::string Ratio(double ratio) { return ratio > 0 ? absl::StrFormat("%.2f", ratio) : "-"; }

std::string Tail(const Row& row) {
  if (IsRate(row)) return "-";
  return absl::StrCat(Number(row.ns.median), " / ", Number(row.p99_ns), " / ", Number(row.p999_ns));
}

std::string Spread(const Row& row) {
  return absl::StrCat("[", Number(row.ns.low), " ", Number(row.ns.high), "]");
}

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += c < ' ' ? ' ' : c;
  }
  return escaped;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.flush();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace

Quartiles QuartilesOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t count = values.size();
  return {.low = values[count / 4], .median = values[count / 2], .high = values[count * 3 / 4]};
}

std::string CaseName(const Case& measured) {
  return absl::StrCat(MeasureName(measured.measure), ", ", measured.payload_bytes, " B, ",
                      measured.waiting == Waiting::kSpin ? "spinning" : "sleeping");
}

Report MakeReport(const Harness& harness, const Plan& plan, const std::vector<Series>& all) {
  Report report;
  report.machine = MachineLine();
  const std::array<int, 2> processors = PinnedProcessors();
  if (processors[0] == processors[1]) {
    report.notes.emplace_back(
        "one processor only: both processes share it, and no figure here says anything about two");
  }
  for (const Series& series : all) {
    report.rows.push_back(RowOf(harness.contenders()[series.contender]->traits(),
                                plan.cases[series.plan_case], series));
  }
  int noisy = 0;
  for (Row& row : report.rows) {
    noisy += row.noisy;
    const double bare = FastestBare(report.rows, row.measured);
    const double like = MedianOf(report.rows, row.like, row.measured);
    if (bare > 0) row.to_bare = row.ns.median / bare;
    if (like > 0) row.to_like = row.ns.median / like;
  }
  const auto order = [](const Row& a, const Row& b) { return a.ns.median < b.ns.median; };
  for (auto first = report.rows.begin(); first != report.rows.end();) {
    const auto last = std::find_if(first, report.rows.end(), [&](const Row& row) {
      return !(row.measured == first->measured);
    });
    std::stable_sort(first, last, order);
    first = last;
  }
  if (noisy > 0) {
    report.notes.push_back(absl::StrCat(
        noisy, " rounds count although others took more than ", 100 * kOtherShareMax,
        " % of the processors: run again on a quiet machine before you believe these figures"));
  }
  for (size_t i = 0; i < harness.contenders().size(); ++i) {
    const Traits& traits = harness.contenders()[i]->traits();
    report.notes.push_back(absl::StrCat(traits.name, ": ", traits.meaning));
    if (!harness.problem(i).empty())
      report.notes.push_back(absl::StrCat(traits.name, " did not run: ", harness.problem(i)));
    if (const uint64_t bytes = harness.ServicesResidentBytes(i); bytes != 0) {
      report.notes.push_back(
          absl::StrCat(traits.name, ": its daemon has ", bytes >> 20, " MiB resident"));
    }
  }
  return report;
}

std::string ToText(const Report& report) {
  std::string text = absl::StrCat("machine: ", report.machine, "\n");
  const Row* previous = nullptr;
  for (const Row& row : report.rows) {
    if (previous == nullptr || !(previous->measured == row.measured)) {
      absl::StrAppend(&text, "\n", CaseName(row.measured), "\n");
      absl::StrAppendFormat(&text, "  %-40s %10s %-19s %8s %8s  %s\n", "", "median ns",
                            "[quartiles]", "to bare", "to like", "p50 / p99 / p99.9");
    }
    previous = &row;
    if (row.rounds == 0) {
      absl::StrAppendFormat(&text, "  %-40s FAILED: %s\n", row.contender, row.error);
      continue;
    }
    absl::StrAppendFormat(&text, "  %-40s %10s %-19s %8s %8s  %s%s\n", row.contender,
                          Number(row.ns.median), Spread(row), Ratio(row.to_bare),
                          Ratio(row.to_like), Tail(row), row.noisy > 0 ? "  noisy" : "");
  }
  absl::StrAppend(&text, "\n");
  for (const std::string& note : report.notes) absl::StrAppend(&text, "  ", note, "\n");
  return text;
}

std::string ToMarkdown(const Report& report) {
  std::string text = absl::StrCat("Machine: ", report.machine, "\n");
  const Row* previous = nullptr;
  for (const Row& row : report.rows) {
    if (previous == nullptr || !(previous->measured == row.measured)) {
      absl::StrAppend(&text, "\n### ", CaseName(row.measured), "\n\n",
                      "| | median ns | quartiles | to bare | to its like | p50 / p99 / p99.9 |\n",
                      "|---|--:|---|--:|--:|---|\n");
    }
    previous = &row;
    if (row.rounds == 0) {
      absl::StrAppend(&text, "| ", row.contender, " | failed | | | | |\n");
      continue;
    }
    absl::StrAppend(&text, "| ", row.contender, " | ", Number(row.ns.median), " | ", Spread(row),
                    " | ", Ratio(row.to_bare), " | ", Ratio(row.to_like), " | ", Tail(row), " |\n");
  }
  absl::StrAppend(&text, "\n");
  for (const std::string& note : report.notes) absl::StrAppend(&text, "- ", note, "\n");
  return text;
}

std::string ToJson(const Report& report) {
  std::string text = absl::StrCat("{\"machine\": \"", Escaped(report.machine), "\",\n\"rows\": [");
  const char* separator = "\n";
  for (const Row& row : report.rows) {
    absl::StrAppend(&text, separator, "{\"contender\": \"", Escaped(row.contender),
                    "\", \"family\": \"", FamilyName(row.family), "\", \"measure\": \"",
                    MeasureName(row.measured.measure), "\", \"waiting\": \"",
                    row.measured.waiting == Waiting::kSpin ? "spin" : "sleep",
                    "\", \"payload_bytes\": ", row.measured.payload_bytes);
    absl::StrAppendFormat(&text,
                          ", \"median_ns\": %.3f, \"q1_ns\": %.3f, \"q3_ns\": %.3f, "
                          "\"p99_ns\": %.1f, \"p999_ns\": %.1f, \"to_bare\": %.4f, "
                          "\"to_like\": %.4f, \"like\": \"%s\", \"rounds\": %d, "
                          "\"repeated\": %d, \"noisy\": %d, \"error\": \"%s\"}",
                          row.ns.median, row.ns.low, row.ns.high, row.p99_ns, row.p999_ns,
                          row.to_bare, row.to_like, Escaped(row.like), row.rounds, row.repeated,
                          row.noisy, Escaped(row.error));
    separator = ",\n";
  }
  absl::StrAppend(&text, "],\n\"notes\": [");
  separator = "\n";
  for (const std::string& note : report.notes) {
    absl::StrAppend(&text, separator, "\"", Escaped(note), "\"");
    separator = ",\n";
  }
  absl::StrAppend(&text, "]}\n");
  return text;
}

std::string RatePlot(const Report& report) {
  std::vector<Line> lines;
  for (const Row& row : report.rows) {
    if (!IsRate(row) || row.measured.waiting != Waiting::kSpin || row.rounds == 0) continue;
    auto line = std::find_if(lines.begin(), lines.end(),
                             [&](const Line& other) { return other.name == row.contender; });
    if (line == lines.end()) {
      lines.push_back({.name = row.contender, .family = row.family, .points = {}});
      line = lines.end() - 1;
    }
    line->points.emplace_back(static_cast<double>(row.measured.payload_bytes), row.ns.median);
  }
  return DrawLines("Nanoseconds per record, both sides spinning", "payload, bytes", "ns per record",
                   lines);
}

std::string LatencyPlot(const Report& report, const Case& measured) {
  std::vector<Bar> bars;
  for (const Row& row : report.rows) {
    if (!(row.measured == measured) || row.rounds == 0) continue;
    bars.push_back({.name = row.contender,
                    .family = row.family,
                    .p50 = row.ns.median,
                    .p99 = row.p99_ns,
                    .p999 = row.p999_ns});
  }
  return DrawBars(CaseName(measured), "ns: p50, p99, p99.9", bars);
}

absl::Status WriteReport(const Report& report, const std::string& directory,
                         const std::string& name) {
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return shm::ErrnoStatus(errno, absl::StrCat("mkdir ", directory));
  const std::string stem = absl::StrCat(directory, "/", name);
  IOB_RETURN_IF_ERROR(WriteFile(stem + ".txt", ToText(report)));
  IOB_RETURN_IF_ERROR(WriteFile(stem + ".md", ToMarkdown(report)));
  IOB_RETURN_IF_ERROR(WriteFile(stem + ".json", ToJson(report)));
  IOB_RETURN_IF_ERROR(WriteFile(stem + "_rate.svg", RatePlot(report)));
  for (const auto& [suffix, waiting] :
       {std::pair{"_latency.svg", Waiting::kSpin}, {"_latency_sleeping.svg", Waiting::kSleep}}) {
    const Case measured{.measure = Measure::kAfterIdle, .waiting = waiting, .payload_bytes = 64};
    const bool any = std::any_of(report.rows.begin(), report.rows.end(),
                                 [&](const Row& row) { return row.measured == measured; });
    if (any) IOB_RETURN_IF_ERROR(WriteFile(stem + suffix, LatencyPlot(report, measured)));
  }
  return absl::OkStatus();
}

}  // namespace iob::bench
