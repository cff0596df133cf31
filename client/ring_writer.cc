#include "client/ring_writer.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/connection.h"
#include "client/internal/write_batch.h"
#include "shm/result.h"

namespace iob {
namespace {

constexpr std::chrono::milliseconds kWaitMax{60'000};

uint32_t WaitMs(const RingWriterOptions& options) {
  return static_cast<uint32_t>(
      std::clamp(options.wait, std::chrono::milliseconds(0), kWaitMax).count());
}

}  // namespace

uint64_t WriterStats::lost_records() const {
  return std::accumulate(rejected_records.begin(), rejected_records.end(), uint64_t{0});
}
uint64_t WriterStats::lost_bytes() const {
  return std::accumulate(rejected_bytes.begin(), rejected_bytes.end(), uint64_t{0});
}
uint64_t WriterStats::pending_records() const {
  return attempted_records - stored_records - lost_records();
}

// The lengths of each batch's records are kept until its answer, so that bytes are exact too.
class RingWriter::Impl : public ResultSink, public std::enable_shared_from_this<Impl> {
 public:
  Impl(uint32_t region_index, const RingWriterOptions& options,
       std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)),
        encoder_(region_index, WaitMs(options)),
        stall_(std::chrono::milliseconds(WaitMs(options)) + options.stall_timeout) {}

  Connection& connection() { return *connection_; }
  const WriterStats& stats() const { return stats_; }

  absl::Status WriteParts(std::span<const std::span<const std::byte>> parts, size_t payload_bytes);
  absl::Status Flush(Deadline deadline);
  absl::Status Finish(Deadline deadline);
  absl::Status Acknowledge(uint64_t stored, std::span<const BatchLoss> lost) override;
  Deadline StallDeadline() const { return After(stall_); }

 private:
  absl::Status CheckAnswer(size_t records, uint64_t stored, std::span<const BatchLoss> lost) const;
  void Note(size_t payload_bytes);

  std::shared_ptr<Connection> connection_;
  WriteBatchEncoder encoder_;
  std::chrono::milliseconds stall_;
  WriterStats stats_;
  std::vector<uint32_t> buffered_;  // Lengths of the records in the encoder.
  // Lengths of the records in each unanswered batch, oldest first, as a ring whose vectors keep
  // their capacity.
  std::array<std::vector<uint32_t>, Connection::kWindow> unanswered_;
  size_t unanswered_first_ = 0;
  size_t unanswered_count_ = 0;
};

absl::Status RingWriter::Impl::WriteParts(std::span<const std::span<const std::byte>> parts,
                                          size_t payload_bytes) {
  if (payload_bytes > kRecordPayloadBytesMax) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("a record of ", payload_bytes, " bytes; at most ",
                                                kRecordPayloadBytesMax)),
        "INVALID_ARGUMENT");
  }
  IOB_RETURN_IF_ERROR(connection_->status());
  if (!encoder_.TryAdd(parts, payload_bytes)) {
    IOB_RETURN_IF_ERROR(Flush(StallDeadline()));
    // An empty batch has room for every record within the limit.
    encoder_.TryAdd(parts, payload_bytes);
  }
  Note(payload_bytes);
  return absl::OkStatus();
}

void RingWriter::Impl::Note(size_t payload_bytes) {
  buffered_.push_back(static_cast<uint32_t>(payload_bytes));
  stats_.attempted_records += 1;
  stats_.attempted_bytes += payload_bytes;
}

absl::Status RingWriter::Impl::Flush(Deadline deadline) {
  if (encoder_.empty()) return connection_->status();
  IOB_RETURN_IF_ERROR(connection_->SendBatch(encoder_.Packet(), shared_from_this(), deadline));
  const size_t slot = (unanswered_first_ + unanswered_count_) % Connection::kWindow;
  unanswered_[slot].swap(buffered_);
  unanswered_count_ += 1;
  buffered_.clear();
  encoder_.Clear();
  return absl::OkStatus();
}

