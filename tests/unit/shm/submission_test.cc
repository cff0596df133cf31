// The submission queue in one process: layout, both sides, every way an entry can end, limits,
// waiting, and the account. A random schedule against a model comes last.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "shm/submission_client.h"
#include "shm/submission_layout.h"
#include "shm/submission_server.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_submission.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::PatternText;
using test::QueueAndRing;
using test::TextOf;

constexpr int64_t kMs = 1'000'000;

AddOptions Waiting(uint16_t wait_ms, uint64_t cookie = 0) {
  return {.cookie = cookie, .wait_ms = wait_ms, .want_completion = false};
}

ServeLimits At(int64_t now_ns) {
  return {.entries_max = UINT64_MAX, .bytes_max = UINT64_MAX, .now_ns = now_ns};
}

std::vector<std::string> ReadAll(MediatedRingReader& reader) {
  std::vector<std::string> texts;
  RecordView view;
  while (reader.Next(&view) == ReadOutcome::kRecord) {
    EXPECT_EQ(view.tag, QueueAndRing::kTag);
    texts.push_back(TextOf(view.payload));
  }
  reader.Release();
  return texts;
}

// ---- Layout -------------------------------------------------------------------------------------

TEST(SubmissionLayout, RefusesSizesThatCannotBe) {
  using Code = absl::StatusCode;
  const uint64_t page = PageBytes();
  const auto code = [](uint64_t capacity_bytes, uint64_t completions) {
    return SubmissionLayout::ForQueue(
               {.capacity_bytes = capacity_bytes, .completions = completions})
        .status()
        .code();
  };
  EXPECT_EQ(code(page, 2), Code::kOk);
  EXPECT_EQ(code(3 * page, 1024), Code::kOk);
  EXPECT_EQ(code(0, 1024), Code::kInvalidArgument);
  EXPECT_EQ(code(page + 8, 1024), Code::kInvalidArgument);
  EXPECT_EQ(code(page, 0), Code::kInvalidArgument);
  EXPECT_EQ(code(page, 1), Code::kInvalidArgument);
  EXPECT_EQ(code(page, 1000), Code::kInvalidArgument);
  EXPECT_EQ(code(SubmissionLayout::kCapacityBytesMax + page, 2), Code::kOutOfRange);
  EXPECT_EQ(code(page, SubmissionLayout::kCompletionsMax * 2), Code::kOutOfRange);
}

TEST(SubmissionLayout, KeepsTheHeaderOfAnEntryThroughItsWord) {
  const EntryHeader header{.length_bytes = 65519, .wait_ms = 0xabcd, .op = 1, .flags = 1};
  EXPECT_EQ(DecodeEntryHeader(EncodeEntryHeader(header)), header);
  EXPECT_EQ(EncodeEntryHeader(header), 0x0101'abcd'0000'ffefull);
}

TEST(SubmissionLayout, RefusesHeadersThatCannotBe) {
  EntryHeader header;
  EXPECT_TRUE(DecodeEntryHeader(EncodeEntryHeader(header)));
  header.length_bytes = 65520;
  EXPECT_FALSE(DecodeEntryHeader(EncodeEntryHeader(header)));
  header.length_bytes = 0;
  for (const uint8_t op : std::to_array<uint8_t>({0, 2, 255})) {
    header.op = op;
    EXPECT_FALSE(DecodeEntryHeader(EncodeEntryHeader(header))) << int{op};
  }
  header.op = kEntryOpWrite;
  for (const uint8_t flags : std::to_array<uint8_t>({2, 3, 128})) {
    header.flags = flags;
    EXPECT_FALSE(DecodeEntryHeader(EncodeEntryHeader(header))) << int{flags};
  }
}

// ---- Records through the queue ------------------------------------------------------------------

TEST(Submission, CarriesRecordsIntoTheRingInOrder) {
  QueueAndRing queue(PageBytes(), 8, 4 * PageBytes());
  MediatedRingReader reader = test::MakeReader(queue.ring.ring());
  std::vector<std::string> sent;
  for (uint64_t number = 0; number < 20; ++number) {
    sent.push_back(PatternText(number, number * 5));
    ASSERT_EQ(queue.client.TryAdd(BytesOf(sent.back())), AddOutcome::kAdded);
  }
  queue.client.Publish();
  const ServeResult result = queue.Serve();
  EXPECT_EQ(result.state, ServeState::kIdle);
  EXPECT_EQ(result.entries, 20u);
  EXPECT_EQ(result.bytes, queue.client.published_bytes());
  EXPECT_EQ(ReadAll(reader), sent);
  EXPECT_TRUE(queue.client.ServedAll());
  queue.ExpectAddsUp();
  EXPECT_EQ(queue.client.stats().decided.stored_records, 20u);
}

TEST(Submission, ServesNothingThatIsNotPublished) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  ASSERT_EQ(queue.client.TryAdd(BytesOf("early")), AddOutcome::kAdded);
  EXPECT_EQ(queue.Serve().entries, 0u);
  EXPECT_EQ(queue.client.stats().pending_records, 1u);
  queue.client.Publish();
  EXPECT_EQ(queue.Serve().entries, 1u);
}

