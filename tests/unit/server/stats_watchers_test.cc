// WatchStats: when beats come, what slow readers miss, how a stream ends, and what it costs. A loop
// with a clock whose hands the test turns, a real gRPC server whose only method is WatchStats, and
// buffers that are entries of a map. A client is whoever it says it is.

#include "server/stats_watchers.h"

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
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "iob/v1/broker.grpc.pb.h"
#include "server/errors.h"
#include "server/event_loop.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/fake_clock.h"

namespace iob::server {
namespace {

using Beat = v1::WatchStatsResponse;
using ::testing::HasSubstr;

constexpr uint32_t kMine = 1000;

// One stream, as a client has it. Every read has a deadline, which is a failure.
class StatsClient {
 public:
  StatsClient(test::Stub& stub, Koid buffer, uint32_t interval_ms, uint32_t uid) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(50));
    context_.AddMetadata("uid", absl::StrCat(uid));
    v1::WatchStatsRequest request;
    request.set_koid(buffer);
    request.set_interval_ms(interval_ms);
    reader_ = stub.WatchStats(&context_, request);
  }
  ~StatsClient() {
    if (reader_ != nullptr) Cancel();
  }

  // There must be one.
  Beat Read() {
    Beat beat;
    EXPECT_TRUE(reader_->Read(&beat));
    return beat;
  }
  // What is left is read, and counted.
  grpc::Status Finish(int* left = nullptr) {
    Beat beat;
    int count = 0;
    while (reader_->Read(&beat)) ++count;
    if (left != nullptr) *left = count;
    const grpc::Status status = reader_->Finish();
    reader_.reset();
    return status;
  }
  void Cancel() {
    context_.TryCancel();
    Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Beat>> reader_;
};

class Service final : public v1::BrokerService::CallbackService {
 public:
  StatsWatchers* watchers = nullptr;
  std::map<Koid, uint64_t>* buffers = nullptr;  // The loop's.

  StatsWatchers::Reactor* WatchStats(grpc::CallbackServerContext* context,
                                     const v1::WatchStatsRequest* request) override {
    return watchers->Watch(
        context, request, [this, context, request]() -> absl::StatusOr<StatsWatchers::Subject> {
          if (!buffers->contains(request->koid())) {
            return MakeError(v1::ERROR_REASON_NOT_FOUND, "no such buffer");
          }
          const grpc::string_ref uid = context->client_metadata().find("uid")->second;
          StatsWatchers::Subject subject{.uid = 0, .buffer = request->koid()};
          EXPECT_TRUE(absl::SimpleAtoi(std::string(uid.data(), uid.size()), &subject.uid));
          return subject;
        });
  }
};

class StatsWatchersTest : public ::testing::Test {
 protected:
  void SetUp() override { Begin(/*watchers_max=*/64); }
  void TearDown() override { End(); }

  void Begin(size_t watchers_max) {
    watchers_ = std::make_unique<StatsWatchers>(StatsWatchers::Dependencies{
        .loop = *loop_,
        .stats_of = [this](Koid koid,
                           v1::GetStatsResponse& response) { return Fill(koid, response); },
        .watchers_max = watchers_max});
    service_.watchers = watchers_.get();
    service_.buffers = &buffers_;
    runner_ = std::thread([this] { loop_->Run(); });
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    const std::string address = "unix:" + directory_.path() + "/s";
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    // A stream that is not read has room for small messages only: the first large one stands.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2048);
    stub_ = v1::BrokerService::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }

