// What watchers hear: who hears what, in which order, from where on, and how a stream ends.

#include "server/watchers.h"

#include <vector>

#include "tests/unit/server/watchers_harness.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using ::testing::HasSubstr;

constexpr uint32_t kMine = 1000;
constexpr uint32_t kOther = 1001;
constexpr HolderInfo kHolder = {.uid = 7, .gid = 8, .pid = 9};
constexpr shm::CloseReason kKilled = {.kind = shm::CloseKind::kKilled, .code = 9};

BufferLabel Label(Koid koid, uint32_t owner_uid = kMine) {
  return {.koid = koid, .name = absl::StrCat("b", koid), .owner_uid = owner_uid};
}

// What happened, and to which buffer or region: "closed 5".
std::string Gist(const Message& message) {
  const char* what = "nothing";
  using What = Message::WhatCase;
  switch (message.what_case()) {
    case What::kStarted:
      what = "started";
      break;
    case What::kResyncRequired:
      what = "resync";
      break;
    case What::kCreated:
      what = "created";
      break;
    case What::kRenamed:
      what = "renamed";
      break;
    case What::kAttached:
      what = "attached";
      break;
    case What::kDetached:
      what = "detached";
      break;
    case What::kClosed:
      what = "closed";
      break;
    case What::kGone:
      what = "gone";
      break;
    case What::kSignals:
      what = "signals";
      break;
    case What::kUpdated:
      what = "updated";
      break;
    case What::kStalled:
      what = "stalled";
      break;
    case What::WHAT_NOT_SET:
      break;
  }
  return absl::StrCat(what, " ", message.buffer_koid() + message.shared_region_koid());
}

class WatchersHearTest : public WatchersTest {
 protected:
  // Everything that can happen to a buffer, once.
  void FeedAll(const BufferLabel& buffer) {
    feed_->BufferCreated(buffer, kHolder, 4096);
    feed_->BufferRenamed(buffer, "before");
    feed_->EndpointAttached(buffer, EndpointId::kEp1, kHolder);
    feed_->SignalsChanged(buffer, EndpointId::kEp0, 0x01000000);
    feed_->SignalsChanged(buffer, EndpointId::kEp1, 0x02000000);
    feed_->EndpointDetached(buffer, EndpointId::kEp1, kHolder, kKilled);
    feed_->EndpointClosed(buffer, EndpointId::kEp1, kKilled);
  }
  // The next `count` messages.
  static std::vector<std::string> Gists(WatchClient& client, size_t count) {
    std::vector<std::string> gists;
    for (size_t i = 0; i < count; ++i) gists.push_back(Gist(client.Read()));
    return gists;
  }
  // A mark at the end of what was fed, which every buffer's watcher hears.
  void FeedEnd(const BufferLabel& buffer) {
    feed_->EndpointClosed(buffer, EndpointId::kEp0, kKilled);
  }
};

TEST_F(WatchersHearTest, TheStateFirst) {
  const std::string handle = NewHandle({.buffer = 5, .endpoint = EndpointId::kEp1});
  OnLoop([this] { states_[5] = {.signals = 0x01000004, .peer_closed = kKilled}; });
  WatchClient with(*stub_, kMine, handle, "");
  const Message started = with.Read();
  EXPECT_EQ(started.started().signals(), 0x01000004u);
  EXPECT_EQ(started.started().peer_closed().kind(), v1::CLOSE_KIND_KILLED);
  EXPECT_EQ(started.started().peer_closed().code(), 9);
  EXPECT_EQ(started.buffer_koid(), 5u);
  EXPECT_EQ(started.endpoint(), v1::ENDPOINT_ID_EP1);
  WatchClient without(*stub_, kMine, "", "");
  const Message started_all = without.Read();
  ASSERT_TRUE(started_all.has_started());
  EXPECT_EQ(started_all.started().signals(), 0u);
  EXPECT_FALSE(started_all.started().has_peer_closed());
  EXPECT_EQ(started_all.buffer_koid(), 0u);
}

