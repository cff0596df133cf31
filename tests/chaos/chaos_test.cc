// Rounds of SIGKILL, SIGSTOP and hang-ups over real processes and a real daemon, every record
// verified afterwards.
//
//   IOB_CHAOS_ROUNDS   how many (42: each kind of ring six times)
//   IOB_SEED           replays the choice of victims and moments
//   IOB_CHAOS_FIRST    the number of the first round (0): with one round, replays only that one

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/chaos/round.h"
#include "tests/support/leak_check.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

uint64_t Seed() {
  const char* const given = std::getenv("IOB_SEED");
  return given == nullptr ? std::random_device()() : std::strtoull(given, nullptr, 10);
}

uint32_t FromEnvironment(const char* name, uint32_t otherwise) {
  const char* const given = std::getenv(name);
  return given == nullptr ? otherwise : static_cast<uint32_t>(std::strtoul(given, nullptr, 10));
}

TEST(Chaos, NoRecordIsLostTwiceReadOrSpoiledWhateverDies) {
  const uint64_t seed = Seed();
  const uint32_t first = FromEnvironment("IOB_CHAOS_FIRST", 0);
  const uint32_t rounds = FromEnvironment("IOB_CHAOS_ROUNDS", 6 * kRingKinds.size());
  std::cout << "IOB_SEED=" << seed << " IOB_CHAOS_ROUNDS=" << rounds << std::endl;
  ChaosDaemon daemon;
  JournalMapping journal;
  ASSERT_OK_AND_ASSIGN(Broker broker, Broker::Connect({.runtime_dir = daemon.runtime_dir(),
                                                       .grpc_socket_path = {},
                                                       .timeout = std::chrono::seconds(20)}));
  ASSERT_THAT(broker.GetLimits(), IsOk());
  HarmCount harm;
  for (uint32_t i = first; i < first + rounds; ++i) {
    const RingKind kind = kRingKinds[i % kRingKinds.size()];
    const std::string where = absl::StrCat(Name(kind), ": IOB_SEED=", seed, " IOB_CHAOS_FIRST=", i,
                                           " IOB_CHAOS_ROUNDS=1");
    const LeakCheck leaks(::getpid());
    Round(daemon, broker, journal, kind, i, seed + i, harm).Run();
    ASSERT_FALSE(::testing::Test::HasFailure()) << where;
    ASSERT_EQ(leaks.Compare(), "") << where;
  }
  std::cout << harm.killed << " killed, " << harm.stopped << " stopped, " << harm.hung_up
            << " hung up; " << harm.records << " records stored, " << harm.rejected << " rejected, "
            << harm.unknown << " unknown to their writers, " << harm.read_again << " read again"
            << std::endl;
  if (rounds < kRingKinds.size()) return;
  // The run was worth something.
  EXPECT_GE(harm.killed, rounds);
  EXPECT_GE(harm.records, 1000u * rounds);
  EXPECT_GT(harm.stopped, 0u);
  EXPECT_GT(harm.hung_up, 0u);
  EXPECT_GT(harm.rejected, 0u);
}

}  // namespace
}  // namespace iob::test

int main(int argc, char** argv) {
  if (const auto task = iob::test::TaskOf(argc, argv)) return iob::test::RunPeer(*task);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
