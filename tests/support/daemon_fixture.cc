#include "tests/support/daemon_fixture.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "server/daemon.h"
#include "server/logging.h"
#include "server/options.h"
#include "shm/check.h"
#include "shm/unique_fd.h"
#include "tests/support/leak_check.h"

namespace iob::test {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class ThreadDaemon final : public TestDaemon {
 public:
  bool Launch(const DaemonSettings& settings) {
    // Once per process; what the daemon does is checked, not read.
    [[maybe_unused]] static const bool quiet = [] {
      server::StartLogging(server::LogLevel::kOff, /*json=*/false);
      return true;
    }();
    std::vector<std::string> words = {"iobd", "--runtime-dir", runtime_dir(), "--admin-address",
                                      "127.0.0.1:0"};
    words.insert(words.end(), settings.flags.begin(), settings.flags.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    auto parsed = server::ParseOptions(static_cast<int>(argv.size()), argv.data());
    EXPECT_TRUE(parsed.options.has_value());
    if (!parsed.options) return false;
    auto daemon = server::Daemon::Start(*std::move(parsed.options), clock_);
    EXPECT_TRUE(daemon.ok()) << daemon.status();
    if (!daemon.ok()) return false;
    daemon_ = *std::move(daemon);
    thread_ = std::thread([this] { daemon_->Run(); });
    return Connect(daemon_->admin_address());
  }
  ~ThreadDaemon() override { Stop(); }

  pid_t pid() const override { return ::getpid(); }

  std::string Stop() override {
    if (!daemon_) return {};
    stub_.reset();
    daemon_->Stop();
    thread_.join();
    daemon_.reset();
    return CheckGone();
  }

 private:
  server::SystemClock clock_;
  std::unique_ptr<server::Daemon> daemon_;
  std::thread thread_;
};

class ChildDaemon final : public TestDaemon {
 public:
  bool Launch(const DaemonSettings& settings) {
    std::vector<std::string> words = {IOBD_PATH,         "--runtime-dir", runtime_dir(),
                                      "--admin-address", "127.0.0.1:0",   "--log-json"};
    words.insert(words.end(), settings.flags.begin(), settings.flags.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string log = log_path();
    pid_ = ::fork();
    IOB_CHECK(pid_ >= 0);
    if (pid_ == 0) Exec(argv, log, settings);
    const bool started = Eventually([&] { return Started() || HasEnded(); }, 20'000) && Started();
    EXPECT_TRUE(started) << "iobd did not start: " << ReadFile(log);
    return started && Connect(AdminInLog());
  }
  ~ChildDaemon() override { Stop(); }

  pid_t pid() const override { return pid_; }

  std::string Stop() override {
    if (pid_ <= 0) return {};
    stub_.reset();
    ::kill(pid_, SIGTERM);
    const bool ended = Eventually([this] { return HasEnded(); }, 20'000);
    if (!ended) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status_, 0);
    }
    pid_ = -1;
    if (!ended) return "iobd did not stop on SIGTERM";
    if (!WIFEXITED(status_) || WEXITSTATUS(status_) != 0) {
      return absl::StrCat("iobd ended with wait status ", status_, ": ", ReadFile(log_path()));
    }
    return CheckGone();
  }

 private:
  std::string log_path() const { return directory_.path() + "/log"; }

  // In the child of a process with threads: system calls only.
  [[noreturn]] static void Exec(const std::vector<char*>& argv, const std::string& log,
                                const DaemonSettings& settings) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (settings.open_files_max) {
      const rlimit files = {.rlim_cur = *settings.open_files_max,
                            .rlim_max = *settings.open_files_max};
      ::setrlimit(RLIMIT_NOFILE, &files);
    }
    const int sink = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(sink, STDERR_FILENO);
    ::dup2(sink, STDOUT_FILENO);
    // What the test has open must not count as the daemon's.
    ::close_range(3, ~0U, 0);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }

  bool HasEnded() { return ::waitpid(pid_, &status_, WNOHANG) == pid_; }

  bool Started() const { return !AdminInLog().empty(); }

