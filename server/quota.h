// Quota and Charge: who uses how much, as receipts that come home.
//
// A Charge is held as long as the thing it paid for; when it dies, the units go back. The account
// must balance at the end, so a leak of either is found where it happens. Owned by the loop thread.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/limits.h"
#include "server/memory_room.h"

namespace iob::server {

class Quota;

// Units of one principal; comes home when destroyed. Empty by default.
class Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept
      : quota_(std::exchange(other.quota_, nullptr)),
        uid_(other.uid_),
        memory_bytes_(other.memory_bytes_),
        buffers_(other.buffers_),
        descriptors_(other.descriptors_) {}
  Charge& operator=(Charge&& other) noexcept;
  ~Charge() { Return(); }

  uint64_t memory_bytes() const { return memory_bytes_; }

 private:
  friend class Quota;
  Charge(Quota* quota, uint32_t uid, uint64_t memory_bytes, uint64_t buffers, uint64_t descriptors)
      : quota_(quota),
        uid_(uid),
        memory_bytes_(memory_bytes),
        buffers_(buffers),
        descriptors_(descriptors) {}
  void Return();
  Quota* quota_ = nullptr;
  uint32_t uid_ = 0;
  uint64_t memory_bytes_ = 0;
  uint64_t buffers_ = 0;
  uint64_t descriptors_ = 0;
};

class Quota {
 public:
  // `limits` outlives it; zero memory limits were replaced by the caller.
  // `room`, which outlives it too: of the machine; nullptr: there is always room.
  explicit Quota(const Limits& limits, const MemoryRoom* room = nullptr)
      : limits_(limits), room_(room) {}
  ~Quota();

  // One buffer of `memory_bytes` in so many sections for `uid`. RESOURCE_EXHAUSTED / QUOTA names
  // the limit, what is used and what was asked for.
  absl::StatusOr<Charge> ChargeBuffer(uint32_t uid, uint64_t memory_bytes,
                                      uint64_t descriptors = 0);
  // The memory of a shared region.
  absl::StatusOr<Charge> ChargeRegion(uint32_t uid, uint64_t memory_bytes,
                                      uint64_t descriptors = 0);

  // Whether the machine has so much memory left for the daemon, before it is allocated and after it
  // was charged. RESOURCE_EXHAUSTED / QUOTA.
  absl::Status CheckRoom(uint64_t size_bytes) const;

  uint64_t memory_bytes() const { return total_.memory_bytes; }
  uint64_t buffers() const { return total_.buffers; }
  uint64_t descriptors() const { return total_.descriptors; }

 private:
  friend class Charge;
  struct Account {
    uint64_t memory_bytes = 0;
    uint64_t buffers = 0;
    uint64_t descriptors = 0;
  };
  absl::StatusOr<Charge> Take(uint32_t uid, uint64_t memory_bytes, uint64_t buffers,
                              uint64_t descriptors);

  const Limits& limits_;
  const MemoryRoom* room_;
  Account total_;
  absl::flat_hash_map<uint32_t, Account> by_uid_;
};

}  // namespace iob::server
