// iobctl write: records from stdin into a ring.
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/attach.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/progress.h"
#include "client/iobctl/record_splitter.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr size_t kChunkBytes = size_t{256} << 10;
constexpr int kLookEveryMs = 200;

struct WriteFlags {
  AttachFlags attach;
  uint64_t record_bytes = 0;
  bool length_prefixed = false;
  bool keep_newlines = false;
  std::string wait_text = "5s";
  bool quiet = false;
};

Framing FramingOf(const WriteFlags& flags) {
  if (flags.record_bytes != 0) return Framing::kFixed;
  if (flags.length_prefixed) return Framing::kLengthPrefixed;
  return flags.keep_newlines ? Framing::kWholeLines : Framing::kLines;
}

uint64_t InputBytes() {
  struct stat status = {};
  const bool file = ::fstat(STDIN_FILENO, &status) == 0 && S_ISREG(status.st_mode);
  return file ? static_cast<uint64_t>(status.st_size) : 0;
}

// Moves stdin into the ring until it ends, somebody stops it, or the reader is gone.
class Pipe {
 public:
  Pipe(Endpoint* endpoint, RingWriter* writer, const WriteFlags& flags, bool show_progress)
      : endpoint_(endpoint),
        writer_(writer),
        splitter_(FramingOf(flags), static_cast<size_t>(flags.record_bytes)),
        progress_(show_progress, InputBytes()),
        chunk_(kChunkBytes) {}

  absl::Status Run();

 private:
  // The bytes read; 0 at the end or when told to stop.
  absl::StatusOr<size_t> ReadChunk();
  absl::Status CheckPeer() const;
  absl::Status Emit(std::string_view record) {
    return writer_->Write(std::as_bytes(std::span(record)));
  }

  Endpoint* endpoint_;
  RingWriter* writer_;
  RecordSplitter splitter_;
  Progress progress_;
  std::vector<char> chunk_;
};

absl::Status Pipe::CheckPeer() const {
  if (!endpoint_->peer_closed()) return absl::OkStatus();
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("the reader is gone: ", ToString(endpoint_->close_reason()))),
                    "PEER_CLOSED");
}

absl::StatusOr<size_t> Pipe::ReadChunk() {
  while (!StopRequested()) {
    IOB_RETURN_IF_ERROR(CheckPeer());
    std::array<pollfd, 2> files = {pollfd{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                                   pollfd{.fd = writer_->fd(), .events = POLLIN, .revents = 0}};
    const int ready = ::poll(files.data(), files.size(), kLookEveryMs);
    if (ready < 0 && errno != EINTR) return shm::ErrnoStatus(errno, "poll of stdin");
    IOB_RETURN_IF_ERROR(writer_->Poll());
    if (ready <= 0 || files[0].revents == 0) continue;
    const ssize_t size = ::read(STDIN_FILENO, chunk_.data(), chunk_.size());
    if (size >= 0) return static_cast<size_t>(size);
    if (errno != EINTR && errno != EAGAIN) return shm::ErrnoStatus(errno, "read of stdin");
  }
  return size_t{0};
}

absl::Status Pipe::Run() {
  const RecordSplitter::Emit emit = [this](std::string_view record) { return Emit(record); };
  while (true) {
    IOB_ASSIGN_OR_RETURN(const size_t size, ReadChunk());
    if (size == 0) break;
    IOB_RETURN_IF_ERROR(splitter_.Feed({chunk_.data(), size}, emit));
    // A short read: the input pauses, so what there is should not wait for company.
    if (size < chunk_.size()) IOB_RETURN_IF_ERROR(writer_->Flush());
    const WriterStats& stats = writer_->stats();
    progress_.Update(stats.attempted_records, stats.attempted_bytes, stats.lost_records());
  }
  if (StopRequested()) return absl::OkStatus();
  return splitter_.End(emit);
}

// Waits for the answers as long as some still come.
absl::Status FinishAll(RingWriter* writer, std::chrono::milliseconds patience) {
  while (true) {
    const uint64_t pending = writer->stats().pending_records();
    const absl::Status finished = writer->Finish(After(patience));
    if (!absl::IsDeadlineExceeded(finished)) return finished;
    if (writer->stats().pending_records() == pending) return finished;
  }
}

std::string DescribeLosses(const WriterStats& stats) {
  std::string text;
  for (size_t i = 0; i < stats.rejected_records.size(); ++i) {
    if (stats.rejected_records[i] == 0) continue;
    absl::StrAppend(&text, text.empty() ? "; lost " : ", ", FormatCount(stats.rejected_records[i]),
                    " (", ToString(static_cast<LossCause>(i)), ")");
  }
  if (stats.pending_records() != 0) {
    absl::StrAppend(&text, "; fate of ", FormatCount(stats.pending_records()), " not known");
  }
  return text;
}

void ReportStats(const Globals& globals, bool quiet, const WriterStats& stats,
                 std::chrono::nanoseconds elapsed) {
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("attempted_records", stats.attempted_records);
    json.Member("attempted_bytes", stats.attempted_bytes);
    json.Member("stored_records", stats.stored_records);
    json.Member("stored_bytes", stats.stored_bytes);
    json.Member("lost_records", stats.lost_records());
    json.Member("lost_bytes", stats.lost_bytes());
    json.Member("unknown_records", stats.pending_records());
    json.BeginObject("rejected");
    for (size_t i = 0; i < stats.rejected_records.size(); ++i) {
      if (stats.rejected_records[i] == 0) continue;
      json.BeginObject(ToString(static_cast<LossCause>(i)));
      json.Member("records", stats.rejected_records[i]);
      json.Member("bytes", stats.rejected_bytes[i]);
      json.EndObject();
    }
    json.EndObject();
    json.Member("elapsed_ns", int64_t{elapsed.count()});
    json.EndObject();
    PrintLine(json.text());
  } else if (!quiet || stats.lost_records() != 0 || stats.pending_records() != 0) {
    std::fprintf(stderr, "stored %s%s\n",
                 Throughput(stats.stored_records, stats.stored_bytes, elapsed).c_str(),
                 DescribeLosses(stats).c_str());
  }
}

