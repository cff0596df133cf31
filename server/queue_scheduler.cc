#include "server/queue_scheduler.h"

#include <algorithm>

namespace iob::server {

using shm::ServeResult;
using shm::ServeState;

void QueueScheduler::Add(QueueId id, const QueueOptions& options) {
  IOB_CHECK(options.weight >= 1 && options.weight <= kWeightMax);
  auto queue = std::make_unique<Queue>();
  queue->id = id;
  queue->options = options;
  Queue* const added = queue.get();
  const bool is_new = queues_.emplace(id, std::move(queue)).second;
  IOB_CHECK(is_new);
  // Here and not in a round.
  for (std::vector<Queue*>* list : {&active_, &parked_, &muted_, &turn_order_}) {
    if (list->capacity() < queues_.size()) list->reserve(2 * queues_.size());
  }
  active_.push_back(added);
}

void QueueScheduler::Remove(QueueId id) {
  const auto found = queues_.find(id);
  if (found == queues_.end()) return;
  Queue* const queue = found->second.get();
  std::erase(active_, queue);
  std::erase(parked_, queue);
  std::erase(muted_, queue);
  if (queue->state == State::kCut) cut_count_ -= 1;
  queues_.erase(found);
}

QueueScheduler::KickOutcome QueueScheduler::Kick(QueueId id, int64_t now_ns) {
  const auto found = queues_.find(id);
  if (found == queues_.end() || found->second->state == State::kCut) return KickOutcome::kMuted;
  Queue& queue = *found->second;
  if (queue.muted_until_ns == kNever && queue.fruitless_kicks >= kFruitlessKicksMax) {
    queue.muted_until_ns = now_ns + kMuteNs;
    muted_.push_back(&queue);
  }
  if (queue.muted_until_ns != kNever) {
    queue.kicked_while_muted = true;
    return KickOutcome::kMuted;
  }
  // Forgiven by the next entry that is decided.
  queue.fruitless_kicks += 1;
  if (queue.state == State::kIdle) MakeActive(queue);
  return KickOutcome::kHeard;
}

void QueueScheduler::MakeActive(Queue& queue) {
  host_.Activate(queue.id);
  queue.state = State::kActive;
  queue.empty_rounds = 0;
  queue.empty_since_ns = kNever;
  active_.push_back(&queue);
}

void QueueScheduler::RoomMade(uint64_t ring_id) {
  for (Queue* queue : parked_) {
    // Due at once, whatever its entry's deadline: the next turn brings that one anew.
    if (queue->options.ring_id == ring_id) queue->deadline_ns = 0;
  }
}

void QueueScheduler::EndMutes(int64_t now_ns) {
  std::erase_if(muted_, [this, now_ns](Queue* queue) {
    if (now_ns < queue->muted_until_ns) return false;
    queue->muted_until_ns = kNever;
    // One more kick without anything new, and it is muted again.
    queue->fruitless_kicks = kFruitlessKicksMax - 1;
    if (queue->kicked_while_muted && queue->state == State::kIdle) {
      queue->fruitless_kicks = kFruitlessKicksMax;
      MakeActive(*queue);
    }
    queue->kicked_while_muted = false;
    if (queue->state != State::kCut) host_.Unmute(queue->id);
    return true;
  });
}

void QueueScheduler::Unpark(int64_t now_ns) {
  // While others keep this thread awake a look costs little, and room may come without a word.
  const bool all = !active_.empty();
  turn_order_.clear();
  std::erase_if(parked_, [this, all, now_ns](Queue* queue) {
    if (!all && now_ns < queue->deadline_ns) return false;
    queue->state = State::kActive;
    turn_order_.push_back(queue);
    return true;
  });
  // Before the others, and among themselves who was served least recently: a ring that gets a
  // little room at a time must not always give it to the same one.
  std::ranges::sort(turn_order_, {}, &Queue::last_served_turn);
  turn_order_.insert(turn_order_.end(), active_.begin(), active_.end());
  active_.clear();
}

QueueScheduler::RoundResult QueueScheduler::RunRound(int64_t now_ns) {
  RoundResult result;
  EndMutes(now_ns);
  Unpark(now_ns);
  for (Queue* queue : turn_order_) {
    queue->state = TakeTurn(*queue, now_ns, result);
    switch (queue->state) {
      case State::kActive:
        active_.push_back(queue);
        break;
      case State::kParked:
        parked_.push_back(queue);
        break;
      case State::kIdle:
        break;
      case State::kCut:
        cut_count_ += 1;
        break;
    }
  }
  result.active = !active_.empty();
  for (const Queue* queue : parked_) {
    result.wake_at_ns = std::min(result.wake_at_ns, queue->deadline_ns);
  }
  for (const Queue* queue : muted_) {
    result.wake_at_ns = std::min(result.wake_at_ns, queue->muted_until_ns);
  }
  return result;
}

QueueScheduler::State QueueScheduler::TakeTurn(Queue& queue, int64_t now_ns, RoundResult& result) {
  const int64_t quantum_bytes = kQuantumBytes * int64_t{queue.options.weight};
  queue.deficit_bytes = std::min(queue.deficit_bytes + quantum_bytes, quantum_bytes);
  const ServeResult served =
      host_.Serve(queue.id, {.entries_max = kEntriesMax * queue.options.weight,
                             .bytes_max = static_cast<uint64_t>(queue.deficit_bytes),
                             .now_ns = now_ns});
  turns_ += 1;
  if (served.entries != 0) {
    queue.deficit_bytes -= static_cast<int64_t>(served.bytes);
    queue.last_served_turn = turns_;
    queue.fruitless_kicks = 0;
    queue.empty_rounds = 0;
    queue.empty_since_ns = kNever;
    result.did_work = true;
  }
  switch (served.state) {
    case ServeState::kMore:
      return State::kActive;
    case ServeState::kBlocked:
      queue.deadline_ns = served.deadline_ns;
      return State::kParked;
    case ServeState::kIdle:
    case ServeState::kStalled:
      return served.entries == 0 ? AfterEmptyTurn(queue, now_ns) : State::kActive;
    case ServeState::kViolation:
      return State::kCut;
  }
  return State::kCut;
}

QueueScheduler::State QueueScheduler::AfterEmptyTurn(Queue& queue, int64_t now_ns) {
  if (queue.empty_since_ns == kNever) queue.empty_since_ns = now_ns;
  queue.empty_rounds += 1;
  const bool patient =
      queue.empty_rounds < kEmptyRoundsMax && now_ns - queue.empty_since_ns < kSpinNs;
  if (patient) return State::kActive;
  queue.empty_rounds = 0;
  queue.empty_since_ns = kNever;
  return host_.BecomeIdle(queue.id) ? State::kIdle : State::kActive;
}

}  // namespace iob::server