TEST_F(WatchersHearTest, EventsAsTheyWereFed) {
  const auto client = Open();
  OnLoop([this] { FeedAll(Label(5)); });
  Message message = client->Read();
  EXPECT_EQ(message.buffer_koid(), 5u);
  EXPECT_EQ(message.buffer_name(), "b5");
  EXPECT_EQ(message.endpoint(), v1::ENDPOINT_ID_UNSPECIFIED);
  EXPECT_EQ(message.shared_region_koid(), 0u);
  EXPECT_EQ(message.created().memory_bytes(), 4096u);
  EXPECT_EQ(message.created().owner().uid(), 7u);
  EXPECT_EQ(message.created().owner().gid(), 8u);
  EXPECT_EQ(message.created().owner().pid(), 9);
  EXPECT_EQ(client->Read().renamed().old_name(), "before");
  message = client->Read();
  EXPECT_EQ(message.attached().holder().uid(), 7u);
  EXPECT_EQ(message.endpoint(), v1::ENDPOINT_ID_EP1);
  message = client->Read();
  EXPECT_EQ(message.signals().signals(), 0x01000000u);
  EXPECT_EQ(message.endpoint(), v1::ENDPOINT_ID_EP0);
  EXPECT_EQ(client->Read().signals().signals(), 0x02000000u);
  message = client->Read();
  EXPECT_EQ(message.detached().holder().pid(), 9);
  EXPECT_EQ(message.detached().reason().kind(), v1::CLOSE_KIND_KILLED);
  message = client->Read();
  EXPECT_EQ(message.closed().reason().code(), 9);
  EXPECT_EQ(message.endpoint(), v1::ENDPOINT_ID_EP1);
}

TEST_F(WatchersHearTest, WithoutAHandleTheirOwnBuffersAndRootAll) {
  const auto mine = Open();
  const auto roots = Open("", "", *stub_, 0);
  OnLoop([this] {
    feed_->BufferGone(Label(1, kOther));
    feed_->BufferGone(Label(2, kMine));
    feed_->BufferGone(Label(3, 0));
    feed_->RegionSignalsChanged(4, kMine, 1);
    feed_->BufferGone(Label(5, kMine));
  });
  EXPECT_THAT(Gists(*mine, 2), ::testing::ElementsAre("gone 2", "gone 5"));
  EXPECT_THAT(Gists(*roots, 4), ::testing::ElementsAre("gone 1", "gone 2", "gone 3", "gone 5"));
  // Not the end of what they watch.
  OnLoop([this] { feed_->BufferCreated(Label(6), kHolder, 1); });
  EXPECT_EQ(Gist(mine->Read()), "created 6");
  EXPECT_EQ(Gist(roots->Read()), "created 6");
}

TEST_F(WatchersHearTest, OfAnEndpointWhatItsHandleLetsThem) {
  const auto plain = Open(NewHandle({.buffer = 5, .endpoint = EndpointId::kEp0}));
  const auto inspecting =
      Open(NewHandle({.buffer = 5, .endpoint = EndpointId::kEp1, .sees_holders = true}));
  const auto nameless =
      Open(NewHandle({.buffer = 5, .endpoint = EndpointId::kEp0, .sees_name = false}));
  OnLoop([this] {
    FeedAll(Label(6));
    feed_->RegionSignalsChanged(5, kMine, 1);
    FeedAll(Label(5));
    FeedEnd(Label(5));
  });
  EXPECT_THAT(Gists(*plain, 4),
              ::testing::ElementsAre("renamed 5", "signals 5", "closed 5", "closed 5"));
  EXPECT_THAT(Gists(*inspecting, 6), ::testing::ElementsAre("renamed 5", "attached 5", "signals 5",
                                                            "detached 5", "closed 5", "closed 5"));
  const Message signals = nameless->Read();
  EXPECT_EQ(signals.signals().signals(), 0x01000000u) << "those of ep0";
  EXPECT_EQ(signals.buffer_name(), "");
  EXPECT_EQ(nameless->Read().buffer_name(), "");
}

