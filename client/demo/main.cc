// iob_demo: the main job of iob on a real file, with every party a process of its own.
//
//   driver --starts--> iobd
//      |---forks--> creator: makes the buffer, hands out two tickets
//      |---forks--> reader (uid nobody under root): maps the ring, rebuilds the file
//      '---forks--> writer: may map nothing; streams FILE through the broker
//
// First run: the whole file, then a clean end. Second run: the writer is killed with SIGKILL in the
// middle. Every figure in the table comes from two places that must agree; exit code 1 when one
// does not.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/demo/machine.h"
#include "client/demo/roles.h"
#include "client/demo/show.h"
#include "shm/result.h"

namespace iob::demo {
namespace {

constexpr uint64_t kDefaultInputBytes = uint64_t{64} << 20;
constexpr uint64_t kRingBytes = (uint64_t{4} << 20) + 4096;
constexpr uint32_t kNobodyUid = 65534;
// What other programs of the machine may add meanwhile; a ring left behind would be 16 times as
// much.
constexpr uint64_t kShmemNoiseBytes = uint64_t{256} * 1024;

struct Settings {
  std::string iobd;
  std::string file;
};

// A directory of our own, gone when the demo is.
class Workspace {
 public:
  Workspace() {
    std::string name = (std::filesystem::temp_directory_path() / "iob-demo-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      std::perror("iob_demo: mkdtemp");
      std::exit(1);
    }
    path_ = name;
    // The reader of another uid passes through it to the sockets.
    ::chmod(path_.c_str(), 0755);
  }
  ~Workspace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// iobd on a private directory, with nothing configured but where.
class DaemonProcess {
 public:
  DaemonProcess(const std::string& iobd, const Workspace& workspace)
      : runtime_dir_(workspace / "run"), log_path_(workspace / "iobd.log") {
    pid_ =
        Spawn({iobd, "--runtime-dir", runtime_dir_, "--admin-address", "127.0.0.1:0", "--log-json"},
              log_path_);
  }
  ~DaemonProcess() {
    if (pid_ > 0) Stop();
  }

  // The admin address, once the daemon says that it started.
  absl::StatusOr<std::string> WaitUntilServing() {
    for (int i = 0; i < 500; ++i) {
      std::ifstream log(log_path_);
      std::string line;
      while (std::getline(log, line)) {
        if (!absl::StrContains(line, "\"event\":\"started\"")) continue;
        const std::vector<std::string> after = absl::StrSplit(line, "\"admin\":\"");
        if (after.size() == 2) return after[1].substr(0, after[1].find('"'));
      }
      ::usleep(10'000);
    }
    std::ifstream log(log_path_);
    return absl::UnavailableError(
        absl::StrCat("iobd did not start: ", std::string(std::istreambuf_iterator<char>(log), {})));
  }

  const std::string& runtime_dir() const { return runtime_dir_; }
  std::string Stop() {
    ::kill(pid_, SIGTERM);
    return WaitForEnd(std::exchange(pid_, -1));
  }

 private:
  std::string runtime_dir_;
  std::string log_path_;
  pid_t pid_ = -1;
};

// One child with a line channel each way.
class Party {
 public:
  template <typename Body>
  static Party Start(uint32_t uid, Body body) {
    Party party;
    Pipe to_child = Pipe::Make();
    Pipe from_child = Pipe::Make();
    party.pid_ = Fork(uid, [&] {
      to_child.writing.Close();
      from_child.reading.Close();
      return body(Channel{.in = to_child.reading.get(), .out = from_child.writing.get()});
    });
    party.to_ = std::move(to_child.writing);
    party.from_ = std::move(from_child.reading);
    return party;
  }
  absl::StatusOr<std::string> Hear(int seconds = 120) { return ReadLine(from_.get(), seconds); }
  void Tell(const std::string& line) { WriteLine(to_.get(), line); }
  void Kill() { ::kill(pid_, SIGKILL); }
  // Ends its input, which ends it, and reaps.
  std::string End() {
    to_.Close();
    return WaitForEnd(pid_);
  }

