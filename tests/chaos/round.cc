#include "tests/chaos/round.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/futex.h"
#include "tests/chaos/record.h"
#include "tests/support/leak_check.h"
#include "tests/support/status_matchers.h"

namespace iob::test {
namespace {

using namespace std::chrono_literals;

constexpr int64_t kPatienceMs = 20'000;
constexpr uint32_t kHarmsMax = 7;

}  // namespace

Round::Round(ChaosDaemon& daemon, Broker& broker, JournalMapping& journal, RingKind kind,
             uint32_t number, uint64_t seed, HarmCount& harm)
    : daemon_(daemon),
      broker_(broker),
      journal_(journal),
      kind_(kind),
      promise_(PromiseOf(kind)),
      number_(number),
      random_(seed),
      harm_(harm) {
  processes_.reserve(kWritersMax + kReadersMax);  // Pointers to them stay good.
}

Round::~Round() {
  for (Process* process : Alive()) {
    ::kill(process->pid, SIGKILL);
    ::waitpid(process->pid, nullptr, 0);
  }
}

void Round::Run() {
  journal_.Clear();
  ASSERT_NO_FATAL_FAILURE(Begin());
  const uint32_t harms = 2 + Draw(kHarmsMax - 1);
  for (uint32_t i = 0; i < harms; ++i) {
    WaitForMoment();
    ASSERT_NO_FATAL_FAILURE(DoHarm());
  }
  WaitForMoment();
  ASSERT_NO_FATAL_FAILURE(End());
  ASSERT_NO_FATAL_FAILURE(CheckAccounts());
  GiveBack();
}

RegionSpec Round::Spec(RingKind kind) {
  const uint64_t bytes = uint64_t{16 << 10} << Draw(3);
  RegionSpec mediated = MediatedRingSpec(4096 + bytes);
  mediated.mediated_ring.followers = true;
  switch (kind) {
    case RingKind::kDropNew:
      return mediated;
    case RingKind::kBlock:
      mediated.mediated_ring.policy = RingPolicy::kBlock;
      mediated.mediated_ring.block = 10ms;
      return mediated;
    case RingKind::kOverwrite:
      mediated.mediated_ring.policy = RingPolicy::kOverwriteOldest;
      return mediated;
    case RingKind::kLanes: {
      ReserveRingOptions options;
      // One more for who hangs up, and one whose end is being settled.
      options.lanes = 5;
      return ReserveRingSpec(options.lanes * bytes, options);
    }
    case RingKind::kShared: {
      ReserveRingOptions options;
      options.mode = ReserveMode::kShared;
      return ReserveRingSpec(bytes, options);
    }
    case RingKind::kBroadcast:
      return BroadcastSpec(bytes);
    case RingKind::kSlot:
      break;
  }
  return SlotSpec(kRecordBytesMax);
}

std::vector<RegionSpec> Round::Specs() {
  // Broadcast and slot have a place for one writer at once, and would keep the others out.
  const size_t kinds = promise_.writers == 1 ? kRingKinds.size() : 5;
  std::vector<RegionSpec> specs;
  region_ = Draw(3);
  for (uint32_t i = 0; i < region_; ++i)
    specs.push_back(Spec(kRingKinds[Draw(static_cast<uint32_t>(kinds))]));
  specs.push_back(Spec(kind_));
  return specs;
}

void Round::Begin() {
  ASSERT_OK_AND_ASSIGN(CreatedBuffer buffer,
                       broker_.CreateBuffer({.name = "chaos", .regions = Specs()}));
  buffer_.emplace(std::move(buffer));
  // Readers first: a follower begins with the oldest that is there, and the first ones see all.
  if (promise_.consumer) {
    ASSERT_NO_FATAL_FAILURE(Start(Role::kConsumer));
  }
  for (uint32_t i = 0; i < promise_.followers; ++i) ASSERT_NO_FATAL_FAILURE(Start(Role::kFollower));
  for (uint32_t i = 0; i < promise_.writers; ++i) ASSERT_NO_FATAL_FAILURE(Start(Role::kWriter));
}

Ticket Round::TicketFor(Role role) {
  const std::optional<Handle>& handle =
      role == Role::kWriter ? buffer_->ep1_handle : buffer_->ep0_handle;
  const Handle more =
      broker_.DuplicateHandle(*handle, HandleRights(HandleRights::kSameRights)).value();
  return broker_.Attach(more).value();
}

void Round::Start(Role role) {
  uint32_t& slots = role == Role::kWriter ? writer_slots_ : reader_slots_;
  Process process{.role = role, .slot = slots++, .pid = -1};
  IOB_CHECK(process.slot < (role == Role::kWriter ? kWritersMax : kReadersMax));
  const uint64_t seed = random_();
  std::string outcome = "it did not begin to work";
  const bool working = Eventually(
      [&] {
        const uint32_t state = CommonOf(process).state.load();
        if (state == static_cast<uint32_t>(State::kWorking)) return true;
        int status = 0;
        if (process.pid > 0 && ::waitpid(process.pid, &status, WNOHANG) == process.pid) {
          process.pid = -1;
          outcome = absl::StrCat("wait status ", status, " ", CommonOf(process).problem.data());
          if (!WIFEXITED(status) || WEXITSTATUS(status) != kExitRefused) return true;
        }
        if (process.pid < 0) {
          process.pid = Execute({.role = role,
                                 .kind = kind_,
                                 .region = region_,
                                 .slot = process.slot,
                                 .round = number_,
                                 .seed = seed,
                                 .ticket = TicketFor(role).ToHex(),
                                 .attach_path = daemon_.attach_path()});
        }
        return false;
      },
      kPatienceMs);
  if (process.pid > 0) processes_.push_back(process);
  ASSERT_TRUE(working && process.pid > 0)
      << "process " << process.slot << " of role " << static_cast<int>(role) << ": " << outcome;
}

pid_t Round::Execute(const PeerTask& task) {
  std::vector<std::string> words = WordsOf(task);
  words.insert(words.begin(), "chaos_test");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  IOB_CHECK(pid >= 0);
  if (pid != 0) return pid;
  // In the child of a process with threads: system calls only. It keeps nothing but the journal.
  if (::dup2(journal_.fd(), kJournalFd) != kJournalFd) ::_exit(126);
  ::close_range(kJournalFd + 1, ~0U, 0);
  ::execv("/proc/self/exe", argv.data());
  ::_exit(127);
}

Common& Round::CommonOf(const Process& process) const {
  return process.role == Role::kWriter ? journal_->writers[process.slot].common
                                       : journal_->readers[process.slot].common;
}

std::vector<Round::Process*> Round::Alive(std::optional<Role> role) {
  std::vector<Process*> alive;
  for (Process& process : processes_) {
    if (process.pid > 0 && (!role || process.role == *role)) alive.push_back(&process);
  }
  return alive;
}

void Round::Tell(const Process& process, Order order) {
  Common& common = CommonOf(process);
  common.order.store(static_cast<uint32_t>(order));
  shm::FutexWakeAll(&common.order);
}

void Round::Reap(Process& process, int expected) {
  int status = 0;
  const bool ended = Eventually(
      [&] { return ::waitpid(process.pid, &status, WNOHANG) == process.pid; }, kPatienceMs);
  ASSERT_TRUE(ended) << Name(kind_) << ": process " << process.slot << " of role "
                     << static_cast<int>(process.role) << " does not end";
  process.pid = -1;
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), expected)
      << "process " << process.slot << " of role " << static_cast<int>(process.role) << ": "
      << CommonOf(process).problem.data();
}

