// GrpcService, the operations on handles and on what they lead to: rights, leases, shared regions,
// names, signals, ids.
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/grpc_service.h"
#include "server/logging.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::HandleRights;

absl::StatusOr<Token> HandleOf(const std::string& claimed_bytes) {
  return TokenFromProto(claimed_bytes, "handle");
}

// Of DuplicateHandle and ReplaceHandle.
template <typename Request>
absl::StatusOr<HandleWish> WishOf(const Request& request, int64_t now_ns) {
  HandleWish wish{.rights = request.rights(), .recipient_uid = std::nullopt, .lease = {}};
  if (request.has_recipient_uid()) wish.recipient_uid = request.recipient_uid();
  IOB_ASSIGN_OR_RETURN(wish.lease, LeaseFromProto(request.lease_ms(), now_ns));
  return wish;
}

}  // namespace

absl::Status GrpcService::DoCreateSharedRegion(const Caller& caller,
                                               const v1::CreateSharedRegionRequest& request,
                                               v1::CreateSharedRegionResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Lease lease,
                       LeaseFromProto(request.lease_ms(), loop_.clock().MonotonicNs()));
  IOB_ASSIGN_OR_RETURN(
      const CreatedSharedRegion created,
      registry_.CreateSharedRegion(caller, request.size_bytes(), loop_.clock().WallTime(), lease,
                                   request.placement()));
  response.set_handle(created.handle.ToBytes());
  *response.mutable_region() = ToProto(*created.region);
  if (lease.ms != 0 && on_expiring_) on_expiring_();
  LogInfo("shared_region_created", {{"koid", absl::StrCat(created.region->koid())},
                                    {"uid", absl::StrCat(caller.uid)},
                                    {"bytes", absl::StrCat(created.region->memory_bytes())}});
  return absl::OkStatus();
}

absl::Status GrpcService::DoGetSharedRegion(const Caller& caller,
                                            const v1::GetSharedRegionRequest& request,
                                            v1::GetSharedRegionResponse& response) {
  switch (request.key_case()) {
    case v1::GetSharedRegionRequest::kKoid: {
      IOB_ASSIGN_OR_RETURN(const SharedRegion* region,
                           registry_.FindSharedRegionForOwner(caller, request.koid()));
      *response.mutable_region() = ToProto(*region);
      return absl::OkStatus();
    }
    case v1::GetSharedRegionRequest::kHandle: {
      IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
      IOB_ASSIGN_OR_RETURN(const SharedRegion* region,
                           registry_.ResolveSharedRegion(caller, token, HandleRights::kInspect));
      *response.mutable_region() = ToProto(*region);
      return absl::OkStatus();
    }
    case v1::GetSharedRegionRequest::KEY_NOT_SET:
      break;
  }
  return BadArgument("key", "missing; give koid or handle");
}

absl::Status GrpcService::DoDuplicateHandle(const Caller& caller,
                                            const v1::DuplicateHandleRequest& request,
                                            v1::DuplicateHandleResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HandleWish wish, WishOf(request, loop_.clock().MonotonicNs()));
  IOB_ASSIGN_OR_RETURN(const Token made, registry_.DuplicateHandle(caller, token, wish));
  response.set_handle(made.ToBytes());
  if (wish.lease.ms != 0 && on_expiring_) on_expiring_();
  return absl::OkStatus();
}

absl::Status GrpcService::DoReplaceHandle(const Caller& caller,
                                          const v1::ReplaceHandleRequest& request,
                                          v1::ReplaceHandleResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  const auto wish = WishOf(request, loop_.clock().MonotonicNs());
  if (!wish.ok()) {
    // Spent also then; a handle that is none is the more important thing to say.
    IOB_RETURN_IF_ERROR(registry_.CloseHandle(caller, token));
    return wish.status();
  }
  IOB_ASSIGN_OR_RETURN(const Token made, registry_.ReplaceHandle(caller, token, *wish));
  response.set_handle(made.ToBytes());
  if (wish->lease.ms != 0 && on_expiring_) on_expiring_();
  return absl::OkStatus();
}

absl::Status GrpcService::DoGetHandleInfo(const Caller& caller,
                                          const v1::GetHandleInfoRequest& request,
                                          v1::GetHandleInfoResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const Handle handle, registry_.FindHandle(caller, token));
  *response.mutable_info() = ToProto(handle);
  return absl::OkStatus();
}

absl::Status GrpcService::DoKeepAlive(const Caller& caller, const v1::KeepAliveRequest& request,
                                      v1::KeepAliveResponse& /*response*/) {
  if (request.handles_size() > kKeepAliveHandlesMax) {
    return BadArgument("handles", absl::StrCat(request.handles_size(), ", at most ",
                                               kKeepAliveHandlesMax, " are allowed"));
  }
  std::vector<Token> tokens;
  for (const std::string& handle : request.handles()) {
    IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(handle));
    tokens.push_back(token);
  }
  return registry_.KeepAlive(caller, tokens, loop_.clock().MonotonicNs());
}

absl::Status GrpcService::DoGetName(const Caller& caller, const v1::GetNameRequest& request,
                                    v1::GetNameResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, HandleRights::kGetProperty));
  response.set_name(held.buffer->name());
  return absl::OkStatus();
}

absl::Status GrpcService::DoSetName(const Caller& caller, const v1::SetNameRequest& request,
                                    v1::SetNameResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, HandleRights::kSetProperty));
  return registry_.SetName(held, request.name());
}

absl::Status GrpcService::DoSignal(const Caller& caller, const v1::SignalRequest& request,
                                   v1::SignalResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  return registry_.ChangeOwnSignals(caller, token, request.clear(), request.set());
}

absl::Status GrpcService::DoSignalPeer(const Caller& caller, const v1::SignalPeerRequest& request,
                                       v1::SignalPeerResponse& /*response*/) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  return registry_.ChangePeerSignals(caller, token, request.clear(), request.set());
}

absl::Status GrpcService::DoAllocateId(const Caller& caller, const v1::AllocateIdRequest& request,
                                       v1::AllocateIdResponse& response) {
  IOB_ASSIGN_OR_RETURN(const Token token, HandleOf(request.handle()));
  IOB_ASSIGN_OR_RETURN(const HeldEndpoint held,
                       registry_.ResolveEndpoint(caller, token, HandleRights::kWrite));
  IOB_ASSIGN_OR_RETURN(const uint32_t id,
                       Mediator::AllocateId(held, request.region_index(), request.blob()));
  response.set_id(id);
  return absl::OkStatus();
}

}  // namespace iob::server
