// What the kernel itself offers: pipes, Unix sockets, POSIX message queues.
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "shm/unique_fd.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr size_t kMessageBytesMax = 64 << 10;
constexpr size_t kPosixMessageBytesMax = 8 << 10;  // What everybody may have.
constexpr int kSleepMs = 50;

Traits PeerTraits(std::string name, std::string meaning, uint64_t payload_bytes_max) {
  return {.name = std::move(name),
          .meaning = std::move(meaning),
          .family = Family::kPeer,
          .read_only_consumer = false,
          .there_and_back = false,
          .can_spin = true,
          .can_sleep = true,
          .payload_bytes_max = payload_bytes_max};
}

// A pipe with kRecords per write. Records have the size of the round: nothing marks their ends.
template <uint64_t kRecords>
class Pipe {
 public:
  static constexpr uint64_t kBatch = kRecords;

  absl::Status Setup() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return shm::ErrnoStatus(errno, "pipe2");
    reader_ = shm::UniqueFd(ends[0]);
    writer_ = shm::UniqueFd(ends[1]);
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Pipe& pipe) { return Sender(pipe.writer_.get()); }
    void Begin(const Round&) { staged_.clear(); }
    bool TrySend(std::span<const std::byte> payload) {
      staged_.insert(staged_.end(), payload.begin(), payload.end());
      return true;
    }
    void Flush() {
      for (size_t written = 0; written < staged_.size();) {
        const ssize_t now = ::write(fd_, staged_.data() + written, staged_.size() - written);
        if (now <= 0) break;
        written += static_cast<size_t>(now);
      }
      staged_.clear();
    }

   private:
    explicit Sender(int fd) : fd_(fd) {}
    int fd_;
    std::vector<std::byte> staged_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Pipe& pipe) {
      ::fcntl(pipe.reader_.get(), F_SETFL, O_NONBLOCK);
      return Receiver(pipe.reader_.get());
    }
    void Begin(const Round& round) {
      record_bytes_ = round.payload_bytes;
      held_bytes_ = 0;
      buffer_.resize(std::max(kMessageBytesMax, record_bytes_));
    }
    template <typename Take>
    size_t Poll(Take take) {
      const ssize_t got = ::read(fd_, buffer_.data() + held_bytes_, buffer_.size() - held_bytes_);
      if (got <= 0) return 0;
      held_bytes_ += static_cast<size_t>(got);
      const size_t records = held_bytes_ / record_bytes_;
      for (size_t i = 0; i < records; ++i)
        take(std::span<const std::byte>(buffer_.data() + i * record_bytes_, record_bytes_));
      const size_t used = records * record_bytes_;
      held_bytes_ -= used;
      std::memmove(buffer_.data(), buffer_.data() + used, held_bytes_);
      return records;
    }
    void Sleep() {
      pollfd ready = {.fd = fd_, .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, kSleepMs);
    }

   private:
    explicit Receiver(int fd) : fd_(fd) {}
    int fd_;
    size_t record_bytes_ = 0;
    size_t held_bytes_ = 0;
    std::vector<std::byte> buffer_;
  };

 private:
  shm::UniqueFd reader_;
  shm::UniqueFd writer_;
};

// A pair of connected Unix sockets that keep messages apart.
template <int kType>
class UnixSocket {
 public:
  static constexpr uint64_t kBatch = 1;

  absl::Status Setup() {
    int ends[2];
    if (::socketpair(AF_UNIX, kType | SOCK_CLOEXEC, 0, ends) != 0)
      return shm::ErrnoStatus(errno, "socketpair");
    reader_ = shm::UniqueFd(ends[0]);
    writer_ = shm::UniqueFd(ends[1]);
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(UnixSocket& socket) { return Sender(socket.writer_.get()); }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      return ::send(fd_, payload.data(), payload.size(), MSG_NOSIGNAL) > 0;
    }
    void Flush() {}

