#include "tests/bench/peer_service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob::bench {

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

absl::Status TemporaryDirectory::Create() {
  char path[] = "/tmp/iob-bench-XXXXXX";
  if (::mkdtemp(path) == nullptr) return shm::ErrnoStatus(errno, "mkdtemp");
  path_ = path;
  return absl::OkStatus();
}

Service::~Service() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  const int64_t deadline_ns = shm::MonotonicNs() + 3'000'000'000;
  while (shm::MonotonicNs() < deadline_ns) {
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) return;
    ::usleep(1000);
  }
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

absl::Status Service::Start(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ < 0) return shm::ErrnoStatus(errno, "fork");
  if (pid_ > 0) return absl::OkStatus();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(nowhere, fd);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

absl::Status Service::WaitFor(const std::string& path) {
  const int64_t deadline_ns = shm::MonotonicNs() + 10'000'000'000;
  while (shm::MonotonicNs() < deadline_ns) {
    if (::access(path.c_str(), F_OK) == 0) return absl::OkStatus();
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return absl::UnavailableError("the program is not there or ended at once");
    }
    ::usleep(2000);
  }
  return absl::DeadlineExceededError(absl::StrCat("no ", path, " in time"));
}

}  // namespace iob::bench
