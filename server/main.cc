// iobd: hardens itself, starts the daemon, waits for SIGTERM or SIGINT, leaves nothing behind.

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/daemon.h"
#include "server/descriptors.h"
#include "server/logging.h"
#include "server/options.h"
#include "shm/result.h"
#include "shm/unique_fd.h"

namespace iob::server {
namespace {

// A process of the same uid could otherwise read our memory and take our descriptors (ptrace,
// pidfd_getfd, /proc/PID/fd), and with them every right we hold back from it.
absl::Status HardenProcess() {
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) return shm::ErrnoStatus(errno, "PR_SET_DUMPABLE");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return shm::ErrnoStatus(errno, "PR_SET_NO_NEW_PRIVS");
  const rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
  if (::setrlimit(RLIMIT_CORE, &no_core) != 0) return shm::ErrnoStatus(errno, "RLIMIT_CORE");
  return absl::OkStatus();
}

// Blocked before the first thread starts, so that only the descriptor sees them.
absl::StatusOr<shm::UniqueFd> CatchStopSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0)
    return shm::ErrnoStatus(errno, "sigprocmask");
  ::signal(SIGPIPE, SIG_IGN);
  shm::UniqueFd descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!descriptor.valid()) return shm::ErrnoStatus(errno, "signalfd");
  return descriptor;
}

int ExitCodeOf(const absl::Status& status) {
  if (absl::StrContains(status.message(), "belongs to a running iobd")) return kExitLockHeld;
  const bool setting = absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status);
  return setting ? kExitConfig : kExitFailed;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "iobd: %s\n", std::string(status.message()).c_str());
  return ExitCodeOf(status);
}

void LogStart(const Daemon& daemon, const KernelFeatures& features) {
  for (const KernelFeature& feature : features) {
    if (!feature.available && !feature.optional)
      LogWarn("kernel_feature_missing", {{"name", feature.name}, {"effect", feature.effect}});
  }
  LogInfo("started", {{"version", IOB_VERSION},
                      {"runtime_dir", daemon.runtime_dir().path()},
                      {"admin", daemon.admin_address()},
                      {"pid", absl::StrCat(::getpid())}});
}

int Serve(Options options, shm::UniqueFd stop_signals) {
  const SystemClock clock;
  auto daemon = Daemon::Start(std::move(options), clock);
  if (!daemon.ok()) return Fail(daemon.status());
  Daemon& running = **daemon;
  int stops = 0;
  auto watch = running.loop().WatchFd(stop_signals.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info = {};
    while (::read(stop_signals.get(), &info, sizeof(info)) == sizeof(info)) ++stops;
    // Asked twice: without ceremony. The kernel gives everything but the socket files back.
    if (stops > 1) ::_exit(kExitFailed);
    LogInfo("stopping", {{"signal", absl::StrCat(info.ssi_signo)}});
    running.Stop();
  });
  if (!watch.ok()) return Fail(watch.status());
  LogStart(running, running.features());
  running.Run();
  watch->End();
  daemon->reset();
  LogInfo("stopped", {});
  return kExitOk;
}

int Main(int argc, char** argv) {
  if (const absl::Status hardened = HardenProcess(); !hardened.ok()) return Fail(hardened);
  // Debian's Abseil checks lock order at run time in every lock of gRPC; ours is checked by clang.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  ParsedOptions parsed = ParseOptions(argc, argv);
  if (!parsed.options) return parsed.exit_code;
  RaiseDescriptorLimit();
  parsed.options->limits.descriptors_max = DescriptorsForSections();
  auto stop_signals = CatchStopSignals();
  if (!stop_signals.ok()) return Fail(stop_signals.status());
  StartLogging(parsed.options->log_level, parsed.options->log_json);
  const int exit_code = Serve(*std::move(parsed.options), *std::move(stop_signals));
  StopLogging();
  return exit_code;
}

}  // namespace
}  // namespace iob::server

int main(int argc, char** argv) { return iob::server::Main(argc, argv); }
