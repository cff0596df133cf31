// The consumer of a shared reserve ring against producers that write whatever they like into CTL,
// DATA and CONS.
//
// Always: poison is for good and has a reason, positions only grow, what was taken and not released
// fits into the ring. While honest, with a producer at work between any two loads: every record is
// the next that was stored, byte by byte, also for a successor, and in the end all have come.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/reserve_shared_consumer.h"
#include "shm/ring_layout.h"
#include "tests/fuzz/schedule.h"
#include "tests/fuzz/shared_ring.h"

namespace iob::fuzz {
namespace {

using shm::SharedReadOutcome;

constexpr uint32_t kOwner = 1;

class SharedConsumerSchedule {
 public:
  SharedConsumerSchedule(SharedRing& ring, Input& input)
      : ring_(ring),
        input_(input),
        peer_(input),
        start_(SharedRing::DecodeSharedStart(input, ring.layout())) {
    ring.Begin(start_);
    producer_.emplace(
        shm::SharedProducer::Map(ring.layout(), ring.sections(), kOwner, {.tries_max = 8}).value());
    ring.GiveTo(peer_, start_);
    peer_.Acts([this] { Produce(100); });
  }

  void Run() {
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) {
      }
    }
    if (peer_.honest() && consumer_) Finish();
  }

 private:
  bool Map() {
    consumer_.reset();
    auto mapped =
        peer_.Watch([this] { return shm::SharedConsumer::Map(ring_.layout(), ring_.sections()); });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    consumer_.emplace(std::move(*mapped));
    released_ = consumer_->position();
    poisoned_ = false;
    return true;
  }

  // False: the consumer dies.
  bool Step() {
    switch (input_.Below(12)) {
      case 0:
        Produce(input_.UpTo(ring_.layout().payload_bytes_max()));
        break;
      case 1:
        Reserve(input_.UpTo(400));
        break;
      case 2:
        CloseOne(input_.Byte());
        break;
      case 3:
      case 4:
      case 5:
        Read();
        break;
      case 6:
        Release();
        break;
      case 7:
        LookAround();
        break;
      case 8:
        return input_.Byte() % 4 != 0;
      case 9:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
    return true;
  }

  void Reserve(uint64_t payload_bytes) {
    shm::SharedReservation reservation;
    if (producer_->Reserve(payload_bytes, &reservation) == shm::SharedReserveOutcome::kReserved) {
      journal_.Reserved(kOwner, reservation);
    }
  }
  void CloseOne(uint8_t choice) {
    if (journal_.open() == 0) return;
    const auto [owner, reservation] = journal_.TakeOpen((choice >> 1) % journal_.open());
    if ((choice & 1) != 0) {
      (void)producer_->Discard(reservation);
    } else if (producer_->Submit(reservation).done) {
      journal_.NoteStored(reservation);
    }
  }
  void Produce(uint64_t payload_bytes) {
    const uint64_t open = journal_.open();
    Reserve(payload_bytes);
    if (journal_.open() == open) return;
    const auto [owner, reservation] = journal_.TakeOpen(open);
    if (producer_->Submit(reservation).done) journal_.NoteStored(reservation);
  }

  SharedReadOutcome Read() {
    const uint64_t from = consumer_->position();
    shm::SharedRecord record;
    const SharedReadOutcome outcome = peer_.Watch([&] { return consumer_->Next(&record); });
    IOB_CHECK(!poisoned_ || outcome == SharedReadOutcome::kPoisoned);
    poisoned_ = outcome == SharedReadOutcome::kPoisoned;
    IOB_CHECK(poisoned_ == !consumer_->status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
    IOB_CHECK(consumer_->position() >= from);
    IOB_CHECK(consumer_->position() - released_ <= ring_.layout().size_bytes());
    if (outcome != SharedReadOutcome::kRecord) return outcome;
    IOB_CHECK(record.payload.size() <= ring_.layout().payload_bytes_max());
    IOB_CHECK(record.sequence >= from && record.sequence < consumer_->position());
    std::vector<std::byte> payload(record.payload.size());
    peer_.Watch([&] { record.payload.CopyOut(0, payload); });
    if (peer_.honest()) {
      IOB_CHECK(record.lane_or_owner == kOwner);
      IOB_CHECK(journal_.IsNext(from, record.sequence, payload));
    }
    return outcome;
  }

  void Release() {
    const uint64_t consumed = consumer_->consumed_records();
    peer_.Watch([this] { consumer_->Release(); });
    released_ = consumer_->position();
    if (peer_.honest()) IOB_CHECK(consumer_->consumed_records() >= consumed);
  }

  void LookAround() {
    const bool sleeps =
        peer_.Watch([this] { return consumer_->PrepareToWait(shm::kWaitingOnFutex); });
    const shm::FutexWord word = consumer_->WaitWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] {
      (void)consumer_->PollPolitely();
      consumer_->ClearWaiting();
    });
    const auto stall = peer_.Watch([this] { return consumer_->Stalled(1); });
    if (peer_.honest() && stall) IOB_CHECK(stall->owner == kOwner);
    // Looking may find the poison; what is next then says so.
    poisoned_ = poisoned_ || !consumer_->status().ok();
  }

  void Finish() {
    peer_.CallOff();
    while (journal_.open() != 0) CloseOne(0);
    while (Read() == SharedReadOutcome::kRecord) {
    }
    Release();
    IOB_CHECK(consumer_->consumed_records() == journal_.stored());
  }

  SharedRing& ring_;
  Input& input_;
  Peer peer_;
  uint64_t start_;
  std::optional<shm::SharedProducer> producer_;
  std::optional<shm::SharedConsumer> consumer_;
  SharedJournal journal_;
  uint64_t released_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::SharedRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::SharedConsumerSchedule(ring, input).Run();
  return 0;
}
