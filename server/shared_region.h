// SharedRegion: a region object of its own, that many buffers refer to.
//
//   SharedRegion --owns--> one mediated ring, its ledger, its charge
//        ^--- handles (registry)          ^--- uses: region i of buffer b, user number u
//
//   S1  It lives while it has a handle or a use; the registry takes it away then.
//   S2  A user number is never given twice: it tells the buffers' grant locks apart.
//   S3  All records of all its buffers pass through one writer, so they have one order and never
//       interleave.
//
// A region of one page can be made, as in Zircon, but has no room for records: no buffer can use
// it. Values and rules only. Owned by the loop thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "iob/v1/placement.pb.h"
#include "server/holder.h"
#include "server/quota.h"
#include "server/region_memory.h"
#include "server/token.h"

namespace iob::server {

class Buffer;

class SharedRegion {
 public:
  // One region of one buffer.
  struct Use {
    Buffer* buffer = nullptr;
    uint32_t region_index = 0;
  };

  SharedRegion(Koid koid, HolderInfo owner, absl::Time create_time, uint64_t size_bytes,
               std::optional<MediatedRing> ring, Charge charge,
               v1::ObtainedPlacement placement = {})
      : koid_(koid),
        owner_(owner),
        create_time_(create_time),
        size_bytes_(size_bytes),
        ring_(std::move(ring)),
        charge_(std::move(charge)),
        placement_(std::move(placement)) {}

  Koid koid() const { return koid_; }
  const HolderInfo& owner() const { return owner_; }
  absl::Time create_time() const { return create_time_; }
  uint64_t size_bytes() const { return size_bytes_; }
  uint64_t memory_bytes() const { return charge_.memory_bytes(); }
  bool usable() const { return ring_.has_value(); }
  // What its memory got.
  const v1::ObtainedPlacement& placement() const { return placement_; }
  // nullptr unless it is usable.
  MediatedRing* ring() { return ring_ ? &*ring_ : nullptr; }
  const MediatedRing* ring() const { return ring_ ? &*ring_ : nullptr; }

  absl::flat_hash_set<Token>& handles() { return handles_; }
  const absl::flat_hash_set<Token>& handles() const { return handles_; }

  // By user number, oldest first.
  const absl::btree_map<uint64_t, Use>& uses() const { return uses_; }
  uint64_t NewUserNumber() { return next_user_++; }
  void AddUse(uint64_t user, Use use) { uses_[user] = use; }
  void RemoveUse(uint64_t user) { uses_.erase(user); }

  bool needed() const { return !handles_.empty() || !uses_.empty(); }

  // Raised user signals.
  uint32_t signals() const { return signals_; }
  // True when that changes anything.
  bool ChangeUserSignals(uint32_t clear, uint32_t set) {
    const uint32_t before = std::exchange(signals_, (signals_ & ~clear) | set);
    return signals_ != before;
  }

 private:
  Koid koid_;
  HolderInfo owner_;
  absl::Time create_time_;
  uint64_t size_bytes_;
  std::optional<MediatedRing> ring_;
  Charge charge_;
  v1::ObtainedPlacement placement_;
  absl::flat_hash_set<Token> handles_;
  absl::btree_map<uint64_t, Use> uses_;
  uint64_t next_user_ = 0;
  uint32_t signals_ = 0;
};

}  // namespace iob::server
