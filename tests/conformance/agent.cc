#include "tests/conformance/agent.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shm/check.h"

namespace iob::test {
namespace {

constexpr size_t kAnswerBytesMax = 256 << 10;
constexpr int kAgentFd = 3;

}  // namespace

Agent::Agent(const TestDaemon& daemon, std::optional<uid_t> uid) {
  int ends[2];
  IOB_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  orders_ = shm::UniqueFd(ends[0]);
  const shm::UniqueFd theirs(ends[1]);
  const timeval patience = {.tv_sec = 30, .tv_usec = 0};
  ::setsockopt(orders_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  std::string words[] = {IOB_AGENT_PATH, daemon.grpc_path(), daemon.attach_path(),
                         uid ? std::to_string(*uid) : ""};
  std::array<char*, 5> argv = {words[0].data(), words[1].data(), words[2].data(), words[3].data(),
                               nullptr};
  pid_ = ::fork();
  IOB_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    // In the child of a process with threads: system calls only.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(theirs.get(), kAgentFd);
    ::close_range(kAgentFd + 1, ~0U, 0);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  EXPECT_EQ(Do("hello"), "");
}

Agent::~Agent() {
  if (pid_ > 0) Kill(SIGKILL);
}

std::string Agent::Do(const std::string& order, const std::string& bytes, std::string* ret_bytes) {
  const std::string packet = order + "\n" + bytes;
  if (::send(orders_.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0)
    return "the agent is gone";
  std::string answer(kAnswerBytesMax, '\0');
  const ssize_t size = ::recv(orders_.get(), answer.data(), answer.size(), 0);
  if (size <= 0) return "the agent does not answer";
  answer.resize(static_cast<size_t>(size));
  const size_t line = answer.find('\n');
  if (ret_bytes != nullptr) *ret_bytes = answer.substr(line + 1);
  return answer.substr(0, line);
}

Outcome Agent::CallBytes(const std::string& method, const std::string& request,
                         std::string* ret_response) {
  // "code reason" or nothing; then the response.
  const std::string failure = Do("call " + method, request, ret_response);
  if (failure.empty()) return {};
  const size_t space = failure.find(' ');
  int code = 0;
  if (!absl::SimpleAtoi(failure.substr(0, space), &code))
    return {.code = absl::StatusCode::kUnknown, .reason = {}, .message = failure};
  return {.code = static_cast<absl::StatusCode>(code),
          .reason = failure.substr(space + 1),
          .message = "by the agent"};
}

int Agent::Kill(int signal) {
  ::kill(pid_, signal);
  return Reap();
}

int Agent::Exit(int code) {
  const std::string packet = absl::StrCat("exit ", code, "\n");
  ::send(orders_.get(), packet.data(), packet.size(), MSG_NOSIGNAL);
  return Reap();
}

void Agent::EndFork() { EXPECT_EQ(::send(orders_.get(), "\n", 1, MSG_NOSIGNAL), 1); }

int Agent::Reap() {
  int status = 0;
  IOB_CHECK(::waitpid(std::exchange(pid_, -1), &status, 0) > 0);
  return status;
}

}  // namespace iob::test
