// QueueScheduler: which submission queue is served next, and for how long.
//
// Deficit round robin: each round gives every active queue a turn of its quantum of bytes and its
// cap of entries, both multiplied by its weight. What a turn overdraws is taken from the next one.
//
//               nothing for a while, and BecomeIdle agrees
//            +----------------------------------------------> idle
//            |                                                  | Kick
//    Add --> active <-------------------------------------------+
//            |   ^  RoomMade, its deadline, or a round that others run anyway
//            |   +------------------------------------------- parked
//            +-----------------------------------------------> (its first entry waits for room)
//            |  violation
//            +--> cut: never served again, until Remove
//
//   D1  In one round a queue takes at most weight * kEntriesMax entries and at most weight *
//       kQuantumBytes bytes, plus what is left of one entry. A queue waits for its turn at most for
//       the sum of these over the other queues.
//   D2  Over rounds in which queues always have work, their bytes (or entries, where these are
//       scarcer) are in proportion to their weights; the error does not grow.
//   D3  Nothing is saved up: an empty queue, or one that entries and not bytes stopped, starts its
//       next turn with one quantum.
//   D4  A queue that is idle, muted or cut costs nothing per round.
//   D5  A kick is never lost: one that comes while the queue is muted is acted on when that ends.
//
// Kicks cost more than looks. A queue whose kicks were followed by nothing new kFruitlessKicksMax
// times running is muted for kMuteNs: its kicks need not be listened to, the scheduler looks at it
// by itself at the end of that.
//
// Pure: no threads, no clock of its own, no allocation but in Add. One scheduler per serving
// thread. Callbacks must not call back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "shm/submission_server.h"

namespace iob::server {

using QueueId = uint64_t;

// Who serves. Called by QueueScheduler only.
class QueueHost {
 public:
  virtual ~QueueHost() = default;
  // SubmissionServer::Serve of that queue.
  virtual shm::ServeResult Serve(QueueId id, const shm::ServeLimits& limits) = 0;
  // SubmissionServer::BecomeIdle and Activate.
  virtual bool BecomeIdle(QueueId id) = 0;
  virtual void Activate(QueueId id) = 0;
  // The queue was muted by Kick, and no longer is: listen to its kicks again.
  virtual void Unmute(QueueId id) = 0;
};

class QueueScheduler {
 public:
  // At least the longest entry, so that a turn always pays for the debt of the last one.
  static constexpr int64_t kQuantumBytes = int64_t{64} << 10;
  static constexpr uint64_t kEntriesMax = 32;
  static constexpr uint32_t kWeightMax = 64;
  // A queue with nothing in it is looked at this often, or this long, before it goes idle: about
  // what a kick and a wake would cost.
  static constexpr uint32_t kEmptyRoundsMax = 256;
  static constexpr int64_t kSpinNs = 20'000;
  static constexpr uint32_t kFruitlessKicksMax = 2;
  static constexpr int64_t kMuteNs = 10'000'000;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  struct QueueOptions {
    uint32_t weight = 1;   // 1 to kWeightMax.
    uint64_t ring_id = 0;  // For RoomMade.
  };

  // The host outlives the scheduler.
  explicit QueueScheduler(QueueHost& host) : host_(host) {}

  // A new queue is active: its first turn finds out.
  void Add(QueueId id, const QueueOptions& options);
  // Nothing for an id that is not there.
  void Remove(QueueId id);

  enum class KickOutcome : uint8_t {
    kHeard,
    kMuted,  // Until Unmute, this queue's kicks need not be listened to.
  };
  KickOutcome Kick(QueueId id, int64_t now_ns);

  // A ring got room: the queues that wait for it have a turn in the next round.
  void RoomMade(uint64_t ring_id);

  struct RoundResult {
    bool did_work = false;        // Some entry was decided.
    bool active = false;          // There are queues to look at: run the next round at once.
    int64_t wake_at_ns = kNever;  // Otherwise: when the next one is due, if no kick comes before.
  };
  RoundResult RunRound(int64_t now_ns);

  size_t size() const { return queues_.size(); }
  size_t active_count() const { return active_.size(); }
  size_t parked_count() const { return parked_.size(); }
  // Queues that broke the rules and were not removed yet.
  size_t cut_count() const { return cut_count_; }

 private:
  enum class State : uint8_t { kActive, kParked, kIdle, kCut };

  struct Queue {
    QueueId id = 0;
    QueueOptions options;
    State state = State::kActive;
    int64_t deficit_bytes = 0;
    uint32_t empty_rounds = 0;
    int64_t empty_since_ns = kNever;
    int64_t deadline_ns = kNever;   // Parked: when its first entry stops waiting.
    uint64_t last_served_turn = 0;  // Who waits longest for room is tried first.
    uint32_t fruitless_kicks = 0;
    int64_t muted_until_ns = kNever;  // kNever: not muted.
    bool kicked_while_muted = false;
  };

  // Serves `queue` once and says where it belongs now.
  State TakeTurn(Queue& queue, int64_t now_ns, RoundResult& result);
  State AfterEmptyTurn(Queue& queue, int64_t now_ns);
  void EndMutes(int64_t now_ns);
  // Parked queues that are due, or all of them, to the front of the active ones.
  void Unpark(int64_t now_ns);
  void MakeActive(Queue& queue);

  QueueHost& host_;
  absl::flat_hash_map<QueueId, std::unique_ptr<Queue>> queues_;
  // Each queue is in at most one of the first two. All have room for every queue.
  std::vector<Queue*> active_;
  std::vector<Queue*> parked_;
  std::vector<Queue*> muted_;
  std::vector<Queue*> turn_order_;  // Of the round that runs.
  uint64_t turns_ = 0;
  size_t cut_count_ = 0;
};

}  // namespace iob::server
