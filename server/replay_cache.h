// ReplayCache: the first answer again for a retried mutation.
//
// A client that lost an answer retries with the same request_id. Within ten minutes, the same id
// from the same process with the same request gets the stored answer; with another request, an
// error. Only successes are kept: a failure has changed nothing, so running it again is right.
//
// Bounded: at most kEntriesMax answers of at most kAnswerBytesMax; the oldest go first.
// Owned by the loop thread.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/registry.h"

namespace iob::server {

class ReplayCache {
 public:
  static constexpr size_t kEntriesMax = 4096;
  static constexpr size_t kAnswerBytesMax = size_t{64} * 1024;
  static constexpr int64_t kLifetimeNs = int64_t{600} * 1'000'000'000;

  // The stored answer; nullptr for a new id. INVALID_ARGUMENT / REQUEST_ID_REUSED.
  absl::StatusOr<const std::string*> Find(const Caller& caller, const std::string& request_id,
                                          const std::string& request, int64_t now_ns);
  void Store(const Caller& caller, const std::string& request_id, const std::string& request,
             std::string answer, int64_t now_ns);

  size_t size() const { return by_key_.size(); }

 private:
  // uid, pid, request_id: a retry may come over another connection of the same process.
  using Key = std::tuple<uint32_t, int32_t, std::string>;
  struct Entry {
    Key key;
    size_t request_hash = 0;
    std::string answer;
    int64_t stored_ns = 0;
  };

  void DropOld(int64_t now_ns);

  std::list<Entry> entries_;  // Oldest first.
  absl::flat_hash_map<Key, std::list<Entry>::iterator> by_key_;
};

}  // namespace iob::server
