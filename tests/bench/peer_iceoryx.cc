// iceoryx: loan and publish, take and release, with the policies that lose nothing: the publisher
// waits for the subscriber. Its daemon, RouDi, is started for the run; where one is running
// already, that one serves, and no memory of it is reported.
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iceoryx_posh/mepoo/chunk_header.hpp>
#include <iceoryx_posh/popo/untyped_publisher.hpp>
#include <iceoryx_posh/popo/untyped_subscriber.hpp>
#include <iceoryx_posh/popo/wait_set.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "tests/bench/peer_service.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kChunkBytesMax = 1 << 20;
constexpr uint64_t kQueueCapacity = 64;
// Chunks of each size: a full queue, and some more on the way. Its own defaults have too few of the
// large ones for a publisher that waits.
constexpr char kConfig[] = R"([general]
version = 1
[[segment]]
[[segment.mempool]]
size = 128
count = 1000
[[segment.mempool]]
size = 1024
count = 1000
[[segment.mempool]]
size = 16384
count = 200
[[segment.mempool]]
size = 131072
count = 200
[[segment.mempool]]
size = 1048576
count = 100
)";
constexpr char kRouDiSocket[] = "/tmp/roudi";

iox::capro::ServiceDescription Description() { return {"iob", "bench", "records"}; }

void InitRuntime(const char* role) {
  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kOff,
                                                           iox::log::LogLevelOutput::kHideLogLevel);
  const std::string name = absl::StrCat("iob-bench-", role, "-", ::getpid());
  iox::runtime::PoshRuntime::initRuntime(
      iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name.c_str()));
}

class Iceoryx {
 public:
  static constexpr uint64_t kBatch = 1;
  static constexpr bool kCleansUpAtExit = true;  // Its runtime takes leave of RouDi there.

  absl::Status Setup() {
    IOB_RETURN_IF_ERROR(directory_.Create());
    const std::string config = directory_.path() + "/roudi.toml";
    std::ofstream(config) << kConfig;
    IOB_RETURN_IF_ERROR(roudi_.Start({"iox-roudi", "-l", "off", "-k", "1", "-c", config}));
    IOB_RETURN_IF_ERROR(roudi_.WaitFor(kRouDiSocket));
    return absl::OkStatus();
  }
  std::vector<pid_t> Services() const { return {roudi_.pid()}; }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Iceoryx&) {
      InitRuntime("send");
      iox::popo::PublisherOptions options;
      options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
      auto publisher = std::make_unique<iox::popo::UntypedPublisher>(Description(), options);
      const int64_t deadline_ns = shm::MonotonicNs() + 10'000'000'000;
      while (!publisher->hasSubscribers()) {
        if (shm::MonotonicNs() > deadline_ns) return absl::UnavailableError("no subscriber");
        ::usleep(1000);
      }
      return Sender(std::move(publisher));
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      bool sent = false;
      publisher_->loan(static_cast<uint32_t>(payload.size())).and_then([&](void*& chunk) {
        std::memcpy(chunk, payload.data(), payload.size());
        publisher_->publish(chunk);
        sent = true;
      });
      return sent;
    }
    void Flush() {}

   private:
    explicit Sender(std::unique_ptr<iox::popo::UntypedPublisher> publisher)
        : publisher_(std::move(publisher)) {}
    std::unique_ptr<iox::popo::UntypedPublisher> publisher_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Iceoryx&) {
      InitRuntime("receive");
      iox::popo::SubscriberOptions options;
      options.queueCapacity = kQueueCapacity;
      options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
      Receiver receiver;
      receiver.subscriber_ = std::make_unique<iox::popo::UntypedSubscriber>(Description(), options);
      receiver.wait_set_ = std::make_unique<iox::popo::WaitSet<>>();
      bool attached = true;
      receiver.wait_set_->attachState(*receiver.subscriber_, iox::popo::SubscriberState::HAS_DATA)
          .or_else([&](auto) { attached = false; });
      if (!attached) return absl::InternalError("attachState failed");
      return receiver;
    }
    void Begin(const Round&) {}
    template <typename Take>
    size_t Poll(Take take) {
      size_t taken = 0;
      for (; taken < kTakesPerLook; ++taken) {
        bool got = false;
        subscriber_->take().and_then([&](const void* chunk) {
          const auto size = iox::mepoo::ChunkHeader::fromUserPayload(chunk)->userPayloadSize();
          take(std::span<const std::byte>(static_cast<const std::byte*>(chunk), size));
          subscriber_->release(chunk);
          got = true;
        });
        if (!got) break;
      }
      return taken;
    }
    void Sleep() { wait_set_->timedWait(iox::units::Duration::fromMilliseconds(50)); }

   private:
    static constexpr size_t kTakesPerLook = 64;
    std::unique_ptr<iox::popo::UntypedSubscriber> subscriber_;
    std::unique_ptr<iox::popo::WaitSet<>> wait_set_;
  };

 private:
  TemporaryDirectory directory_;
  Service roudi_;
};

}  // namespace

void AddIceoryx(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<Iceoryx>>(
      Traits{.name = "iceoryx 2.0.3",
             .meaning = "loan and publish, take and release; WaitSet when it sleeps",
             .family = Family::kPeer,
             .read_only_consumer = true,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max = kChunkBytesMax}));
}

}  // namespace iob::bench
