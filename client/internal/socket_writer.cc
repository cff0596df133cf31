#include "client/internal/socket_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/internal/attach_wire.h"
#include "shm/result.h"

namespace iob {

absl::Status SocketWriter::Add(const OutgoingRecord& record, std::chrono::milliseconds patience) {
  IOB_RETURN_IF_ERROR(connection_->status());
  // 0 says "as the ring was made": not waiting at all cannot be said where that is to wait.
  const uint32_t wait_ms = block_ms_ != 0 ? std::max(record.wait_ms, 1u) : record.wait_ms;
  if (wait_ms != batch_wait_ms_) {
    IOB_RETURN_IF_ERROR(Flush(After(patience)));
    encoder_.SetWait(region_index_, wait_ms);
    batch_wait_ms_ = wait_ms;
  }
  if (!encoder_.TryAdd(record.parts, record.payload_bytes)) {
    IOB_RETURN_IF_ERROR(Flush(After(patience)));
    // An empty batch has room for every record within the limit.
    encoder_.TryAdd(record.parts, record.payload_bytes);
  }
  buffered_.push_back(
      {.payload_bytes = static_cast<uint32_t>(record.payload_bytes), .cookie = record.cookie});
  stats_.attempted_records += 1;
  stats_.attempted_bytes += record.payload_bytes;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<LossCause>> SocketWriter::AwaitNewest(Deadline deadline) {
  const uint64_t number = stats_.attempted_records - 1;
  awaited_ = number;
  awaited_lost_.reset();
  absl::Status status = Flush(deadline);
  while (status.ok() && decided_records_ <= number) status = connection_->PumpBy(deadline);
  awaited_.reset();
  // The answer may have come together with the end of the connection.
  if (decided_records_ > number) return awaited_lost_;
  return status;
}

absl::Status SocketWriter::Flush(Deadline deadline) {
  if (encoder_.empty()) return connection_->status();
  IOB_RETURN_IF_ERROR(connection_->SendBatch(encoder_.Packet(), shared_from_this(), deadline));
  const size_t slot = (unanswered_first_ + unanswered_count_) % Connection::kWindow;
  unanswered_[slot].swap(buffered_);
  unanswered_count_ += 1;
  buffered_.clear();
  encoder_.Clear();
  return absl::OkStatus();
}

absl::Status SocketWriter::Finish(Deadline deadline) {
  IOB_RETURN_IF_ERROR(Flush(deadline));
  while (unanswered_count_ != 0) IOB_RETURN_IF_ERROR(connection_->PumpBy(deadline));
  return absl::OkStatus();
}

std::optional<WriteCompletion> SocketWriter::TakeCompletion() {
  if (completions_.empty()) return std::nullopt;
  const WriteCompletion completion = completions_.front();
  completions_.pop_front();
  return completion;
}

absl::Status SocketWriter::Poll() {
  connection_->Pump();
  return connection_->status();
}

absl::Status SocketWriter::CheckAnswer(size_t records, uint64_t stored,
                                       std::span<const BatchLoss> lost) {
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

absl::Status SocketWriter::Acknowledge(uint64_t stored, std::span<const BatchLoss> lost) {
  Batch& batch = unanswered_[unanswered_first_];
  IOB_RETURN_IF_ERROR(CheckAnswer(batch.size(), stored, lost));
  size_t next = 0;
  for (const BatchLoss& loss : lost) {
    for (; next < loss.first_index; ++next) Decide(batch[next], std::nullopt);
    for (; next < size_t{loss.first_index} + loss.count; ++next) Decide(batch[next], loss.cause);
  }
  for (; next < batch.size(); ++next) Decide(batch[next], std::nullopt);
  batch.clear();
  unanswered_first_ = (unanswered_first_ + 1) % Connection::kWindow;
  unanswered_count_ -= 1;
  return absl::OkStatus();
}

void SocketWriter::Decide(const Sent& record, std::optional<LossCause> lost) {
  if (lost) {
    stats_.rejected_records[static_cast<size_t>(*lost)] += 1;
    stats_.rejected_bytes[static_cast<size_t>(*lost)] += record.payload_bytes;
  } else {
    stats_.stored_records += 1;
    stats_.stored_bytes += record.payload_bytes;
  }
  if (awaited_ == decided_records_) {
    awaited_lost_ = lost;
  } else if (gives_completions_) {
    completions_.push_back(
        {.cookie = record.cookie, .payload_bytes = record.payload_bytes, .lost = lost});
  }
  decided_records_ += 1;
}

}  // namespace iob
