#include "tests/bench/bench_main.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "shm/futex.h"

namespace iob::bench {

bool ParseOptions(int argc, char** argv, Options* ret_options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--quick") {
      ret_options->quick = true;
    } else if (argument == "--only" && has_value) {
      ret_options->only = argv[++i];
    } else if (argument == "--out" && has_value) {
      ret_options->out = argv[++i];
    } else if (argument == "--rounds" && has_value) {
      ret_options->rounds = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: %s [--quick] [--only TEXT] [--rounds N] [--out DIRECTORY]\n",
                   argv[0]);
      return false;
    }
  }
  return true;
}

Plan DataPathPlan(const Options& options) {
  // Records of a mediated ring end at 65,519 bytes; only rings without that limit take 1 MiB.
  constexpr uint64_t kLargest = 65'504;
  Plan plan;
  plan.rounds = options.quick ? 3 : 9;
  if (options.rounds > 0) plan.rounds = options.rounds;
  plan.round_ns = options.quick ? 20'000'000 : 50'000'000;
  const auto add = [&](Measure measure, Waiting waiting, std::initializer_list<uint64_t> sizes) {
    for (const uint64_t size : sizes)
      plan.cases.push_back({.measure = measure, .waiting = waiting, .payload_bytes = size});
  };
  if (options.quick) {
    add(Measure::kRate, Waiting::kSpin, {64, 1024, kLargest});
    add(Measure::kSteady, Waiting::kSpin, {64});
    add(Measure::kAfterIdle, Waiting::kSleep, {64});
    return plan;
  }
  add(Measure::kRate, Waiting::kSpin, {8, 64, 256, 1024, 4096, kLargest, 1 << 20});
  add(Measure::kRate, Waiting::kSleep, {64, 1024});
  add(Measure::kSteady, Waiting::kSpin, {64, 1024, kLargest});
  add(Measure::kAfterIdle, Waiting::kSpin, {64});
  add(Measure::kSteady, Waiting::kSleep, {64});
  add(Measure::kAfterIdle, Waiting::kSleep, {64});
  return plan;
}

Report RunAndReport(Contenders contenders, const Plan& plan, const Options& options,
                    const std::string& name) {
  std::erase_if(contenders, [&](const std::unique_ptr<Contender>& contender) {
    const Traits& traits = contender->traits();
    return traits.family != Family::kBare && traits.name.find(options.only) == std::string::npos;
  });
  const int64_t start_ns = shm::MonotonicNs();
  Harness harness(std::move(contenders));
  harness.Start();
  const std::vector<Series> all = harness.Run(plan);
  const Report report = MakeReport(harness, plan, all);
  std::fputs(ToText(report).c_str(), stdout);
  std::printf("  took %.0f s\n", static_cast<double>(shm::MonotonicNs() - start_ns) / 1e9);
  const absl::Status written = WriteReport(report, options.out, name);
  if (written.ok()) {
    std::printf("  written: %s/%s.{txt,md,json} and plots\n", options.out.c_str(), name.c_str());
  } else {
    std::fprintf(stderr, "%s\n", written.ToString().c_str());
  }
  return report;
}

int ExitCode(const Report& report) {
  const bool failed = std::any_of(report.rows.begin(), report.rows.end(), [](const Row& row) {
    return row.family != Family::kPeer && !row.error.empty();
  });
  return failed ? 1 : 0;
}

}  // namespace iob::bench
