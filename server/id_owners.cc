#include "server/id_owners.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/logging.h"

namespace iob::server {

absl::StatusOr<shm::IdOwner> SharedIds::Take(shm::GrantRange range, uint32_t grant_number) {
  if (free_.empty() && never_used_ > shm::kIdOwnersMax) Reap();
  shm::IdOwner owner = never_used_;
  if (!free_.empty()) {
    owner = free_.back();
    free_.pop_back();
  } else if (never_used_ <= shm::kIdOwnersMax) {
    never_used_ += 1;
  } else {
    return MakeError(
        v1::ERROR_REASON_QUOTA,
        absl::StrCat("attachments that may write the id allocator: ", live_.size(), " live and ",
                     left_.size(), " not yet let go of, of ", shm::kIdOwnersMax - 1));
  }
  live_.insert({owner, {.range = range, .grant_number = grant_number}});
  return owner;
}

void SharedIds::Leave(shm::IdOwner owner) {
  const auto found = live_.find(owner);
  if (found == live_.end()) return;
  left_.insert(*found);
  live_.erase(found);
}

bool SharedIds::Reap() {
  for (auto it = left_.begin(); it != left_.end();) {
    const auto& [owner, grant] = *it;
    // A question that fails is answered with "held": a claim of somebody alive must stay.
    if (shm::GrantHeld(memfd_.fd(), grant.range, grant.grant_number).value_or(true)) {
      ++it;
      continue;
    }
    const auto tombstones = writer_.TombstoneOwner(owner);
    if (tombstones.ok()) {
      free_.push_back(owner);
    } else {
      LogWarn("id_owner_burned", {{"owner", absl::StrCat(owner)},
                                  {"detail", std::string(tombstones.status().message())}});
    }
    it = left_.erase(it);
  }
  return left_.empty();
}

}  // namespace iob::server
