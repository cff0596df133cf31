// iobctl: the command line of iob. Parses, runs one command, turns its end into an exit code.
#include <csignal>
#include <cstdlib>
#include <initializer_list>

#include "CLI/CLI.hpp"
#include "client/iobctl/command.h"

namespace iob::ctl {
namespace {

constexpr const char* kFooter =
    "Example:\n"
    "  iobctl create logs --ring 4MiB &\n"
    "  iobctl tail logs --follow &\n"
    "  journalctl | iobctl write logs\n"
    "\n"
    "Each command has --help with examples, and --json.\n"
    "\n"
    "Exit codes:\n"
    "  0   ok\n"
    "  1   failed: one line on stderr says why; doctor: there are warnings\n"
    "  2   wrong usage\n"
    "  3   tail --follow: the writer was killed, crashed, or exited with an error\n"
    "  4   write: records were lost\n"
    "  5   wait: the time ran out\n"
    "  69  the daemon cannot be reached\n"
    "  130 write, wait, id, map-dump: interrupted";

using Add = void (*)(CLI::App* app, const Globals* globals, Command* selected);

// In the order in which a newcomer needs them.
void AddCommands(CLI::App* app, const Globals* globals, Command* selected) {
  const auto add_group = [=](const char* title, std::initializer_list<Add> commands) {
    for (const Add add : commands) {
      const size_t index = app->get_subcommands(nullptr).size();
      add(app, globals, selected);
      app->get_subcommands(nullptr)[index]->group(title);
    }
  };
  add_group("Buffers", {AddCreate, AddList, AddStat, AddName, AddRemove});
  add_group("Records", {AddWrite, AddTail});
  add_group("Ids", {AddId});
  add_group("Memory", {AddPeek, AddPoke, AddMapDump, AddWho});
  add_group("Snapshots and autopsies", {AddSnapshotCommand, AddAutopsyCommand});
  add_group("Signals and events", {AddSignal, AddWait, AddWatch});
  add_group("Daemon", {AddHealth, AddDoctor});
}

void AddGlobals(CLI::App* app, Globals* globals) {
  app->add_option("--runtime-dir", globals->runtime_dir,
                  "Directory of the daemon's sockets; default: $IOB_RUNTIME_DIR, else\n"
                  "$XDG_RUNTIME_DIR/iob if it exists, else /run/iob")
      ->type_name("DIR");
  app->add_flag("--json", globals->json, "Output and errors as JSON");
  app->add_option("--timeout", globals->timeout_text, "For each request to the daemon")
      ->type_name("TIME")
      ->capture_default_str();
}

int Main(int argc, char** argv) {
  // A reader that goes away is an error of write(2), which is handled where it happens.
  std::signal(SIGPIPE, SIG_IGN);
  // gRPC reports each failed connection on stderr; ours say what to do. Before gRPC starts.
  ::setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  Globals globals;
  Command command;
  CLI::App app("iobctl: make, watch and use the I/O buffers of iobd", "iobctl");
  app.set_version_flag("--version", "iobctl " IOB_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  AddGlobals(&app, &globals);
  AddCommands(&app, &globals, &command);
  // CLI11 throws; its exceptions end here. Help and version are among them, with code 0.
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return ReportError(UsageError("command line", absl::InvalidArgumentError(error.what())),
                       globals);
  }
  const absl::StatusOr<int> exit_code = command();
  return exit_code.ok() ? *exit_code : ReportError(exit_code.status(), globals);
}

}  // namespace
}  // namespace iob::ctl

int main(int argc, char** argv) { return iob::ctl::Main(argc, argv); }
