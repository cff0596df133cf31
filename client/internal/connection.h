// Connection: the attach socket after the handshake, shared by an endpoint's parts.
//
// Answers to writes, events and the broker's last words all arrive on one socket. Whoever waits on
// it reads everything there is and hands each packet to whom it belongs, so that a reader, a writer
// and WaitEvent never take each other's packets:
//
//     write_result -> the oldest unanswered batch (N1)      error, end of stream -> status() (N3)
//     event        -> the event queue (N2)
//
//   N1  Answers come in the order of the batches. At most kWindow batches are unanswered.
//   N2  The event queue is bounded by what can happen: peer closed once, revoked once, and one
//       unread `readable` per region.
//   N3  The first failure stays: every later call answers it. Batches without an answer then never
//       get one.
//
// Internal to the library. Thread-compatible: one thread at a time for everything that shares it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "client/endpoint_event.h"
#include "client/types.h"
#include "shm/fd_channel.h"
#include "shm/signal_page.h"

namespace iob {

// A run of records of one batch that were not stored.
struct BatchLoss {
  uint32_t first_index = 0;
  uint32_t count = 0;
  LossCause cause = LossCause::kFull;
};

// Who sent a batch, and gets its answer.
class ResultSink {
 public:
  virtual ~ResultSink() = default;
  // Not OK when the answer does not fit the batch: that breaks the protocol, and the connection.
  virtual absl::Status Acknowledge(uint64_t stored, std::span<const BatchLoss> lost) = 0;
};

class Connection {
 public:
  static constexpr size_t kWindow = 32;

  Connection(shm::FdChannel channel, shm::SignalLine signal);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // The socket, -1 when closed. Readable when there is something to Pump.
  int fd() const { return channel_.fd(); }
  // From the signal page; after Close, as of then.
  bool peer_closed() const { return signal_ ? signal_->peer_closed() : peer_closed_at_close_; }
  CloseReason close_reason() const { return signal_ ? signal_->close_reason() : reason_at_close_; }
  // To sleep on; only while status() is OK.
  shm::FutexWord ChangeWord() const { return signal_->ChangeWord(); }
  // OK while the connection lives.
  const absl::Status& status() const { return status_; }
  size_t unanswered_batches() const { return sinks_count_; }

  // Takes everything that has arrived. Never blocks.
  void Pump();

  // Sleeps until something arrives or the connection ends; then pumps. DEADLINE_EXCEEDED, or
  // status().
  absl::Status PumpBy(Deadline deadline);

  // Sends one batch for `sink`, pumping while the socket or the window is full. DEADLINE_EXCEEDED
  // when neither got room: nothing was sent then.
  absl::Status SendBatch(std::span<const std::byte> packet, std::shared_ptr<ResultSink> sink,
                         Deadline deadline);

  // Tells the broker that room was made in a ring; later, if the socket is full now.
  void SendRoomMade(uint32_t region_index);

  // The next event, from the queue or from the signal page, whichever knows first.
  std::optional<Event> TakeEvent();
  bool has_event() const { return !events_.empty(); }
  // Forgets an unread `readable` of this region: its reader is looking.
  void DropReadable(uint32_t region_index);

  // Says goodbye, closes, and unmaps the signal page, which counts as held by this endpoint.
  // Everything later answers DETACHED.
  void Close();

 private:
  struct Scratch;  // What parsing needs, kept between packets.

  void Dispatch(std::span<const std::byte> packet);
  void AcknowledgeOldest();
  void QueueEvent();
  void Fail(absl::Status status);
  void SendOwedRoomMade();
  absl::Status AwaitSocket(short events, Deadline deadline);

  shm::FdChannel channel_;
  std::optional<shm::SignalLine> signal_;
  absl::Status status_;
  std::unique_ptr<Scratch> scratch_;
  std::array<std::shared_ptr<ResultSink>, kWindow> sinks_;  // A ring of kWindow, oldest first.
  size_t sinks_first_ = 0;
  size_t sinks_count_ = 0;
  std::vector<Event> events_;
  uint64_t room_made_owed_ = 0;  // One bit per region.
  bool peer_closed_told_ = false;
  bool revoked_ = false;
  bool peer_closed_at_close_ = false;
  CloseReason reason_at_close_;
};

}  // namespace iob
