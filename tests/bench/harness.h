// The harness: two pinned processes per contender, and rounds in turns.
//
//   round 1:  A B C D    round 2:  A B C D    ...    medians over the rounds of each
//
// All contenders of a case run once before any runs again, so that a machine that gets slower or
// noisier gets so for all of them, and ratios are between medians of one run.
//
//   N1  A round during which others took more than kOtherShareMax of the processors does not count;
//       it is repeated, at most kRepeatsMax times per case and contender, then taken as it is and
//       counted as noisy.
//   N2  A round that fails (a wrong or missing record) ends the contender: it is reported as failed
//       and its processes are killed.
//   N3  Processes are pinned to the first two processors this process may use; with one only, both
//       share it, and the report says so.
//
// One thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/mapping.h"
#include "shm/unique_fd.h"
#include "tests/bench/clock.h"
#include "tests/bench/contender.h"

namespace iob::bench {

inline constexpr double kOtherShareMax = 0.10;
inline constexpr int kRepeatsMax = 3;

// What one round says: a rate, or a distribution of one-way times.
struct Sample {
  double ns_per_record = 0;
  double p50_ns = 0;
  double p99_ns = 0;
  double p999_ns = 0;
  double other_share = 0;  // Of all processors' time, what neither side nor its services took.
};

// Two processes of one contender. Its destructor ends them.
class Pair {
 public:
  // After Contender::Setup. Returns once both sides are open.
  static absl::StatusOr<std::unique_ptr<Pair>> Start(Contender& contender, const TickClock& clock);
  Pair(const Pair&) = delete;
  ~Pair();

  // Runs one round; any error leaves the pair useless. The deadline of `round` is set here.
  absl::StatusOr<Sample> Run(Round round);

  // Resident memory of the contender's services, in bytes.
  uint64_t ServicesResidentBytes() const;

 private:
  struct Side {
    pid_t pid = -1;
    shm::UniqueFd commands;
    shm::UniqueFd replies;
  };

  Pair(Contender& contender, const TickClock& clock, RoundPage* page)
      : contender_(contender), clock_(clock), page_(page) {}
  absl::Status StartSide(Role role);
  Sample Distribution(uint64_t records) const;

  Contender& contender_;
  TickClock clock_;
  RoundPage* page_;
  std::array<Side, 2> sides_;
};

// One row of the plan: what is measured of every contender that can do it.
struct Case {
  Measure measure = Measure::kRate;
  Waiting waiting = Waiting::kSpin;
  uint64_t payload_bytes = 0;

  bool operator==(const Case&) const = default;
};

struct Plan {
  std::vector<Case> cases;
  int rounds = 0;
  int64_t round_ns = 0;  // What a round should last.
};

// All rounds of one contender in one case.
struct Series {
  size_t contender = 0;  // Index into the contenders.
  size_t plan_case = 0;  // Index into the plan's cases.
  std::vector<Sample> samples;
  int repeated = 0;   // Rounds that did not count (N1).
  int noisy = 0;      // Rounds that count though they were noisy.
  std::string error;  // Why there are no samples.
};

class Harness {
 public:
  explicit Harness(Contenders contenders);

  // Sets up all contenders and starts their processes. Those that cannot run say why and stay out.
  void Start();
  // Series in the order of the plan; in each case in the order of the contenders.
  std::vector<Series> Run(const Plan& plan);

  const Contenders& contenders() const { return contenders_; }
  // Why a contender is out; empty for those that run.
  const std::string& problem(size_t contender) const { return problems_[contender]; }
  uint64_t ServicesResidentBytes(size_t contender) const;

 private:
  bool Takes(size_t contender, const Case& plan_case) const;
  // Finds out how many records make a round of the wanted length; 0 when that failed.
  uint64_t RecordsPerRound(size_t contender, const Case& plan_case, int64_t round_ns);
  void RunRound(const Round& round, Series& series);

  TickClock clock_;
  Contenders contenders_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::vector<std::string> problems_;
};

// The processors that the two sides are pinned to; the same twice when there is but one.
std::array<int, 2> PinnedProcessors();

}  // namespace iob::bench
