// Broker's calls on what a handle leads to: shared regions, handles themselves, names, signals, ids
// and events. Buffers as such are in broker.cc.
#include <memory>
#include <utility>

#include "client/broker.h"
#include "client/internal/attach_wire.h"
#include "client/internal/broker_impl.h"
#include "client/internal/event_stream.h"
#include "client/internal/placement_wire.h"
#include "client/internal/request_id.h"
#include "client/internal/wire_types.h"
#include "shm/result.h"

namespace iob {
namespace {

using std::chrono::milliseconds;

// DuplicateHandle and ReplaceHandle are asked for alike.
template <typename Request>
absl::StatusOr<Request> HandleRequest(const Handle& handle, HandleRights rights,
                                      const HandleOptions& options) {
  Request request;
  request.set_request_id(NewRequestId());
  request.set_handle(ToWire(handle));
  request.set_rights(rights.bits());
  if (options.recipient_uid) request.set_recipient_uid(*options.recipient_uid);
  IOB_ASSIGN_OR_RETURN(const uint32_t lease_ms, LeaseToWire(options.lease));
  request.set_lease_ms(lease_ms);
  return request;
}

// So are Signal and SignalPeer.
template <typename Request>
Request SignalsRequest(const Handle& handle, uint32_t clear, uint32_t set) {
  Request request;
  request.set_request_id(NewRequestId());
  request.set_handle(ToWire(handle));
  request.set_clear(clear);
  request.set_set(set);
  return request;
}

}  // namespace

absl::StatusOr<CreatedSharedRegion> Broker::CreateSharedRegion(uint64_t size_bytes,
                                                               milliseconds lease,
                                                               const Placement& placement) {
  v1::CreateSharedRegionRequest request;
  request.set_request_id(NewRequestId());
  request.set_size_bytes(size_bytes);
  IOB_ASSIGN_OR_RETURN(const uint32_t lease_ms, LeaseToWire(lease));
  request.set_lease_ms(lease_ms);
  if (placement != Placement()) ToWire(placement, request.mutable_placement());
  v1::CreateSharedRegionResponse response;
  IOB_RETURN_IF_ERROR(
      impl_->Call(&v1::BrokerService::Stub::CreateSharedRegion, request, &response));
  IOB_ASSIGN_OR_RETURN(const Handle handle, HandleFromWire(response.handle()));
  return CreatedSharedRegion{.handle = handle, .info = FromWire(response.region())};
}

absl::StatusOr<SharedRegionInfo> Broker::GetSharedRegion(uint64_t koid) {
  v1::GetSharedRegionRequest request;
  request.set_koid(koid);
  v1::GetSharedRegionResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetSharedRegion, request, &response));
  return FromWire(response.region());
}

absl::StatusOr<SharedRegionInfo> Broker::GetSharedRegion(const Handle& handle) {
  v1::GetSharedRegionRequest request;
  request.set_handle(ToWire(handle));
  v1::GetSharedRegionResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetSharedRegion, request, &response));
  return FromWire(response.region());
}

absl::StatusOr<Handle> Broker::DuplicateHandle(const Handle& handle, HandleRights rights,
                                               const HandleOptions& options) {
  IOB_ASSIGN_OR_RETURN(const auto request,
                       HandleRequest<v1::DuplicateHandleRequest>(handle, rights, options));
  v1::DuplicateHandleResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::DuplicateHandle, request, &response));
  return HandleFromWire(response.handle());
}

absl::StatusOr<Handle> Broker::ReplaceHandle(const Handle& handle, HandleRights rights,
                                             const HandleOptions& options) {
  IOB_ASSIGN_OR_RETURN(const auto request,
                       HandleRequest<v1::ReplaceHandleRequest>(handle, rights, options));
  v1::ReplaceHandleResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::ReplaceHandle, request, &response));
  return HandleFromWire(response.handle());
}

absl::StatusOr<HandleInfo> Broker::GetHandleInfo(const Handle& handle) {
  v1::GetHandleInfoRequest request;
  request.set_handle(ToWire(handle));
  v1::GetHandleInfoResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetHandleInfo, request, &response));
  return FromWire(response.info());
}

absl::Status Broker::KeepAlive(std::span<const Handle> handles) {
  v1::KeepAliveRequest request;
  for (const Handle& handle : handles) request.add_handles(ToWire(handle));
  v1::KeepAliveResponse response;
  return impl_->Call(&v1::BrokerService::Stub::KeepAlive, request, &response);
}

absl::Status Broker::CloseHandle(const Handle& handle) {
  v1::CloseHandleRequest request;
  request.set_request_id(NewRequestId());
  request.set_handle(ToWire(handle));
  v1::CloseHandleResponse response;
  return impl_->Call(&v1::BrokerService::Stub::CloseHandle, request, &response);
}

absl::StatusOr<std::string> Broker::GetName(const Handle& handle) {
  v1::GetNameRequest request;
  request.set_handle(ToWire(handle));
  v1::GetNameResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetName, request, &response));
  return response.name();
}

absl::Status Broker::SetName(const Handle& handle, const std::string& name) {
  v1::SetNameRequest request;
  request.set_request_id(NewRequestId());
  request.set_handle(ToWire(handle));
  IOB_ASSIGN_OR_RETURN(*request.mutable_name(), NameToWire(name));
  v1::SetNameResponse response;
  return impl_->Call(&v1::BrokerService::Stub::SetName, request, &response);
}

absl::Status Broker::Signal(const Handle& handle, uint32_t clear, uint32_t set) {
  v1::SignalResponse response;
  return impl_->Call(&v1::BrokerService::Stub::Signal,
                     SignalsRequest<v1::SignalRequest>(handle, clear, set), &response);
}

absl::Status Broker::SignalPeer(const Handle& handle, uint32_t clear, uint32_t set) {
  v1::SignalPeerResponse response;
  return impl_->Call(&v1::BrokerService::Stub::SignalPeer,
                     SignalsRequest<v1::SignalPeerRequest>(handle, clear, set), &response);
}

absl::StatusOr<uint32_t> Broker::AllocateId(const Handle& handle, uint32_t region_index,
                                            std::span<const std::byte> blob) {
  v1::AllocateIdRequest request;
  request.set_request_id(NewRequestId());
  request.set_handle(ToWire(handle));
  request.set_region_index(region_index);
  request.set_blob(blob.data(), blob.size());
  v1::AllocateIdResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::AllocateId, request, &response));
  return response.id();
}

absl::StatusOr<EventWatch> Broker::Watch(const std::optional<Handle>& handle,
                                         const std::string& resume_token) {
  v1::WatchEventsRequest request;
  if (handle) request.set_handle(ToWire(*handle));
  request.set_resume_token(resume_token);
  IOB_ASSIGN_OR_RETURN(std::unique_ptr<EventStream> stream,
                       impl_->OpenStream<EventStream>(request));
  return EventWatch(std::move(stream));
}

}  // namespace iob
