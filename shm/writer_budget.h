// WriterBudget: how much of a ring one writer may fill with what nobody has read yet.
//
// Of several writers of one ring, one that is faster than the consumer would leave no room for the
// others. A budget bounds what of its records is resident, by number and by ring bytes (headers,
// stamps and padding included, since that is what the others miss).
//
//     if (!budget.Admit(ring, payload.size())) ...   // LossCause::kBudget; nothing was touched
//     if (ring.Append(...) == kStored) budget.Charge(ring, payload.size());
//
//   B1  resident = charged - released; a record is released when the ring's last good tail, or what
//       was overwritten, has passed its end. Exact: the end of each resident record is kept.
//   B2  resident_records <= records_max and resident_bytes <= bytes_max, where those are not 0.
//   B3  The tail is looked at only when the budget would say no without it.
//
// All memory is taken at creation: 16 bytes for each record that the limits let be resident at
// once, which is bytes_max / 16 of them when only bytes are limited. A
// default-made budget limits nothing and costs a compare. Gap records are nobody's, and not
// counted. Owned by the thread of the ring's writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "shm/mediated_ring_writer.h"
#include "shm/ring_layout.h"

namespace iob::shm {

// 0: no limit.
struct BudgetLimits {
  uint64_t records_max = 0;
  uint64_t bytes_max = 0;
};

class WriterBudget {
 public:
  WriterBudget() = default;
  WriterBudget(const BudgetLimits& limits, const RingLayout& layout);

  // Whether one more record of `payload_bytes` may become resident in `ring`, whatever room there
  // is.
  bool Admit(MediatedRingWriter& ring, uint64_t payload_bytes) {
    return ends_.empty() || AdmitWithin(ring, payload_bytes);
  }

  // The record of `payload_bytes` that was admitted has just been appended, and is the newest.
  void Charge(const MediatedRingWriter& ring, uint64_t payload_bytes) {
    if (!ends_.empty()) ChargeWithin(ring, payload_bytes);
  }

  // As last known: what was released since the last Admit is not counted off.
  uint64_t resident_records() const { return count_; }
  uint64_t resident_bytes() const { return bytes_; }

 private:
  struct Resident {
    uint64_t end = 0;  // Position.
    uint64_t bytes = 0;
  };

  bool AdmitWithin(MediatedRingWriter& ring, uint64_t payload_bytes);
  void ChargeWithin(const MediatedRingWriter& ring, uint64_t payload_bytes);
  bool HasRoomFor(uint64_t record_bytes) const;
  void ReleaseUpTo(uint64_t position);

  BudgetLimits limits_;
  std::vector<Resident> ends_;  // A ring of its own, oldest at first_; empty: no limits.
  uint64_t first_ = 0;
  uint64_t count_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace iob::shm
