// ReserveRingWriter: a producer of a reserve ring. Records are written in place, and nobody else is
// on their way: not the broker, and no system call while the consumer is awake.
//
//     absl::StatusOr<iob::Reservation> room = writer.Reserve(size);
//     if (!room.ok()) return room.status();
//     Fill(room->bytes());
//     absl::Status s = writer.Submit(*room);          // or Discard
//
// The same calls for both modes of a ring. With lanes this attachment has a ring of its own, and
// what it does harms nobody else. In a shared ring all producers have one order, and must trust
// each other.
//
//   W1  The consumer gets records in the order of Reserve, each when it and all before it (of this
//       producer; in a shared ring, of anybody) are submitted or discarded. Any number of
//       reservations may be open, but each holds up what is behind it.
//   W2  What was submitted is delivered, also if this process is killed in the next instruction.
//       What was not is never seen: a lane ends before it, and in a shared ring the broker discards
//       it once the process is proven dead.
//       A ring whose stall policy is renewal leaves a stopped producer behind: what it had reserved
//       then comes after what others have submitted since, its own records still in their order.
//       Everybody else goes on into the ring's new memory, when nothing of his is open in the old.
//   W3  Memory that a peer may spoil is never believed: at worst, calls fail.
//   W4  Nothing waits without a deadline.
//
// Wakes: a sleeping consumer is woken by default. For batches, SubmitDeferred any number of records
// and Publish them at once.
//
// The writer keeps its memory mapped until it is destroyed, also when its Endpoint is closed first;
// until then its place in the ring is not given to anybody else, and it works on, without packets
// to a consumer that polls. Destroying it publishes what was deferred. What is open then stays open
// until the endpoint is closed as well: submit or discard first. Thread-compatible, together with
// its Endpoint and everything else opened from that. A forked child does not inherit the mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/types.h"
#include "shm/check.h"
#include "shm/ledger.h"
#include "shm/reserve_lane_producer.h"
#include "shm/reserve_shared_producer.h"
#include "shm/waiter.h"

namespace iob {

class Connection;
struct DirectGrant;
struct GrantedRegion;
class RingRenewal;

enum class ReserveOutcome : uint8_t {
  kReserved,
  kFull,       // The consumer has not released enough.
  kTooLarge,   // Longer than payload_bytes_max(): it will never fit.
  kIntegrity,  // Shared words that cannot be.
  kBusy,       // Shared ring: other producers were quicker, a thousand times in a row.
};

enum class Wake : uint8_t {
  kNone,     // Does not wake; a wake that was due is paid by the next call that is not kNone.
  kDefault,  // Wakes a consumer that sleeps.
  kForce,    // Wakes it whatever it says.
};

// Room for one record, to be given back exactly once to the writer that it came from, by Submit or
// Discard. Giving it to another writer, or (lanes) twice, ends the program.
class Reservation {
 public:
  // As long as was asked for, 8-aligned, not initialised. The consumer may look at it already, and
  // will not believe it.
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  friend class ReserveRingWriter;
  std::span<std::byte> bytes_;
  std::variant<shm::LaneReservation, shm::SharedReservation> claim_;
};

// What this writer did: attempted = stored + rejected. Records and payload bytes.
struct ReserveWriterStats {
  uint64_t stored_records = 0;  // Submitted, and not behind an open reservation (lanes).
  uint64_t stored_bytes = 0;
  uint64_t discarded_records = 0;  // Never attempted.
  // Indexed by LossCause.
  std::array<uint64_t, shm::kLossCauses> rejected_records = {};
  std::array<uint64_t, shm::kLossCauses> rejected_bytes = {};
};

class ReserveRingWriter {
 public:
  ReserveRingWriter(ReserveRingWriter&& other) noexcept = default;
  ReserveRingWriter& operator=(ReserveRingWriter&& other) noexcept;
  ~ReserveRingWriter();

  uint32_t region_index() const { return region_index_; }
  ReserveMode mode() const {
    return std::holds_alternative<shm::LaneProducer>(ring_) ? ReserveMode::kLanes
                                                            : ReserveMode::kShared;
  }
  // The lane, or the owner number in a shared ring: SharedRecord::lane_or_owner at the consumer.
  uint32_t seat() const { return seat_; }
  uint64_t payload_bytes_max() const { return payload_bytes_max_; }

  // Room for a payload of that many bytes, which may be 0. Never blocks, but for the moment at
  // which a renewed ring's new memory is fetched from the broker: a quarter of a second at most.
  // Everything but kReserved leaves the ring as it was, and counts as rejected.
  ReserveOutcome TryReserve(uint64_t payload_bytes, Reservation* ret_reservation) {
    if (auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
      auto& claim = ret_reservation->claim_.emplace<shm::LaneReservation>();
      const auto outcome = lane->Reserve(payload_bytes, &claim);
      ret_reservation->bytes_ = claim.bytes();
      return static_cast<ReserveOutcome>(outcome);
    }
    if (Shared().retired()) [[unlikely]]
      MoveOnBriefly();
    auto& claim = ret_reservation->claim_.emplace<shm::SharedReservation>();
    const auto outcome = Shared().Reserve(payload_bytes, &claim);
    ret_reservation->bytes_ = claim.bytes;
    open_ += outcome == shm::SharedReserveOutcome::kReserved ? 1 : 0;
    return static_cast<ReserveOutcome>(outcome);
  }

