// The consumer of a lane against a producer that writes whatever it likes into LANE and CONTROL.
//
// Always: poison is for good and has a reason; what was taken and not released fits into the ring;
// records and numbers move in step. While honest: every record is the next that was stored, byte
// by byte, also for a successor, and in the end all of them have come.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/reserve_lane_consumer.h"
#include "tests/fuzz/lane_ring.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::LaneReadOutcome;

class LaneConsumerSchedule {
 public:
  LaneConsumerSchedule(LaneRing& ring, Input& input)
      : ring_(ring),
        input_(input),
        peer_(input),
        clears_(input.Flag()),
        start_(ring.Begin(DecodeStart(input, ring.layout().capacity_bytes(), UINT64_MAX))),
        producer_(shm::LaneProducer::Map(ring.layout(), ring.lane().memfd, ring.control().memfd,
                                         start_, {.stamps = false})
                      .value()) {
    const uint64_t capacity = ring.layout().capacity_bytes();
    const uint64_t first = ring.data_offset() + start_.position % capacity;
    peer_.Owns(ring.lane().mapping,
               {shm::kLaneTailOffset, shm::kLaneWantRoomOffset, first, shm::kLaneSlotsOffset,
                shm::kLaneSlotsOffset + 24, shm::kLaneSlotsOffset + 56, ring.data_offset()});
    peer_.Owns(ring.control().mapping,
               {shm::kLaneHeadOffset, shm::kLaneWaitingOffset, shm::kLaneConsumedSlotsOffset,
                shm::kLaneConsumedSlotsOffset + 24, shm::kLaneConsumedSlotsOffset + 56});
    peer_.Knows({capacity - 8, capacity, capacity + 8, shm::kLaneDiscarded, shm::kLaneLengthMask});
    peer_.Acts([this] { Produce(24); });
  }