  // As the daemon does it.
  void End() {
    if (server_ == nullptr) return;
    OnLoop([this] { watchers_->Stop(); });
    Advance(50);
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(10));
    loop_->Quit();
    runner_.join();
    EXPECT_EQ(watchers_->count(), 0u);
    server_.reset();
    watchers_.reset();
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
  // Turns the clock, and waits until the timers that are due then have run.
  void Advance(int64_t ms) {
    clock_.AdvanceMs(ms);
    // Timers run after what was posted, so those of the first task's pass have run at the second.
    OnLoop([] {});
    OnLoop([] {});
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
  // gRPC has taken all messages: the next beat of each stream is written.
  void AwaitIdle() {
    EXPECT_TRUE(Eventually([this] { return watchers_->WritingForTest() == 0; }));
  }

  std::unique_ptr<StatsClient> Open(Koid buffer, uint32_t interval_ms = 100, uint32_t uid = kMine) {
    return std::make_unique<StatsClient>(*stub_, buffer, interval_ms, uid);
  }
  // A stream that has got its first beat, and knows it.
  std::unique_ptr<StatsClient> OpenIdle(Koid buffer, uint32_t interval_ms = 100,
                                        uint32_t uid = kMine) {
    auto client = Open(buffer, interval_ms, uid);
    EXPECT_EQ(client->Read().stats().buffer_koid(), buffer);
    AwaitIdle();
    return client;
  }
  grpc::Status StatusOf(Koid buffer, uint32_t interval_ms, uint32_t uid = kMine) {
    return Open(buffer, interval_ms, uid)->Finish();
  }
  int fills() {
    int count = 0;
    OnLoop([&] { count = fills_; });
    return count;
  }
  static void ExpectStatus(const grpc::Status& status, grpc::StatusCode code,
                           const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(test::ReasonOf(status), reason) << status.error_message();
  }

  test::FakeClock clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(clock_).value();
  std::unique_ptr<StatsWatchers> watchers_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<test::Stub> stub_;
  // The loop's: what each buffer has stored, and how often somebody looked.
  std::map<Koid, uint64_t> buffers_ = {{5, 50}, {6, 60}};
  int fills_ = 0;
  bool large_ = false;

 private:
  bool Fill(Koid koid, v1::GetStatsResponse& response) {
    ++fills_;
    const auto found = buffers_.find(koid);
    if (found == buffers_.end()) return false;
    response.set_buffer_koid(koid);
    response.add_rings()->set_stored_records(found->second);
    // Beyond what is sent to a client that does not read.
    for (int i = 0; large_ && i < 2000; ++i) response.mutable_rings(0)->add_writers()->set_tag(~0u);
    return true;
  }

  test::TempDir directory_;
  Service service_;
  std::thread runner_;
};

// --- Beats ---------------------------------------------------------------------------------------

TEST_F(StatsWatchersTest, TheFirstComesAtOnceAndTheNextWhenTheIntervalIsOver) {
  const auto client = Open(5, 100);
  Beat beat = client->Read();
  EXPECT_EQ(beat.stats().buffer_koid(), 5u);
  ASSERT_EQ(beat.stats().rings_size(), 1);
  EXPECT_EQ(beat.stats().rings(0).stored_records(), 50u);
  const absl::Time now = clock_.WallTime();
  EXPECT_EQ(absl::FromUnixSeconds(beat.time().seconds()) + absl::Nanoseconds(beat.time().nanos()),
            now);
  AwaitIdle();
  OnLoop([this] { buffers_[5] = 51; });
  Advance(99);
  EXPECT_EQ(fills(), 1);
  Advance(1);
  EXPECT_EQ(fills(), 2);
  beat = client->Read();
  EXPECT_EQ(beat.stats().rings(0).stored_records(), 51u);
  EXPECT_EQ(absl::FromUnixSeconds(beat.time().seconds()) + absl::Nanoseconds(beat.time().nanos()),
            now + absl::Milliseconds(100));
}

TEST_F(StatsWatchersTest, ComeOnceASecondUnlessToldOtherwise) {
  const auto client = OpenIdle(5, 0);
  Advance(999);
  EXPECT_EQ(fills(), 1);
  Advance(1);
  EXPECT_EQ(fills(), 2);
  client->Read();
}

TEST_F(StatsWatchersTest, KeepTheirPhaseAndDoNotComeTwiceAfterADelay) {
  const auto client = OpenIdle(5, 100);
  Advance(250);
  EXPECT_EQ(fills(), 2);
  client->Read();
  AwaitIdle();
  Advance(49);
  EXPECT_EQ(fills(), 2);
  Advance(1);
  EXPECT_EQ(fills(), 3);
  client->Read();
}

TEST_F(StatsWatchersTest, EachStreamHasItsOwnInterval) {
  const auto fast = OpenIdle(5, 10);
  const auto slow = OpenIdle(6, 3'600'000);
  for (int i = 0; i < 5; ++i) {
    Advance(10);
    fast->Read();
    AwaitIdle();
  }
  EXPECT_EQ(fills(), 2 + 5);
  fast->Cancel();
  Advance(3'600'000 - 50);
  EXPECT_EQ(slow->Read().stats().buffer_koid(), 6u);
}

TEST_F(StatsWatchersTest, IntervalsHaveBounds) {
  for (const uint32_t interval_ms : {1u, 9u, 3'600'001u, 4'294'967'295u}) {
    const grpc::Status status = StatusOf(5, interval_ms);
    ExpectStatus(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
    EXPECT_THAT(status.error_message(), HasSubstr("interval_ms"));
    EXPECT_THAT(status.error_message(), HasSubstr(absl::StrCat(interval_ms)));
    EXPECT_THAT(status.error_message(), HasSubstr("10 to 3600000"));
  }
  EXPECT_EQ(fills(), 0);
}

// --- Who does not read ---------------------------------------------------------------------------

TEST_F(StatsWatchersTest, WhoDoesNotReadMissesBeatsAndGetsNewFigures) {
  OnLoop([this] { large_ = true; });
  const auto client = Open(5, 100);
  EXPECT_TRUE(Eventually([this] { return watchers_->WritingForTest() == 1; }));
  for (int i = 0; i < 100; ++i) Advance(100);
  OnLoop([this] {
    EXPECT_EQ(fills_, 1) << "something was made that nobody takes";
    EXPECT_EQ(watchers_->beats_skipped(), 100u);
    buffers_[5] = 77;
  });
  EXPECT_EQ(client->Read().stats().rings(0).stored_records(), 50u);
  AwaitIdle();
  Advance(100);
  EXPECT_EQ(client->Read().stats().rings(0).stored_records(), 77u);
}

TEST_F(StatsWatchersTest, WhoDoesNotReadKeepsItsPlaceUntilItIsGone) {
  OnLoop([this] { large_ = true; });
  const auto client = Open(5, 100);
  EXPECT_TRUE(Eventually([this] { return watchers_->WritingForTest() == 1; }));
  OnLoop([this] {
    buffers_.erase(5);
    watchers_->BufferGone(5);
    EXPECT_EQ(watchers_->count(), 1u) << "or they could pile up without a bound";
  });
  int left = 0;
  EXPECT_TRUE(client->Finish(&left).ok());
  EXPECT_EQ(left, 1);
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
}

// --- Ends ----------------------------------------------------------------------------------------

TEST_F(StatsWatchersTest, EndWithTheirBuffer) {
  const auto one = OpenIdle(5, 100);
  const auto two = OpenIdle(5, 1000);
  const auto other = OpenIdle(6, 100);
  OnLoop([this] {
    buffers_.erase(5);
    watchers_->BufferGone(5);
    watchers_->BufferGone(4711);
  });
  EXPECT_TRUE(one->Finish().ok());
  EXPECT_TRUE(two->Finish().ok());
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 1; }));
  Advance(100);
  EXPECT_EQ(other->Read().stats().buffer_koid(), 6u);
}

TEST_F(StatsWatchersTest, EndWhenTheFiguresAre) {
  const auto client = OpenIdle(5, 100);
  OnLoop([this] { buffers_.erase(5); });
  Advance(100);
  int left = 0;
  EXPECT_TRUE(client->Finish(&left).ok());
  EXPECT_EQ(left, 0);
}

TEST_F(StatsWatchersTest, EndWithTheirClientAndNothingGoesOn) {
  OpenIdle(5, 100)->Cancel();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
  for (int i = 0; i < 10; ++i) Advance(1000);
  EXPECT_EQ(fills(), 1) << "a timer without a stream";
  OnLoop([this] { watchers_->BufferGone(5); });
}

TEST_F(StatsWatchersTest, EndWithTheDaemonAlsoThoseThatDoNotRead) {
  const auto client = OpenIdle(5, 100);
  OnLoop([this] { large_ = true; });
  const auto standing = Open(6, 100);
  EXPECT_TRUE(Eventually([this] { return watchers_->WritingForTest() == 1; }));
  OnLoop([this] { watchers_->Stop(); });
  ExpectStatus(client->Finish(), grpc::StatusCode::UNAVAILABLE, "BUSY");
  ExpectStatus(StatusOf(5, 100), grpc::StatusCode::UNAVAILABLE, "BUSY");
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 1; }));
  Advance(50);
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }))
      << "a client that does not read holds the daemon up";
}

