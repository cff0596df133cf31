// CrashStore: the last states of endpoints that crashed, kept for an autopsy.
//
//   endpoint closes, killed, exited with an error or died --> entry, copying --> kept
//                                                                 '-- no copy, and why
//   kept --newer ones need its bytes--> entry without a copy --newer ones need its place--> gone
//
//   K1  Per owner of a buffer at most crash_states_per_uid_max entries, and copies of at most
//       crash_bytes_per_uid_max together; the oldest goes first. Copies are charged to the owner.
//   K2  An entry without a copy still says who ended how and when, and has the ledgers.
//   K3  What a producer left unfinished is noted before it is settled.
//
// Buffers with `snapshot_on_crash` only. Owned by the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "iob/v1/snapshot.pb.h"
#include "server/clock.h"
#include "server/limits.h"
#include "server/registry.h"
#include "server/snapshots.h"

namespace iob::server {

// A crash, for this store: anything but letting go, being taken away, or exiting with 0. A process
// that died in a way that the kernel does not tell counts as one.
bool IsCrash(const shm::CloseReason& reason);

class CrashStore {
 public:
  struct Dependencies {
    const Clock& clock;
    Registry& registry;
    Snapshots& snapshots;
    const Limits& limits;
  };
  explicit CrashStore(Dependencies dependencies) : dependencies_(dependencies) {}

  // From the registry. OnDetached comes before anything is settled; OnClosing while the memory is
  // still there.
  void OnDetached(Koid buffer, shm::EndpointId endpoint, const shm::CloseReason& reason);
  void OnClosing(Buffer& buffer, shm::EndpointId endpoint, const shm::CloseReason& reason);
  void OnBufferGone(Koid buffer);

  struct Entry {
    v1::Autopsy told;
    v1::SnapshotInfo info;
    std::optional<Snapshot> snapshot;
  };
  // The caller's, newest first, at most `count_max`.
  std::vector<const Entry*> List(const Caller& caller, absl::string_view buffer_name,
                                 size_t count_max) const;
  // NOT_FOUND.
  absl::StatusOr<const Entry*> Find(const Caller& caller, uint64_t id) const;

  size_t count() const { return entries_.size(); }
  // Of all copies, those that are being made included.
  uint64_t bytes() const;

 private:
  struct Note {
    uint32_t region_index = 0;
    v1::UnfinishedReservation unfinished;
  };
  bool MaySee(const Entry& entry, const Caller& caller) const;
  void MakePlace(uint32_t uid);
  void MakeRoom(uint32_t uid, uint64_t size_bytes);
  void OnCopied(uint64_t id, absl::StatusOr<Snapshot> snapshot);

  Dependencies dependencies_;
  uint64_t next_id_ = 1;
  absl::btree_map<uint64_t, Entry> entries_;  // Oldest first.
  absl::btree_map<std::pair<Koid, shm::EndpointId>, std::vector<Note>> notes_;
};

}  // namespace iob::server
