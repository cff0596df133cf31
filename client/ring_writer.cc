#include "client/ring_writer.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/connection.h"
#include "client/internal/grants.h"
#include "client/internal/queue_writer.h"
#include "client/internal/record_writer.h"
#include "client/internal/socket_writer.h"
#include "client/internal/submission_queue.h"
#include "shm/mapping.h"
#include "shm/result.h"

namespace iob {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{60'000};
static_assert(kWaitMax.count() <= UINT16_MAX, "an entry of a queue has 16 bits for it");

uint32_t ToMs(milliseconds wait) {
  return static_cast<uint32_t>(std::clamp(wait, milliseconds(0), kWaitMax).count());
}

absl::StatusOr<std::unique_ptr<SubmissionQueue>> OpenQueue(uint32_t region_index,
                                                           const RingWriterOptions& options,
                                                           Connection& connection) {
  const uint64_t capacity_bytes = options.queue_bytes == 0
                                      ? shm::SubmissionLayout::kCapacityBytesDefault
                                      : shm::RoundUpToPages(options.queue_bytes);
  std::unique_ptr<SubmissionQueue> queue =
      connection.queue_shelf().Take(region_index, capacity_bytes);
  if (queue != nullptr) return queue;
  v1::ClientPacket packet;
  packet.mutable_open_queue()->set_region_index(region_index);
  packet.mutable_open_queue()->set_entry_bytes(options.queue_bytes);
  IOB_ASSIGN_OR_RETURN(QueueSections sections,
                       connection.CallForQueue(packet, After(options.stall_timeout)));
  IOB_ASSIGN_OR_RETURN(
      shm::SubmissionClient client,
      shm::SubmissionClient::Map(sections.layout, sections.submission, sections.completion));
  return std::make_unique<SubmissionQueue>(
      SubmissionQueue{.region_index = region_index,
                      .capacity_bytes = sections.layout.capacity_bytes(),
                      .client = std::move(client),
                      .kick = std::move(sections.kick)});
}

absl::Status FateOf(LossCause cause) {
  const std::string what = absl::StrCat("the record was not stored: ", ToString(cause));
  switch (cause) {
    case LossCause::kFull:
    case LossCause::kBudget:
    case LossCause::kDeadline:
      return WithReason(absl::ResourceExhaustedError(what), "RING_FULL");
    case LossCause::kClosed:
      return WithReason(absl::FailedPreconditionError(what), "PEER_CLOSED");
    case LossCause::kIntegrity:
      return WithReason(absl::DataLossError(what), "INTEGRITY");
    case LossCause::kTooLarge:
      return WithReason(absl::InvalidArgumentError(what), "INVALID_ARGUMENT");
    case LossCause::kPolicy:
      return WithReason(absl::PermissionDeniedError(what), "POLICY");
  }
  return WithReason(absl::UnknownError(what), "INTERNAL");
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

absl::StatusOr<RingWriter> RingWriter::Open(const GrantedRegion& region, bool queues,
                                            const RingWriterOptions& options,
                                            const std::shared_ptr<Connection>& connection) {
  const uint32_t block_ms = ToMs(region.mediated_ring.block);
  const uint32_t wait_ms = options.wait ? ToMs(*options.wait) : block_ms;
  if (options.transport == TransportChoice::kQueue && !queues) {
    return WithReason(absl::FailedPreconditionError("this daemon has no submission queues"),
                      "UNSUPPORTED");
  }
  if (options.transport != TransportChoice::kSocket && queues) {
    auto queue = OpenQueue(region.index, options, *connection);
    if (queue.ok()) {
      return RingWriter(
          std::make_shared<QueueWriter>(*std::move(queue), options.completions, connection),
          wait_ms, options, connection);
    }
    // Whatever keeps a queue from being made, quota or memory, the socket needs none of it.
    IOB_RETURN_IF_ERROR(connection->status());
    if (options.transport == TransportChoice::kQueue) return queue.status();
  }
  return RingWriter(
      std::make_shared<SocketWriter>(region.index, block_ms, options.completions, connection),
      wait_ms, options, connection);
}

RingWriter::RingWriter(std::shared_ptr<RecordWriter> writer, uint32_t wait_ms,
                       const RingWriterOptions& options, std::shared_ptr<Connection> connection)
    : writer_(std::move(writer)),
      wait_ms_(wait_ms),
      longest_wait_ms_(wait_ms),
      stall_timeout_(options.stall_timeout),
      completions_(options.completions),
      connection_(std::move(connection)) {}

RingWriter::RingWriter(RingWriter&& other) noexcept = default;

RingWriter& RingWriter::operator=(RingWriter&& other) noexcept {
  if (this == &other) return *this;
  if (writer_ != nullptr) writer_->Flush(Deadline()).IgnoreError();
  writer_ = std::move(other.writer_);
  connection_ = std::move(other.connection_);
  wait_ms_ = other.wait_ms_;
  longest_wait_ms_ = other.longest_wait_ms_;
  stall_timeout_ = other.stall_timeout_;
  completions_ = other.completions_;
  completions_owed_ = other.completions_owed_;
  return *this;
}

RingWriter::~RingWriter() {
  // A failure is one that Finish would have told.
  if (writer_ != nullptr) writer_->Flush(Deadline()).IgnoreError();
}

WriterTransport RingWriter::transport() const { return writer_->transport(); }

uint32_t RingWriter::WaitMs(const WriteOptions& options) const {
  return options.wait ? ToMs(*options.wait) : wait_ms_;
}

milliseconds RingWriter::Patience() const {
  return milliseconds(longest_wait_ms_) + stall_timeout_;
}

absl::Status RingWriter::Add(std::span<const std::span<const std::byte>> parts,
                             const WriteOptions& options) {
  if (parts.size() > kRecordPartsMax) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat("a record of ", parts.size(),
                                                              " parts; at most ", kRecordPartsMax)),
                      "INVALID_ARGUMENT");
  }
  size_t payload_bytes = 0;
  for (const std::span<const std::byte> part : parts) payload_bytes += part.size();
  if (payload_bytes > kRecordPayloadBytesMax) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("a record of ", payload_bytes, " bytes; at most ",
                                                kRecordPayloadBytesMax)),
        "INVALID_ARGUMENT");
  }
  if (completions_owed_ >= kCompletionsMax) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          completions_owed_, " completions are untaken; take some first")),
                      "BUSY");
  }
  const uint32_t wait_ms = WaitMs(options);
  longest_wait_ms_ = std::max(longest_wait_ms_, wait_ms);
  IOB_RETURN_IF_ERROR(writer_->Add({.parts = parts,
                                    .payload_bytes = payload_bytes,
                                    .wait_ms = wait_ms,
                                    .cookie = options.cookie},
                                   Patience()));
  completions_owed_ += completions_ ? 1 : 0;
  return absl::OkStatus();
}

