#include "tests/conformance/control.h"

namespace iob::test {
namespace {

using Service = v1::BrokerService::StubInterface;

class ByGrpc final : public Control {
 public:
  explicit ByGrpc(Stub& stub) : stub_(stub) {}

  Outcome CreateBuffer(const v1::CreateBufferRequest& request, NewBuffer* ret_buffer) override {
    v1::CreateBufferResponse response;
    const Outcome outcome = Ask(&Service::CreateBuffer, request, &response);
    if (outcome.ok()) {
      *ret_buffer = {
          .info = response.buffer(), .ep0 = response.ep0_handle(), .ep1 = response.ep1_handle()};
    }
    return outcome;
  }

  Outcome CreateSharedRegion(uint64_t size_bytes, NewRegion* ret_region) override {
    v1::CreateSharedRegionRequest request;
    request.set_size_bytes(size_bytes);
    v1::CreateSharedRegionResponse response;
    const Outcome outcome = Ask(&Service::CreateSharedRegion, request, &response);
    if (outcome.ok()) *ret_region = {.info = response.region(), .handle = response.handle()};
    return outcome;
  }

  Outcome GetBuffer(const std::string& handle, v1::GetBufferResponse* ret_view) override {
    v1::GetBufferRequest request;
    request.set_handle(handle);
    return Ask(&Service::GetBuffer, request, ret_view);
  }

  Outcome GetBuffer(uint64_t koid, v1::GetBufferResponse* ret_view) override {
    v1::GetBufferRequest request;
    request.set_koid(koid);
    return Ask(&Service::GetBuffer, request, ret_view);
  }

  Outcome GetSharedRegion(const std::string& handle, v1::SharedRegionInfo* ret_info) override {
    v1::GetSharedRegionRequest request;
    request.set_handle(handle);
    v1::GetSharedRegionResponse response;
    const Outcome outcome = Ask(&Service::GetSharedRegion, request, &response);
    if (outcome.ok()) *ret_info = response.region();
    return outcome;
  }

  Outcome GetHandleInfo(const std::string& handle, v1::HandleInfo* ret_info) override {
    v1::GetHandleInfoRequest request;
    request.set_handle(handle);
    v1::GetHandleInfoResponse response;
    const Outcome outcome = Ask(&Service::GetHandleInfo, request, &response);
    if (outcome.ok()) *ret_info = response.info();
    return outcome;
  }

  Outcome Duplicate(const std::string& handle, uint32_t rights, std::string* ret_handle,
                    std::optional<uint32_t> recipient_uid) override {
    v1::DuplicateHandleRequest request;
    v1::DuplicateHandleResponse response;
    Fill(handle, rights, recipient_uid, request);
    const Outcome outcome = Ask(&Service::DuplicateHandle, request, &response);
    if (outcome.ok()) *ret_handle = response.handle();
    return outcome;
  }

  Outcome Replace(const std::string& handle, uint32_t rights, std::string* ret_handle,
                  std::optional<uint32_t> recipient_uid) override {
    v1::ReplaceHandleRequest request;
    v1::ReplaceHandleResponse response;
    Fill(handle, rights, recipient_uid, request);
    const Outcome outcome = Ask(&Service::ReplaceHandle, request, &response);
    if (outcome.ok()) *ret_handle = response.handle();
    return outcome;
  }

  Outcome Close(const std::string& handle) override {
    v1::CloseHandleRequest request;
    request.set_handle(handle);
    v1::CloseHandleResponse response;
    return Ask(&Service::CloseHandle, request, &response);
  }

  Outcome KeepAlive(const std::vector<std::string>& handles) override {
    v1::KeepAliveRequest request;
    for (const std::string& handle : handles) request.add_handles(handle);
    v1::KeepAliveResponse response;
    return Ask(&Service::KeepAlive, request, &response);
  }

  Outcome Attach(const std::string& handle, NewTicket* ret_ticket,
                 std::optional<uint32_t> recipient_uid) override {
    v1::AttachRequest request;
    request.set_handle(handle);
    if (recipient_uid) request.set_recipient_uid(*recipient_uid);
    v1::AttachResponse response;
    const Outcome outcome = Ask(&Service::Attach, request, &response);
    if (outcome.ok()) {
      *ret_ticket = {.bytes = response.ticket().ticket(),
                     .endpoint = response.ticket().endpoint() == v1::ENDPOINT_ID_EP0
                                     ? EndpointId::kEp0
                                     : EndpointId::kEp1};
    }
    return outcome;
  }

  Outcome GetName(const std::string& handle, std::string* ret_name) override {
    v1::GetNameRequest request;
    request.set_handle(handle);
    v1::GetNameResponse response;
    const Outcome outcome = Ask(&Service::GetName, request, &response);
    if (outcome.ok()) *ret_name = response.name();
    return outcome;
  }

  Outcome SetName(const std::string& handle, const std::string& name) override {
    v1::SetNameRequest request;
    request.set_handle(handle);
    request.set_name(name);
    v1::SetNameResponse response;
    return Ask(&Service::SetName, request, &response);
  }

  Outcome Signal(const std::string& handle, uint32_t clear, uint32_t set) override {
    v1::SignalRequest request;
    request.set_handle(handle);
    request.set_clear(clear);
    request.set_set(set);
    v1::SignalResponse response;
    return Ask(&Service::Signal, request, &response);
  }

  Outcome SignalPeer(const std::string& handle, uint32_t clear, uint32_t set) override {
    v1::SignalPeerRequest request;
    request.set_handle(handle);
    request.set_clear(clear);
    request.set_set(set);
    v1::SignalPeerResponse response;
    return Ask(&Service::SignalPeer, request, &response);
  }

  Outcome Write(const std::string& handle, uint32_t region_index,
                const std::vector<std::string>& parts) override {
    v1::WriteRequest request;
    request.set_handle(handle);
    request.set_region_index(region_index);
    for (const std::string& part : parts) request.add_parts(part);
    v1::WriteResponse response;
    return Ask(&Service::Write, request, &response);
  }

  Outcome AllocateId(const std::string& handle, uint32_t region_index, const std::string& blob,
                     uint32_t* ret_id) override {
    v1::AllocateIdRequest request;
    request.set_handle(handle);
    request.set_region_index(region_index);
    request.set_blob(blob);
    v1::AllocateIdResponse response;
    const Outcome outcome = Ask(&Service::AllocateId, request, &response);
    if (outcome.ok()) *ret_id = response.id();
    return outcome;
  }

  Outcome DeleteBuffer(uint64_t koid, bool force) override {
    v1::DeleteBufferRequest request;
    request.set_koid(koid);
    request.set_force(force);
    v1::DeleteBufferResponse response;
    return Ask(&Service::DeleteBuffer, request, &response);
  }

 private:
  template <typename Request>
  static void Fill(const std::string& handle, uint32_t rights,
                   std::optional<uint32_t> recipient_uid, Request& request) {
    request.set_handle(handle);
    request.set_rights(rights);
    if (recipient_uid) request.set_recipient_uid(*recipient_uid);
  }

  template <typename Request, typename Response>
  Outcome Ask(grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
              const Request& request, Response* response) {
    return OutcomeOf(Call(stub_, method, request, response));
  }

  Stub& stub_;
};

}  // namespace

std::unique_ptr<Control> GrpcControl(Stub& stub) { return std::make_unique<ByGrpc>(stub); }

}  // namespace iob::test
