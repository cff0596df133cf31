// Broadcast and slot: their writers wait for nobody, and lose what nobody took. A benchmark wants
// each record, so the reader says in a page of the benchmark's own how far it is, and the sender
// keeps within half a ring of that: the lossless use of a broadcast ring, with one follower.
//
// A slot has one value; here each is taken before the next is written, so its rate is that of a
// round trip, and its latency is the figure to look at.
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "shm/broadcast_follower.h"
#include "shm/broadcast_writer.h"
#include "shm/futex.h"
#include "shm/memfd.h"
#include "shm/result.h"
#include "shm/ring_layout.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kRegionBytes = 512 << 10;
constexpr uint64_t kSlotBytes = 64 << 10;
constexpr int64_t kSleepNs = 50'000'000;

absl::StatusOr<shm::SealedMemfd> Section(absl::string_view name, uint64_t size_bytes) {
  IOB_ASSIGN_OR_RETURN(shm::Memfd fresh, shm::Memfd::Create(name));
  return std::move(fresh).SealSize(size_bytes);
}

// How many records the reader has taken. Shared by the processes forked after Create.
class Progress {
 public:
  absl::Status Create() {
    void* const memory = ::mmap(nullptr, sizeof(*taken_), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) return shm::ErrnoStatus(errno, "mmap");
    taken_ = static_cast<std::atomic<uint64_t>*>(memory);
    return absl::OkStatus();
  }
  std::atomic<uint64_t>& taken() const { return *taken_; }

 private:
  std::atomic<uint64_t>* taken_ = nullptr;
};

class Broadcast {
 public:
  static constexpr uint64_t kBatch = 16;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::BroadcastLayout layout,
                         shm::BroadcastLayout::ForRegion(kRegionBytes));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd data,
                         Section("iob-bench-data", layout.data_section_bytes()));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd wait,
                         Section("iob-bench-wait", layout.wait_section_bytes()));
    layout_.emplace(layout);
    data_.emplace(std::move(data));
    wait_.emplace(std::move(wait));
    return progress_.Create();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Broadcast& ring) {
      IOB_ASSIGN_OR_RETURN(shm::BroadcastWriter writer,
                           shm::BroadcastWriter::Map(*ring.layout_, *ring.data_, *ring.wait_));
      return Sender(std::move(writer), ring.progress_.taken());
    }
    void Begin(const Round& round) {
      ahead_max_ = kRegionBytes / 2 / (round.payload_bytes + shm::kBroadcastHeaderBytes + 8);
    }
    bool TrySend(std::span<const std::byte> payload) {
      if (written_ - taken_ >= ahead_max_) {
        taken_ = shared_taken_->load(std::memory_order_acquire);
        if (written_ - taken_ >= ahead_max_) return false;
      }
      if (!writer_.Append(1, payload)) return false;
      written_ += 1;
      return true;
    }
    void Flush() { writer_.Publish(); }

   private:
    Sender(shm::BroadcastWriter writer, std::atomic<uint64_t>& taken)
        : writer_(std::move(writer)), shared_taken_(&taken) {}
    shm::BroadcastWriter writer_;
    std::atomic<uint64_t>* shared_taken_;
    uint64_t written_ = 0;
    uint64_t taken_ = 0;  // As last seen.
    uint64_t ahead_max_ = 1;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Broadcast& ring) {
      IOB_ASSIGN_OR_RETURN(shm::BroadcastFollower follower,
                           shm::BroadcastFollower::Map(*ring.layout_, *ring.data_, *ring.wait_,
                                                       shm::BroadcastFollower::From::kOldest));
      return Receiver(std::move(follower), ring.progress_.taken());
    }
    void Begin(const Round& round) { copy_.resize(round.payload_bytes); }
    template <typename Take>
    size_t Poll(Take take) {
      constexpr size_t kRecordsPerLook = 64;
      size_t taken = 0;
      shm::Followed followed;
      while (taken < kRecordsPerLook &&
             follower_.Next(copy_, &followed) == shm::FollowOutcome::kRecord) {
        take(std::span<const std::byte>(copy_).first(followed.payload_bytes));
        taken += 1;
      }
      if (taken != 0) shared_taken_->store(all_taken_ += taken, std::memory_order_release);
      return taken;
    }
    void Sleep() {
      if (!follower_.PrepareToWait(shm::kWaitingOnFutex)) return;
      const std::array<shm::FutexWord, 1> words = {follower_.HeadWord()};
      shm::FutexWaitAny(words, shm::MonotonicNs() + kSleepNs);
    }

   private:
    Receiver(shm::BroadcastFollower follower, std::atomic<uint64_t>& taken)
        : follower_(std::move(follower)), shared_taken_(&taken) {}
    shm::BroadcastFollower follower_;
    std::atomic<uint64_t>* shared_taken_;
    uint64_t all_taken_ = 0;
    std::vector<std::byte> copy_;
  };

 private:
  std::optional<shm::BroadcastLayout> layout_;
  std::optional<shm::SealedMemfd> data_;
  std::optional<shm::SealedMemfd> wait_;
  Progress progress_;
};