// --- Refusals ------------------------------------------------------------------------------------

TEST_F(StatsWatchersTest, AreForWhoMaySeeTheBuffer) {
  ExpectStatus(StatusOf(4711, 100), grpc::StatusCode::NOT_FOUND, "NOT_FOUND");
  OnLoop([this] { EXPECT_EQ(fills_, 0); });
}

TEST_F(StatsWatchersTest, HaveALimitInAllAndOfOneUid) {
  End();
  loop_ = EventLoop::Create(clock_).value();
  Begin(/*watchers_max=*/8);
  std::vector<std::unique_ptr<StatsClient>> clients;
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(OpenIdle(5, 100, kMine));
  grpc::Status status = StatusOf(5, 100, kMine);
  ExpectStatus(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUOTA");
  EXPECT_THAT(status.error_message(), HasSubstr("watchers of uid 1000: 2 of 2 in use"));
  for (uint32_t i = 0; i < 6; ++i) clients.push_back(OpenIdle(5, 100, 2000 + i));
  status = StatusOf(5, 100, 3000);
  ExpectStatus(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUOTA");
  EXPECT_THAT(status.error_message(), HasSubstr("watchers of the daemon: 8 of 8 in use"));
  // A place that is free again is taken again.
  clients.front()->Cancel();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 7; }));
  clients.front() = OpenIdle(5, 100, kMine);
}

TEST_F(StatsWatchersTest, AreRefusedByALoopThatIsBehind) {
  grpc::Status status;
  OnLoop([&] {
    while (loop_->Post([] {})) {
    }
    // The loop is in this task meanwhile, so that the queue stays full.
    status = StatusOf(5, 100);
  });
  ExpectStatus(status, grpc::StatusCode::UNAVAILABLE, "BUSY");
}

}  // namespace
}  // namespace iob::server
