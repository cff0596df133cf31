#include <zmq.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "tests/bench/peer_service.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kMessageBytesMax = 1 << 20;

// Context and socket live until the process ends, which is when the contender's side ends.
absl::StatusOr<void*> OpenSocket(int type) {
  void* const context = ::zmq_ctx_new();
  void* const socket = context == nullptr ? nullptr : ::zmq_socket(context, type);
  if (socket == nullptr) return absl::UnavailableError(::zmq_strerror(::zmq_errno()));
  const int timeout_ms = 50;
  const int linger_ms = 0;
  ::zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout_ms, sizeof(timeout_ms));
  ::zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout_ms, sizeof(timeout_ms));
  ::zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
  return socket;
}

class ZeroMq {
 public:
  static constexpr uint64_t kBatch = 1;

  absl::Status Setup() {
    IOB_RETURN_IF_ERROR(directory_.Create());
    address_ = absl::StrCat("ipc://", directory_.path(), "/zmq");
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(ZeroMq& peer) {
      IOB_ASSIGN_OR_RETURN(void* const socket, OpenSocket(ZMQ_PUSH));
      if (::zmq_connect(socket, peer.address_.c_str()) != 0)
        return absl::UnavailableError(::zmq_strerror(::zmq_errno()));
      return Sender(socket);
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      return ::zmq_send(socket_, payload.data(), payload.size(), 0) >= 0;
    }
    void Flush() {}

   private:
    explicit Sender(void* socket) : socket_(socket) {}
    void* socket_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(ZeroMq& peer) {
      IOB_ASSIGN_OR_RETURN(void* const socket, OpenSocket(ZMQ_PULL));
      if (::zmq_bind(socket, peer.address_.c_str()) != 0)
        return absl::UnavailableError(::zmq_strerror(::zmq_errno()));
      return Receiver(socket);
    }
    void Begin(const Round& round) { flags_ = round.waiting == Waiting::kSpin ? ZMQ_DONTWAIT : 0; }
    template <typename Take>
    size_t Poll(Take take) {
      const int got = ::zmq_recv(socket_, buffer_.data(), buffer_.size(), flags_);
      if (got < 0) return 0;
      take(std::span<const std::byte>(buffer_.data(), static_cast<size_t>(got)));
      return 1;
    }
    void Sleep() {}  // It slept in zmq_recv.

   private:
    explicit Receiver(void* socket) : socket_(socket), buffer_(kMessageBytesMax) {}
    void* socket_;
    int flags_ = 0;
    std::vector<std::byte> buffer_;
  };

 private:
  TemporaryDirectory directory_;
  std::string address_;
};

}  // namespace

void AddZeroMq(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<ZeroMq>>(
      Traits{.name = "ZeroMQ ipc",
             .meaning = "PUSH to PULL; its own threads batch what goes through a Unix socket",
             .family = Family::kPeer,
             .read_only_consumer = false,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max = kMessageBytesMax}));
}

}  // namespace iob::bench
