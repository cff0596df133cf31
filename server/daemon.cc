#include "server/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/errors.h"
#include "server/logging.h"
#include "server/metrics.h"
#include "shm/result.h"

namespace iob::server {
namespace {

// Calls under way take milliseconds; the rest is for connected clients that do not look at their
// socket, and so do not go by themselves.
constexpr auto kGrpcDrain = std::chrono::milliseconds(500);

// Twice the largest record, and far above 64 regions: thousands of calls may wait at once.
constexpr int kRequestBytesMax = 128 * 1024;

// Before the first server is built; both are process-wide switches of gRPC's.
void EnableGrpcExtras() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
}

}  // namespace

std::string ReasonText(const shm::CloseReason& reason) {
  const std::string& name = v1::CloseKind_Name(static_cast<v1::CloseKind>(reason.kind));
  const std::string kind = absl::AsciiStrToLower(absl::StripPrefix(name, "CLOSE_KIND_"));
  const bool has_code =
      reason.kind == shm::CloseKind::kExited || reason.kind == shm::CloseKind::kKilled;
  return has_code ? absl::StrCat(kind, "(", reason.code, ")") : kind;
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(Options options, const Clock& clock) {
  KernelFeatures features = ProbeKernel();
  IOB_RETURN_IF_ERROR(CheckRequired(features));
  IOB_ASSIGN_OR_RETURN(std::unique_ptr<RuntimeDir> runtime_dir,
                       RuntimeDir::Open(options.runtime_dir));
  IOB_ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create(clock));
  std::unique_ptr<Daemon> daemon(
      new Daemon(std::move(options), std::move(features), std::move(runtime_dir), std::move(loop)));
  IOB_RETURN_IF_ERROR(daemon->StartServing());
  return daemon;
}

Daemon::Daemon(Options options, KernelFeatures features, std::unique_ptr<RuntimeDir> runtime_dir,
               std::unique_ptr<EventLoop> loop)
    : options_(std::move(options)),
      features_(std::move(features)),
      runtime_dir_(std::move(runtime_dir)),
      loop_(std::move(loop)),
      quota_(options_.limits, &memory_room_),
      registry_(options_.limits, quota_, ::geteuid()),
      event_log_(loop_->clock()),
      watchers_({.loop = *loop_,
                 .log = event_log_,
                 .resolve = [this](const Caller& caller,
                                   const Token& handle) { return ScopeOf(caller, handle); },
                 .state_of = [this](const WatchScope& scope) { return StateOf(scope); },
                 .watchers_max = options_.limits.watchers_max}),
      event_feed_(event_log_, watchers_),
      stats_watchers_({.loop = *loop_,
                       .stats_of =
                           [this](Koid koid, v1::GetStatsResponse& response) {
                             Buffer* const buffer = registry_.Find(koid);
                             if (buffer != nullptr) FillStats(*buffer, response);
                             return buffer != nullptr;
                           },
                       .watchers_max = options_.limits.watchers_max}),
      mediator_(
          [this](const Buffer& buffer, uint32_t region_index) {
            attach_listener_->OnReadable(buffer, region_index);
          },
          [this](Koid shared_region) { watchers_.Strobe(shared_region); }),
      ring_keeper_(
          *loop_, registry_,
          [this](AttachmentId attachment) { return attach_listener_->KillHolder(attachment); },
          [this](const RingKeeper::Stall& stall) { OnStall(stall); }),
      grpc_service_({.loop = *loop_,
                     .registry = registry_,
                     .mediator = mediator_,
                     .watchers = watchers_,
                     .stats_watchers = stats_watchers_,
                     .features = features_,
                     .attach_socket_path = runtime_dir_->attach_socket_path()}) {
  registry_.SetObserver(this);
  grpc_service_.SetOnExpiring([this] { ArmExpiryTimer(); });
}

Daemon::~Daemon() {
  if (stopper_.joinable()) stopper_.join();
  // A daemon that failed to start, or was never run: nothing is in flight, so this does not wait.
  if (grpc_server_ && !stopping_) grpc_server_->Shutdown(std::chrono::system_clock::now());
  registry_.SetObserver(nullptr);
  registry_.SetLastLook(nullptr);
}

