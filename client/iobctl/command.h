// What the commands of iobctl share: global options, exit codes, errors in one line.
//
// A command registers its options with CLI11 and leaves a function to run; errors of that function
// are statuses. Only main.cc meets CLI11's exceptions.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/broker.h"

namespace iob::ctl {

// In --help too; scripts depend on them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitPeerDied = 3;
inline constexpr int kExitRecordsLost = 4;
inline constexpr int kExitTimedOut = 5;
inline constexpr int kExitUnreachable = 69;  // EX_UNAVAILABLE of sysexits.h.
inline constexpr int kExitInterrupted = 130;

// Reasons of iobctl's own, next to those of client/error.h: an id or a blob that is not there, and
// a wait that came to its end.
inline constexpr std::string_view kReasonNoSuchId = "NO_SUCH_ID";
inline constexpr std::string_view kReasonTimedOut = "TIMED_OUT";

struct Globals {
  std::string runtime_dir;  // As given; ResolveRuntimeDir for the one in use.
  bool json = false;
  std::string timeout_text = "5s";
};

// The exit code, or why there is none.
using Command = std::function<absl::StatusOr<int>()>;

// Each adds its subcommand to `app`; parsing sets `*selected`.
void AddCreate(CLI::App* app, const Globals* globals, Command* selected);
void AddList(CLI::App* app, const Globals* globals, Command* selected);
void AddStat(CLI::App* app, const Globals* globals, Command* selected);
void AddName(CLI::App* app, const Globals* globals, Command* selected);
void AddRemove(CLI::App* app, const Globals* globals, Command* selected);
void AddWrite(CLI::App* app, const Globals* globals, Command* selected);
void AddTail(CLI::App* app, const Globals* globals, Command* selected);
void AddId(CLI::App* app, const Globals* globals, Command* selected);
void AddPeek(CLI::App* app, const Globals* globals, Command* selected);
void AddPoke(CLI::App* app, const Globals* globals, Command* selected);
void AddMapDump(CLI::App* app, const Globals* globals, Command* selected);
void AddWho(CLI::App* app, const Globals* globals, Command* selected);
void AddSignal(CLI::App* app, const Globals* globals, Command* selected);
void AddWait(CLI::App* app, const Globals* globals, Command* selected);
void AddWatch(CLI::App* app, const Globals* globals, Command* selected);
void AddSnapshotCommand(CLI::App* app, const Globals* globals, Command* selected);
void AddAutopsyCommand(CLI::App* app, const Globals* globals, Command* selected);
void AddHealth(CLI::App* app, const Globals* globals, Command* selected);
void AddDoctor(CLI::App* app, const Globals* globals, Command* selected);

// A value on the command line that cannot be: exit code 2. `status` says what is wrong with it.
absl::Status UsageError(std::string_view option, const absl::Status& status);

absl::StatusOr<std::chrono::milliseconds> TimeoutOf(const Globals& globals);
absl::StatusOr<Broker> ConnectTo(const Globals& globals);

// A buffer as a person names it: "#7" is an id, everything else a name.
BufferKey KeyOf(const std::string& text);

// `status` with the buffer that was asked for, where the daemon leaves it out: it says the same of
// one that is not there as of one that the caller may not know of.
absl::Status OfBuffer(const std::string& name, const absl::Status& status);

// One line on stderr (with --json, one object); the exit code that belongs to it.
int ReportError(const absl::Status& status, const Globals& globals);

// To stdout, with a newline. A reader that is gone is no error.
void PrintLine(std::string_view text);

}  // namespace iob::ctl