void Round::Kill(Process& process) {
  ::kill(process.pid, SIGKILL);
  Reap(process, 128 + SIGKILL);
  ++harm_.killed;
}

uint64_t Round::Progress() const {
  uint64_t progress = 0;
  for (uint32_t i = 0; i < writer_slots_; ++i) progress += journal_->writers[i].begun.load();
  for (uint32_t i = 0; i < reader_slots_; ++i) progress += journal_->readers[i].logged.load();
  return progress;
}

void Round::WaitForMoment() {
  const uint64_t later = Progress() + Draw(1500);
  Eventually([&] { return Progress() >= later; }, 40);
}

void Round::DoHarm() {
  const std::vector<Process*> alive = Alive();
  Process& victim = *alive[Draw(static_cast<uint32_t>(alive.size()))];
  const Role role = victim.role;
  switch (static_cast<Harm>(Draw(4))) {
    case Harm::kKill:
      ASSERT_NO_FATAL_FAILURE(Kill(victim));
      break;
    case Harm::kStopAndContinue:
      ASSERT_NO_FATAL_FAILURE(Stop(victim, /*then_kill=*/false));
      return;
    case Harm::kStopAndKill:
      ASSERT_NO_FATAL_FAILURE(Stop(victim, /*then_kill=*/true));
      break;
    case Harm::kHangUp:
      ASSERT_NO_FATAL_FAILURE(HangUp(victim));
      return;
  }
  Start(role);
}

