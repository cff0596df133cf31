#include "tests/bench/bare_contenders.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/bench/bare_ring.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr bool ReadsOnly(const BareShape& shape) {
  return shape.consumption == Consumption::kReads || shape.consumption == Consumption::kTakes;
}

template <BareShape kShape>
class Bare {
 public:
  static constexpr uint64_t kBatch = kShape.publish_records;

  absl::Status Setup() { return memory_.Create(kShape.ring_bytes); }

  class Sender : public BareProducer<kShape> {
   public:
    static absl::StatusOr<Sender> Open(Bare& bare) { return Sender(bare.memory_); }
    void Begin(const Round&) {}

   private:
    using BareProducer<kShape>::BareProducer;
  };

  class Receiver : public BareConsumer<kShape> {
   public:
    static absl::StatusOr<Receiver> Open(Bare& bare) {
      if (ReadsOnly(kShape)) bare.memory_.MakeRecordsReadOnly();
      return Receiver(bare.memory_);
    }
    void Begin(const Round&) {}

   private:
    using BareConsumer<kShape>::BareConsumer;
  };

 private:
  BareMemory memory_;
};

// A client stages records, a second process copies them to the ring they are for, and the client
// takes them there: the way of a mediated write.
template <BareShape kShape>
class Staging {
 public:
  static constexpr uint64_t kBatch = kShape.publish_records;

  absl::Status Setup() {
    IOB_RETURN_IF_ERROR(staging_.Create(kShape.ring_bytes));
    return destination_.Create(kShape.ring_bytes);
  }

  class Client {
   public:
    static absl::StatusOr<Client> Open(Staging& staging) { return Client(staging); }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) { return producer_.TrySend(payload); }
    void Flush() { producer_.Flush(); }
    template <typename Take>
    size_t Poll(Take take) {
      return consumer_.Poll(take);
    }

   private:
    explicit Client(Staging& staging)
        : producer_(staging.staging_), consumer_(staging.destination_) {}
    BareProducer<kShape> producer_;
    BareConsumer<kShape> consumer_;
  };

  class Server {
   public:
    static absl::StatusOr<Server> Open(Staging& staging) { return Server(staging); }
    void Begin(const Round&) {}
    void Sleep() {}
    size_t Serve() {
      const size_t served = consumer_.Poll([&](std::span<const std::byte> payload) {
        // The client takes from the destination whenever it has staged a batch.
        while (!producer_.TrySend(payload)) {
          producer_.Flush();
          shm::CpuRelax();
        }
      });
      if (served != 0) producer_.Flush();
      return served;
    }

   private:
    explicit Server(Staging& staging)
        : producer_(staging.destination_), consumer_(staging.staging_) {}
    BareProducer<kShape> producer_;
    BareConsumer<kShape> consumer_;
  };

 private:
  BareMemory staging_;
  BareMemory destination_;
};

template <BareShape kShape>
Traits TraitsOf(std::string name, std::string meaning) {
  return {.name = std::move(name),
          .meaning = std::move(meaning),
          .family = Family::kBare,
          .read_only_consumer = ReadsOnly(kShape),
          .there_and_back = false,
          .can_spin = true,
          .can_sleep = kShape.may_sleep,
          .payload_bytes_max = kShape.ring_bytes / 4};
}

template <BareShape kShape>
void Add(Contenders& contenders, std::string name, std::string meaning) {
  contenders.push_back(std::make_unique<OneWay<Bare<kShape>>>(
      TraitsOf<kShape>(std::move(name), std::move(meaning))));
}

// Designated initializers must name all members, so shapes are made by changing one thing.
constexpr BareShape With(Consumption consumption, uint64_t ring_kib = 256,
                         uint64_t publish_records = 16, uint64_t release_divisor = 8) {
  BareShape shape;
  shape.ring_bytes = ring_kib << 10;
  shape.consumption = consumption;
  shape.publish_records = publish_records;
  shape.release_divisor = release_divisor;
  return shape;
}
constexpr BareShape WithPrefetch(uint64_t ahead_bytes) {
  BareShape shape;
  shape.producer_prefetch_bytes = ahead_bytes;
  return shape;
}
constexpr BareShape WithDemotion() {
  BareShape shape;
  shape.producer_demotes = true;
  return shape;
}
constexpr BareShape InBand(Consumption consumption) {
  BareShape shape = With(consumption);
  shape.in_band = true;
  return shape;
}
constexpr BareShape Polite(BareShape shape) {
  shape.polite = true;
  return shape;
}
constexpr BareShape MaySleep(Consumption consumption) {
  BareShape shape = With(consumption);
  shape.may_sleep = true;
  return shape;
}

}  // namespace

