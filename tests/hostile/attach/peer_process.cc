#include "tests/hostile/attach/peer_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "shm/check.h"
#include "tests/support/raw_client.h"

namespace iob::test {

PeerProcess::PeerProcess(const std::string& attach_path, const std::string& ticket,
                         std::optional<uid_t> uid) {
  int ends[2];
  IOB_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  ours_ = shm::UniqueFd(ends[0]);
  theirs_ = shm::UniqueFd(ends[1]);
  IOB_CHECK(::pipe(ends) == 0);
  released_ = shm::UniqueFd(ends[0]);
  release_ = shm::UniqueFd(ends[1]);
  pid_ = ::fork();
  IOB_CHECK(pid_ >= 0);
  if (pid_ == 0) Run(attach_path, ticket, uid);
  theirs_.Close();
  released_.Close();
  std::array<char, 512> answer;
  const timeval patience = {.tv_sec = 20, .tv_usec = 0};
  ::setsockopt(ours_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  const ssize_t size = ::recv(ours_.get(), answer.data(), answer.size(), 0);
  problem_ = size < 1 ? "the peer process does not answer"
                      : std::string(answer.data() + 1, static_cast<size_t>(size) - 1);
}

PeerProcess::~PeerProcess() {
  if (pid_ <= 0) return;
  Kill(SIGKILL);
  Reap();
}

void PeerProcess::Run(const std::string& attach_path, const std::string& ticket,
                      std::optional<uid_t> uid) {
  ours_.Close();
  release_.Close();
  // Before the new uid: a change of it clears the request.
  if (uid && (::setgid(*uid) != 0 || ::setuid(*uid) != 0)) ::_exit(100);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  RawClient client(attach_path);
  const std::string problem = client.valid() ? client.Attach(ticket) : "cannot connect";
  const std::string answer = "=" + problem;
  if (::send(theirs_.get(), answer.data(), answer.size(), 0) < 0) ::_exit(101);
  char order = 0;
  while (::recv(theirs_.get(), &order, 1, 0) == 1) {
    switch (static_cast<Order>(order)) {
      case Order::kDetach:
        client.SendDetach();
        client.CloseSocket();
        client.CloseFds();
        client.Unmap();
        break;
      case Order::kCloseSocket:
        client.CloseSocket();
        break;
      case Order::kCloseFds:
        client.CloseFds();
        break;
      case Order::kUnmap:
        client.Unmap();
        break;
      case Order::kFork:
        if (::fork() == 0) {
          char byte = 0;
          // Until the test closes its end.
          while (::read(released_.get(), &byte, 1) < 0) {
          }
          ::_exit(0);
        }
        break;
      case Order::kPark:
      case Order::kParkBriefly:
        client.SendWrite(0, {std::string(64, 'a'), std::string(4000, 'b'), std::string(4000, 'c')},
                         static_cast<Order>(order) == Order::kPark ? 60'000 : 700);
        break;
      case Order::kExitThree:
        ::_exit(3);
    }
    if (::send(theirs_.get(), &order, 1, 0) != 1) break;
  }
  ::_exit(0);
}

bool PeerProcess::Do(Order order) {
  const char byte = static_cast<char>(order);
  char answer = 0;
  if (::send(ours_.get(), &byte, 1, MSG_NOSIGNAL) != 1) return false;
  if (order == Order::kExitThree) return true;
  return ::recv(ours_.get(), &answer, 1, 0) == 1 && answer == byte;
}

void PeerProcess::Kill(int signal) { ::kill(pid_, signal); }

int PeerProcess::Reap() {
  int status = 0;
  IOB_CHECK(::waitpid(std::exchange(pid_, -1), &status, 0) > 0);
  return status;
}

}  // namespace iob::test
