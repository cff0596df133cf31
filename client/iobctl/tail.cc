// iobctl tail: consumes a ring and prints its records.
//
// A record is given back to the writer only after it was written out: what a broken pipe or a full
// disk kept from being printed stays in the ring.
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/attach.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/output.h"
#include "client/iobctl/progress.h"
#include "client/iobctl/record_format.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::chrono::milliseconds kLookEvery{250};
constexpr size_t kOutputBytes = size_t{1} << 20;

struct TailFlags {
  AttachFlags attach;
  bool follow = false;
  bool raw = false;
  std::string format = "text";
  uint64_t count = 0;  // 0: no limit.
  bool quiet = false;
};

// Died: anything but letting go, being removed, or exiting with 0.
bool DiedBadly(const CloseReason& reason) {
  return reason.kind == CloseKind::kKilled || reason.kind == CloseKind::kDied ||
         (reason.kind == CloseKind::kExited && reason.code != 0);
}

enum class TailEnd { kDrained, kCount, kStopped, kPeerClosed, kPipeClosed };

class Tail {
 public:
  Tail(RingReader* reader, const TailFlags& flags, RecordFormat format, bool show_progress)
      : reader_(reader), flags_(flags), formatter_(format), progress_(show_progress, 0) {}

  absl::StatusOr<TailEnd> Run();
  uint64_t records() const { return records_; }
  uint64_t bytes() const { return bytes_; }

 private:
  // Prints what is there, then gives it back. False when nobody takes the output any more.
  absl::StatusOr<bool> PrintBatch();
  bool enough() const { return flags_.count != 0 && records_ == flags_.count; }

  RingReader* reader_;
  const TailFlags& flags_;
  RecordFormatter formatter_;
  Progress progress_;
  std::string output_;
  uint64_t records_ = 0;
  uint64_t bytes_ = 0;
};

absl::StatusOr<bool> Tail::PrintBatch() {
  RecordView record;
  ReadOutcome outcome = ReadOutcome::kEmpty;
  while (output_.size() < kOutputBytes && !enough() &&
         (outcome = reader_->Next(&record)) == ReadOutcome::kRecord) {
    formatter_.Append(record, &output_);
    records_ += 1;
    bytes_ += record.payload.size();
  }
  IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(output_));
  if (!written) return false;
  output_.clear();
  reader_->Release();
  if (outcome == ReadOutcome::kPoisoned) return reader_->status();
  progress_.Update(records_, bytes_, 0);
  return true;
}

absl::StatusOr<TailEnd> Tail::Run() {
  while (true) {
    if (enough()) return TailEnd::kCount;
    if (StopRequested()) return TailEnd::kStopped;
    const Deadline deadline = flags_.follow ? After(kLookEvery) : Deadline();
    IOB_ASSIGN_OR_RETURN(const WaitOutcome outcome, reader_->Wait(deadline));
    switch (outcome) {
      case WaitOutcome::kPeerClosed:
        return TailEnd::kPeerClosed;
      case WaitOutcome::kDeadline:
        if (!flags_.follow) return TailEnd::kDrained;
        break;
      case WaitOutcome::kRecords: {
        IOB_ASSIGN_OR_RETURN(const bool written, PrintBatch());
        if (!written) return TailEnd::kPipeClosed;
        break;
      }
    }
  }
}

void ReportEnd(const Globals& globals, const Endpoint& endpoint, const RingReader& reader,
               const std::string& throughput, TailEnd end) {
  const uint64_t lost = reader.ledger().rejected_records;
  if (globals.json) {
    JsonWriter json;
    json.BeginObject();
    json.Member("event", end == TailEnd::kPeerClosed ? "peer_closed" : "end");
    if (end == TailEnd::kPeerClosed) AddCloseReason(endpoint.close_reason(), &json);
    json.Member("stored_records", reader.ledger().stored_records);
    json.Member("lost_records", lost);
    json.EndObject();
    PrintLine(json.text());
    return;
  }
  std::string line = absl::StrCat("read ", throughput);
  if (lost != 0) {
    absl::StrAppend(&line, "; ", FormatCount(lost), " never entered the ring (see iobctl stat)");
  }
  if (end == TailEnd::kPeerClosed) {
    absl::StrAppend(&line, "; PEER_CLOSED, ", ToString(endpoint.close_reason()));
  }
  std::fprintf(stderr, "%s\n", line.c_str());
}

absl::StatusOr<int> RunTail(const Globals& globals, const TailFlags& flags) {
  std::optional<RecordFormat> format = ParseRecordFormat(flags.format);
  if (!format) {
    return UsageError("--format",
                      absl::InvalidArgumentError(absl::StrCat(
                          "'", flags.format, "' is not one of text, json, raw, length-prefixed")));
  }
  if (globals.json) format = RecordFormat::kJson;
  if (flags.raw) format = RecordFormat::kRaw;
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(Endpoint endpoint, AttachAs(globals, flags.attach));
  IOB_ASSIGN_OR_RETURN(const uint32_t region_index,
                       ChooseRing(endpoint, flags.attach, [](RegionRights rights) {
                         return rights.map_read() && rights.map_write();
                       }));
  if (endpoint.info().regions[region_index].placement.sensitive) {
    return WithReason(
        absl::PermissionDeniedError(absl::StrCat(
            "region ", region_index,
            " is sensitive: its records are not printed; a program of yours can read them")),
        "ACCESS_DENIED");
  }
  IOB_ASSIGN_OR_RETURN(RingReader reader, endpoint.OpenReader(region_index));
  const auto start = std::chrono::steady_clock::now();
  const bool show_progress = !flags.quiet && ::isatty(STDOUT_FILENO) == 0;
  absl::StatusOr<TailEnd> end = TailEnd::kDrained;
  std::string throughput;
  {
    // Its progress line is gone before the report.
    Tail tail(&reader, flags, *format, show_progress);
    end = tail.Run();
    throughput = Throughput(tail.records(), tail.bytes(), std::chrono::steady_clock::now() - start);
  }
  IOB_RETURN_IF_ERROR(end.status());
  const bool peer_closed = *end == TailEnd::kPeerClosed;
  if (!flags.quiet && *end != TailEnd::kPipeClosed && (flags.follow || peer_closed)) {
    ReportEnd(globals, endpoint, reader, throughput, *end);
  }
  const bool died = peer_closed && DiedBadly(endpoint.close_reason());
  return flags.follow && died ? kExitPeerDied : kExitOk;
}

}  // namespace

void AddTail(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command =
      app->add_subcommand("tail", "Consume a ring and print its records; what was read is gone");
  auto flags = std::make_shared<TailFlags>();
  AddAttachOptions(command, "ep0", &flags->attach);
  command->add_flag("-f,--follow", flags->follow, "Wait for more, until the writer is gone");
  command->add_option("--format", flags->format, "text, json, raw or length-prefixed")
      ->capture_default_str();
  command->add_flag("--raw", flags->raw, "The same as --format raw: payloads, nothing between");
  command->add_option("-n,--count", flags->count, "Stop after N records")->type_name("N");
  command->add_flag("-q,--quiet", flags->quiet, "No last line about the end");
  command->footer(
      "Example:\n"
      "  iobctl tail logs --follow\n"
      "  iobctl tail frames --follow --raw > video.raw\n"
      "  iobctl tail logs --format json | jq -r .data\n"
      "Exit code 3 with --follow when the writer was killed, crashed, or exited with an error.");
  command->callback([=] { *selected = [=] { return RunTail(*globals, *flags); }; });
}

}  // namespace iob::ctl
