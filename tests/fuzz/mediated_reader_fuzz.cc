// The reader of a mediated ring against a broker, or a thread of its own process, that writes
// whatever it likes into HEAD and DATA.
//
// Always: views lie in the ring, what is held fits into it, poison is for good and has a reason.
// While honest, with records coming between any two loads: every record is the next that was
// stored, with its stamp and its gap, also for a successor.
#include <cstdint>
#include <optional>

#include "shm/mediated_ring_reader.h"
#include "tests/fuzz/hand_writer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::ReadOutcome;

class MediatedReaderSchedule {
 public:
  MediatedReaderSchedule(MediatedRing& ring, Input& input)
      : ring_(ring.Fresh()),
        input_(input),
        peer_(input),
        options_{.policy = shm::RingPolicy::kDropNew,
                 .gap_records = input.Flag(),
                 .stamped = input.Flag(),
                 .followers = false},
        start_(DecodeStart(input, ring.layout.capacity_bytes(), UINT64_MAX)),
        writer_(ring, options_, start_) {
    ring.GiveTo(peer_, start_);
    peer_.Acts([this] { Append(48); });
  }

  void Run() {
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) {
      }
    }
    if (!peer_.honest() || !reader_) return;
    peer_.CallOff();
    while (Read() == ReadOutcome::kRecord) {
    }
    IOB_CHECK(next_record_ == writer_.stored_records());
  }

 private:
  // A successor gets again what was not released.
  bool Map() {
    reader_.reset();
    auto mapped = peer_.Watch([this] {
      return shm::MediatedRingReader::Map(ring_.layout, ring_.head.memfd, ring_.data.memfd,
                                          options_);
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    reader_.emplace(std::move(*mapped));
    next_record_ = released_record_;
    held_bytes_ = 0;
    poisoned_ = false;
    return true;
  }

  // False: the consumer dies.
  bool Step() {
    switch (input_.Below(9)) {
      case 0:
      case 1:
        Append(input_.UpTo(ring_.layout.capacity_bytes()));
        break;
      case 2:
      case 3:
        Read();
        break;
      case 4:
        peer_.Watch([this] { return reader_->Release(); });
        released_record_ = next_record_;
        held_bytes_ = 0;
        break;
      case 5:
        LookAround();
        break;
      case 6:
        return input_.Byte() % 4 != 0;
      case 7:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
    return true;
  }

  void Append(uint64_t payload_bytes) {
    writer_.Append(payload_bytes);
    writer_.Publish();
  }

  ReadOutcome Read() {
    shm::RecordView view;
    const ReadOutcome outcome = peer_.Watch([&] { return reader_->Next(&view); });
    IOB_CHECK(!poisoned_ || outcome == ReadOutcome::kPoisoned);
    poisoned_ = outcome == ReadOutcome::kPoisoned;
    IOB_CHECK(poisoned_ == !reader_->status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
    if (outcome != ReadOutcome::kRecord) return outcome;
    LookAt(view.payload);
    held_bytes_ += shm::RecordBytes(view.payload.size());
    IOB_CHECK(held_bytes_ <= ring_.layout.capacity_bytes());
    if (peer_.honest()) IOB_CHECK(writer_.IsRecord(next_record_, view));
    next_record_ += 1;
    return outcome;
  }

  void LookAround() {
    const bool sleeps =
        peer_.Watch([this] { return reader_->PrepareToWait(shm::kWaitingOnFutex); });
    const shm::FutexWord word = reader_->HeadWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] {
      (void)reader_->HasRecords();
      (void)reader_->ledger();
      reader_->ClearWaiting();
    });
    poisoned_ = poisoned_ || !reader_->status().ok();
  }

  MediatedRing& ring_;
  Input& input_;
  Peer peer_;
  shm::RingOptions options_;
  uint64_t start_;
  HandWriter writer_;
  std::optional<shm::MediatedRingReader> reader_;
  uint64_t next_record_ = 0;
  uint64_t released_record_ = 0;
  uint64_t held_bytes_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::MediatedRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::MediatedReaderSchedule(ring, input).Run();
  return 0;
}
