// Connection: the attach socket after the handshake, shared by an endpoint's parts.
//
// Answers to writes and calls, events and the broker's last words all arrive on one socket. Whoever
// waits on it reads everything there is and hands each packet to whom it belongs, so that a reader,
// a writer, a call and WaitEvent never take each other's packets:
//
//     write_result, allocate_id_result, call_result, queue_grant, ring_grant
//           -> the oldest unanswered write or call (N1)
//     event -> the event queue (N2)
//     error, end of stream -> status() (N3)
//
//   N1  Answers come one per write and call, in their order, each of the kind that was asked for.
//       At most kWindow are missing. Who gave up waiting for a call leaves its place in the queue,
//       so that its answer is not taken for the next one's.
//   N2  The event queue is bounded by what can happen: peer closed once, revoked once, one unread
//       `signaled`, and one unread `readable` per region.
//   N3  The first failure stays: every later call answers it. Writes and calls without an answer
//       then never get one.
//   N4  A handle without WAIT has no signal page and gets no events: no signal is ever seen then.
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
#include "absl/status/statusor.h"
#include "client/endpoint_event.h"
#include "client/internal/grants.h"
#include "client/internal/submission_queue.h"
#include "client/types.h"
#include "shm/fd_channel.h"
#include "shm/signal_page.h"

namespace iob::v1 {
class ClientPacket;
}  // namespace iob::v1

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

  // `signal` is unset for a handle without WAIT.
  Connection(shm::FdChannel channel, std::optional<shm::SignalLine> signal);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // The socket, -1 when closed. Readable when there is something to Pump.
  int fd() const { return channel_.fd(); }
  // From the signal page; after Close, as of then; nothing without WAIT.
  uint32_t signals() const { return signal_ ? signal_->signals() : signals_at_close_; }
  bool peer_closed() const { return (signals() & shm::kSignalPeerClosed) != 0; }
  CloseReason close_reason() const { return signal_ ? signal_->close_reason() : reason_at_close_; }
  // To sleep on; unset without WAIT and after Close.
  std::optional<shm::FutexWord> ChangeWord() const;
  // OK while the connection lives.
  const absl::Status& status() const { return status_; }
  size_t unanswered() const { return unanswered_count_; }

  // Takes everything that has arrived. Never blocks.
  void Pump();

  // Sleeps until something arrives or the connection ends; then pumps. DEADLINE_EXCEEDED, or
  // status().
  absl::Status PumpBy(Deadline deadline);

  // Sends one batch for `sink`, pumping while the socket or the window is full. DEADLINE_EXCEEDED
  // when neither got room: nothing was sent then.
  absl::Status SendBatch(std::span<const std::byte> packet, std::shared_ptr<ResultSink> sink,
                         Deadline deadline);

  // Sends one change_signals or change_name and waits for its answer, which comes behind those of
  // all earlier writes. The broker's error, status(), or DEADLINE_EXCEEDED: then the call was not
  // sent, or its outcome is unknown.
  absl::Status Call(const v1::ClientPacket& packet, Deadline deadline);

  // The same for one allocate_id: the id.
  absl::StatusOr<uint32_t> CallForId(const v1::ClientPacket& packet, Deadline deadline);

  // The same for one open_queue: the queue, verified. RESOURCE_EXHAUSTED when this process has no
  // room for the descriptors.
  absl::StatusOr<QueueSections> CallForQueue(const v1::ClientPacket& packet, Deadline deadline);
  // The same for one renew_ring: newer memory of the ring of `region_index`, verified.
  absl::StatusOr<DirectGrant> CallForRing(const v1::ClientPacket& packet, uint32_t region_index,
                                          RegionRights rights, Deadline deadline);
  // Queues whose writers are gone.
  QueueShelf& queue_shelf() { return queue_shelf_; }

  // Tells the broker something about a region; later, if the socket is full now. What is owed about
  // one region is told once.
  enum class Notice : uint8_t {
    kRoomMade,  // Room was made in a mediated ring.
    kKick,      // A direct ring has records, and its consumer wants a packet.
    kStalled,   // A shared reserve ring's consumer waits for a producer that has stopped.
  };
  static constexpr size_t kNotices = 3;
  void SendNotice(Notice notice, uint32_t region_index);
  void SendRoomMade(uint32_t region_index) { SendNotice(Notice::kRoomMade, region_index); }

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

  enum class AnswerKind { kWriteResult, kAllocateIdResult, kCallResult, kQueueGrant, kRingGrant };

  static bool CarriesDescriptors(AnswerKind kind);

  // A call's answer, when it has come. Shared with the queue, because whoever waits may give up.
  struct PendingCall {
    bool answered = false;
    absl::Status status;
    uint32_t id = 0;
    std::optional<QueueSections> queue;
    // What was asked for, and what came.
    uint32_t region_index = 0;
    RegionRights rights{0};
    std::optional<DirectGrant> ring;
  };

  // A place in the queue: a batch or a call.
  struct Unanswered {
    AnswerKind kind = AnswerKind::kWriteResult;
    std::shared_ptr<ResultSink> batch;
    std::shared_ptr<PendingCall> call;
  };

  absl::Status Send(std::span<const std::byte> packet, Unanswered unanswered, Deadline deadline);
  absl::StatusOr<std::shared_ptr<PendingCall>> AwaitCall(const v1::ClientPacket& packet,
                                                         AnswerKind kind, Deadline deadline);
  absl::Status Await(const v1::ClientPacket& packet, AnswerKind kind,
                     const std::shared_ptr<PendingCall>& call, Deadline deadline);
  void Take(shm::Received received);
  void Dispatch(std::span<const std::byte> packet);
  template <typename Grant, typename Verify, typename Result>
  void AnswerGrant(const Grant& grant, Verify verify, PendingCall* call,
                   std::optional<Result>* ret_result);
  void AnswerOldest(AnswerKind kind);
  absl::Status AcknowledgeBatch(ResultSink* sink);
  void QueueEvent();
  void Fail(absl::Status status);
  void SendOwedNotices();
  absl::Status AwaitSocket(short events, Deadline deadline);

  shm::FdChannel channel_;
  std::optional<shm::SignalLine> signal_;
  absl::Status status_;
  std::unique_ptr<Scratch> scratch_;
  std::array<Unanswered, kWindow> unanswered_;  // A ring of kWindow, oldest first.
  size_t unanswered_first_ = 0;
  size_t unanswered_count_ = 0;
  size_t grants_awaited_ = 0;  // Among them: only these answers carry descriptors.
  QueueShelf queue_shelf_;
  std::vector<Event> events_;
  std::array<uint64_t, kNotices> owed_ = {};  // By Notice, one bit per region.
  bool peer_closed_told_ = false;
  bool revoked_ = false;
  uint32_t signals_at_close_ = 0;
  CloseReason reason_at_close_;
};

}  // namespace iob
