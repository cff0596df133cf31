// RingFollower: reads a mediated ring by copying, and is told what it was too slow for.
//
//     while (true) {
//       absl::StatusOr<iob::WaitOutcome> outcome = follower.Wait(iob::After(1s));
//       if (!outcome.ok()) return outcome.status();
//       if (*outcome == iob::WaitOutcome::kPeerClosed) break;  // Drained, and nobody writes.
//       follower.Drain(1024, [](const iob::RecordView& record) { Use(record.payload); },
//                      [](const iob::RecordLoss& lost) { Missed(lost.records); });
//     }
//
// Two kinds, see RingFollowerOptions. Any number may follow a ring that was made for followers:
// each sees every record that it is fast enough for, holds nothing back, and takes nothing from
// anybody. A ring that overwrites its oldest records has a consumer that reads in the same way: it
// goes on where the consumer before it stopped.
//
//   F1  received + lost = all records from the first that this follower could have read up to the
//       next one, in records and in payload bytes, at every step: account().
//   F2  Records come in the order of the ring, each once. What was committed before the peer ended
//       is delivered, or told as lost, before Wait says kPeerClosed.
//   F3  Shared words that cannot be poison the follower: DATA_LOSS / INTEGRITY from then on.
//   F4  Nothing waits without a deadline.
//
// The follower keeps its memory mapped until it is destroyed, also when its Endpoint is closed
// first; for the broker the endpoint is closed when both are gone. Thread-compatible, together with
// its Endpoint and everything else opened from that. A forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/mediated_ring_follower.h"
#include "shm/waiter.h"

namespace iob {

using shm::RecordLoss;
using shm::RingFollowOutcome;

struct RingFollowerOptions {
  // Be the one consumer of a ring that overwrites its oldest records (kOverwriteOldest), instead of
  // one of many followers of a ring that was made for them (MediatedRingOptions::followers).
  bool consume = false;
};

class RingFollower {
 public:
  using Account = shm::MediatedRingFollower::Account;

  RingFollower(RingFollower&& other) noexcept = default;
  RingFollower& operator=(RingFollower&& other) noexcept = default;
  ~RingFollower();

  uint32_t region_index() const { return region_index_; }

  // kRecord: the next record, whose payload is a copy, valid until the next call. kLost: what was
  // written over since the record before is in `ret_record->gap`, once. Never blocks.
  RingFollowOutcome Next(RecordView* ret_record) { return ring_.Next(ret_record); }

  // A consumer tells the broker that all that Next went past was read. Nothing for others.
  void Release();

  // Calls `consume(const RecordView&)` for up to `records_max` records, and `lose(const
  // RecordLoss&)` in between where some are missing, then releases. How many records there were.
  // DATA_LOSS (F3) after the good ones were consumed.
  template <typename Consume, typename Lose>
  absl::StatusOr<size_t> Drain(size_t records_max, Consume&& consume, Lose&& lose) {
    RecordView record;
    size_t count = 0;
    RingFollowOutcome outcome = RingFollowOutcome::kRecord;
    while (count < records_max && (outcome = ring_.Next(&record)) != RingFollowOutcome::kEmpty &&
           outcome != RingFollowOutcome::kPoisoned) {
      if (outcome == RingFollowOutcome::kLost) {
        lose(static_cast<const RecordLoss&>(record.gap));
        continue;
      }
      consume(static_cast<const RecordView&>(record));
      ++count;
    }
    Release();
    if (outcome == RingFollowOutcome::kPoisoned) [[unlikely]]
      return status();
    return count;
  }

  // Waits for a record, or for a loss to tell of. As RingReader::Wait.
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline);

  // As RingReader::ArmFd, for a consumer. Never true for others: the broker knows of them only that
  // somebody sleeps.
  bool ArmFd();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

  // OK, or why Next says kPoisoned (F3).
  absl::Status status() const;

  const Account& account() const { return ring_.account(); }
  // The number of the next record, counted from the first that was ever stored in the ring.
  uint64_t next_record() const { return ring_.next_record(); }

 private:
  friend class Endpoint;
  RingFollower(shm::MediatedRingFollower ring, uint32_t region_index,
               std::shared_ptr<Connection> connection, std::shared_ptr<void> claim)
      : ring_(std::move(ring)),
        region_index_(region_index),
        connection_(std::move(connection)),
        claim_(std::move(claim)) {}

  shm::MediatedRingFollower ring_;
  uint32_t region_index_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // A consumer: the endpoint lends one per ring.
  bool armed_ = false;           // The broker was asked for packets.
  shm::Waiter waiter_;
};

}  // namespace iob
