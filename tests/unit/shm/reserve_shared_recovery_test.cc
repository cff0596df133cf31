// A process of the shared reserve ring killed before each of its shared accesses in turn: a
// producer, the consumer, the broker in the middle of a recovery. Whatever the step, the living go
// on without waiting, every acknowledged record arrives once, and all counts add up exactly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shm/ring_layout.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/shm_steps.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::DiesAt;
using test::Drain;
using test::Fill;
using test::IsOk;
using test::Put;
using test::SharedRing;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Memory that outlives the child: how far it got.
class Progress {
 public:
  Progress() : memfd_(test::MakeMemfd(PageBytes())), page_(Mapping::Map(memfd_).value()) {}
  void Set(uint32_t index, uint64_t value) {
    // Not a step of the ring: no hooks.
    auto* const hook = std::exchange(before_shared_store, nullptr);
    page_.Word<uint64_t>(index * 8).StoreRelease(value);
    before_shared_store = hook;
  }
  uint64_t Get(uint32_t index) const {
    return page_.Word<uint64_t>(index * 8).LoadAcquire().ForHintOnly();
  }

 private:
  SealedMemfd memfd_;
  Mapping page_;
};

enum : uint32_t { kReserved, kStored, kDiscarded };

// What a producer does in its life, with an open reservation at its end.
void LiveAsProducer(const SharedRing<>& ring, Progress& progress) {
  SharedProducer producer = ring.MakeProducer(1);
  uint64_t reserved = 0;
  uint64_t stored = 0;
  for (const char* text : {"dead 0", "dead 1", "dead 2"}) {
    const auto reservation = Fill(producer, text);
    progress.Set(kReserved, ++reserved);
    producer.Submit(*reservation);
    progress.Set(kStored, ++stored);
  }
  const auto first = Fill(producer, "open");
  progress.Set(kReserved, ++reserved);
  const auto second = Fill(producer, "discarded");
  progress.Set(kReserved, ++reserved);
  producer.Discard(*second);
  progress.Set(kDiscarded, 1);
  (void)first;
}

// Drains with releases; only the texts that start with `prefix`.
std::vector<std::string> DrainAll(SharedConsumer& consumer, const std::string& prefix) {
  std::vector<std::string> texts = Drain(consumer);
  consumer.Release();
  std::erase_if(texts, [&](const std::string& text) { return !text.starts_with(prefix); });
  return texts;
}

void ExpectExactlyTheDeadsRecords(const std::vector<std::string>& texts, const Progress& progress,
                                  const SharedLedger& ledger) {
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], "dead " + std::to_string(i));
  EXPECT_EQ(ledger.stored_records, texts.size());
  EXPECT_EQ(ledger.stored_bytes, 6 * texts.size());
  // All that was acknowledged, and at most the one that was under way.
  EXPECT_GE(texts.size(), progress.Get(kStored));
  EXPECT_LE(texts.size(), progress.Get(kStored) + 1);
  EXPECT_GE(ledger.discarded_records, progress.Get(kDiscarded));
  EXPECT_LE(ledger.discarded_records, 1u);
  const uint64_t reserved =
      ledger.stored_records + ledger.discarded_records + ledger.recovered_records;
  EXPECT_GE(reserved, progress.Get(kReserved));
  EXPECT_LE(reserved, progress.Get(kReserved) + 1);
  EXPECT_EQ(ledger.lost_records, 0u);
}

