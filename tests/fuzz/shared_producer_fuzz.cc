// A producer of a shared reserve ring against a consumer and another producer that write whatever
// they like into CTL, DATA and CONS.
//
// Always: a reservation is writable from end to end, its own account adds up, nothing is tried for
// ever. While honest, with another producer getting ahead between any two accesses: no claim is
// lost, nobody is accused, and the consumer gets what was stored.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"
#include "tests/fuzz/schedule.h"
#include "tests/fuzz/shared_ring.h"

namespace iob::fuzz {
namespace {

using shm::SharedReserveOutcome;

constexpr uint32_t kVictim = 1;
constexpr uint32_t kOther = 2;

class SharedProducerSchedule {
 public:
  SharedProducerSchedule(SharedRing& ring, Input& input)
      : ring_(ring),
        input_(input),
        peer_(input),
        start_(SharedRing::DecodeSharedStart(input, ring.layout())) {
    ring.Begin(start_);
    const auto map = [&ring](uint32_t owner) {
      return shm::SharedProducer::Map(ring.layout(), ring.sections(), owner, {.tries_max = 32})
          .value();
    };
    victim_.emplace(map(kVictim));
    other_.emplace(map(kOther));
    consumer_.emplace(shm::SharedConsumer::Map(ring.layout(), ring.sections()).value());
    ring.GiveTo(peer_, start_);
    peer_.Acts([this] { PutOther(40); });
  }

  void Run() {
    while (!input_.empty()) {
      Step();
      Check();
    }
    if (!peer_.honest()) return;
    peer_.CallOff();
    while (journal_.open() != 0) CloseOne(0);
    Consume();
    IOB_CHECK(consumer_->consumed_records() == journal_.stored());
  }

 private:
  void Step() {
    switch (input_.Below(11)) {
      case 0:
      case 1:
        Reserve(input_.UpTo(ring_.layout().payload_bytes_max() + 8));
        break;
      case 2:
      case 3:
      case 4:
        CloseOne(input_.Byte());
        break;
      case 5:
        PutOther(input_.UpTo(600));
        break;
      case 6:
        Consume();
        break;
      case 7:
        WaitForRoom(input_.UpTo(ring_.layout().payload_bytes_max()));
        break;
      case 8:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
  }

  void Reserve(uint64_t payload_bytes) {
    shm::SharedReservation reservation;
    const SharedReserveOutcome outcome =
        peer_.Watch([&] { return victim_->Reserve(payload_bytes, &reservation); });
    IOB_CHECK((outcome == SharedReserveOutcome::kTooLarge) ==
              (payload_bytes > ring_.layout().payload_bytes_max()));
    if (peer_.honest()) {
      IOB_CHECK(outcome != SharedReserveOutcome::kCorrupt &&
                outcome != SharedReserveOutcome::kBusy);
    }
    if (outcome != SharedReserveOutcome::kReserved) return;
    IOB_CHECK(reservation.bytes.size() == payload_bytes);
    journal_.Reserved(kVictim, reservation);
    reserved_records_ += 1;
  }

  void CloseOne(uint8_t choice) {
    if (journal_.open() == 0) return;
    const auto [owner, reservation] = journal_.TakeOpen((choice >> 3) % journal_.open());
    const auto wake = static_cast<shm::SharedWake>((choice >> 1 & 3) % 3);
    const bool stores = (choice & 1) == 0;
    const shm::SharedReservation& held = reservation;
    const shm::SharedSubmitResult result = peer_.Watch(
        [&] { return stores ? victim_->Submit(held, wake) : victim_->Discard(held, wake); });
    IOB_CHECK(result.done || !peer_.honest());
    if (result.done && stores) journal_.NoteStored(reservation);
  }

  void PutOther(uint64_t payload_bytes) {
    shm::SharedReservation reservation;
    if (other_->Reserve(payload_bytes, &reservation) != SharedReserveOutcome::kReserved) return;
    FillPattern(reservation.position, reservation.bytes);
    if (other_->Submit(reservation).done) journal_.NoteStored(reservation);
  }

  void Consume() {
    shm::SharedRecord record;
    uint64_t from = consumer_->position();
    while (consumer_->Next(&record) == shm::SharedReadOutcome::kRecord) {
      std::vector<std::byte> payload(record.payload.size());
      record.payload.CopyOut(0, payload);
      if (peer_.honest()) IOB_CHECK(journal_.IsNext(from, record.sequence, payload));
      from = consumer_->position();
    }
    IOB_CHECK(consumer_->status().ok() || !peer_.honest());
    consumer_->Release();
  }

  void WaitForRoom(uint64_t payload_bytes) {
    const bool sleeps =
        peer_.Watch([&] { return victim_->PrepareToWaitForRoom(payload_bytes).sleep; });
    const shm::FutexWord word = victim_->RoomWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] {
      (void)victim_->AvailableDataBytes();
      (void)victim_->ConsumerPosition();
      (void)victim_->ProducerPosition();
      victim_->ClearWantRoom();
    });
  }

  void Check() const {
    const shm::SharedLedger& ledger = victim_->ledger();
    IOB_CHECK(ledger.stored_records + ledger.discarded_records + ledger.lost_records +
                  journal_.open() ==
              reserved_records_);
    if (!peer_.honest()) return;
    IOB_CHECK(ledger.lost_records == 0 && ledger.integrity_records == 0);
    IOB_CHECK(victim_->head_violations() == 0);
  }

  SharedRing& ring_;
  Input& input_;
  Peer peer_;
  uint64_t start_;
  std::optional<shm::SharedProducer> victim_;
  std::optional<shm::SharedProducer> other_;
  std::optional<shm::SharedConsumer> consumer_;
  SharedJournal journal_;
  uint64_t reserved_records_ = 0;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::SharedRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::SharedProducerSchedule(ring, input).Run();
  return 0;
}
