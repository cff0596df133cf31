// RingWriter: streams records into a mediated ring through the broker.
//
//     iob::RingWriter writer = ...;
//     for (...) if (absl::Status s = writer.Write(bytes); !s.ok()) return s;
//     absl::Status s = writer.Finish(iob::After(5s));       // now stats() is final
//
// There are two ways to the broker, and transport() says which one a writer has:
//
//   kQueue   a submission queue, memory that both share. A record is copied into it, and no system
//            call is made while the broker looks. A record that finds all before it decided is
//            published at once. Behind others, up to 32 records or 16 KiB are published together,
//            because each publication moves a cache line between two processors.
//   kSocket  packets on the attach socket: batches of up to 64 KiB, of which up to 32 travel
//            unanswered. Nothing is sent before the batch is full, or Flush.
//
// On both, what Write took may be held back until Flush, Finish or the writer's end.
//
//   A1  attempted = stored + rejected + pending. Pending are the records whose fate is not known
//       yet; none after Finish was OK. A connection that broke may leave some of them so.
//   A2  An error means that the record was not taken, and is not counted.
//   A3  Records of one writer are decided in the order of the calls: one that waits for room makes
//       the later ones wait. Where one is rejected, later ones may still be stored. Between two
//       writers there is no order.
//   A4  Nothing waits without a deadline.
//
// Thread-compatible, together with its Endpoint and everything else opened from that.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/types.h"

namespace iob {

class Connection;
class RecordWriter;
struct GrantedRegion;

// Records and payload bytes: what was asked for, and what became of it (A1).
struct WriterStats {
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  // Indexed by LossCause.
  std::array<uint64_t, shm::kLossCauses> rejected_records = {};
  std::array<uint64_t, shm::kLossCauses> rejected_bytes = {};

  uint64_t lost_records() const;
  uint64_t lost_bytes() const;
  uint64_t pending_records() const;
};

enum class WriterTransport : uint8_t { kQueue, kSocket };

enum class TransportChoice : uint8_t {
  kAuto,    // A queue if the broker has them and gives one, else the socket.
  kQueue,   // A queue, or no writer.
  kSocket,  // The socket: needs no memory, and keeps the order of batches and calls.
};

struct RingWriterOptions {
  // How long a record waits for room in the ring. Zero: what finds no room is rejected (kFull).
  // Else what is left then is rejected (kDeadline). Whole milliseconds, at most one minute. Unset:
  // as the ring was made; that is zero, unless its policy is kBlock.
  std::optional<std::chrono::milliseconds> wait = {};
  // How long the broker may take to accept or answer, waits not included, before a call gives up
  // with DEADLINE_EXCEEDED.
  std::chrono::milliseconds stall_timeout{10'000};
  TransportChoice transport = TransportChoice::kAuto;
  // Of a queue, for records and 16 bytes each; rounded up to pages, at most 16 MiB. 0: 128 KiB. A
  // queue holds no longer record than itself.
  uint32_t queue_bytes = 0;
  // Every record gets a completion; see TryTakeCompletion.
  bool completions = false;
};

// What one record may choose for itself.
struct WriteOptions {
  std::optional<std::chrono::milliseconds> wait = {};  // As RingWriterOptions::wait; unset: that.
  uint64_t cookie = 0;                                 // Comes back in the completion.
};

// The fate of one record.
struct WriteCompletion {
  uint64_t cookie = 0;
  uint32_t payload_bytes = 0;
  std::optional<LossCause> lost = {};  // Unset: it was stored.
};

class RingWriter {
 public:
  // Completions that may be owed and untaken at once.
  static constexpr uint64_t kCompletionsMax = 65'536;

  RingWriter(RingWriter&& other) noexcept;
  RingWriter& operator=(RingWriter&& other) noexcept;
  // Sends what is held back if that needs no waiting. Finish is the way to know.
  ~RingWriter();

  WriterTransport transport() const;

