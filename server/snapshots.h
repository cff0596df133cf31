// Snapshots: makes immutable copies of regions beside the loop, and hands them out for tickets.
//
//   Take --charged, sources mapped--> slices --> Look --much is pending--> slices ...
//                                                  '--little is pending: the cut--> finish --> done
//
//   the cut, on the loop: the mutexes of all still regions are held at once, what is pending is
//   copied to a scratch of kCutBytesMax, and that is the instant of which the snapshot is.
//
//   N1  The loop copies at most kCutBytesMax at a time, and holds a ring no longer than that takes;
//       everything else is copied by a thread that holds nothing.
//   N2  Quota is taken before memory; the charge comes home when the memory is gone, wherever the
//       descriptor went (snapshot_memory.h).
//   N3  A buffer may go while it is copied: what nobody writes any more is looked at one last time
//       (BeforeRelease), and the copy goes on from its own mappings.
//   N4  A snapshot is in one place: here, until its ticket is spent or runs out, then in the
//       descriptor that was sent.
//
// Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "iob/v1/snapshot.pb.h"
#include "server/copy_thread.h"
#include "server/event_loop.h"
#include "server/quota.h"
#include "server/region_copy.h"
#include "server/registry.h"
#include "server/snapshot_memory.h"
#include "shm/fd_channel.h"
#include "shm/frozen_memfd.h"

namespace iob::server {

// About 0.2 ms of copying on a slow machine: what the loop and the writers of a ring may wait.
inline constexpr uint64_t kCutBytesMax = 1 << 20;
// What the thread copies before it looks after the others.
inline constexpr uint64_t kSliceBytesMax = 32 << 20;
// A ring that is still ahead after so many passes is written faster than it can be copied.
inline constexpr int kPassesMax = 64;
inline constexpr size_t kCopiesMax = 16;
inline constexpr size_t kCopiesPerUidMax = 4;
// A process that dies may have held many buffers.
inline constexpr size_t kLastStatesMax = 256;

// A copy that is done. Without memory when there is nothing in it.
struct Snapshot {
  v1::SnapshotInfo info;
  std::optional<shm::FrozenMemfd> memory;
  Charge descriptor;  // For as long as the daemon holds it.
};

class Snapshots {
 public:
  struct Dependencies {
    EventLoop& loop;
    Registry& registry;
    Quota& quota;
  };
  static absl::StatusOr<std::unique_ptr<Snapshots>> Create(Dependencies dependencies);
  ~Snapshots();

  using Done = absl::AnyInvocable<void(absl::StatusOr<Snapshot>)>;
  struct Wish {
    HeldEndpoint held;
    std::optional<uint32_t> region_index = std::nullopt;
    bool require_consistent = false;
  };
  // For `uid`, who pays. `done` comes later, or from inside. Errors: see BrokerService.Snapshot.
  void Take(uint32_t uid, const Wish& wish, Done done);
  // All regions of `info`, whoever may read them; the buffer's owner pays.
  void TakeLastState(Buffer& buffer, v1::SnapshotInfo info, Done done);
  // What there is to copy, and how much that is.
  static v1::SnapshotInfo DescribeAll(const Buffer& buffer);
  static uint64_t BytesOf(const Buffer& buffer, const v1::SnapshotInfo& info);

  // From the registry, while `endpoint` closes: the buffer may go next.
  void BeforeRelease(Buffer& buffer);

  // The ticket under which `snapshot`, which has memory, is to be had by `uid`.
  Token Issue(Snapshot snapshot, uint32_t uid);
  // Another way to memory that stays where it is.
  absl::StatusOr<Token> IssueCopy(const Snapshot& snapshot, uint32_t uid);
  // Spends a ticket and sends the descriptor. Nothing when there is no such ticket for this uid;
  // when sending failed, the ticket stays.
  std::optional<absl::Status> Redeem(const Token& ticket, uint32_t uid, shm::FdChannel& channel);

  // Copies under way end with UNAVAILABLE / BUSY, and no new ones begin.
  void Stop();

  struct Counters {
    uint64_t taken = 0;
    uint64_t failed = 0;
    uint64_t passes = 0;             // Over all copies.
    uint64_t cut_bytes_largest = 0;  // N1.
    int64_t held_ns_largest = 0;     // Of the loop, and of a ring no longer than that.
  };
  const Counters& counters() const { return counters_; }
  size_t copying_count() const { return jobs_.size(); }
  size_t ticket_count() const { return tickets_.size(); }
  const SnapshotMemory& memory() const { return *memory_; }

 private:
  using JobId = uint64_t;
  struct JobRegion {
    RegionCopy copy;
    uint32_t index = 0;       // Of the buffer.
    int info_index = 0;       // Of the info.
    Koid shared_region = 0;   // 0 for a private one.
    bool final_look = false;  // Nobody writes it any more, and it was looked at.
  };
  struct Job;
  struct TicketEntry {
    Snapshot snapshot;
    uint32_t uid = 0;
  };

  explicit Snapshots(Dependencies dependencies);
  absl::StatusOr<v1::SnapshotInfo> Choose(const Wish& wish) const;
  absl::Status CheckRoom(uint32_t uid) const;
  void Begin(uint32_t uid, Buffer& buffer, v1::SnapshotInfo info, bool last_state, Done done);
  absl::StatusOr<std::unique_ptr<Job>> MakeJob(uint32_t uid, Buffer& buffer, v1::SnapshotInfo info,
                                               bool last_state);
  absl::Status AddRegions(Buffer& buffer, Job& job);
  void NextSlice(Job& job);
  void OnSliceDone(JobId id, const absl::Status& status);
  MediatedRing* RingOf(const Job& job, const JobRegion& region);
  bool LookAt(Job& job, JobRegion& region);
  void LookAtAll(Job& job);
  void Cut(Job& job);
  void Finish(Job& job);
  void OnFinished(JobId id, absl::StatusOr<shm::FrozenMemfd> memory);
  void Fail(Job& job, const absl::Status& status);
  void ExpireTickets();
  // For the counters: what the loop has done since `start_ns` for a copy.
  void NoteHeld(int64_t start_ns);

  Dependencies dependencies_;
  std::unique_ptr<SnapshotMemory> memory_;
  JobId next_job_ = 1;
  absl::btree_map<JobId, std::unique_ptr<Job>> jobs_;
  absl::flat_hash_map<Token, TicketEntry> tickets_;
  std::deque<std::pair<int64_t, Token>> expiries_;  // In order: all tickets live equally long.
  Registration expiry_timer_;
  Counters counters_;
  bool stopped_ = false;
  std::unique_ptr<CopyThread> thread_;  // Last: it ends before what it reads.
};

}  // namespace iob::server
