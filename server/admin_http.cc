#include "server/admin_http.h"

#include <httplib.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr auto kLoopPatience = std::chrono::seconds(5);
constexpr size_t kServingThreads = 2;
constexpr char kIndex[] =
    "iobd\n\n/metrics   figures for Prometheus\n/healthz   200 while the daemon works\n";

struct HostPort {
  std::string host;
  int port = 0;
};

absl::StatusOr<HostPort> ParseAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &parsed.port) || parsed.port < 0 ||
      parsed.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "admin address \"", address, "\": host:port is needed, as in 127.0.0.1:9464, or off"));
  }
  parsed.host = address.substr(0, colon);
  return parsed;
}

}  // namespace

class AdminHttp::Impl {
 public:
  Impl(EventLoop& loop, Collect collect) : loop_(loop), collect_(std::move(collect)) {
    server_.new_task_queue = [] { return new httplib::ThreadPool(kServingThreads); };
    // The library's default is SO_REUSEPORT: two daemons would silently share the port.
    server_.set_socket_options([](socket_t socket) {
      const int on = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    });
    server_.set_payload_max_length(4096);
    server_.Get("/", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(kIndex, "text/plain; charset=utf-8");
    });
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      Metrics(response);
    });
    server_.Get("/healthz",
                [this](const httplib::Request&, httplib::Response& response) { Health(response); });
  }

  absl::StatusOr<int> Bind(const HostPort& address) {
    if (address.port == 0) {
      const int port = server_.bind_to_any_port(address.host);
      if (port > 0) return port;
    } else if (server_.bind_to_port(address.host, address.port)) {
      return address.port;
    }
    return absl::FailedPreconditionError(
        absl::StrCat("admin address ", address.host, ":", address.port,
                     " cannot be bound: in use, or not an address of this machine; choose another "
                     "--admin-address"));
  }

  void Serve() {
    thread_ = std::thread([this] { server_.listen_after_bind(); });
  }

  void Stop() {
    if (!thread_.joinable()) return;
    // Before the thread has got as far as listening, stop() would do nothing, and join wait for
    // ever.
    while (!server_.is_running()) std::this_thread::yield();
    server_.stop();
    thread_.join();
  }

 private:
  // What `task` returns, run on the loop; nullopt when the loop does not get to it.
  template <typename Result>
  std::optional<Result> OnLoop(absl::AnyInvocable<Result()> task) {
    std::promise<Result> promise;
    std::future<Result> future = promise.get_future();
    const bool posted =
        loop_.Post([task = std::move(task), promise = std::move(promise)]() mutable {
          promise.set_value(task());
        });
    if (!posted || future.wait_for(kLoopPatience) != std::future_status::ready) return std::nullopt;
    return future.get();
  }

  void Metrics(httplib::Response& response) {
    const auto families =
        OnLoop<std::vector<prometheus::MetricFamily>>([this] { return collect_(); });
    if (!families) return Busy(response);
    response.set_content(prometheus::TextSerializer().Serialize(*families),
                         "text/plain; version=0.0.4; charset=utf-8");
  }

  void Health(httplib::Response& response) {
    if (!OnLoop<bool>([] { return true; })) return Busy(response);
    response.set_content("ok\n", "text/plain; charset=utf-8");
  }

  static void Busy(httplib::Response& response) {
    response.status = 503;
    response.set_content("the daemon's loop does not answer\n", "text/plain; charset=utf-8");
  }

  EventLoop& loop_;
  Collect collect_;
  httplib::Server server_;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<AdminHttp>> AdminHttp::Start(EventLoop& loop,
                                                            const std::string& address,
                                                            Collect collect) {
  IOB_ASSIGN_OR_RETURN(const HostPort parsed, ParseAddress(address));
  auto impl = std::make_unique<Impl>(loop, std::move(collect));
  IOB_ASSIGN_OR_RETURN(const int port, impl->Bind(parsed));
  impl->Serve();
  return std::unique_ptr<AdminHttp>(
      new AdminHttp(std::move(impl), absl::StrCat(parsed.host, ":", port)));
}

AdminHttp::AdminHttp(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}

AdminHttp::~AdminHttp() { Stop(); }

void AdminHttp::Stop() { impl_->Stop(); }

}  // namespace iob::server
