#include "tests/bench/harness.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "shm/result.h"
#include "tests/bench/quiet.h"

namespace iob::bench {
namespace {

constexpr int64_t kOpenNs = 15'000'000'000;
constexpr int64_t kRoundDeadlineNs = 5'000'000'000;

// What a side answers to a command, and once when it is open.
struct Reply {
  double ns_per_record = 0;
  int64_t cpu_ns = 0;
  bool ok = false;
  char error[160] = {};
};

int64_t CpuNs() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto ns = [](const timeval& time) {
    return (int64_t{time.tv_sec} * 1'000'000 + time.tv_usec) * 1000;
  };
  return ns(usage.ru_utime) + ns(usage.ru_stime);
}

Reply ReplyOf(const absl::Status& status) {
  Reply reply;
  reply.ok = status.ok();
  std::snprintf(reply.error, sizeof(reply.error), "%s", status.ToString().c_str());
  return reply;
}

void Pin(Role role) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(PinnedProcessors()[static_cast<size_t>(role)]), &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

// The life of one side. A round without records is the command to end.
void Serve(Contender& contender, Role role, const TickClock& clock, RoundPage& page, int commands,
           int replies) {
  const auto answer = [&](const Reply& reply) {
    return ::write(replies, &reply, sizeof(reply)) == ssize_t{sizeof(reply)};
  };
  absl::StatusOr<std::unique_ptr<End>> end = contender.Open(role, clock);
  if (!answer(ReplyOf(end.status())) || !end.ok()) return;
  Round round;
  while (::read(commands, &round, sizeof(round)) == ssize_t{sizeof(round)} && round.records != 0) {
    const int64_t cpu_before_ns = CpuNs();
    const absl::StatusOr<double> result = (*end)->Run(round, page);
    if (!result.ok()) page.given_up.store(1, std::memory_order_relaxed);
    Reply reply = ReplyOf(result.status());
    if (result.ok()) reply.ns_per_record = *result;
    reply.cpu_ns = CpuNs() - cpu_before_ns;
    if (!answer(reply)) return;
  }
}

absl::StatusOr<Reply> ReadReply(int fd, int64_t deadline_ns) {
  pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
  for (;;) {
    const int64_t left_ns = deadline_ns - shm::MonotonicNs();
    if (left_ns <= 0) return absl::DeadlineExceededError("no answer in time");
    const int got = ::poll(&ready, 1, static_cast<int>(left_ns / 1'000'000 + 1));
    if (got < 0 && errno != EINTR) return shm::ErrnoStatus(errno, "poll");
    if (got > 0) break;
  }
  Reply reply;
  if (::read(fd, &reply, sizeof(reply)) != ssize_t{sizeof(reply)})
    return absl::UnavailableError("a side died");
  if (!reply.ok) return absl::InternalError(reply.error);
  return reply;
}

// Waits for the end of a process that was asked to end; then makes it.
void Reap(pid_t pid, int64_t patience_ns) {
  const int64_t deadline_ns = shm::MonotonicNs() + patience_ns;
  while (shm::MonotonicNs() < deadline_ns) {
    if (::waitpid(pid, nullptr, WNOHANG) == pid) return;
    ::usleep(1000);
  }
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

std::array<int, 2> PinnedProcessors() {
  static const std::array<int, 2> processors = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    ::sched_getaffinity(0, sizeof(set), &set);
    std::array<int, 2> found = {-1, -1};
    for (int cpu = 0; cpu < CPU_SETSIZE && found[1] < 0; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &set)) (found[0] < 0 ? found[0] : found[1]) = cpu;
    }
    if (found[1] < 0) found[1] = found[0];
    return found;
  }();
  return processors;
}

absl::Status Pair::StartSide(Role role) {
  int commands[2];
  int replies[2];
  if (::pipe2(commands, O_CLOEXEC) != 0) return shm::ErrnoStatus(errno, "pipe2");
  Side& side = sides_[static_cast<size_t>(role)];
  side.commands = shm::UniqueFd(commands[1]);
  const shm::UniqueFd commands_out(commands[0]);
  if (::pipe2(replies, O_CLOEXEC) != 0) return shm::ErrnoStatus(errno, "pipe2");
  side.replies = shm::UniqueFd(replies[0]);
  const shm::UniqueFd replies_in(replies[1]);
  std::fflush(nullptr);
  const pid_t parent = ::getpid();
  side.pid = ::fork();
  if (side.pid < 0) return shm::ErrnoStatus(errno, "fork");
  if (side.pid > 0) return absl::OkStatus();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  Pin(role);
  Serve(contender_, role, clock_, *page_, commands_out.get(), replies_in.get());
  std::fflush(nullptr);
  if (contender_.CleansUpAtExit()) std::exit(0);
  ::_exit(0);
}

