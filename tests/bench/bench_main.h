// What the benchmark programs share: their options, the plan, and where results go.
//
//   PROGRAM [--quick] [--only TEXT] [--rounds N] [--out DIRECTORY]
#pragma once

#include <string>

#include "tests/bench/contender.h"
#include "tests/bench/harness.h"
#include "tests/bench/results.h"

namespace iob::bench {

struct Options {
  bool quick = false;
  int rounds = 0;                   // 0: as the plan says.
  std::string only;                 // Contenders whose names contain it, and bare references.
  std::string out = "build/bench";  // Where results are written.
};

// False after it has said what is wrong.
bool ParseOptions(int argc, char** argv, Options* ret_options);

// All sizes and ways of waiting, from the records of a log to blobs.
Plan DataPathPlan(const Options& options);

// Runs the plan, prints the table and writes `name`.{txt,md,json} and the plots.
Report RunAndReport(Contenders contenders, const Plan& plan, const Options& options,
                    const std::string& name);

// 1 when a contender of ours or a reference failed. A peer that does is no reason to.
int ExitCode(const Report& report);

}  // namespace iob::bench
