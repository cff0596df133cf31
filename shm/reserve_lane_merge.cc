#include "shm/reserve_lane_merge.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iob::shm {
namespace {

constexpr size_t kNoLane = std::numeric_limits<size_t>::max();

}  // namespace

LaneMerge::LaneMerge(Options options) : options_(options) {
  options_.batch_records = std::max<uint32_t>(options_.batch_records, 1);
  entries_.reserve(kLanesMax);
}

absl::Status LaneMerge::Add(LaneConsumer lane) {
  if (entries_.size() == kLanesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kLanesMax, " lanes"));
  }
  if (Find(lane.lane()) != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("lane ", lane.lane(), " is merged already"));
  }
  entries_.push_back(
      {.consumer = std::move(lane), .first = std::nullopt, .poisoned = false, .told = false});
  return absl::OkStatus();
}

std::optional<LaneConsumer> LaneMerge::Remove(uint32_t lane) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].consumer.lane() != lane) continue;
    std::optional<LaneConsumer> removed = std::move(entries_[i].consumer);
    removed->Release();
    entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(i));
    // Whoever has moved into its place gets the turn; nobody loses one.
    if (i < turn_) --turn_;
    if (i == turn_) taken_in_turn_ = 0;
    if (turn_ >= entries_.size()) turn_ = 0;
    return removed;
  }
  return std::nullopt;
}

const LaneConsumer* LaneMerge::Find(uint32_t lane) const {
  for (const Entry& entry : entries_) {
    if (entry.consumer.lane() == lane) return &entry.consumer;
  }
  return nullptr;
}

LaneReadOutcome LaneMerge::Next(SharedRecord* ret_record, int64_t now_ns) {
  return options_.order == LaneOrder::kFair ? NextInTurn(ret_record)
                                            : NextByStamp(ret_record, now_ns);
}

void LaneMerge::GoToNextTurn() {
  taken_in_turn_ = 0;
  turn_ = turn_ + 1 < entries_.size() ? turn_ + 1 : 0;
}

LaneReadOutcome LaneMerge::NextInTurn(SharedRecord* ret_record) {
  // The lane whose turn it is comes twice: its batch may end here, and nobody else have anything.
  for (size_t looks = 0; looks <= entries_.size() && !entries_.empty(); ++looks) {
    Entry& entry = entries_[turn_];
    if (!entry.poisoned && taken_in_turn_ < options_.batch_records) {
      const LaneReadOutcome outcome = entry.consumer.Next(ret_record);
      if (outcome == LaneReadOutcome::kRecord) {
        ++taken_in_turn_;
        return outcome;
      }
      entry.poisoned = outcome == LaneReadOutcome::kPoisoned;
    }
    GoToNextTurn();
  }
  return LaneReadOutcome::kEmpty;
}

void LaneMerge::Look(Entry& entry, int64_t now_ns) {
  if (entry.poisoned || entry.first) return;
  SharedRecord record;
  const LaneReadOutcome outcome = entry.consumer.Peek(&record);
  entry.poisoned = outcome == LaneReadOutcome::kPoisoned;
  if (outcome != LaneReadOutcome::kRecord) return;
  record.stamp_ns = std::min(record.stamp_ns, static_cast<uint64_t>(now_ns));
  entry.first = record;
}

size_t LaneMerge::ChooseByStamp() const {
  size_t oldest = kNoLane;
  size_t oldest_other = kNoLane;
  const auto is_older = [this](size_t a, size_t b) {
    return b == kNoLane || entries_[a].first->stamp_ns < entries_[b].first->stamp_ns;
  };
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].first) continue;
    if (is_older(i, oldest)) oldest = i;
    if (i != turn_ && is_older(i, oldest_other)) oldest_other = i;
  }
  const bool had_its_share =
      oldest == turn_ && taken_in_turn_ >= entries_[turn_].consumer.capacity_bytes();
  return had_its_share && oldest_other != kNoLane ? oldest_other : oldest;
}

