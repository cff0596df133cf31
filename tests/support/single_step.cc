#include "tests/support/single_step.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cstdio>

#include "shm/check.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define IOB_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define IOB_TEST_SANITIZED 1
#endif
#endif

namespace iob::test {
namespace {

// Exit statuses of a victim that never came to its operation.
constexpr int kUntraceable = 77;
constexpr int kNoOperation = 78;

// Keeps this thread, and victims that it forks meanwhile, on one processor: the two take turns, and
// handing over on the spot is about twice as fast as waking another processor for each step.
class OnOneCpu {
 public:
  OnOneCpu() {
    IOB_CHECK(::sched_getaffinity(0, sizeof(before_), &before_) == 0);
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(::sched_getcpu(), &here);
    // Refused, it is only slower.
    (void)::sched_setaffinity(0, sizeof(here), &here);
  }
  OnOneCpu(const OnOneCpu&) = delete;
  OnOneCpu& operator=(const OnOneCpu&) = delete;
  ~OnOneCpu() { (void)::sched_setaffinity(0, sizeof(before_), &before_); }

 private:
  cpu_set_t before_;
};

// Where the victim stands after a wait.
struct Stand {
  bool stopped = false;
  int what = 0;  // The signal that stopped it; else its exit status, or 128 + what killed it.
};

Stand Await(pid_t pid) {
  int status = 0;
  IOB_CHECK(::waitpid(pid, &status, __WALL) == pid);
  if (WIFSTOPPED(status)) return {.stopped = true, .what = WSTOPSIG(status)};
  return {.stopped = false,
          .what = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
}

// The victim, in front of its operation if it says that it is stopped.
pid_t Launch(const std::function<void()>& body, Stand* ret_stand) {
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  IOB_CHECK(pid >= 0);
  if (pid == 0) {
    body();
    ::_exit(kNoOperation);
  }
  *ret_stand = Await(pid);
  if (ret_stand->stopped) {
    // K4.
    IOB_CHECK(::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_EXITKILL) == 0);
  }
  return pid;
}

void KillAndAwait(pid_t pid) {
  IOB_CHECK(::kill(pid, SIGKILL) == 0);
  Stand stand;
  do {
    stand = Await(pid);
  } while (stand.stopped);
}

// One instruction; false when the victim did not come to stand behind it.
bool Step(pid_t pid, Stand* ret_stand) {
  // Refused where the kernel cannot, and when somebody else's SIGKILL came first.
  if (::ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) != 0) {
    ret_stand->what = 0;
    return false;
  }
  *ret_stand = Await(pid);
  return ret_stand->stopped && ret_stand->what == SIGTRAP;
}

}  // namespace

void StopForTracer() {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(kUntraceable);
  ::kill(::getpid(), SIGSTOP);
}

const char* WhyNoSingleStep() {
#if defined(IOB_TEST_SANITIZED)
  return "a sanitizer's instructions are not the ones that ship";
#elif !defined(__x86_64__) && !defined(__aarch64__)
  return "not known to step single instructions on this processor";
#else
#if defined(__aarch64__)
  // Each stop clears the monitor, so that an exclusive store never succeeds.
  if ((::getauxval(AT_HWCAP) & HWCAP_ATOMICS) == 0) return "no atomics but exclusive pairs";
#endif
  Stand stand;
  const pid_t pid = Launch([] { Operate([] { return true; }); }, &stand);
  if (!stand.stopped) return "the kernel forbids ptrace here";
  const bool stepped = Step(pid, &stand);
  if (stand.stopped) KillAndAwait(pid);
  return stepped ? nullptr : "the kernel does not step single instructions here";
#endif
}

StepRun KillAfter(uint64_t instructions, const std::function<void()>& body) {
  const OnOneCpu on_one_cpu;
  Stand stand;
  const pid_t pid = Launch(body, &stand);
  if (!stand.stopped || stand.what != SIGSTOP) {
    ADD_FAILURE() << "the victim did not come to its operation: " << stand.what;
    if (stand.stopped) KillAndAwait(pid);
    return {.end = StepEnd::kFailed, .instructions = 0};
  }
  uint64_t steps = 0;
  while (steps < instructions && steps < kVictimInstructionsMax && Step(pid, &stand)) ++steps;
  if (!stand.stopped) {
    EXPECT_EQ(stand.what, 0) << "the victim's operation failed after " << steps << " instructions";
    return {.end = stand.what == 0 ? StepEnd::kEnded : StepEnd::kFailed, .instructions = steps};
  }
  KillAndAwait(pid);
  if (steps == instructions) return {.end = StepEnd::kKilled, .instructions = steps};
  ADD_FAILURE() << "the victim stood still after " << steps << " instructions: " << stand.what;
  return {.end = StepEnd::kFailed, .instructions = steps};
}

}  // namespace iob::test
