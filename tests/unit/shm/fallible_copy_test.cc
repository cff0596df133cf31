// Copies of memory that is gone: how much was moved is told, the process lives, and no signal was
// raised, whatever the application does with its signals. All of it again where a sandbox forbids
// the fast way.
#include "shm/fallible_copy.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "tests/support/gone_memory.h"
#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

using test::GoneMemory;

const size_t kPage = PageBytes();
constexpr std::byte kFill{0x5a};
constexpr std::byte kUntouched{0x11};

bool AllAre(std::span<const std::byte> bytes, std::byte value) {
  return std::all_of(bytes.begin(), bytes.end(), [value](std::byte byte) { return byte == value; });
}

// From now on this process may not make the calls.
void ForbidVmCalls(int error_number) {
  const auto refuse = static_cast<uint32_t>(SECCOMP_RET_ERRNO | error_number);
  std::array<sock_filter, 6> filter = {
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 2, 0),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 1, 0),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      sock_filter BPF_STMT(BPF_RET | BPF_K, refuse),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {.len = filter.size(), .filter = filter.data()};
  IOB_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  IOB_CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

// With the calls, and with each of the errors with which sandboxes refuse them. Each in a child of
// its own, which has its own signal handlers, too.
class FallibleCopyTest : public ::testing::TestWithParam<int> {
 protected:
  void Run(const std::function<void()>& body) {
    test::ExpectInChild([&] {
      if (GetParam() != 0) ForbidVmCalls(GetParam());
      body();
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, FallibleCopyTest, ::testing::Values(0, EPERM, ENOSYS),
                         [](const ::testing::TestParamInfo<int>& way) -> std::string {
                           if (way.param == 0) return "Calls";
                           return way.param == EPERM ? "Forbidden" : "Unknown";
                         });

TEST_P(FallibleCopyTest, CopiesAllThatIsThere) {
  Run([] {
    const GoneMemory memory(8, 8, kFill);
    std::vector<std::byte> target(memory.size_bytes());
    // Neither side on a page.
    const FallibleCopy read = CopyFrom(memory.base() + 3, target.data() + 1, target.size() - 3);
    EXPECT_EQ(read.copied_bytes, target.size() - 3);
    EXPECT_EQ(read.error_number, 0);
    EXPECT_TRUE(AllAre(std::span(target).subspan(1, target.size() - 3), kFill));
    EXPECT_EQ(target.front(), std::byte{0});

    const std::vector<std::byte> source(memory.size_bytes() - 7, kUntouched);
    const FallibleCopy written = CopyTo(memory.base() + 5, source.data(), source.size());
    EXPECT_EQ(written.copied_bytes, source.size());
    EXPECT_EQ(written.error_number, 0);
    EXPECT_TRUE(AllAre({memory.base() + 5, source.size()}, kUntouched));
    EXPECT_EQ(memory.base()[4], kFill);
    EXPECT_EQ(memory.base()[5 + source.size()], kFill);
  });
}

TEST_P(FallibleCopyTest, NothingIsFine) {
  Run([] {
    const GoneMemory memory(1, 0, kFill);
    std::byte own{};
    EXPECT_EQ(CopyFrom(memory.base(), &own, 0).error_number, 0);
    EXPECT_EQ(CopyTo(memory.base(), &own, 0).error_number, 0);
  });
}

TEST_P(FallibleCopyTest, CountsWhatWasMovedBeforeTheMemoryEnds) {
  Run([] {
    const GoneMemory memory(4, 2, kFill);
    std::vector<std::byte> target(3 * kPage, kUntouched);
    const size_t there = 2 * kPage - 100;
    const FallibleCopy read = CopyFrom(memory.base() + 100, target.data(), target.size());
    EXPECT_EQ(read.copied_bytes, there);
    EXPECT_EQ(read.error_number, EFAULT);
    EXPECT_TRUE(AllAre(std::span(target).first(there), kFill));
    EXPECT_TRUE(AllAre(std::span(target).subspan(there), kUntouched));

    const std::vector<std::byte> source(3 * kPage, std::byte{0x22});
    const FallibleCopy written = CopyTo(memory.base() + 100, source.data(), source.size());
    EXPECT_EQ(written.copied_bytes, there);
    EXPECT_EQ(written.error_number, EFAULT);
    EXPECT_TRUE(AllAre({memory.base() + 100, there}, std::byte{0x22}));
  });
}

TEST_P(FallibleCopyTest, FromBehindTheEndNothingIsMoved) {
  Run([] {
    const GoneMemory memory(2, 1, kFill);
    std::byte own = kUntouched;
    for (const FallibleCopy& copy :
         {CopyFrom(memory.base() + kPage, &own, 1), CopyTo(memory.base() + kPage, &own, 1)}) {
      EXPECT_EQ(copy.copied_bytes, 0U);
      EXPECT_EQ(copy.error_number, EFAULT);
    }
    EXPECT_EQ(own, kUntouched);
  });
}

TEST_P(FallibleCopyTest, DoesNotWriteWhatIsReadOnly) {
  Run([] {
    const GoneMemory memory(2, 2, kFill);
    IOB_CHECK(::mprotect(memory.base() + kPage, kPage, PROT_READ) == 0);
    const std::vector<std::byte> source(2 * kPage, kUntouched);
    const FallibleCopy copy = CopyTo(memory.base(), source.data(), source.size());
    EXPECT_EQ(copy.copied_bytes, kPage);
    EXPECT_EQ(copy.error_number, EFAULT);
    EXPECT_TRUE(AllAre({memory.base() + kPage, kPage}, kFill));
  });
}

TEST_P(FallibleCopyTest, KeepsErrnoAndDescriptors) {
  Run([] {
    const GoneMemory memory(1, 0, kFill);
    const int open_before = test::OpenFds();
    std::byte own{};
    errno = 4711;
    CopyFrom(memory.base(), &own, 1);
    CopyTo(memory.base(), &own, 1);
    EXPECT_EQ(errno, 4711);
    EXPECT_EQ(test::OpenFds(), open_before);
  });
}

// The application's own handler, which jumps out of its own faults.
std::atomic<int> faults_of_application = 0;
sigjmp_buf application_resumes;
void OnFault(int) {
  faults_of_application += 1;
  siglongjmp(application_resumes, 1);
}
void InstallHandler(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  IOB_CHECK(::sigaction(SIGBUS, &action, nullptr) == 0);
  IOB_CHECK(::sigaction(SIGSEGV, &action, nullptr) == 0);
}
void Touch(const std::byte* address) {
  if (sigsetjmp(application_resumes, 1) == 0) {
    static_cast<void>(*reinterpret_cast<const volatile unsigned char*>(address));
  }
}
size_t CopiedOf(const GoneMemory& memory) {
  std::vector<std::byte> target(memory.size_bytes());
  return CopyFrom(memory.base(), target.data(), target.size()).copied_bytes;
}

TEST_P(FallibleCopyTest, LeavesTheHandlersOfTheApplicationAlone) {
  Run([] {
    const GoneMemory memory(2, 1, kFill);
    // Installed after the first copy, and again after the second one.
    EXPECT_EQ(CopiedOf(memory), kPage);
    for (int round = 1; round <= 2; ++round) {
      InstallHandler(OnFault);
      EXPECT_EQ(CopiedOf(memory), kPage);
      EXPECT_EQ(faults_of_application, round - 1) << "a copy raised a signal";
      Touch(memory.base() + kPage);
      EXPECT_EQ(faults_of_application, round) << "the application lost its own signal";
      struct sigaction now = {};
      IOB_CHECK(::sigaction(SIGBUS, nullptr, &now) == 0);
      EXPECT_EQ(now.sa_handler, &OnFault);
    }
  });
}

TEST_P(FallibleCopyTest, WorksWithTheSignalsBlocked) {
  Run([] {
    sigset_t all;
    sigfillset(&all);
    IOB_CHECK(::pthread_sigmask(SIG_BLOCK, &all, nullptr) == 0);
    const GoneMemory memory(2, 1, kFill);
    EXPECT_EQ(CopiedOf(memory), kPage);
    sigset_t pending;
    IOB_CHECK(::sigpending(&pending) == 0);
    EXPECT_EQ(sigismember(&pending, SIGBUS), 0);
  });
}

// A handler that itself copies what has gone, in the middle of an access that faulted.
const GoneMemory* copied_in_handler = nullptr;
std::atomic<size_t> bytes_in_handler = 0;
void OnFaultCopy(int) {
  std::array<std::byte, 64> target;
  const std::byte* const edge = copied_in_handler->base() + PageBytes() - 24;
  bytes_in_handler = CopyFrom(edge, target.data(), target.size()).copied_bytes;
  siglongjmp(application_resumes, 1);
}

TEST_P(FallibleCopyTest, WorksWithinAHandler) {
  Run([] {
    const GoneMemory memory(2, 1, kFill);
    copied_in_handler = &memory;
    InstallHandler(OnFaultCopy);
    Touch(memory.base() + kPage);
    EXPECT_EQ(bytes_in_handler, 24U);
    EXPECT_EQ(CopiedOf(memory), kPage);
  });
}

// A timer's signal interrupts copies, and copies in turn.
std::atomic<int> interruptions = 0;
std::atomic<int> wrong_in_handler = 0;
void OnAlarm(int) {
  std::array<std::byte, 64> target;
  const std::byte* const edge = copied_in_handler->base() + PageBytes() - 24;
  if (CopyFrom(edge, target.data(), target.size()).copied_bytes != 24) wrong_in_handler += 1;
  interruptions += 1;
}

TEST_P(FallibleCopyTest, OneMayInterruptAnother) {
  Run([] {
    const GoneMemory memory(16, 1, kFill);
    copied_in_handler = &memory;
    CopiedOf(memory);
    struct sigaction action = {};
    action.sa_handler = OnAlarm;
    action.sa_flags = SA_RESTART;
    IOB_CHECK(::sigaction(SIGPROF, &action, nullptr) == 0);
    const pthread_t copier = ::pthread_self();
    std::atomic<bool> done = false;
    std::thread interrupter([&] {
      while (!done) ::pthread_kill(copier, SIGPROF);
    });
    for (int i = 0; i < 1'000'000 && interruptions < 200; ++i) {
      EXPECT_EQ(CopiedOf(memory), kPage);
    }
    done = true;
    interrupter.join();
    EXPECT_GE(interruptions, 200);
    EXPECT_EQ(wrong_in_handler, 0);
  });
}

TEST_P(FallibleCopyTest, ThreadsDoNotDisturbEachOther) {
  Run([] {
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (uint64_t pages_left = 0; pages_left < 4; ++pages_left) {
      threads.emplace_back([pages_left, &wrong] {
        const GoneMemory memory(3, pages_left, kFill);
        for (int i = 0; i < 500; ++i) {
          if (CopiedOf(memory) != std::min<size_t>(pages_left, 3) * kPage) wrong += 1;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
  });
}

TEST_P(FallibleCopyTest, SurvivesAPeerThatTruncatesMeanwhile) {
  Run([] {
    GoneMemory memory(4, 4, kFill);
    std::atomic<bool> done = false;
    std::thread peer([&] {
      while (!done) {
        memory.Resize(1);
        memory.Resize(4);
      }
    });
    // Until it was met in both states.
    int whole = 0;
    int cut = 0;
    for (int i = 0; i < 2'000'000 && (whole < 20 || cut < 20); ++i) {
      const size_t copied = CopiedOf(memory);
      EXPECT_TRUE(copied >= kPage && copied <= 4 * kPage) << copied;
      (copied == 4 * kPage ? whole : cut) += 1;
    }
    done = true;
    peer.join();
    EXPECT_GE(whole, 20);
    EXPECT_GE(cut, 20);
  });
}

}  // namespace
}  // namespace iob::shm