   private:
    explicit Sender(int fd) : fd_(fd) {}
    int fd_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(UnixSocket& socket) {
      const timeval timeout = {.tv_sec = 0, .tv_usec = kSleepMs * 1000};
      const int fd = socket.reader_.get();
      if (::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) != 0)
        return shm::ErrnoStatus(errno, "setsockopt");
      return Receiver(fd);
    }
    void Begin(const Round& round) { flags_ = round.waiting == Waiting::kSpin ? MSG_DONTWAIT : 0; }
    template <typename Take>
    size_t Poll(Take take) {
      const ssize_t got = ::recv(fd_, buffer_.data(), buffer_.size(), flags_);
      if (got <= 0) return 0;
      take(std::span<const std::byte>(buffer_.data(), static_cast<size_t>(got)));
      return 1;
    }
    void Sleep() {}  // It slept in recv.

   private:
    explicit Receiver(int fd) : fd_(fd), buffer_(kMessageBytesMax) {}
    int fd_;
    int flags_ = 0;
    std::vector<std::byte> buffer_;
  };

 private:
  shm::UniqueFd reader_;
  shm::UniqueFd writer_;
};

class PosixQueue {
 public:
  static constexpr uint64_t kBatch = 1;

  absl::Status Setup() {
    mq_attr attributes = {};
    attributes.mq_maxmsg = 10;  // As above.
    attributes.mq_msgsize = kPosixMessageBytesMax;
    const std::string name = absl::StrCat("/iob-bench-", ::getpid());
    // Two descriptions: whether one waits is a property of the description.
    writer_ =
        shm::UniqueFd(::mq_open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600, &attributes));
    if (writer_.get() < 0) return shm::ErrnoStatus(errno, "mq_open");
    reader_ = shm::UniqueFd(::mq_open(name.c_str(), O_RDONLY | O_CLOEXEC));
    ::mq_unlink(name.c_str());
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(PosixQueue& queue) { return Sender(queue.writer_.get()); }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      return ::mq_send(queue_, reinterpret_cast<const char*>(payload.data()), payload.size(), 0) ==
             0;
    }
    void Flush() {}

   private:
    explicit Sender(mqd_t queue) : queue_(queue) {}
    mqd_t queue_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(PosixQueue& queue) {
      return Receiver(queue.reader_.get());
    }
    void Begin(const Round& round) {
      mq_attr attributes = {};
      attributes.mq_flags = round.waiting == Waiting::kSpin ? O_NONBLOCK : 0;
      ::mq_setattr(queue_, &attributes, nullptr);
    }
    template <typename Take>
    size_t Poll(Take take) {
      timespec deadline = {};
      ::clock_gettime(CLOCK_REALTIME, &deadline);
      deadline.tv_sec += 1;
      const ssize_t got =
          ::mq_timedreceive(queue_, buffer_.data(), buffer_.size(), nullptr, &deadline);
      if (got < 0) return 0;
      take(std::as_bytes(std::span<const char>(buffer_.data(), static_cast<size_t>(got))));
      return 1;
    }
    void Sleep() {}  // It slept in mq_timedreceive.

   private:
    explicit Receiver(mqd_t queue) : queue_(queue), buffer_(kPosixMessageBytesMax) {}
    mqd_t queue_;
    std::vector<char> buffer_;
  };

 private:
  shm::UniqueFd reader_;
  shm::UniqueFd writer_;
};

}  // namespace

void AddKernelPeers(Contenders& contenders) {
  contenders.push_back(std::make_unique<OneWay<Pipe<1>>>(
      PeerTraits("pipe", "one write per record", kMessageBytesMax)));
  contenders.push_back(std::make_unique<OneWay<Pipe<32>>>(
      PeerTraits("pipe, 32 per write", "32 records per write", kMessageBytesMax)));
  contenders.push_back(std::make_unique<OneWay<UnixSocket<SOCK_SEQPACKET>>>(
      PeerTraits("Unix seqpacket", "one send per record", kMessageBytesMax)));
  contenders.push_back(std::make_unique<OneWay<UnixSocket<SOCK_DGRAM>>>(
      PeerTraits("Unix datagram", "one send per record", kMessageBytesMax)));
  contenders.push_back(std::make_unique<OneWay<PosixQueue>>(PeerTraits(
      "POSIX message queue", "10 messages deep, the usual limit", kPosixMessageBytesMax)));
}

}  // namespace iob::bench