TEST_F(WatchersHearTest, OfASharedRegionItsSignalsItsRecordsAndItsEnd) {
  const std::string handle = NewHandle({.shared_region = 8});
  const auto client = Open(handle);
  OnLoop([this] {
    FeedAll(Label(8));
    feed_->RegionSignalsChanged(9, kMine, 1);
    watchers_->Strobe(9);
    feed_->RegionSignalsChanged(8, kMine, 0x01000000);
  });
  const Message signals = client->Read();
  EXPECT_EQ(signals.shared_region_koid(), 8u);
  EXPECT_EQ(signals.signals().signals(), 0x01000000u);
  OnLoop([this] { watchers_->Strobe(8); });
  const Message updated = client->Read();
  EXPECT_TRUE(updated.has_updated());
  EXPECT_EQ(updated.shared_region_koid(), 8u);
  OnLoop([this] { feed_->RegionGone(8, kMine); });
  EXPECT_EQ(Gist(client->Read()), "gone 8");
  EXPECT_TRUE(client->Finish().ok());
}

// --- From where on -------------------------------------------------------------------------------

TEST_F(WatchersHearTest, ATokenOfAnyMessageResumesRightAfterIt) {
  const std::string handle = NewHandle({.buffer = 5});
  WatchClient first(*stub_, kMine, handle, "");
  std::vector<std::string> tokens = {first.Read().resume_token()};
  OnLoop([this] {
    for (uint32_t i = 1; i <= 5; ++i) {
      feed_->SignalsChanged(Label(5), EndpointId::kEp0, i);
      AppendOthers(3);
    }
  });
  for (int i = 0; i < 5; ++i) tokens.push_back(first.Read().resume_token());
  first.Cancel();
  OnLoop([this] { feed_->SignalsChanged(Label(5), EndpointId::kEp0, 6); });
  for (uint32_t heard = 0; heard <= 5; ++heard) {
    WatchClient again(*stub_, kMine, handle, tokens[heard]);
    const Message started = again.Read();
    ASSERT_TRUE(started.has_started());
    for (uint32_t next = heard + 1; next <= 6; ++next) {
      ASSERT_EQ(again.Read().signals().signals(), next) << "resumed after " << heard;
    }
    // The token of the second `started` is as good as the one it was asked for with.
    const auto third = Open(handle, started.resume_token());
    ASSERT_EQ(third->Read().signals().signals(), heard + 1);
  }
  EXPECT_EQ(watchers_->resyncs(), 0u);
}

TEST_F(WatchersHearTest, ATokenOfAnUpdateSkipsNoEvent) {
  const std::string handle = NewHandle({.shared_region = 8});
  const auto client = Open(handle);
  OnLoop([this] {
    for (uint32_t i = 1; i <= 3; ++i) feed_->RegionSignalsChanged(8, kMine, i);
    watchers_->Strobe(8);
  });
  Message message = client->Read();
  uint32_t heard = 0;
  for (; !message.has_updated(); message = client->Read()) heard = message.signals().signals();
  ASSERT_LT(heard, 3u) << "the update came last, and proves nothing";
  EXPECT_EQ(Open(handle, message.resume_token())->Read().signals().signals(), heard + 1);
}

TEST_F(WatchersHearTest, OfWhatTheLogForgotOnlyThatItDid) {
  const std::string handle = NewHandle({.buffer = 5});
  const auto first = Open(handle);
  OnLoop([this] { feed_->SignalsChanged(Label(5), EndpointId::kEp0, 1); });
  const std::string old_token = first->Read().resume_token();
  const EventLog other_run(clock_);
  Message of_other_run;
  other_run.Stamp(12, of_other_run);
  OnLoop([this] {
    feed_->SignalsChanged(Label(5), EndpointId::kEp0, 2);
    AppendOthers(kEventsMax);
    states_[5].signals = 0x04000000;
  });
  for (const std::string& token : {old_token, of_other_run.resume_token()}) {
    WatchClient again(*stub_, kMine, handle, token);
    const Message started = again.Read();
    ASSERT_TRUE(started.has_started());
    // Who reads no further than that has missed as much as before.
    EXPECT_EQ(started.resume_token(), token);
    const Message resync = again.Read();
    ASSERT_TRUE(resync.has_resync_required());
    EXPECT_EQ(resync.resync_required().signals(), 0x04000000u);
    OnLoop([this] { feed_->SignalsChanged(Label(5), EndpointId::kEp0, 3); });
    EXPECT_EQ(again.Read().signals().signals(), 3u);
    EXPECT_EQ(Open(handle, resync.resume_token())->Read().signals().signals(), 3u);
  }
}

