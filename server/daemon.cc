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
      quota_(options_.limits),
      registry_(options_.limits, quota_, ::geteuid()),
      mediator_([this](const Buffer& buffer, uint32_t region_index) {
        attach_listener_->OnReadable(buffer, region_index);
      }),
      grpc_service_({.loop = *loop_,
                     .registry = registry_,
                     .mediator = mediator_,
                     .features = features_,
                     .attach_socket_path = runtime_dir_->attach_socket_path()}) {
  registry_.SetObserver(this);
  grpc_service_.SetOnTicket([this] { ArmTicketTimer(); });
}

Daemon::~Daemon() {
  if (stopper_.joinable()) stopper_.join();
  // A daemon that failed to start, or was never run: nothing is in flight, so this does not wait.
  if (grpc_server_ && !stopping_) grpc_server_->Shutdown(std::chrono::system_clock::now());
  registry_.SetObserver(nullptr);
}

absl::Status Daemon::StartServing() {
  IOB_ASSIGN_OR_RETURN(liveness_, Liveness::Create(*loop_, registry_));
  IOB_ASSIGN_OR_RETURN(shm::UniqueFd attach_socket,
                       runtime_dir_->Listen(runtime_dir_->attach_socket_path(), SOCK_SEQPACKET,
                                            static_cast<mode_t>(options_.socket_mode)));
  IOB_ASSIGN_OR_RETURN(attach_listener_,
                       AttachListener::Start(*loop_, registry_, mediator_, std::move(attach_socket),
                                             options_.limits));
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
  stopper_ = std::thread([this] {
    if (auto* const health = grpc_server_->GetHealthCheckService()) health->SetServingStatus(false);
    grpc_server_->Shutdown(std::chrono::system_clock::now() + kGrpcDrain);
    if (admin_) admin_->Stop();
    loop_->Quit();
  });
}

void Daemon::ArmTicketTimer() {
  const auto next_ns = registry_.NextExpiryNs();
  if (!next_ns || ticket_timer_.active()) return;
  ticket_timer_ = loop_->RunAt(*next_ns, [this] {
    ticket_timer_.End();
    registry_.ExpireTickets(loop_->clock().MonotonicNs());
    ArmTicketTimer();
  });
}

std::vector<prometheus::MetricFamily> Daemon::Collect() {
  return CollectMetrics({.loop = *loop_,
                         .registry = registry_,
                         .quota = quota_,
                         .attach_listener = *attach_listener_,
                         .grpc_listener = *grpc_listener_,
                         .liveness = *liveness_,
                         .endpoints_closed = endpoints_closed_});
}

void Daemon::OnProcessHoldsHandles(ProcessId process, bool holds) {
  grpc_listener_->OnProcessHoldsHandles(process, holds);
}

void Daemon::OnEndpointUnheld(Koid buffer, shm::EndpointId endpoint) {
  liveness_->OnEndpointUnheld(buffer, endpoint);
}

void Daemon::OnEndpointClosed(Koid buffer, shm::EndpointId endpoint, shm::CloseReason reason) {
  const std::string text = ReasonText(reason);
  // The label has no code: exit statuses would make 256 series.
  endpoints_closed_[text.substr(0, text.find('('))] += 1;
  LogInfo("endpoint_closed", {{"buffer", absl::StrCat(buffer)},
                              {"endpoint", endpoint == shm::EndpointId::kEp0 ? "ep0" : "ep1"},
                              {"reason", text}});
  attach_listener_->OnEndpointClosed(buffer, endpoint, reason);
}

void Daemon::OnRevoke(AttachmentId attachment) { attach_listener_->OnRevoke(attachment); }

void Daemon::OnBufferGone(Koid buffer) {
  liveness_->OnBufferGone(buffer);
  LogInfo("buffer_gone", {{"buffer", absl::StrCat(buffer)}});
}

}  // namespace iob::server
