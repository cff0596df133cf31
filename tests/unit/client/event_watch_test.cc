// EventWatch against a stream that the test plays: every kind of event, deadlines, resuming, and
// how a stream ends.
#include "client/event_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/broker.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_control.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;
using Kind = WatchedEvent::Kind;

v1::WatchEventsResponse Message(const std::string& token) {
  v1::WatchEventsResponse message;
  message.set_resume_token(token);
  return message;
}

v1::WatchEventsResponse Started(const std::string& token = "t0") {
  v1::WatchEventsResponse message = Message(token);
  message.mutable_started();
  return message;
}

// Returns when the client is gone.
void AwaitCancel(grpc::ServerContext* context) {
  while (!context->IsCancelled()) std::this_thread::yield();
}

class EventWatchTest : public ::testing::Test {
 protected:
  // Sends these, then does `then`.
  void Serve(std::vector<v1::WatchEventsResponse> messages,
             std::function<grpc::Status(grpc::ServerContext*)> then) {
    control_.on_WatchEvents = [this, messages = std::move(messages), then = std::move(then)](
                                  grpc::ServerContext* context, const auto& request,
                                  FakeControl::EventWriter* writer) {
      asked_ = request;
      for (const v1::WatchEventsResponse& message : messages) writer->Write(message);
      return then(context);
    };
  }
  void Serve(std::vector<v1::WatchEventsResponse> messages) {
    Serve(std::move(messages), [](grpc::ServerContext* context) {
      AwaitCancel(context);
      return grpc::Status();
    });
  }

  WatchedEvent MustNext(EventWatch* watch) {
    const auto event = watch->Next(After(10s));
    EXPECT_THAT(event, IsOk());
    EXPECT_TRUE(event.ok() && event->has_value());
    return event.ok() && *event ? **event : WatchedEvent();
  }

  v1::WatchEventsRequest asked_;
  FakeControl control_;
  Broker broker_ = control_.Connect();
};

TEST_F(EventWatchTest, BeginsWithWhatIsRaised) {
  v1::WatchEventsResponse started = Started();
  started.set_buffer_koid(7);
  started.mutable_started()->set_signals(kSignalPeerClosed);
  started.mutable_started()->mutable_peer_closed()->set_kind(v1::CLOSE_KIND_KILLED);
  started.mutable_started()->mutable_peer_closed()->set_code(9);
  Serve({started});
  Secret secret;
  secret.fill(std::byte{'h'});
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch(Handle(secret), "from here"));
  EXPECT_EQ(asked_.handle(), std::string(16, 'h'));
  EXPECT_EQ(asked_.resume_token(), "from here");
  // Nothing was taken yet.
  EXPECT_EQ(watch.resume_token(), "from here");
  const WatchedEvent event = MustNext(&watch);
  EXPECT_EQ(event.kind, Kind::kStarted);
  EXPECT_EQ(event.signals, kSignalPeerClosed);
  EXPECT_EQ(ToString(event.reason), "killed(9)");
  EXPECT_EQ(event.buffer_koid, 7u);
  EXPECT_EQ(watch.resume_token(), "t0");
}

TEST_F(EventWatchTest, TellsAllKinds) {
  std::vector<v1::WatchEventsResponse> messages = {Started()};
  const auto add = [&messages]() -> v1::WatchEventsResponse& {
    messages.push_back(Message("t" + std::to_string(messages.size())));
    return messages.back();
  };
  add().mutable_resync_required()->set_signals(1);
  v1::WatchEventsResponse& created = add();
  created.set_buffer_name("name");
  created.mutable_time()->set_seconds(1'000'000);
  created.mutable_created()->set_memory_bytes(4096);
  created.mutable_created()->mutable_owner()->set_uid(1000);
  add().mutable_renamed()->set_old_name("old");
  v1::WatchEventsResponse& attached = add();
  attached.set_endpoint(v1::ENDPOINT_ID_EP1);
  attached.mutable_attached()->mutable_holder()->set_pid(42);
  v1::WatchEventsResponse& detached = add();
  detached.mutable_detached()->mutable_holder()->set_pid(43);
  detached.mutable_detached()->mutable_reason()->set_kind(v1::CLOSE_KIND_CLOSED);
  add().mutable_closed()->mutable_reason()->set_kind(v1::CLOSE_KIND_REVOKED);
  add().mutable_gone();
  add().mutable_signals()->set_signals(UserSignal(5));
  v1::WatchEventsResponse& updated = add();
  updated.set_shared_region_koid(99);
  updated.mutable_updated();
  Serve(messages);
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_TRUE(asked_.handle().empty());
  std::vector<WatchedEvent> events;
  for (size_t i = 0; i < messages.size(); ++i) {
    events.push_back(MustNext(&watch));
    EXPECT_EQ(events.back().kind, static_cast<Kind>(i));
    EXPECT_EQ(events.back().resume_token, messages[i].resume_token());
    EXPECT_EQ(watch.resume_token(), messages[i].resume_token());
  }
  EXPECT_EQ(events[1].signals, 1u);
  EXPECT_EQ(events[2].buffer_name, "name");
  EXPECT_EQ(events[2].time.time_since_epoch(), 1'000'000s);
  EXPECT_EQ(events[2].memory_bytes, 4096u);
  EXPECT_EQ(events[2].holder.uid, 1000u);
  EXPECT_FALSE(events[2].endpoint.has_value());
  EXPECT_EQ(events[3].old_name, "old");
  EXPECT_EQ(events[4].endpoint, EndpointId::kEp1);
  EXPECT_EQ(events[4].holder.pid, 42);
  EXPECT_EQ(events[5].holder.pid, 43);
  EXPECT_EQ(events[5].reason.kind, CloseKind::kClosed);
  EXPECT_EQ(events[6].reason.kind, CloseKind::kRevoked);
  EXPECT_EQ(events[8].signals, UserSignal(5));
  EXPECT_EQ(events[9].shared_region_koid, 99u);
}

