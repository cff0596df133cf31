// Watchers under strain: clients that do not read, too many of them, a daemon that stops, and all
// of it at once.

#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <random>
#include <vector>

#include "server/watchers.h"
#include "tests/unit/server/watchers_harness.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using ::testing::HasSubstr;

constexpr uint32_t kMine = 1000;

BufferLabel Label(Koid koid) { return {.koid = koid, .name = "b", .owner_uid = kMine}; }

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t all = 0;
  uint64_t resident = 0;
  file >> all >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

class WatchersLifeTest : public WatchersTest {
 protected:
  // Streams of buffer 5 in the middle of a write that does not end before their clients read on.
  std::vector<std::unique_ptr<WatchClient>> OpenStanding(uint32_t count) {
    std::vector<std::unique_ptr<WatchClient>> clients;
    for (uint32_t i = 0; i < count; ++i) clients.push_back(OpenIdle({.buffer = 5}, 2000 + i));
    OnLoop([this] { AppendLarge(5); });
    // After the task that writes, which the last one posted.
    OnLoop([] {});
    return clients;
  }
  // Events until the log has overtaken everybody who stands.
  void Overtake() {
    OnLoop([this] { AppendOthers(kEventsMax); });
  }
};

// --- Who does not read ---------------------------------------------------------------------------

TEST_F(WatchersLifeTest, WhoDoesNotReadIsToldThatEventsAreMissing) {
  const auto client = std::move(OpenStanding(1).front());
  OnLoop([this] {
    states_[5].signals = 0x08000000;
    feed_->SignalsChanged(Label(5), EndpointId::kEp0, 76);
  });
  Overtake();
  EXPECT_TRUE(client->Read().has_renamed());
  const Message resync = client->Read();
  EXPECT_EQ(resync.resync_required().signals(), 0x08000000u);
  EXPECT_EQ(resync.buffer_koid(), 5u);
  OnLoop([this] { feed_->SignalsChanged(Label(5), EndpointId::kEp0, 77); });
  EXPECT_EQ(client->Read().signals().signals(), 77u);
  EXPECT_EQ(watchers_->resyncs(), 1u);
}

TEST_F(WatchersLifeTest, WhoDoesNotReadGetsAllThatTheLogStillHas) {
  const auto client = std::move(OpenStanding(1).front());
  OnLoop([this] {
    for (uint32_t i = 0; i < kEventsMax; ++i) feed_->SignalsChanged(Label(5), EndpointId::kEp0, i);
  });
  EXPECT_TRUE(client->Read().has_renamed());
  for (uint32_t i = 0; i < kEventsMax; ++i) ASSERT_EQ(client->Read().signals().signals(), i);
  EXPECT_EQ(watchers_->resyncs(), 0u);
}

TEST_F(WatchersLifeTest, WhoDoesNotReadCostsNoMemoryPerEvent) {
  const auto clients = OpenStanding(32);
  Overtake();
  const uint64_t before_bytes = ResidentBytes();
  // 64 MiB of events, which would be 2 GiB if each watcher kept them.
  const BufferLabel buffer = {.koid = 5, .name = std::string(1024, 'n'), .owner_uid = kMine};
  for (int round = 0; round < 64; ++round) {
    OnLoop([&] {
      for (int i = 0; i < 1024; ++i) feed_->BufferRenamed(buffer, "");
    });
  }
  EXPECT_LT(ResidentBytes(), before_bytes + (uint64_t{512} << 20));
  OnLoop([this] { EXPECT_EQ(watchers_->count(), 32u); });
  EXPECT_EQ(watchers_->resyncs(), 0u) << "somebody read on";
}

TEST_F(WatchersLifeTest, ACancelledOneThatStandsGoes) {
  OpenStanding(1).front()->Cancel();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
  // The same for one that is idle.
  Open()->Cancel();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
  OnLoop([this] { AppendLarge(5); });
}

