#include "server/grpc_service.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/descriptors.h"
#include "server/errors.h"
#include "server/logging.h"
#include "server/refusal.h"
#include "shm/mapping.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::server {
namespace {

template <typename Request>
concept Idempotent = requires(const Request& request) {
  request.request_id();
};

absl::StatusOr<Token> HandleOf(const std::string& claimed_bytes) {
  return TokenFromProto(claimed_bytes, "handle");
}

}  // namespace

GrpcService::GrpcService(Dependencies dependencies)
    : loop_(dependencies.loop),
      registry_(dependencies.registry),
      mediator_(dependencies.mediator),
      watchers_(dependencies.watchers),
      stats_watchers_(dependencies.stats_watchers),
      features_(dependencies.features),
      attach_socket_path_(std::move(dependencies.attach_socket_path)) {}

template <typename Request, typename Response>
grpc::ServerUnaryReactor* GrpcService::Run(grpc::CallbackServerContext* context,
                                           const Request* request, Response* response,
                                           Operation<Request, Response> operation) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  // Request, response and context live until Finish.
  const bool posted = loop_.Post([this, context, request, response, operation, reactor] {
    auto caller = listener_->CallerOf(context->peer());
    absl::Status status = caller.status();
    if (caller.ok()) status = RunOnce(*caller, *request, *response, operation);
    Finish(reactor, status);
  });
  if (!posted) {
    reactor->Finish(ToGrpcStatus(LoopIsBehind()));
  }
  return reactor;
}

void GrpcService::Finish(grpc::ServerUnaryReactor* reactor, const absl::Status& status) {
  if (ReasonOf(status) == v1::ERROR_REASON_INTERNAL) {
    LogError("call_failed", {{"detail", std::string(status.message())}});
  }
  reactor->Finish(ToGrpcStatus(status));
}

template <typename Request, typename Response>
absl::Status GrpcService::RunOnce(const Caller& caller, const Request& request, Response& response,
                                  Operation<Request, Response> operation) {
  if constexpr (Idempotent<Request>) {
    if (request.request_id().size() > kRequestIdBytesMax) {
      return BadArgument("request_id", absl::StrCat(request.request_id().size(), " bytes, at most ",
                                                    kRequestIdBytesMax, " are allowed"));
    }
    if (!request.request_id().empty()) {
      const int64_t now_ns = loop_.clock().MonotonicNs();
      // The method's name makes requests of two methods differ that look the same on the wire.
      const std::string key =
          absl::StrCat(Request::descriptor()->name(), request.SerializeAsString());
      IOB_ASSIGN_OR_RETURN(const std::string* answer,
                           replays_.Find(caller, request.request_id(), key, now_ns));
      if (answer != nullptr) {
        response.ParseFromString(*answer);
        return absl::OkStatus();
      }
      IOB_RETURN_IF_ERROR((this->*operation)(caller, request, response));
      replays_.Store(caller, request.request_id(), key, response.SerializeAsString(), now_ns);
      return absl::OkStatus();
    }
  }
  return (this->*operation)(caller, request, response);
}

template <typename Request>
absl::StatusOr<Buffer*> GrpcService::FindBuffer(const Caller& caller, const Request& request) {
  switch (static_cast<int>(request.key_case())) {
    case Request::kKoid:
      return registry_.FindForOwner(caller, request.koid());
    case Request::kName:
      return registry_.FindForOwner(caller, absl::string_view(request.name()));
    default:
      break;
  }
  return BadArgument("key", "missing; give koid or name");
}

absl::Status GrpcService::FillTicket(const Caller& caller, const Token& handle,
                                     std::optional<uint32_t> recipient_uid, v1::Ticket& ticket) {
  IOB_ASSIGN_OR_RETURN(
      const IssuedTicket issued,
      registry_.IssueTicket(caller, handle, recipient_uid, loop_.clock().MonotonicNs()));
  ticket.set_ticket(issued.ticket.ToBytes());
  ticket.set_endpoint(ToProto(issued.endpoint));
  ticket.set_socket_path(attach_socket_path_);
  ticket.set_lifetime_ms(registry_.limits().ticket_lifetime_ms);
  if (on_expiring_) on_expiring_();
  return absl::OkStatus();
}