absl::StatusOr<std::unique_ptr<Pair>> Pair::Start(Contender& contender, const TickClock& clock) {
  void* const memory = ::mmap(nullptr, sizeof(RoundPage), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return shm::ErrnoStatus(errno, "mmap");
  std::unique_ptr<Pair> pair(new Pair(contender, clock, static_cast<RoundPage*>(memory)));
  // The receiver first: where one side listens and the other connects, it is the one that listens.
  for (const Role role : {Role::kReceiver, Role::kSender})
    IOB_RETURN_IF_ERROR(pair->StartSide(role));
  const int64_t deadline_ns = shm::MonotonicNs() + kOpenNs;
  for (const Side& side : pair->sides_) {
    const absl::StatusOr<Reply> open = ReadReply(side.replies.get(), deadline_ns);
    if (!open.ok()) return open.status();
  }
  return pair;
}

Pair::~Pair() {
  const Round end;
  for (const Side& side : sides_) {
    // A side that is gone already needs no command.
    if (side.pid > 0) (void)!::write(side.commands.get(), &end, sizeof(end));
  }
  constexpr int64_t kPatienceNs = 3'000'000'000;
  for (const Side& side : sides_) {
    if (side.pid > 0) Reap(side.pid, kPatienceNs);
  }
  ::munmap(page_, sizeof(*page_));
}

absl::StatusOr<Sample> Pair::Run(Round round) {
  const std::vector<pid_t> services = contender_.Services();
  const LoadMeter meter(services);
  round.deadline_ns = shm::MonotonicNs() + kRoundDeadlineNs;
  for (const Side& side : sides_) {
    if (::write(side.commands.get(), &round, sizeof(round)) != ssize_t{sizeof(round)})
      return shm::ErrnoStatus(errno, "write of a command");
  }
  Sample sample;
  int64_t cpu_ns = 0;
  for (const Side& side : sides_) {
    constexpr int64_t kGraceNs = 2'000'000'000;
    const absl::StatusOr<Reply> reply = ReadReply(side.replies.get(), round.deadline_ns + kGraceNs);
    if (!reply.ok()) return reply.status();
    sample.ns_per_record += reply->ns_per_record;  // One of them is 0.
    cpu_ns += reply->cpu_ns;
  }
  if (round.measure != Measure::kRate) sample = Distribution(round.records);
  sample.other_share = meter.OtherShare(services, cpu_ns);
  return sample;
}

Sample Pair::Distribution(uint64_t records) const {
  std::vector<double> times_ns(records);
  for (size_t i = 0; i < records; ++i) {
    const uint64_t sent = page_->sent_ticks[i];
    const uint64_t received = page_->received_ticks[i];
    times_ns[i] = received > sent ? clock_.ToNs(received - sent) : 0;
  }
  std::sort(times_ns.begin(), times_ns.end());
  const auto at = [&](double share) {
    return times_ns[static_cast<size_t>(static_cast<double>(records - 1) * share)];
  };
  return {.ns_per_record = 0,
          .p50_ns = at(0.5),
          .p99_ns = at(0.99),
          .p999_ns = at(0.999),
          .other_share = 0};
}

uint64_t Pair::ServicesResidentBytes() const {
  uint64_t total = 0;
  for (const pid_t pid : contender_.Services()) total += ResidentBytes(pid);
  return total;
}

Harness::Harness(Contenders contenders)
    : clock_(TickClock::Calibrate()),
      contenders_(std::move(contenders)),
      pairs_(contenders_.size()),
      problems_(contenders_.size()) {}

void Harness::Start() {
  // A side that died must not take the harness with it.
  ::signal(SIGPIPE, SIG_IGN);
  for (size_t i = 0; i < contenders_.size(); ++i) {
    absl::Status status = contenders_[i]->Setup();
    if (status.ok()) {
      auto pair = Pair::Start(*contenders_[i], clock_);
      if (pair.ok()) {
        pairs_[i] = *std::move(pair);
      } else {
        status = pair.status();
      }
    }
    if (status.ok()) continue;
    problems_[i] = status.ToString();
    std::fprintf(stderr, "  %s is out: %s\n", contenders_[i]->traits().name.c_str(),
                 problems_[i].c_str());
  }
}

bool Harness::Takes(size_t contender, const Case& plan_case) const {
  const Traits& traits = contenders_[contender]->traits();
  return pairs_[contender] != nullptr && plan_case.payload_bytes <= traits.payload_bytes_max &&
         (plan_case.waiting == Waiting::kSpin ? traits.can_spin : traits.can_sleep);
}

uint64_t Harness::RecordsPerRound(size_t contender, const Case& plan_case, int64_t round_ns) {
  const bool rate = plan_case.measure == Measure::kRate;
  Round round{.measure = plan_case.measure,
              .waiting = plan_case.waiting,
              .payload_bytes = plan_case.payload_bytes,
              .records = rate ? 256U : 32U,
              .warm_up_records = 16,
              .pause_ns = 0,
              .deadline_ns = 0};
  // The second look corrects the first, which was cold and short.
  for (int look = 0; look < 2; ++look) {
    const int64_t start_ns = shm::MonotonicNs();
    const absl::StatusOr<Sample> sample = pairs_[contender]->Run(round);
    if (!sample.ok()) {
      problems_[contender] = sample.status().ToString();
      return 0;
    }
    const int64_t took_ns = shm::MonotonicNs() - start_ns;
    const double per_record =
        rate ? std::max(sample->ns_per_record, 1.0)
             : static_cast<double>(took_ns) / static_cast<double>(round.all_records());
    const double pause = plan_case.measure == Measure::kAfterIdle ? 50'000.0 : 0;
    const double wanted = static_cast<double>(round_ns) / (look == 0 ? 10 : 1);
    round.records = std::clamp(static_cast<uint64_t>(wanted / (per_record + pause)), uint64_t{32},
                               rate ? uint64_t{1} << 32 : kSamplesMax);
  }
  return round.records;
}

void Harness::RunRound(const Round& round, Series& series) {
  const absl::StatusOr<Sample> sample = pairs_[series.contender]->Run(round);
  if (!sample.ok()) {
    series.error = sample.status().ToString();
    problems_[series.contender] = series.error;
    std::fprintf(stderr, "  %s failed: %s\n", contenders_[series.contender]->traits().name.c_str(),
                 series.error.c_str());
    pairs_[series.contender].reset();
    return;
  }
  if (sample->other_share > kOtherShareMax) {
    if (series.repeated < kRepeatsMax) {
      series.repeated += 1;
      return RunRound(round, series);
    }
    series.noisy += 1;
  }
  series.samples.push_back(*sample);
}

std::vector<Series> Harness::Run(const Plan& plan) {
  std::vector<Series> all;
  for (size_t number = 0; number < plan.cases.size(); ++number) {
    const Case& plan_case = plan.cases[number];
    std::vector<std::pair<Series, Round>> running;
    for (size_t i = 0; i < contenders_.size(); ++i) {
      if (!Takes(i, plan_case)) continue;
      const uint64_t records = RecordsPerRound(i, plan_case, plan.round_ns);
      Series series{.contender = i,
                    .plan_case = number,
                    .samples = {},
                    .repeated = 0,
                    .noisy = 0,
                    .error = records == 0 ? problems_[i] : ""};
      if (records == 0) {
        std::fprintf(stderr, "  %s failed: %s\n", contenders_[i]->traits().name.c_str(),
                     problems_[i].c_str());
        pairs_[i].reset();
      }
      const Round round{.measure = plan_case.measure,
                        .waiting = plan_case.waiting,
                        .payload_bytes = plan_case.payload_bytes,
                        .records = records,
                        .warm_up_records = records / 10,
                        .pause_ns = plan_case.measure == Measure::kAfterIdle ? 50'000 : 0,
                        .deadline_ns = 0};
      running.emplace_back(std::move(series), round);
    }
    for (int turn = 0; turn < plan.rounds; ++turn) {
      for (auto& [series, round] : running) {
        if (series.error.empty()) RunRound(round, series);
      }
    }
    for (auto& [series, round] : running) all.push_back(std::move(series));
  }
  return all;
}

uint64_t Harness::ServicesResidentBytes(size_t contender) const {
  return pairs_[contender] == nullptr ? 0 : pairs_[contender]->ServicesResidentBytes();
}

}  // namespace iob::bench
