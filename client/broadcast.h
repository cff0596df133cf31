// BroadcastWriter and BroadcastFollower: one writer, any number of followers that it does not know
// and never waits for.
//
//     writer.Write(bytes);                                       // ep1
//
//     iob::BroadcastRecord record;                               // ep0, any number of them
//     while (*follower.Wait(iob::After(1s)) != iob::WaitOutcome::kPeerClosed) {
//       while (*follower.TryRead(&record)) Use(record.payload, record.lost_records);
//     }
//
// The oldest records make room for new ones. A slow follower loses records, is told exactly how
// many, and hurts nobody; not even a hostile one can. Records are numbered from 0, over all writers
// that the ring ever had.
//
//   B1  received + lost = next_sequence() - first_sequence(), at every moment. A number that was
//       told as lost is never delivered, and the other way round.
//   B2  A record is delivered whole, as it was written, or not at all, also if the writer was
//       killed while it wrote: its successor goes on with the same ring and the next number.
//   B3  What was written before the peer ended is there before Wait says kPeerClosed.
//   B4  Shared words that cannot be poison a follower: DATA_LOSS / INTEGRITY from then on.
//   B5  Nothing waits without a deadline.
//
// Both keep their memory mapped until they are destroyed, also when their Endpoint is closed first.
// Thread-compatible, together with their Endpoint and everything else opened from that. A forked
// child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/ring_reader.h"
#include "client/types.h"
#include "shm/broadcast_follower.h"
#include "shm/broadcast_writer.h"
#include "shm/waiter.h"

namespace iob {

class Connection;
struct GrantedRegion;

using shm::BroadcastFigures;
using shm::Followed;
using shm::FollowOutcome;

class BroadcastWriter {
 public:
  BroadcastWriter(BroadcastWriter&& other) noexcept = default;
  BroadcastWriter& operator=(BroadcastWriter&& other) noexcept = default;

  uint32_t region_index() const { return region_index_; }
  uint64_t payload_bytes_max() const { return ring_.layout().payload_bytes_max(); }

  // Appends one record, visible at once, and wakes followers that sleep.
  //   INVALID_ARGUMENT  more than payload_bytes_max()
  absl::Status Write(std::span<const std::byte> payload);

  // The same, but visible after the next Publish. Errors as Write.
  absl::Status Append(std::span<const std::byte> payload);
  void Publish();

  // Room for a payload of up to `payload_bytes`, to be written in place; the oldest records are
  // gone from here on. Valid until the next call; not submitting gives it up. Errors as Write.
  absl::StatusOr<std::span<std::byte>> Reserve(uint64_t payload_bytes);
  // Appends the first `payload_bytes` of what was reserved, visible after the next Publish.
  //   INVALID_ARGUMENT  more than was reserved
  absl::Status Submit(uint64_t payload_bytes);

  // The number that the next record gets.
  uint64_t next_sequence() const { return ring_.next_sequence(); }
  // All of the ring's life: stored = overwritten + resident.
  BroadcastFigures figures() const { return ring_.figures(); }

 private:
  friend class Endpoint;
  static absl::StatusOr<BroadcastWriter> Open(const GrantedRegion& region,
                                              std::shared_ptr<Connection> connection,
                                              std::shared_ptr<void> claim);
  BroadcastWriter(shm::BroadcastWriter ring, const GrantedRegion& region,
                  std::shared_ptr<Connection> connection, std::shared_ptr<void> claim);

  shm::BroadcastWriter ring_;
  uint32_t region_index_;
  uint64_t tag_;
  uint64_t reserved_bytes_ = 0;  // Of payload; 0 when nothing is reserved.
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // The endpoint lends one per ring.
};

// Where a follower begins.
enum class FollowFrom : uint8_t {
  kOldest,  // With all that is still there.
  kNewest,  // With what is written from now on.
};

// A record of one's own, see TryRead.
struct BroadcastRecord {
  uint64_t sequence = 0;
  uint64_t tag = 0;           // As its writer claims.
  uint64_t lost_records = 0;  // Right before it.
  std::vector<std::byte> payload;
};

class BroadcastFollower {
 public:
  BroadcastFollower(BroadcastFollower&& other) noexcept = default;
  BroadcastFollower& operator=(BroadcastFollower&& other) noexcept = default;

  uint32_t region_index() const { return region_index_; }
  uint64_t payload_bytes_max() const { return payload_bytes_max_; }

  // The next record into the front of `buffer`, or what happened instead: see shm::FollowOutcome. A
  // loss is an outcome of its own, before the record that follows it. Never blocks.
  FollowOutcome Next(std::span<std::byte> buffer, Followed* ret_followed) {
    return ring_.Next(buffer, ret_followed);
  }

  // The next record as a copy, and how many were lost right before it; keeps the capacity of
  // `ret_record`. False when there is none. A loss that no record follows yet is told with the next
  // one, and counted in lost_records() at once. DATA_LOSS (B4).
  absl::StatusOr<bool> TryRead(BroadcastRecord* ret_record);

  // B1. Lost are also those that no record has told of yet.
  uint64_t first_sequence() const { return ring_.first_sequence(); }
  uint64_t next_sequence() const { return ring_.next_sequence(); }
  uint64_t received_records() const { return ring_.received_records(); }
  uint64_t lost_records() const { return ring_.lost_records(); }

  // Waits for a record or a loss: spins a little where that has paid off, then sleeps on the ring's
  // head and the signal word. Errors as ReserveRingReader::Wait. Never kPeerClosed without the
  // right WAIT.
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline);

  // As ReserveRingReader::ArmFd. All followers of an endpoint hear one packet.
  bool ArmFd();
  // The attach socket; -1 when the endpoint is closed.
  int fd() const;

  // OK, or why Next says kPoisoned (B4).
  absl::Status status() const;

 private:
  friend class Endpoint;
  struct Waiting;  // The ring, as waiting sees it.

  static absl::StatusOr<BroadcastFollower> Open(const GrantedRegion& region, FollowFrom from,
                                                std::shared_ptr<Connection> connection);
  BroadcastFollower(shm::BroadcastFollower ring, uint32_t region_index, uint64_t payload_bytes_max,
                    std::shared_ptr<Connection> connection);

  shm::BroadcastFollower ring_;
  uint32_t region_index_;
  uint64_t payload_bytes_max_;
  uint64_t untold_losses_ = 0;  // TryRead has met them, and no record since.
  std::shared_ptr<Connection> connection_;
  shm::Waiter waiter_;
};

}  // namespace iob