 private:
  pid_t pid_ = -1;
  shm::UniqueFd to_;
  shm::UniqueFd from_;
};

struct Run {
  ReaderReport reader;
  LedgerReport ledger;
  std::string metrics;
  std::string writer_said;  // "RECORDS BYTES LOST"; empty when it was killed.
  std::string writer_end;
  int64_t killed_ns = 0;
};

struct Stage {
  const DaemonProcess& daemon;
  std::string admin_address;
  const InputFile& input;
  uint32_t reader_uid;
};

absl::StatusOr<Run> RunOnce(const Stage& stage, const std::string& name,
                            const std::string& output_path, bool kill_the_writer) {
  const shm::UniqueFd output(
      ::open(output_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  Party creator = Party::Start(::geteuid(), [&](Channel channel) {
    return RunCreator(stage.daemon.runtime_dir(), name, kRingBytes, stage.reader_uid, channel);
  });
  IOB_ASSIGN_OR_RETURN(const std::string tickets, creator.Hear());
  const std::vector<std::string> words = absl::StrSplit(tickets, ' ');
  if (words.size() != 3) return absl::InternalError("the creator made no tickets");
  Party reader = Party::Start(stage.reader_uid, [&](Channel channel) {
    return RunReader(words[0], words[2], output.get(), channel);
  });
  IOB_RETURN_IF_ERROR(reader.Hear().status());
  Party writer = Party::Start(::geteuid(), [&](Channel channel) {
    return RunWriter(words[1], words[2], stage.input.bytes(), kill_the_writer, channel);
  });
  Run run;
  IOB_RETURN_IF_ERROR(writer.Hear().status());
  if (kill_the_writer) {
    // Somewhere in the middle.
    ::usleep(200'000);
    run.killed_ns = NowNs();
    writer.Kill();
  } else {
    IOB_ASSIGN_OR_RETURN(run.writer_said, writer.Hear());
  }
  run.writer_end = writer.End();
  IOB_ASSIGN_OR_RETURN(const std::string report, reader.Hear());
  IOB_ASSIGN_OR_RETURN(run.reader, ReaderReport::FromLine(report));
  creator.Tell("ledger");
  IOB_ASSIGN_OR_RETURN(const std::string ledger, creator.Hear());
  IOB_ASSIGN_OR_RETURN(run.ledger, LedgerReport::FromLine(ledger));
  IOB_ASSIGN_OR_RETURN(run.metrics, HttpGet(stage.admin_address, "/metrics"));
  reader.End();
  creator.End();
  return run;
}

// The value of a counter of this buffer's ring; the lines are shown as Prometheus would see them.
std::optional<uint64_t> MetricOf(const std::string& metrics, const std::string& family,
                                 const std::string& buffer) {
  const std::string start = absl::StrCat(family, "{buffer=\"", buffer, "\",region=\"0\"} ");
  const size_t at = metrics.find(start);
  if (at == std::string::npos) return std::nullopt;
  return std::strtoull(metrics.c_str() + at + start.size(), nullptr, 10);
}

void ShowRun(const std::string& title, const std::string& name, const Run& run, Show& show) {
  const double busy_seconds = static_cast<double>(std::max<int64_t>(run.reader.busy_ns, 1)) / 1e9;
  show.Row(title, "");
  show.Claim(run.reader.records == run.ledger.stored_records && run.ledger.resident_records == 0 &&
                 run.ledger.consumed_records == run.ledger.stored_records,
             "  records",
             absl::StrCat(HumanCount(run.reader.records), " read, ",
                          HumanCount(run.ledger.stored_records), " stored by the broker"));
  show.Claim(run.reader.bytes == run.ledger.stored_bytes, "  bytes",
             absl::StrCat(HumanBytes(static_cast<double>(run.reader.bytes)), " read and stored"));
  show.Row(
      "  throughput",
      absl::StrCat(HumanRate(static_cast<double>(run.reader.records) / busy_seconds, "records"),
                   ", ", HumanBytes(static_cast<double>(run.reader.bytes) / busy_seconds), "/s"));
  show.Row("  drops by cause", run.ledger.losses);
  show.Row("  enforcement, region 0", absl::StrCat("ep0 (reader) ", run.ledger.ep0_enforcement,
                                                   ", ep1 (writer) ", run.ledger.ep1_enforcement));
  for (const auto& [family, expected] :
       {std::pair{"iob_ring_stored_records_total", run.ledger.stored_records},
        std::pair{"iob_ring_consumed_records_total", run.reader.records},
        std::pair{"iob_ring_stored_bytes_total", run.reader.bytes}}) {
    const auto value = MetricOf(run.metrics, family, name);
    show.Claim(value == expected, "  /metrics",
               absl::StrCat(family, "{buffer=\"", name, "\",region=\"0\"} ",
                            value ? absl::StrCat(*value) : "missing"));
  }
}

// The second run streams the file over and over: what was rebuilt must be a prefix of that.
bool IsPrefixOfRepeats(const std::string& path, std::span<const std::byte> input) {
  const auto rebuilt = InputFile::Open(path);
  if (!rebuilt.ok()) return false;
  std::span<const std::byte> rest = rebuilt->bytes();
  while (!rest.empty()) {
    const size_t size = std::min(rest.size(), input.size());
    if (!std::equal(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size), input.begin()))
      return false;
    rest = rest.subspan(size);
  }
  return true;
}

absl::StatusOr<std::string> ChooseInput(const Settings& settings, const Workspace& workspace,
                                        Show& show) {
  if (!settings.file.empty()) {
    show.Step(absl::StrCat("input: ", settings.file));
    return settings.file;
  }
  const std::string path = workspace / "input";
  IOB_ASSIGN_OR_RETURN(const std::string source, MakeInputFromLog(path, kDefaultInputBytes));
  show.Step(absl::StrCat("input: ", source, ", repeated to ",
                         HumanBytes(static_cast<double>(kDefaultInputBytes)),
                         " (name a FILE to use your own)"));
  return path;
}

// The kernel frees the last pages a moment after the last process is gone.
uint64_t ShmemOnceBackTo(uint64_t before) {
  uint64_t now = ShmemBytes();
  for (int i = 0; i < 200 && now > before; ++i) {
    ::usleep(10'000);
    now = ShmemBytes();
  }
  return now;
}

absl::Status Demo(const Settings& settings, Show& show) {
  const Workspace workspace;
  IOB_ASSIGN_OR_RETURN(const std::string input_path, ChooseInput(settings, workspace, show));
  IOB_ASSIGN_OR_RETURN(const InputFile input, InputFile::Open(input_path));
  const uint64_t shmem_before = ShmemBytes();

  DaemonProcess daemon(settings.iobd, workspace);
  IOB_ASSIGN_OR_RETURN(const std::string admin_address, daemon.WaitUntilServing());
  show.Step(absl::StrCat("iobd serves in ", daemon.runtime_dir(), ", figures on http://",
                         admin_address, "/metrics"));
  const uint32_t reader_uid = ::geteuid() == 0 ? kNobodyUid : ::geteuid();
  const Stage stage{
      .daemon = daemon, .admin_address = admin_address, .input = input, .reader_uid = reader_uid};

  show.Step(
      absl::StrCat("first run: a creator makes a buffer with a ring of 4 MiB; a reader of uid ",
                   reader_uid, " maps it; a writer that may map nothing streams the file"));
  const std::string first_output = workspace / "rebuilt";
  IOB_ASSIGN_OR_RETURN(const Run first,
                       RunOnce(stage, "demo-first", first_output, /*kill_the_writer=*/false));
  show.Step("second run: the same, and the writer is killed with SIGKILL in the middle");
  const std::string second_output = workspace / "rebuilt-until-killed";
  IOB_ASSIGN_OR_RETURN(const Run second,
                       RunOnce(stage, "demo-second", second_output, /*kill_the_writer=*/true));
  show.Step("iobd is told to stop");
  const std::string daemon_end = daemon.Stop();
  const uint64_t shmem_after = ShmemOnceBackTo(shmem_before);

  ShowRun("first run", "demo-first", first, show);
  show.Claim(first.reader.reason == "closed", "  the reader was told",
             absl::StrCat("PEER_CLOSED, ", first.reader.reason));
  const std::string sent_hash = Sha256Of(input_path);
  const std::string rebuilt_hash = Sha256Of(first_output);
  show.Row("  SHA-256 of the file", sent_hash);
  show.Claim(sent_hash == rebuilt_hash, "  SHA-256 as rebuilt", rebuilt_hash);
  ShowRun("second run", "demo-second", second, show);
  show.Claim(second.writer_end == "signal 9" && second.reader.reason == "killed(9)",
             "  the reader was told", absl::StrCat("PEER_CLOSED, ", second.reader.reason));
  show.Row("  from SIGKILL to that word",
           absl::StrFormat("%.2f ms",
                           static_cast<double>(second.reader.closed_ns - second.killed_ns) / 1e6));
  show.Claim(IsPrefixOfRepeats(second_output, input.bytes()), "  rebuilt until then",
             "byte for byte what was sent, up to the last committed record");
  show.Row("left behind", "");
  show.Claim(daemon_end == "exit 0", "  iobd", absl::StrCat("stopped with ", daemon_end));
  show.Claim(!std::filesystem::exists(daemon.runtime_dir()), "  runtime directory", "gone");
  show.Claim(shmem_after <= shmem_before + kShmemNoiseBytes, "  shared memory of the machine",
             absl::StrCat(HumanBytes(static_cast<double>(shmem_before)), " before, ",
                          HumanBytes(static_cast<double>(shmem_after)), " after"));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app("iob_demo: iob's main job on a real file, with a reader, a writer and a kill",
               "iob_demo");
  app.add_option("--iobd", settings.iobd, "The daemon's binary")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_option("--file", settings.file, "What to stream; default: a log file of this machine");
  CLI11_PARSE(app, argc, argv);
  Show show;
  if (const absl::Status status = Demo(settings, show); !status.ok()) {
    std::fprintf(stderr, "iob_demo: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return show.Finish() ? 0 : 1;
}

}  // namespace
}  // namespace iob::demo

int main(int argc, char** argv) { return iob::demo::Main(argc, argv); }
