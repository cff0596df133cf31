// A submission queue whose other side changes words at the worst moments.
//
// The exhaustive parts play a fixed script of calls and put one value into one word just before the
// k-th shared load, for every k, word and value. The broker's side must serve only what can be,
// touch nothing outside the queue (guard pages and AddressSanitizer watch), end, and keep its
// account exact; the client's side must give a value or say that it is poisoned, for good. A
// scribbling thread does the same by chance and at full speed.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/submission_client.h"
#include "shm/submission_server.h"
#include "tests/support/shm_ambush.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_submission.h"

namespace iob::shm {
namespace {

using test::Ambush;
using test::At;
using test::Target;

std::vector<uint64_t> InterestingValues(uint64_t capacity, uint64_t current) {
  return {0, 1, 7, 8, 24, capacity - 8, capacity, capacity + 8, uint64_t{1} << 31,
          uint64_t{1} << 63, UINT64_MAX - 7, UINT64_MAX, current - 8, current + 8,
          current + capacity,
          // Headers: too long, longest, other ops, unknown flags, the longest wait.
          EncodeEntryHeader({.length_bytes = 65520, .wait_ms = 0, .op = 1, .flags = 0}),
          EncodeEntryHeader({.length_bytes = 65519, .wait_ms = 0, .op = 1, .flags = 0}),
          EncodeEntryHeader({.length_bytes = 0, .wait_ms = 0, .op = 0, .flags = 0}),
          EncodeEntryHeader({.length_bytes = 0, .wait_ms = 0, .op = 2, .flags = 0}),
          EncodeEntryHeader({.length_bytes = 0, .wait_ms = 0, .op = 1, .flags = 2}),
          EncodeEntryHeader({.length_bytes = 0, .wait_ms = 65535, .op = 1, .flags = 1})};
}

struct Tally {
  uint64_t cases = 0;
  uint64_t untouched = 0;
  uint64_t refused = 0;
};

// Every word, value and moment against one kind of victim.
template <typename Victim>
Tally PlayAll() {
  uint64_t loads = 0;
  {
    Victim victim;
    const Ambush nobody(test::Nobody);
    EXPECT_FALSE(victim.Play()) << "refused an honest peer";
    loads = nobody.accesses();
  }
  EXPECT_GT(loads, 20u);
  Tally tally;
  const size_t targets = Victim().Targets().size();
  const size_t values = InterestingValues(0, 0).size();
  for (size_t which = 0; which < targets; ++which) {
    for (size_t value = 0; value < values; ++value) {
      for (uint64_t moment = 0; moment < loads + 2; ++moment) {
        Victim victim;
        const Target target = victim.Targets()[which];
        const Ambush ambush(
            At(moment, [&] { target.Set(InterestingValues(PageBytes(), target.Get())[value]); }));
        const bool refused = victim.Play();
        ++tally.cases;
        tally.untouched += refused ? 0 : 1;
        tally.refused += refused ? 1 : 0;
        if (::testing::Test::HasFailure()) {
          ADD_FAILURE() << target.name << ", value " << value << ", before load " << moment;
          return tally;
        }
      }
    }
  }
  return tally;
}

// ---- The broker's side --------------------------------------------------------------------------

// A server whose client writes words by itself: SUBMIT is the client's anyway.
class ServerVictim {
 public:
  ServerVictim()
      : server_(test::MakeServer(test::QueueLayout(PageBytes(), 4))),
        submit_(Mapping::Map(server_.submit_memfd()).value()) {}

  std::vector<Target> Targets() const {
    const uint64_t entries = server_.layout().page_bytes();
    return {{"tail", &submit_, kSubmitTailOffset, 8},
            {"completion_head", &submit_, kSubmitCompletionHeadOffset, 8},
            {"waiting", &submit_, kSubmitWaitingOffset, 4},
            {"first header", &submit_, entries, 8},
            {"first cookie", &submit_, entries + 8, 8},
            {"second header", &submit_, entries + EntryBytes(40), 8}};
  }

