// GrpcService: BrokerService over gRPC. Protobuf in, one registry operation on the loop, protobuf
// out.
//
//   gRPC thread: handler --Post--> loop thread: caller? replay? registry --> Finish
//                    '-- queue full: UNAVAILABLE / BUSY, with a retry hint
//
// No policy here. Handlers run on gRPC's threads and touch nothing but the loop's queue; everything
// else happens on the loop.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/status/status.h"
#include "iob/v1/broker.grpc.pb.h"
#include "server/crash_store.h"
#include "server/event_loop.h"
#include "server/grpc_listener.h"
#include "server/mediator.h"
#include "server/registry.h"
#include "server/replay_cache.h"
#include "server/self_test.h"
#include "server/snapshots.h"
#include "server/stats_watchers.h"
#include "server/watchers.h"

namespace iob::server {

class GrpcService final : public v1::BrokerService::CallbackService {
 public:
  // All outlive the service. `attach_socket_path` goes into tickets.
  struct Dependencies {
    EventLoop& loop;
    Registry& registry;
    Mediator& mediator;
    Watchers& watchers;
    StatsWatchers& stats_watchers;
    const KernelFeatures& features;
    std::string attach_socket_path;
  };
  explicit GrpcService(Dependencies dependencies);

  // Before the first call; the listener needs the gRPC server, which needs this service.
  void SetListener(GrpcListener* listener) { listener_ = listener; }

  // Before the first call, too.
  void SetSnapshots(Snapshots* snapshots, CrashStore* crash_store) {
    snapshots_ = snapshots;
    crash_store_ = crash_store;
  }

  // Called when something was made that runs out: the daemon looks at Registry::NextExpiryNs.
  void SetOnExpiring(EventLoop::Task on_expiring) { on_expiring_ = std::move(on_expiring); }

