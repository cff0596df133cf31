// Options: what an operator can say on the command line or in the environment.
//
// A flag beats its environment variable (IOBD_RUNTIME_DIR for --runtime-dir, ...), which beats the
// default. There is no configuration file to need.
#pragma once

#include <optional>
#include <string>

#include "server/limits.h"
#include "server/logging.h"

namespace iob::server {

// Exit codes of iobd, as --help documents them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitLockHeld = 75;  // EX_TEMPFAIL: another daemon has the directory.
inline constexpr int kExitConfig = 78;    // EX_CONFIG: a setting that cannot work here.

struct Options {
  std::string runtime_dir;
  std::string admin_address = "127.0.0.1:9464";  // host:port, or "off"; port 0 picks one.
  unsigned socket_mode = 0666;
  LogLevel log_level = LogLevel::kInfo;
  bool log_json = false;
  size_t mediators = 1;  // Threads that serve submission queues.
  Limits limits;
};

// /run/iob for root, $XDG_RUNTIME_DIR/iob or /tmp/iob-UID for others.
std::string DefaultRuntimeDir();

// The options, or the exit code after --help, --version or a usage error (which it has printed).
struct ParsedOptions {
  std::optional<Options> options;
  int exit_code = kExitOk;
};
ParsedOptions ParseOptions(int argc, char** argv);

// Zero memory limits become half of the machine's (or the memory cgroup's) memory.
void FillMemoryLimits(Limits& limits);

}  // namespace iob::server
