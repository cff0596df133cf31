// QueueWriter: records through a submission queue.
//
//   Add --> added --idle broker, a batch of them, Flush--> published --head passes--> stored
//                                                             '-- a completion first --> lost
//
//   K1  What is published while the broker does not look is followed by a kick: one write to an
//       eventfd. While it looks there is no system call.
//   K2  Completions are taken whenever something is waited for: a broker without a place for them
//       does not serve. Those that the user wants wait here, which RingWriter bounds.
//   K3  Waiting spins where that pays, then sleeps on the queue's head and the signal word, in
//       slices: the connection tells of a broker that is gone, and is read before every sleep.
//
// Internal to the library. Thread-compatible, together with its Connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/internal/connection.h"
#include "client/internal/record_writer.h"
#include "client/internal/submission_queue.h"
#include "shm/waiter.h"

namespace iob {

class QueueWriter final : public RecordWriter {
 public:
  // Everything in `queue` is decided. It goes back to the connection's shelf in the end.
  QueueWriter(std::unique_ptr<SubmissionQueue> queue, bool completions,
              std::shared_ptr<Connection> connection);
  ~QueueWriter() override;
  QueueWriter(const QueueWriter&) = delete;
  QueueWriter& operator=(const QueueWriter&) = delete;

  WriterTransport transport() const override { return WriterTransport::kQueue; }
  absl::Status Add(const OutgoingRecord& record, std::chrono::milliseconds patience) override;
  absl::StatusOr<std::optional<LossCause>> AwaitNewest(Deadline deadline) override;
  absl::Status Flush(Deadline deadline) override;
  absl::Status Finish(Deadline deadline) override;
  std::optional<WriteCompletion> TakeCompletion() override;
  const WriterStats& stats() override;
  absl::Status Poll() override;

 private:
  shm::SubmissionClient& client() { return queue_->client; }

  void Publish();
  bool BrokerRanDry();
  // Waits until the broker has decided entries up to `served_min` bytes.
  absl::Status AwaitServed(uint64_t served_min, Deadline deadline);
  void Sleep(Deadline deadline);
  // Takes the completions that have come. True when there were any.
  bool Collect();
  absl::Status status();

  std::unique_ptr<SubmissionQueue> queue_;
  bool gives_completions_;
  std::shared_ptr<Connection> connection_;
  shm::SubmissionStats before_;  // Of the queue's earlier users.
  WriterStats stats_;
  uint64_t next_entry_;  // Its number in the queue.
  uint64_t held_back_records_ = 0;
  uint64_t held_back_bytes_ = 0;
  // The entry that AwaitNewest waits for, and why it was lost, if it was.
  std::optional<uint64_t> awaited_;
  std::optional<LossCause> awaited_lost_;
  bool awaited_decided_ = false;
  std::deque<WriteCompletion> completions_;  // Taken from the queue, for the user.
  shm::Waiter waiter_;
};

}  // namespace iob
