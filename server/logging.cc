#include "server/logging.h"

#include <spdlog/async.h>
#include <spdlog/sinks/ansicolor_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/mutex_lock.h"

namespace iob::server {
namespace {

constexpr size_t kQueueLines = 8192;
constexpr size_t kTextBytesMax = 96;
constexpr size_t kTroubleKeysMax = 4096;
constexpr absl::Duration kTroubleQuiet = absl::Hours(1);

// Written once, before any other thread exists.
bool json_lines = false;

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

std::string Line(absl::string_view event, const Fields& fields) {
  std::string line =
      json_lines ? absl::StrCat("\"event\":\"", event, "\"") : absl::StrCat("event=", event);
  for (const Field& field : fields) {
    const std::string value = EscapeForLog(field.value);
    if (json_lines) {
      absl::StrAppend(&line, ",\"", field.key, "\":\"", value, "\"");
    } else if (value.find_first_of(" =") != std::string::npos || value.empty()) {
      absl::StrAppend(&line, " ", field.key, "=\"", value, "\"");
    } else {
      absl::StrAppend(&line, " ", field.key, "=", value);
    }
  }
  return line;
}

// What was said about whom, and how often it was kept back since.
class TroubleBook {
 public:
  // The number of events kept back before this one, or -1: keep this one back too.
  int64_t Note(uint32_t uid, absl::string_view event, absl::string_view reason) {
    const MutexLock lock(&mutex_);
    if (entries_.size() >= kTroubleKeysMax) entries_.clear();
    Entry& entry = entries_[absl::StrCat(uid, "/", event, "/", reason)];
    const absl::Time now = absl::Now();
    if (now - entry.said < kTroubleQuiet) {
      ++entry.kept_back;
      return -1;
    }
    entry.said = now;
    return std::exchange(entry.kept_back, 0);
  }

 private:
  struct Entry {
    absl::Time said = absl::InfinitePast();
    int64_t kept_back = 0;
  };
  absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void StartLogging(LogLevel level, bool json) {
  json_lines = json;
  spdlog::init_thread_pool(kQueueLines, 1);
  auto logger = json ? spdlog::create_async_nb<spdlog::sinks::stderr_sink_mt>("iobd")
                     : spdlog::create_async_nb<spdlog::sinks::ansicolor_stderr_sink_mt>("iobd");
  logger->set_pattern(json ? R"({"ts":"%Y-%m-%dT%H:%M:%S.%fZ","level":"%l",%v})"
                           : "%Y-%m-%dT%H:%M:%S.%eZ %^%-5!l%$ %v",
                      spdlog::pattern_time_type::utc);
  logger->set_level(ToSpdlog(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void StopLogging() { spdlog::shutdown(); }

void LogInfo(absl::string_view event, const Fields& fields) {
  if (!spdlog::should_log(spdlog::level::info)) return;
  spdlog::info("{}", Line(event, fields));
}
void LogWarn(absl::string_view event, const Fields& fields) {
  spdlog::warn("{}", Line(event, fields));
}
void LogError(absl::string_view event, const Fields& fields) {
  spdlog::error("{}", Line(event, fields));
}

void LogPeerTrouble(absl::string_view event, uint32_t peer_uid, absl::string_view reason,
                    absl::string_view detail) {
  static TroubleBook book;
  const int64_t kept_back = book.Note(peer_uid, event, reason);
  if (kept_back < 0) return;
  Fields fields = {{"peer_uid", absl::StrCat(peer_uid)},
                   {"reason", std::string(reason)},
                   {"detail", std::string(detail)}};
  if (kept_back > 0) fields.push_back({"kept_back", absl::StrCat(kept_back)});
  LogWarn(event, fields);
}

std::string EscapeForLog(absl::string_view text) {
  std::string escaped;
  for (const char c : text.substr(0, kTextBytesMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      escaped.push_back('\\');
      escaped.push_back(c);
    } else if (absl::ascii_isprint(byte)) {
      escaped.push_back(c);
    } else {
      absl::StrAppend(&escaped, "\\u", absl::Hex(byte, absl::kZeroPad4));
    }
  }
  if (text.size() > kTextBytesMax) absl::StrAppend(&escaped, "...");
  return escaped;
}

}  // namespace iob::server
