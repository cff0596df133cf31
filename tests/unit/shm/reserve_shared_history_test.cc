// Whether the shared reserve ring, used by several threads at once, behaves as if each operation
// happened at one instant between its call and its return: linearizability, checked in linear time.
//
// A claim's place in the order is its position, so the order needs no search: sorted by position,
// no operation may come before one that had returned when it was called.
//
//   position:    ... B ............ A ...          wrong when A had returned before B was called
//   time:            A [call  return]  B [call     return]
//
// Linked with the hooked library: each thread gives way before a shared access now and then, so
// that operations meet in the middle however few processors there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "shm/futex.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"

namespace iob::shm {
namespace {

using test::SharedRing;

constexpr int64_t kPatienceNs = 20'000'000'000;

struct Operation {
  uint64_t position = 0;
  uint64_t called = 0;
  uint64_t returned = 0;
  uint32_t owner = 0;
  uint64_t number = 0;  // Of this owner.
};

enum class Verdict { kFine, kTwoAtOnePlace, kAgainstTime, kAgainstTheOwnersOrder };

// Sorted by position, as they are claimed to have happened.
Verdict CheckOrder(std::vector<Operation> operations) {
  std::sort(operations.begin(), operations.end(),
            [](const Operation& a, const Operation& b) { return a.position < b.position; });
  std::vector<uint64_t> next_number(kSharedOwners, 0);
  for (size_t i = 0; i < operations.size(); ++i) {
    if (i > 0 && operations[i - 1].position == operations[i].position) {
      return Verdict::kTwoAtOnePlace;
    }
    if (operations[i].number != next_number[operations[i].owner]++) {
      return Verdict::kAgainstTheOwnersOrder;
    }
  }
  // The earliest return among all that come later in the order.
  uint64_t earliest_return = std::numeric_limits<uint64_t>::max();
  for (auto operation = operations.rbegin(); operation != operations.rend(); ++operation) {
    if (earliest_return < operation->called) return Verdict::kAgainstTime;
    earliest_return = std::min(earliest_return, operation->returned);
  }
  return Verdict::kFine;
}

struct History {
  std::vector<Operation> reserves;
  std::vector<Operation> submits;
  std::vector<Operation> reads;
};

constexpr uint32_t kProducers = 3;
constexpr uint64_t kRecords = 2000;

// A clock that orders events of all threads: later events have later times.
class Clock {
 public:
  uint64_t Tick() { return ticks_.fetch_add(1, std::memory_order_seq_cst); }

