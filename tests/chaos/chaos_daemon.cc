#include "tests/chaos/chaos_daemon.h"

#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "server/logging.h"
#include "server/options.h"
#include "shm/check.h"

namespace iob::test {

ChaosDaemon::ChaosDaemon() {
  server::StartLogging(server::LogLevel::kOff, /*json=*/false);
  std::vector<std::string> words = {"iobd", "--runtime-dir", runtime_dir(), "--admin-address",
                                    "127.0.0.1:0"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  auto parsed = server::ParseOptions(static_cast<int>(argv.size()), argv.data());
  IOB_CHECK(parsed.options.has_value());
  auto daemon = server::Daemon::Start(*std::move(parsed.options), clock_);
  IOB_CHECK(daemon.ok());
  daemon_ = *std::move(daemon);
  thread_ = std::thread([this] { daemon_->Run(); });
}

ChaosDaemon::~ChaosDaemon() {
  daemon_->Stop();
  thread_.join();
}

size_t ChaosDaemon::CheckInvariants() {
  std::promise<size_t> buffers;
  IOB_CHECK(daemon_->loop().Post([this, &buffers] {
    daemon_->registry().CheckInvariants();
    buffers.set_value(daemon_->registry().buffers().size());
  }));
  return buffers.get_future().get();
}

double ChaosDaemon::Metric(const std::string& name) const {
  std::istringstream text(HttpGet(daemon_->admin_address(), "/metrics").body);
  std::string line;
  while (std::getline(text, line)) {
    double value = -1;
    if (line.rfind(name + " ", 0) == 0 && absl::SimpleAtod(line.substr(name.size() + 1), &value))
      return value;
  }
  return -1;
}

}  // namespace iob::test