TEST(Submission, WrapsEntriesOfEverySizeAroundTheEnd) {
  QueueAndRing queue(PageBytes(), 8, 64 * PageBytes());
  MediatedRingReader reader = test::MakeReader(queue.ring.ring());
  const uint64_t largest = PageBytes() - kEntryHeaderBytes;
  for (uint64_t number = 0; number < 3000; ++number) {
    const std::string text = PatternText(number, number * 7919 % (largest + 1));
    ASSERT_EQ(queue.client.TryAdd(BytesOf(text)), AddOutcome::kAdded) << number;
    queue.client.Publish();
    ASSERT_EQ(queue.Serve().entries, 1u);
    ASSERT_EQ(ReadAll(reader), std::vector<std::string>{text}) << number;
  }
  queue.ExpectAddsUp();
}

TEST(Submission, JoinsThePartsOfARecord) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  MediatedRingReader reader = test::MakeReader(queue.ring.ring());
  const std::string one = "one ";
  const std::string record = "record";
  const std::vector<std::span<const std::byte>> parts = {BytesOf(one), {}, BytesOf(record)};
  std::vector<std::span<const std::byte>> too_many(kRecordPartsMax + 1);
  EXPECT_EQ(queue.client.TryAddParts(too_many), AddOutcome::kTooLarge);
  EXPECT_EQ(queue.client.TryAddParts(parts), AddOutcome::kAdded);
  queue.client.Publish();
  queue.Serve();
  EXPECT_EQ(ReadAll(reader), std::vector<std::string>{"one record"});
}

TEST(Submission, RefusesWhatNeverFitsAndTakesTheLongestRecord) {
  QueueAndRing small(PageBytes(), 8, PageBytes());
  EXPECT_EQ(small.client.TryAdd(BytesOf(std::string(PageBytes() - 15, 'x'))),
            AddOutcome::kTooLarge);
  QueueAndRing queue(16 * PageBytes(), 8, 32 * PageBytes());
  const std::string longest(kRecordPayloadBytesMax, 'x');
  EXPECT_EQ(queue.client.TryAdd(BytesOf(longest + 'x')), AddOutcome::kTooLarge);
  const std::span<const std::byte> half = BytesOf(longest);
  const std::array<std::span<const std::byte>, 2> twice = {half, half};
  EXPECT_EQ(queue.client.TryAddParts(twice), AddOutcome::kTooLarge);
  EXPECT_EQ(queue.client.TryAdd(BytesOf(longest)), AddOutcome::kAdded);
  queue.client.Publish();
  EXPECT_EQ(queue.Serve().entries, 1u);
  queue.ExpectAddsUp();
}

TEST(Submission, SaysWhenTheQueueIsFullUntilTheBrokerHasServed) {
  QueueAndRing queue(PageBytes(), 8, 2 * PageBytes());
  const std::string payload(PageBytes() / 4 - kEntryHeaderBytes, 'x');
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(queue.client.TryAdd(BytesOf(payload)), AddOutcome::kAdded);
  }
  EXPECT_EQ(queue.client.TryAdd(BytesOf("")), AddOutcome::kQueueFull);
  queue.client.Publish();
  EXPECT_EQ(queue.client.TryAdd(BytesOf("")), AddOutcome::kQueueFull);
  EXPECT_EQ(queue.Serve({.entries_max = 1, .bytes_max = UINT64_MAX, .now_ns = 0}).entries, 1u);
  EXPECT_EQ(queue.client.TryAdd(BytesOf(payload)), AddOutcome::kAdded);
  EXPECT_EQ(queue.client.TryAdd(BytesOf("")), AddOutcome::kQueueFull);
  EXPECT_EQ(queue.client.stats().attempted_records, 5u) << "refused records are not attempted";
}

