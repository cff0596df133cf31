// Ours beside what others offer for the same purpose; the bare references are there to compare
// both with. Built only where the libraries of the peers are installed.
#include <cstdio>
#include <utility>

#include "tests/bench/bare_contenders.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/peers.h"

int main(int argc, char** argv) {
  using namespace iob::bench;
  Options options;
  if (!ParseOptions(argc, argv, &options)) return 2;
  // They are many, and further apart than more rounds would tell.
  if (options.rounds == 0) options.rounds = options.quick ? 2 : 5;
  Contenders contenders = BareReferences();
  for (auto& contender : IobContenders()) contenders.push_back(std::move(contender));
  AddKernelPeers(contenders);
  AddBoost(contenders);
  AddZeroMq(contenders);
  AddRedis(contenders);
  AddGrpc(contenders);
  AddIceoryx(contenders);
  return ExitCode(RunAndReport(std::move(contenders), DataPathPlan(options), options, "peers"));
}
