// The submission queue between two processes: a client that sleeps and is woken, and clients that
// are killed at any moment. Every wait has a deadline, and reaching one is a failure.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "shm/futex.h"
#include "shm/submission_client.h"
#include "shm/submission_server.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_submission.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

constexpr int64_t kPatienceNs = 20'000'000'000;
constexpr int64_t kMs = 1'000'000;

std::string PayloadOf(uint64_t number) { return test::PatternText(number, number * 37 % 300); }

// What a client gets: a description of each section, COMPLETE's read-only.
struct Grants {
  UniqueFd submit;
  UniqueFd complete;
};

Grants GrantsOf(const SubmissionServer& server) {
  return {.submit = server.submit_memfd().OpenGrant(FdMode::kReadWrite).value(),
          .complete = server.complete_memfd().OpenGrant(FdMode::kReadOnly).value()};
}

absl::StatusOr<SubmissionClient> MapGrants(const SubmissionLayout& layout, Grants grants) {
  auto submit = SealedMemfd::Adopt(std::move(grants.submit), layout.submit_section_bytes(),
                                   /*writers_sealed=*/false);
  if (!submit.ok()) return submit.status();
  auto complete = SealedMemfd::Adopt(std::move(grants.complete), layout.complete_section_bytes(),
                                     /*writers_sealed=*/true);
  if (!complete.ok()) return complete.status();
  return SubmissionClient::Map(layout, *submit, *complete);
}

