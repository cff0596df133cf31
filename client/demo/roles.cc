#include "client/demo/roles.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/demo/machine.h"
#include "client/iob.h"
#include "shm/result.h"

namespace iob::demo {
namespace {

using std::chrono::seconds;

// A record is a line, newline included, or a piece of this size of what has no lines.
constexpr size_t kPieceBytesMax = size_t{32} * 1024;
constexpr size_t kDrainRecords = 4096;
constexpr size_t kOutputBytes = 1 << 20;

int Fail(const char* role, const absl::Status& status) {
  std::fprintf(stderr, "iob_demo %s: %s\n", role, status.ToString().c_str());
  return 1;
}

template <typename Number>
absl::Status Parse(const std::string& text, Number* number) {
  if (absl::SimpleAtoi(text, number)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("not a number: ", text));
}

absl::StatusOr<std::vector<std::string>> Words(const std::string& line, size_t count) {
  std::vector<std::string> words = absl::StrSplit(line, ' ');
  if (words.size() == count) return words;
  return absl::InternalError(absl::StrCat("another process of the demo said: ", line));
}

std::span<const std::byte> NextPiece(std::span<const std::byte> rest) {
  const size_t longest = std::min(rest.size(), kPieceBytesMax);
  const auto newline =
      std::find(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(longest), std::byte{'\n'});
  const size_t line = static_cast<size_t>(newline - rest.begin()) + 1;
  return rest.first(std::min(line, longest));
}

std::string LossesOf(const RingStats& ring) {
  std::vector<std::string> losses;
  for (const LossCount& loss : ring.rejected)
    losses.push_back(absl::StrCat(ToString(loss.cause), "=", loss.records));
  return losses.empty() ? "none" : absl::StrJoin(losses, ",");
}

absl::StatusOr<LedgerReport> Ledger(Broker& broker, const std::string& name) {
  IOB_ASSIGN_OR_RETURN(const BufferStats stats, broker.GetStats(name));
  IOB_ASSIGN_OR_RETURN(const BufferInfo info, broker.GetBuffer(name));
  const RingStats& ring = stats.rings.at(0);
  return LedgerReport{.attempted_records = ring.attempted_records,
                      .stored_records = ring.stored_records,
                      .stored_bytes = ring.stored_bytes,
                      .consumed_records = ring.consumed_records,
                      .resident_records = ring.resident_records,
                      .losses = LossesOf(ring),
                      .ep0_enforcement = ToString(info.regions.at(0).ep0_enforcement),
                      .ep1_enforcement = ToString(info.regions.at(0).ep1_enforcement)};
}

absl::Status Create(Broker& broker, const std::string& name, uint64_t ring_bytes,
                    uint32_t reader_uid, int out) {
  IOB_ASSIGN_OR_RETURN(
      const CreatedBuffer created,
      broker.CreateBuffer({.name = name, .regions = {MediatedRingSpec(ring_bytes)}}));
  IOB_ASSIGN_OR_RETURN(const Ticket reader, broker.Attach(*created.ep0_handle, reader_uid));
  IOB_ASSIGN_OR_RETURN(const Ticket writer, broker.Attach(*created.ep1_handle));
  WriteLine(out, absl::StrCat(reader.ToHex(), " ", writer.ToHex(), " ", reader.socket_path()));
  return absl::OkStatus();
}

// Writes in large pieces: the demo measures iob, not write(2).
class Output {
 public:
  explicit Output(int fd) : fd_(fd) { pending_.reserve(kOutputBytes); }
  void Append(std::span<const std::byte> bytes) {
    pending_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (pending_.size() >= kOutputBytes) Flush();
  }
  void Flush() {
    size_t done = 0;
    while (done < pending_.size()) {
      const ssize_t size = ::write(fd_, pending_.data() + done, pending_.size() - done);
      if (size <= 0) break;
      done += static_cast<size_t>(size);
    }
    pending_.clear();
  }