TEST(Submission, LeavesNoByteOfAServedEntryBehind) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  const test::RogueClient peek(queue.server);
  ASSERT_EQ(queue.client.TryAdd(BytesOf("secret12")), AddOutcome::kAdded);
  EXPECT_NE(peek.EntryWord(0), 0u);
  queue.client.Publish();
  queue.Serve();
  for (uint64_t offset = 0; offset < PageBytes(); offset += 8) {
    ASSERT_EQ(peek.EntryWord(offset), 0u) << offset;
  }
}

// ---- Limits -------------------------------------------------------------------------------------

TEST(Submission, StopsAtTheLimitOfEntriesAndOfBytes) {
  QueueAndRing queue(PageBytes(), 8, 2 * PageBytes());
  const std::string payload(100, 'x');
  for (int i = 0; i < 10; ++i) queue.client.TryAdd(BytesOf(payload));
  queue.client.Publish();
  ServeResult result = queue.Serve({.entries_max = 3, .bytes_max = UINT64_MAX, .now_ns = 0});
  EXPECT_EQ(result.state, ServeState::kMore);
  EXPECT_EQ(result.entries, 3u);
  // The entry that reaches the limit is the last one: at most one entry beyond it.
  result = queue.Serve({.entries_max = 99, .bytes_max = EntryBytes(100) + 1, .now_ns = 0});
  EXPECT_EQ(result.state, ServeState::kMore);
  EXPECT_EQ(result.entries, 2u);
  EXPECT_EQ(result.bytes, 2 * EntryBytes(100));
  EXPECT_EQ(queue.Serve().entries, 5u);
}

// ---- Entries that are not stored ----------------------------------------------------------------

TEST(Submission, TellsOfARejectedRecordBeforeHeadPassesIt) {
  QueueAndRing queue(4 * PageBytes(), 8, PageBytes());
  const std::string payload(PageBytes() - kRecordHeaderBytes, 'x');
  queue.client.TryAdd(BytesOf(payload), {.cookie = 1, .wait_ms = 0, .want_completion = false});
  queue.client.TryAdd(BytesOf("no"), {.cookie = 2, .wait_ms = 0, .want_completion = false});
  queue.client.TryAdd(BytesOf(payload + "never"), Waiting(1000, 3));
  queue.client.Publish();
  EXPECT_EQ(queue.Serve().state, ServeState::kIdle);
  Completion completion;
  ASSERT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(completion.cookie, 2u);
  EXPECT_EQ(completion.entry_number, 1u);
  EXPECT_EQ(completion.length_bytes, 2u);
  EXPECT_EQ(completion.result, static_cast<uint32_t>(LossCause::kFull));
  queue.ExpectAddsUp();  // With one completion taken and one not.
  ASSERT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(completion.cookie, 3u);
  EXPECT_EQ(completion.result, static_cast<uint32_t>(LossCause::kTooLarge));
  EXPECT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kNone);
  queue.ExpectAddsUp();
}

TEST(Submission, TellsOfAStoredRecordOnlyWhenAsked) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  queue.client.TryAdd(BytesOf("a"), {.cookie = 1, .wait_ms = 0, .want_completion = false});
  queue.client.TryAdd(BytesOf("bb"), {.cookie = 2, .wait_ms = 0, .want_completion = true});
  queue.client.Publish();
  queue.Serve();
  Completion completion;
  ASSERT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(completion.cookie, 2u);
  EXPECT_EQ(completion.length_bytes, 2u);
  EXPECT_EQ(completion.result, kCompletionStored);
  EXPECT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kNone);
}

TEST(Submission, PassesTheRingsOwnRefusalOn) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  test::RogueConsumer rogue(queue.ring.ring());
  rogue.SetTail(12345);
  const std::string payload(PageBytes() - kRecordHeaderBytes, 'x');
  queue.client.TryAdd(BytesOf(payload));
  queue.client.Publish();
  queue.Serve();
  queue.client.TryAdd(BytesOf("x"), Waiting(1000));
  queue.client.Publish();
  EXPECT_EQ(queue.Serve().state, ServeState::kIdle) << "waiting does not mend a ring";
  EXPECT_EQ(queue.server.totals().rejected_records[static_cast<size_t>(LossCause::kIntegrity)], 1u);
  queue.ExpectAddsUp();
}

// ---- Entries that wait for room -----------------------------------------------------------------

