// StatsWatch against a stream that the test plays: what a beat says, deadlines, and how a stream
// ends. What it shares with EventWatch is tested there as well.
#include "client/stats_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "client/broker.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_control.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

v1::WatchStatsResponse Beat(int64_t seconds, uint64_t stored_records) {
  v1::WatchStatsResponse beat;
  beat.mutable_time()->set_seconds(seconds);
  beat.mutable_time()->set_nanos(500'000'000);
  beat.mutable_stats()->set_buffer_koid(7);
  v1::RingStats& ring = *beat.mutable_stats()->add_rings();
  ring.set_region_index(2);
  ring.set_stored_records(stored_records);
  ring.add_rejected()->set_cause(v1::LOSS_CAUSE_FULL);
  ring.mutable_rejected(0)->set_records(9);
  return beat;
}

// Returns when the client is gone.
void AwaitCancel(grpc::ServerContext* context) {
  while (!context->IsCancelled()) std::this_thread::yield();
}

class StatsWatchTest : public ::testing::Test {
 protected:
  // Sends two beats, then ends like this; unset: when the client is gone.
  void Serve(std::optional<grpc::Status> end) {
    control_.on_WatchStats = [this, end](grpc::ServerContext* context, const auto& request,
                                         FakeControl::StatsWriter* writer) {
      asked_ = request;
      writer->Write(Beat(1'000'000, 50));
      writer->Write(Beat(1'000'001, 60));
      if (end) return *end;
      AwaitCancel(context);
      cancelled_.set_value();
      return grpc::Status();
    };
  }
  StatsBeat MustNext(StatsWatch* watch) {
    const auto beat = watch->Next(After(10s));
    EXPECT_THAT(beat, IsOk());
    EXPECT_TRUE(beat.ok() && beat->has_value());
    return beat.ok() && *beat ? **beat : StatsBeat();
  }

  v1::WatchStatsRequest asked_;
  std::promise<void> cancelled_;
  FakeControl control_;
  Broker broker_ = control_.Connect();
};

TEST_F(StatsWatchTest, TellsTheFiguresAndWhatTimeItWas) {
  Serve(std::nullopt);
  ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker_.WatchStats("logs", 250ms));
  EXPECT_EQ(asked_.name(), "logs");
  EXPECT_EQ(asked_.interval_ms(), 250u);
  StatsBeat beat = MustNext(&watch);
  EXPECT_EQ(beat.time.time_since_epoch(), 1'000'000'500ms);
  EXPECT_EQ(beat.stats.buffer_koid, 7u);
  ASSERT_EQ(beat.stats.rings.size(), 1u);
  EXPECT_EQ(beat.stats.rings[0].region_index, 2u);
  EXPECT_EQ(beat.stats.rings[0].stored_records, 50u);
  ASSERT_EQ(beat.stats.rings[0].rejected.size(), 1u);
  EXPECT_EQ(beat.stats.rings[0].rejected[0].records, 9u);
  beat = MustNext(&watch);
  EXPECT_EQ(beat.time.time_since_epoch(), 1'000'001'500ms);
  EXPECT_EQ(beat.stats.rings[0].stored_records, 60u);
}

TEST_F(StatsWatchTest, IsAskedForByIdToo) {
  Serve(std::nullopt);
  ASSERT_OK_AND_ASSIGN(const StatsWatch watch, broker_.WatchStats(uint64_t{4711}));
  EXPECT_EQ(asked_.koid(), 4711u);
  EXPECT_EQ(asked_.interval_ms(), 0u) << "the daemon knows the default";
}

TEST_F(StatsWatchTest, IntervalsFitTheirField) {
  Serve(std::nullopt);
  ASSERT_THAT(broker_.WatchStats("logs", std::chrono::hours(24 * 365)), IsOk());
  EXPECT_EQ(asked_.interval_ms(), UINT32_MAX);
  const absl::Status refused = broker_.WatchStats("logs", -1ms).status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument, "an interval of -1 ms"));
  EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
}

TEST_F(StatsWatchTest, WaitsNoLongerThanItsDeadlineAndLosesNothing) {
  std::promise<void> go;
  control_.on_WatchStats = [&](grpc::ServerContext* context, const auto&,
                               FakeControl::StatsWriter* writer) {
    writer->Write(Beat(1, 1));
    go.get_future().wait();
    writer->Write(Beat(2, 2));
    AwaitCancel(context);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker_.WatchStats("logs"));
  EXPECT_EQ(MustNext(&watch).stats.rings[0].stored_records, 1u);
  ASSERT_OK_AND_ASSIGN(const auto nothing, watch.Next(After(30ms)));
  EXPECT_FALSE(nothing.has_value());
  ASSERT_OK_AND_ASSIGN(const auto past, watch.Next(Deadline()));
  EXPECT_FALSE(past.has_value());
  go.set_value();
  EXPECT_EQ(MustNext(&watch).stats.rings[0].stored_records, 2u);
}

TEST_F(StatsWatchTest, EndsWithItsBuffer) {
  Serve(grpc::Status());
  ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker_.WatchStats("logs"));
  MustNext(&watch);
  MustNext(&watch);
  for (int i = 0; i < 2; ++i) {
    const absl::Status end = watch.Next(After(10s)).status();
    EXPECT_THAT(end, StatusIs(StatusCode::kNotFound));
    EXPECT_EQ(ReasonOf(end), "NOT_FOUND");
  }
}

TEST_F(StatsWatchTest, EndsWithTheDaemon) {
  Serve(DaemonError(grpc::StatusCode::UNAVAILABLE, "BUSY"));
  ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker_.WatchStats("logs"));
  MustNext(&watch);
  MustNext(&watch);
  EXPECT_EQ(ReasonOf(watch.Next(After(10s)).status()), "BUSY");
}

TEST_F(StatsWatchTest, IsRefusedBeforeItBegins) {
  std::atomic<int> calls = 0;
  control_.on_WatchStats = [&](grpc::ServerContext*, const auto&, FakeControl::StatsWriter*) {
    ++calls;
    return DaemonError(grpc::StatusCode::RESOURCE_EXHAUSTED, "QUOTA");
  };
  const absl::Status refused = broker_.WatchStats("logs").status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted));
  EXPECT_EQ(ReasonOf(refused), "QUOTA");
  EXPECT_EQ(calls, 1);
}

TEST_F(StatsWatchTest, IsAskedForAgainWhenTheDaemonIsBusy) {
  std::atomic<int> calls = 0;
  control_.on_WatchStats = [&](grpc::ServerContext* context, const auto&,
                               FakeControl::StatsWriter* writer) {
    if (++calls < 3) return DaemonError(grpc::StatusCode::UNAVAILABLE, "BUSY");
    writer->Write(Beat(1, 1));
    AwaitCancel(context);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker_.WatchStats("logs"));
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(MustNext(&watch).stats.rings[0].stored_records, 1u);
}

TEST_F(StatsWatchTest, OutlivesItsBrokerMovesAndTellsTheDaemonThatItIsOver) {
  Serve(std::nullopt);
  std::optional<Broker> broker(control_.Connect());
  {
    ASSERT_OK_AND_ASSIGN(StatsWatch watch, broker->WatchStats("logs"));
    broker.reset();
    StatsWatch moved = std::move(watch);
    EXPECT_EQ(MustNext(&moved).stats.buffer_koid, 7u);
  }
  EXPECT_EQ(cancelled_.get_future().wait_for(10s), std::future_status::ready);
}

}  // namespace
}  // namespace iob::test