  // True when a violation was found.
  bool Play() {
    uint64_t tail = 0;
    bool violation = false;
    for (int round = 0; round < 4; ++round) {
      // Two entries; one of them asks for a completion, the second one may wait. The ring is full
      // in the third round.
      ring_full_ = round == 2;
      tail = AddEntry(tail, {.length_bytes = 40, .wait_ms = 0, .op = 1, .flags = 1});
      tail = AddEntry(tail, {.length_bytes = 8, .wait_ms = 3, .op = 1, .flags = 0});
      if (!violation) submit_.Word<uint64_t>(kSubmitTailOffset).StoreRelease(tail);
      violation |= ServeOnce(1);
      violation |= ServeOnce(2);
      // Gives back what was posted.
      if (!violation) {
        submit_.Word<uint64_t>(kSubmitCompletionHeadOffset)
            .StoreRelease(server_.totals().rejected_records[1] +
                          server_.totals().rejected_records[6] + wanted_);
      }
      if (server_.BecomeIdle()) server_.Activate();
    }
    server_.FinishAll(LossCause::kClosed,
                      [this](std::span<const std::byte> payload) { return Store(payload); });
    // What was decided is exact, whatever was found.
    test::ExpectLedgerAddsUp(server_.totals());
    EXPECT_EQ(server_.totals().stored_records, stored_);
    EXPECT_EQ(server_.totals().stored_bytes, stored_bytes_);
    const uint64_t decided = server_.totals().attempted_records;
    ServeOnce(99);
    EXPECT_EQ(server_.totals().attempted_records, decided) << "served after the end";
    return violation;
  }

 private:
  uint64_t AddEntry(uint64_t tail, const EntryHeader& header) {
    const uint64_t offset = server_.layout().page_bytes() + tail % PageBytes();
    submit_.Word<uint64_t>(offset).StoreRelaxed(EncodeEntryHeader(header));
    submit_.Word<uint64_t>(offset + 8).StoreRelaxed(tail);
    return tail + EntryBytes(header.length_bytes);
  }
  AppendOutcome Store(std::span<const std::byte> payload) {
    EXPECT_LE(payload.size(), kRecordPayloadBytesMax);
    EXPECT_LE(EntryBytes(payload.size()), PageBytes());
    if (ring_full_) return AppendOutcome::kFull;
    // Touches every byte that the server vouches for.
    for (const std::byte byte : payload) checksum_ += static_cast<uint64_t>(byte);
    stored_ += 1;
    stored_bytes_ += payload.size();
    return AppendOutcome::kStored;
  }
  bool ServeOnce(int64_t now_ms) {
    const uint64_t before = server_.totals().attempted_records;
    const ServeResult result =
        server_.Serve({.entries_max = 64, .bytes_max = 65536, .now_ns = (now_ms + 1) * 10'000'000},
                      [this](std::span<const std::byte> payload) { return Store(payload); });
    EXPECT_EQ(server_.totals().attempted_records - before, result.entries);
    EXPECT_LE(result.entries, 64u);
    EXPECT_LE(result.bytes, 65536u + PageBytes());
    if (result.state == ServeState::kBlocked) {
      EXPECT_GE(result.deadline_ns, 0);
      EXPECT_LE(result.deadline_ns, (now_ms + 1) * 10'000'000 + 65'535'000'000);
    }
    wanted_ =
        Completions() - server_.totals().rejected_records[1] - server_.totals().rejected_records[6];
    const bool violation = result.state == ServeState::kViolation;
    EXPECT_TRUE(!violated_ || violation || server_.totals().attempted_records == before)
        << "served after a violation";
    violated_ |= violation;
    return violation;
  }
  uint64_t Completions() const {
    const auto hook = std::exchange(before_shared_load, nullptr);
    const uint64_t posted =
        complete_.Word<uint64_t>(kCompleteTailOffset).LoadRelaxed().ForHintOnly();
    before_shared_load = hook;
    return posted;
  }

  SubmissionServer server_;
  Mapping submit_;
  ReadOnlyMapping complete_ = ReadOnlyMapping::Map(server_.complete_memfd()).value();
  bool ring_full_ = false;
  bool violated_ = false;
  uint64_t wanted_ = 0;
  uint64_t stored_ = 0;
  uint64_t stored_bytes_ = 0;
  uint64_t checksum_ = 0;
};

TEST(SubmissionHostile, ServerSurvivesEveryWordChangedAtEveryMoment) {
  const Tally tally = PlayAll<ServerVictim>();
  // Both ways out were taken, or this has tested nothing.
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 10);
}

// ---- Single lies, by name -----------------------------------------------------------------------

ServeState ServeAfter(const std::function<void(test::RogueClient&)>& lie) {
  SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 2));
  test::RogueClient rogue(server);
  lie(rogue);
  uint64_t stored = 0;
  const auto sink = [&stored](std::span<const std::byte>) {
    ++stored;
    return AppendOutcome::kStored;
  };
  const ServeState state = server.Serve(test::kNoLimits, sink).state;
  EXPECT_EQ(server.totals().attempted_records, stored);
  return state;
}

