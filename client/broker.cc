#include "client/broker.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <future>
#include <iterator>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/broker_impl.h"
#include "client/internal/grpc_status.h"
#include "client/internal/request_id.h"
#include "client/internal/stats_stream.h"
#include "client/internal/wire_types.h"
#include "google/protobuf/empty.pb.h"
#include "google/protobuf/unknown_field_set.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/channel_arguments.h"
#include "iob/v1/broker.grpc.pb.h"
#include "shm/result.h"
#include "shm/unique_fd.h"

namespace iob {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kBackoffMin{10};
constexpr milliseconds kBackoffMax{500};
constexpr uint32_t kPageSize = 1000;
// Far more pages than the daemon has buffers: a token that never ends does not keep us for ever.
constexpr int kPagesMax = 10'000;

// Whether somebody listens there, at once and without gRPC's own retries.
absl::Status Probe(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrCat("socket path of ", path.size(), " bytes, at most ",
                                       sizeof(address.sun_path) - 1, " are possible: ", path)),
                      "INVALID_ARGUMENT");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const shm::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return shm::ErrnoStatus(errno, "socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
      errno == EAGAIN) {  // A full backlog: there is somebody.
    return absl::OkStatus();
  }
  return DisconnectedError(absl::StrCat("no daemon at ", path, ": ", std::strerror(errno)));
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& path) {
  grpc::ChannelArguments arguments;
  // A connection of our own: the daemon ties what we do to it.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A daemon that restarts is back within a second, not within gRPC's two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments);
}

// Full jitter, so that many clients of one restarted daemon do not come back in step.
milliseconds Backoff(int attempt) {
  thread_local std::minstd_rand random(std::random_device{}());
  const milliseconds ceiling = std::min(kBackoffMin * (1 << std::min(attempt, 10)), kBackoffMax);
  return milliseconds(std::uniform_int_distribution<milliseconds::rep>(1, ceiling.count())(random));
}

void ToWire(const OpenRule& rule, v1::OpenRule* ret_rule) {
  for (const uint32_t uid : rule.uids) ret_rule->add_uids(uid);
  ret_rule->set_anyone(rule.anyone);
}

// Requests that name a buffer by id or by name all have these two setters.
template <typename Request>
void SetKey(const BufferKey& key, Request* request) {
  if (const auto* koid = std::get_if<uint64_t>(&key)) {
    request->set_koid(*koid);
  } else {
    request->set_name(std::get<std::string>(key));
  }
}

absl::StatusOr<std::optional<Handle>> OptionalHandle(const std::string& bytes) {
  if (bytes.empty()) return std::optional<Handle>();
  IOB_ASSIGN_OR_RETURN(Handle handle, HandleFromWire(bytes));
  return std::optional<Handle>(handle);
}

}  // namespace

