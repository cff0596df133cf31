// IdOwners: who allocates directly in a shared id allocator, by number.
//
//   free --Take--> live --Leave--> left --Reap: its grant is free--> free
//                                       '-- its words cannot be --> burned
//
//   O1  A number belongs to one attachment. While that attachment's grant of the section is held by
//       anybody, in any process, the number is nobody else's: its claims may still be finished.
//   O2  Reap turns the claims that nobody will finish into tombstones before a number is free
//       again.
//   O3  A number whose claims could not be settled is never used again.
//
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "shm/grant_lock.h"
#include "shm/id_allocator_shared_writer.h"
#include "shm/memfd.h"

namespace iob::server {

// An id allocator that endpoints may map for writing.
class SharedIds {
 public:
  SharedIds(shm::SealedMemfd memfd, shm::IdAllocatorSharedWriter writer)
      : memfd_(std::move(memfd)), writer_(std::move(writer)) {}

  const shm::SealedMemfd& memfd() const { return memfd_; }
  const shm::IdAllocatorSharedWriter& writer() const { return writer_; }

  // A number for an attachment whose grant of the section is number `grant_number` of `range`.
  // RESOURCE_EXHAUSTED / QUOTA when all are taken.
  absl::StatusOr<shm::IdOwner> Take(shm::GrantRange range, uint32_t grant_number);
  // Its attachment is over. Without effect for a number that is not live.
  void Leave(shm::IdOwner owner);
  // Frees the numbers that were left and whose grant nobody holds. True when none of those that
  // were left had to be kept.
  bool Reap();

  size_t live_count() const { return live_.size(); }
  size_t left_count() const { return left_.size(); }

 private:
  struct Owner {
    shm::GrantRange range;
    uint32_t grant_number = 0;
  };
  shm::SealedMemfd memfd_;
  shm::IdAllocatorSharedWriter writer_;
  shm::IdOwner never_used_ = shm::kIdOwnerBroker + 1;
  std::vector<shm::IdOwner> free_;
  absl::btree_map<shm::IdOwner, Owner> live_;
  absl::btree_map<shm::IdOwner, Owner> left_;
};

}  // namespace iob::server