class Slot {
 public:
  static constexpr uint64_t kBatch = 1;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout, shm::SlotLayout::ForValue(kSlotBytes));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd slot, Section("iob-bench-slot", layout.section_bytes()));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd wait,
                         Section("iob-bench-wait", layout.wait_section_bytes()));
    layout_.emplace(layout);
    slot_.emplace(std::move(slot));
    wait_.emplace(std::move(wait));
    return progress_.Create();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Slot& slot) {
      IOB_ASSIGN_OR_RETURN(shm::SlotWriter writer,
                           shm::SlotWriter::Map(*slot.layout_, *slot.slot_, *slot.wait_));
      return Sender(std::move(writer), slot.progress_.taken());
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      if (taken_->load(std::memory_order_acquire) != writer_.version()) return false;
      return writer_.Write(payload).stored;
    }
    void Flush() {}

   private:
    Sender(shm::SlotWriter writer, std::atomic<uint64_t>& taken)
        : writer_(std::move(writer)), taken_(&taken) {}
    shm::SlotWriter writer_;
    std::atomic<uint64_t>* taken_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Slot& slot) {
      IOB_ASSIGN_OR_RETURN(shm::SlotReader reader,
                           shm::SlotReader::Map(*slot.layout_, *slot.slot_, *slot.wait_));
      return Receiver(std::move(reader), slot.progress_.taken());
    }
    void Begin(const Round& round) { copy_.resize(round.payload_bytes); }
    template <typename Take>
    size_t Poll(Take take) {
      shm::SlotValue value;
      if (!reader_.HasNewer()) return 0;
      if (reader_.Read(copy_, &value) != shm::SlotOutcome::kValue) return 0;
      take(std::span<const std::byte>(copy_).first(value.value_bytes));
      taken_->store(value.version, std::memory_order_release);
      return 1;
    }
    void Sleep() {
      if (!reader_.PrepareToWait(shm::kWaitingOnFutex)) return;
      const std::array<shm::FutexWord, 1> words = {reader_.WaitWord()};
      shm::FutexWaitAny(words, shm::MonotonicNs() + kSleepNs);
    }

   private:
    Receiver(shm::SlotReader reader, std::atomic<uint64_t>& taken)
        : reader_(std::move(reader)), taken_(&taken) {}
    shm::SlotReader reader_;
    std::atomic<uint64_t>* taken_;
    std::vector<std::byte> copy_;
  };

 private:
  std::optional<shm::SlotLayout> layout_;
  std::optional<shm::SealedMemfd> slot_;
  std::optional<shm::SealedMemfd> wait_;
  Progress progress_;
};

Traits TraitsOf(std::string name, std::string meaning, uint64_t payload_bytes_max) {
  return {.name = std::move(name),
          .meaning = std::move(meaning),
          .family = Family::kOurs,
          .read_only_consumer = true,
          .there_and_back = false,
          .can_spin = true,
          .can_sleep = true,
          .payload_bytes_max = payload_bytes_max};
}

}  // namespace

void AddLatest(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<Broadcast>>(
      TraitsOf("broadcast", "one writer, one follower that copies; kept from being overtaken",
               kRegionBytes / 8)));
  contenders.push_back(std::make_unique<OneWay<Slot>>(
      TraitsOf("slot, each value taken", "the latest value; the next is written when it was taken",
               kSlotBytes)));
}

}  // namespace iob::bench
