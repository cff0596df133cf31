// The producer of a lane against a consumer that writes whatever it likes into CONTROL, and into
// LANE, too.
//
// Always: a reservation is writable from end to end; what is open, what was refused and what is in
// the ring add up. While honest: nobody is accused, and the consumer gets every record, in order.
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "shm/reserve_lane_consumer.h"
#include "tests/fuzz/lane_ring.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::LaneReserveOutcome;

class LaneProducerSchedule {
 public:
  LaneProducerSchedule(LaneRing& ring, Input& input)
      : ring_(ring),
        input_(input),
        peer_(input),
        clears_(input.Flag()),
        stamps_(input.Flag()),
        start_(ring.Begin(DecodeStart(input, ring.layout().capacity_bytes(), UINT64_MAX))),
        consumer_(shm::LaneConsumer::Map(ring.layout(), ring.lane().memfd, ring.control().memfd,
                                         {.clears = clears_, .lane = 0})
                      .value()) {
    const uint64_t capacity = ring.layout().capacity_bytes();
    peer_.Owns(ring.control().mapping, {shm::kLaneHeadOffset, shm::kLaneWaitingOffset});
    peer_.Owns(ring.lane().mapping,
               {shm::kLaneTailOffset, shm::kLaneWantRoomOffset, shm::kLaneSlotsOffset,
                shm::kLaneSlotsOffset + 24, shm::kLaneSlotsOffset + 32, shm::kLaneSlotsOffset + 56,
                ring.data_offset()});
    peer_.Knows({capacity - 8, capacity, capacity + 8});
    peer_.Acts([this] { Consume(); });
  }

  void Run() {
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) Check();
    }
    if (peer_.honest() && producer_) Finish();
  }

 private:
  // The first one, then successors of dead ones. An account that was scribbled over may be refused
  // or be wrong.
  bool Map() {
    if (producer_) {
      const auto account =
          peer_.Watch([this] { return shm::ReadLaneAccount(ring_.layout(), ring_.lane().memfd); });
      IOB_CHECK(account.ok() || !peer_.honest());
      if (!account.ok()) return false;
      start_ = account->published;
      journal_.Forget();
      journal_of_first_ = false;
    }
    producer_.reset();
    auto mapped = peer_.Watch([this] {
      return shm::LaneProducer::Map(ring_.layout(), ring_.lane().memfd, ring_.control().memfd,
                                    start_, {.stamps = stamps_});
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    producer_.emplace(std::move(*mapped));
    return true;
  }

  // False: the producer dies.
  bool Step() {
    switch (input_.Below(12)) {
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
        peer_.Watch([this] { producer_->Publish(static_cast<shm::LaneWake>(input_.Below(3))); });
        break;
      case 6:
        WaitForRoom(input_.UpTo(ring_.layout().payload_bytes_max()));
        break;
      case 7:
        Consume();
        break;
      case 8:
        return false;
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
    shm::LaneReservation reservation;
    const LaneReserveOutcome outcome =
        peer_.Watch([&] { return producer_->Reserve(payload_bytes, &reservation); });
    IOB_CHECK((outcome == LaneReserveOutcome::kTooLarge) ==
              (payload_bytes > ring_.layout().payload_bytes_max()));
    IOB_CHECK(outcome != LaneReserveOutcome::kIntegrity || !peer_.honest());
    if (outcome != LaneReserveOutcome::kReserved) return;
    IOB_CHECK(reservation.bytes().size() == payload_bytes);
    journal_.Reserved(reservation);
  }

  void CloseOne(uint8_t choice) {
    const uint64_t open = journal_.open();
    if (open == 0) return;
    const uint64_t index = (choice >> 4) % open;
    const auto wake = static_cast<shm::LaneWake>((choice >> 2 & 3) % 3);
    const bool stores = (choice & 1) == 0;
    const shm::LaneReservation reservation = journal_.Finish(
        index, stores ? LaneJournal::State::kStored : LaneJournal::State::kDiscarded);
    peer_.Watch([&] {
      if (stores) {
        (choice & 2) != 0 ? producer_->SubmitDeferred(reservation)
                          : void(producer_->Submit(reservation, wake));
      } else {
        (choice & 2) != 0 ? producer_->DiscardDeferred(reservation)
                          : void(producer_->Discard(reservation, wake));
      }
    });
  }

  void WaitForRoom(uint64_t payload_bytes) {
    const bool sleeps =
        peer_.Watch([&] { return producer_->PrepareToWaitForRoom(payload_bytes).sleep; });
    if (sleeps) {
      const shm::FutexWord word = producer_->RoomWord();
      LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    }
    peer_.Watch([this] { producer_->ClearWantRoom(); });
  }

  // All that is there. The honest consumer of a spoilt lane is a victim as well.
  void Consume() {
    shm::SharedRecord record;
    while (consumer_.Next(&record) == shm::LaneReadOutcome::kRecord) {
      std::vector<std::byte> payload(record.payload.size());
      record.payload.CopyOut(0, payload);
      if (peer_.honest() && journal_of_first_) {
        IOB_CHECK(journal_.IsStored(consumer_.consumed().records() - 1, payload));
      }
    }
    IOB_CHECK(consumer_.status().ok() || !peer_.honest());
    consumer_.Release();
  }

  void Check() {
    IOB_CHECK(producer_->open_reservations() == journal_.open());
    const shm::Ledger& rejected = producer_->rejected();
    IOB_CHECK(rejected.attempted_records == std::accumulate(rejected.rejected_records.begin(),
                                                            rejected.rejected_records.end(),
                                                            uint64_t{0}));
    IOB_CHECK(rejected.stored_records == 0);
    IOB_CHECK(producer_->violations() == 0 || !peer_.honest());
    const uint64_t available = peer_.Watch([this] { return producer_->AvailableDataBytes(); });
    IOB_CHECK(available <= producer_->SizeBytes());
    const uint64_t finished = producer_->finished().position - start_.position;
    IOB_CHECK(finished <= producer_->ProducerPosition() - start_.position);
  }

  void Finish() {
    peer_.CallOff();
    while (journal_.open() != 0) CloseOne(0);
    producer_->Publish();
    Consume();
    IOB_CHECK(consumer_.consumed().position == producer_->finished().position);
    IOB_CHECK(consumer_.consumed().records() == producer_->finished().records());
    if (journal_of_first_) IOB_CHECK(consumer_.consumed().records() == journal_.stored());
  }

  LaneRing& ring_;
  Input& input_;
  Peer peer_;
  bool clears_;
  bool stamps_;
  shm::LaneCheckpoint start_;
  shm::LaneConsumer consumer_;
  LaneJournal journal_;
  std::optional<shm::LaneProducer> producer_;
  // What a dead producer had finished and not published is gone, and with it the numbering.
  bool journal_of_first_ = true;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::LaneRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::LaneProducerSchedule(ring, input).Run();
  return 0;
}
