// HandleTable: who holds which object by a handle, and for how long.
//
//   handle --lives with--> the process that made it        (ends with it: OfProcess)
//         '--or by-------> a lease, renewed by KeepAlive   (ends with time: ExpiredBy)
//
//   H1  A handle is good for one uid, wherever it is: whoever knows the token and has the uid.
//   H2  Every handle is either in the list of its process or in the list of leases, never in both.
//   H3  Objects list the tokens that lead to them; this table alone adds and removes them.
//
// Plain state: what the end of a handle means for its object is the registry's. Owned by the loop
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "server/buffer.h"
#include "server/shared_region.h"
#include "server/token.h"
#include "shm/access.h"

namespace iob::server {

// A process that talks gRPC with us; handed out by the connection table.
using ProcessId = uint64_t;

// What a handle leads to: an endpoint of a buffer, or a shared region.
struct ObjectRef {
  Buffer* buffer = nullptr;
  shm::EndpointId endpoint = shm::EndpointId::kEp0;
  SharedRegion* shared_region = nullptr;

  // The object's own list of the tokens that lead to it.
  absl::flat_hash_set<Token>& tokens() const {
    return buffer != nullptr ? buffer->endpoint(endpoint).handles : shared_region->handles();
  }
};

struct Handle {
  ObjectRef object;
  shm::HandleRights rights;
  uint32_t uid = 0;
  ProcessId process = 0;  // Whose end is its end; 0 with a lease.
  uint32_t lease_ms = 0;  // 0 without one.
  int64_t lease_expires_ns = 0;
};

class HandleTable {
 public:
  // The process has its first handle, or none any more: whether its end matters.
  using OnProcessHolds = absl::AnyInvocable<void(ProcessId process, bool holds)>;

  explicit HandleTable(OnProcessHolds on_process_holds)
      : on_process_holds_(std::move(on_process_holds)) {}

  // nullptr when there is none.
  const Handle* Find(const Token& token) const;
  Token Add(const Handle& handle);
  // There must be one.
  Handle Remove(const Token& token);

  std::vector<Token> OfProcess(ProcessId process) const;
  std::vector<Token> ExpiredBy(int64_t now_ns) const;
  std::optional<int64_t> NextExpiryNs() const;
  // Gives the handle its lease anew; nothing for one without.
  void Renew(const Token& token, int64_t now_ns);

  size_t size() const { return handles_.size(); }
  const absl::flat_hash_map<Token, Handle>& all() const { return handles_; }

  // H2, counted from scratch; aborts when it does not hold.
  void CheckInvariants() const;

 private:
  OnProcessHolds on_process_holds_;
  absl::flat_hash_map<Token, Handle> handles_;
  absl::flat_hash_map<ProcessId, absl::flat_hash_set<Token>> by_process_;
  absl::btree_set<std::pair<int64_t, Token>> leases_;
};

}  // namespace iob::server
