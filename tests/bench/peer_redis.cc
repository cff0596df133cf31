// Redis streams: XADD in pipelines, XREAD of up to 1000 entries, trimmed behind the reader so that
// the server's memory stays bounded without losing anything that was not read.
#include <hiredis/hiredis.h>

#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "tests/bench/peer_service.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr char kStream[] = "s";

// One server for all pipelines.
class RedisServer {
 public:
  absl::Status Start() {
    if (service_.pid() > 0) return absl::OkStatus();
    IOB_RETURN_IF_ERROR(directory_.Create());
    IOB_RETURN_IF_ERROR(
        service_.Start({"redis-server", "--port", "0", "--unixsocket", socket(), "--save", "",
                        "--appendonly", "no", "--dir", directory_.path()}));
    return service_.WaitFor(socket());
  }
  std::string socket() const { return directory_.path() + "/redis"; }
  pid_t pid() const { return service_.pid(); }

 private:
  TemporaryDirectory directory_;
  Service service_;
};

struct FreeReply {
  void operator()(redisReply* reply) const { ::freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

// A connection, which ends with its process.
class Connection {
 public:
  static absl::StatusOr<Connection> Open(const RedisServer& server) {
    redisContext* const context = ::redisConnectUnix(server.socket().c_str());
    if (context == nullptr || context->err != 0) return absl::UnavailableError("no connection");
    return Connection(context);
  }
  void Append(std::span<const std::string_view> words) {
    std::array<const char*, 8> texts;
    std::array<size_t, 8> sizes;
    for (size_t i = 0; i < words.size(); ++i) {
      texts[i] = words[i].data();
      sizes[i] = words[i].size();
    }
    ::redisAppendCommandArgv(context_, static_cast<int>(words.size()), texts.data(), sizes.data());
  }
  Reply Take() {
    void* reply = nullptr;
    ::redisGetReply(context_, &reply);
    return Reply(static_cast<redisReply*>(reply));
  }

 private:
  explicit Connection(redisContext* context) : context_(context) {}
  redisContext* context_;
};

template <uint64_t kPipeline>
class RedisStream {
 public:
  static constexpr uint64_t kBatch = kPipeline;

  explicit RedisStream(std::shared_ptr<RedisServer> server) : server_(std::move(server)) {}

  absl::Status Setup() { return server_->Start(); }
  std::vector<pid_t> Services() const { return {server_->pid()}; }

  static std::string Key() { return absl::StrCat(kStream, kPipeline); }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(RedisStream& stream) {
      IOB_ASSIGN_OR_RETURN(Connection connection, Connection::Open(*stream.server_));
      return Sender(connection);
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      const std::string_view value(reinterpret_cast<const char*>(payload.data()), payload.size());
      const std::array<std::string_view, 5> words = {"XADD", key_, "*", "d", value};
      connection_.Append(words);
      unanswered_ += 1;
      return true;
    }
    void Flush() {
      for (; unanswered_ > 0; --unanswered_) connection_.Take();
    }

   private:
    explicit Sender(Connection connection) : connection_(connection) {}
    Connection connection_;
    std::string key_ = Key();
    uint64_t unanswered_ = 0;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(RedisStream& stream) {
      IOB_ASSIGN_OR_RETURN(Connection connection, Connection::Open(*stream.server_));
      return Receiver(connection);
    }
    void Begin(const Round& round) { waiting_ = round.waiting; }
    template <typename Take>
    size_t Poll(Take take) {
      if (waiting_ == Waiting::kSpin) {
        const std::array<std::string_view, 6> words = {"XREAD",   "COUNT", "1000",
                                                       "STREAMS", key_,    last_id_};
        connection_.Append(words);
      } else {
        const std::array<std::string_view, 8> words = {"XREAD", "COUNT",   "1000", "BLOCK",
                                                       "50",    "STREAMS", key_,   last_id_};
        connection_.Append(words);
      }
      const Reply reply = connection_.Take();
      // [[key, [[id, [field, value]], ...]]], or nil when nothing came.
      if (reply == nullptr || reply->type != REDIS_REPLY_ARRAY) return 0;
      const redisReply& entries = *reply->element[0]->element[1];
      for (size_t i = 0; i < entries.elements; ++i) {
        const redisReply& value = *entries.element[i]->element[1]->element[1];
        take(std::as_bytes(std::span<const char>(value.str, value.len)));
      }
      const redisReply& id = *entries.element[entries.elements - 1]->element[0];
      last_id_.assign(id.str, id.len);
      const std::array<std::string_view, 4> trim = {"XTRIM", key_, "MINID", last_id_};
      connection_.Append(trim);
      connection_.Take();
      return entries.elements;
    }
    void Sleep() {}  // It slept in XREAD BLOCK.

   private:
    explicit Receiver(Connection connection) : connection_(connection) {}
    Connection connection_;
    std::string key_ = Key();
    std::string last_id_ = "0";
    Waiting waiting_ = Waiting::kSpin;
  };

 private:
  std::shared_ptr<RedisServer> server_;
};

template <uint64_t kPipeline>
void Add(Contenders& contenders, const std::shared_ptr<RedisServer>& server) {
  contenders.push_back(std::make_unique<OneWay<RedisStream<kPipeline>>>(
      Traits{.name = absl::StrCat("Redis stream, pipeline ", kPipeline),
             .meaning = "XADD and XREAD over the server's Unix socket, trimmed behind the reader",
             .family = Family::kPeer,
             .read_only_consumer = false,
             .there_and_back = false,
             .can_spin = true,
             .can_sleep = true,
             .payload_bytes_max = kPipeline > 64 ? 4096U : 65'536U},
      server));
}

}  // namespace

void AddRedis(Contenders& contenders) {
  const auto server = std::make_shared<RedisServer>();
  Add<1>(contenders, server);
  Add<64>(contenders, server);
  Add<1000>(contenders, server);
}

}  // namespace iob::bench
