#include "server/acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "shm/result.h"

namespace iob::server {
namespace {

// So that a flood of connections cannot keep the loop from its other work.
constexpr int kAcceptsPerPass = 32;

shm::UniqueFd OpenReserve() { return shm::UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Start(EventLoop& loop, shm::UniqueFd listening,
                                                          OnConnection on_connection) {
  std::unique_ptr<Acceptor> acceptor(new Acceptor(std::move(listening), std::move(on_connection)));
  IOB_ASSIGN_OR_RETURN(acceptor->watch_,
                       loop.WatchFd(acceptor->listening_.get(), EPOLLIN,
                                    [self = acceptor.get()](uint32_t) { self->AcceptSome(); }));
  return acceptor;
}

Acceptor::Acceptor(shm::UniqueFd listening, OnConnection on_connection)
    : listening_(std::move(listening)),
      reserve_(OpenReserve()),
      on_connection_(std::move(on_connection)) {}

void Acceptor::Stop() {
  watch_.End();
  listening_.Close();
}

void Acceptor::AcceptSome() {
  for (int i = 0; i < kAcceptsPerPass && listening_.valid(); ++i) {
    shm::UniqueFd connection(
        ::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid()) {
      on_connection_(std::move(connection));
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      TurnAwayOne();
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;
    }
  }
}

void Acceptor::TurnAwayOne() {
  reserve_.Close();
  shm::UniqueFd connection(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (connection.valid()) ++turned_away_;
  connection.Close();
  reserve_ = OpenReserve();
}

}  // namespace iob::server
