#include "tests/chaos/record_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::test {
namespace {

class ReaderSource final : public RecordSource {
 public:
  explicit ReaderSource(RingReader ring) : ring_(std::move(ring)) {}
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline) override { return ring_.Wait(deadline); }
  absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) override {
    RecordView record;
    const ReadOutcome outcome = ring_.Next(&record);
    if (outcome == ReadOutcome::kPoisoned) return ring_.status();
    if (outcome == ReadOutcome::kEmpty) return false;
    ret_bytes.assign(record.payload.begin(), record.payload.end());
    return true;
  }
  void Release() override { ring_.Release(); }

 private:
  RingReader ring_;
};

class FollowerSource final : public RecordSource {
 public:
  FollowerSource(RingFollower ring, ReaderSlot& slot) : ring_(std::move(ring)), slot_(slot) {
    slot_.first_record = ring_.next_record();
    slot_.next_record = ring_.next_record();
  }
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline) override { return ring_.Wait(deadline); }
  absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) override {
    RecordView record;
    auto outcome = ring_.Next(&record);
    using Outcome = decltype(outcome);
    while (outcome == Outcome::kLost) {
      slot_.lost += record.gap.records;
      slot_.next_record = ring_.next_record();
      outcome = ring_.Next(&record);
    }
    if (outcome == Outcome::kPoisoned) return ring_.status();
    if (outcome == Outcome::kEmpty) return false;
    ret_bytes.assign(record.payload.begin(), record.payload.end());
    slot_.next_record = ring_.next_record();
    return true;
  }
  void Release() override { ring_.Release(); }

 private:
  RingFollower ring_;
  ReaderSlot& slot_;
};

class ReserveSource final : public RecordSource {
 public:
  explicit ReserveSource(ReserveRingReader ring) : ring_(std::move(ring)) {}
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline) override { return ring_.Wait(deadline); }
  absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) override {
    SharedRecord record;
    const ReadOutcome outcome = ring_.Next(&record);
    if (outcome == ReadOutcome::kPoisoned) return ring_.status();
    if (outcome == ReadOutcome::kEmpty) return false;
    ret_bytes.resize(record.payload.size());
    record.payload.CopyOut(0, ret_bytes);
    return true;
  }
  void Release() override { ring_.Release(); }

 private:
  ReserveRingReader ring_;
};

class BroadcastSource final : public RecordSource {
 public:
  BroadcastSource(BroadcastFollower ring, ReaderSlot& slot) : ring_(std::move(ring)), slot_(slot) {
    slot_.first_record = ring_.first_sequence();
    slot_.next_record = ring_.next_sequence();
  }
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline) override { return ring_.Wait(deadline); }
  absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) override {
    IOB_ASSIGN_OR_RETURN(const bool any, ring_.TryRead(&record_));
    slot_.lost = ring_.lost_records();
    slot_.next_record = ring_.next_sequence();
    if (any) ret_bytes = record_.payload;
    return any;
  }
  void Release() override {}

 private:
  BroadcastFollower ring_;
  ReaderSlot& slot_;
  BroadcastRecord record_;
};

class SlotSource final : public RecordSource {
 public:
  explicit SlotSource(SlotReader ring) : ring_(std::move(ring)) {}
  absl::StatusOr<WaitOutcome> Wait(Deadline deadline) override { return ring_.Wait(deadline); }
  absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) override {
    if (!ring_.HasNewer()) return false;
    const uint64_t before = value_.version;
    const absl::StatusOr<bool> any = ring_.TryRead(&value_);
    if (absl::IsUnavailable(any.status())) return false;
    if (!any.ok() || !*any) return any;
    if (value_.version <= before)
      return absl::DataLossError(absl::StrCat("version ", value_.version, " after ", before));
    ret_bytes = value_.bytes;
    return true;
  }
  void Release() override {}

 private:
  SlotReader ring_;
  SlotCopy value_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RecordSource>> OpenSource(Endpoint& endpoint, const PeerTask& task,
                                                         ReaderSlot& slot) {
  const bool consume = task.role == Role::kConsumer;
  if (task.kind == RingKind::kBroadcast) {
    IOB_ASSIGN_OR_RETURN(BroadcastFollower ring, endpoint.OpenBroadcastFollower(task.region));
    return std::make_unique<BroadcastSource>(std::move(ring), slot);
  }
  if (task.kind == RingKind::kSlot) {
    IOB_ASSIGN_OR_RETURN(SlotReader ring, endpoint.OpenSlotReader(task.region));
    return std::make_unique<SlotSource>(std::move(ring));
  }
  if (!PromiseOf(task.kind).mediated) {
    IOB_ASSIGN_OR_RETURN(ReserveRingReader ring, endpoint.OpenReserveReader(task.region));
    return std::make_unique<ReserveSource>(std::move(ring));
  }
  if (!consume || task.kind == RingKind::kOverwrite) {
    IOB_ASSIGN_OR_RETURN(RingFollower ring,
                         endpoint.OpenFollower(task.region, {.consume = consume}));
    return std::make_unique<FollowerSource>(std::move(ring), slot);
  }
  IOB_ASSIGN_OR_RETURN(RingReader ring, endpoint.OpenReader(task.region));
  return std::make_unique<ReaderSource>(std::move(ring));
}

}  // namespace iob::test
