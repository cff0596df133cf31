// Logging: one event per line, a fact in the past tense, keys in order of significance.
//
//     event=buffer_created buffer=7 name="logs" uid=1000 bytes=1052672
//
// Text on a terminal, JSON otherwise. What a peer can trigger is logged once per (uid, event) and
// then counted, so that nobody can write our disk; the count shows up when the event is logged
// again, an hour later at the earliest. Never logged: payload, handles, tickets, addresses.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace iob::server {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// First thing in main. `json`: one object per line.
void StartLogging(LogLevel level, bool json);
// Writes out what is queued.
void StopLogging();

// A key and a value; text values are escaped and cut.
struct Field {
  absl::string_view key;
  std::string value;
};
using Fields = std::vector<Field>;

void LogInfo(absl::string_view event, const Fields& fields);
void LogWarn(absl::string_view event, const Fields& fields);
void LogError(absl::string_view event, const Fields& fields);

// A peer misbehaved or was refused.
void LogPeerTrouble(absl::string_view event, uint32_t peer_uid, absl::string_view reason,
                    absl::string_view detail);

// `text` as it may appear in a log line: printable, quotes and backslashes escaped, at most 96
// bytes.
std::string EscapeForLog(absl::string_view text);

}  // namespace iob::server