UniqueFd MakeEventFd() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void Kick(const UniqueFd& kick) {
  const uint64_t one = 1;
  ASSERT_EQ(::write(kick.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
}

// ---- Sleeping and waking ------------------------------------------------------------------------

void WaitUntilServedMore(SubmissionClient& client) {
  if (client.PrepareToWait()) {
    const FutexWord head = client.HeadWord();
    ASSERT_EQ(FutexWaitAny({&head, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
        << "left asleep at byte " << client.served_bytes();
  }
  client.ClearWaiting();
}

void Submit(const SubmissionLayout& layout, Grants grants, uint64_t records, const UniqueFd& kick) {
  ASSERT_OK_AND_ASSIGN(SubmissionClient client, MapGrants(layout, std::move(grants)));
  for (uint64_t number = 0; number < records; ++number) {
    const std::string payload = PayloadOf(number);
    // Waits as long as this test does: a record that is not stored is a failure.
    while (client.TryAdd(test::BytesOf(payload),
                         {.cookie = number, .wait_ms = 20'000, .want_completion = false}) !=
           AddOutcome::kAdded) {
      ASSERT_TRUE(client.status().ok()) << client.status();
      if (client.Publish()) Kick(kick);
      WaitUntilServedMore(client);
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
    }
    if (number % 5 == 0 && client.Publish()) Kick(kick);
    // Now and then nothing is left to do, so that both sides fall asleep.
    if (number % 997 != 0) continue;
    if (client.Publish()) Kick(kick);
    while (!client.ServedAll()) {
      ASSERT_TRUE(client.status().ok()) << client.status();
      WaitUntilServedMore(client);
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
    }
  }
  if (client.Publish()) Kick(kick);
  while (!client.ServedAll()) WaitUntilServedMore(client);
  const SubmissionStats stats = client.stats();
  EXPECT_EQ(stats.decided.stored_records, records);
  EXPECT_EQ(stats.pending_records, 0u);
}

// Sleeps until a kick, as the broker does when no queue is active.
void AwaitKick(const UniqueFd& kick) {
  pollfd poller = {.fd = kick.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&poller, 1, static_cast<int>(kPatienceNs / kMs)), 1) << "nobody kicked";
  uint64_t kicks = 0;
  ASSERT_EQ(::read(kick.get(), &kicks, sizeof(kicks)), static_cast<ssize_t>(sizeof(kicks)));
}

TEST(SubmissionProcesses, CarriesEveryRecordWithoutLosingAKickOrAWake) {
  constexpr uint64_t kRecords = 60'000;
  const SubmissionLayout layout = test::QueueLayout(PageBytes(), 8);
  SubmissionServer server = test::MakeServer(layout);
  test::CountingWriter ring(4 * PageBytes());
  MediatedRingReader reader = test::MakeReader(ring.ring());
  const UniqueFd kick = MakeEventFd();
  Grants grants = GrantsOf(server);
  test::Child child([&] { Submit(layout, std::move(grants), kRecords, kick); });
  uint64_t number = 0;
  uint64_t sleeps = 0;
  while (number < kRecords && !HasFatalFailure()) {
    const ServeResult result =
        server.Serve({.entries_max = 7, .bytes_max = 2000, .now_ns = MonotonicNs()},
                     [&ring](std::span<const std::byte> payload) {
                       return ring.ring().Append(test::QueueAndRing::kTag, payload);
                     });
    ASSERT_NE(result.state, ServeState::kViolation);
    ring.Publish();
    RecordView view;
    while (reader.Next(&view) == ReadOutcome::kRecord) {
      ASSERT_EQ(test::TextOf(view.payload), PayloadOf(number));
      ++number;
    }
    reader.Release();
    if (result.state != ServeState::kIdle || number == kRecords || !server.BecomeIdle()) continue;
    ++sleeps;
    AwaitKick(kick);
    server.Activate();
  }
  ASSERT_EQ(child.Join(), 0);
  EXPECT_EQ(server.totals().stored_records, kRecords);
  EXPECT_GT(sleeps, kRecords / 997) << "both sides slept, or this has tested nothing";
}

// ---- kill -9 ------------------------------------------------------------------------------------

// Adds records and publishes at random until it is killed.
void SubmitUntilKilled(const SubmissionLayout& layout, Grants grants, uint64_t seed) {
  ASSERT_OK_AND_ASSIGN(SubmissionClient client, MapGrants(layout, std::move(grants)));
  std::mt19937_64 random(seed);
  for (uint64_t number = 0;;) {
    const AddOptions options{.cookie = number,
                             .wait_ms = static_cast<uint16_t>(number % 2),
                             .want_completion = number % 16 == 0};
    const std::string payload = PayloadOf(number);
    if (client.TryAdd(test::BytesOf(payload), options) == AddOutcome::kAdded) {
      ++number;
    } else {
      client.Publish();
      std::this_thread::yield();
    }
    if (random() % 4 == 0) client.Publish();
    Completion completion;
    while (client.TakeCompletion(&completion) == TakeOutcome::kTaken) {
    }
  }
}

// How many whole records lie below `tail`, if they are those that the client sends; nullopt when
// the tail is not at the end of one.
std::optional<uint64_t> RecordsBelow(uint64_t tail) {
  uint64_t position = 0;
  uint64_t number = 0;
  while (position < tail) position += EntryBytes(PayloadOf(number++).size());
  if (position != tail) return std::nullopt;
  return number;
}

// One client, served for a while and killed. Returns how many records it had published.
uint64_t LiveAndDie(uint64_t seed) {
  std::mt19937_64 random(seed);
  const SubmissionLayout layout = test::QueueLayout(4 * PageBytes(), 64);
  SubmissionServer server = test::MakeServer(layout);
  const Mapping submit = Mapping::Map(server.submit_memfd()).value();
  test::CountingWriter ring(2 * PageBytes());
  MediatedRingReader reader = test::MakeReader(ring.ring());
  uint64_t read = 0;
  uint64_t number = 0;  // Of the next record that may be read; records in between were rejected.
  const auto read_all = [&] {
    RecordView view;
    while (reader.Next(&view) == ReadOutcome::kRecord) {
      // In order, each once: what is read is a subsequence of what was sent.
      const std::string text = test::TextOf(view.payload);
      const uint64_t bound = server.totals().attempted_records;
      while (number < bound && PayloadOf(number) != text) ++number;
      ASSERT_LT(number, bound) << "a record that was not sent, or was served twice";
      ++number;
      ++read;
    }
    reader.Release();
  };
  const auto sink = [&ring](std::span<const std::byte> payload) {
    return ring.ring().Append(test::QueueAndRing::kTag, payload);
  };
  Grants grants = GrantsOf(server);
  test::Child child([&] { SubmitUntilKilled(layout, std::move(grants), seed); });
  const uint64_t kill_after = 1 + random() % 1500;
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  while (server.totals().attempted_records < kill_after) {
    EXPECT_LT(MonotonicNs(), deadline_ns);
    if (MonotonicNs() >= deadline_ns) break;
    const ServeResult result = server.Serve(
        {.entries_max = 1 + random() % 32, .bytes_max = 65536, .now_ns = MonotonicNs()}, sink);
    EXPECT_NE(result.state, ServeState::kViolation);
    ring.Publish();
    if (result.entries == 0) std::this_thread::yield();
    // A slow consumer, so that records are rejected too.
    if (random() % 8 == 0) read_all();
  }
  EXPECT_EQ(::kill(child.pid(), SIGKILL), 0);
  EXPECT_EQ(child.Join(), 128 + SIGKILL);
  read_all();
  server.FinishAll(LossCause::kClosed, sink);
  ring.Publish();
  read_all();
  const uint64_t tail = submit.Word<uint64_t>(kSubmitTailOffset).LoadAcquire().ForHintOnly();
  const std::optional<uint64_t> published = RecordsBelow(tail);
  EXPECT_TRUE(published.has_value()) << "published in the middle of a record: " << tail;
  EXPECT_EQ(server.totals().attempted_records, published.value_or(0));
  EXPECT_EQ(server.totals().stored_records, read);
  test::ExpectLedgerAddsUp(server.totals());
  return published.value_or(0);
}

TEST(SubmissionProcesses, ServesExactlyWhatAKilledClientHadPublished) {
  uint64_t published = 0;
  for (uint64_t seed = 1; seed <= 20 && !HasFailure(); ++seed) published += LiveAndDie(seed);
  EXPECT_GT(published, 20u * 200);
}

}  // namespace
}  // namespace iob::shm