class WaitingSubmission : public ::testing::Test {
 protected:
  WaitingSubmission() : queue_(4 * PageBytes(), 8, PageBytes()) {
    queue_.client.TryAdd(BytesOf(std::string(PageBytes() - kRecordHeaderBytes, 'x')));
    queue_.client.TryAdd(BytesOf("waits"), Waiting(50, 7));
    queue_.client.TryAdd(BytesOf("behind"));
    queue_.client.Publish();
    const ServeResult result = queue_.Serve(At(1000 * kMs));
    EXPECT_EQ(result.state, ServeState::kBlocked);
    EXPECT_EQ(result.entries, 1u);
    EXPECT_EQ(result.room_bytes, RecordBytes(5));
    EXPECT_EQ(result.deadline_ns, 1050 * kMs);
  }
  QueueAndRing queue_;
};

TEST_F(WaitingSubmission, IsStoredWhenThereIsRoom) {
  MediatedRingReader reader = test::MakeReader(queue_.ring.ring());
  EXPECT_EQ(ReadAll(reader).size(), 1u);
  const ServeResult result = queue_.Serve(At(1049 * kMs));
  EXPECT_EQ(result.state, ServeState::kIdle);
  EXPECT_EQ(result.entries, 2u);
  EXPECT_EQ(ReadAll(reader), (std::vector<std::string>{"waits", "behind"}));
  queue_.ExpectAddsUp();
}

