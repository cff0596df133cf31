#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "client/broker.h"
#include "tests/conformance/control.h"

namespace iob::test {
namespace {

Handle HandleOf(const std::string& bytes) { return Handle(SecretOf(bytes)); }
std::string HandleBytes(const Handle& handle) { return BytesOf(handle.secret()); }

std::span<const std::byte> SpanOf(const std::string& bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

RegionSpec ToLibrary(const v1::RegionSpec& spec) {
  RegionSpec region{.type = static_cast<RegionType>(spec.type()),
                    .discipline = static_cast<Discipline>(spec.discipline()),
                    .size_bytes = spec.size_bytes(),
                    .access = AccessBits(spec.access_bits()),
                    .tag = spec.tag(),
                    .required_enforcement = static_cast<Enforcement>(spec.required_enforcement()),
                    .interned_blobs_max = spec.interned_blobs_max()};
  if (!spec.shared_region().empty()) region.shared_region = HandleOf(spec.shared_region());
  return region;
}

CreateOptions ToLibrary(const v1::CreateBufferRequest& request) {
  CreateOptions options{.name = request.name(),
                        .lease = std::chrono::milliseconds(request.lease_ms())};
  for (const v1::RegionSpec& spec : request.regions()) options.regions.push_back(ToLibrary(spec));
  return options;
}

v1::RegionInfo ToWire(const RegionInfo& region) {
  v1::RegionInfo info;
  info.set_index(region.index);
  info.set_type(static_cast<v1::RegionType>(region.type));
  info.set_discipline(static_cast<v1::Discipline>(region.discipline));
  info.set_size_bytes(region.size_bytes);
  info.set_access_bits(region.access.bits());
  info.set_koid(region.koid);
  info.set_tag(region.tag);
  info.set_ep0_enforcement(static_cast<v1::Enforcement>(region.ep0_enforcement));
  info.set_ep1_enforcement(static_cast<v1::Enforcement>(region.ep1_enforcement));
  if (region.id_allocator) {
    info.mutable_id_allocator()->set_next_id(region.id_allocator->next_id);
    info.mutable_id_allocator()->set_free_bytes(region.id_allocator->free_bytes);
    info.mutable_id_allocator()->set_shared(region.id_allocator->shared);
    info.mutable_id_allocator()->set_damaged(region.id_allocator->damaged);
  }
  return info;
}

v1::EndpointInfo ToWire(const EndpointInfo& endpoint) {
  v1::EndpointInfo info;
  info.set_endpoint(endpoint.endpoint == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0
                                                          : v1::ENDPOINT_ID_EP1);
  info.set_koid(endpoint.koid);
  info.set_handles(endpoint.handles);
  info.set_attachments(endpoint.attachments);
  info.set_memory_held(endpoint.memory_held);
  info.set_signals(endpoint.signals);
  if (endpoint.closed.kind != CloseKind::kOpen) {
    info.mutable_closed()->set_kind(static_cast<v1::CloseKind>(endpoint.closed.kind));
    info.mutable_closed()->set_code(endpoint.closed.code);
  }
  return info;
}

v1::BufferInfo ToWire(const BufferInfo& buffer) {
  v1::BufferInfo info;
  info.set_koid(buffer.koid);
  info.set_name(buffer.name);
  info.set_memory_bytes(buffer.memory_bytes);
  for (const RegionInfo& region : buffer.regions) *info.add_regions() = ToWire(region);
  for (const EndpointInfo& endpoint : buffer.endpoints) *info.add_endpoints() = ToWire(endpoint);
  return info;
}

v1::SharedRegionInfo ToWire(const SharedRegionInfo& region) {
  v1::SharedRegionInfo info;
  info.set_koid(region.koid);
  info.set_size_bytes(region.size_bytes);
  info.set_handles(region.handles);
  info.set_memory_bytes(region.memory_bytes);
  info.set_user_count(region.user_count);
  info.set_signals(region.signals);
  for (const SharedRegionUser& user : region.users) {
    v1::SharedRegionUser& told = *info.add_users();
    told.set_buffer_koid(user.buffer_koid);
    told.set_buffer_name(user.buffer_name);
    told.set_region_index(user.region_index);
  }
  return info;
}

v1::HandleInfo ToWire(const HandleInfo& handle) {
  v1::HandleInfo info;
  info.set_type(static_cast<v1::ObjectType>(handle.type));
  info.set_koid(handle.koid);
  info.set_related_koid(handle.related_koid);
  info.set_rights(handle.rights.bits());
  info.set_lease_ms(static_cast<uint32_t>(handle.lease.count()));
  return info;
}

class ByLibrary final : public Control {
 public:
  explicit ByLibrary(Broker broker) : broker_(std::move(broker)) {}

  Outcome CreateBuffer(const v1::CreateBufferRequest& request, NewBuffer* ret_buffer) override {
    const auto created = broker_.CreateBuffer(ToLibrary(request));
    if (!created.ok()) return OutcomeOf(created.status());
    *ret_buffer = {.info = ToWire(created->info),
                   .ep0 = HandleBytes(*created->ep0_handle),
                   .ep1 = HandleBytes(*created->ep1_handle)};
    return {};
  }

  Outcome CreateSharedRegion(uint64_t size_bytes, NewRegion* ret_region) override {
    const auto created = broker_.CreateSharedRegion(size_bytes);
    if (!created.ok()) return OutcomeOf(created.status());
    *ret_region = {.info = ToWire(created->info), .handle = HandleBytes(created->handle)};
    return {};
  }

  Outcome GetBuffer(const std::string& handle, v1::GetBufferResponse* ret_view) override {
    const auto view = broker_.GetBuffer(HandleOf(handle));
    if (!view.ok()) return OutcomeOf(view.status());
    *ret_view->mutable_buffer() = ToWire(view->info);
    ret_view->set_viewer(view->viewer == EndpointId::kEp0 ? v1::ENDPOINT_ID_EP0
                                                          : v1::ENDPOINT_ID_EP1);
    return {};
  }

  Outcome GetBuffer(uint64_t koid, v1::GetBufferResponse* ret_view) override {
    const auto info = broker_.GetBuffer(BufferKey(koid));
    if (!info.ok()) return OutcomeOf(info.status());
    *ret_view->mutable_buffer() = ToWire(*info);
    ret_view->set_viewer(v1::ENDPOINT_ID_EP0);
    return {};
  }

  Outcome GetSharedRegion(const std::string& handle, v1::SharedRegionInfo* ret_info) override {
    const auto info = broker_.GetSharedRegion(HandleOf(handle));
    if (info.ok()) *ret_info = ToWire(*info);
    return OutcomeOf(info.status());
  }

  Outcome GetHandleInfo(const std::string& handle, v1::HandleInfo* ret_info) override {
    const auto info = broker_.GetHandleInfo(HandleOf(handle));
    if (info.ok()) *ret_info = ToWire(*info);
    return OutcomeOf(info.status());
  }

  Outcome Duplicate(const std::string& handle, uint32_t rights, std::string* ret_handle,
                    std::optional<uint32_t> recipient_uid) override {
    const auto made = broker_.DuplicateHandle(HandleOf(handle), HandleRights(rights),
                                              {.recipient_uid = recipient_uid});
    if (made.ok()) *ret_handle = HandleBytes(*made);
    return OutcomeOf(made.status());
  }

  Outcome Replace(const std::string& handle, uint32_t rights, std::string* ret_handle,
                  std::optional<uint32_t> recipient_uid) override {
    const auto made = broker_.ReplaceHandle(HandleOf(handle), HandleRights(rights),
                                            {.recipient_uid = recipient_uid});
    if (made.ok()) *ret_handle = HandleBytes(*made);
    return OutcomeOf(made.status());
  }

  Outcome Close(const std::string& handle) override {
    return OutcomeOf(broker_.CloseHandle(HandleOf(handle)));
  }

  Outcome KeepAlive(const std::vector<std::string>& handles) override {
    std::vector<Handle> list;
    for (const std::string& handle : handles) list.push_back(HandleOf(handle));
    return OutcomeOf(broker_.KeepAlive(list));
  }

  Outcome Attach(const std::string& handle, NewTicket* ret_ticket,
                 std::optional<uint32_t> recipient_uid) override {
    const auto ticket = broker_.Attach(HandleOf(handle), recipient_uid);
    if (ticket.ok()) {
      *ret_ticket = {.bytes = BytesOf(ticket->secret()), .endpoint = ticket->endpoint()};
    }
    return OutcomeOf(ticket.status());
  }

  Outcome GetName(const std::string& handle, std::string* ret_name) override {
    const auto name = broker_.GetName(HandleOf(handle));
    if (name.ok()) *ret_name = *name;
    return OutcomeOf(name.status());
  }

  Outcome SetName(const std::string& handle, const std::string& name) override {
    return OutcomeOf(broker_.SetName(HandleOf(handle), name));
  }

  Outcome Signal(const std::string& handle, uint32_t clear, uint32_t set) override {
    return OutcomeOf(broker_.Signal(HandleOf(handle), clear, set));
  }

  Outcome SignalPeer(const std::string& handle, uint32_t clear, uint32_t set) override {
    return OutcomeOf(broker_.SignalPeer(HandleOf(handle), clear, set));
  }

  Outcome Write(const std::string& handle, uint32_t region_index,
                const std::vector<std::string>& parts) override {
    std::vector<std::span<const std::byte>> spans;
    for (const std::string& part : parts) spans.push_back(SpanOf(part));
    return OutcomeOf(broker_.Write(HandleOf(handle), region_index, spans));
  }

  Outcome AllocateId(const std::string& handle, uint32_t region_index, const std::string& blob,
                     uint32_t* ret_id) override {
    const auto id = broker_.AllocateId(HandleOf(handle), region_index, SpanOf(blob));
    if (id.ok()) *ret_id = *id;
    return OutcomeOf(id.status());
  }

  Outcome DeleteBuffer(uint64_t koid, bool force) override {
    return OutcomeOf(broker_.DeleteBuffer(BufferKey(koid), force));
  }

 private:
  Broker broker_;
};

}  // namespace

Secret SecretOf(const std::string& bytes) {
  Secret secret = {};
  EXPECT_EQ(bytes.size(), secret.size());
  for (size_t i = 0; i < std::min(bytes.size(), secret.size()); ++i)
    secret[i] = static_cast<std::byte>(bytes[i]);
  return secret;
}

std::string BytesOf(const Secret& secret) {
  return std::string(reinterpret_cast<const char*>(secret.data()), secret.size());
}

std::unique_ptr<Control> LibraryControl(const std::string& runtime_dir) {
  auto broker =
      Broker::Connect({.runtime_dir = runtime_dir, .timeout = std::chrono::milliseconds(20'000)});
  EXPECT_TRUE(broker.ok()) << broker.status();
  if (!broker.ok()) return nullptr;
  return std::make_unique<ByLibrary>(*std::move(broker));
}

}  // namespace iob::test