absl::Status Daemon::StartServing() {
  IOB_ASSIGN_OR_RETURN(liveness_, Liveness::Create(*loop_, registry_));
  IOB_ASSIGN_OR_RETURN(
      mediator_pool_,
      MediatorPool::Start(
          options_.mediators,
          {.loop = *loop_,
           .registry = registry_,
           .quota = quota_,
           .on_readable = [this](Koid buffer, uint32_t index) { OnRecordsReadable(buffer, index); },
           .on_updated = [this](Koid region) { watchers_.Strobe(region); }}));
  IOB_ASSIGN_OR_RETURN(snapshots_,
                       Snapshots::Create({.loop = *loop_, .registry = registry_, .quota = quota_}));
  crash_store_ = std::make_unique<CrashStore>(CrashStore::Dependencies{.clock = loop_->clock(),
                                                                       .registry = registry_,
                                                                       .snapshots = *snapshots_,
                                                                       .limits = options_.limits});
  registry_.SetLastLook([this](Buffer& buffer, shm::EndpointId endpoint, shm::CloseReason reason) {
    crash_store_->OnClosing(buffer, endpoint, reason);
    snapshots_->BeforeRelease(buffer);
  });
  grpc_service_.SetSnapshots(snapshots_.get(), crash_store_.get());
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd attach_socket,
                       runtime_dir_->Listen(runtime_dir_->attach_socket_path(), SOCK_SEQPACKET,
                                            static_cast<mode_t>(options_.socket_mode)));
  IOB_ASSIGN_OR_RETURN(attach_listener_, AttachListener::Start({.loop = *loop_,
                                                                .registry = registry_,
                                                                .mediator = mediator_,
                                                                .mediator_pool = *mediator_pool_,
                                                                .ring_keeper = ring_keeper_,
                                                                .snapshots = *snapshots_,
                                                                .limits = options_.limits},
                                                               std::move(attach_socket)));
  IOB_RETURN_IF_ERROR(StartGrpc());
  if (options_.admin_address == "off") return absl::OkStatus();
  IOB_ASSIGN_OR_RETURN(
      admin_, AdminHttp::Start(*loop_, options_.admin_address, [this] { return Collect(); }));
  return absl::OkStatus();
}

absl::Status Daemon::StartGrpc() {
  EnableGrpcExtras();
  grpc::ServerBuilder builder;
  builder.RegisterService(&grpc_service_);
  builder.SetMaxReceiveMessageSize(kRequestBytesMax);
  grpc_server_ = builder.BuildAndStart();
  if (grpc_server_ == nullptr) return absl::InternalError("gRPC did not start");
  if (auto* const health = grpc_server_->GetHealthCheckService()) {
    health->SetServingStatus(true);
    health->SetServingStatus(v1::BrokerService::service_full_name(), true);
  }
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd socket,
                       runtime_dir_->Listen(runtime_dir_->grpc_socket_path(), SOCK_STREAM,
                                            static_cast<mode_t>(options_.socket_mode)));
  IOB_ASSIGN_OR_RETURN(grpc_listener_, GrpcListener::Start(*loop_, registry_, *grpc_server_,
                                                           std::move(socket), options_.limits));
  grpc_service_.SetListener(grpc_listener_.get());
  return absl::OkStatus();
}

void Daemon::Run() {
  loop_->Run();
  if (stopper_.joinable()) stopper_.join();
}

void Daemon::Stop() {
  // Also with a full queue, and from the loop itself, which would wait for ever for it to empty.
  loop_->PostUrgent([this] { BeginStop(); });
}

void Daemon::BeginStop() {
  if (std::exchange(stopping_, true)) return;
  attach_listener_->StopAccepting();
  grpc_listener_->StopAccepting();
  watchers_.Stop();
  stats_watchers_.Stop();
  snapshots_->Stop();
  stopper_ = std::thread([this] {
    if (auto* const health = grpc_server_->GetHealthCheckService()) health->SetServingStatus(false);
    grpc_server_->Shutdown(std::chrono::system_clock::now() + kGrpcDrain);
    if (admin_) admin_->Stop();
    loop_->Quit();
  });
}

void Daemon::ArmExpiryTimer() {
  const auto next_ns = registry_.NextExpiryNs();
  if (!next_ns || (expiry_timer_.active() && expiry_armed_ns_ <= *next_ns)) return;
  expiry_armed_ns_ = *next_ns;
  expiry_timer_ = loop_->RunAt(*next_ns, [this] {
    expiry_timer_.End();
    registry_.Expire(loop_->clock().MonotonicNs());
    ArmExpiryTimer();
  });
}

absl::StatusOr<WatchScope> Daemon::ScopeOf(const Caller& caller, const Token& token) const {
  IOB_ASSIGN_OR_RETURN(const Handle handle, registry_.FindHandle(caller, token));
  if (!handle.rights.Has(shm::HandleRights::kWait))
    return MakeError(v1::ERROR_REASON_ACCESS_DENIED, "the handle has no right WAIT");
  WatchScope scope{.uid = caller.uid,
                   .sees_holders = handle.rights.Has(shm::HandleRights::kInspect),
                   .sees_name = handle.rights.Has(shm::HandleRights::kGetProperty)};
  if (const Buffer* const buffer = handle.object.buffer) {
    scope.buffer = buffer->koid();
    scope.endpoint = handle.object.endpoint;
  } else {
    scope.shared_region = handle.object.shared_region->koid();
  }
  return scope;
}

WatchState Daemon::StateOf(const WatchScope& scope) {
  if (const SharedRegion* const region = registry_.FindSharedRegion(scope.shared_region))
    return {.signals = region->signals(), .peer_closed = {}};
  const Buffer* const buffer = registry_.Find(scope.buffer);
  if (buffer == nullptr) return {};
  const Endpoint& peer = buffer->endpoint(shm::PeerOf(scope.endpoint));
  return {.signals = buffer->signal().signals(scope.endpoint),
          .peer_closed = peer.closed ? peer.reason : shm::CloseReason{}};
}