TEST(SharedRecovery, MendsAProducerKilledAtEveryStep) {
  uint64_t steps = 0;
  uint64_t settled = 0;
  uint64_t discarded = 0;
  uint64_t helped = 0;
  for (bool died = true; died; ++steps) {
    SharedRing<> ring(4096);
    Progress progress;
    SharedConsumer consumer = ring.MakeConsumer();
    ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnSocket));
    SharedProducer living = ring.MakeProducer(2);
    died = DiesAt(steps, [&] { LiveAsProducer(ring, progress); });
    // Nobody waits for the dead, recovered or not.
    ASSERT_TRUE(Put(living, "living"));
    helped += living.ledger().helps;
    const SharedOccupancy before = ring.broker().Occupancy();
    const uint64_t reserved =
        before.resident_records + before.busy_records + before.discarded_records;
    ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(1));
    EXPECT_TRUE(recovered.tell_socket) << "the dead may have owed a wake";
    EXPECT_EQ(recovered.discarded_records, before.busy_records);
    settled += recovered.settled_submit ? 1 : 0;
    discarded += recovered.discarded_records;
    ring.ExpectAddsUp(reserved);
    const std::vector<std::string> texts = Drain(consumer);
    ASSERT_FALSE(texts.empty());
    EXPECT_EQ(texts.back(), "living");
    ExpectExactlyTheDeadsRecords({texts.begin(), texts.end() - 1}, progress,
                                 ring.broker().LedgerOf(1));
    consumer.Release();
    ring.ExpectAddsUp(reserved);
    // The number is good for another process.
    SharedProducer successor = ring.MakeProducer(1);
    EXPECT_TRUE(Put(successor, "next"));
    EXPECT_THAT(Drain(consumer), ElementsAre("next"));
    ASSERT_FALSE(HasFailure()) << "killed at step " << steps;
  }
  EXPECT_GT(steps, 60u);
  // Every kind of death was met.
  EXPECT_GE(settled, 3u);
  EXPECT_GT(discarded, 20u);
  EXPECT_GE(helped, 5u);
}

TEST(SharedRecovery, CountsExactlyThoughTheDeadsWordsWereOverwrittenLongAgo) {
  uint64_t steps = 0;
  uint64_t overwritten = 0;
  for (bool died = true; died; ++steps) {
    SharedRing<> ring(4096);
    Progress progress;
    SharedConsumer consumer = ring.MakeConsumer();
    SharedProducer living = ring.MakeProducer(2);
    died = DiesAt(steps, [&] { LiveAsProducer(ring, progress); });
    std::vector<std::string> texts = DrainAll(consumer, "dead");
    for (int i = 0; i < 300; ++i) {
      overwritten += Put(living, "living") && i == 299 ? 1 : 0;
      EXPECT_THAT(DrainAll(consumer, "dead"), IsEmpty());
    }
    ASSERT_THAT(ring.broker().Recover(1), IsOk());
    for (const std::string& text : DrainAll(consumer, "dead")) texts.push_back(text);
    ExpectExactlyTheDeadsRecords(texts, progress, ring.broker().LedgerOf(1));
    ASSERT_FALSE(HasFailure()) << "killed at step " << steps;
  }
  EXPECT_GE(overwritten, 10u);
}

TEST(SharedRecovery, MendsAConsumerKilledAtEveryStep) {
  uint64_t steps = 0;
  for (bool died = true; died; ++steps) {
    SharedRing<> ring(4096);
    SharedProducer producer = ring.MakeProducer(1);
    for (int i = 0; i < 6; ++i) ASSERT_TRUE(Put(producer, "r" + std::to_string(i)));
    died = DiesAt(steps, [&] {
      SharedConsumer consumer = ring.MakeConsumer();
      SharedRecord record;
      for (int i = 0; i < 4; ++i) {
        consumer.Next(&record);
        if (i % 2 == 1) consumer.Release();
      }
      consumer.PrepareToWait(kWaitingOnSocket);
    });
    ring.ExpectAddsUp(6);
    SharedConsumer successor = ring.MakeConsumer();
    const uint64_t consumed = successor.consumed_records();
    const std::vector<std::string> texts = Drain(successor);
    ASSERT_EQ(consumed + texts.size(), 6u);
    EXPECT_EQ(texts.front(), "r" + std::to_string(consumed));
    successor.Release();
    ring.ExpectAddsUp(6);
    ASSERT_FALSE(HasFailure()) << "killed at step " << steps;
  }
  EXPECT_GT(steps, 30u);
}

