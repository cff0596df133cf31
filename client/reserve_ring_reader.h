// ReserveRingReader: the consumer of a reserve ring, of all its lanes or of the one shared order.
//
//     while (true) {
//       absl::StatusOr<iob::WaitOutcome> outcome = reader.Wait(iob::After(1s));
//       if (!outcome.ok()) return outcome.status();
//       if (*outcome == iob::WaitOutcome::kPeerClosed) break;  // Drained, and nobody writes.
//       reader.Drain(1024, [&](const iob::SharedRecord& record) {
//         copy.resize(record.payload.size());
//         record.payload.CopyOut(0, copy);
//         Use(copy);
//       });
//     }
//
// A producer may change its records at any moment, also after it has submitted them. So a payload
// can only be copied out; length, number, stamp and origin were fetched once and stay as they are.
//
//   R1  Each record is given out once, those of one producer in its order. What was submitted
//       before the peer ended is delivered before Wait says kPeerClosed. A consumer that takes over
//       from one that ended goes on where that one released.
//   R2  Shared words that cannot be poison their lane: it is told of once (TakePoisonedLane) and
//       read no more, while the others go on. A shared ring, or the last lane, takes the reader
//       with it: DATA_LOSS / INTEGRITY from then on.
//   R3  Nothing waits without a deadline.
//   R4  A producer that is killed in the middle of a record holds up nobody: its lane ends before
//       it, and in a shared ring the broker takes the record back. One that is merely stopped in a
//       shared ring holds up all: see stalled(). If the ring's stall policy is renewal, the reader
//       goes on into the ring's new memory by itself; each producer's records stay in their order.
//
// The reader keeps its memory mapped until it is destroyed, also when its Endpoint is closed first;
// for the broker the endpoint is closed when both are gone. Thread-compatible, together with its
// Endpoint and everything else opened from that. A forked child does not inherit the mapping.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/futex.h"
#include "shm/reserve_lane_merge.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_salvage.h"
#include "shm/shared_record.h"
#include "shm/waiter.h"

namespace iob {

class Connection;
struct DirectGrant;
struct GrantedRegion;
class RingRenewal;

using shm::LaneOrder;
using shm::SharedBytes;
using shm::SharedRecord;

struct ReserveReaderOptions {
  // Of records from several lanes: a batch from each lane in turn, or by the time of their
  // reservation, if the ring is stamped. A shared ring has one order.
  LaneOrder order = LaneOrder::kFair;
  // kFair: in a row from one lane while others wait.
  uint32_t batch_records = 32;
  // kByStamp: a record is given out when every lane of the ring has one, or when it is that old;
  // what is submitted within this time of its reservation comes in order. Zero: at once.
  std::chrono::nanoseconds hold_back{0};
};

// A record of one's own, see TryRead.
struct ReserveRecord {
  uint32_t lane_or_owner = 0;  // ReserveRingWriter::seat() of who wrote it.
  uint64_t sequence = 0;       // As SharedRecord::sequence.
  uint64_t stamp_ns = 0;       // CLOCK_MONOTONIC as its producer claims it; 0 when not stamped.
  std::vector<std::byte> payload;
};

// A producer that holds up a shared ring, dead or alive.
struct ProducerStall {
  uint32_t owner = 0;                           // As it claims.
  std::chrono::steady_clock::time_point since;  // When this reader first saw it.
};

class ReserveRingReader {
 public:
  ReserveRingReader(ReserveRingReader&& other) noexcept = default;
  ReserveRingReader& operator=(ReserveRingReader&& other) noexcept = default;
  ~ReserveRingReader();

  uint32_t region_index() const { return region_index_; }
  ReserveMode mode() const {
    return std::holds_alternative<shm::LaneMerge>(ring_) ? ReserveMode::kLanes
                                                         : ReserveMode::kShared;
  }

  // The next record, if there is one (and, by stamp, if it is not held back). Its payload can be
  // copied until Release. Never blocks. kPoisoned: see status().
  ReadOutcome Next(SharedRecord* ret_record) { return NextAt(NowIfNeeded(), ret_record); }

  // Gives all records that Next returned back to their producers, and wakes those that wait for
  // room.
  void Release();

  // Calls `consume(const SharedRecord&)` for up to `records_max` records, then releases them at
  // once. Returns how many. DATA_LOSS (R2) after the good ones were consumed.
  template <typename Consume>
  absl::StatusOr<size_t> Drain(size_t records_max, Consume&& consume) {
    SharedRecord record;
    size_t count = 0;
    ReadOutcome outcome = ReadOutcome::kRecord;
    const int64_t now_ns = NowIfNeeded();
    while (count < records_max && (outcome = NextAt(now_ns, &record)) == ReadOutcome::kRecord) {
      consume(static_cast<const SharedRecord&>(record));
      ++count;
    }
    Release();
    if (outcome == ReadOutcome::kPoisoned) [[unlikely]]
      return status();
    return count;
  }

