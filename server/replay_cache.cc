#include "server/replay_cache.h"

#include "absl/hash/hash.h"
#include "server/errors.h"

namespace iob::server {

absl::StatusOr<const std::string*> ReplayCache::Find(const Caller& caller,
                                                     const std::string& request_id,
                                                     const std::string& request, int64_t now_ns) {
  DropOld(now_ns);
  const auto found = by_key_.find(Key(caller.uid, caller.pid, request_id));
  if (found == by_key_.end()) return nullptr;
  if (found->second->request_hash != absl::HashOf(request)) {
    return MakeError(v1::ERROR_REASON_REQUEST_ID_REUSED,
                     "request_id: used before by this process with another request");
  }
  return &found->second->answer;
}

void ReplayCache::Store(const Caller& caller, const std::string& request_id,
                        const std::string& request, std::string answer, int64_t now_ns) {
  if (answer.size() > kAnswerBytesMax) return;
  if (entries_.size() >= kEntriesMax) {
    by_key_.erase(entries_.front().key);
    entries_.pop_front();
  }
  entries_.push_back({.key = Key(caller.uid, caller.pid, request_id),
                      .request_hash = absl::HashOf(request),
                      .answer = std::move(answer),
                      .stored_ns = now_ns});
  by_key_[entries_.back().key] = std::prev(entries_.end());
}

void ReplayCache::DropOld(int64_t now_ns) {
  while (!entries_.empty() && now_ns - entries_.front().stored_ns >= kLifetimeNs) {
    by_key_.erase(entries_.front().key);
    entries_.pop_front();
  }
}

}  // namespace iob::server
