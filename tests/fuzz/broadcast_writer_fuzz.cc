// The writer of a broadcast ring against somebody else who writes whatever he likes into DATA and
// WAIT.
//
// Always: room is where the writer says, its figures grow and fit together, it refuses what is too
// long and nothing else. While honest, and with a follower that reads between any two stores: what
// the follower gets is what was appended, also across successors of the writer.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/broadcast_follower.h"
#include "tests/fuzz/broadcast_ring.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::FollowOutcome;

class BroadcastWriterSchedule {
 public:
  BroadcastWriterSchedule(BroadcastRing& ring, Input& input)
      : ring_(ring.Fresh()),
        input_(input),
        peer_(input),
        follower_(shm::BroadcastFollower::Map(ring.layout, ring.data.memfd, ring.wait.memfd,
                                              shm::BroadcastFollower::From::kOldest)
                      .value()) {
    ring.GiveTo(peer_);
    peer_.Acts([this] { Follow(); });
  }

  void Run() {
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) CheckFigures();
    }
    if (peer_.honest() && writer_) Finish();
  }

 private:
  bool Map() {
    writer_.reset();
    auto mapped = peer_.Watch([this] {
      return shm::BroadcastWriter::Map(ring_.layout, ring_.data.memfd, ring_.wait.memfd);
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    writer_.emplace(std::move(*mapped));
    figures_ = writer_->figures();
    return true;
  }

  // False: the writer dies.
  bool Step() {
    switch (input_.Below(9)) {
      case 0:
      case 1:
        for (int left = input_.Byte() % 8; left >= 0; --left) Append();
        break;
      case 2:
        AppendTooLarge();
        break;
      case 3:
        ReserveAndSubmit(input_.UpTo(ring_.layout.payload_bytes_max()));
        break;
      case 4:
        peer_.Watch([this] { (void)writer_->Publish(); });
        break;
      case 5:
        Follow();
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

  void Append() {
    const uint64_t sequence = writer_->next_sequence();
    const std::vector<std::byte> payload = BroadcastRing::PayloadOf(sequence);
    const bool stored =
        peer_.Watch([&] { return writer_->Append(BroadcastRing::TagOf(sequence), payload); });
    IOB_CHECK(stored && writer_->next_sequence() == sequence + 1);
  }
  void AppendTooLarge() {
    const std::vector<std::byte> payload(ring_.layout.payload_bytes_max() + 1);
    IOB_CHECK(!peer_.Watch([&] { return writer_->Append(1, payload); }));
  }
  // What is reserved is at least what the record of this number takes, and written from end to end.
  void ReserveAndSubmit(uint64_t extra_bytes) {
    const uint64_t sequence = writer_->next_sequence();
    const uint64_t wanted = BroadcastRing::SizeOf(sequence) + extra_bytes;
    const auto room = peer_.Watch([&] { return writer_->Reserve(wanted); });
    const bool fits = wanted <= ring_.layout.payload_bytes_max();
    IOB_CHECK(room.size() == (fits ? wanted : 0));
    if (!fits || room.data() == nullptr) return;
    FillPattern(~sequence, room);
    const uint64_t payload_bytes = BroadcastRing::SizeOf(sequence);
    FillPattern(sequence, room.first(payload_bytes));
    peer_.Watch([&] { writer_->Submit(BroadcastRing::TagOf(sequence), payload_bytes); });
    IOB_CHECK(writer_->next_sequence() == sequence + 1);
  }

  void Follow() {
    std::vector<std::byte> buffer(ring_.layout.payload_bytes_max());
    shm::Followed followed;
    // No more than this many records are ever in the ring.
    for (uint64_t left = ring_.layout.capacity_bytes() / shm::kBroadcastHeaderBytes + 2; left != 0;
         --left) {
      const FollowOutcome outcome = follower_.Next(buffer, &followed);
      if (outcome == FollowOutcome::kLost) continue;
      IOB_CHECK(outcome != FollowOutcome::kPoisoned || !peer_.honest());
      if (outcome != FollowOutcome::kRecord) return;
      if (!peer_.honest()) continue;
      IOB_CHECK(followed.tag == BroadcastRing::TagOf(followed.sequence));
      IOB_CHECK(BroadcastRing::IsPayloadOf(followed.sequence,
                                           std::span(buffer).first(followed.payload_bytes)));
    }
  }

  void CheckFigures() {
    const shm::BroadcastFigures now = writer_->figures();
    IOB_CHECK(now.stored_records == writer_->next_sequence());
    IOB_CHECK(now.overwritten_records <= now.stored_records);
    IOB_CHECK(now.overwritten_records >= figures_.overwritten_records);
    IOB_CHECK(now.restarts == 0 || !peer_.honest());
    IOB_CHECK((now.stored_records - now.overwritten_records) * shm::kBroadcastHeaderBytes <=
              ring_.layout.capacity_bytes());
    if (peer_.honest()) {
      IOB_CHECK(now.stored_bytes - now.overwritten_bytes <= ring_.layout.capacity_bytes());
    }
    figures_ = now;
  }

  void Finish() {
    peer_.CallOff();
    (void)writer_->Publish();
    Follow();
    IOB_CHECK(follower_.next_sequence() == writer_->next_sequence());
  }

  BroadcastRing& ring_;
  Input& input_;
  Peer peer_;
  shm::BroadcastFollower follower_;
  std::optional<shm::BroadcastWriter> writer_;
  shm::BroadcastFigures figures_;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::BroadcastRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::BroadcastWriterSchedule(ring, input).Run();
  return 0;
}
