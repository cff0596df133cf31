// The broker's recovery of a shared reserve ring against all that live processes can write into
// CTL, DATA and CONS meanwhile.
//
// Always: every call comes back, and no figure exceeds the slots of the ring. While honest, with a
// live producer at work between any two accesses: recovery discards exactly what the dead owner
// held, touches nobody else's records, and the accounts add up.
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"
#include "shm/reserve_shared_recovery.h"
#include "tests/fuzz/schedule.h"
#include "tests/fuzz/shared_ring.h"

namespace iob::fuzz {
namespace {

constexpr uint32_t kMortal = 1;
constexpr uint32_t kLive = 2;

class SharedRecoverySchedule {
 public:
  SharedRecoverySchedule(SharedRing& ring, Input& input)
      : ring_(ring),
        input_(input),
        peer_(input),
        start_(SharedRing::DecodeSharedStart(input, ring.layout())) {
    ring.Begin(start_);
    for (const uint32_t owner : {kMortal, kLive}) Revive(owner);
    consumer_.emplace(shm::SharedConsumer::Map(ring.layout(), ring.sections()).value());
    broker_.emplace(shm::SharedRecovery::Map(ring.layout(), ring.sections()).value());
    ring.GiveTo(peer_, start_);
    peer_.Acts([this] { Put(kLive, 40); });
  }

  void Run() {
    while (!input_.empty()) Step();
    if (!peer_.honest()) return;
    peer_.CallOff();
    Recover();
    CheckAddsUp();
  }

 private:
  void Step() {
    switch (input_.Below(11)) {
      case 0:
        Put(kMortal, input_.UpTo(400));
        break;
      case 1:
        Reserve(kMortal, input_.UpTo(400));
        break;
      case 2:
        Reserve(kLive, input_.UpTo(400));
        break;
      case 3:
        CloseOne(input_.Byte());
        break;
      case 4:
        Consume();
        break;
      case 5:
      case 6:
        Recover();
        break;
      case 7:
        LookAround();
        break;
      case 8:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
  }

  std::optional<shm::SharedProducer>& ProducerOf(uint32_t owner) {
    return producers_[owner == kMortal ? 0 : 1];
  }
  void Revive(uint32_t owner) {
    ProducerOf(owner).emplace(
        shm::SharedProducer::Map(ring_.layout(), ring_.sections(), owner, {.tries_max = 8})
            .value());
  }

  bool Reserve(uint32_t owner, uint64_t payload_bytes) {
    shm::SharedReservation reservation;
    if (ProducerOf(owner)->Reserve(payload_bytes, &reservation) !=
        shm::SharedReserveOutcome::kReserved) {
      return false;
    }
    journal_.Reserved(owner, reservation);
    reserved_records_ += 1;
    return true;
  }
  void CloseAt(uint64_t index, bool stores) {
    const auto [owner, reservation] = journal_.TakeOpen(index);
    shm::SharedProducer& producer = *ProducerOf(owner);
    const shm::SharedSubmitResult result =
        stores ? producer.Submit(reservation) : producer.Discard(reservation);
    IOB_CHECK(result.done || !peer_.honest());
    if (result.done && stores) journal_.NoteStored(reservation);
  }
  void CloseOne(uint8_t choice) {
    if (journal_.open() != 0) CloseAt((choice >> 1) % journal_.open(), (choice & 1) == 0);
  }
  void Put(uint32_t owner, uint64_t payload_bytes) {
    if (Reserve(owner, payload_bytes)) CloseAt(journal_.open() - 1, /*stores=*/true);
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

  // The mortal owner dies with what it holds, and another process gets its number.
  void Recover() {
    ProducerOf(kMortal).reset();
    const uint64_t held = journal_.open_of(kMortal);
    journal_.Forget(kMortal);
    const auto recovered = peer_.Watch([this] { return broker_->Recover(kMortal); });
    IOB_CHECK(recovered.ok());
    IOB_CHECK(recovered->discarded_records <= ring_.layout().slots());
    if (peer_.honest()) {
      IOB_CHECK(recovered->discarded_records == held);
      IOB_CHECK(!recovered->settled_submit);
    }
    Revive(kMortal);
  }

  void LookAround() {
    IOB_CHECK(!peer_.Watch([this] { return broker_->Recover(shm::kSharedOwners); }).ok());
    const uint64_t scrubbed = peer_.Watch([this] { return broker_->Scrub(); });
    IOB_CHECK(scrubbed <= ring_.layout().slots());
    (void)peer_.Watch([this] { return broker_->ScrubDue(); });
    const auto busy = peer_.Watch([this] { return broker_->FirstBusy(); });
    const auto occupancy = peer_.Watch([this] { return broker_->Occupancy(); });
    IOB_CHECK(occupancy.resident_records + occupancy.busy_records + occupancy.discarded_records <=
              ring_.layout().slots());
    (void)peer_.Watch([this] { return broker_->TotalLedger(); });
    if (!peer_.honest()) return;
    IOB_CHECK(!busy || journal_.open_of(busy->owner) != 0);
    CheckAddsUp();
  }

  void CheckAddsUp() const {
    const shm::SharedLedger total = broker_->TotalLedger();
    const shm::SharedOccupancy occupancy = broker_->Occupancy();
    IOB_CHECK(occupancy.consistent && occupancy.ring_bytes <= ring_.layout().size_bytes());
    IOB_CHECK(total.stored_records == journal_.stored());
    IOB_CHECK(total.stored_records == occupancy.consumed_records + occupancy.resident_records);
    IOB_CHECK(total.stored_bytes == occupancy.consumed_bytes + occupancy.resident_bytes);
    IOB_CHECK(occupancy.busy_records == journal_.open());
    IOB_CHECK(total.stored_records + total.discarded_records + total.recovered_records +
                  occupancy.busy_records ==
              reserved_records_);
  }

  SharedRing& ring_;
  Input& input_;
  Peer peer_;
  uint64_t start_;
  std::array<std::optional<shm::SharedProducer>, 2> producers_;
  std::optional<shm::SharedConsumer> consumer_;
  std::optional<shm::SharedRecovery> broker_;
  SharedJournal journal_;
  uint64_t reserved_records_ = 0;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::SharedRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::SharedRecoverySchedule(ring, input).Run();
  return 0;
}
