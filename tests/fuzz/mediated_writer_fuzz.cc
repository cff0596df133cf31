// The writer of a mediated ring against a consumer that writes whatever it likes into HEAD and
// FOLLOW. DATA is sealed, as in real life.
//
// Always: stored = consumed + overwritten + resident, a ring is never more than full, and a
// follower, which believes DATA alone, gets every record it is not too slow for, byte by byte.
// While honest: nobody is accused, and the consumer gets the records that were stored.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/mediated_ring_follower.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::AppendOutcome;
using shm::RingFollowOutcome;

shm::RingOptions DecodeOptions(Input& input) {
  const uint8_t bits = input.Byte();
  return {.policy = static_cast<shm::RingPolicy>((bits & 3) % 3),
          .gap_records = (bits & 4) != 0,
          .stamped = (bits & 8) != 0,
          .followers = (bits & 16) != 0};
}

class MediatedWriterSchedule {
 public:
  explicit MediatedWriterSchedule(Input& input)
      : input_(input),
        peer_(input),
        options_(DecodeOptions(input)),
        layout_(shm::RingLayout::ForRegion(2 * shm::PageBytes()).value()),
        writer_(shm::MediatedRingWriter::Create(layout_, options_).value()),
        head_(shm::Mapping::Map(writer_.head_memfd()).value()) {
    peer_.Owns(head_, {shm::kHeadOffset, shm::kTailOffset, shm::kTailOffset, shm::kWaitingOffset});
    const uint64_t capacity = layout_.capacity_bytes();
    peer_.Knows({capacity - 8, capacity, capacity + 8});
    peer_.Acts([this] { Consume(); });
    if (!options_.overwrites()) {
      reader_.emplace(shm::MediatedRingReader::Map(layout_, writer_.head_memfd(),
                                                   writer_.data_memfd(), options_)
                          .value());
    }
    if (writer_.follow_memfd() == nullptr) return;
    follow_.emplace(shm::Mapping::Map(*writer_.follow_memfd()).value());
    peer_.Owns(*follow_, {shm::kFollowWaitingOffset});
    follower_.emplace(shm::MediatedRingFollower::Follow(layout_, options_, writer_.data_memfd(),
                                                        *writer_.follow_memfd())
                          .value());
  }

  void Run() {
    while (!input_.empty()) {
      Step();
      Check();
    }
  }

 private:
  void Step() {
    switch (input_.Below(10)) {
      case 0:
      case 1:
      case 2:
        Append(input_.UpTo(layout_.capacity_bytes() + 16));
        break;
      case 3:
        peer_.Watch([this] { return writer_.Publish(ledger_); });
        break;
      case 4:
        Consume();
        break;
      case 5:
        Follow();
        break;
      case 6:
        peer_.Watch([this] { writer_.WantRoom(input_.UpTo(layout_.capacity_bytes())); });
        break;
      case 7:
        (void)peer_.Watch([this] { return writer_.RefreshTail(); });
        break;
      case 8:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
  }

  void Append(uint64_t payload_bytes) {
    const uint64_t number = sizes_.size();
    std::vector<std::byte> payload(payload_bytes);
    FillPattern(number, payload);
    const AppendOutcome outcome =
        peer_.Watch([&] { return writer_.Append(number, payload, /*now_ns=*/1); });
    switch (outcome) {
      case AppendOutcome::kStored:
        ledger_.CountStored(payload_bytes);
        sizes_.push_back(payload_bytes);
        break;
      case AppendOutcome::kFull:
        IOB_CHECK(!options_.overwrites());
        Reject(shm::LossCause::kFull, payload_bytes);
        break;
      case AppendOutcome::kIntegrity:
        IOB_CHECK(!peer_.honest() && !options_.overwrites());
        Reject(shm::LossCause::kIntegrity, payload_bytes);
        break;
      case AppendOutcome::kTooLarge:
        IOB_CHECK(shm::RecordBytes(payload_bytes + options_.stamp_bytes()) >
                  layout_.capacity_bytes());
        Reject(shm::LossCause::kTooLarge, payload_bytes);
        break;
      case AppendOutcome::kBudget:
        IOB_CHECK(false);
    }
  }
  void Reject(shm::LossCause cause, uint64_t payload_bytes) {
    ledger_.CountRejected(cause, payload_bytes);
    writer_.NoteRejected(1, payload_bytes);
  }

  bool IsRecord(const shm::RecordView& view) const {
    return view.tag < sizes_.size() && view.payload.size() == sizes_[view.tag] &&
           HasPattern(view.tag, view.payload);
  }

  // Everything that is there. A reader of spoilt positions may be poisoned; what it gives out
  // before lies in the ring.
  void Consume() {
    if (!reader_) return;
    shm::RecordView view;
    while (reader_->Next(&view) == shm::ReadOutcome::kRecord) {
      LookAt(view.payload);
      if (peer_.honest()) IOB_CHECK(view.tag == consumed_++ && IsRecord(view));
    }
    IOB_CHECK(reader_->status().ok() || !peer_.honest());
    reader_->Release();
  }

  // What the consumer does to HEAD is nothing to a follower.
  void Follow() {
    if (!follower_) return;
    shm::RecordView view;
    for (uint64_t left = layout_.capacity_bytes() / shm::kRecordHeaderBytes + 2; left != 0;
         --left) {
      const uint64_t number = follower_->next_record();
      const RingFollowOutcome outcome = follower_->Next(&view);
      IOB_CHECK(outcome != RingFollowOutcome::kPoisoned);
      if (outcome == RingFollowOutcome::kEmpty) return;
      if (outcome == RingFollowOutcome::kRecord) IOB_CHECK(view.tag == number && IsRecord(view));
    }
  }

  void Check() {
    const shm::RingOccupancy now = peer_.Watch([this] { return writer_.Occupancy(); });
    IOB_CHECK(now.consumed_records + now.overwritten_records + now.resident_records ==
              sizes_.size());
    IOB_CHECK(now.resident_bytes <= now.high_water_bytes);
    IOB_CHECK(now.high_water_bytes <= layout_.capacity_bytes());
    IOB_CHECK(now.resident_bytes % shm::kRecordAlignBytes == 0);
    IOB_CHECK(now.overwritten_records == 0 || options_.overwrites());
    IOB_CHECK(now.tail_violations == 0 || !peer_.honest());
    IOB_CHECK(writer_.released_position() <= writer_.head_position());
  }

  Input& input_;
  Peer peer_;
  shm::RingOptions options_;
  shm::RingLayout layout_;
  shm::MediatedRingWriter writer_;
  shm::Mapping head_;
  std::optional<shm::Mapping> follow_;
  std::optional<shm::MediatedRingReader> reader_;
  std::optional<shm::MediatedRingFollower> follower_;
  shm::Ledger ledger_;
  std::vector<uint64_t> sizes_;
  uint64_t consumed_ = 0;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  iob::fuzz::Input input({data, size});
  iob::fuzz::MediatedWriterSchedule(input).Run();
  return 0;
}