Contenders BareVariants() {
  using enum Consumption;
  Contenders all;
  Add<With(kReads)>(all, "reads", "consumer only reads; 256 KiB, publishes 16, releases eighths");
  Add<With(kReads, 64)>(all, "reads, 64 KiB", "as reads, in a ring that stays in one core's cache");
  Add<With(kReads, 1024)>(all, "reads, 1 MiB", "as reads, in a larger ring");
  Add<With(kReads, 256, 1)>(all, "reads, publishes 1", "as reads, each record published");
  Add<With(kReads, 256, 16, 0)>(all, "reads, releases at once", "as reads, released per look");
  Add<WithPrefetch(512)>(all, "reads, producer prefetchw",
                         "as reads; the producer asks for lines 512 bytes ahead");
  Add<WithDemotion()>(all, "reads, producer cldemote",
                      "as reads; the producer pushes lines to the shared cache");
  Add<With(kTakes)>(all, "takes", "consumer asks with prefetchw, then reads; mapped read-only");
  Add<With(kTakes, 64)>(all, "takes, 64 KiB", "as takes, smaller ring");
  Add<With(kTakes, 1024)>(all, "takes, 1 MiB", "as takes, larger ring");
  Add<With(kTouches)>(all, "touches", "consumer writes one word of each line that it has read");
  Add<With(kZeroes)>(all, "zeroes", "consumer zeroes what it has read, in eighths of the ring");
  Add<With(kZeroes, 64)>(all, "zeroes, 64 KiB", "as zeroes, smaller ring");
  Add<With(kZeroes, 1024)>(all, "zeroes, 1 MiB", "as zeroes, larger ring");
  Add<With(kZeroes, 256, 1)>(all, "zeroes, publishes 1", "as zeroes, each record published");
  Add<With(kZeroes, 256, 16, 0)>(all, "zeroes, releases at once", "as zeroes, released per look");
  Add<InBand(kZeroes)>(all, "in band", "as zeroes; no head: a length that is not 0 is a record");
  Add<Polite(With(kReads))>(all, "reads, polite",
                            "as reads; where nothing is there the consumer stays away for a while");
  Add<Polite(With(kReads, 256, 1))>(all, "reads, publishes 1, polite",
                                    "as reads, polite, each record published");
  Add<Polite(With(kZeroes))>(all, "zeroes, polite", "as zeroes and polite");
  Add<Polite(InBand(kZeroes))>(all, "in band, polite", "as in band and polite");
  return all;
}

Contenders BareReferences(const std::string& fastest, const std::string& fastest_read_only) {
  using enum Consumption;
  Contenders all;
  for (const auto& [shape, name] :
       {std::pair{&fastest, kBareName}, std::pair{&fastest_read_only, kBareReadOnlyName}}) {
    Contenders variants = BareVariants();
    for (std::unique_ptr<Contender>& variant : variants) {
      if (variant->traits().name != *shape) continue;
      variant->Rename(name);
      all.push_back(std::move(variant));
    }
  }
  Add<MaySleep(kZeroes)>(all, kBareSleepName, "bare ring plus what sleeping on a futex takes");
  Add<With(kZeroes, 4096)>(all, "bare ring, 4 MiB", "bare ring, large enough for records of 1 MiB");
  Traits traits = TraitsOf<With(kZeroes)>(
      kBareStagingName, "client stages, a process copies to the destination, client reads there");
  traits.there_and_back = true;
  all.push_back(std::make_unique<ThereAndBack<Staging<With(kZeroes)>>>(std::move(traits)));
  return all;
}

}  // namespace iob::bench
