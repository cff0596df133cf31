#include "client/internal/queue_writer.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/ring_wait.h"
#include "shm/result.h"

namespace iob {
namespace {

// What is published together while the broker has other records of this queue to serve: a few
// microseconds of its work, so that it never runs dry.
constexpr uint64_t kBatchRecords = 32;
constexpr uint64_t kBatchBytes = 16 << 10;

std::optional<LossCause> LossOf(const shm::Completion& completion) {
  if (completion.result == shm::kCompletionStored) return std::nullopt;
  return static_cast<LossCause>(completion.result);
}

}  // namespace

QueueWriter::QueueWriter(std::unique_ptr<SubmissionQueue> queue, bool completions,
                         std::shared_ptr<Connection> connection)
    : queue_(std::move(queue)),
      gives_completions_(completions),
      connection_(std::move(connection)) {
  // What the writer before this one did not take is nobody's any more.
  shm::Completion untaken;
  while (client().TakeCompletion(&untaken) == shm::TakeOutcome::kTaken) {
  }
  before_ = client().stats();
  next_entry_ = before_.attempted_records;
}

QueueWriter::~QueueWriter() {
  Publish();
  if (status().ok()) connection_->queue_shelf().Put(std::move(queue_));
}

absl::Status QueueWriter::status() {
  if (absl::Status poisoned = client().status(); !poisoned.ok()) {
    return WithReason(std::move(poisoned), "INTEGRITY");
  }
  return connection_->status();
}

absl::Status QueueWriter::Add(const OutgoingRecord& record, std::chrono::milliseconds patience) {
  IOB_RETURN_IF_ERROR(connection_->status());
  const shm::AddOptions options{.cookie = record.cookie,
                                .wait_ms = static_cast<uint16_t>(record.wait_ms),
                                .want_completion = gives_completions_};
  shm::AddOutcome outcome = client().TryAddParts(record.parts, options);
  if (outcome == shm::AddOutcome::kQueueFull) [[unlikely]] {
    Publish();
    const uint64_t room_from = client().published_bytes() + shm::EntryBytes(record.payload_bytes);
    IOB_RETURN_IF_ERROR(AwaitServed(room_from - queue_->capacity_bytes, After(patience)));
    outcome = client().TryAddParts(record.parts, options);
  }
  if (outcome == shm::AddOutcome::kTooLarge) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "a record of ", record.payload_bytes,
                          " bytes does not fit into a queue of ", queue_->capacity_bytes)),
                      "INVALID_ARGUMENT");
  }
  // It was awaited that there is room, so that only poison is left.
  if (outcome != shm::AddOutcome::kAdded) [[unlikely]]
    return status();
  next_entry_ += 1;
  held_back_records_ += 1;
  held_back_bytes_ += record.payload_bytes;
  if (held_back_records_ >= kBatchRecords || held_back_bytes_ >= kBatchBytes || BrokerRanDry()) {
    Publish();
  }
  return absl::OkStatus();
}

// Head is a line that the broker keeps writing: looking at it with every record costs more than
// what is gained, so only the first, second, fourth, ... of those held back look.
bool QueueWriter::BrokerRanDry() {
  return std::has_single_bit(held_back_records_) && client().ServedAll();
}

void QueueWriter::Publish() {
  held_back_records_ = 0;
  held_back_bytes_ = 0;
  if (!client().Publish()) return;
  const uint64_t one = 1;
  // An eventfd takes it at once, unless it is full of kicks already.
  (void)!::write(queue_->kick.get(), &one, sizeof(one));
}

bool QueueWriter::Collect() {
  bool any = false;
  shm::Completion completion;
  while (client().TakeCompletion(&completion) == shm::TakeOutcome::kTaken) {
    any = true;
    if (awaited_ == completion.entry_number) {
      awaited_decided_ = true;
      awaited_lost_ = LossOf(completion);
    } else if (gives_completions_) {
      completions_.push_back({.cookie = completion.cookie,
                              .payload_bytes = completion.length_bytes,
                              .lost = LossOf(completion)});
    }
  }
  return any;
}

absl::Status QueueWriter::AwaitServed(uint64_t served_min, Deadline deadline) {
  const auto look = [this, served_min] {
    client().ServedAll();
    return client().served_bytes() >= served_min;
  };
  if (waiter_.Spin(look, ToMonotonicNs(deadline))) return absl::OkStatus();
  while (true) {
    // K2. Their places go back with the publication.
    if (Collect()) Publish();
    if (look()) return absl::OkStatus();
    IOB_RETURN_IF_ERROR(status());
    if (std::chrono::steady_clock::now() >= deadline) {
      return WithReason(
          absl::DeadlineExceededError("the broker did not decide the queue's records in time"),
          "DEADLINE");
    }
    Sleep(deadline);
  }
}

void QueueWriter::Sleep(Deadline deadline) {
  connection_->Pump();
  if (!connection_->status().ok()) return;
  SleepASlice(*connection_, deadline, [this]() -> std::optional<shm::FutexWord> {
    if (!client().PrepareToWait()) return std::nullopt;
    return client().HeadWord();
  });
  client().ClearWaiting();
}

absl::StatusOr<std::optional<LossCause>> QueueWriter::AwaitNewest(Deadline deadline) {
  awaited_ = next_entry_ - 1;
  awaited_decided_ = false;
  awaited_lost_.reset();
  Publish();
  absl::Status served = AwaitServed(client().published_bytes(), deadline);
  // A loss has its completion there before head passes the entry; what has none was stored.
  if (Collect()) Publish();
  awaited_.reset();
  if (served.ok() || awaited_decided_) return awaited_lost_;
  return served;
}

absl::Status QueueWriter::Flush(Deadline) {
  IOB_RETURN_IF_ERROR(status());
  Publish();
  return absl::OkStatus();
}

absl::Status QueueWriter::Finish(Deadline deadline) {
  Publish();
  return AwaitServed(client().published_bytes(), deadline);
}

std::optional<WriteCompletion> QueueWriter::TakeCompletion() {
  if (completions_.empty() && Collect()) Publish();
  if (completions_.empty()) return std::nullopt;
  const WriteCompletion completion = completions_.front();
  completions_.pop_front();
  return completion;
}

const WriterStats& QueueWriter::stats() {
  const shm::SubmissionStats now = client().stats();
  stats_.attempted_records = now.attempted_records - before_.attempted_records;
  stats_.attempted_bytes = now.attempted_bytes - before_.attempted_bytes;
  stats_.stored_records = now.decided.stored_records - before_.decided.stored_records;
  stats_.stored_bytes = now.decided.stored_bytes - before_.decided.stored_bytes;
  for (size_t cause = 0; cause < shm::kLossCauses; ++cause) {
    stats_.rejected_records[cause] =
        now.decided.rejected_records[cause] - before_.decided.rejected_records[cause];
    stats_.rejected_bytes[cause] =
        now.decided.rejected_bytes[cause] - before_.decided.rejected_bytes[cause];
  }
  return stats_;
}

absl::Status QueueWriter::Poll() {
  connection_->Pump();
  if (Collect()) Publish();
  return status();
}

}  // namespace iob