std::string ResolveRuntimeDir(const std::string& configured) {
  if (!configured.empty()) return configured;
  if (const char* dir = std::getenv("IOB_RUNTIME_DIR"); dir != nullptr && *dir != '\0') return dir;
  if (const char* xdg = std::getenv("XDG_RUNTIME_DIR"); xdg != nullptr && *xdg != '\0') {
    const std::string dir = absl::StrCat(xdg, "/iob");
    struct stat status = {};
    if (::stat(dir.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return dir;
  }
  return "/run/iob";
}

Broker::Impl::Impl(std::string socket_path, milliseconds timeout)
    : socket_path_(std::move(socket_path)),
      timeout_(timeout),
      channel_(MakeChannel(socket_path_)),
      stub_(v1::BrokerService::NewStub(channel_)) {}

bool Broker::Impl::PauseBeforeRetry(int attempt, const CallError& error, Deadline deadline) {
  if (!absl::IsUnavailable(error.status)) return false;
  const milliseconds pause = std::max(Backoff(attempt), error.retry_delay);
  if (steady_clock::now() + pause >= deadline) return false;
  std::this_thread::sleep_for(pause);
  return true;
}

// By hand, because the health service's generated client is not installed with gRPC: an empty
// request, and a reply whose field 1 is 1 for SERVING.
absl::StatusOr<Health> Broker::Impl::CheckHealth() {
  const Deadline start = steady_clock::now();
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.set_deadline(ToGrpcDeadline(After(timeout_)));
  const grpc::ByteBuffer request(nullptr, 0);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  // The callback always comes: the call has a deadline.
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const CallError error = ToCallError(done.get_future().get());
  IOB_RETURN_IF_ERROR(error.status);
  const auto round_trip = steady_clock::now() - start;
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (response.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  // A message without fields keeps all of them as unknown ones.
  google::protobuf::Empty reply;
  if (!reply.ParseFromString(bytes)) return absl::InternalError("the health reply is not protobuf");
  const google::protobuf::UnknownFieldSet& fields = reply.GetReflection()->GetUnknownFields(reply);
  bool serving = false;
  for (int i = 0; i < fields.field_count(); ++i) {
    const google::protobuf::UnknownField& field = fields.field(i);
    if (field.number() == 1 && field.type() == google::protobuf::UnknownField::TYPE_VARINT) {
      serving = field.varint() == 1;
    }
  }
  return Health{.serving = serving, .round_trip = round_trip};
}

absl::StatusOr<Broker> Broker::Connect(const ConnectOptions& options) {
  const std::string path = options.grpc_socket_path.empty()
                               ? ResolveRuntimeDir(options.runtime_dir) + "/grpc.sock"
                               : options.grpc_socket_path;
  IOB_RETURN_IF_ERROR(Probe(path));
  return Broker(std::make_unique<Impl>(path, options.timeout));
}

Broker::Broker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Broker::Broker(Broker&& other) noexcept = default;
Broker& Broker::operator=(Broker&& other) noexcept = default;
Broker::~Broker() = default;

const std::string& Broker::socket_path() const { return impl_->socket_path(); }

absl::StatusOr<CreatedBuffer> Broker::CreateBuffer(const CreateOptions& options) {
  v1::CreateBufferRequest request;
  request.set_request_id(NewRequestId());
  request.set_name(options.name);
  for (const RegionSpec& region : options.regions) {
    IOB_RETURN_IF_ERROR(iob::ToWire(region, request.add_regions()));
  }
  ToWire(options.ep0_open, request.mutable_ep0_open());
  ToWire(options.ep1_open, request.mutable_ep1_open());
  for (const EndpointId endpoint : options.attach) request.add_attach(iob::ToWire(endpoint));
  IOB_ASSIGN_OR_RETURN(const uint32_t lease_ms, LeaseToWire(options.lease));
  request.set_lease_ms(lease_ms);
  request.set_snapshot_on_crash(options.snapshot_on_crash);
  v1::CreateBufferResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::CreateBuffer, request, &response));
  CreatedBuffer created{.info = FromWire(response.buffer()),
                        .ep0_handle = std::nullopt,
                        .ep1_handle = std::nullopt,
                        .tickets = {}};
  IOB_ASSIGN_OR_RETURN(created.ep0_handle, OptionalHandle(response.ep0_handle()));
  IOB_ASSIGN_OR_RETURN(created.ep1_handle, OptionalHandle(response.ep1_handle()));
  for (const v1::Ticket& wire_ticket : response.tickets()) {
    IOB_ASSIGN_OR_RETURN(Ticket ticket, FromWire(wire_ticket));
    created.tickets.push_back(std::move(ticket));
  }
  return created;
}

absl::StatusOr<Handle> Broker::OpenHandle(const std::string& name, EndpointId endpoint,
                                          milliseconds lease) {
  v1::OpenBufferRequest request;
  request.set_request_id(NewRequestId());
  request.set_name(name);
  request.set_endpoint(iob::ToWire(endpoint));
  IOB_ASSIGN_OR_RETURN(const uint32_t lease_ms, LeaseToWire(lease));
  request.set_lease_ms(lease_ms);
  v1::OpenBufferResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::OpenBuffer, request, &response));
  return HandleFromWire(response.handle());
}

absl::StatusOr<Ticket> Broker::OpenTicket(const std::string& name, EndpointId endpoint) {
  v1::OpenBufferRequest request;
  request.set_request_id(NewRequestId());
  request.set_name(name);
  request.set_endpoint(iob::ToWire(endpoint));
  request.set_attach(true);
  v1::OpenBufferResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::OpenBuffer, request, &response));
  return FromWire(response.ticket());
}

absl::StatusOr<Endpoint> Broker::OpenEndpoint(const std::string& name, EndpointId endpoint) {
  IOB_ASSIGN_OR_RETURN(const Ticket ticket, OpenTicket(name, endpoint));
  return Endpoint::Attach(ticket, {.timeout = impl_->timeout()});
}