  // Copies the next record out and releases it; keeps the capacity of `ret_record`. False when
  // there is none. DATA_LOSS (R2).
  absl::StatusOr<bool> TryRead(ReserveRecord* ret_record);

  // Waits for a record: spins a little where that has paid off, then sleeps on the words of all
  // lanes, or of the awaited record, and the signal word. Releases nothing: what Next returned and
  // was not released still takes room.
  //   DATA_LOSS            R2
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED
  //                        no record is there and the broker cannot tell of the peer's end; a lost
  //                        broker is noticed within half a second
  // An endpoint whose handle had no WAIT is not told of its peer: never kPeerClosed then.
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline);

  // For a poll loop instead of Wait: asks for a packet on the attach socket, fd(), with the next
  // record. True when it is right to sleep; false when records or events are there already, the
  // peer is closed, or the ring or the connection is broken. After fd() became readable: take
  // Endpoint::PollEvents until it is empty, Drain until nothing is left, and arm again. The packet
  // comes from the producer, by way of the broker: one that is killed between its record and its
  // packet sends none, so poll with a timeout too, of the hold-back at most. Never true without the
  // right WAIT: no packet would come.
  bool ArmFd();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

  // Who holds up the ring, if the next record of a shared ring is reserved and not submitted. While
  // Wait (or ArmFd, again and again) sees that for longer than the ring's stall time, it tells the
  // broker, once per stall time. The broker looks for itself, for as long again; then it tells
  // watchers (WatchedEvent::kProducerStalled), and kills the producer if the ring says so.
  std::optional<ProducerStall> stalled();

  // A lane that was found poisoned and not told of yet (R2).
  std::optional<uint32_t> TakePoisonedLane();
  // Why that lane is read no more; OK while it is.
  absl::Status lane_status(uint32_t lane) const;

  // OK, or why Next says kPoisoned (R2).
  absl::Status status() const;

 private:
  friend class Endpoint;
  using Ring = std::variant<shm::LaneMerge, shm::SharedConsumer>;
  struct Waiting;  // The ring, as waiting sees it.

  static absl::StatusOr<ReserveRingReader> Open(const GrantedRegion& region,
                                                const ReserveReaderOptions& options,
                                                std::shared_ptr<Connection> connection,
                                                std::shared_ptr<void> claim);
  ReserveRingReader(Ring ring, const GrantedRegion& region, bool by_stamp,
                    std::shared_ptr<Connection> connection, std::shared_ptr<void> claim);

  int64_t NowIfNeeded() const { return by_stamp_ ? shm::MonotonicNs() : 0; }
  ReadOutcome NextAt(int64_t now_ns, SharedRecord* ret_record) {
    if (auto* const lanes = std::get_if<shm::LaneMerge>(&ring_)) {
      if (lanes->Next(ret_record, now_ns) == shm::LaneReadOutcome::kRecord) [[likely]]
        return ReadOutcome::kRecord;
      return status().ok() ? ReadOutcome::kEmpty : ReadOutcome::kPoisoned;
    }
    auto& shared = *std::get_if<shm::SharedConsumer>(&ring_);
    if (!retired_.empty()) [[unlikely]]
      return NextOfGenerations(ret_record);
    switch (shared.Next(ret_record)) {
      case shm::SharedReadOutcome::kRecord:
        return ReadOutcome::kRecord;
      case shm::SharedReadOutcome::kEmpty:
        if (shared.retired()) [[unlikely]]
          return NextOfGenerations(ret_record);
        return ReadOutcome::kEmpty;
      case shm::SharedReadOutcome::kPoisoned:
        break;
    }
    return ReadOutcome::kPoisoned;
  }
  ReadOutcome NextOfGenerations(SharedRecord* ret_record);
  std::optional<size_t> GenerationWithRecords(size_t before);
  void FollowRenewal(Deadline deadline);
  absl::Status FollowFirst();
  void DropGenerations();
  void TellStall();

  Ring ring_;
  // What `ring_` is made of, or the oldest of retired_; the endpoint's, too.
  std::shared_ptr<DirectGrant> grant_;
  // Memory of a shared ring that was given up and is not read out, oldest first.
  std::vector<shm::SharedSalvage> retired_;
  std::vector<std::shared_ptr<DirectGrant>>
      newer_;            // What the others than the oldest are made of, ring_ last.
  uint32_t generation_;  // Of ring_.
  std::shared_ptr<RingRenewal> renewal_;
  absl::Status follow_status_;  // Why the ring's newer memory could not be had.
  uint32_t region_index_;
  bool by_stamp_;
  bool armed_ = false;  // Producers were asked for packets.
  int64_t stall_ns_;
  int64_t stall_told_ns_ = 0;
  std::vector<absl::Status> unmapped_;  // By lane: why it was not even mapped; OK if it was.
  std::vector<uint32_t> untold_;        // Of those, the ones to tell of.
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // The endpoint lends one per ring.
  shm::Waiter waiter_;
};

}  // namespace iob