TEST_F(WatchersLifeTest, OneWhoseHandleGoesWhileItStandsKeepsItsPlace) {
  const auto client = std::move(OpenStanding(1).front());
  OnLoop([this] {
    const std::string handle = handles_.begin()->first;
    RemoveHandle(handle);
    watchers_->HandleGone(*Token::FromBytes(handle));
  });
  OnLoop([this] { EXPECT_EQ(watchers_->count(), 1u) << "or they could pile up without a bound"; });
  EXPECT_TRUE(client->Read().has_renamed());
  ExpectStatus(client->Finish(), grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
}

// --- Strobes -------------------------------------------------------------------------------------

TEST_F(WatchersLifeTest, ManyStrobesAreOneMessage) {
  const auto client = Open(NewHandle({.shared_region = 8}));
  const auto all = Open("", "", *stub_, 0);
  OnLoop([this] {
    for (int i = 0; i < 1'000'000; ++i) watchers_->Strobe(8);
    EXPECT_EQ(log_->end(), 0u);
  });
  EXPECT_TRUE(client->Read().has_updated());
  OnLoop([this] {
    feed_->RegionSignalsChanged(8, kMine, 1);
    feed_->BufferGone(Label(5));
  });
  EXPECT_TRUE(client->Read().has_signals()) << "a second message for the same strobes";
  EXPECT_TRUE(all->Read().has_gone()) << "somebody else heard the strobes";
}

TEST_F(WatchersLifeTest, StrobesOfAStreamThatStandsAreOneMessage) {
  const auto client = OpenIdle({.shared_region = 8});
  OnLoop([this] {
    Message event;
    event.set_shared_region_koid(8);
    event.set_buffer_name(std::string(size_t{16} * 1024, 'n'));
    event.mutable_signals();
    watchers_->Wake(log_->Append(std::move(event), kMine));
  });
  for (int i = 0; i < 100; ++i) {
    OnLoop([this] { watchers_->Strobe(8); });
  }
  OnLoop([this] { feed_->RegionGone(8, kMine); });
  EXPECT_TRUE(client->Read().has_signals());
  EXPECT_TRUE(client->Read().has_updated());
  EXPECT_TRUE(client->Read().has_gone());
  EXPECT_TRUE(client->Finish().ok());
}

TEST_F(WatchersLifeTest, NeitherStrobesNorEventsKeepTheOthersFromBeingHeard) {
  const auto client = Open(NewHandle({.shared_region = 8}));
  OnLoop([this] {
    // Whenever it is asked what to say next, there is a strobe.
    on_resolve_ = [this] { watchers_->Strobe(8); };
    for (uint32_t i = 1; i <= 20; ++i) feed_->RegionSignalsChanged(8, kMine, i);
  });
  uint32_t events = 0;
  uint32_t updates = 0;
  while (events < 20) {
    ASSERT_LE(updates, events + 1);
    const Message message = client->Read();
    if (message.has_updated()) {
      ++updates;
    } else {
      ASSERT_EQ(message.signals().signals(), ++events);
    }
  }
  EXPECT_GE(updates, 19u);
  OnLoop([this] { on_resolve_ = [] {}; });
}

// --- Limits --------------------------------------------------------------------------------------

class WatchersLimitTest : public WatchersLifeTest {
 protected:
  void SetUp() override { Begin(8); }
};

TEST_F(WatchersLimitTest, OneUidGetsAQuarterOfThem) {
  auto first = Open();
  const auto second = Open(NewHandle({.buffer = 5}));
  for (const std::string& handle : {std::string(), NewHandle({.buffer = 5})}) {
    const grpc::Status status = StatusOf(handle);
    ExpectStatus(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUOTA");
    EXPECT_THAT(status.error_message(), HasSubstr("watchers of uid 1000: 2 of 2"));
  }
  const auto of_another = Open("", "", *stub_, kMine + 1);
  first->Cancel();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 2; }));
  const auto third = Open();
  OnLoop([this] { feed_->BufferGone(Label(6)); });
  EXPECT_TRUE(third->Read().has_gone());
}

TEST_F(WatchersLimitTest, ThereAreSoManyOfThem) {
  std::vector<std::unique_ptr<WatchClient>> clients;
  for (uint32_t i = 0; i < 8; ++i) clients.push_back(Open("", "", *stub_, 100 + i / 2));
  const grpc::Status status = StatusOf("", "", 200);
  ExpectStatus(status, grpc::StatusCode::RESOURCE_EXHAUSTED, "QUOTA");
  EXPECT_THAT(status.error_message(), HasSubstr("watchers of the daemon: 8 of 8"));
  // What is wrong with the request comes first.
  ExpectStatus(StatusOf("", "x", 200), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  clients.pop_back();
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 7; }));
  EXPECT_NE(Open("", "", *stub_, 200), nullptr);
}

TEST_F(WatchersLimitTest, AFullLoopRefusesThem) {
  std::promise<void> reached;
  std::promise<void> release;
  loop_->PostUrgent([&] {
    reached.set_value();
    release.get_future().wait();
  });
  reached.get_future().wait();
  while (loop_->Post([] {})) {
  }
  for (int i = 0; i < 10; ++i) {
    ExpectStatus(StatusOf(""), grpc::StatusCode::UNAVAILABLE, "BUSY");
  }
  release.set_value();
  OnLoop([this] { EXPECT_EQ(watchers_->count(), 0u); });
}

// --- Stopping ------------------------------------------------------------------------------------

