#include "server/options.h"

#include <sys/sysinfo.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"

namespace iob::server {
namespace {

constexpr char kFooter[] = R"(
Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 usage, 75 another iobd has the
runtime directory, 78 a setting cannot work here.

Example:
  iobd --runtime-dir /run/iob --admin-address 127.0.0.1:9464
)";

uint64_t MemoryOfCgroup() {
  uint64_t limit = UINT64_MAX;
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    uint64_t value = 0;
    if (file >> value) limit = std::min(limit, value);
  }
  return limit;
}

// As strtoull reads it, -1 is the largest size of all. Added after AsSizeValue, so it looks first.
CLI::Validator NotNegative() {
  return CLI::Validator(
      [](std::string& text) {
        return text.find('-') == std::string::npos ? std::string() : "a negative size: " + text;
      },
      "");
}

std::string CheckOctal(const std::string& text) {
  const bool octal =
      !text.empty() && text.size() <= 4 && text.find_first_not_of("01234567") == std::string::npos;
  return octal ? std::string() : "not an octal file mode: " + text;
}

void AddServingFlags(CLI::App& app, Options& options, std::string& socket_mode) {
  app.add_option("--runtime-dir", options.runtime_dir, "Directory for the sockets and the lock")
      ->envname("IOBD_RUNTIME_DIR")
      ->capture_default_str();
  app.add_option("--admin-address", options.admin_address,
                 "host:port for /metrics and /healthz; port 0 picks one; 'off' for none")
      ->envname("IOBD_ADMIN_ADDRESS")
      ->capture_default_str();
  app.add_option("--socket-mode", socket_mode,
                 "Octal file mode of both sockets: who may connect at all")
      ->envname("IOBD_SOCKET_MODE")
      ->check(CheckOctal)
      ->capture_default_str();
  const std::map<std::string, LogLevel> levels = {{"debug", LogLevel::kDebug},
                                                  {"info", LogLevel::kInfo},
                                                  {"warn", LogLevel::kWarn},
                                                  {"error", LogLevel::kError},
                                                  {"off", LogLevel::kOff}};
  app.add_option("--log-level", options.log_level, "Least severe events to log")
      ->envname("IOBD_LOG_LEVEL")
      ->transform(CLI::CheckedTransformer(levels, CLI::ignore_case))
      ->default_str("info");
  app.add_flag("--log-json,!--log-text", options.log_json,
               "Log format; default: text on a terminal, else JSON");
  app.add_option("--mediators", options.mediators,
                 "Threads that append records from submission queues; each ring is on one of them")
      ->envname("IOBD_MEDIATORS")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

void AddMemoryFlags(CLI::App& app, Limits& limits) {
  app.add_option("--memory-max", limits.memory_bytes_max,
                 "Region memory in all (512MiB, 4GiB, ...); 0: half of the machine's or cgroup's")
      ->envname("IOBD_MEMORY_MAX")
      ->transform(CLI::AsSizeValue(false))
      ->transform(NotNegative());
  app.add_option("--memory-per-uid-max", limits.memory_bytes_per_uid_max,
                 "Region memory of one uid; 0: as --memory-max")
      ->envname("IOBD_MEMORY_PER_UID_MAX")
      ->transform(CLI::AsSizeValue(false))
      ->transform(NotNegative());
  app.add_option("--region-max", limits.region_bytes_max, "Bytes of one region")
      ->envname("IOBD_REGION_MAX")
      ->transform(CLI::AsSizeValue(false))
      ->transform(NotNegative());
  app.add_option("--buffers-max", limits.buffers_max, "Buffers alive at once")
      ->envname("IOBD_BUFFERS_MAX")
      ->capture_default_str();
}

void AddCrashFlags(CLI::App& app, Limits& limits) {
  app.add_option("--crash-store-bytes", limits.crash_bytes_per_uid_max,
                 "Bytes of last states of crashed endpoints, per owner; the oldest go")
      ->envname("IOBD_CRASH_STORE_BYTES")
      ->transform(CLI::AsSizeValue(false))
      ->transform(NotNegative())
      ->capture_default_str();
  app.add_option("--crash-store-count", limits.crash_states_per_uid_max,
                 "Crashes remembered, per owner; 0: none")
      ->envname("IOBD_CRASH_STORE_COUNT")
      ->check(CLI::Range(0U, 1024U))
      ->capture_default_str();
}

void AddAttachFlags(CLI::App& app, Limits& limits) {
  app.add_option("--ticket-lifetime-ms", limits.ticket_lifetime_ms,
                 "How long a ticket can be redeemed")
      ->envname("IOBD_TICKET_LIFETIME_MS")
      ->check(CLI::Range(1U, 3'600'000U))
      ->capture_default_str();
  app.add_option("--attach-step-ms", limits.attach_step_ms,
                 "How long an attaching client may stay silent")
      ->envname("IOBD_ATTACH_STEP_MS")
      ->check(CLI::Range(1U, 3'600'000U))
      ->capture_default_str();
  app.add_option("--attach-pending-max", limits.attach_pending_max,
                 "Attach connections without a ticket at once")
      ->envname("IOBD_ATTACH_PENDING_MAX")
      ->check(CLI::Range(1U, 65536U))
      ->capture_default_str();
}

}  // namespace

std::string DefaultRuntimeDir() {
  if (::geteuid() == 0) return "/run/iob";
  if (const char* directory = std::getenv("XDG_RUNTIME_DIR"))
    return absl::StrCat(directory, "/iob");
  return absl::StrCat("/tmp/iob-", ::geteuid());
}

void FillMemoryLimits(Limits& limits) {
  struct sysinfo info = {};
  ::sysinfo(&info);
  const uint64_t machine_bytes = uint64_t{info.totalram} * info.mem_unit;
  const uint64_t half_bytes = std::min(machine_bytes, MemoryOfCgroup()) / 2;
  if (limits.memory_bytes_max == 0) limits.memory_bytes_max = half_bytes;
  if (limits.memory_bytes_per_uid_max == 0)
    limits.memory_bytes_per_uid_max = limits.memory_bytes_max;
}

ParsedOptions ParseOptions(int argc, char** argv) {
  Options options;
  options.runtime_dir = DefaultRuntimeDir();
  options.log_json = ::isatty(STDERR_FILENO) == 0;
  CLI::App app("iobd: I/O buffers between processes that do not trust each other", "iobd");
  app.set_version_flag("--version", std::string("iobd ") + IOB_VERSION);
  app.footer(kFooter);
  std::string socket_mode = "0666";
  AddServingFlags(app, options, socket_mode);
  AddMemoryFlags(app, options.limits);
  AddAttachFlags(app, options.limits);
  AddCrashFlags(app, options.limits);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool asked = error.get_exit_code() == 0;
    app.exit(error);
    return {.options = std::nullopt, .exit_code = asked ? kExitOk : kExitUsage};
  }
  options.socket_mode = static_cast<unsigned>(std::stoul(socket_mode, nullptr, 8));
  // Tickets carry the path of the attach socket to clients with other working directories.
  options.runtime_dir = std::filesystem::absolute(options.runtime_dir).string();
  FillMemoryLimits(options.limits);
  return {.options = std::move(options), .exit_code = kExitOk};
}

}  // namespace iob::server
