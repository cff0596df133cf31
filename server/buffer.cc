#include "server/buffer.h"

#include <algorithm>

#include "shm/grant_lock.h"

namespace iob::server {

bool Buffer::AnyGrantHeld(shm::EndpointId id) const {
  if (endpoint(id).grants_made == 0) return false;
  const auto held = [](const shm::SealedMemfd& memfd, shm::GrantRange range) {
    // A question that fails is answered with "held": PEER_CLOSED must never be wrong.
    return shm::AnyGrantHeld(memfd.fd(), range).value_or(true);
  };
  const shm::SealedMemfd* const page = signal_.page_if_made();
  if (page != nullptr && held(*page, shm::GrantRange(id))) return true;
  return std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
    const auto sections = region.Sections();
    return std::any_of(sections.begin(), sections.end(),
                       [&](const auto* memfd) { return held(*memfd, region.GrantRangeOf(id)); });
  });
}

}  // namespace iob::server