  grpc::ServerUnaryReactor* CreateBuffer(grpc::CallbackServerContext* context,
                                         const v1::CreateBufferRequest* request,
                                         v1::CreateBufferResponse* response) override;
  grpc::ServerUnaryReactor* OpenBuffer(grpc::CallbackServerContext* context,
                                       const v1::OpenBufferRequest* request,
                                       v1::OpenBufferResponse* response) override;
  grpc::ServerUnaryReactor* GetBuffer(grpc::CallbackServerContext* context,
                                      const v1::GetBufferRequest* request,
                                      v1::GetBufferResponse* response) override;
  grpc::ServerUnaryReactor* ListBuffers(grpc::CallbackServerContext* context,
                                        const v1::ListBuffersRequest* request,
                                        v1::ListBuffersResponse* response) override;
  grpc::ServerUnaryReactor* DeleteBuffer(grpc::CallbackServerContext* context,
                                         const v1::DeleteBufferRequest* request,
                                         v1::DeleteBufferResponse* response) override;
  grpc::ServerUnaryReactor* CloseHandle(grpc::CallbackServerContext* context,
                                        const v1::CloseHandleRequest* request,
                                        v1::CloseHandleResponse* response) override;
  grpc::ServerUnaryReactor* Attach(grpc::CallbackServerContext* context,
                                   const v1::AttachRequest* request,
                                   v1::AttachResponse* response) override;
  grpc::ServerUnaryReactor* Write(grpc::CallbackServerContext* context,
                                  const v1::WriteRequest* request,
                                  v1::WriteResponse* response) override;
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerUnaryReactor* GetLimits(grpc::CallbackServerContext* context,
                                      const v1::GetLimitsRequest* request,
                                      v1::GetLimitsResponse* response) override;
  grpc::ServerUnaryReactor* CreateSharedRegion(grpc::CallbackServerContext* context,
                                               const v1::CreateSharedRegionRequest* request,
                                               v1::CreateSharedRegionResponse* response) override;
  grpc::ServerUnaryReactor* GetSharedRegion(grpc::CallbackServerContext* context,
                                            const v1::GetSharedRegionRequest* request,
                                            v1::GetSharedRegionResponse* response) override;
  grpc::ServerUnaryReactor* DuplicateHandle(grpc::CallbackServerContext* context,
                                            const v1::DuplicateHandleRequest* request,
                                            v1::DuplicateHandleResponse* response) override;
  grpc::ServerUnaryReactor* ReplaceHandle(grpc::CallbackServerContext* context,
                                          const v1::ReplaceHandleRequest* request,
                                          v1::ReplaceHandleResponse* response) override;
  grpc::ServerUnaryReactor* GetHandleInfo(grpc::CallbackServerContext* context,
                                          const v1::GetHandleInfoRequest* request,
                                          v1::GetHandleInfoResponse* response) override;
  grpc::ServerUnaryReactor* KeepAlive(grpc::CallbackServerContext* context,
                                      const v1::KeepAliveRequest* request,
                                      v1::KeepAliveResponse* response) override;
  grpc::ServerUnaryReactor* GetName(grpc::CallbackServerContext* context,
                                    const v1::GetNameRequest* request,
                                    v1::GetNameResponse* response) override;
  grpc::ServerUnaryReactor* SetName(grpc::CallbackServerContext* context,
                                    const v1::SetNameRequest* request,
                                    v1::SetNameResponse* response) override;
  grpc::ServerUnaryReactor* Signal(grpc::CallbackServerContext* context,
                                   const v1::SignalRequest* request,
                                   v1::SignalResponse* response) override;
  grpc::ServerUnaryReactor* SignalPeer(grpc::CallbackServerContext* context,
                                       const v1::SignalPeerRequest* request,
                                       v1::SignalPeerResponse* response) override;
  grpc::ServerUnaryReactor* AllocateId(grpc::CallbackServerContext* context,
                                       const v1::AllocateIdRequest* request,
                                       v1::AllocateIdResponse* response) override;
  grpc::ServerUnaryReactor* Snapshot(grpc::CallbackServerContext* context,
                                     const v1::SnapshotRequest* request,
                                     v1::SnapshotResponse* response) override;
  grpc::ServerUnaryReactor* ListAutopsies(grpc::CallbackServerContext* context,
                                          const v1::ListAutopsiesRequest* request,
                                          v1::ListAutopsiesResponse* response) override;
  grpc::ServerUnaryReactor* GetAutopsy(grpc::CallbackServerContext* context,
                                       const v1::GetAutopsyRequest* request,
                                       v1::GetAutopsyResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchEventsResponse>* WatchEvents(
      grpc::CallbackServerContext* context, const v1::WatchEventsRequest* request) override;
  StatsWatchers::Reactor* WatchStats(grpc::CallbackServerContext* context,
                                     const v1::WatchStatsRequest* request) override;

 private:
  template <typename Request, typename Response>
  using Operation = absl::Status (GrpcService::*)(const Caller&, const Request&, Response&);

  // Carries one call to the loop and back.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, const Request* request,
                                Response* response, Operation<Request, Response> operation);
  // Answers from the replay cache, or runs the operation and remembers its answer.
  template <typename Request, typename Response>
  absl::Status RunOnce(const Caller& caller, const Request& request, Response& response,
                       Operation<Request, Response> operation);

