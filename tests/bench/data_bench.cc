// The data path: ours beside bare references, from process to process.
//
// First the study: all shapes of the bare ring, to find out who should own a cache line when the
// producer comes back to it, and with it the reference. Then ours beside the references.
#include <cstdio>
#include <string>
#include <utility>

#include "tests/bench/bare_contenders.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/iob_contenders.h"

namespace {

iob::bench::Plan StudyPlan(const iob::bench::Options& options) {
  using iob::bench::Measure;
  using iob::bench::Waiting;
  iob::bench::Plan plan;
  plan.rounds = options.quick ? 3 : 9;
  if (options.rounds > 0) plan.rounds = options.rounds;
  plan.round_ns = options.quick ? 20'000'000 : 40'000'000;
  for (const uint64_t size : {64, 1024, 4096}) {
    plan.cases.push_back(
        {.measure = Measure::kRate, .waiting = Waiting::kSpin, .payload_bytes = size});
  }
  plan.cases.push_back(
      {.measure = Measure::kSteady, .waiting = Waiting::kSpin, .payload_bytes = 64});
  return plan;
}

// The shape with the lowest geometric mean of its rates; only those that take records of every size
// of the plan to come.
std::string FastestShape(const iob::bench::Report& report, bool read_only,
                         const std::string& fallback) {
  std::string fastest = fallback;
  double lowest = 0;
  for (const auto& shape : iob::bench::BareVariants()) {
    const iob::bench::Traits& traits = shape->traits();
    if (traits.payload_bytes_max < (64 << 10)) continue;
    if (read_only && !traits.read_only_consumer) continue;
    double product = 1;
    for (const iob::bench::Row& row : report.rows) {
      const bool counts = row.contender == traits.name &&
                          row.measured.measure == iob::bench::Measure::kRate && row.rounds > 0;
      if (counts) product *= row.ns.median;
    }
    if (product <= 1 || (lowest != 0 && product >= lowest)) continue;
    lowest = product;
    fastest = traits.name;
  }
  return fastest;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace iob::bench;
  Options options;
  if (!ParseOptions(argc, argv, &options)) return 2;
  std::printf("== who should own the cache line: shapes of the bare ring\n");
  const Report lines = RunAndReport(BareVariants(), StudyPlan(options), options, "lines");
  const std::string fastest = FastestShape(lines, false, "zeroes");
  const std::string fastest_read_only = FastestShape(lines, true, "reads");
  std::printf("\n== ours beside the bare references: '%s' and, read-only, '%s'\n", fastest.c_str(),
              fastest_read_only.c_str());
  Contenders contenders = BareReferences(fastest, fastest_read_only);
  for (auto& contender : IobContenders()) contenders.push_back(std::move(contender));
  const Report data = RunAndReport(std::move(contenders), DataPathPlan(options), options, "data");
  return ExitCode(lines) != 0 ? 1 : ExitCode(data);
}