TEST_F(WaitingSubmission, IsRejectedAtItsDeadlineAndNotBefore) {
  const ServeResult early = queue_.Serve(At(1049 * kMs));
  EXPECT_EQ(early.state, ServeState::kBlocked);
  EXPECT_EQ(early.deadline_ns, 1050 * kMs) << "trying again does not start the wait anew";
  EXPECT_EQ(queue_.Serve(At(1050 * kMs)).entries, 2u);
  Completion completion;
  ASSERT_EQ(queue_.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(completion.cookie, 7u);
  EXPECT_EQ(completion.result, static_cast<uint32_t>(LossCause::kDeadline));
  queue_.ExpectAddsUp();
}

TEST_F(WaitingSubmission, IsRejectedWhenGivenUp) {
  queue_.server.GiveUp(LossCause::kClosed);
  queue_.server.GiveUp(LossCause::kClosed);  // Nothing blocks any more.
  Completion completion;
  ASSERT_EQ(queue_.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(completion.result, static_cast<uint32_t>(LossCause::kClosed));
  EXPECT_EQ(queue_.client.stats().pending_records, 1u);
  EXPECT_EQ(queue_.client.TakeCompletion(&completion), TakeOutcome::kNone);
}

TEST_F(WaitingSubmission, IsReadOnceHoweverOftenItIsTried) {
  test::RogueClient rogue(queue_.server);
  const uint64_t offset = EntryBytes(PageBytes() - kRecordHeaderBytes);
  rogue.SetEntryWord(offset, UINT64_MAX);
  MediatedRingReader reader = test::MakeReader(queue_.ring.ring());
  ReadAll(reader);
  EXPECT_EQ(queue_.Serve(At(1000 * kMs)).state, ServeState::kIdle);
  EXPECT_EQ(ReadAll(reader), (std::vector<std::string>{"waits", "behind"}));
}

// ---- The end of an attachment -------------------------------------------------------------------

TEST_F(WaitingSubmission, IsDecidedAtTheEnd) {
  queue_.client.TryAdd(BytesOf("unpublished"));
  queue_.Finish(LossCause::kClosed);
  EXPECT_EQ(queue_.server.totals().rejected_records[static_cast<size_t>(LossCause::kClosed)], 2u);
  EXPECT_EQ(queue_.server.totals().rejected_records[static_cast<size_t>(LossCause::kFull)], 0u);
  EXPECT_EQ(queue_.server.totals().attempted_records, 3u);
  queue_.client.Publish();
  EXPECT_EQ(queue_.Serve().entries, 0u) << "the end is the end";
  EXPECT_TRUE(queue_.server.BecomeIdle());
  EXPECT_EQ(queue_.client.stats().pending_records, 1u);
}

TEST_F(WaitingSubmission, IsRejectedWithEverythingElse) {
  queue_.server.RejectAll(LossCause::kPolicy);
  EXPECT_EQ(queue_.server.totals().rejected_records[static_cast<size_t>(LossCause::kPolicy)], 2u);
  queue_.ExpectAddsUp();
}

TEST(Submission, EndsWithoutAPlaceForCompletionsAndLiesToNobody) {
  QueueAndRing queue(PageBytes(), 2, PageBytes());
  for (uint64_t i = 0; i < 5; ++i) queue.client.TryAdd(BytesOf("abc"));
  queue.client.Publish();
  queue.server.RejectAll(LossCause::kClosed);
  EXPECT_EQ(queue.server.totals().rejected_records[static_cast<size_t>(LossCause::kClosed)], 5u);
  const SubmissionStats stats = queue.client.stats();
  EXPECT_EQ(stats.decided.rejected_records[static_cast<size_t>(LossCause::kClosed)], 2u);
  EXPECT_EQ(stats.decided.stored_records, 0u) << "not told of is not stored";
  EXPECT_EQ(stats.pending_records, 3u);
}

// ---- Completions --------------------------------------------------------------------------------

TEST(Submission, StallsUntilCompletionsAreTakenAndGivenBack) {
  QueueAndRing queue(PageBytes(), 2, PageBytes());
  for (uint64_t i = 0; i < 3; ++i) {
    queue.client.TryAdd(BytesOf("abc"), {.cookie = i, .wait_ms = 0, .want_completion = true});
  }
  queue.client.Publish();
  EXPECT_EQ(queue.Serve().state, ServeState::kStalled);
  EXPECT_EQ(queue.server.totals().attempted_records, 2u);
  EXPECT_TRUE(queue.server.BecomeIdle()) << "polling it would burn time for nothing";
  Completion completion;
  ASSERT_EQ(queue.client.TakeCompletion(&completion), TakeOutcome::kTaken);
  EXPECT_EQ(queue.Serve().state, ServeState::kStalled) << "taken, but not given back";
  EXPECT_TRUE(queue.client.Publish()) << "the broker sleeps on a stalled queue";
  EXPECT_FALSE(queue.server.BecomeIdle());
  EXPECT_EQ(queue.Serve().state, ServeState::kIdle);
  queue.ExpectAddsUp();
}

// ---- Sleeping and waking ------------------------------------------------------------------------

TEST(Submission, AsksForAKickOnlyWhileTheBrokerSleeps) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  queue.client.TryAdd(BytesOf("a"));
  EXPECT_FALSE(queue.client.Publish());
  EXPECT_FALSE(queue.server.BecomeIdle()) << "there is something to serve";
  queue.Serve();
  EXPECT_TRUE(queue.server.BecomeIdle());
  EXPECT_FALSE(queue.client.Publish()) << "nothing new";
  queue.client.TryAdd(BytesOf("b"));
  EXPECT_TRUE(queue.client.Publish());
  queue.server.Activate();
  queue.client.TryAdd(BytesOf("c"));
  EXPECT_FALSE(queue.client.Publish());
}

TEST(Submission, SaysWhetherAClientMaySleep) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  queue.client.TryAdd(BytesOf("a"));
  queue.client.Publish();
  EXPECT_TRUE(queue.client.PrepareToWait());
  const FutexWord word = queue.client.HeadWord();
  EXPECT_EQ(FutexWaitAny({&word, 1}, MonotonicNs()), FutexOutcome::kDeadline);
  queue.Serve();
  EXPECT_EQ(FutexWaitAny({&word, 1}, MonotonicNs() + 1000 * kMs), FutexOutcome::kLook);
  EXPECT_FALSE(queue.client.PrepareToWait()) << "head has moved";
  EXPECT_TRUE(queue.client.ServedAll());
}

// ---- Who may map --------------------------------------------------------------------------------

TEST(Submission, GivesTheClientNoWayToWriteCompletions) {
  const SubmissionServer server = test::MakeServer(test::QueueLayout(PageBytes(), 8));
  EXPECT_FALSE(Mapping::Map(server.complete_memfd()).ok());
}

