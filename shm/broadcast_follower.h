// BroadcastFollower: one reader of a broadcast ring, unknown to its writer and to other followers.
//
// The writer never waits, so a record may be overwritten while it is being read. Hence there is no
// view of a record, only copies: Next copies into the caller's buffer first and then looks whether
// the writer has come past; a copy that it may have touched is thrown away.
//
//     o = oldest   if next < o: next = o          who was overtaken goes on at the oldest record
//     h = head     if next == h: nothing          always oldest first: then o <= h
//     copy; fence; if oldest > next: again        else the copy is intact
//
//   F1  The position is private: there is nothing in the ring that a follower could spoil.
//   F2  received + told as lost = next_sequence() - first_sequence(), at every moment. A sequence
//       number that was told as lost is never delivered, and the other way round.
//   F3  Nothing is done with a length before it was checked against the ring; nothing at all with
//       a record before its copy was found intact.
//   F4  Words that no honest writer leaves poison the follower: every later call says so.
//
// Any number per ring, each thread-compatible; a forked child does not inherit the mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/broadcast_layout.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/wait_hint.h"

namespace iob::shm {

enum class FollowOutcome : uint8_t {
  kRecord,    // Its payload is in the buffer.
  kEmpty,     // Nothing new.
  kLost,      // So many records were overwritten before they were read.
  kTooSmall,  // The next record is longer than the buffer; it stays the next one.
  kPoisoned,  // For good: see status().
};

// What Next found; the members that go with the outcome are set.
struct Followed {
  uint64_t sequence = 0;       // kRecord, kTooSmall; kLost: of the first that was lost.
  uint64_t tag = 0;            // kRecord.
  uint64_t payload_bytes = 0;  // kRecord, kTooSmall.
  uint64_t lost_records = 0;   // kLost.
};

class BroadcastFollower {
 public:
  enum class From : uint8_t { kOldest, kNewest };

  // Maps DATA for reading and WAIT for writing. DATA_LOSS when the ring's words cannot be.
  static absl::StatusOr<BroadcastFollower> Map(const BroadcastLayout& layout,
                                               const SealedMemfd& data, const SealedMemfd& wait,
                                               From from);

  // The next record into the front of `buffer`, or what happened instead. Whatever it says, the
  // rest of the buffer is undefined.
  FollowOutcome Next(std::span<std::byte> buffer, Followed* ret_followed);

  // Why Next says kPoisoned. OK before that.
  absl::Status status() const;

  // The sequence numbers that this follower started at and has come to (F2).
  uint64_t first_sequence() const { return first_sequence_; }
  uint64_t next_sequence() const { return next_sequence_; }
  uint64_t received_records() const { return received_records_; }
  uint64_t lost_records() const { return next_sequence_ - first_sequence_ - received_records_; }

  // Next would say something else than kEmpty: one look, without taking anything.
  bool HasRecords();

  // Before sleeping: says how to be woken (kWaitingOnFutex, kWaitingOnSocket), then looks once
  // more. True when nothing is there, so that sleeping is right.
  bool PrepareToWait(uint32_t how);
  // The word to sleep on: the low half of head as last seen.
  FutexWord HeadWord() const;

 private:
  // Copies that the writer may spoil one after the other before Next gives up and tells the loss.
  static constexpr int kAttemptsMax = 64;

  enum class CopyOutcome : uint8_t { kIntact, kOvertaken, kPoisoned };

  BroadcastFollower(const BroadcastLayout& layout, ReadOnlyMapping data, AddressRange records,
                    Mapping wait_page);
  void Join(From from);

  // Looks at oldest, then at head; goes on at oldest when it was overtaken. False when there is no
  // record, or poison.
  bool Refresh();
  void MoveTo(uint64_t position);
  // The header of the next record, and its payload if that fits.
  CopyOutcome CopyNext(std::span<std::byte> buffer, BroadcastHeader* ret_header);
  FollowOutcome Take(const BroadcastHeader& header, uint64_t buffer_bytes, Followed* ret_followed);
  FollowOutcome Lose(uint64_t sequence, Followed* ret_followed);
  // Where the loss up to the current position ends for certain, without a record to tell.
  uint64_t LostBelow() const;
  void Poison(const char* what);

  const SharedAtomic<uint64_t>& Word(uint64_t offset_bytes) const {
    return data_.Word<uint64_t>(offset_bytes);
  }

  BroadcastLayout layout_;
  ReadOnlyMapping data_;          // For the words of the first page.
  AddressRange records_mapping_;  // Read-only, twice in a row.
  Mapping wait_page_;
  SharedBytes records_;
  uint64_t next_ = 0;           // Position of the next record.
  uint64_t offset_ = 0;         // next_ % capacity.
  uint64_t oldest_ = 0;         // As last seen and checked.
  uint64_t head_ = 0;           // As last seen and checked; next_ when poisoned.
  uint64_t next_sequence_ = 0;  // The first that was neither received nor told as lost.
  uint64_t first_sequence_ = 0;
  uint64_t received_records_ = 0;
  bool joining_ = true;     // Neither a record nor a loss so far.
  bool overtaken_ = false;  // Since the last record: its loss may not be told yet.
  const char* poison_ = nullptr;
};

}  // namespace iob::shm