 private:
  int fd_;
  std::string pending_;
};

absl::StatusOr<ReaderReport> DrainAll(Endpoint& endpoint, int output_fd) {
  IOB_ASSIGN_OR_RETURN(RingReader reader, endpoint.OpenReader(0));
  Output output(output_fd);
  ReaderReport report;
  report.enforcement = ToString(endpoint.info().regions.at(0).enforcement);
  int64_t first_ns = 0;
  int64_t last_ns = 0;
  while (true) {
    IOB_ASSIGN_OR_RETURN(const WaitOutcome outcome, reader.Wait(After(seconds(60))));
    if (outcome == WaitOutcome::kDeadline)
      return absl::DeadlineExceededError("no record for a minute");
    if (outcome == WaitOutcome::kPeerClosed) break;
    if (first_ns == 0) first_ns = NowNs();
    IOB_ASSIGN_OR_RETURN(const size_t count,
                         reader.Drain(kDrainRecords, [&](const RecordView& record) {
                           output.Append(record.payload);
                           report.bytes += record.payload.size();
                         }));
    report.records += count;
    last_ns = NowNs();
  }
  report.closed_ns = NowNs();
  report.busy_ns = last_ns - first_ns;
  report.reason = ToString(endpoint.close_reason());
  output.Flush();
  return report;
}

}  // namespace

std::string ReaderReport::ToLine() const {
  return absl::StrCat(records, " ", bytes, " ", reason, " ", closed_ns, " ", busy_ns, " ",
                      enforcement);
}

absl::StatusOr<ReaderReport> ReaderReport::FromLine(const std::string& line) {
  IOB_ASSIGN_OR_RETURN(const std::vector<std::string> words, Words(line, 6));
  ReaderReport report{.records = 0, .bytes = 0, .reason = words[2], .enforcement = words[5]};
  IOB_RETURN_IF_ERROR(Parse(words[0], &report.records));
  IOB_RETURN_IF_ERROR(Parse(words[1], &report.bytes));
  IOB_RETURN_IF_ERROR(Parse(words[3], &report.closed_ns));
  IOB_RETURN_IF_ERROR(Parse(words[4], &report.busy_ns));
  return report;
}

std::string LedgerReport::ToLine() const {
  return absl::StrCat(attempted_records, " ", stored_records, " ", stored_bytes, " ",
                      consumed_records, " ", resident_records, " ", losses, " ", ep0_enforcement,
                      " ", ep1_enforcement);
}

absl::StatusOr<LedgerReport> LedgerReport::FromLine(const std::string& line) {
  IOB_ASSIGN_OR_RETURN(const std::vector<std::string> words, Words(line, 8));
  LedgerReport report;
  IOB_RETURN_IF_ERROR(Parse(words[0], &report.attempted_records));
  IOB_RETURN_IF_ERROR(Parse(words[1], &report.stored_records));
  IOB_RETURN_IF_ERROR(Parse(words[2], &report.stored_bytes));
  IOB_RETURN_IF_ERROR(Parse(words[3], &report.consumed_records));
  IOB_RETURN_IF_ERROR(Parse(words[4], &report.resident_records));
  report.losses = words[5];
  report.ep0_enforcement = words[6];
  report.ep1_enforcement = words[7];
  return report;
}

int RunCreator(const std::string& runtime_dir, const std::string& buffer_name, uint64_t ring_bytes,
               uint32_t reader_uid, Channel channel) {
  auto broker = Broker::Connect({.runtime_dir = runtime_dir});
  if (!broker.ok()) return Fail("creator", broker.status());
  const absl::Status created = Create(*broker, buffer_name, ring_bytes, reader_uid, channel.out);
  if (!created.ok()) return Fail("creator", created);
  while (ReadLine(channel.in, 600).ok()) {
    const auto ledger = Ledger(*broker, buffer_name);
    if (!ledger.ok()) return Fail("creator", ledger.status());
    WriteLine(channel.out, ledger->ToLine());
  }
  return 0;
}

int RunWriter(const std::string& ticket_hex, const std::string& socket_path,
              std::span<const std::byte> input, bool for_ever, Channel channel) {
  const auto ticket = Ticket::FromHex(ticket_hex, EndpointId::kEp1, socket_path);
  if (!ticket.ok()) return Fail("writer", ticket.status());
  auto endpoint = Endpoint::Attach(*ticket);
  if (!endpoint.ok()) return Fail("writer", endpoint.status());
  auto writer = endpoint->OpenWriter(0, {.wait = seconds(30)});
  if (!writer.ok()) return Fail("writer", writer.status());
  bool announced = false;
  do {
    for (std::span<const std::byte> rest = input; !rest.empty();) {
      const std::span<const std::byte> piece = NextPiece(rest);
      if (const absl::Status written = writer->Write(piece); !written.ok())
        return Fail("writer", written);
      rest = rest.subspan(piece.size());
      if (!announced && writer->stats().stored_records > 0) {
        WriteLine(channel.out, "streaming");
        announced = true;
      }
    }
  } while (for_ever);
  if (const absl::Status done = writer->Finish(After(seconds(60))); !done.ok())
    return Fail("writer", done);
  if (!announced) WriteLine(channel.out, "streaming");
  const WriterStats& stats = writer->stats();
  WriteLine(channel.out,
            absl::StrCat(stats.stored_records, " ", stats.stored_bytes, " ", stats.lost_records()));
  return 0;
}

int RunReader(const std::string& ticket_hex, const std::string& socket_path, int output,
              Channel channel) {
  const auto ticket = Ticket::FromHex(ticket_hex, EndpointId::kEp0, socket_path);
  if (!ticket.ok()) return Fail("reader", ticket.status());
  auto endpoint = Endpoint::Attach(*ticket);
  if (!endpoint.ok()) return Fail("reader", endpoint.status());
  WriteLine(channel.out, "attached");
  const auto report = DrainAll(*endpoint, output);
  if (!report.ok()) return Fail("reader", report.status());
  WriteLine(channel.out, report->ToLine());
  // Held open, so that the buffer can still be looked at.
  ReadLine(channel.in, 600).status().IgnoreError();
  return 0;
}

}  // namespace iob::demo
