#include <boost/date_time/posix_time/posix_time.hpp>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

using boost::interprocess::message_queue;

constexpr size_t kMessageBytesMax = 64 << 10;
constexpr size_t kMessages = 64;

class BoostQueue {
 public:
  static constexpr uint64_t kBatch = 1;

  absl::Status Setup() {
    const std::string name = absl::StrCat("iob-bench-", ::getpid());
    message_queue::remove(name.c_str());
    queue_.emplace(boost::interprocess::create_only, name.c_str(), kMessages, kMessageBytesMax);
    message_queue::remove(name.c_str());  // Both sides inherit the mapping.
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(BoostQueue& queue) { return Sender(*queue.queue_); }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      return queue_->try_send(payload.data(), payload.size(), 0);
    }
    void Flush() {}

   private:
    explicit Sender(message_queue& queue) : queue_(&queue) {}
    message_queue* queue_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(BoostQueue& queue) { return Receiver(*queue.queue_); }
    void Begin(const Round& round) { waiting_ = round.waiting; }
    template <typename Take>
    size_t Poll(Take take) {
      message_queue::size_type size = 0;
      unsigned priority = 0;
      const bool got =
          waiting_ == Waiting::kSpin
              ? queue_->try_receive(buffer_.data(), buffer_.size(), size, priority)
              : queue_->timed_receive(buffer_.data(), buffer_.size(), size, priority,
                                      boost::posix_time::microsec_clock::universal_time() +
                                          boost::posix_time::milliseconds(50));
      if (!got) return 0;
      take(std::span<const std::byte>(buffer_.data(), size));
      return 1;
    }
    void Sleep() {}  // It slept in timed_receive.

   private:
    explicit Receiver(message_queue& queue) : queue_(&queue), buffer_(kMessageBytesMax) {}
    message_queue* queue_;
    Waiting waiting_ = Waiting::kSpin;
    std::vector<std::byte> buffer_;
  };

 private:
  std::optional<message_queue> queue_;
};

}  // namespace

void AddBoost(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<BoostQueue>>(
      Traits{.name = "Boost message_queue",
             .meaning = "64 messages deep, a mutex and condition variables in shared memory",
             .family = Family::kPeer,
             .read_only_consumer = false,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max = kMessageBytesMax}));
}

}  // namespace iob::bench