absl::StatusOr<int> Write(const Globals& globals, const WriteFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  const absl::StatusOr<std::chrono::milliseconds> wait = ParseDuration(flags.wait_text);
  if (!wait.ok()) return UsageError("--wait", wait.status());
  if (flags.record_bytes > kRecordPayloadBytesMax) {
    return UsageError("--record-bytes",
                      absl::InvalidArgumentError(absl::StrCat("at most ", kRecordPayloadBytesMax)));
  }
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Endpoint endpoint, AttachAs(globals, flags.attach));
  IOB_ASSIGN_OR_RETURN(const uint32_t region_index,
                       ChooseRing(endpoint, flags.attach,
                                  [](RegionRights rights) { return rights.mediated_write(); }));
  IOB_ASSIGN_OR_RETURN(
      RingWriter writer,
      endpoint.OpenWriter(region_index, {.wait = *wait, .stall_timeout = timeout}));
  const auto start = std::chrono::steady_clock::now();
  // Its progress line is gone before the report.
  absl::Status result = Pipe(&endpoint, &writer, flags, !globals.json && !flags.quiet).Run();
  const absl::Status finished = FinishAll(&writer, timeout + *wait);
  if (result.ok()) result = finished;
  ReportStats(globals, flags.quiet, writer.stats(), std::chrono::steady_clock::now() - start);
  const bool lost = writer.stats().lost_records() != 0;
  if (!result.ok() && !lost) return result;
  if (!result.ok()) ReportError(result, globals);
  if (lost) return kExitRecordsLost;
  return StopRequested() ? kExitInterrupted : kExitOk;
}

}  // namespace

void AddWrite(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand(
      "write", "Write stdin into a ring, a record per line unless told otherwise");
  auto flags = std::make_shared<WriteFlags>();
  AddAttachOptions(command, "ep1", &flags->attach);
  CLI::Option* const fixed =
      command->add_option("--record-bytes", flags->record_bytes, "Records of N bytes, 1 to 65519")
          ->type_name("N")
          ->check(CLI::PositiveNumber);
  CLI::Option* const prefixed =
      command->add_flag("--length-prefixed", flags->length_prefixed,
                        "Each record behind its length, u32 little-endian");
  CLI::Option* const whole =
      command->add_flag("--keep-newlines", flags->keep_newlines, "Lines with their newline");
  fixed->excludes(prefixed)->excludes(whole);
  prefixed->excludes(whole);
  command
      ->add_option("--wait", flags->wait_text,
                   "How long a batch waits for room before its records are dropped; 0: not at all")
      ->type_name("TIME")
      ->capture_default_str();
  command->add_flag("-q,--quiet", flags->quiet, "Say nothing when all is well");
  command->footer(
      "Example:\n"
      "  journalctl -f | iobctl write logs\n"
      "  iobctl write frames --record-bytes 4096 --wait 0 < video.raw\n"
      "Exit code 4 when records were lost; the last line says how many and why.");
  command->callback([=] { *selected = [=] { return Write(*globals, *flags); }; });
}

}  // namespace iob::ctl