absl::Status GrpcService::DoCreateBuffer(const Caller& caller,
                                         const v1::CreateBufferRequest& request,
                                         v1::CreateBufferResponse& response) {
  IOB_ASSIGN_OR_RETURN(CreateParams params, FromProto(request, loop_.clock().MonotonicNs()));
  std::array<bool, 2> to_attach = {false, false};
  for (const int endpoint : request.attach()) {
    IOB_ASSIGN_OR_RETURN(const shm::EndpointId id,
                         FromProto(static_cast<v1::EndpointId>(endpoint)));
    if (std::exchange(to_attach[static_cast<size_t>(id)], true)) {
      return BadArgument("attach", "an endpoint is named twice");
    }
  }
  IOB_ASSIGN_OR_RETURN(const CreatedBuffer created,
                       registry_.CreateBuffer(caller, std::move(params), loop_.clock().WallTime()));
  *response.mutable_buffer() = ToProto(*created.buffer, registry_.broker_uid());
  if (!to_attach[0]) response.set_ep0_handle(created.handles[0].ToBytes());
  if (!to_attach[1]) response.set_ep1_handle(created.handles[1].ToBytes());
  for (const int endpoint : request.attach()) {
    const Token& handle = created.handles[endpoint == v1::ENDPOINT_ID_EP0 ? 0 : 1];
    // A handle made a moment ago, by the same caller: this cannot fail.
    IOB_RETURN_IF_ERROR(FillTicket(caller, handle, std::nullopt, *response.add_tickets()));
  }
  if (request.lease_ms() != 0 && on_expiring_) on_expiring_();
  LogInfo("buffer_created", {{"buffer", absl::StrCat(created.buffer->koid())},
                             {"name", created.buffer->name()},
                             {"uid", absl::StrCat(caller.uid)},
                             {"regions", absl::StrCat(created.buffer->regions().size())},
                             {"bytes", absl::StrCat(created.buffer->memory_bytes())}});
  return absl::OkStatus();
}

absl::Status GrpcService::DoOpenBuffer(const Caller& caller, const v1::OpenBufferRequest& request,
                                       v1::OpenBufferResponse& response) {
  IOB_ASSIGN_OR_RETURN(const shm::EndpointId endpoint, FromProto(request.endpoint()));
  if (request.name().empty()) return BadArgument("name", "missing");
  IOB_ASSIGN_OR_RETURN(const Lease lease,
                       LeaseFromProto(request.lease_ms(), loop_.clock().MonotonicNs()));
  IOB_ASSIGN_OR_RETURN(const OpenedEndpoint opened,
                       registry_.OpenBuffer(caller, request.name(), endpoint, lease));
  response.set_buffer_koid(opened.buffer->koid());
  if (request.attach())
    return FillTicket(caller, opened.handle, std::nullopt, *response.mutable_ticket());
  response.set_handle(opened.handle.ToBytes());
  if (lease.ms != 0 && on_expiring_) on_expiring_();
  return absl::OkStatus();
}

absl::Status GrpcService::DoGetBuffer(const Caller& caller, const v1::GetBufferRequest& request,
                                      v1::GetBufferResponse& response) {
  if (request.key_case() != v1::GetBufferRequest::kHandle) {
    IOB_ASSIGN_OR_RETURN(const Buffer* buffer, FindBuffer(caller, request));
    *response.mutable_buffer() = ToProto(*buffer, registry_.broker_uid());
    response.set_viewer(v1::ENDPOINT_ID_EP0);
    return absl::OkStatus();
  }
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, shm::HandleRights::kInspect));
  *response.mutable_buffer() = ToProto(*held.buffer, registry_.broker_uid(), held.endpoint);
  if (!held.rights.Has(shm::HandleRights::kGetProperty)) response.mutable_buffer()->clear_name();
  response.set_viewer(ToProto(held.endpoint));
  return absl::OkStatus();
}

absl::Status GrpcService::DoListBuffers(const Caller& caller, const v1::ListBuffersRequest& request,
                                        v1::ListBuffersResponse& response) {
  if (request.page_size() > kPageSizeMax) {
    return BadArgument(
        "page_size", absl::StrCat(request.page_size(), ", at most ", kPageSizeMax, " are allowed"));
  }
  Koid after = 0;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &after)) {
    return BadArgument("page_token", "not one of ours");
  }
  const size_t count = request.page_size() == 0 ? kPageSizeDefault : request.page_size();
  const std::vector<Buffer*> page = registry_.List(caller, after, request.name_prefix(), count);
  for (const Buffer* buffer : page)
    *response.add_buffers() = ToProto(*buffer, registry_.broker_uid());
  // A full page may be the last one; the next is then empty.
  if (page.size() == count) response.set_next_page_token(absl::StrCat(page.back()->koid()));
  return absl::OkStatus();
}

absl::Status GrpcService::DoDeleteBuffer(const Caller& caller,
                                         const v1::DeleteBufferRequest& request,
                                         v1::DeleteBufferResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(Buffer * buffer, FindBuffer(caller, request));
  const Koid koid = buffer->koid();
  IOB_RETURN_IF_ERROR(registry_.DeleteBuffer(caller, *buffer, request.force()));
  LogInfo("buffer_deleted", {{"buffer", absl::StrCat(koid)}, {"uid", absl::StrCat(caller.uid)}});
  return absl::OkStatus();
}

absl::Status GrpcService::DoCloseHandle(const Caller& caller, const v1::CloseHandleRequest& request,
                                        v1::CloseHandleResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(const Token handle, HandleOf(request.handle()));
  return registry_.CloseHandle(caller, handle);
}

absl::Status GrpcService::DoAttach(const Caller& caller, const v1::AttachRequest& request,
                                   v1::AttachResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token handle, HandleOf(request.handle()));
  std::optional<uint32_t> recipient_uid;
  if (request.has_recipient_uid()) recipient_uid = request.recipient_uid();
  return FillTicket(caller, handle, recipient_uid, *response.mutable_ticket());
}