TEST_F(EventWatchTest, WaitsNoLongerThanItsDeadlineAndLosesNothing) {
  std::promise<void> go;
  control_.on_WatchEvents = [&](grpc::ServerContext* context, const auto&,
                                FakeControl::EventWriter* writer) {
    writer->Write(Started());
    go.get_future().wait();
    v1::WatchEventsResponse late = Message("late");
    late.mutable_gone();
    writer->Write(late);
    AwaitCancel(context);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const auto nothing, watch.Next(After(30ms)));
  EXPECT_FALSE(nothing.has_value());
  EXPECT_GE(std::chrono::steady_clock::now() - start, 30ms);
  ASSERT_OK_AND_ASSIGN(const auto past, watch.Next(Deadline()));
  EXPECT_FALSE(past.has_value());
  EXPECT_EQ(watch.resume_token(), "t0");
  go.set_value();
  EXPECT_EQ(MustNext(&watch).kind, Kind::kBufferGone);
  EXPECT_EQ(watch.resume_token(), "late");
}

TEST_F(EventWatchTest, LeavesOutWhatItDoesNotKnow) {
  v1::WatchEventsResponse known = Message("t2");
  known.mutable_gone();
  Serve({Started(), Message("t1"), known});
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
  EXPECT_EQ(MustNext(&watch).resume_token, "t2");
}

TEST_F(EventWatchTest, EndsWithItsObject) {
  v1::WatchEventsResponse gone = Message("t1");
  gone.mutable_gone();
  Serve({Started(), gone}, [](grpc::ServerContext*) { return grpc::Status(); });
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
  EXPECT_EQ(MustNext(&watch).kind, Kind::kBufferGone);
  for (int i = 0; i < 2; ++i) {
    const absl::Status end = watch.Next(After(10s)).status();
    EXPECT_THAT(end, StatusIs(StatusCode::kNotFound));
    EXPECT_EQ(ReasonOf(end), "NOT_FOUND");
  }
  EXPECT_EQ(watch.resume_token(), "t1");
}

TEST_F(EventWatchTest, EndsWithItsHandle) {
  Serve({Started()}, [](grpc::ServerContext*) {
    return DaemonError(grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
  });
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
  EXPECT_EQ(ReasonOf(watch.Next(After(10s)).status()), "BAD_HANDLE");
}

TEST_F(EventWatchTest, EndsWithTheDaemon) {
  Serve({Started()});
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
  control_.Stop();
  EXPECT_FALSE(watch.Next(After(10s)).ok());
}

TEST_F(EventWatchTest, IsRefusedBeforeItBegins) {
  Serve({}, [](grpc::ServerContext*) {
    return DaemonError(grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  });
  const absl::Status refused = broker_.Watch(std::nullopt, "not a token").status();
  EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument, "as told"));
  EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
  Serve({}, [](grpc::ServerContext*) { return grpc::Status(); });
  EXPECT_EQ(ReasonOf(broker_.Watch().status()), "NOT_FOUND");
}

TEST_F(EventWatchTest, IsAskedForAgainWhenTheDaemonIsBusy) {
  std::atomic<int> calls = 0;
  control_.on_WatchEvents = [&](grpc::ServerContext* context, const auto&,
                                FakeControl::EventWriter* writer) {
    if (++calls < 3) return DaemonError(grpc::StatusCode::UNAVAILABLE, "BUSY");
    writer->Write(Started());
    AwaitCancel(context);
    return grpc::Status();
  };
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_.Watch());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(MustNext(&watch).kind, Kind::kStarted);
}

TEST_F(EventWatchTest, DoesNotWaitForEverForASilentDaemon) {
  Serve({});
  Broker impatient = control_.Connect(50ms);
  const auto start = std::chrono::steady_clock::now();
  const absl::Status silent = impatient.Watch().status();
  EXPECT_THAT(silent, StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(ReasonOf(silent), "DEADLINE");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST_F(EventWatchTest, TellsTheDaemonThatItIsOver) {
  std::promise<void> cancelled;
  Serve({Started()}, [&](grpc::ServerContext* context) {
    AwaitCancel(context);
    cancelled.set_value();
    return grpc::Status();
  });
  { ASSERT_OK_AND_ASSIGN(const EventWatch watch, broker_.Watch()); }
  EXPECT_EQ(cancelled.get_future().wait_for(10s), std::future_status::ready);
}

TEST_F(EventWatchTest, OutlivesItsBrokerAndMoves) {
  Serve({Started()});
  std::optional<Broker> broker(control_.Connect());
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker->Watch());
  broker.reset();
  EventWatch moved = std::move(watch);
  EXPECT_EQ(MustNext(&moved).kind, Kind::kStarted);
}

}  // namespace
}  // namespace iob::test