constexpr uint64_t kHonestHeader =
    EncodeEntryHeader({.length_bytes = 0, .wait_ms = 0, .op = 1, .flags = 0});

TEST(SubmissionHostile, CutsAClientForEachWordThatCannotBe) {
  const auto tail = [](uint64_t value) {
    return ServeAfter([value](test::RogueClient& rogue) { rogue.SetTail(value); });
  };
  EXPECT_EQ(tail(4), ServeState::kViolation) << "not aligned";
  EXPECT_EQ(tail(PageBytes() + 8), ServeState::kViolation) << "more than the queue holds";
  EXPECT_EQ(tail(UINT64_MAX - 7), ServeState::kViolation);
  EXPECT_EQ(tail(16), ServeState::kViolation) << "an entry with op 0";
  const auto header = [](uint64_t word, uint64_t tail_bytes) {
    return ServeAfter([word, tail_bytes](test::RogueClient& rogue) {
      rogue.SetEntryWord(0, word);
      rogue.SetTail(tail_bytes);
    });
  };
  EXPECT_EQ(header(kHonestHeader, 16), ServeState::kIdle);
  EXPECT_EQ(header(kHonestHeader, 8), ServeState::kViolation) << "half a header";
  EXPECT_EQ(header(kHonestHeader | 1, 16), ServeState::kViolation) << "payload beyond tail";
  EXPECT_EQ(header(kHonestHeader | 65520, PageBytes()), ServeState::kViolation);
  EXPECT_EQ(header(kHonestHeader | uint64_t{2} << 48, 16), ServeState::kViolation) << "op 3";
  EXPECT_EQ(header(kHonestHeader | uint64_t{2} << 56, 16), ServeState::kViolation) << "flag 2";
}

TEST(SubmissionHostile, ServesTheEntriesBeforeALieAndNoneAfter) {
  SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 2));
  test::RogueClient rogue(server);
  const auto sink = [](std::span<const std::byte>) { return AppendOutcome::kStored; };
  rogue.SetEntryWord(0, kHonestHeader);
  rogue.SetTail(48);
  const ServeResult result = server.Serve(test::kNoLimits, sink);
  EXPECT_EQ(result.state, ServeState::kViolation);
  EXPECT_EQ(result.entries, 1u);
  rogue.SetEntryWord(16, kHonestHeader);
  EXPECT_EQ(server.Serve(test::kNoLimits, sink).state, ServeState::kViolation) << "for good";
  server.FinishAll(LossCause::kClosed, sink);
  server.RejectAll(LossCause::kClosed);
  EXPECT_EQ(server.totals().attempted_records, 1u);
}

TEST(SubmissionHostile, ServesNothingBelowATailThatIsMoreThanAQueueAhead) {
  SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 2));
  test::RogueClient rogue(server);
  const auto sink = [](std::span<const std::byte>) { return AppendOutcome::kStored; };
  // Entries that are good wherever one looks: only the tail itself is wrong.
  for (uint64_t offset = 0; offset < PageBytes(); offset += 16) {
    rogue.SetEntryWord(offset, kHonestHeader);
  }
  rogue.SetTail(PageBytes() + 16);
  EXPECT_EQ(server.Serve(test::kNoLimits, sink).state, ServeState::kViolation);
  EXPECT_EQ(server.totals().attempted_records, 0u);
}

