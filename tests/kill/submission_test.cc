// A submission queue whose client is killed at every instruction: what it had published is served
// once, the rest never was, and a client next to it notices nothing.
#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shm/mediated_ring_reader.h"
#include "shm/submission_client.h"
#include "shm/submission_server.h"
#include "tests/kill/kill_test.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_submission.h"

namespace iob::shm {
namespace {

using ::iob::test::BytesOf;
using ::iob::test::KillTable;
using ::iob::test::StepRun;

constexpr uint64_t kVictimTag = 1;
constexpr uint64_t kLivingTag = 2;

std::vector<std::string> ReadAllOf(MediatedRingReader& reader, uint64_t tag) {
  std::vector<std::string> texts;
  RecordView view;
  while (reader.Next(&view) == ReadOutcome::kRecord)
    if (view.tag == tag) texts.push_back(test::TextOf(view.payload));
  return texts;
}

// The victim's operation: one record, then two that become visible together.
bool SubmitAll(SubmissionClient& client, const std::vector<std::string>& texts) {
  if (client.TryAdd(BytesOf(texts[0])) != AddOutcome::kAdded) return false;
  client.Publish();
  if (client.TryAdd(BytesOf(texts[1])) != AddOutcome::kAdded) return false;
  if (client.TryAdd(BytesOf(texts[2])) != AddOutcome::kAdded) return false;
  client.Publish();
  return true;
}

// A broker with two queues into one ring, one of them the victim's.
struct Broker {
  void Serve(SubmissionServer& server, uint64_t tag) {
    const ServeResult result = server.Serve(
        test::kNoLimits,
        [this, tag](std::span<const std::byte> payload) { return ring.Append(tag, payload); });
    EXPECT_EQ(result.state, ServeState::kIdle);
    ring.Publish();
  }

  const SubmissionLayout layout = test::QueueLayout(PageBytes(), 8);
  SubmissionServer victims = test::MakeServer(layout);
  SubmissionServer living = test::MakeServer(layout);
  test::CountingWriter ring{4 * PageBytes()};
};

using SubmissionKill = test::KillTest;

TEST_F(SubmissionKill, WhatWasPublishedIsServedOnce) {
  KillTable table("submission: add, publish; add two, publish",
                  {"nothing", "one record", "three records"});
  KillTable written("of these", {"nothing written beyond the tail", "records without a tail"});
  const std::vector<std::string> texts = {test::PatternText(1, 40), "", test::PatternText(2, 150)};
  Sweep({&table, &written}, [&](uint64_t instructions, StepRun* ret_run) {
    Broker broker;
    SubmissionClient living = test::MakeClient(broker.living);
    MediatedRingReader living_reader = test::MakeReader(broker.ring.ring());
    *ret_run = test::KillAfter(instructions, [&] {
      SubmissionClient victim = test::MakeClient(broker.victims);
      test::Operate([&] { return SubmitAll(victim, texts); });
    });
    const test::RogueClient looker(broker.victims);
    const uint64_t tail =
        looker.section().Word<uint64_t>(kSubmitTailOffset).LoadAcquire().ForHintOnly();
    written.Count(looker.EntryWord(tail) == 0 ? "nothing written beyond the tail"
                                              : "records without a tail");
    // The other client is served whatever is left of this one, and before and after it.
    ASSERT_EQ(living.TryAdd(BytesOf("of the living")), AddOutcome::kAdded);
    living.Publish();
    broker.Serve(broker.living, kLivingTag);
    broker.Serve(broker.victims, kVictimTag);
    const uint64_t served = broker.victims.totals().stored_records;
    ASSERT_EQ(living.TryAdd(BytesOf("and again")), AddOutcome::kAdded);
    living.Publish();
    broker.Serve(broker.living, kLivingTag);
    EXPECT_TRUE(living.ServedAll());
    EXPECT_EQ(living.stats().decided.stored_records, 2u);
    // The end of the dead one's attachment finds nothing more.
    broker.victims.FinishAll(LossCause::kClosed, [&](std::span<const std::byte> payload) {
      return broker.ring.Append(kVictimTag, payload);
    });
    broker.ring.Publish();
    EXPECT_EQ(broker.victims.totals().attempted_records, served);
    table.Count(served == 0   ? "nothing"
                : served == 1 ? "one record"
                : served == 3 ? "three records"
                              : "half a batch");
    const std::vector<std::string> expected(texts.begin(),
                                            texts.begin() + static_cast<int64_t>(served));
    EXPECT_EQ(ReadAllOf(living_reader, kVictimTag), expected);
    living_reader.Release();
    EXPECT_EQ(broker.ring.ledger().stored_records, served + 2);
    broker.ring.ExpectAddsUp();
    test::ExpectLedgerAddsUp(broker.victims.totals());
  });
}

}  // namespace
}  // namespace iob::shm