void Round::Stop(Process& victim, bool then_kill) {
  ++harm_.stopped;
  ::kill(victim.pid, SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(victim.pid, &status, WUNTRACED), victim.pid);
  ASSERT_TRUE(WIFSTOPPED(status)) << status << CommonOf(victim).problem.data();
  // Nobody waits for it: everybody else goes on. (What is behind an unfinished record of a shared
  // ring cannot be read meanwhile, but its other writers are told so at once.)
  for (const Process* other : Alive(Role::kWriter)) {
    if (other == &victim) continue;
    const std::atomic<uint32_t>& begun = journal_->writers[other->slot].begun;
    const uint32_t before = begun.load();
    EXPECT_TRUE(Eventually([&] { return begun > before || before == kRecordsMax; }, kPatienceMs))
        << Name(kind_) << ": writer " << other->slot << " waits for a stopped process";
  }
  WaitForMoment();
  if (then_kill) {
    Kill(victim);
  } else {
    ::kill(victim.pid, SIGCONT);
  }
}

void Round::HangUp(Process& victim) {
  ++harm_.hung_up;
  Tell(victim, Order::kHangUp);
  const std::atomic<uint32_t>& state = CommonOf(victim).state;
  ASSERT_TRUE(
      Eventually([&] { return state == static_cast<uint32_t>(State::kLingering); }, kPatienceMs))
      << Name(kind_) << ": " << CommonOf(victim).problem.data();
  WaitForMoment();
  const Role role = victim.role;
  // A ring of one writer has no place for a second while the first may still write.
  const bool early = (role != Role::kWriter || promise_.writers > 1) && Draw(2) == 0;
  if (early) {
    ASSERT_NO_FATAL_FAILURE(Start(role));
    WaitForMoment();
  }
  ASSERT_NO_FATAL_FAILURE(Kill(victim));
  if (!early) Start(role);
}

uint32_t Round::EndpointAttachments(size_t endpoint) {
  const absl::StatusOr<BufferInfo> info = broker_.GetBuffer(buffer_->info.koid);
  return info.ok() ? info->endpoints[endpoint].attachments : 0;
}

void Round::End() {
  std::vector<Process*> writers = Alive(Role::kWriter);
  Process& last = *writers.back();
  writers.pop_back();
  for (Process* writer : writers) Tell(*writer, Order::kFinish);
  for (Process* writer : writers) ASSERT_NO_FATAL_FAILURE(Reap(*writer, 0));
  EXPECT_THAT(broker_.CloseHandle(*std::exchange(buffer_->ep1_handle, std::nullopt)), IsOk());
  EXPECT_TRUE(Eventually([&] { return EndpointAttachments(1) == 1; }));
  CloseReason reason;
  switch (Draw(4)) {
    case 0:
      Tell(last, Order::kFinish);
      ASSERT_NO_FATAL_FAILURE(Reap(last, 0));
      reason = {.kind = CloseKind::kClosed, .code = 0};
      break;
    case 1:
      Tell(last, Order::kExit);
      ASSERT_NO_FATAL_FAILURE(Reap(last, kExitTold));
      reason = {.kind = CloseKind::kExited, .code = kExitTold};
      break;
    case 2:
      Tell(last, Order::kPark);
      EXPECT_TRUE(Eventually([&] { return CommonOf(last).settled == 1; }, kPatienceMs))
          << CommonOf(last).problem.data();
      [[fallthrough]];
    default:
      ASSERT_NO_FATAL_FAILURE(Kill(last));
      reason = {.kind = CloseKind::kKilled, .code = SIGKILL};
  }
  ExpectReaders(reason);
}