  void Run() {
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) {
      }
    }
    if (peer_.honest() && consumer_) Finish();
  }

 private:
  // A successor goes on where this one's last Release was.
  bool Map() {
    consumer_.reset();
    auto mapped = peer_.Watch([this] {
      return shm::LaneConsumer::Map(ring_.layout(), ring_.lane().memfd, ring_.control().memfd,
                                    {.clears = clears_, .lane = 3});
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    consumer_.emplace(std::move(*mapped));
    held_bytes_ = 0;
    poisoned_ = false;
    return true;
  }

  // False: the consumer dies.
  bool Step() {
    switch (input_.Below(13)) {
      case 0:
        Produce(input_.UpTo(ring_.layout().payload_bytes_max()));
        break;
      case 1:
        ReserveOnly(input_.UpTo(300));
        break;
      case 2:
        CloseOne(input_.Byte());
        break;
      case 3:
      case 4:
        Read(/*peek=*/input_.Flag());
        break;
      case 5:
        TryRead();
        break;
      case 6:
        peer_.Watch([this] { consumer_->Release(); });
        held_bytes_ = 0;
        break;
      case 7:
        LookAround();
        break;
      case 8:
        Settle();
        break;
      case 9:
        return false;
      case 10:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
    return true;
  }

  void ReserveOnly(uint64_t payload_bytes) {
    shm::LaneReservation reservation;
    if (producer_.Reserve(payload_bytes, &reservation) == shm::LaneReserveOutcome::kReserved) {
      journal_.Reserved(reservation);
    }
  }
  void CloseOne(uint8_t choice) {
    const uint64_t open = journal_.open();
    if (open == 0) return;
    if ((choice & 1) == 0) {
      producer_.Submit(journal_.Finish((choice >> 1) % open, LaneJournal::State::kStored));
    } else {
      producer_.Discard(journal_.Finish((choice >> 1) % open, LaneJournal::State::kDiscarded));
    }
  }
  void Produce(uint64_t payload_bytes) {
    const uint64_t open = journal_.open();
    ReserveOnly(payload_bytes);
    if (journal_.open() == open) return;
    producer_.Submit(journal_.Finish(open, LaneJournal::State::kStored));
  }

  LaneReadOutcome Read(bool peek) {
    const shm::LaneCheckpoint before = consumer_->consumed();
    shm::SharedRecord record;
    const LaneReadOutcome outcome =
        peer_.Watch([&] { return peek ? consumer_->Peek(&record) : consumer_->Next(&record); });
    NoteOutcome(outcome);
    if (outcome != LaneReadOutcome::kRecord) {
      CheckMoved(before);
      return outcome;
    }
    IOB_CHECK(record.payload.size() <= ring_.layout().payload_bytes_max());
    IOB_CHECK(record.lane_or_owner == 3);
    std::vector<std::byte> payload(record.payload.size());
    peer_.Watch([&] { record.payload.CopyOut(0, payload); });
    if (peek) consumer_->Take();
    IOB_CHECK(record.sequence + 1 == consumer_->consumed().sequence);
    CheckMoved(before);
    CheckRecord(payload);
    return outcome;
  }
  void TryRead() {
    const shm::LaneCheckpoint before = consumer_->consumed();
    std::vector<std::byte> payload;
    const LaneReadOutcome outcome = peer_.Watch([&] { return consumer_->TryRead(&payload); });
    NoteOutcome(outcome);
    CheckMoved(before);
    if (outcome == LaneReadOutcome::kRecord) CheckRecord(payload);
  }

  void NoteOutcome(LaneReadOutcome outcome) {
    IOB_CHECK(!poisoned_ || outcome == LaneReadOutcome::kPoisoned);
    poisoned_ = outcome == LaneReadOutcome::kPoisoned;
    IOB_CHECK(!poisoned_ || !consumer_->status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
  }
  // Discards count, too.
  void CheckMoved(const shm::LaneCheckpoint& before) {
    const shm::LaneCheckpoint& after = consumer_->consumed();
    const uint64_t moved_bytes = after.position - before.position;
    held_bytes_ += moved_bytes;
    IOB_CHECK(held_bytes_ <= ring_.layout().capacity_bytes());
    IOB_CHECK(moved_bytes % shm::kRecordAlignBytes == 0);
    IOB_CHECK((after.sequence - before.sequence) * shm::kRecordHeaderBytes <= moved_bytes);
    IOB_CHECK(after.payload_bytes - before.payload_bytes <= moved_bytes);
  }
  void CheckRecord(std::span<const std::byte> payload) const {
    if (!peer_.honest()) return;
    IOB_CHECK(journal_.IsStored(consumer_->consumed().records() - 1, payload));
  }

  void LookAround() {
    const bool sleeps =
        peer_.Watch([this] { return consumer_->PrepareToWait(shm::kWaitingOnFutex); });
    if (sleeps) LookAtWord(consumer_->TailWord());
    peer_.Watch([this] {
      (void)consumer_->HasRecords();
      (void)consumer_->claimed_account();
      consumer_->ClearWaiting();
    });
  }
  static void LookAtWord(const shm::FutexWord& word) {
    LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
  }
  void Settle() {
    const auto settled = peer_.Watch([this] { return consumer_->SettleLedger(); });
    if (settled.ok()) IOB_CHECK(settled->records() <= consumer_->consumed().sequence);
  }

  void Finish() {
    peer_.CallOff();
    while (journal_.open() != 0) CloseOne(0);
    while (Read(/*peek=*/false) == LaneReadOutcome::kRecord || consumer_->HasRecords()) {
    }
    IOB_CHECK(consumer_->consumed().records() == journal_.stored());
    consumer_->Release();
    IOB_CHECK(consumer_->SettleLedger().ok());
  }

  LaneRing& ring_;
  Input& input_;
  Peer peer_;
  bool clears_;
  shm::LaneCheckpoint start_;
  shm::LaneProducer producer_;
  LaneJournal journal_;
  std::optional<shm::LaneConsumer> consumer_;
  uint64_t held_bytes_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::LaneRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::LaneConsumerSchedule(ring, input).Run();
  return 0;
}