absl::Status RingWriter::Write(std::span<const std::byte> payload, const WriteOptions& options) {
  return Add({&payload, 1}, options);
}

absl::Status RingWriter::WriteParts(std::span<const std::span<const std::byte>> parts,
                                    const WriteOptions& options) {
  return Add(parts, options);
}

absl::Status RingWriter::WriteAndWait(std::span<const std::byte> payload, Deadline deadline,
                                      const WriteOptions& options) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
  WriteOptions limited = options;
  limited.wait = std::min(milliseconds(WaitMs(options)), std::max(left, milliseconds(0)));
  IOB_RETURN_IF_ERROR(Add({&payload, 1}, limited));
  absl::StatusOr<std::optional<LossCause>> lost = writer_->AwaitNewest(deadline);
  IOB_RETURN_IF_ERROR(lost.status());
  completions_owed_ -= completions_ ? 1 : 0;
  return *lost ? FateOf(**lost) : absl::OkStatus();
}

absl::Status RingWriter::Flush() { return writer_->Flush(After(Patience())); }

absl::Status RingWriter::Finish(Deadline deadline) { return writer_->Finish(deadline); }

std::optional<WriteCompletion> RingWriter::TryTakeCompletion() {
  std::optional<WriteCompletion> completion = writer_->TakeCompletion();
  if (completion) completions_owed_ -= 1;
  return completion;
}

const WriterStats& RingWriter::stats() const { return writer_->stats(); }

absl::Status RingWriter::Poll() { return writer_->Poll(); }

int RingWriter::fd() const { return connection_->fd(); }

}  // namespace iob
