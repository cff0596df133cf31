#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/memfd.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "shm/result.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

// Of a record that is handed over untouched.
constexpr uint64_t kTouchedBytesMax = 64;
constexpr int64_t kSleepNs = 50'000'000;

// The producer writes in place. The consumer copies each payload out before it looks at it, because
// the producer may go on writing it. With kHandedOverBytes, each record is that long, whatever the
// payload: the rest of it is handed over untouched.
template <bool kClears, uint64_t kPublishRecords, uint64_t kHandedOverBytes = 0>
class Lane {
 public:
  static constexpr uint64_t kBatch = kPublishRecords;
  static constexpr uint64_t kCapacityBytes = kHandedOverBytes == 0 ? 256 << 10 : 16 << 20;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::LaneLayout layout,
                         shm::LaneLayout::ForCapacity(kCapacityBytes));
    layout_.emplace(layout);
    IOB_ASSIGN_OR_RETURN(shm::Memfd lane, shm::Memfd::Create("iob-bench-lane"));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd sealed_lane,
                         std::move(lane).SealSize(layout.lane_section_bytes()));
    IOB_ASSIGN_OR_RETURN(shm::Memfd control, shm::Memfd::Create("iob-bench-control"));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd sealed_control,
                         std::move(control).SealSize(layout.control_section_bytes()));
    lane_memfd_.emplace(std::move(sealed_lane));
    control_memfd_.emplace(std::move(sealed_control));
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Lane& lane) {
      IOB_ASSIGN_OR_RETURN(
          shm::LaneProducer producer,
          shm::LaneProducer::Map(*lane.layout_, *lane.lane_memfd_, *lane.control_memfd_,
                                 shm::LaneCheckpoint(), {.stamps = false}));
      return Sender(std::move(producer));
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      shm::LaneReservation reservation;
      if (producer_.Reserve(std::max(payload.size(), kHandedOverBytes), &reservation) !=
          shm::LaneReserveOutcome::kReserved) {
        return false;
      }
      std::memcpy(reservation.bytes().data(), payload.data(), payload.size());
      producer_.SubmitDeferred(reservation);
      return true;
    }
    void Flush() { producer_.Publish(); }

   private:
    explicit Sender(shm::LaneProducer producer) : producer_(std::move(producer)) {}
    shm::LaneProducer producer_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Lane& lane) {
      IOB_ASSIGN_OR_RETURN(
          shm::LaneConsumer consumer,
          shm::LaneConsumer::Map(*lane.layout_, *lane.lane_memfd_, *lane.control_memfd_,
                                 {.clears = kClears, .lane = 0}));
      return Receiver(std::move(consumer));
    }
    void Begin(const Round& round) {
      copy_.resize(round.payload_bytes);
      spins_ = round.waiting == Waiting::kSpin;
    }
    template <typename Take>
    size_t Poll(Take take) {
      constexpr uint64_t kBytesPerLook = kCapacityBytes / 8;
      if (spins_ && !consumer_.PollPolitely()) return 0;
      size_t taken = 0;
      uint64_t bytes = 0;
      shm::SharedRecord record;
      while (bytes < kBytesPerLook && consumer_.Next(&record) == shm::LaneReadOutcome::kRecord) {
        const std::span<std::byte> copy(copy_.data(),
                                        std::min(copy_.size(), record.payload.size()));
        record.payload.CopyOut(0, copy);
        take(std::span<const std::byte>(copy));
        bytes += shm::RecordBytes(record.payload.size());
        taken += 1;
      }
      if (taken != 0) consumer_.Release();
      return taken;
    }
    void Sleep() {
      if (consumer_.PrepareToWait(shm::kWaitingOnFutex)) {
        const std::array<shm::FutexWord, 1> words = {consumer_.TailWord()};
        shm::FutexWaitAny(words, shm::MonotonicNs() + kSleepNs);
      }
      consumer_.ClearWaiting();
    }

   private:
    explicit Receiver(shm::LaneConsumer consumer) : consumer_(std::move(consumer)) {}
    shm::LaneConsumer consumer_;
    std::vector<std::byte> copy_;
    bool spins_ = true;
  };

 private:
  std::optional<shm::LaneLayout> layout_;
  std::optional<shm::SealedMemfd> lane_memfd_;
  std::optional<shm::SealedMemfd> control_memfd_;
};

template <bool kClears, uint64_t kPublishRecords, uint64_t kHandedOverBytes = 0>
void Add(Contenders& contenders, std::string name, std::string meaning) {
  using Transport = Lane<kClears, kPublishRecords, kHandedOverBytes>;
  contenders.push_back(std::make_unique<OneWay<Transport>>(
      Traits{.name = std::move(name),
             .meaning = std::move(meaning),
             .family = Family::kOurs,
             .read_only_consumer = !kClears,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max =
                 kHandedOverBytes == 0 ? Transport::kCapacityBytes / 4 : kTouchedBytesMax}));
}

}  // namespace

void AddLanes(Contenders& contenders) {
  Add<false, 16>(contenders, "lane",
                 "reserve, write in place, submit; published by 16; the consumer copies out of a "
                 "read-only mapping");
  Add<true, 16>(contenders, "lane, clears", "the lane whose consumer zeroes what it has read");
  Add<false, 1, 1 << 20>(contenders, "lane, 1 MiB in place",
                         "each record is 1 MiB, of which only the payload is touched");
  Add<true, 1>(contenders, "lane, clears, publishes 1", "as above, each record published");
}

}  // namespace iob::bench