LaneReadOutcome LaneMerge::NextByStamp(SharedRecord* ret_record, int64_t now_ns) {
  for (Entry& entry : entries_) Look(entry, now_ns);
  wake_time_ns_ = INT64_MAX;
  const size_t chosen = ChooseByStamp();
  if (chosen == kNoLane || MustHoldBack(*entries_[chosen].first, now_ns)) {
    return LaneReadOutcome::kEmpty;
  }
  if (chosen != turn_) taken_in_turn_ = 0;
  turn_ = chosen;
  *ret_record = *entries_[chosen].first;
  taken_in_turn_ += RecordBytes(ret_record->payload.size());
  entries_[chosen].first.reset();
  entries_[chosen].consumer.Take();
  return LaneReadOutcome::kRecord;
}

bool LaneMerge::MustHoldBack(const SharedRecord& record, int64_t now_ns) {
  if (options_.hold_back_ns <= 0) return false;
  const bool all_are_here = std::all_of(entries_.begin(), entries_.end(), [](const Entry& entry) {
    return entry.poisoned || entry.first.has_value();
  });
  // Not later than the look that found it (G4), and so not later than now.
  const int64_t age_ns = now_ns - static_cast<int64_t>(record.stamp_ns);
  if (all_are_here || age_ns >= options_.hold_back_ns) return false;
  wake_time_ns_ = now_ns + (options_.hold_back_ns - age_ns);
  return true;
}

bool LaneMerge::HasRecords(int64_t now_ns) {
  if (options_.order == LaneOrder::kByStamp) {
    for (Entry& entry : entries_) Look(entry, now_ns);
    wake_time_ns_ = INT64_MAX;
    const size_t chosen = ChooseByStamp();
    return chosen != kNoLane && !MustHoldBack(*entries_[chosen].first, now_ns);
  }
  return std::any_of(entries_.begin(), entries_.end(), [](Entry& entry) {
    SharedRecord record;
    if (entry.poisoned) return false;
    const LaneReadOutcome outcome = entry.consumer.Peek(&record);
    entry.poisoned = outcome == LaneReadOutcome::kPoisoned;
    return outcome == LaneReadOutcome::kRecord || (!entry.poisoned && entry.consumer.HasRecords());
  });
}

bool LaneMerge::PollPolitely(int64_t now_ns) {
  // Not the same look twice.
  if (!polled_in_vain_ && HasRecords(now_ns)) return true;
  uint64_t taken_records = 0;
  for (const Entry& entry : entries_) taken_records += entry.consumer.consumed().sequence;
  pause_.Take(taken_records);
  polled_in_vain_ = !HasRecords(now_ns);
  return !polled_in_vain_;
}

void LaneMerge::Release() {
  for (Entry& entry : entries_) entry.consumer.Release();
}

std::optional<uint32_t> LaneMerge::TakePoisoned() {
  for (Entry& entry : entries_) {
    if (entry.poisoned && !std::exchange(entry.told, true)) return entry.consumer.lane();
  }
  return std::nullopt;
}

bool LaneMerge::PrepareToWait(uint32_t how) {
  bool nothing_new = true;
  for (Entry& entry : entries_) {
    if (entry.poisoned) continue;
    // A record that is held back is there and is no reason to stay awake; all lanes get the flag.
    const bool idle = entry.consumer.PrepareToWait(how);
    nothing_new = nothing_new && (idle || entry.first.has_value());
  }
  return nothing_new;
}

void LaneMerge::ClearWaiting() {
  for (Entry& entry : entries_) entry.consumer.ClearWaiting();
}

size_t LaneMerge::TailWords(std::span<FutexWord> words) const {
  size_t count = 0;
  for (const Entry& entry : entries_) {
    if (!entry.poisoned) words[count++] = entry.consumer.TailWord();
  }
  return count;
}

}  // namespace iob::shm
