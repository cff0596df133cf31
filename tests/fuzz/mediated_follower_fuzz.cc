// A follower of a mediated ring, and the consumer of one that overwrites, against a broker that
// writes whatever it likes into HEAD, DATA and FOLLOW.
//
// Always: received and lost add up to what was gone past, poison is for good and has a reason.
// While honest, with records coming and going between any two loads: every record is the one of its
// number, with its stamp and its gap, and what is told as lost was never received.
#include <cstdint>
#include <optional>

#include "shm/mediated_ring_follower.h"
#include "tests/fuzz/hand_writer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::RingFollowOutcome;

class MediatedFollowerSchedule {
 public:
  MediatedFollowerSchedule(MediatedRing& ring, Input& input)
      : ring_(ring.Fresh()),
        input_(input),
        peer_(input),
        consumes_(input.Flag()),
        options_{.policy = shm::RingPolicy::kOverwriteOldest,
                 .gap_records = input.Flag(),
                 .stamped = input.Flag(),
                 .followers = true},
        start_(DecodeStart(input, ring.layout.capacity_bytes(), UINT64_MAX)),
        writer_(ring, options_, start_) {
    ring.GiveTo(peer_, start_);
    peer_.Acts([this] { Append(3, 500); });
  }

  void Run() {
    Append(input_.Byte() % 16, 200);
    while (Map() && !input_.empty()) {
      while (!input_.empty() && Step()) {
      }
    }
  }

 private:
  bool Map() {
    follower_.reset();
    auto mapped = peer_.Watch([this] {
      return consumes_ ? shm::MediatedRingFollower::Consume(ring_.layout, options_,
                                                            ring_.head.memfd, ring_.data.memfd)
                       : shm::MediatedRingFollower::Follow(ring_.layout, options_, ring_.data.memfd,
                                                           ring_.follow.memfd);
    });
    IOB_CHECK(mapped.ok() || !peer_.honest());
    if (!mapped.ok()) return false;
    follower_.emplace(std::move(*mapped));
    poisoned_ = false;
    return true;
  }

  // False: another one comes.
  bool Step() {
    switch (input_.Below(8)) {
      case 0:
        Append(1 + input_.Byte() % 16, input_.UpTo(ring_.layout.capacity_bytes()));
        break;
      case 1:
      case 2:
      case 3:
        Next();
        break;
      case 4:
        peer_.Watch([this] { follower_->Release(); });
        break;
      case 5:
        LookAround();
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

  void Append(int records, uint64_t payload_bytes) {
    for (; records > 0; --records) writer_.Append(payload_bytes);
    writer_.Publish();
  }

  void Next() {
    const uint64_t number = follower_->next_record();
    shm::RecordView view;
    const RingFollowOutcome outcome = peer_.Watch([&] { return follower_->Next(&view); });
    IOB_CHECK(!poisoned_ || outcome == RingFollowOutcome::kPoisoned);
    poisoned_ = outcome == RingFollowOutcome::kPoisoned;
    IOB_CHECK(poisoned_ == !follower_->status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
    const shm::MediatedRingFollower::Account& account = follower_->account();
    IOB_CHECK(account.received_records + account.lost_records ==
              follower_->next_record() - follower_->first_record());
    if (outcome == RingFollowOutcome::kRecord) {
      LookAt(view.payload);
      IOB_CHECK(view.payload.size() <= ring_.layout.capacity_bytes());
      if (peer_.honest()) IOB_CHECK(writer_.IsRecord(number, view));
    } else if (outcome == RingFollowOutcome::kLost && peer_.honest()) {
      IOB_CHECK(view.gap.at_record == number && view.gap.records != 0);
      IOB_CHECK(number + view.gap.records <= writer_.stored_records());
    }
  }

  void LookAround() {
    const bool sleeps =
        peer_.Watch([this] { return follower_->PrepareToWait(shm::kWaitingOnFutex); });
    const shm::FutexWord word = follower_->HeadWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] {
      (void)follower_->HasRecords();
      follower_->ClearWaiting();
    });
    poisoned_ = poisoned_ || !follower_->status().ok();
  }

  MediatedRing& ring_;
  Input& input_;
  Peer peer_;
  bool consumes_;
  shm::RingOptions options_;
  uint64_t start_;
  HandWriter writer_;
  std::optional<shm::MediatedRingFollower> follower_;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::MediatedRing ring;
  iob::fuzz::Input input({data, size});
  iob::fuzz::MediatedFollowerSchedule(ring, input).Run();
  return 0;
}
