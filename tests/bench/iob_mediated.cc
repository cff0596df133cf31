#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "shm/futex.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/result.h"
#include "shm/waiter.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kCapacityBytes = 256 << 10;
constexpr int64_t kSleepNs = 50'000'000;

enum class Sleeping { kAtOnce, kAfterSpin };

// The writer counts every record, as the mediator does; the reader reads in place and releases
// what it took at each look.
template <uint64_t kPublishRecords, Sleeping kSleeping>
class MediatedRing {
 public:
  static constexpr uint64_t kBatch = kPublishRecords;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout,
                         shm::RingLayout::ForRegion(kCapacityBytes + shm::PageBytes()));
    IOB_ASSIGN_OR_RETURN(shm::MediatedRingWriter writer, shm::MediatedRingWriter::Create(layout));
    writer_.emplace(std::move(writer));
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(MediatedRing& ring) { return Sender(*ring.writer_); }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      if (writer_->Append(1, payload) != shm::AppendOutcome::kStored) return false;
      ledger_.CountStored(payload.size());
      return true;
    }
    void Flush() { writer_->Publish(ledger_); }

   private:
    explicit Sender(shm::MediatedRingWriter& writer) : writer_(&writer) {}
    shm::MediatedRingWriter* writer_;
    shm::Ledger ledger_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(MediatedRing& ring) {
      const shm::MediatedRingWriter& writer = *ring.writer_;
      IOB_ASSIGN_OR_RETURN(
          shm::MediatedRingReader reader,
          shm::MediatedRingReader::Map(writer.layout(), writer.head_memfd(), writer.data_memfd()));
      return Receiver(std::move(reader));
    }
    void Begin(const Round&) {}
    template <typename Take>
    size_t Poll(Take take) {
      constexpr uint64_t kBytesPerLook = kCapacityBytes / 8;
      size_t taken = 0;
      uint64_t bytes = 0;
      shm::RecordView record;
      while (bytes < kBytesPerLook && reader_.Next(&record) == shm::ReadOutcome::kRecord) {
        take(record.payload);
        bytes += shm::RecordBytes(record.payload.size());
        taken += 1;
      }
      if (taken != 0) reader_.Release();
      return taken;
    }
    void Sleep() {
      const int64_t deadline_ns = shm::MonotonicNs() + kSleepNs;
      if constexpr (kSleeping == Sleeping::kAfterSpin) {
        if (waiter_.Spin([&] { return reader_.HasRecords(); }, deadline_ns)) return;
      }
      if (reader_.PrepareToWait(shm::kWaitingOnFutex)) {
        const std::array<shm::FutexWord, 1> words = {reader_.HeadWord()};
        shm::FutexWaitAny(words, deadline_ns);
      }
      reader_.ClearWaiting();
    }

   private:
    explicit Receiver(shm::MediatedRingReader reader) : reader_(std::move(reader)) {}
    shm::MediatedRingReader reader_;
    shm::Waiter waiter_;
  };

 private:
  std::optional<shm::MediatedRingWriter> writer_;
};

template <uint64_t kPublishRecords, Sleeping kSleeping>
void Add(Contenders& contenders, std::string name, std::string meaning) {
  contenders.push_back(std::make_unique<OneWay<MediatedRing<kPublishRecords, kSleeping>>>(
      Traits{.name = std::move(name),
             .meaning = std::move(meaning),
             .family = Family::kOurs,
             .read_only_consumer = true,
             .there_and_back = false,
             .can_spin = kSleeping == Sleeping::kAtOnce,
             .can_sleep = true,
             .payload_bytes_max = shm::kRecordPayloadBytesMax}));
}

}  // namespace

void AddMediatedRing(Contenders& contenders) {
  Add<16, Sleeping::kAtOnce>(contenders, "mediated ring",
                             "sealed records, private positions, every record counted; the writer "
                             "publishes 16 at once and the reader reads in place");
  Add<1, Sleeping::kAtOnce>(contenders, "mediated ring, publishes 1",
                            "the mediated ring with each record published");
  Add<16, Sleeping::kAfterSpin>(contenders, "mediated ring, spins then sleeps",
                                "the mediated ring with the spin that adapts (shm/waiter.h)");
}

}  // namespace iob::bench