std::vector<prometheus::MetricFamily> Daemon::Collect() {
  return CollectMetrics({.loop = *loop_,
                         .registry = registry_,
                         .quota = quota_,
                         .attach_listener = *attach_listener_,
                         .grpc_listener = *grpc_listener_,
                         .liveness = *liveness_,
                         .watchers = watchers_,
                         .mediator_pool = *mediator_pool_,
                         .snapshots = *snapshots_,
                         .crash_store = *crash_store_,
                         .stalls = ring_keeper_.stalls(),
                         .renewals = ring_keeper_.renewals(),
                         .endpoints_closed = endpoints_closed_});
}

void Daemon::OnProcessHoldsHandles(ProcessId process, bool holds) {
  grpc_listener_->OnProcessHoldsHandles(process, holds);
}

void Daemon::OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) {
  liveness_->OnEndpointUnheld(buffer, endpoint);
}

void Daemon::OnEndpointClosed(const BufferLabel& buffer, shm::EndpointId endpoint,
                              shm::CloseReason reason) {
  const std::string text = ReasonText(reason);
  // The label has no code: exit statuses would make 256 series.
  endpoints_closed_[text.substr(0, text.find('('))] += 1;
  LogInfo("endpoint_closed", {{"buffer", absl::StrCat(buffer.koid)},
                              {"endpoint", endpoint == shm::EndpointId::kEp0 ? "ep0" : "ep1"},
                              {"reason", text}});
  attach_listener_->OnEndpointClosed(buffer.koid, endpoint, reason);
  event_feed_.EndpointClosed(buffer, endpoint, reason);
}

void Daemon::OnRevoke(AttachmentId attachment) { attach_listener_->OnRevoke(attachment); }

void Daemon::OnBufferGone(const BufferLabel& buffer) {
  liveness_->OnBufferGone(buffer.koid);
  crash_store_->OnBufferGone(buffer.koid);
  ring_keeper_.OnBufferGone(buffer.koid);
  event_feed_.BufferGone(buffer);
  stats_watchers_.BufferGone(buffer.koid);
  LogInfo("buffer_gone", {{"buffer", absl::StrCat(buffer.koid)}});
}

void Daemon::OnSignals(const BufferLabel& buffer, shm::EndpointId endpoint, uint32_t signals) {
  attach_listener_->OnSignals(buffer.koid, endpoint);
  event_feed_.SignalsChanged(buffer, endpoint, signals);
}

void Daemon::OnOwnersLeft(Koid buffer) { liveness_->OnOwnersLeft(buffer); }

void Daemon::OnRecordsReadable(Koid koid, uint32_t region_index) {
  if (const Buffer* const buffer = registry_.Find(koid))
    attach_listener_->OnReadable(*buffer, region_index);
}

void Daemon::OnStall(const RingKeeper::Stall& stall) {
  LogWarn("producer_stalled", {{"buffer", absl::StrCat(stall.buffer.koid)},
                               {"region", absl::StrCat(stall.region_index)},
                               {"uid", absl::StrCat(stall.holder.uid)},
                               {"pid", absl::StrCat(stall.holder.pid)},
                               {"killed", stall.killed ? "yes" : "no"},
                               {"renewed", stall.renewed ? "yes" : "no"}});
  event_feed_.ProducerStalled(stall);
}

void Daemon::OnHandleGone(const Token& handle) { watchers_.HandleGone(handle); }

void Daemon::OnBufferCreated(const BufferLabel& buffer, const HolderInfo& owner,
                             uint64_t memory_bytes) {
  mediator_pool_->RefreshConsumers(buffer.koid);
  event_feed_.BufferCreated(buffer, owner, memory_bytes);
}

void Daemon::OnBufferRenamed(const BufferLabel& buffer, const std::string& old_name) {
  event_feed_.BufferRenamed(buffer, old_name);
}

void Daemon::OnAttached(const BufferLabel& buffer, shm::EndpointId endpoint,
                        const HolderInfo& holder) {
  event_feed_.EndpointAttached(buffer, endpoint, holder);
  ring_keeper_.OnAttached(buffer.koid);
}

void Daemon::OnDetached(const BufferLabel& buffer, shm::EndpointId endpoint,
                        const HolderInfo& holder, shm::CloseReason reason) {
  crash_store_->OnDetached(buffer.koid, endpoint, reason);
  event_feed_.EndpointDetached(buffer, endpoint, holder, reason);
}

void Daemon::OnRegionSignals(Koid shared_region, uint32_t owner_uid, uint32_t signals) {
  event_feed_.RegionSignalsChanged(shared_region, owner_uid, signals);
}

void Daemon::OnRegionGone(Koid shared_region, uint32_t owner_uid) {
  event_feed_.RegionGone(shared_region, owner_uid);
  LogInfo("shared_region_gone", {{"koid", absl::StrCat(shared_region)}});
}

}  // namespace iob::server
