// Daemon: the object graph, from sockets to registry, and the order in which it comes and goes.
//
//     options -> loop -> quota -> registry <-> liveness
//                                    ^  ^----- mediator
//                     attach_listener|  |grpc_service <- gRPC server <- grpc_listener
//                                    |  |admin_http  |      '-- watchers <- event_feed
//                                    |  |            '-- stats_watchers
//
// Stopping: no new connections; health says NOT_SERVING; a helper thread ends gRPC and HTTP while
// the loop still answers them (grpc::Server::Shutdown would wait for ever on the loop thread); the
// loop ends; the graph goes in reverse, which gives every descriptor, file and byte back.
#pragma once

#include <grpcpp/server.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/admin_http.h"
#include "server/attach_listener.h"
#include "server/clock.h"
#include "server/crash_store.h"
#include "server/event_feed.h"
#include "server/event_log.h"
#include "server/event_loop.h"
#include "server/grpc_listener.h"
#include "server/grpc_service.h"
#include "server/liveness.h"
#include "server/mediator.h"
#include "server/mediator_pool.h"
#include "server/options.h"
#include "server/quota.h"
#include "server/registry.h"
#include "server/ring_keeper.h"
#include "server/runtime_dir.h"
#include "server/self_test.h"
#include "server/snapshots.h"
#include "server/stats_watchers.h"
#include "server/watchers.h"

namespace iob::server {

class Daemon final : public RegistryObserver {
 public:
  // Ready to serve when it returns: sockets listen. `clock` outlives it. FAILED_PRECONDITION:
  // another daemon, a used port, a kernel without what is needed; INVALID_ARGUMENT: a setting that
  // cannot be.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(Options options, const Clock& clock);
  ~Daemon() override;

  // Serves until Stop, on the calling thread.
  void Run();
  // From any thread; a second call does nothing.
  void Stop();

  EventLoop& loop() { return *loop_; }
  Registry& registry() { return registry_; }
  Snapshots& snapshots() { return *snapshots_; }
  const KernelFeatures& features() const { return features_; }
  const RuntimeDir& runtime_dir() const { return *runtime_dir_; }
  // host:port of the admin server; empty when it is off.
  std::string admin_address() const { return admin_ ? admin_->address() : std::string(); }

  // RegistryObserver.
  void OnProcessHoldsHandles(ProcessId process, bool holds) override;
  void OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) override;
  void OnEndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                        shm::CloseReason reason) override;
  void OnRevoke(AttachmentId attachment) override;
  void OnBufferGone(const BufferLabel& buffer) override;
  void OnSignals(const BufferLabel& buffer, shm::EndpointId endpoint, uint32_t signals) override;
  void OnOwnersLeft(Koid buffer) override;
  void OnRecordsReadable(Koid buffer, uint32_t region_index) override;
  void OnHandleGone(const Token& handle) override;
  void OnBufferCreated(const BufferLabel& buffer, const HolderInfo& owner,
                       uint64_t memory_bytes) override;
  void OnBufferRenamed(const BufferLabel& buffer, const std::string& old_name) override;
  void OnAttached(const BufferLabel& buffer, shm::EndpointId endpoint,
                  const HolderInfo& holder) override;
  void OnDetached(const BufferLabel& buffer, shm::EndpointId endpoint, const HolderInfo& holder,
                  shm::CloseReason reason) override;
  void OnRegionSignals(Koid shared_region, uint32_t owner_uid, uint32_t signals) override;
  void OnRegionGone(Koid shared_region, uint32_t owner_uid) override;

 private:
  Daemon(Options options, KernelFeatures features, std::unique_ptr<RuntimeDir> runtime_dir,
         std::unique_ptr<EventLoop> loop);
  absl::Status StartServing();
  absl::Status StartGrpc();
  void BeginStop();
  void ArmExpiryTimer();
  absl::StatusOr<WatchScope> ScopeOf(const Caller& caller, const Token& handle) const;
  WatchState StateOf(const WatchScope& scope);
  std::vector<prometheus::MetricFamily> Collect();
  void OnStall(const RingKeeper::Stall& stall);

  const Options options_;
  const KernelFeatures features_;
  std::unique_ptr<RuntimeDir> runtime_dir_;
  std::unique_ptr<EventLoop> loop_;
  const MemoryRoom memory_room_;
  Quota quota_;
  Registry registry_;
  EventLog event_log_;
  Watchers watchers_;
  EventFeed event_feed_;
  StatsWatchers stats_watchers_;
  Mediator mediator_;
  RingKeeper ring_keeper_;
  GrpcService grpc_service_;
  std::map<std::string, uint64_t> endpoints_closed_;
  Registration expiry_timer_;
  int64_t expiry_armed_ns_ = 0;
  std::unique_ptr<Liveness> liveness_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<CrashStore> crash_store_;
  std::unique_ptr<AttachListener> attach_listener_;
  std::unique_ptr<MediatorPool> mediator_pool_;  // Its threads end before what they call.
  std::unique_ptr<grpc::Server> grpc_server_;
  std::unique_ptr<GrpcListener> grpc_listener_;
  std::unique_ptr<AdminHttp> admin_;
  bool stopping_ = false;
  std::thread stopper_;
};

// "killed(9)", "exited(1)", "closed", ...
std::string ReasonText(const shm::CloseReason& reason);

}  // namespace iob::server