absl::StatusOr<Ticket> Broker::Attach(const Handle& handle, std::optional<uint32_t> recipient_uid) {
  v1::AttachRequest request;
  request.set_request_id(NewRequestId());
  request.set_handle(iob::ToWire(handle));
  if (recipient_uid) request.set_recipient_uid(*recipient_uid);
  v1::AttachResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::Attach, request, &response));
  return FromWire(response.ticket());
}

absl::StatusOr<BufferPage> Broker::ListBuffersPage(const ListOptions& options) {
  v1::ListBuffersRequest request;
  request.set_page_size(options.page_size);
  request.set_page_token(options.page_token);
  request.set_name_prefix(options.name_prefix);
  v1::ListBuffersResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::ListBuffers, request, &response));
  BufferPage page{.buffers = {}, .next_page_token = response.next_page_token()};
  for (const v1::BufferInfo& buffer : response.buffers()) page.buffers.push_back(FromWire(buffer));
  return page;
}

absl::StatusOr<std::vector<BufferInfo>> Broker::ListBuffers(const std::string& name_prefix) {
  ListOptions options{.name_prefix = name_prefix, .page_size = kPageSize, .page_token = {}};
  std::vector<BufferInfo> buffers;
  for (int pages = 0; pages < kPagesMax; ++pages) {
    IOB_ASSIGN_OR_RETURN(BufferPage page, ListBuffersPage(options));
    std::move(page.buffers.begin(), page.buffers.end(), std::back_inserter(buffers));
    if (page.next_page_token.empty()) return buffers;
    options.page_token = page.next_page_token;
  }
  return absl::InternalError("the daemon's list of buffers does not end");
}

absl::StatusOr<BufferInfo> Broker::GetBuffer(const BufferKey& key) {
  v1::GetBufferRequest request;
  SetKey(key, &request);
  v1::GetBufferResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetBuffer, request, &response));
  return FromWire(response.buffer());
}

absl::StatusOr<BufferView> Broker::GetBuffer(const Handle& handle) {
  v1::GetBufferRequest request;
  request.set_handle(iob::ToWire(handle));
  v1::GetBufferResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetBuffer, request, &response));
  return BufferView{.info = FromWire(response.buffer()), .viewer = FromWire(response.viewer())};
}

absl::StatusOr<BufferStats> Broker::GetStats(const BufferKey& key) {
  v1::GetStatsRequest request;
  SetKey(key, &request);
  v1::GetStatsResponse response;
  IOB_RETURN_IF_ERROR(impl_->Call(&v1::BrokerService::Stub::GetStats, request, &response));
  return FromWire(response);
}

absl::StatusOr<StatsWatch> Broker::WatchStats(const BufferKey& key, milliseconds interval) {
  v1::WatchStatsRequest request;
  SetKey(key, &request);
  IOB_ASSIGN_OR_RETURN(const uint32_t interval_ms, MillisecondsToWire("an interval", interval));
  request.set_interval_ms(interval_ms);
  IOB_ASSIGN_OR_RETURN(std::unique_ptr<StatsStream> stream,
                       impl_->OpenStream<StatsStream>(request));
  return StatsWatch(std::move(stream));
}

absl::Status Broker::DeleteBuffer(const BufferKey& key, bool force) {
  v1::DeleteBufferRequest request;
  request.set_request_id(NewRequestId());
  SetKey(key, &request);
  request.set_force(force);
  v1::DeleteBufferResponse response;
  return impl_->Call(&v1::BrokerService::Stub::DeleteBuffer, request, &response);
}

absl::Status Broker::Write(const Handle& handle, uint32_t region_index,
                           std::span<const std::span<const std::byte>> parts) {
  v1::WriteRequest request;
  request.set_request_id(NewRequestId());
  request.set_handle(iob::ToWire(handle));
  request.set_region_index(region_index);
  for (const std::span<const std::byte> part : parts) {
    request.add_parts(part.data(), part.size());
  }
  v1::WriteResponse response;
  return impl_->Call(&v1::BrokerService::Stub::Write, request, &response);
}

absl::StatusOr<Limits> Broker::GetLimits() {
  v1::GetLimitsResponse response;
  IOB_RETURN_IF_ERROR(
      impl_->Call(&v1::BrokerService::Stub::GetLimits, v1::GetLimitsRequest(), &response));
  return FromWire(response);
}

absl::StatusOr<Health> Broker::CheckHealth() { return impl_->CheckHealth(); }

}  // namespace iob
