// GrpcListener: our own accept loop on the gRPC Unix socket, so that every caller has an identity.
//
// gRPC does not tell who is on a Unix socket. So we accept, ask the kernel (identity.h), and give
// the connection to gRPC by descriptor number; a call's ServerContext::peer() is then "fd:N".
//
//   accept --> identity --> dup to number N --> gRPC owns N
//                   '--> our own dup M, watched for hang-up: then "fd:N" means nobody any more
//
//   L1  A number N goes to the next connection only after all other numbers of the range had their
//       turn, so a late call of a closed connection finds nobody, not somebody else.
//   L2  A process entry lives while its connection is open or it owns handles.
//   L3  The end of a process is watched only while it owns handles (OnProcessHoldsHandles).
//
// Owned by the loop thread.
#pragma once

#include <grpcpp/server.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/acceptor.h"
#include "server/event_loop.h"
#include "server/identity.h"
#include "server/process_end.h"
#include "server/registry.h"

namespace iob::server {

class GrpcListener {
 public:
  // All outlive the listener. `listening` is the gRPC socket.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Start(EventLoop& loop, Registry& registry,
                                                             grpc::Server& rpc_server,
                                                             shm::UniqueFd listening,
                                                             const Limits& limits);

  // Who a call is from, by ServerContext::peer(). UNAUTHENTICATED when the connection is gone.
  absl::StatusOr<Caller> CallerOf(const std::string& peer) const;

  // From the registry's observer (L3).
  void OnProcessHoldsHandles(ProcessId process, bool holds);

  void StopAccepting() { acceptor_->Stop(); }
  size_t connection_count() const { return connections_.size(); }
  uint64_t turned_away() const { return acceptor_->turned_away() + refused_; }

 private:
  struct Process {
    Identity identity;
    bool connected = true;
    bool holds_handles = false;
    ProcessEnd end;
  };
  struct Connection {
    ProcessId process = 0;
    shm::UniqueFd watched;  // M.
    Registration hang_up;
  };

  GrpcListener(EventLoop& loop, Registry& registry, grpc::Server& rpc_server, const Limits& limits);
  void OnConnection(shm::UniqueFd socket);
  shm::UniqueFd DupToNextNumber(int socket);
  void OnHangUp(int number);
  void ReleaseProcess(ProcessId id);

  EventLoop& loop_;
  Registry& registry_;
  grpc::Server& rpc_server_;
  const Limits& limits_;
  int first_number_ = 0;
  int number_count_ = 0;
  int next_number_ = 0;
  ProcessId next_process_ = 1;
  uint64_t refused_ = 0;
  absl::flat_hash_map<ProcessId, std::unique_ptr<Process>> processes_;
  absl::flat_hash_map<int, Connection> connections_;  // By N.
  std::unique_ptr<Acceptor> acceptor_;
};

}  // namespace iob::server
