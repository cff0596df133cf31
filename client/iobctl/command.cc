#include "client/iobctl/command.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/json.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::string_view kReasonUsage = "USAGE";

// What a person can do about it.
constexpr std::array<std::pair<std::string_view, const char*>, 17> kAdvice = {{
    {"DISCONNECTED", "is iobd running there? --runtime-dir names its directory"},
    {"BUSY", "try again, or allow more time with --timeout"},
    {"DEADLINE", "allow more time with --timeout"},
    {"NAME_TAKEN", "choose another name, or remove that buffer with 'iobctl rm'"},
    {"NOT_FOUND", "'iobctl ls' shows the buffers that you may see"},
    {"IN_USE", "use --force, or close what holds it"},
    {"BAD_HANDLE", "tickets are for one use, one uid and a short time: get a new one"},
    {"ACCESS_DENIED", "'iobctl stat' shows each endpoint's rights"},
    {"POLICY", "its owner can allow it with --allow-uid or --allow-anyone of 'iobctl create'"},
    {"QUOTA", "remove buffers that nobody needs, or ask for less"},
    {"PEER_CLOSED", "'iobctl stat' shows how it ended"},
    {"REGION_FULL", "'iobctl id ls' shows the room that is left"},
    {"MAY_BE_TORN", "leave --consistent out, or copy when its writers are gone"},
    {"WRONG_DISCIPLINE", "'iobctl stat' shows the regions"},
    {kReasonNoSuchId, "'iobctl id ls' shows what there is"},
    {kReasonTimedOut, "allow more time with --timeout"},
    {"USAGE", "see --help"},
}};

std::string AdviceFor(std::string_view reason) {
  for (const auto& [known, advice] : kAdvice) {
    if (known == reason) return advice;
  }
  return "";
}

int ExitCodeOf(std::string_view reason) {
  if (reason == kReasonUsage) return kExitUsage;
  if (reason == kReasonDisconnected) return kExitUnreachable;
  if (reason == kReasonTimedOut) return kExitTimedOut;
  return kExitFailed;
}

}  // namespace

absl::Status UsageError(std::string_view option, const absl::Status& status) {
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(std::string(option), ": ", status.message())),
      kReasonUsage);
}

absl::StatusOr<std::chrono::milliseconds> TimeoutOf(const Globals& globals) {
  absl::StatusOr<std::chrono::milliseconds> timeout = ParseDuration(globals.timeout_text);
  if (!timeout.ok()) return UsageError("--timeout", timeout.status());
  return timeout;
}

absl::StatusOr<Broker> ConnectTo(const Globals& globals) {
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  return Broker::Connect(
      {.runtime_dir = globals.runtime_dir, .grpc_socket_path = "", .timeout = timeout});
}

BufferKey KeyOf(const std::string& text) {
  if (!text.starts_with('#')) return text;
  const absl::StatusOr<uint64_t> koid =
      ParseNumber(text.substr(1), std::numeric_limits<uint64_t>::max());
  if (koid.ok()) return *koid;
  return text;
}

absl::Status OfBuffer(const std::string& name, const absl::Status& status) {
  if (!absl::IsNotFound(status)) return status;
  return WithReason(absl::NotFoundError(absl::StrCat("'", name, "': ", status.message())),
                    ReasonText(status));
}

int ReportError(const absl::Status& status, const Globals& globals) {
  const std::string reason = ReasonText(status);
  const std::string message(status.message());
  const int exit_code = ExitCodeOf(reason);
  std::string line;
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.BeginObject("error");
    json.Member("code", std::string(absl::StatusCodeToString(status.code())));
    json.Member("reason", reason);
    json.Member("message", message);
    json.Member("exit_code", static_cast<int64_t>(exit_code));
    json.EndObject();
    json.EndObject();
    line = json.text();
  } else {
    line = absl::StrCat("iobctl: ", Escape(message));
    if (!reason.empty() && reason != kReasonUsage)
      absl::StrAppend(&line, " (", Escape(reason), ")");
    if (const std::string advice = AdviceFor(reason); !advice.empty()) {
      absl::StrAppend(&line, "; ", advice);
    }
  }
  std::fprintf(stderr, "%s\n", line.c_str());
  return exit_code;
}

void PrintLine(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

}  // namespace iob::ctl
