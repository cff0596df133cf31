#include "client/demo/machine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob::demo {
namespace {

absl::Status WaitReadable(int fd, int64_t deadline_ns) {
  pollfd poller = {.fd = fd, .events = POLLIN, .revents = 0};
  const int64_t left_ms = (deadline_ns - NowNs()) / 1'000'000;
  if (left_ms <= 0 || ::poll(&poller, 1, static_cast<int>(left_ms)) <= 0) {
    return absl::DeadlineExceededError("another process of the demo said nothing in time");
  }
  return absl::OkStatus();
}

}  // namespace

Pipe Pipe::Make() {
  std::array<int, 2> ends = {-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    std::perror("iob_demo: pipe2");
    std::exit(1);
  }
  return {.reading = shm::UniqueFd(ends[0]), .writing = shm::UniqueFd(ends[1])};
}

void WriteLine(int fd, const std::string& line) {
  const std::string text = line + "\n";
  // Shorter than PIPE_BUF, so whole; a reader that is gone is noticed by who waits for its answer.
  [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
}

absl::StatusOr<std::string> ReadLine(int fd, int seconds) {
  const int64_t deadline_ns = NowNs() + int64_t{seconds} * 1'000'000'000;
  std::string line;
  while (true) {
    IOB_RETURN_IF_ERROR(WaitReadable(fd, deadline_ns));
    char c = 0;
    const ssize_t size = ::read(fd, &c, 1);
    if (size <= 0) return absl::UnavailableError("another process of the demo ended early");
    if (c == '\n') return line;
    line.push_back(c);
  }
}

pid_t Fork(uint32_t uid, const std::function<int()>& body) {
  // Otherwise both would print what is buffered.
  std::fflush(stdout);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (uid != ::geteuid() && (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
                             ::setresuid(uid, uid, uid) != 0)) {
    std::perror("iob_demo: setresuid");
    ::_exit(1);
  }
  const int result = body();
  std::fflush(stdout);
  ::_exit(result);
}

pid_t Spawn(const std::vector<std::string>& command, const std::string& stderr_path) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int log = ::open(stderr_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ::dup2(log, STDERR_FILENO);
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  std::perror(arguments[0]);
  ::_exit(127);
}

std::string WaitForEnd(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return "lost";
  if (WIFSIGNALED(status)) return absl::StrCat("signal ", WTERMSIG(status));
  return absl::StrCat("exit ", WEXITSTATUS(status));
}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  const shm::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status = {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) {
    return absl::NotFoundError(absl::StrCat(path, ": ", strerror(errno)));
  }
  if (!S_ISREG(status.st_mode) || status.st_size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a regular file with something in it is needed"));
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) return shm::ErrnoStatus(errno, absl::StrCat("mmap of ", path));
  InputFile input;
  input.path_ = path;
  input.bytes_ = {static_cast<const std::byte*>(mapped), size};
  return input;
}

absl::StatusOr<std::string> MakeInputFromLog(const std::string& target, uint64_t bytes_min) {
  std::string largest;
  std::string content;
  for (const char* path : {"/var/log/syslog", "/var/log/messages", "/var/log/kern.log",
                           "/var/log/dpkg.log", "/var/log/apt/term.log", "/var/lib/dpkg/status"}) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (text.size() <= content.size()) continue;
    content = std::move(text);
    largest = path;
  }
  if (content.empty()) return absl::NotFoundError("no log file here that can be read; name a FILE");
  std::ofstream out(target, std::ios::binary);
  for (uint64_t written = 0; written < bytes_min; written += content.size()) out << content;
  out.close();
  if (!out) return absl::ResourceExhaustedError(absl::StrCat("cannot write ", target));
  return largest;
}

std::string Sha256Of(const std::string& path) {
  const Pipe output = Pipe::Make();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(output.writing.get(), STDOUT_FILENO);
    ::execlp("sha256sum", "sha256sum", "--", path.c_str(), nullptr);
    ::_exit(127);
  }
  const auto line = ReadLine(output.reading.get());
  WaitForEnd(pid);
  return line.ok() ? line->substr(0, line->find(' ')) : "sha256sum failed";
}

uint64_t ShmemBytes() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    uint64_t kib = 0;
    if (!absl::StartsWith(line, "Shmem:")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &kib)) return kib * 1024;
  }
  return 0;
}

absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  int port = 0;
  sockaddr_in where = {};
  where.sin_family = AF_INET;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      ::inet_pton(AF_INET, address.substr(0, colon).c_str(), &where.sin_addr) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("not an address: ", address));
  }
  where.sin_port = htons(static_cast<uint16_t>(port));
  const shm::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&where), sizeof(where)) != 0) {
    return shm::ErrnoStatus(errno, absl::StrCat("connect ", address));
  }
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\nConnection: close\r\n\r\n");
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0)
    return shm::ErrnoStatus(errno, "send");
  const int64_t deadline_ns = NowNs() + 10'000'000'000;
  std::string answer;
  std::array<char, 65536> buffer;
  while (true) {
    IOB_RETURN_IF_ERROR(WaitReadable(socket.get(), deadline_ns));
    const ssize_t size = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (size <= 0) break;
    answer.append(buffer.data(), static_cast<size_t>(size));
  }
  const size_t body = answer.find("\r\n\r\n");
  if (!absl::StartsWith(answer, "HTTP/1.1 200") || body == std::string::npos) {
    return absl::UnavailableError(absl::StrCat("http://", address, path, " did not answer 200"));
  }
  return answer.substr(body + 4);
}

int64_t NowNs() { return shm::MonotonicNs(); }

}  // namespace iob::demo
