// What tests of the event stream share: a loop thread, a real gRPC server on a Unix socket whose
// only method is WatchEvents, handles that are entries of a map, and a client that reads one
// message at a time. A client is whoever it says it is.
#pragma once

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "iob/v1/broker.grpc.pb.h"
#include "server/errors.h"
#include "server/event_feed.h"
#include "server/event_log.h"
#include "server/event_loop.h"
#include "server/watchers.h"
#include "tests/support/daemon_fixture.h"

namespace iob::server {

using Message = v1::WatchEventsResponse;

// One stream, as a client has it. Every read has a deadline, which is a failure.
class WatchClient {
 public:
  WatchClient(test::Stub& stub, uint32_t uid, const std::string& handle, const std::string& token) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(50));
    context_.AddMetadata("uid", absl::StrCat(uid));
    v1::WatchEventsRequest request;
    request.set_handle(handle);
    request.set_resume_token(token);
    reader_ = stub.WatchEvents(&context_, request);
  }
  ~WatchClient() {
    if (reader_ != nullptr) Cancel();
  }

  // nullopt at the end of the stream.
  std::optional<Message> TryRead() {
    Message message;
    if (!reader_->Read(&message)) return std::nullopt;
    EXPECT_EQ(message.resume_token().size(), 32u) << message.ShortDebugString();
    EXPECT_NE(message.time().seconds(), 0) << message.ShortDebugString();
    return message;
  }
  // There must be one.
  Message Read() {
    auto message = TryRead();
    EXPECT_TRUE(message.has_value());
    return message.value_or(Message());
  }
  // Nothing may come before the end.
  grpc::Status Finish() {
    while (const auto message = TryRead()) {
      ADD_FAILURE() << "left in the stream: " << message->ShortDebugString();
    }
    return FinishAnyhow();
  }
  grpc::Status FinishAnyhow() {
    while (TryRead()) {
    }
    const grpc::Status status = reader_->Finish();
    reader_.reset();
    return status;
  }
  void Cancel() {
    context_.TryCancel();
    FinishAnyhow();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Message>> reader_;
};

class WatchersTest : public ::testing::Test {
 protected:
  static constexpr size_t kWatchersMax = 256;
  static constexpr uint32_t kUid = 1000;

  void SetUp() override { Begin(kWatchersMax); }
  void TearDown() override { End(); }

  void Begin(size_t watchers_max) {
    log_ = std::make_unique<EventLog>(clock_);
    watchers_ = std::make_unique<Watchers>(Watchers::Dependencies{
        .loop = *loop_,
        .log = *log_,
        .resolve = [this](const Caller& caller,
                          const Token& token) { return Resolve(caller, token); },
        .state_of =
            [this](const WatchScope& scope) {
              return states_[scope.buffer != 0 ? scope.buffer : scope.shared_region];
            },
        .watchers_max = watchers_max});
    feed_ = std::make_unique<EventFeed>(*log_, *watchers_);
    service_.watchers = watchers_.get();
    runner_ = std::thread([this] { loop_->Run(); });
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    stub_ = NewStub();
  }