TEST(Submission, IsMappedOnceAndWithItsOwnSizes) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  const auto map = [&queue](const SubmissionLayout& layout) {
    return SubmissionClient::Map(layout, queue.server.submit_memfd(), queue.server.complete_memfd())
        .status()
        .code();
  };
  EXPECT_EQ(map(test::QueueLayout(2 * PageBytes(), 8)), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(map(test::QueueLayout(PageBytes(), 1024)), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(map(queue.server.layout()), absl::StatusCode::kOk);
  queue.client.TryAdd(BytesOf("a"));
  queue.client.Publish();
  EXPECT_EQ(map(queue.server.layout()), absl::StatusCode::kFailedPrecondition);
}

TEST(Submission, DoesNotGiveAForkedChildTheClientsMapping) {
  QueueAndRing queue(PageBytes(), 8, PageBytes());
  test::Child child([&queue] { queue.client.TryAdd(BytesOf("twice")); });
  EXPECT_NE(child.Join(), 0);
  EXPECT_EQ(queue.client.TryAdd(BytesOf("once")), AddOutcome::kAdded);
}

// ---- Against a model ----------------------------------------------------------------------------

// A queue driven at random, and what went in and came out of it.
class Life {
 public:
  explicit Life(uint64_t seed)
      : random_(seed),
        queue_(PageBytes(), 4, 2 * PageBytes()),
        reader_(test::MakeReader(queue_.ring.ring())) {}

  void Step() {
    now_ns_ += static_cast<int64_t>(random_() % 500'000);
    switch (random_() % 6) {
      case 0:
      case 1:
        Add();
        break;
      case 2:
        queue_.client.Publish();
        break;
      case 3:
        queue_.Serve(
            {.entries_max = random_() % 9, .bytes_max = random_() % 4096, .now_ns = now_ns_});
        break;
      case 4:
        TakeCompletions();
        break;
      case 5:
        if (random_() % 8 == 0) Read();
        break;
    }
    queue_.ExpectAddsUp();
  }

  // Serves and reads what is left.
  void End() {
    for (int round = 0; round < 10'000 && queue_.client.stats().pending_records != 0; ++round) {
      now_ns_ += 10 * kMs;
      TakeCompletions();
      queue_.client.Publish();
      queue_.Serve(At(now_ns_));
      Read();
    }
    TakeCompletions();
    Read();
    EXPECT_EQ(queue_.client.stats().pending_records, 0u);
    queue_.ExpectAddsUp();
  }

  // Every record that no completion called rejected, in order.
  std::vector<std::string> Expected() const {
    std::vector<std::string> texts;
    for (uint64_t number = 0; number < sent_.size(); ++number) {
      if (!rejected_.contains(number)) texts.push_back(sent_[number]);
    }
    return texts;
  }
  const std::vector<std::string>& read() const { return read_; }
  const Ledger& totals() const { return queue_.server.totals(); }

 private:
  void Add() {
    const std::string text = PatternText(random_(), random_() % 700);
    const AddOptions options{.cookie = sent_.size(),
                             .wait_ms = static_cast<uint16_t>(random_() % 3),
                             .want_completion = random_() % 4 == 0};
    if (queue_.client.TryAdd(BytesOf(text), options) != AddOutcome::kAdded) return;
    sent_.push_back(text);
    wanted_.push_back(options.want_completion);
  }
  void TakeCompletions() {
    Completion completion;
    while (queue_.client.TakeCompletion(&completion) == TakeOutcome::kTaken) {
      ASSERT_LT(completion.entry_number, sent_.size());
      EXPECT_EQ(completion.cookie, completion.entry_number);
      EXPECT_EQ(completion.length_bytes, sent_[completion.entry_number].size());
      if (completion.result != kCompletionStored)
        rejected_.insert(completion.entry_number);
      else
        EXPECT_TRUE(wanted_[completion.entry_number]);
    }
  }
  void Read() {
    for (std::string& text : ReadAll(reader_)) read_.push_back(std::move(text));
  }

  std::mt19937_64 random_;
  QueueAndRing queue_;
  MediatedRingReader reader_;
  int64_t now_ns_ = 1;
  std::vector<std::string> sent_;
  std::vector<bool> wanted_;
  std::set<uint64_t> rejected_;
  std::vector<std::string> read_;
};

class SubmissionModel : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Seeds, SubmissionModel, ::testing::Range(uint64_t{1}, uint64_t{9}));

TEST_P(SubmissionModel, EveryRecordIsStoredInOrderOrToldOf) {
  Life life(GetParam());
  for (int step = 0; step < 20'000 && !HasFailure(); ++step) life.Step();
  life.End();
  EXPECT_EQ(life.read().size(), life.Expected().size());
  EXPECT_TRUE(life.read() == life.Expected());
  // Every fate was met, or this has tested little.
  EXPECT_GT(life.totals().stored_records, 500u);
  EXPECT_GT(life.totals().rejected_records[static_cast<size_t>(LossCause::kFull)], 20u);
  EXPECT_GT(life.totals().rejected_records[static_cast<size_t>(LossCause::kDeadline)], 5u);
}

}  // namespace
}  // namespace iob::shm