absl::Status GrpcService::DoWrite(const Caller& caller, const v1::WriteRequest& request,
                                  v1::WriteResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, shm::HandleRights::kWrite));
  IOB_ASSIGN_OR_RETURN(const Mediator::Target target,
                       Mediator::Resolve(held, request.region_index()));
  return mediator_.Write(target, request.parts());
}

absl::Status GrpcService::DoGetStats(const Caller& caller, const v1::GetStatsRequest& request,
                                     v1::GetStatsResponse& response) {
  IOB_ASSIGN_OR_RETURN(Buffer * buffer, FindBuffer(caller, request));
  FillStats(*buffer, response);
  return absl::OkStatus();
}

absl::Status GrpcService::DoGetLimits(const Caller& /*caller*/,
                                      const v1::GetLimitsRequest& /*request*/,
                                      v1::GetLimitsResponse& response) {
  const Limits& limits = registry_.limits();
  response.set_regions_max(kRegionsMax);
  response.set_region_bytes_max(limits.region_bytes_max);
  response.set_mediated_ring_bytes_max(
      std::min(limits.region_bytes_max, shm::RingLayout::kRegionBytesMax));
  response.set_record_bytes_max(shm::kRecordPayloadBytesMax);
  response.set_record_parts_max(shm::kRecordPartsMax);
  response.set_attach_packet_bytes_max(shm::kPacketBytesMax);
  response.set_buffers_max(limits.buffers_max);
  response.set_memory_bytes_max(limits.memory_bytes_max);
  response.set_memory_bytes_per_uid_max(limits.memory_bytes_per_uid_max);
  response.set_page_bytes(static_cast<uint32_t>(shm::PageBytes()));
  response.set_ticket_lifetime_ms(limits.ticket_lifetime_ms);
  response.set_id_allocator_bytes_max(
      std::min<uint64_t>(limits.region_bytes_max, UINT32_MAX - (shm::PageBytes() - 1)));
  response.set_id_blob_bytes_max(kIdBlobBytesMax);
  response.set_interned_blobs_max(shm::InternTable::kEntriesMax);
  response.set_name_bytes_max(kNameBytesMax);
  response.set_handles_max(limits.handles_max);
  response.set_attachments_max(limits.attachments_max);
  response.set_watchers_max(limits.watchers_max);
  response.set_lease_ms_max(kLeaseMsMax);
  response.set_descriptors_max(DescriptorsMax());
  response.set_descriptors_open(DescriptorsOpen());
  for (const KernelFeature& feature : features_) {
    v1::KernelFeature& told = *response.add_kernel_features();
    told.set_name(feature.name);
    told.set_available(feature.available);
    told.set_effect(feature.effect);
    told.set_optional(feature.optional);
  }
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::WatchEventsResponse>* GrpcService::WatchEvents(
    grpc::CallbackServerContext* context, const v1::WatchEventsRequest* request) {
  return watchers_.Watch(context, request,
                         [this, peer = context->peer()] { return listener_->CallerOf(peer); });
}

StatsWatchers::Reactor* GrpcService::WatchStats(grpc::CallbackServerContext* context,
                                                const v1::WatchStatsRequest* request) {
  // Request and context live until the call is over, and so until this was asked.
  return stats_watchers_.Watch(
      context, request,
      [this, request, peer = context->peer()]() -> absl::StatusOr<StatsWatchers::Subject> {
        IOB_ASSIGN_OR_RETURN(const Caller caller, listener_->CallerOf(peer));
        IOB_ASSIGN_OR_RETURN(const Buffer* const buffer, FindBuffer(caller, *request));
        return StatsWatchers::Subject{.uid = caller.uid, .buffer = buffer->koid()};
      });
}

// One line per method: which operation it is.
#define IOB_METHOD(name)                                                            \
  grpc::ServerUnaryReactor* GrpcService::name(grpc::CallbackServerContext* context, \
                                              const v1::name##Request* request,     \
                                              v1::name##Response* response) {       \
    return Run<v1::name##Request, v1::name##Response>(context, request, response,   \
                                                      &GrpcService::Do##name);      \
  }
IOB_METHOD(CreateBuffer)
IOB_METHOD(OpenBuffer)
IOB_METHOD(GetBuffer)
IOB_METHOD(ListBuffers)
IOB_METHOD(DeleteBuffer)
IOB_METHOD(CloseHandle)
IOB_METHOD(Attach)
IOB_METHOD(Write)
IOB_METHOD(GetStats)
IOB_METHOD(GetLimits)
IOB_METHOD(CreateSharedRegion)
IOB_METHOD(GetSharedRegion)
IOB_METHOD(DuplicateHandle)
IOB_METHOD(ReplaceHandle)
IOB_METHOD(GetHandleInfo)
IOB_METHOD(KeepAlive)
IOB_METHOD(GetName)
IOB_METHOD(SetName)
IOB_METHOD(Signal)
IOB_METHOD(SignalPeer)
IOB_METHOD(AllocateId)
IOB_METHOD(ListAutopsies)
IOB_METHOD(GetAutopsy)
#undef IOB_METHOD

}  // namespace iob::server