void Round::ExpectReaders(const CloseReason& reason) {
  for (Process* reader : Alive()) {
    ASSERT_NO_FATAL_FAILURE(Reap(*reader, 0));
    const Common& common = CommonOf(*reader);
    const CloseReason told = {.kind = static_cast<CloseKind>(common.close_kind.load()),
                              .code = common.close_code.load()};
    EXPECT_EQ(told, reason) << "told " << ToString(told) << ", it was " << ToString(reason);
  }
}

RingFigures Round::Figures() {
  const absl::StatusOr<BufferStats> stats = broker_.GetStats(buffer_->info.koid);
  EXPECT_THAT(stats, IsOk());
  if (!stats.ok() || stats->rings.size() != region_ + 1) return {};
  const RingStats& ring = stats->rings[region_];
  EXPECT_EQ(ring.region_index, region_);
  for (uint32_t i = 0; i < region_; ++i) EXPECT_EQ(stats->rings[i].attempted_records, 0u);
  const auto sum = [](const std::vector<LossCount>& losses) {
    uint64_t records = 0;
    for (const LossCount& loss : losses) records += loss.records;
    return records;
  };
  RingFigures figures = {.attempted = ring.attempted_records,
                         .stored = ring.stored_records,
                         .rejected = sum(ring.rejected),
                         .consumed = ring.consumed_records,
                         .overwritten = ring.overwritten_records,
                         .resident = ring.resident_records};
  RingFigures of_writers;
  for (const WriterShare& writer : ring.writers) {
    EXPECT_EQ(writer.attempted_records, writer.stored_records + sum(writer.rejected));
    of_writers.attempted += writer.attempted_records;
    of_writers.stored += writer.stored_records;
    of_writers.rejected += sum(writer.rejected);
  }
  EXPECT_EQ(of_writers.attempted, figures.attempted);
  EXPECT_EQ(of_writers.stored, figures.stored);
  EXPECT_EQ(of_writers.rejected, figures.rejected);
  return figures;
}

void Round::CheckAccounts() {
  std::vector<uint32_t> consumers;
  std::vector<uint32_t> followers;
  for (const Process& process : processes_) {
    if (process.role == Role::kConsumer) consumers.push_back(process.slot);
    if (process.role == Role::kFollower) followers.push_back(process.slot);
  }
  RoundAccount account = AccountOf(*journal_, kind_, writer_slots_, consumers, followers);
  // The broker reads a consumer's last position when it next looks at the ring, which asking does.
  account.figures = Figures();
  EXPECT_THAT(Verify(account), ::testing::IsEmpty()) << Name(kind_) << ", round " << number_;

  harm_.records += account.figures.stored;
  harm_.rejected += account.figures.rejected;
  for (const WriterAccount& writer : account.writers) {
    harm_.unknown +=
        static_cast<uint64_t>(std::count(writer.fates.begin(), writer.fates.end(), Fate::kUnknown));
  }
  std::set<uint64_t> seen;
  for (const ReaderAccount& reader : account.consumers) {
    for (const uint64_t id : reader.log) harm_.read_again += seen.insert(id).second ? 0 : 1;
  }
}

void Round::GiveBack() {
  EXPECT_THAT(broker_.CloseHandle(*std::exchange(buffer_->ep0_handle, std::nullopt)), IsOk());
  EXPECT_TRUE(Eventually([&] { return daemon_.CheckInvariants() == 0; }));
  EXPECT_EQ(daemon_.Metric("iob_memory_bytes"), 0);
}

}  // namespace iob::test