  // The operations, on the loop.
  absl::Status DoCreateBuffer(const Caller& caller, const v1::CreateBufferRequest& request,
                              v1::CreateBufferResponse& response);
  absl::Status DoOpenBuffer(const Caller& caller, const v1::OpenBufferRequest& request,
                            v1::OpenBufferResponse& response);
  absl::Status DoGetBuffer(const Caller& caller, const v1::GetBufferRequest& request,
                           v1::GetBufferResponse& response);
  absl::Status DoListBuffers(const Caller& caller, const v1::ListBuffersRequest& request,
                             v1::ListBuffersResponse& response);
  absl::Status DoDeleteBuffer(const Caller& caller, const v1::DeleteBufferRequest& request,
                              v1::DeleteBufferResponse& response);
  absl::Status DoCloseHandle(const Caller& caller, const v1::CloseHandleRequest& request,
                             v1::CloseHandleResponse& response);
  absl::Status DoAttach(const Caller& caller, const v1::AttachRequest& request,
                        v1::AttachResponse& response);
  absl::Status DoWrite(const Caller& caller, const v1::WriteRequest& request,
                       v1::WriteResponse& response);
  absl::Status DoGetStats(const Caller& caller, const v1::GetStatsRequest& request,
                          v1::GetStatsResponse& response);
  absl::Status DoGetLimits(const Caller& caller, const v1::GetLimitsRequest& request,
                           v1::GetLimitsResponse& response);
  absl::Status DoCreateSharedRegion(const Caller& caller,
                                    const v1::CreateSharedRegionRequest& request,
                                    v1::CreateSharedRegionResponse& response);
  absl::Status DoGetSharedRegion(const Caller& caller, const v1::GetSharedRegionRequest& request,
                                 v1::GetSharedRegionResponse& response);
  absl::Status DoDuplicateHandle(const Caller& caller, const v1::DuplicateHandleRequest& request,
                                 v1::DuplicateHandleResponse& response);
  absl::Status DoReplaceHandle(const Caller& caller, const v1::ReplaceHandleRequest& request,
                               v1::ReplaceHandleResponse& response);
  absl::Status DoGetHandleInfo(const Caller& caller, const v1::GetHandleInfoRequest& request,
                               v1::GetHandleInfoResponse& response);
  absl::Status DoKeepAlive(const Caller& caller, const v1::KeepAliveRequest& request,
                           v1::KeepAliveResponse& response);
  absl::Status DoGetName(const Caller& caller, const v1::GetNameRequest& request,
                         v1::GetNameResponse& response);
  absl::Status DoSetName(const Caller& caller, const v1::SetNameRequest& request,
                         v1::SetNameResponse& response);
  absl::Status DoSignal(const Caller& caller, const v1::SignalRequest& request,
                        v1::SignalResponse& response);
  absl::Status DoSignalPeer(const Caller& caller, const v1::SignalPeerRequest& request,
                            v1::SignalPeerResponse& response);
  absl::Status DoAllocateId(const Caller& caller, const v1::AllocateIdRequest& request,
                            v1::AllocateIdResponse& response);

  absl::Status DoListAutopsies(const Caller& caller, const v1::ListAutopsiesRequest& request,
                               v1::ListAutopsiesResponse& response);
  absl::Status DoGetAutopsy(const Caller& caller, const v1::GetAutopsyRequest& request,
                            v1::GetAutopsyResponse& response);
  // Calls `finish` once, when the copy is done.
  using FinishCall = absl::AnyInvocable<void(const absl::Status&)>;
  absl::Status StartSnapshot(const Caller& caller, const v1::SnapshotRequest& request,
                             v1::SnapshotResponse& response, FinishCall& finish);
  void FillTicket(const Token& ticket, v1::SnapshotTicket& told) const;
  static void Finish(grpc::ServerUnaryReactor* reactor, const absl::Status& status);

  template <typename Request>
  absl::StatusOr<Buffer*> FindBuffer(const Caller& caller, const Request& request);
  absl::Status FillTicket(const Caller& caller, const Token& handle,
                          std::optional<uint32_t> recipient_uid, v1::Ticket& ticket);

  EventLoop& loop_;
  Registry& registry_;
  Mediator& mediator_;
  Watchers& watchers_;
  StatsWatchers& stats_watchers_;
  const KernelFeatures& features_;
  const std::string attach_socket_path_;
  GrpcListener* listener_ = nullptr;
  Snapshots* snapshots_ = nullptr;
  CrashStore* crash_store_ = nullptr;
  EventLoop::Task on_expiring_;
  ReplayCache replays_;
};

}  // namespace iob::server