TEST(SubmissionHostile, CutsAClientWhoseTailGoesBack) {
  SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 2));
  test::RogueClient rogue(server);
  const auto sink = [](std::span<const std::byte>) { return AppendOutcome::kStored; };
  // The third one is good too, but never published.
  for (const uint64_t offset : {0, 16, 32}) rogue.SetEntryWord(offset, kHonestHeader);
  rogue.SetTail(32);
  EXPECT_EQ(server.Serve(test::kNoLimits, sink).entries, 2u);
  rogue.SetTail(16);
  EXPECT_EQ(server.Serve(test::kNoLimits, sink).state, ServeState::kViolation);
  EXPECT_EQ(server.totals().attempted_records, 2u);
}

TEST(SubmissionHostile, NeverWritesOverACompletionThatWasNotTaken) {
  for (const uint64_t lie : {uint64_t{3}, UINT64_MAX, uint64_t{1} << 63}) {
    SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 2));
    test::RogueClient rogue(server);
    const auto sink = [](std::span<const std::byte>) { return AppendOutcome::kFull; };
    for (uint64_t i = 0; i < 3; ++i) rogue.SetEntryWord(i * 16, kHonestHeader);
    rogue.SetTail(48);
    EXPECT_EQ(server.Serve(test::kNoLimits, sink).state, ServeState::kStalled);
    rogue.SetCompletionHead(lie);
    EXPECT_EQ(server.Serve(test::kNoLimits, sink).state, ServeState::kViolation) << lie;
    EXPECT_EQ(server.totals().attempted_records, 2u);
  }
}

// ---- The client's side --------------------------------------------------------------------------

// A client whose broker is the test: COMPLETE is not sealed here.
class ClientVictim {
 public:
  ClientVictim()
      : layout_(test::QueueLayout(PageBytes(), 4)),
        submit_memfd_(test::MakeMemfd(layout_.submit_section_bytes())),
        complete_memfd_(test::MakeMemfd(layout_.complete_section_bytes())),
        complete_(Mapping::Map(complete_memfd_).value()) {}

  std::vector<Target> Targets() const {
    const uint64_t first = layout_.CompletionOffset(0);
    return {{"head", &complete_, kCompleteHeadOffset, 8},
            {"completion_tail", &complete_, kCompleteTailOffset, 8},
            {"need_wakeup", &complete_, kCompleteNeedWakeupOffset, 4},
            {"cookie", &complete_, first + kCompletionCookieOffset, 8},
            {"result", &complete_, first + kCompletionResultOffset, 8},
            {"entry", &complete_, first + kCompletionEntryOffset, 8}};
  }

  // True when the client found itself poisoned, or would not start.
  bool Play() {
    auto client = SubmissionClient::Map(layout_, submit_memfd_, complete_memfd_);
    if (!client.ok()) return true;
    bool poisoned = false;
    for (uint64_t round = 0; round < 4; ++round) {
      for (int i = 0; i < 3; ++i) {
        const AddOutcome outcome = client->TryAdd(payload_);
        EXPECT_TRUE(!poisoned || outcome == AddOutcome::kPoisoned);
      }
      client->Publish();
      if (!poisoned) ServeHonestly(round, client->published_bytes());
      (void)client->PrepareToWait();
      client->ClearWaiting();
      Completion completion;
      uint64_t steps = 2 * layout_.completions();
      while (client->TakeCompletion(&completion) == TakeOutcome::kTaken && steps-- != 0) {
        EXPECT_FALSE(poisoned) << "a completion after poison";
        EXPECT_LT(completion.result, kLossCauses);
        EXPECT_LE(completion.length_bytes, kRecordPayloadBytesMax);
        EXPECT_LT(completion.entry_number, 3 * (round + 1));
      }
      EXPECT_NE(steps, UINT64_MAX) << "completions without end";
      (void)client->ServedAll();
      const SubmissionStats stats = client->stats();
      test::ExpectLedgerAddsUp(stats.decided);
      EXPECT_EQ(stats.attempted_records, stats.decided.attempted_records + stats.pending_records);
      EXPECT_LE(stats.pending_records, stats.attempted_records);
      EXPECT_TRUE(!poisoned || !client->status().ok()) << "poison is for good";
      poisoned = !client->status().ok();
    }
    return poisoned;
  }