  // The same as a status:
  //   RESOURCE_EXHAUSTED / RING_FULL      WaitForRoom, or drop the record
  //   FAILED_PRECONDITION / PEER_CLOSED   full, and the consumer's endpoint is gone for good
  //   INVALID_ARGUMENT                    more than payload_bytes_max()
  //   DATA_LOSS / INTEGRITY               shared words that cannot be
  //   UNAVAILABLE / BUSY                  kBusy
  absl::StatusOr<Reservation> Reserve(uint64_t payload_bytes);

  // Gives the record to the consumer; spent, whatever the answer is.
  //   DATA_LOSS / INTEGRITY  shared ring: the claim was no longer there; somebody spoils the ring
  absl::Status Submit(const Reservation& reservation, Wake wake = Wake::kDefault) {
    if (auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
      if (lane->Submit(LaneClaim(reservation), static_cast<shm::LaneWake>(wake))) [[unlikely]]
        SendKick();
      return absl::OkStatus();
    }
    return FinishShared(reservation, /*discard=*/false, wake);
  }
  // The record is never seen. Errors as Submit.
  absl::Status Discard(const Reservation& reservation, Wake wake = Wake::kDefault) {
    if (auto* const lane = std::get_if<shm::LaneProducer>(&ring_)) {
      if (lane->Discard(LaneClaim(reservation), static_cast<shm::LaneWake>(wake))) [[unlikely]]
        SendKick();
      return absl::OkStatus();
    }
    return FinishShared(reservation, /*discard=*/true, wake);
  }

  // The same, but visible, and a consumer woken, after the next call of another kind than these two
  // at the latest. In a shared ring the last deferred record holds up everybody's until then.
  absl::Status SubmitDeferred(const Reservation& reservation) {
    return Defer(reservation, /*discard=*/false);
  }
  absl::Status DiscardDeferred(const Reservation& reservation) {
    return Defer(reservation, /*discard=*/true);
  }
  absl::Status Publish(Wake wake = Wake::kDefault);

  // Reserve, copy, Submit. Errors of both.
  absl::Status Write(std::span<const std::byte> payload, Wake wake = Wake::kDefault);

  // Waits until the ring has room for such a payload; false when the deadline passed. Publishes
  // what was deferred; what is open holds room that nobody else can give back. In a shared ring
  // another producer may be quicker: reserve, and wait again.
  //   INVALID_ARGUMENT                    more than payload_bytes_max()
  //   FAILED_PRECONDITION / PEER_CLOSED   there is none, and the consumer's endpoint is gone
  //   UNAVAILABLE / DISCONNECTED, FAILED_PRECONDITION / REVOKED, DETACHED  there is none, and the
  //                                       broker could not tell of the consumer's end
  absl::StatusOr<bool> WaitForRoom(uint64_t payload_bytes, Deadline deadline);

  // As eBPF's ring_buffer__query: ring bytes from the oldest record that was not released to the
  // newest reservation, headers included; the ring's size; and the positions of both. In a shared
  // ring of all producers, and of its newest memory. Of now, and believed of nobody: for display
  // and pacing.
  uint64_t AvailableDataBytes();
  uint64_t SizeBytes() const;
  uint64_t ConsumerPosition();
  uint64_t ProducerPosition() const;

  ReserveWriterStats stats() const;

 private:
  friend class Endpoint;
  using Ring = std::variant<shm::LaneProducer, shm::SharedProducer>;
  // Shared ring: a record that waits for the next call.
  struct Deferred {
    shm::SharedReservation claim;
    bool discard = false;
  };

  static absl::StatusOr<ReserveRingWriter> Open(const GrantedRegion& region,
                                                std::shared_ptr<Connection> connection,
                                                std::shared_ptr<void> claim);
  ReserveRingWriter(Ring ring, const GrantedRegion& region, uint64_t payload_bytes_max,
                    std::shared_ptr<Connection> connection, std::shared_ptr<void> claim);

  shm::SharedProducer& Shared() { return *std::get_if<shm::SharedProducer>(&ring_); }
  static const shm::LaneReservation& LaneClaim(const Reservation& reservation) {
    const auto* const claim = std::get_if<shm::LaneReservation>(&reservation.claim_);
    IOB_CHECK(claim != nullptr);
    return *claim;
  }
  absl::Status FinishShared(const Reservation& reservation, bool discard, Wake wake);
  absl::Status FinishClaim(const Deferred& finished, Wake wake);
  void MoveOn(Deadline deadline);
  void MoveOnBriefly();
  absl::Status FlushDeferred(Wake wake);
  absl::Status Defer(const Reservation& reservation, bool discard);
  absl::Status Refusal(ReserveOutcome outcome, uint64_t payload_bytes) const;
  bool IsRetired() const;
  bool HasRoom(uint64_t payload_bytes);
  // True when it saw room instead of sleeping.
  bool SleepForRoom(uint64_t payload_bytes, Deadline deadline);
  void SendKick();
  ReserveWriterStats Counted() const;

  Ring ring_;
  std::shared_ptr<DirectGrant> grant_;  // What `ring_` is made of; the endpoint's, too.
  uint32_t generation_;                 // Of a shared `ring_`.
  uint64_t open_ = 0;                   // Reservations in it.
  shm::SharedLedger counted_formerly_;  // In memory that is gone.
  std::shared_ptr<RingRenewal> renewal_;
  uint32_t region_index_;
  uint32_t seat_;
  uint64_t payload_bytes_max_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<void> claim_;  // The endpoint lends one per ring.
  std::optional<Deferred> deferred_;
  ReserveWriterStats counted_before_;  // By those who had the seat earlier.
  shm::Waiter waiter_;
};

}  // namespace iob