  // Takes one record of at most 65519 bytes; may be empty. Blocks only when the queue is full, or
  // when the batch is and 32 are unanswered. A closed peer is no error here: the broker decides
  // record by record, and rejects with kClosed what nobody is left to consume; see
  // Endpoint::peer_closed.
  //   INVALID_ARGUMENT                        longer than 65519 bytes, or than the queue
  //   DEADLINE_EXCEEDED / DEADLINE            the broker stalls (A2: try again)
  //   RESOURCE_EXHAUSTED / BUSY               kCompletionsMax completions are untaken
  //   DATA_LOSS / INTEGRITY                   the queue's words cannot be
  //   PERMISSION_DENIED / ACCESS_DENIED, ...  what the broker said when it ended the connection
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED
  // A broker that is gone is noticed when something has to wait for it, and by Poll.
  absl::Status Write(std::span<const std::byte> payload, const WriteOptions& options = {});

  // The same for one record made of up to 8 parts. INVALID_ARGUMENT also for more parts.
  absl::Status WriteParts(std::span<const std::span<const std::byte>> parts,
                          const WriteOptions& options = {});

  // Writes one record and waits for its fate; OK when it was stored: consumers see it at once, or
  // a moment later. It waits for room no longer than until `deadline`. It has no completion, unless
  // this call gave up on it. Errors of Write, and the fate of a record that was taken and counted:
  //   RESOURCE_EXHAUSTED / RING_FULL        no room (kFull, kDeadline), or not for this writer
  //                                         (kBudget)
  //   FAILED_PRECONDITION / PEER_CLOSED     nobody is left to consume (kClosed)
  //   DATA_LOSS / INTEGRITY                 the ring's positions cannot be (kIntegrity)
  //   INVALID_ARGUMENT                      never fits into the ring (kTooLarge)
  //   PERMISSION_DENIED / POLICY            kPolicy
  //   DEADLINE_EXCEEDED / DEADLINE          not decided by then; stats() will tell
  absl::Status WriteAndWait(std::span<const std::byte> payload, Deadline deadline,
                            const WriteOptions& options = {});

  // Sends what is held back. Errors as Write, which leave it held back; OK when nothing is.
  absl::Status Flush();

  // Flush, then waits until every record is decided. DEADLINE_EXCEEDED after `deadline`; errors as
  // Write.
  absl::Status Finish(Deadline deadline);

  // The next completion, in the order of the records; nothing when none has come yet, and always
  // without RingWriterOptions::completions. Never blocks; reads no packets, see Poll.
  std::optional<WriteCompletion> TryTakeCompletion();

  // Of all records so far. Exact after Finish; before that, of a queue as of now, and on the socket
  // as of the last call that read answers.
  const WriterStats& stats() const;

  // Reads answers that have arrived. For a writer that has nothing to write, but fd() is readable.
  absl::Status Poll();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

 private:
  friend class Endpoint;
  // `queues`: the broker makes submission queues. Errors as Endpoint::OpenWriter.
  static absl::StatusOr<RingWriter> Open(const GrantedRegion& region, bool queues,
                                         const RingWriterOptions& options,
                                         const std::shared_ptr<Connection>& connection);
  RingWriter(std::shared_ptr<RecordWriter> writer, uint32_t wait_ms,
             const RingWriterOptions& options, std::shared_ptr<Connection> connection);

  // Checked, with the wait that it has.
  absl::Status Add(std::span<const std::span<const std::byte>> parts, const WriteOptions& options);
  uint32_t WaitMs(const WriteOptions& options) const;
  // With a broker that accepts nothing.
  std::chrono::milliseconds Patience() const;

  std::shared_ptr<RecordWriter> writer_;
  uint32_t wait_ms_;
  uint32_t longest_wait_ms_;  // Of all records so far: what a stall is measured from.
  std::chrono::milliseconds stall_timeout_;
  bool completions_;
  uint64_t completions_owed_ = 0;
  std::shared_ptr<Connection> connection_;
};

}  // namespace iob
