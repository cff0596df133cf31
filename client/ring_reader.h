// RingReader: consumes a mediated ring, in place.
//
//     while (true) {
//       absl::StatusOr<iob::WaitOutcome> outcome = reader.Wait(iob::After(1s));
//       if (!outcome.ok()) return outcome.status();
//       if (*outcome == iob::WaitOutcome::kPeerClosed) break;  // Drained, and nobody writes.
//       reader.Drain(1024, [](const iob::RecordView& record) {
//         Use(record.tag, record.payload);
//       });
//     }
//
// Records are views into the ring, stamped by the broker with the tag of who wrote them. The memory
// goes back to the writer at Release (Drain and TryRead release by themselves), and views die then.
//
//   R1  Records come in the order of the ring, each once. What was committed before the peer ended
//       is delivered before Wait says kPeerClosed.
//   R2  Shared words that cannot be poison the reader: DATA_LOSS / INTEGRITY from then on.
//   R3  Nothing waits without a deadline.
//
// The reader keeps its memory mapped until it is destroyed, also when its Endpoint is closed first;
// for the broker the endpoint is closed when both are gone. Thread-compatible, together with its
// Endpoint and everything else opened from that. A forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/types.h"
#include "shm/mediated_ring_reader.h"
#include "shm/waiter.h"

namespace iob {

class Connection;

using shm::ReadOutcome;
using shm::RecordView;

enum class WaitOutcome {
  kRecords,     // At least one record is there.
  kPeerClosed,  // None is, and none will come: drained and closed.
  kDeadline,    // None came in time.
};

// A record of one's own, see TryRead.
struct Record {
  uint64_t tag = 0;
  std::vector<std::byte> payload;
};

class RingReader {
 public:
  using LedgerMirror = shm::MediatedRingReader::LedgerMirror;

  RingReader(RingReader&& other) noexcept = default;
  RingReader& operator=(RingReader&& other) noexcept = default;
  ~RingReader();

  uint32_t region_index() const { return region_index_; }

  // The next record, if there is one, as a view that lives until Release. Never blocks.
  ReadOutcome Next(RecordView* ret_record) { return ring_.Next(ret_record); }

  // Gives all records that Next returned back to the writer.
  void Release();

  // Calls `consume(const RecordView&)` for up to `records_max` records, then releases them at once.
  // Returns how many. DATA_LOSS (R2) after the good ones were consumed.
  template <typename Consume>
  absl::StatusOr<size_t> Drain(size_t records_max, Consume&& consume) {
    RecordView record;
    size_t count = 0;
    ReadOutcome outcome = ReadOutcome::kRecord;
    while (count < records_max && (outcome = ring_.Next(&record)) == ReadOutcome::kRecord) {
      consume(static_cast<const RecordView&>(record));
      ++count;
    }
    Release();
    if (outcome == ReadOutcome::kPoisoned) [[unlikely]]
      return status();
    return count;
  }

  // Copies the next record out and releases it; keeps the capacity of `ret_record`. False when
  // there is none. DATA_LOSS (R2). For programs that want a record at a time; Drain is many times
  // faster.
  absl::StatusOr<bool> TryRead(Record* ret_record);

  // Waits for a record: spins a little where that has paid off, then sleeps on the ring's head and
  // the signal word. Releases nothing: what Next returned and was not released still takes room.
  //   DATA_LOSS            R2
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED
  //                        no record is there and the broker cannot announce any; a lost broker is
  //                        noticed within half a second
  // An endpoint whose handle had no WAIT is not told of its peer: never kPeerClosed then.
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline);

  // For a poll loop instead of Wait: asks for a packet on the attach socket, fd(), with the next
  // record. True when it is right to sleep; false when records or events are there already, or the
  // ring or the connection is broken. After fd() became readable: take Endpoint::PollEvents until
  // it is empty, Drain until nothing is left, and arm again. Never true without the right WAIT: no
  // packet would come.
  bool ArmFd();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

  // OK, or why Next says kPoisoned (R2).
  absl::Status status() const;

  // What the broker counted for this ring as of its last publish: records and payload bytes, stored
  // and rejected.
  LedgerMirror ledger() const { return ring_.ledger(); }

 private:
  friend class Endpoint;
  RingReader(shm::MediatedRingReader ring, uint32_t region_index,
             std::shared_ptr<Connection> connection, std::shared_ptr<void> claim)
      : ring_(std::move(ring)),
        region_index_(region_index),
        connection_(std::move(connection)),
        claim_(std::move(claim)) {}

  shm::MediatedRingReader ring_;
  uint32_t region_index_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // The endpoint lends one per ring.
  bool armed_ = false;           // The broker was asked for packets.
  shm::Waiter waiter_;
};

}  // namespace iob