  // As the daemon does it.
  void End() {
    if (server_ == nullptr) return;
    OnLoop([this] { watchers_->Stop(); });
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(10));
    loop_->Quit();
    runner_.join();
    EXPECT_EQ(watchers_->count(), 0u);
    server_.reset();
    feed_.reset();
    watchers_.reset();
  }

  std::string address() const { return "unix:" + directory_.path() + "/s"; }

  // Over a connection of its own. A stream that is not read has room for small messages only: the
  // first large one stands until it is read.
  std::unique_ptr<test::Stub> NewStub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2048);
    return v1::BrokerService::NewStub(
        grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments));
  }

  // Runs `task` on the loop, and waits for it.
  void OnLoop(const std::function<void()>& task) {
    std::promise<void> done;
    loop_->PostUrgent([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }
  bool Eventually(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      bool result = false;
      OnLoop([&] { result = holds(); });
      if (result) return true;
      std::this_thread::yield();
    }
    return false;
  }

  // On the loop.
  std::string AddHandle(const WatchScope& scope) {
    const Token token = Token::Random();
    handles_[token.ToBytes()] = scope;
    return token.ToBytes();
  }
  void RemoveHandle(const std::string& handle) { handles_.erase(handle); }
  // Too large for a stream that is not read, by its name: nothing else in an event can be large.
  void AppendLarge(Koid buffer) {
    feed_->BufferRenamed(
        {.koid = buffer, .name = std::string(size_t{16} * 1024, 'n'), .owner_uid = kUid}, "");
  }
  void AppendOthers(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      feed_->BufferGone({.koid = 999'999, .name = "other", .owner_uid = kUid + 1});
    }
  }

  std::string NewHandle(const WatchScope& scope) {
    std::string handle;
    OnLoop([&] { handle = AddHandle(scope); });
    return handle;
  }
  std::unique_ptr<WatchClient> Open(const std::string& handle, const std::string& token,
                                    test::Stub& stub, uint32_t uid = kUid) {
    auto client = std::make_unique<WatchClient>(stub, uid, handle, token);
    EXPECT_TRUE(client->Read().has_started());
    return client;
  }
  std::unique_ptr<WatchClient> Open(const std::string& handle = "", const std::string& token = "") {
    return Open(handle, token, *stub_);
  }
  // A stream with a handle of its own that has written `started`, and knows it.
  std::unique_ptr<WatchClient> OpenIdle(const WatchScope& scope, uint32_t uid = kUid) {
    const std::string handle = NewHandle(scope);
    auto client = Open(handle, "", *stub_, uid);
    // Looked up when it came, and when it had written.
    EXPECT_TRUE(Eventually([&] { return resolves_[handle] == 2; }));
    return client;
  }
  grpc::Status StatusOf(const std::string& handle, const std::string& token = "",
                        uint32_t uid = kUid) {
    return WatchClient(*stub_, uid, handle, token).Finish();
  }
  static void ExpectStatus(const grpc::Status& status, grpc::StatusCode code,
                           const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(test::ReasonOf(status), reason) << status.error_message();
  }

  SystemClock clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(clock_).value();
  std::unique_ptr<EventLog> log_;
  std::unique_ptr<Watchers> watchers_;
  std::unique_ptr<EventFeed> feed_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<test::Stub> stub_;
  // The loop's.
  std::map<Koid, WatchState> states_;
  std::map<std::string, WatchScope> handles_;
  std::map<std::string, int> resolves_;
  std::function<void()> on_resolve_ = [] {};

 private:
  class Service final : public v1::BrokerService::CallbackService {
   public:
    Watchers* watchers = nullptr;

    Watchers::Reactor* WatchEvents(grpc::CallbackServerContext* context,
                                   const v1::WatchEventsRequest* request) override {
      return watchers->Watch(context, request, [context]() -> absl::StatusOr<Caller> {
        const auto found = context->client_metadata().find("uid");
        Caller caller;
        if (found == context->client_metadata().end() ||
            !absl::SimpleAtoi(std::string(found->second.data(), found->second.size()),
                              &caller.uid)) {
          return MakeError(v1::ERROR_REASON_BAD_HANDLE, "nobody");
        }
        return caller;
      });
    }
  };

  absl::StatusOr<WatchScope> Resolve(const Caller& /*caller*/, const Token& token) {
    on_resolve_();
    ++resolves_[token.ToBytes()];
    const auto found = handles_.find(token.ToBytes());
    if (found == handles_.end()) return MakeError(v1::ERROR_REASON_BAD_HANDLE, "unknown handle");
    return found->second;
  }

  test::TempDir directory_;
  Service service_;
  std::thread runner_;
};

}  // namespace iob::server