TEST(SharedRecovery, IsFinishedByAnotherBrokerWhenTheFirstIsKilledAtAnyStep) {
  uint64_t steps = 0;
  for (bool died = true; died; steps += steps < 40 ? 1 : 7) {
    SharedRing<> ring(4096);
    {
      SharedProducer dead = ring.MakeProducer(1);
      ASSERT_TRUE(Put(dead, "stored"));
      for (int i = 0; i < 3; ++i) ASSERT_TRUE(Fill(dead, "open"));
      // As if killed between the change of a word and the count.
      const Mapping ctl = Mapping::Map(ring.sections().ctl).value();
      SharedLedgerLine line(ctl, ring.layout(), 1);
      line.Set(SharedLedgerLine::kStoredRecords, 0);
      line.Set(SharedLedgerLine::kStoredBytes, 0);
      line.Set(SharedLedgerLine::kIntentRecords, 1);
      line.Set(SharedLedgerLine::kIntentBytes, 6);
      line.Set(SharedLedgerLine::kIntent, 0 | static_cast<uint64_t>(SlotState::kCommit));
    }
    died = DiesAt(steps, [&] {
      EXPECT_THAT(SharedRecovery::Map(ring.layout(), ring.sections()).value().Recover(1), IsOk());
    });
    SharedRecovery next = SharedRecovery::Map(ring.layout(), ring.sections()).value();
    ASSERT_THAT(next.Recover(1), IsOk());
    const SharedOccupancy occupancy = next.Occupancy();
    EXPECT_EQ(occupancy.busy_records, 0u);
    EXPECT_EQ(occupancy.discarded_records, 3u);
    EXPECT_EQ(next.LedgerOf(1).stored_records, 1u);
    EXPECT_EQ(next.LedgerOf(1).stored_bytes, 6u);
    EXPECT_LE(next.LedgerOf(1).recovered_records, 3u);
    SharedConsumer consumer = ring.MakeConsumer();
    EXPECT_THAT(Drain(consumer), ElementsAre("stored"));
    ASSERT_FALSE(HasFailure()) << "killed at step " << steps;
  }
}

TEST(SharedRecovery, LeavesTheRecordsOfOthersAlone) {
  SharedRing<> ring(4096);
  SharedProducer one = ring.MakeProducer(1);
  SharedProducer two = ring.MakeProducer(2);
  SharedConsumer consumer = ring.MakeConsumer();
  const auto dead = Fill(one, "dead");
  const auto open = Fill(two, "open");
  EXPECT_TRUE(Put(one, "stored before death"));
  ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(1));
  EXPECT_EQ(recovered.discarded_records, 1u);
  EXPECT_FALSE(recovered.settled_submit);
  EXPECT_THAT(Drain(consumer), IsEmpty()) << "the second is still open";
  EXPECT_TRUE(two.Submit(*open).done);
  EXPECT_THAT(Drain(consumer), ElementsAre("open", "stored before death"));
  // It was not dead, and learns it.
  EXPECT_FALSE(one.Submit(*dead).done);
}

TEST(SharedRecovery, ForgetsWhatTheDeadWaitedFor) {
  SharedRing<> ring(4096);
  SharedProducer dead = ring.MakeProducer(5);
  SharedProducer living = ring.MakeProducer(6);
  ASSERT_TRUE(Put(living, std::string(4096, 'x')));
  ASSERT_TRUE(dead.PrepareToWaitForRoom(64).sleep);
  ASSERT_TRUE(living.PrepareToWaitForRoom(64).sleep);
  ASSERT_THAT(ring.broker().Recover(5), IsOk());
  const Mapping ctl = Mapping::Map(ring.sections().ctl).value();
  EXPECT_EQ(ctl.Word<uint64_t>(kSharedWantRoom).LoadRelaxed().ForHintOnly(), uint64_t{1} << 6);
}

}  // namespace
}  // namespace iob::shm