  // host:port from the line that says "started".
  std::string AdminInLog() const {
    const std::string text = ReadFile(log_path());
    const size_t event = text.find("\"event\":\"started\"");
    if (event == std::string::npos) return {};
    constexpr char kKey[] = "\"admin\":\"";
    const size_t key = text.find(kKey, event);
    if (key == std::string::npos) return {};
    const size_t begin = key + sizeof(kKey) - 1;
    const size_t end = text.find('"', begin);
    return end == std::string::npos ? std::string() : text.substr(begin, end - begin);
  }

  pid_t pid_ = -1;
  int status_ = 0;
};

int RemoveEntry(const char* path, const struct stat*, int, FTW*) { return ::remove(path); }

}  // namespace

TempDir::TempDir() {
  std::array<char, 32> pattern = {"/tmp/iob-XXXXXX"};
  IOB_CHECK(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern.data();
  ::chmod(path_.c_str(), 0755);
}

TempDir::~TempDir() { ::nftw(path_.c_str(), RemoveEntry, 8, FTW_DEPTH | FTW_PHYS); }

std::unique_ptr<TestDaemon> TestDaemon::Start(DaemonKind kind, const DaemonSettings& settings) {
  if (kind == DaemonKind::kThread) {
    auto daemon = std::make_unique<ThreadDaemon>();
    if (!daemon->Launch(settings)) return nullptr;
    return daemon;
  }
  auto daemon = std::make_unique<ChildDaemon>();
  if (!daemon->Launch(settings)) return nullptr;
  return daemon;
}

bool TestDaemon::Connect(std::string admin_address) {
  admin_address_ = std::move(admin_address);
  stub_ = NewStub();
  v1::GetLimitsResponse limits;
  const grpc::Status status =
      Call(*stub_, &v1::BrokerService::StubInterface::GetLimits, v1::GetLimitsRequest(), &limits);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return status.ok();
}

std::unique_ptr<Stub> TestDaemon::NewStub() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return v1::BrokerService::NewStub(grpc::CreateCustomChannel(
      "unix:" + grpc_path(), grpc::InsecureChannelCredentials(), arguments));
}

bool TestDaemon::Healthy() {
  v1::GetLimitsResponse limits;
  const grpc::Status status =
      Call(*stub_, &v1::BrokerService::StubInterface::GetLimits, v1::GetLimitsRequest(), &limits);
  const HttpAnswer health = HttpGet(admin_address(), "/healthz");
  return status.ok() && health.status == 200 && health.body == "ok\n";
}

std::string TestDaemon::CheckGone() const {
  if (::access(runtime_dir().c_str(), F_OK) == 0) return "the runtime directory is still there";
  return {};
}

std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return {};
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info) && info.domain() == "iob") return info.reason();
  }
  return {};
}

HttpAnswer HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) return {};
  sockaddr_in target = {};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(port));
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const shm::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience = {.tv_sec = 10, .tv_usec = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&target), sizeof(target)) != 0)
    return {};
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
  if (::send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return {};
  std::string answer;
  std::array<char, 16384> buffer;
  ssize_t size = 0;
  while ((size = ::recv(socket.get(), buffer.data(), buffer.size(), 0)) > 0) {
    answer.append(buffer.data(), static_cast<size_t>(size));
  }
  HttpAnswer parsed;
  if (std::sscanf(answer.c_str(), "HTTP/1.1 %d", &parsed.status) != 1) return {};
  const size_t body = answer.find("\r\n\r\n");
  if (body != std::string::npos) parsed.body = answer.substr(body + 4);
  return parsed;
}

v1::CreateBufferRequest RingRequest(uint64_t size_bytes) {
  v1::CreateBufferRequest request;
  v1::RegionSpec& region = *request.add_regions();
  region.set_type(v1::REGION_TYPE_PRIVATE);
  region.set_discipline(v1::DISCIPLINE_MEDIATED_RING);
  region.set_size_bytes(size_bytes);
  region.set_access_bits(0x83);
  return request;
}

}  // namespace iob::test
