// SocketWriter: records as batches on the attach socket.
//
//   Add --> batch --full, another wait, Flush--> sent, unanswered --write_result--> decided
//
// A batch has one wait for all of its records, so a record with another one begins a new batch.
// What is needed of each record is kept until its batch's answer, so that bytes are exact too.
//
// Internal to the library. Thread-compatible, together with its Connection.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/internal/connection.h"
#include "client/internal/record_writer.h"
#include "client/internal/write_batch.h"

namespace iob {

class SocketWriter final : public RecordWriter,
                           public ResultSink,
                           public std::enable_shared_from_this<SocketWriter> {
 public:
  // `block_ms`: what the broker takes a wait of 0 for, in this ring.
  SocketWriter(uint32_t region_index, uint32_t block_ms, bool completions,
               std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)),
        region_index_(region_index),
        block_ms_(block_ms),
        gives_completions_(completions),
        encoder_(region_index, 0) {}

  WriterTransport transport() const override { return WriterTransport::kSocket; }
  absl::Status Add(const OutgoingRecord& record, std::chrono::milliseconds patience) override;
  absl::StatusOr<std::optional<LossCause>> AwaitNewest(Deadline deadline) override;
  absl::Status Flush(Deadline deadline) override;
  absl::Status Finish(Deadline deadline) override;
  std::optional<WriteCompletion> TakeCompletion() override;
  const WriterStats& stats() override { return stats_; }
  absl::Status Poll() override;

  absl::Status Acknowledge(uint64_t stored, std::span<const BatchLoss> lost) override;

 private:
  struct Sent {
    uint32_t payload_bytes = 0;
    uint64_t cookie = 0;
  };
  using Batch = std::vector<Sent>;

  static absl::Status CheckAnswer(size_t records, uint64_t stored, std::span<const BatchLoss> lost);
  void Decide(const Sent& record, std::optional<LossCause> lost);

  std::shared_ptr<Connection> connection_;
  uint32_t region_index_;
  uint32_t block_ms_;
  bool gives_completions_;
  WriteBatchEncoder encoder_;
  uint32_t batch_wait_ms_ = 0;
  WriterStats stats_;
  Batch buffered_;  // The records in the encoder.
  // Each unanswered batch, oldest first, as a ring whose vectors keep their capacity.
  std::array<Batch, Connection::kWindow> unanswered_;
  size_t unanswered_first_ = 0;
  size_t unanswered_count_ = 0;
  uint64_t decided_records_ = 0;
  // The number of the record that AwaitNewest waits for, and what became of it.
  std::optional<uint64_t> awaited_;
  std::optional<LossCause> awaited_lost_;
  std::deque<WriteCompletion> completions_;
};

}  // namespace iob
