#include "server/identity.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::CloseReason;

shm::UniqueFd PidfdOfPeer(int socket, pid_t pid) {
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) {
    ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    return shm::UniqueFd(pidfd);
  }
  if (pid <= 0) return {};
  return shm::UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

CloseReason FromWaitStatus(int status) {
  if (WIFSIGNALED(status)) return {.kind = CloseKind::kKilled, .code = WTERMSIG(status)};
  return {.kind = CloseKind::kExited, .code = WEXITSTATUS(status)};
}

// Field 52 of /proc/PID/stat, for a zombie only: its pid cannot be reused until it is reaped.
CloseReason FromProc(const Identity& identity) {
  const shm::UniqueFd file(
      ::open(absl::StrCat("/proc/", identity.peer_pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return {};
  std::array<char, 1024> buffer;
  const ssize_t size = ::read(file.get(), buffer.data(), buffer.size());
  if (size <= 0) return {};
  const absl::string_view text(buffer.data(), static_cast<size_t>(size));
  // The command name is in parentheses and may hold anything, spaces and parentheses too.
  const size_t name_end = text.rfind(')');
  if (name_end == absl::string_view::npos) return {};
  const std::vector<absl::string_view> fields =
      absl::StrSplit(text.substr(name_end + 1), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  constexpr size_t kState = 0;
  constexpr size_t kExitCode = 49;
  int status = 0;
  if (fields.size() <= kExitCode || fields[kState] != "Z") return {};
  if (!absl::SimpleAtoi(fields[kExitCode], &status)) return {};
  // The kernel shows 0 to those who may not look.
  const bool may_look = ::geteuid() == 0 || ::geteuid() == identity.peer_uid;
  if (status == 0 && !may_look) return {};
  // Still the same process: had it been reaped in between, the pidfd would hang up.
  pollfd poller = {.fd = identity.pidfd.get(), .events = POLLIN, .revents = 0};
  if (::poll(&poller, 1, 0) <= 0 || (poller.revents & POLLHUP) != 0) return {};
  return FromWaitStatus(status);
}

}  // namespace

absl::StatusOr<Identity> IdentityOfPeer(int socket) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return shm::ErrnoStatus(errno, "SO_PEERCRED");
  }
  Identity identity{.peer_uid = credentials.uid,
                    .peer_gid = credentials.gid,
                    .peer_pid = credentials.pid,
                    .pidfd = PidfdOfPeer(socket, credentials.pid)};
  if (!identity.pidfd.valid()) {
    return shm::ErrnoStatus(errno, "no pidfd for the connecting process (SO_PEERPIDFD, Linux 6.5)");
  }
  return identity;
}

bool HasEnded(int pidfd) {
  pollfd poller = {.fd = pidfd, .events = POLLIN, .revents = 0};
  return ::poll(&poller, 1, 0) > 0;
}

CloseReason HowItEnded(const Identity& identity) {
  shm::PidfdInfo info = {};
  info.mask = shm::kPidfdInfoExit;
  if (::ioctl(identity.pidfd.get(), shm::kPidfdGetInfo, &info) == 0 &&
      (info.mask & shm::kPidfdInfoExit) != 0) {
    return FromWaitStatus(info.exit_code);
  }
  return identity.peer_pid > 0 ? FromProc(identity) : CloseReason{};
}

}  // namespace iob::server
