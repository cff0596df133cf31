#include "server/grpc_listener.h"

#include <fcntl.h>
#include <grpcpp/server_posix.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/descriptors.h"
#include "server/errors.h"
#include "shm/result.h"

namespace iob::server {

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Start(EventLoop& loop,
                                                                  Registry& registry,
                                                                  grpc::Server& rpc_server,
                                                                  shm::UniqueFd listening,
                                                                  const Limits& limits) {
  std::unique_ptr<GrpcListener> listener(new GrpcListener(loop, registry, rpc_server, limits));
  IOB_ASSIGN_OR_RETURN(
      listener->acceptor_,
      Acceptor::Start(loop, std::move(listening), [self = listener.get()](shm::UniqueFd socket) {
        self->OnConnection(std::move(socket));
      }));
  return listener;
}

GrpcListener::GrpcListener(EventLoop& loop, Registry& registry, grpc::Server& rpc_server,
                           const Limits& limits)
    : loop_(loop), registry_(registry), rpc_server_(rpc_server), limits_(limits) {
  // The end of the descriptor table; the kernel hands out low numbers first, so it is quiet there.
  const int table = static_cast<int>(std::min<uint64_t>(DescriptorsMax(), 1 << 20));
  first_number_ = static_cast<int>(FirstConnectionNumber());
  number_count_ = table - first_number_;
}

absl::StatusOr<Caller> GrpcListener::CallerOf(const std::string& peer) const {
  absl::string_view number_text = peer;
  int number = -1;
  if (!absl::ConsumePrefix(&number_text, "fd:") || !absl::SimpleAtoi(number_text, &number)) {
    return MakeError(v1::ERROR_REASON_BAD_HANDLE,
                     absl::StrCat("no identity for a caller at ", peer));
  }
  const auto connection = connections_.find(number);
  if (connection == connections_.end()) {
    return MakeError(v1::ERROR_REASON_BAD_HANDLE, "the connection of this call is gone");
  }
  const Identity& identity = processes_.at(connection->second.process)->identity;
  return Caller{.uid = identity.peer_uid,
                .gid = identity.peer_gid,
                .pid = identity.peer_pid,
                .process = connection->second.process};
}

shm::UniqueFd GrpcListener::DupToNextNumber(int socket) {
  const int number = ::fcntl(socket, F_DUPFD_CLOEXEC, first_number_ + next_number_);
  if (number >= 0) {
    next_number_ = (number + 1 - first_number_) % number_count_;
    return shm::UniqueFd(number);
  }
  // The range's end is taken: once more from its start.
  next_number_ = 0;
  return shm::UniqueFd(::fcntl(socket, F_DUPFD_CLOEXEC, first_number_));
}

void GrpcListener::OnConnection(shm::UniqueFd socket) {
  auto identity = IdentityOfPeer(socket.get());
  shm::UniqueFd number = DupToNextNumber(socket.get());
  if (connections_.size() >= limits_.grpc_connections_max || !identity.ok() || !number.valid()) {
    ++refused_;
    return;
  }
  const int n = number.get();
  auto hang_up = loop_.WatchFd(socket.get(), EPOLLRDHUP, [this, n](uint32_t) { OnHangUp(n); });
  if (!hang_up.ok()) {
    ++refused_;
    return;
  }
  const ProcessId id = next_process_++;
  processes_[id] = std::make_unique<Process>();
  processes_[id]->identity = *std::move(identity);
  connections_[n] = {.process = id, .watched = std::move(socket), .hang_up = *std::move(hang_up)};
  grpc::AddInsecureChannelFromFd(&rpc_server_, number.Release());
}

void GrpcListener::OnHangUp(int number) {
  const auto found = connections_.find(number);
  const ProcessId id = found->second.process;
  found->second.hang_up.End();
  connections_.erase(found);
  processes_.at(id)->connected = false;
  ReleaseProcess(id);
}

void GrpcListener::OnProcessHoldsHandles(ProcessId id, bool holds) {
  const auto found = processes_.find(id);
  if (found == processes_.end()) return;
  Process& process = *found->second;
  process.holds_handles = holds;
  if (holds) {
    process.end.Watch(loop_, process.identity,
                      [this, id](shm::CloseReason reason) { registry_.ProcessEnded(id, reason); });
  } else {
    process.end = ProcessEnd();
    ReleaseProcess(id);
  }
}

void GrpcListener::ReleaseProcess(ProcessId id) {
  const Process& process = *processes_.at(id);
  if (!process.connected && !process.holds_handles) processes_.erase(id);
}

}  // namespace iob::server
