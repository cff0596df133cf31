#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"
#include "shm/result.h"
#include "shm/ring_layout.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kSizeBytes = 256 << 10;
constexpr int64_t kSleepNs = 50'000'000;

// One of many producers, alone at the moment. Each record is published by its submit.
class SharedRing {
 public:
  static constexpr uint64_t kBatch = 16;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::SharedLayout layout, shm::SharedLayout::ForSize(kSizeBytes));
    IOB_ASSIGN_OR_RETURN(shm::SharedSections sections, shm::SharedSections::Create(layout));
    layout_.emplace(layout);
    sections_.emplace(std::move(sections));
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(SharedRing& ring) {
      IOB_ASSIGN_OR_RETURN(shm::SharedProducer producer,
                           shm::SharedProducer::Map(*ring.layout_, *ring.sections_, 1));
      return Sender(std::move(producer));
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      shm::SharedReservation reservation;
      if (producer_.Reserve(payload.size(), &reservation) != shm::SharedReserveOutcome::kReserved)
        return false;
      std::memcpy(reservation.bytes.data(), payload.data(), payload.size());
      return producer_.Submit(reservation).done;
    }
    void Flush() {}

   private:
    explicit Sender(shm::SharedProducer producer) : producer_(std::move(producer)) {}
    shm::SharedProducer producer_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(SharedRing& ring) {
      IOB_ASSIGN_OR_RETURN(shm::SharedConsumer consumer,
                           shm::SharedConsumer::Map(*ring.layout_, *ring.sections_));
      return Receiver(std::move(consumer));
    }
    void Begin(const Round& round) {
      copy_.resize(round.payload_bytes);
      spins_ = round.waiting == Waiting::kSpin;
    }
    template <typename Take>
    size_t Poll(Take take) {
      constexpr uint64_t kBytesPerLook = kSizeBytes / 8;
      if (spins_ && !consumer_.PollPolitely()) return 0;
      size_t taken = 0;
      uint64_t bytes = 0;
      shm::SharedRecord record;
      while (bytes < kBytesPerLook && consumer_.Next(&record) == shm::SharedReadOutcome::kRecord) {
        const std::span<std::byte> copy(copy_.data(),
                                        std::min(copy_.size(), record.payload.size()));
        record.payload.CopyOut(0, copy);
        take(std::span<const std::byte>(copy));
        bytes += copy.size();
        taken += 1;
      }
      if (taken != 0) consumer_.Release();
      return taken;
    }
    void Sleep() {
      if (consumer_.PrepareToWait(shm::kWaitingOnFutex)) {
        const std::array<shm::FutexWord, 1> words = {consumer_.WaitWord()};
        shm::FutexWaitAny(words, shm::MonotonicNs() + kSleepNs);
      }
      consumer_.ClearWaiting();
    }

   private:
    explicit Receiver(shm::SharedConsumer consumer) : consumer_(std::move(consumer)) {}
    shm::SharedConsumer consumer_;
    std::vector<std::byte> copy_;
    bool spins_ = true;
  };

 private:
  std::optional<shm::SharedLayout> layout_;
  std::optional<shm::SharedSections> sections_;
};

}  // namespace

void AddSharedRing(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<SharedRing>>(
      Traits{.name = "shared ring",
             .meaning = "the ring of many producers that survives their death, with one producer",
             .family = Family::kOurs,
             .read_only_consumer = true,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max = kSizeBytes / 4}));
}

}  // namespace iob::bench
