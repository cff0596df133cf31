// gRPC over a Unix socket, with its generic interface: messages are bytes, so that no time goes
// into protobuf. Unary calls one after the other, and one client stream for all records, whose
// writes are hinted so that those of a batch share a system call.
//
// Threads and queues of gRPC end with their process, not before: nothing is shut down.
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"
#include "tests/bench/peer_service.h"
#include "tests/bench/peers.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

enum class Kind { kUnary, kStream };

constexpr char kUnaryMethod[] = "/iob.Bench/Unary";
constexpr char kStreamMethod[] = "/iob.Bench/Stream";

grpc::ByteBuffer Wrap(std::span<const std::byte> bytes) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  return {&slice, 1};
}

// All that one side owns, for ever.
struct ClientState {
  std::unique_ptr<grpc::GenericStub> stub;
  grpc::CompletionQueue queue;
  std::optional<grpc::ClientContext> stream_context;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
  std::optional<grpc::ByteBuffer> held;  // Not written yet: it may be the last of its batch.

  // Waits for the one operation that is under way.
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  }
};

struct ServerState {
  grpc::AsyncGenericService service;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<grpc::GenericServerContext> context;
  std::unique_ptr<grpc::GenericServerAsyncReaderWriter> call;
  grpc::ByteBuffer message;
  enum class Step { kAccepting, kReading, kFinishing } step = Step::kAccepting;

  void Accept() {
    context = std::make_unique<grpc::GenericServerContext>();
    call = std::make_unique<grpc::GenericServerAsyncReaderWriter>(context.get());
    service.RequestCall(context.get(), call.get(), queue.get(), queue.get(), nullptr);
    step = Step::kAccepting;
  }
  void Read() {
    call->Read(&message, nullptr);
    step = Step::kReading;
  }
};

template <Kind kKind>
class Grpc {
 public:
  static constexpr uint64_t kBatch = kKind == Kind::kUnary ? 1 : 64;

  absl::Status Setup() {
    IOB_RETURN_IF_ERROR(directory_.Create());
    address_ = absl::StrCat("unix:", directory_.path(), "/grpc");
    return absl::OkStatus();
  }

  class Sender {
   public:
    static absl::StatusOr<Sender> Open(Grpc& peer) {
      auto state = std::make_unique<ClientState>();
      state->stub = std::make_unique<grpc::GenericStub>(
          grpc::CreateChannel(peer.address_, grpc::InsecureChannelCredentials()));
      return Sender(state.release());
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      if (kKind == Kind::kUnary) return Call(payload);
      if (state_->stream == nullptr && !OpenStream()) return false;
      if (state_->held && !WriteHeld(grpc::WriteOptions().set_buffer_hint())) return false;
      state_->held = Wrap(payload);
      return true;
    }
    void Flush() {
      if (state_->held) WriteHeld(grpc::WriteOptions());
    }

   private:
    explicit Sender(ClientState* state) : state_(state) {}
    // Not before the first record: a server accepts while somebody polls its queue, which here is
    // the receiver in its round.
    bool OpenStream() {
      state_->stream_context.emplace();
      state_->stream_context->set_wait_for_ready(true);
      state_->stream =
          state_->stub->PrepareCall(&*state_->stream_context, kStreamMethod, &state_->queue);
      state_->stream->StartCall(nullptr);
      return state_->Await();
    }
    bool Call(std::span<const std::byte> payload) {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      grpc::ByteBuffer answer;
      grpc::Status status;
      auto call =
          state_->stub->PrepareUnaryCall(&context, kUnaryMethod, Wrap(payload), &state_->queue);
      call->StartCall();
      call->Finish(&answer, &status, nullptr);
      return state_->Await() && status.ok();
    }
    bool WriteHeld(const grpc::WriteOptions& options) {
      state_->stream->Write(*state_->held, options, nullptr);
      state_->held.reset();
      return state_->Await();
    }
    ClientState* state_;
  };

  class Receiver {
   public:
    static absl::StatusOr<Receiver> Open(Grpc& peer) {
      auto state = std::make_unique<ServerState>();
      grpc::ServerBuilder builder;
      builder.AddListeningPort(peer.address_, grpc::InsecureServerCredentials());
      builder.RegisterAsyncGenericService(&state->service);
      state->queue = builder.AddCompletionQueue();
      state->server = builder.BuildAndStart();
      if (state->server == nullptr) return absl::UnavailableError("cannot listen");
      state->Accept();
      return Receiver(state.release());
    }
    void Begin(const Round& round) { waiting_ = round.waiting; }
    template <typename Take>
    size_t Poll(Take take) {
      void* tag = nullptr;
      bool ok = false;
      const gpr_timespec deadline =
          waiting_ == Waiting::kSpin
              ? gpr_inf_past(GPR_CLOCK_MONOTONIC)
              : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(50, GPR_TIMESPAN));
      if (state_->queue->AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT)
        return 0;
      switch (state_->step) {
        case ServerState::Step::kAccepting:
          state_->Read();
          return 0;
        case ServerState::Step::kReading:
          if (!ok) break;  // The stream ended.
          Give(take);
          return 1;
        case ServerState::Step::kFinishing:
          break;
      }
      state_->Accept();
      return 0;
    }
    void Sleep() {}  // It slept in AsyncNext.

   private:
    explicit Receiver(ServerState* state) : state_(state) {}
    template <typename Take>
    void Give(Take take) {
      grpc::Slice slice;
      if (!state_->message.TrySingleSlice(&slice).ok())
        (void)state_->message.DumpToSingleSlice(&slice).ok();
      take(std::as_bytes(std::span<const uint8_t>(slice.begin(), slice.size())));
      if (kKind == Kind::kStream) {
        state_->Read();
        return;
      }
      state_->call->WriteAndFinish(Wrap({}), grpc::WriteOptions(), grpc::Status::OK, nullptr);
      state_->step = ServerState::Step::kFinishing;
    }
    ServerState* state_;
    Waiting waiting_ = Waiting::kSpin;
  };

 private:
  TemporaryDirectory directory_;
  std::string address_;
};

template <Kind kKind>
void Add(Contenders& contenders, std::string name, std::string meaning) {
  contenders.push_back(std::make_unique<OneWay<Grpc<kKind>>>(Traits{.name = std::move(name),
                                                                    .meaning = std::move(meaning),
                                                                    .family = Family::kPeer,
                                                                    .read_only_consumer = false,
                                                                    .there_and_back = false,
                                                                    .can_spin = true,
                                                                    .can_sleep = true,
                                                                    .payload_bytes_max = 1 << 20}));
}

}  // namespace

void AddGrpc(Contenders& contenders) {
  Add<Kind::kUnary>(contenders, "gRPC unary", "one call per record, one after the other");
  Add<Kind::kStream>(contenders, "gRPC client stream",
                     "one stream, writes hinted in batches of 64");
}

}  // namespace iob::bench