TEST_F(WatchersLifeTest, StoppingEndsFiftyStreamsAtOnceAndRefusesMore) {
  const auto standing = OpenStanding(5);
  std::vector<std::unique_ptr<WatchClient>> idle;
  for (int i = 0; i < 45; ++i) idle.push_back(Open(NewHandle({.buffer = 6})));
  OnLoop([this] { EXPECT_EQ(watchers_->count(), 50u); });
  OnLoop([this] { watchers_->Stop(); });
  for (const auto& client : idle) {
    ExpectStatus(client->Finish(), grpc::StatusCode::UNAVAILABLE, "BUSY");
  }
  ExpectStatus(StatusOf(""), grpc::StatusCode::UNAVAILABLE, "BUSY");
  const auto begin = std::chrono::steady_clock::now();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(20));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  for (const auto& client : standing) EXPECT_FALSE(client->FinishAnyhow().ok());
  OnLoop([this] { feed_->BufferGone(Label(6)); });
}

// --- All at once ---------------------------------------------------------------------------------

TEST_F(WatchersLifeTest, WhoResumesAgainAndAgainMissesNothingAndHearsNothingTwice) {
  constexpr uint64_t kEvents = 3000;
  std::atomic<uint64_t> heard = 0;
  uint64_t made = 0;
  Registration timer;
  std::function<void()> make = [&] {
    // Never so many that the log could overtake the client.
    for (int i = 0; i < 30 && made < heard + 1000; ++i) {
      feed_->BufferCreated(Label(5), {}, ++made);
      feed_->SignalsChanged(Label(6), EndpointId::kEp0, 1);
    }
    timer = loop_->RunAfterMs(1, make);
  };
  std::mt19937 random(1);
  auto client = Open();
  OnLoop(make);
  std::string token;
  int streams = 1;
  while (heard < kEvents) {
    for (uint64_t left = random() % 100; left > 0; --left) {
      const Message message = client->Read();
      token = message.resume_token();
      if (message.has_created()) {
        ASSERT_EQ(message.created().memory_bytes(), ++heard);
      }
      ASSERT_FALSE(message.has_resync_required());
    }
    if (token.empty()) continue;
    if (random() % 2 == 0) client->Cancel();
    client = Open("", token);
    ++streams;
  }
  EXPECT_GT(streams, 50);
  OnLoop([&] { timer.End(); });
}

TEST_F(WatchersLifeTest, ManyComeAndGoWhileEverythingHappensUntilTheDaemonStops) {
  constexpr int kClients = 6;
  constexpr int kStreams = 240;
  std::array<std::string, 4> handles;
  for (std::string& handle : handles) handle = NewHandle({.buffer = 5});
  const std::string region_handle = NewHandle({.shared_region = 8});
  uint32_t turn = 0;
  Registration timer;
  std::function<void()> churn = [&] {
    ++turn;
    const std::string& handle = handles[turn / 4 % handles.size()];
    for (uint32_t i = 0; i < 20; ++i) {
      feed_->SignalsChanged(Label(5 + i % 2), EndpointId::kEp0, turn);
      watchers_->Strobe(8);
    }
    if (turn % 4 == 0) {
      RemoveHandle(handle);
      if (turn % 8 == 0) watchers_->HandleGone(*Token::FromBytes(handle));
    }
    if (turn % 4 == 3) handles_[handle] = {.buffer = 5};
    if (turn % 16 == 0) feed_->BufferGone(Label(5));
    timer = loop_->RunAfterMs(1, churn);
  };
  OnLoop(churn);
  std::array<std::atomic<int>, 17> ends = {};
  std::atomic<int> streams = 0;
  std::vector<std::thread> threads;
  for (uint32_t seed = 0; seed < kClients; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      const auto stub = NewStub();
      std::string token;
      for (bool stopped = false; !stopped; ++streams) {
        const uint64_t which = random() % 6;
        const std::string handle = which < 4 ? handles[which] : which == 4 ? region_handle : "";
        WatchClient client(*stub, kMine + seed, handle, random() % 2 == 0 ? token : "");
        uint64_t left = random() % 50;
        bool ended = false;
        for (; left > 0 && !ended; --left) {
          const auto message = client.TryRead();
          ended = !message;
          if (message) token = message->resume_token();
        }
        if (!ended && random() % 2 == 0) continue;  // Dropped as it is.
        if (!ended) client.Cancel();
        if (!ended) continue;
        const grpc::Status status = client.FinishAnyhow();
        ++ends[static_cast<size_t>(status.error_code())];
        stopped = status.error_code() == grpc::StatusCode::UNAVAILABLE;
      }
    });
  }
  const bool enough = Eventually([&] { return streams >= kStreams; });
  OnLoop([this] { watchers_->Stop(); });
  for (std::thread& thread : threads) thread.join();
  OnLoop([&] { timer.End(); });
  EXPECT_TRUE(enough) << streams;
  EXPECT_EQ(ends[grpc::StatusCode::UNAVAILABLE], kClients);
  EXPECT_GT(ends[grpc::StatusCode::OK], 0) << "no buffer's end was heard";
  EXPECT_GT(ends[grpc::StatusCode::UNAUTHENTICATED], 0) << "no handle's end was heard";
  EXPECT_TRUE(Eventually([this] { return watchers_->count() == 0; }));
}

}  // namespace
}  // namespace iob::server
