// The follower of a broadcast ring against a writer that writes whatever it likes into DATA and
// WAIT.
//
// Always: received and lost add up to what was gone past, nothing is written behind the buffer,
// poison is for good. While honest, and with the writer appending between any two loads: every
// record is the one of its number, byte by byte.
#include <cstdint>
#include <optional>
#include <vector>

#include "shm/broadcast_follower.h"
#include "tests/fuzz/broadcast_ring.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::FollowOutcome;

class BroadcastFollowerSchedule {
 public:
  BroadcastFollowerSchedule(BroadcastRing& ring, Input& input)
      : ring_(ring.Fresh()),
        input_(input),
        peer_(input),
        writer_(shm::BroadcastWriter::Map(ring.layout, ring.data.memfd, ring.wait.memfd).value()) {
    ring.GiveTo(peer_);
    peer_.Acts([this] { Append(4); });
  }

  void Run() {
    Append(input_.Byte() % 32);
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) {
      }
    }
  }

 private:
  bool Map() {
    follower_.reset();
    const auto from = input_.Flag() ? shm::BroadcastFollower::From::kNewest
                                    : shm::BroadcastFollower::From::kOldest;
    auto mapped = peer_.Watch([&] {
      return shm::BroadcastFollower::Map(ring_.layout, ring_.data.memfd, ring_.wait.memfd, from);
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    follower_.emplace(std::move(*mapped));
    poisoned_ = false;
    told_lost_ = 0;
    return true;
  }

  // False: another follower comes.
  bool Step() {
    switch (input_.Below(8)) {
      case 0:
        Append(1 + input_.Byte() % 16);
        break;
      case 1:
      case 2:
        Next(ring_.layout.payload_bytes_max());
        break;
      case 3:
        Next(input_.UpTo(ring_.layout.payload_bytes_max()));
        break;
      case 4:
        LookAround();
        break;
      case 5:
        return input_.Byte() % 4 != 0;
      case 6:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
    return true;
  }

  void Append(int records) {
    for (; records > 0; --records) {
      const uint64_t sequence = writer_.next_sequence();
      IOB_CHECK(writer_.Append(BroadcastRing::TagOf(sequence), BroadcastRing::PayloadOf(sequence)));
    }
    (void)writer_.Publish();
  }

  void Next(uint64_t buffer_bytes) {
    std::vector<std::byte> buffer(buffer_bytes);
    shm::Followed followed;
    const uint64_t received = follower_->received_records();
    const FollowOutcome outcome = peer_.Watch([&] { return follower_->Next(buffer, &followed); });
    IOB_CHECK(!poisoned_ || outcome == FollowOutcome::kPoisoned);
    poisoned_ = outcome == FollowOutcome::kPoisoned;
    IOB_CHECK(poisoned_ == !follower_->status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
    switch (outcome) {
      case FollowOutcome::kRecord:
        IOB_CHECK(followed.payload_bytes <= buffer_bytes);
        IOB_CHECK(follower_->received_records() == received + 1);
        CheckRecord(followed, buffer);
        break;
      case FollowOutcome::kLost:
        IOB_CHECK(followed.lost_records != 0);
        told_lost_ += followed.lost_records;
        break;
      case FollowOutcome::kTooSmall:
        IOB_CHECK(followed.payload_bytes > buffer_bytes);
        IOB_CHECK(followed.payload_bytes <= ring_.layout.payload_bytes_max());
        break;
      case FollowOutcome::kEmpty:
      case FollowOutcome::kPoisoned:
        break;
    }
    IOB_CHECK(follower_->lost_records() == told_lost_);
  }

  void CheckRecord(const shm::Followed& followed, std::span<const std::byte> buffer) const {
    if (!peer_.honest()) return;
    IOB_CHECK(followed.sequence < writer_.next_sequence());
    IOB_CHECK(followed.tag == BroadcastRing::TagOf(followed.sequence));
    IOB_CHECK(BroadcastRing::IsPayloadOf(followed.sequence, buffer.first(followed.payload_bytes)));
  }

  void LookAround() {
    const bool sleeps =
        peer_.Watch([this] { return follower_->PrepareToWait(shm::kWaitingAnyhow); });
    const shm::FutexWord word = follower_->HeadWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] { return follower_->HasRecords(); });
  }

  BroadcastRing& ring_;
  Input& input_;
  Peer peer_;
  shm::BroadcastWriter writer_;
  std::optional<shm::BroadcastFollower> follower_;
  uint64_t told_lost_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::BroadcastRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::BroadcastFollowerSchedule(ring, input).Run();
  return 0;
}
