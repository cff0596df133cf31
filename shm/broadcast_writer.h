// BroadcastWriter: the one who appends to a broadcast ring, and never waits for anybody.
//
//          overwritten     oldest        records        head
//     ---------------------->|<------------------------->|
//                            next Append moves it first, then writes over what was there
//
// When there is no room the oldest records go. Followers have no say in it: a slow one loses
// records, counts them, and hurts nobody.
//
//   V1  Positions and counters live in this object; what is stored to DATA are copies.
//   V2  A record becomes visible as a whole, by the store of head; a writer that is killed leaves
//       at most a torn record beyond head, where nobody looks.
//   V3  Killed at any instruction, it leaves a ring that a successor can go on with: no sequence
//       number is used twice or left out, and the ledger is exact again once the successor is
//       mapped (B3 in broadcast_layout.h).
//   V4  From DATA it reads only the headers of its own records when they are about to go, and
//       believes them only if they are the ones expected. Whatever else it finds there (another
//       process that may write has been at it), everything below head counts as overwritten.
//
// How long the records are that go is read from the ring: a list of lengths would have to be as
// long as the ring has small records, and the bytes are about to be written anyway.
//
// Two writers at once are two bugs: prove the old one dead before its successor is mapped.
// Owned by one thread; a forked child does not inherit the mapping.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/broadcast_layout.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/wait_hint.h"

namespace iob::shm {

// stored = overwritten + resident, in records and in payload bytes. All of the ring's life, not of
// one writer's.
struct BroadcastFigures {
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  uint64_t overwritten_records = 0;
  uint64_t overwritten_bytes = 0;
  uint64_t restarts = 0;  // How often V4 has met what it did not expect, in this writer.
};

class BroadcastWriter {
 public:
  // Goes on where the ring is: at its beginning when the sections are new, else after the last
  // record that a predecessor published. DATA_LOSS when head and oldest cannot be; records below
  // head that cannot be count as overwritten. Wakes who sleeps, in case the predecessor still owed
  // that.
  static absl::StatusOr<BroadcastWriter> Map(const BroadcastLayout& layout, const SealedMemfd& data,
                                             const SealedMemfd& wait);

  const BroadcastLayout& layout() const { return layout_; }
  // The sequence number that the next record gets.
  uint64_t next_sequence() const { return next_sequence_; }
  BroadcastFigures figures() const;

  // Appends one record, visible after the next Publish at the latest (V2). False when it is longer
  // than the ring can hold. Ends a reservation.
  bool Append(uint64_t tag, std::span<const std::byte> payload) {
    if (payload.size() > layout_.payload_bytes_max()) return false;
    const uint64_t record_bytes = BroadcastRecordBytes(payload.size());
    MakeRoom(record_bytes);
    // The last word first: what header and payload leave of it is padding, and must not be stale.
    records_.CopyIn(write_offset_ + record_bytes - sizeof(kZeros), kZeros);
    if (!payload.empty()) records_.CopyIn(write_offset_ + kBroadcastHeaderBytes, payload);
    Complete(tag, payload.size());
    return true;
  }

  // Room for a payload of up to `payload_bytes`, to be written in place; without memory when the
  // ring cannot hold it. The oldest records are gone from here on. Valid until the next
  // call; not submitting gives it up.
  std::span<std::byte> Reserve(uint64_t payload_bytes);
  // Appends the first `payload_bytes` of what was reserved.
  void Submit(uint64_t tag, uint64_t payload_bytes);

  // Makes what was appended visible and wakes whoever sleeps on the futex. Once per batch. True
  // when a follower asked for a packet on its socket.
  bool Publish() {
    const uint32_t asked = PublishAndTakeAsked(*shared_.waiting, [this] { StoreHead(); });
    return asked != 0 && Wake(asked);
  }

 private:
  static constexpr std::array<std::byte, 8> kZeros = {};

  // The words of the ring, found once. They live as long as the mappings.
  struct SharedWords {
    SharedAtomic<uint64_t>* head;
    SharedAtomic<uint64_t>* next_sequence;
    SharedAtomic<uint64_t>* stored_bytes;
    SharedAtomic<uint64_t>* oldest;
    SharedAtomic<uint64_t>* overwritten_records;
    SharedAtomic<uint64_t>* overwritten_bytes;
    SharedAtomic<uint32_t>* waiting;
  };
  static SharedWords SharedWordsOf(const Mapping& positions, const Mapping& wait_page);

  BroadcastWriter(const BroadcastLayout& layout, Mapping positions, Mapping records,
                  Mapping wait_page);

  // Takes over positions and counters from the ring.
  absl::Status Resume();
  // Counts the records in [oldest, head); false when they cannot be those of a writer that had
  // published `next_sequence` before its last publish.
  bool CountResident(uint64_t next_sequence, uint64_t* ret_payload_bytes);
  BroadcastHeader HeaderAt(uint64_t position) const;

  // Room for `record_bytes` at head, told to followers before anything is written there.
  void MakeRoom(uint64_t record_bytes) {
    reserved_bytes_ = 0;
    if (record_bytes > layout_.capacity_bytes() - (head_ - oldest_)) DropOldest(record_bytes);
  }
  void DropOldest(uint64_t record_bytes);
  void DropAll();

  // The header of the record at head, whose payload and padding are there.
  void Complete(uint64_t tag, uint64_t payload_bytes) {
    const BroadcastHeader header = {.sequence = next_sequence_,
                                    .payload_bytes = static_cast<uint32_t>(payload_bytes),
                                    .zero = 0,
                                    .tag = tag};
    records_.CopyIn(write_offset_, std::as_bytes(std::span(&header, 1)));
    const uint64_t record_bytes = BroadcastRecordBytes(payload_bytes);
    head_ += record_bytes;
    write_offset_ += record_bytes;
    if (write_offset_ >= layout_.capacity_bytes()) write_offset_ -= layout_.capacity_bytes();
    next_sequence_ += 1;
    stored_bytes_ += payload_bytes;
  }

  void StoreHead() {
    // Pairs with the followers' acquire: the records below are complete (B2).
    shared_.head->StoreRelease(head_);
    // Release, so that who sees the counter sees a head that goes with it (B3).
    shared_.next_sequence->StoreRelease(next_sequence_);
    shared_.stored_bytes->StoreRelaxed(stored_bytes_);
    published_ = head_;
  }
  void StoreOldest();
  bool Wake(uint32_t asked);

  BroadcastLayout layout_;
  Mapping positions_;        // The first page of DATA.
  Mapping records_mapping_;  // Twice in a row: a record that wraps is contiguous here.
  Mapping wait_page_;
  SharedWords shared_;
  SharedBytes records_;
  uint64_t head_ = 0;
  uint64_t write_offset_ = 0;  // head_ % capacity.
  uint64_t published_ = 0;     // Head as followers know it.
  uint64_t oldest_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t oldest_sequence_ = 0;
  uint64_t stored_bytes_ = 0;
  uint64_t overwritten_bytes_ = 0;
  uint64_t reserved_bytes_ = 0;  // Of the ring; 0 when nothing is reserved.
  uint64_t restarts_ = 0;
};

}  // namespace iob::shm