 private:
  // The second of the three entries is rejected.
  void ServeHonestly(uint64_t round, uint64_t published_bytes) {
    const uint64_t offset = layout_.CompletionOffset(round);
    complete_.Word<uint64_t>(offset + kCompletionResultOffset)
        .StoreRelaxed(1 | uint64_t{payload_.size()} << 32);
    complete_.Word<uint64_t>(offset + kCompletionEntryOffset).StoreRelaxed(3 * round + 1);
    complete_.Word<uint64_t>(kCompleteTailOffset).StoreRelease(round + 1);
    complete_.Word<uint64_t>(kCompleteHeadOffset).StoreRelease(published_bytes);
  }

  SubmissionLayout layout_;
  SealedMemfd submit_memfd_;
  SealedMemfd complete_memfd_;
  Mapping complete_;
  const std::vector<std::byte> payload_ = std::vector<std::byte>(400);
};

TEST(SubmissionHostile, ClientSurvivesEveryWordChangedAtEveryMoment) {
  const Tally tally = PlayAll<ClientVictim>();
  EXPECT_GT(tally.untouched, tally.cases / 10);
  EXPECT_GT(tally.refused, tally.cases / 10);
}

// ---- By chance ----------------------------------------------------------------------------------

TEST(SubmissionHostile, ServerSurvivesAScribblingClient) {
  const int64_t deadline_ns = MonotonicNs() + 20'000'000'000;
  uint64_t cut = 0;
  uint64_t served = 0;
  for (uint64_t round = 0; cut < 200 || served < 1000; ++round) {
    ASSERT_LT(MonotonicNs(), deadline_ns) << cut << " cut, " << served << " served";
    SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 4));
    test::RogueClient rogue(server);
    std::mt19937_64 random(round);
    // An honest queue to begin with, so that there is something to serve.
    for (uint64_t offset = 0; offset < PageBytes(); offset += 64) {
      rogue.SetEntryWord(offset, kHonestHeader | 48);
    }
    rogue.SetTail(random() % 65 * 64);
    std::atomic<bool> stop = false;
    std::thread scribbler([&] {
      while (!stop.load(std::memory_order_relaxed)) {
        const std::vector<uint64_t> values = InterestingValues(PageBytes(), random());
        const uint64_t value = values[random() % values.size()];
        if (random() % 64 == 0) rogue.SetTail(value);
        if (random() % 64 == 0) rogue.SetCompletionHead(value);
        rogue.SetEntryWord(random() % 512 * 8, value);
        if (random() % 16 == 0) std::this_thread::yield();
      }
    });
    uint64_t stored = 0;
    ServeState state = ServeState::kIdle;
    for (int i = 0; i < 50 && state != ServeState::kViolation; ++i) {
      state = server
                  .Serve({.entries_max = 5, .bytes_max = 4096, .now_ns = i},
                         [&stored](std::span<const std::byte> payload) {
                           EXPECT_LE(EntryBytes(payload.size()), PageBytes());
                           ++stored;
                           return AppendOutcome::kStored;
                         })
                  .state;
      if (i % 8 == 0) std::this_thread::yield();
    }
    stop.store(true, std::memory_order_relaxed);
    scribbler.join();
    cut += state == ServeState::kViolation ? 1 : 0;
    served += stored;
    EXPECT_EQ(server.totals().attempted_records, stored);
    ASSERT_FALSE(HasFailure());
  }
}

}  // namespace
}  // namespace iob::shm