absl::Status RingWriter::Impl::Finish(Deadline deadline) {
  IOB_RETURN_IF_ERROR(Flush(deadline));
  while (unanswered_count_ != 0) IOB_RETURN_IF_ERROR(connection_->PumpBy(deadline));
  return absl::OkStatus();
}

absl::Status RingWriter::Impl::CheckAnswer(size_t records, uint64_t stored,
                                           std::span<const BatchLoss> lost) const {
  uint64_t lost_records = 0;
  uint64_t next_index = 0;
  for (const BatchLoss& loss : lost) {
    // In this order, no sum of claimed values can overflow.
    if (loss.count == 0 || loss.first_index < next_index || loss.first_index >= records ||
        loss.count > records - loss.first_index) {
      return ProtocolError(absl::StrCat("losses from ", loss.first_index, ", ", loss.count,
                                        " in a row, in a batch of ", records));
    }
    next_index = uint64_t{loss.first_index} + loss.count;
    lost_records += loss.count;
  }
  if (stored != records - lost_records) {
    return ProtocolError(
        absl::StrCat(stored, " stored and ", lost_records, " lost of a batch of ", records));
  }
  return absl::OkStatus();
}

absl::Status RingWriter::Impl::Acknowledge(uint64_t stored, std::span<const BatchLoss> lost) {
  std::vector<uint32_t>& lengths = unanswered_[unanswered_first_];
  IOB_RETURN_IF_ERROR(CheckAnswer(lengths.size(), stored, lost));
  uint64_t stored_bytes = std::accumulate(lengths.begin(), lengths.end(), uint64_t{0});
  for (const BatchLoss& loss : lost) {
    const auto first = lengths.begin() + loss.first_index;
    const uint64_t bytes = std::accumulate(first, first + loss.count, uint64_t{0});
    stats_.rejected_records[static_cast<size_t>(loss.cause)] += loss.count;
    stats_.rejected_bytes[static_cast<size_t>(loss.cause)] += bytes;
    stored_bytes -= bytes;
  }
  stats_.stored_records += stored;
  stats_.stored_bytes += stored_bytes;
  lengths.clear();
  unanswered_first_ = (unanswered_first_ + 1) % Connection::kWindow;
  unanswered_count_ -= 1;
  return absl::OkStatus();
}

RingWriter::RingWriter(uint32_t region_index, const RingWriterOptions& options,
                       std::shared_ptr<Connection> connection)
    : impl_(std::make_shared<Impl>(region_index, options, std::move(connection))) {}

RingWriter::RingWriter(RingWriter&& other) noexcept = default;
RingWriter& RingWriter::operator=(RingWriter&& other) noexcept = default;

RingWriter::~RingWriter() {
  // A failure is one that Finish would have told.
  if (impl_ != nullptr) impl_->Flush(Deadline()).IgnoreError();
}

absl::Status RingWriter::Write(std::span<const std::byte> payload) {
  return impl_->WriteParts({&payload, 1}, payload.size());
}

absl::Status RingWriter::WriteParts(std::span<const std::span<const std::byte>> parts) {
  if (parts.size() > kRecordPartsMax) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat("a record of ", parts.size(),
                                                              " parts; at most ", kRecordPartsMax)),
                      "INVALID_ARGUMENT");
  }
  size_t payload_bytes = 0;
  for (const std::span<const std::byte> part : parts) payload_bytes += part.size();
  return impl_->WriteParts(parts, payload_bytes);
}

absl::Status RingWriter::Flush() { return impl_->Flush(impl_->StallDeadline()); }

absl::Status RingWriter::Finish(Deadline deadline) { return impl_->Finish(deadline); }

const WriterStats& RingWriter::stats() const { return impl_->stats(); }

absl::Status RingWriter::Poll() {
  impl_->connection().Pump();
  return impl_->connection().status();
}

int RingWriter::fd() const { return impl_->connection().fd(); }

}  // namespace iob
