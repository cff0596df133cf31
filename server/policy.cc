#include "server/policy.h"

#include <algorithm>

namespace iob::server {

bool MayAdminister(const Buffer& buffer, uint32_t uid) {
  return uid == 0 || uid == buffer.owner().uid;
}

bool MayAdminister(const SharedRegion& region, uint32_t uid) {
  return uid == 0 || uid == region.owner().uid;
}

bool MayOpen(const Buffer& buffer, shm::EndpointId endpoint, uint32_t uid) {
  const OpenRule& rule = buffer.open_rule(endpoint);
  return MayAdminister(buffer, uid) || rule.anyone ||
         std::find(rule.uids.begin(), rule.uids.end(), uid) != rule.uids.end();
}

bool MayKnowOf(const Buffer& buffer, uint32_t uid) {
  return MayOpen(buffer, shm::EndpointId::kEp0, uid) || MayOpen(buffer, shm::EndpointId::kEp1, uid);
}

}  // namespace iob::server