 private:
  std::atomic<uint64_t> ticks_ = 0;
};

// Makes this thread give way before one in 8 of its shared accesses.
void GiveWayNowAndThen(uint64_t seed) {
  static thread_local uint64_t state = 0;
  state = seed;
  const auto hook = [](void*) {
    state = state * 6364136223846793005 + 1442695040888963407;
    if (state >> 61 == 0) std::this_thread::yield();
  };
  before_shared_load = hook;
  before_shared_store = hook;
}

void Produce(SharedProducer producer, Clock& clock, History& history) {
  GiveWayNowAndThen(producer.owner());
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  for (uint64_t number = 0; number < kRecords;) {
    Operation reserve{.owner = producer.owner(), .number = number};
    SharedReservation reservation;
    reserve.called = clock.Tick();
    const SharedReserveOutcome outcome = producer.Reserve(8 + number % 150, &reservation);
    reserve.returned = clock.Tick();
    if (outcome == SharedReserveOutcome::kFull) {
      ASSERT_LT(MonotonicNs(), deadline_ns);
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(outcome, SharedReserveOutcome::kReserved);
    SharedBytes(reservation.bytes.data(), 8).CopyIn(0, std::as_bytes(std::span(&number, 1)));
    reserve.position = reservation.position;
    history.reserves.push_back(reserve);
    Operation submit = reserve;
    submit.called = clock.Tick();
    ASSERT_TRUE(producer.Submit(reservation).done);
    submit.returned = clock.Tick();
    history.submits.push_back(submit);
    ++number;
  }
}

void Consume(SharedConsumer consumer, Clock& clock, History& history) {
  GiveWayNowAndThen(99);
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  while (history.reads.size() < kProducers * kRecords) {
    SharedRecord record;
    const uint64_t called = clock.Tick();
    const SharedReadOutcome outcome = consumer.Next(&record);
    const uint64_t returned = clock.Tick();
    ASSERT_NE(outcome, SharedReadOutcome::kPoisoned) << consumer.status();
    if (outcome == SharedReadOutcome::kRecord) {
      uint64_t number = 0;
      record.payload.CopyOut(0, std::as_writable_bytes(std::span(&number, 1)));
      history.reads.push_back({record.sequence, called, returned, record.lane_or_owner, number});
      if (history.reads.size() % 3 != 0) continue;
    }
    consumer.Release();
    if (outcome == SharedReadOutcome::kRecord) continue;
    ASSERT_LT(MonotonicNs(), deadline_ns);
    if (!consumer.PollPolitely()) std::this_thread::yield();
  }
  consumer.Release();
}

History Record() {
  SharedRing<> ring(4096);
  Clock clock;
  std::vector<History> parts(kProducers + 1);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kProducers; ++i) {
    threads.emplace_back([&, i] { Produce(ring.MakeProducer(i + 1), clock, parts[i]); });
  }
  threads.emplace_back([&] { Consume(ring.MakeConsumer(), clock, parts[kProducers]); });
  for (std::thread& thread : threads) thread.join();
  ring.ExpectAddsUp(kProducers * kRecords);
  History all = std::move(parts[kProducers]);
  for (uint32_t i = 0; i < kProducers; ++i) {
    all.reserves.insert(all.reserves.end(), parts[i].reserves.begin(), parts[i].reserves.end());
    all.submits.insert(all.submits.end(), parts[i].submits.begin(), parts[i].submits.end());
  }
  return all;
}

TEST(SharedHistory, OfThreadsAgreesWithOneOrder) {
  const History history = Record();
  ASSERT_EQ(history.reserves.size(), kProducers * kRecords);
  EXPECT_EQ(CheckOrder(history.reserves), Verdict::kFine);
  EXPECT_EQ(CheckOrder(history.reads), Verdict::kFine);
  // A record is read after its submit was called, and what was read is what was reserved there.
  std::vector<Operation> submits = history.submits;
  std::sort(submits.begin(), submits.end(),
            [](const Operation& a, const Operation& b) { return a.position < b.position; });
  ASSERT_EQ(submits.size(), history.reads.size());
  for (size_t i = 0; i < submits.size(); ++i) {
    ASSERT_EQ(history.reads[i].position, submits[i].position);
    ASSERT_EQ(history.reads[i].owner, submits[i].owner);
    ASSERT_EQ(history.reads[i].number, submits[i].number);
    ASSERT_LT(submits[i].called, history.reads[i].returned);
  }
  // The threads did run at once, or this has shown nothing.
  uint64_t overlaps = 0;
  std::vector<Operation> by_call = history.reserves;
  std::sort(by_call.begin(), by_call.end(),
            [](const Operation& a, const Operation& b) { return a.called < b.called; });
  for (size_t i = 1; i < by_call.size(); ++i) {
    overlaps += by_call[i].called < by_call[i - 1].returned ? 1 : 0;
  }
  EXPECT_GT(overlaps, 100u);
  RecordProperty("overlaps", static_cast<int>(overlaps));
}

TEST(SharedHistory, IsRefusedWhenItContradictsItself) {
  const std::vector<Operation> fine = {
      {.position = 0, .called = 0, .returned = 5, .owner = 1, .number = 0},
      {.position = 64, .called = 1, .returned = 2, .owner = 2, .number = 0},
      {.position = 128, .called = 6, .returned = 7, .owner = 1, .number = 1}};
  EXPECT_EQ(CheckOrder(fine), Verdict::kFine);
  std::vector<Operation> two_at_once = fine;
  two_at_once[1].position = 0;
  EXPECT_EQ(CheckOrder(two_at_once), Verdict::kTwoAtOnePlace);
  std::vector<Operation> against_time = fine;
  against_time[1] = {.position = 64, .called = 8, .returned = 9, .owner = 2, .number = 0};
  EXPECT_EQ(CheckOrder(against_time), Verdict::kAgainstTime);
  std::vector<Operation> owners_order = fine;
  std::swap(owners_order[0].number, owners_order[2].number);
  EXPECT_EQ(CheckOrder(owners_order), Verdict::kAgainstTheOwnersOrder);
}

TEST(SharedHistory, IsRefusedWhenTwoClaimsOfARealOneSwapPlaces) {
  History history = Record();
  std::vector<Operation>& reserves = history.reserves;
  std::sort(reserves.begin(), reserves.end(),
            [](const Operation& a, const Operation& b) { return a.position < b.position; });
  // Two of different owners, far enough apart that one had returned before the other was called.
  size_t later = 200;
  while (reserves[later].owner == reserves[100].owner ||
         reserves[later].called < reserves[100].returned) {
    ASSERT_LT(++later, reserves.size());
  }
  std::swap(reserves[100].position, reserves[later].position);
  EXPECT_NE(CheckOrder(reserves), Verdict::kFine);
}

// Runs `body` before the `moment`-th shared load of this thread from now on, once.
void RunBeforeLoad(uint64_t moment, const std::function<void()>& body) {
  struct Plan {
    uint64_t loads_left;
    const std::function<void()>* body;
  };
  static thread_local Plan plan;
  plan = {.loads_left = moment, .body = &body};
  before_shared_load_context = &plan;
  before_shared_load = [](void* context) {
    Plan& now = *static_cast<Plan*>(context);
    if (now.loads_left-- != 0) return;
    before_shared_load = nullptr;
    (*now.body)();
  };
}

TEST(SharedHistory, HasNoClaimThatIsALapLate) {
  uint64_t moment = 0;
  for (bool struck = true; struck; ++moment) {
    SharedRing<> ring(4096);
    SharedProducer late = ring.MakeProducer(1);
    SharedProducer other = ring.MakeProducer(2);
    SharedConsumer consumer = ring.MakeConsumer();
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(test::Put(other, "before"));
    EXPECT_EQ(test::Drain(consumer).size(), 40u);
    consumer.Release();
    struck = false;
    // More than a lap, and then most of the ring is full, the slots of the last lap included.
    const std::function<void()> meanwhile = [&] {
      // Once it has claimed, all others stay behind it.
      if (ring.broker().FirstBusy()) return;
      struck = true;
      for (int i = 0; i < 64; ++i) {
        ASSERT_TRUE(test::Put(other, "meanwhile"));
        if (i % 8 == 0) test::Drain(consumer);
        if (i % 8 == 0) consumer.Release();
      }
      test::Drain(consumer);
      consumer.Release();
      for (int i = 0; i < 60; ++i) ASSERT_TRUE(test::Put(other, "unread"));
    };
    SharedReservation reservation;
    RunBeforeLoad(moment, meanwhile);
    const SharedReserveOutcome outcome = late.Reserve(1, &reservation);
    before_shared_load = nullptr;
    ASSERT_EQ(outcome, SharedReserveOutcome::kReserved) << "before load " << moment;
    // Late, and so behind all the others.
    if (struck) {
      EXPECT_TRUE(late.Submit(reservation).done);
      EXPECT_EQ(test::Drain(consumer).size(), 61u) << "before load " << moment;
      consumer.Release();
      ring.ExpectAddsUp(40 + 64 + 60 + 1);
    }
    ASSERT_FALSE(HasFailure()) << "before load " << moment;
  }
  EXPECT_GE(moment, 4u);
}

}  // namespace
}  // namespace iob::shm