TEST_F(WatchersHearTest, NothingOfATokenThatIsNotOurs) {
  const std::string handle = NewHandle({.buffer = 5});
  for (const char* wrong : {"x", "00000000000000000000000000000000 ", "zz"}) {
    const grpc::Status status = StatusOf(handle, wrong);
    ExpectStatus(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
    EXPECT_THAT(status.error_message(), HasSubstr("resume_token"));
  }
}

// Somebody else's buffers were busy, and the watcher of a quiet one was told to read all anew.
TEST_F(WatchersHearTest, NoResyncForWhatWasNotForThem) {
  const auto client = Open(NewHandle({.buffer = 5}));
  for (int round = 0; round < 3; ++round) {
    OnLoop([this] { AppendOthers(2 * kEventsMax); });
    OnLoop([this] { feed_->SignalsChanged(Label(5), EndpointId::kEp0, 1); });
    EXPECT_EQ(Gist(client->Read()), "signals 5");
  }
  EXPECT_EQ(watchers_->resyncs(), 0u);
}

// --- How it ends ---------------------------------------------------------------------------------

TEST_F(WatchersHearTest, NothingWithoutAGoodHandle) {
  ExpectStatus(StatusOf("short"), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT");
  ExpectStatus(StatusOf(std::string(16, 'x')), grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
  // The handle is checked first.
  ExpectStatus(StatusOf(std::string(16, 'x'), "no token"), grpc::StatusCode::UNAUTHENTICATED,
               "BAD_HANDLE");
}

TEST_F(WatchersHearTest, NothingMoreOnceTheirHandleIsGone) {
  const std::string handle = NewHandle({.buffer = 5});
  const auto client = Open(handle);
  OnLoop([&] {
    feed_->SignalsChanged(Label(5), EndpointId::kEp0, 1);
    RemoveHandle(handle);
  });
  ExpectStatus(client->Finish(), grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
}

TEST_F(WatchersHearTest, AtOnceThatTheirHandleIsGone) {
  const std::string handle = NewHandle({.buffer = 5});
  const std::string other_handle = NewHandle({.buffer = 5});
  const auto one = Open(handle);
  const auto two = Open(handle);
  const auto other = Open(other_handle);
  OnLoop([&] {
    RemoveHandle(handle);
    watchers_->HandleGone(*Token::FromBytes(handle));
  });
  ExpectStatus(one->Finish(), grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
  ExpectStatus(two->Finish(), grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE");
  OnLoop([this] { FeedEnd(Label(5)); });
  EXPECT_EQ(Gist(other->Read()), "closed 5");
}

// Deleting a buffer takes the handles away first; the watcher heard "bad handle" and not why.
TEST_F(WatchersHearTest, TheEndOfTheirBufferThoughTheHandleWentFirst) {
  const std::string handle = NewHandle({.buffer = 5});
  const auto client = Open(handle);
  OnLoop([&] {
    RemoveHandle(handle);
    watchers_->HandleGone(*Token::FromBytes(handle));
    feed_->EndpointClosed(Label(5), EndpointId::kEp0, {.kind = shm::CloseKind::kRevoked});
    feed_->EndpointClosed(Label(5), EndpointId::kEp1, {.kind = shm::CloseKind::kRevoked});
    feed_->BufferGone(Label(5));
  });
  EXPECT_THAT(Gists(*client, 3), ::testing::ElementsAre("closed 5", "closed 5", "gone 5"));
  EXPECT_TRUE(client->Finish().ok());
}

TEST_F(WatchersHearTest, NothingAfterTheEndOfTheirBuffer) {
  const std::string handle = NewHandle({.buffer = 5});
  const auto client = Open(handle);
  OnLoop([this] {
    feed_->BufferGone(Label(6));
    feed_->BufferGone(Label(5));
    feed_->SignalsChanged(Label(5), EndpointId::kEp0, 1);
  });
  EXPECT_EQ(Gist(client->Read()), "gone 5");
  EXPECT_TRUE(client->Finish().ok());
}

}  // namespace
}  // namespace iob::server
