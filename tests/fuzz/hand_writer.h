// HandWriter: a broker's side of a mediated ring, by hand.
//
// The real writer seals DATA, so that nobody but it can spoil a record; what a reader does with a
// spoilt one could then never be seen. This one writes the same bytes into sections that a peer may
// scribble over, without believing anything that it could have scribbled.
//
// The payload and the tag of a record follow from its number, and so does the gap before it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "shm/mediated_ring_reader.h"
#include "shm/ring_layout.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {

// The sections of a ring of one page, made once.
struct MediatedRing {
  MediatedRing()
      : layout(shm::RingLayout::ForRegion(2 * shm::PageBytes()).value()),
        head(layout.head_section_bytes()),
        data(layout.data_section_bytes()),
        follow(layout.follow_section_bytes()) {}
  MediatedRing& Fresh() {
    head.Clear();
    data.Clear();
    follow.Clear();
    return *this;
  }
  void GiveTo(Peer& peer, uint64_t start) const {
    const uint64_t ledger = layout.capacity_bytes();
    const uint64_t first = start % ledger;
    peer.Owns(head.mapping, {shm::kHeadOffset, shm::kTailOffset, shm::kWaitingOffset});
    peer.Owns(data.mapping,
              {ledger + shm::kLedgerHead, ledger + shm::kLedgerOldest,
               ledger + shm::kLedgerOldestRecords, ledger + shm::kLedgerOldestBytes,
               ledger + shm::kLedgerOldestSettled, ledger + shm::kLedgerTailAccepted,
               ledger + shm::kLedgerWantRoom, first, (first + 8) % ledger, (first + 48) % ledger});
    peer.Owns(follow.mapping, {shm::kFollowWaitingOffset});
    peer.Knows({ledger - 8, ledger, ledger + 8, shm::kRecordPayloadBytesMax,
                shm::kRecordPayloadBytesMax + 1, shm::kGapTag, shm::kGapPayloadBytes, start});
  }

  shm::RingLayout layout;
  Section head;
  Section data;
  Section follow;
};

class HandWriter {
 public:
  HandWriter(const MediatedRing& ring, const shm::RingOptions& options, uint64_t start);

  // Stores one record if there is room; overwrites if that is the ring's policy. Visible after
  // Publish.
  void Append(uint64_t payload_bytes);
  void Publish();

  uint64_t stored_records() const { return sizes_.size(); }
  // Whether `view` is record `number`, without its gap.
  bool IsRecord(uint64_t number, const shm::RecordView& view) const;

 private:
  struct Unit {
    uint64_t ring_bytes = 0;
    uint64_t payload_bytes = 0;
  };

  bool MakeRoom(uint64_t bytes);
  void StoreRecord(uint64_t tag, std::span<const uint64_t> words,
                   std::span<const std::byte> payload);
  void StoreWord(uint64_t position, uint64_t value) const;
  void SetLedger(uint64_t offset, uint64_t value) const;

  const MediatedRing& ring_;
  shm::RingOptions options_;
  uint64_t capacity_;
  uint64_t head_;
  uint64_t oldest_;
  uint64_t oldest_records_ = 0;
  uint64_t oldest_bytes_ = 0;
  std::deque<Unit> units_;  // From oldest_ on.
  std::vector<uint64_t> sizes_;
};

}  // namespace iob::fuzz
