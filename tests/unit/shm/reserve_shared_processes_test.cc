// The shared reserve ring between real processes that sleep, wake, stop and are killed. Every wait
// has a deadline, and reaching one is a failure.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/shm_shared_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::PatternText;
using test::SharedRing;

constexpr int64_t kPatienceNs = 20'000'000'000;
constexpr uint32_t kStopOwner = 63;

// One life of a producer process: who it was, and which of its records this is.
struct Author {
  uint64_t life;
  uint64_t number;
};

std::string RecordText(const Author& author) {
  std::string text(sizeof(author), '\0');
  std::memcpy(text.data(), &author, sizeof(author));
  return text + PatternText(author.life * 1'000'003 + author.number, author.number * 37 % 400);
}
std::optional<Author> AuthorOf(const std::string& text) {
  Author author = {};
  if (text.size() < sizeof(author)) return std::nullopt;
  std::memcpy(&author, text.data(), sizeof(author));
  if (text != RecordText(author)) return std::nullopt;
  return author;
}
bool IsDiscarded(uint64_t number) { return number % 7 == 3; }

// What all processes tell each other for the checks: u64 words, zeros at first.
class Board {
 public:
  static constexpr uint64_t kLivesMax = 4096;
  Board() : memfd_(test::MakeMemfd(RoundUpToPages(kLivesMax * 24))), map_(Map()) {}

  SharedAtomic<uint64_t>& acknowledged(uint64_t life) { return Word(life * 3); }
  SharedAtomic<uint64_t>& delivered(uint64_t life) { return Word(life * 3 + 1); }
  SharedAtomic<uint64_t>& next_number(uint64_t life) { return Word(life * 3 + 2); }
  static uint64_t Get(const SharedAtomic<uint64_t>& word) {
    return word.LoadAcquire().ForHintOnly();
  }

 private:
  Mapping Map() const { return Mapping::Map(memfd_).value(); }
  SharedAtomic<uint64_t>& Word(uint64_t index) { return map_.Word<uint64_t>(index * 8); }
  SealedMemfd memfd_;
  Mapping map_;
};

// Reserves, and waits for room as long as it takes.
bool ReserveOrWait(SharedProducer& producer, uint64_t payload_bytes,
                   SharedReservation* ret_reservation) {
  const int64_t deadline_ns = MonotonicNs() + kPatienceNs;
  while (true) {
    const SharedReserveOutcome outcome = producer.Reserve(payload_bytes, ret_reservation);
    if (outcome == SharedReserveOutcome::kReserved) return true;
    if (outcome != SharedReserveOutcome::kFull) return false;
    if (producer.PrepareToWaitForRoom(payload_bytes).sleep) {
      const FutexWord word = producer.RoomWord();
      if (FutexWaitAny({&word, 1}, deadline_ns) == FutexOutcome::kDeadline) return false;
    }
    producer.ClearWantRoom();
  }
}

// Stores records, most of the time with two open at once.
void Produce(const SharedRing<>& ring, uint32_t owner, uint64_t life, uint64_t records,
             Board& board) {
  SharedProducer producer = ring.MakeProducer(owner);
  uint64_t acknowledged = 0;
  for (uint64_t number = 0; number < records;) {
    std::array<SharedReservation, 2> open;
    ASSERT_TRUE(ReserveOrWait(producer, RecordText({life, number}).size(), &open[0])) << number;
    // Without waiting: the room may be that of our own open record.
    const uint64_t second_bytes = RecordText({life, number + 1}).size();
    const bool two = number + 1 < records &&
                     producer.Reserve(second_bytes, &open[1]) == SharedReserveOutcome::kReserved;
    // Gives the others a chance to go on beside it, and the killer to meet it here.
    if (number % 8 < 2) std::this_thread::yield();
    for (size_t i = 0; i < (two ? 2 : 1); ++i, ++number) {
      const std::string text = RecordText({life, number});
      std::memcpy(open[i].bytes.data(), text.data(), text.size());
      if (IsDiscarded(number)) {
        ASSERT_TRUE(producer.Discard(open[i]).done);
      } else {
        ASSERT_TRUE(producer.Submit(open[i]).done);
        board.acknowledged(life).StoreRelease(++acknowledged);
      }
    }
  }
}

// Checks every record and its place among those of its author, until one says stop.
void Consume(const SharedRing<>& ring, Board& board) {
  SharedConsumer consumer = ring.MakeConsumer();
  for (uint64_t reads = 0;; ++reads) {
    SharedRecord record;
    const SharedReadOutcome outcome = consumer.Next(&record);
    ASSERT_NE(outcome, SharedReadOutcome::kPoisoned) << consumer.status();
    if (outcome == SharedReadOutcome::kRecord) {
      const std::string text = test::TextOf(record);
      if (record.lane_or_owner == kStopOwner) break;
      const std::optional<Author> author = AuthorOf(text);
      ASSERT_TRUE(author.has_value()) << "torn, at " << record.sequence;
      ASSERT_LT(author->life, Board::kLivesMax);
      uint64_t expected = Board::Get(board.next_number(author->life));
      if (IsDiscarded(expected)) expected += 1;
      ASSERT_EQ(author->number, expected) << "life " << author->life;
      board.next_number(author->life).StoreRelease(expected + 1);
      auto& delivered = board.delivered(author->life);
      delivered.StoreRelease(Board::Get(delivered) + 1);
      if (reads % 5 != 0) continue;
    }
    consumer.Release();
    if (outcome == SharedReadOutcome::kRecord) continue;
    if (consumer.PrepareToWait(kWaitingOnFutex)) {
      const FutexWord word = consumer.WaitWord();
      ASSERT_EQ(FutexWaitAny({&word, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook)
          << "left asleep at " << consumer.position();
    }
    consumer.ClearWaiting();
  }
  consumer.Release();
}

class SharedProcesses : public ::testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, SharedProcesses, ::testing::Values(4096, 65536));

TEST_P(SharedProcesses, StreamEveryRecordInOrderWithoutLosingAWake) {
  constexpr uint64_t kRecords = 20'000;
  SharedRing<> ring(GetParam());
  Board board;
  test::Child consumer([&] { Consume(ring, board); });
  {
    std::vector<std::unique_ptr<test::Child>> producers;
    for (uint32_t owner = 1; owner <= 3; ++owner) {
      producers.push_back(std::make_unique<test::Child>(
          [&ring, &board, owner] { Produce(ring, owner, owner, kRecords, board); }));
    }
    for (const auto& producer : producers) ASSERT_EQ(producer->Join(), 0);
  }
  SharedProducer stop = ring.MakeProducer(kStopOwner);
  SharedReservation reservation;
  ASSERT_TRUE(ReserveOrWait(stop, 1, &reservation));
  ASSERT_TRUE(stop.Submit(reservation).done);
  ASSERT_EQ(consumer.Join(), 0);
  for (uint64_t life = 1; life <= 3; ++life) {
    EXPECT_EQ(Board::Get(board.delivered(life)), Board::Get(board.acknowledged(life)));
  }
  ring.ExpectAddsUp(3 * kRecords + 1);
}

TEST_P(SharedProcesses, LoseNothingButWhatTheKilledHadOpen) {
  SharedRing<> ring(GetParam());
  Board board;
  test::Child consumer([&] { Consume(ring, board); });
  std::mt19937_64 random(GetParam());
  std::array<std::unique_ptr<test::Child>, 3> producers;
  std::array<uint64_t, 3> life_of = {};
  uint64_t lives = 0;
  const auto spawn = [&](uint32_t index) {
    const uint64_t life = lives++;
    life_of[index] = life;
    producers[index] = std::make_unique<test::Child>(
        [&ring, &board, index, life] { Produce(ring, index + 1, life, UINT64_MAX, board); });
  };
  for (uint32_t index = 0; index < producers.size(); ++index) spawn(index);
  const int64_t end_ns = MonotonicNs() + 2'500'000'000;
  uint64_t discarded = 0;
  while (MonotonicNs() < end_ns && lives < Board::kLivesMax - 3) {
    const auto victim = static_cast<uint32_t>(random() % producers.size());
    // Somewhere in its life, at any instruction.
    const uint64_t at_least = random() % 60;
    while (Board::Get(board.acknowledged(life_of[victim])) < at_least) {
      ASSERT_LT(MonotonicNs(), end_ns + kPatienceNs) << "owner " << victim + 1 << " stands still";
      std::this_thread::yield();
    }
    ASSERT_EQ(::kill(producers[victim]->pid(), SIGKILL), 0);
    ASSERT_EQ(producers[victim]->Join(), 128 + SIGKILL);
    ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(victim + 1));
    discarded += recovered.discarded_records;
    spawn(victim);
  }
  for (uint32_t index = 0; index < producers.size(); ++index) {
    ::kill(producers[index]->pid(), SIGKILL);
    producers[index]->Join();
    ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(index + 1));
    discarded += recovered.discarded_records;
  }
  SharedProducer stop = ring.MakeProducer(kStopOwner);
  SharedReservation reservation;
  ASSERT_TRUE(ReserveOrWait(stop, 1, &reservation));
  ASSERT_TRUE(stop.Submit(reservation).done);
  ASSERT_EQ(consumer.Join(), 0);
  uint64_t delivered = 1;
  for (uint64_t life = 0; life < lives; ++life) {
    const uint64_t acknowledged = Board::Get(board.acknowledged(life));
    EXPECT_GE(Board::Get(board.delivered(life)), acknowledged) << "life " << life;
    EXPECT_LE(Board::Get(board.delivered(life)), acknowledged + 1) << "life " << life;
    delivered += Board::Get(board.delivered(life));
  }
  // Exact, though hundreds died at any instruction.
  const SharedLedger total = ring.broker().TotalLedger();
  EXPECT_EQ(total.stored_records, delivered);
  EXPECT_EQ(total.recovered_records, discarded);
  EXPECT_EQ(total.lost_records, 0u);
  ring.ExpectAddsUp(total.stored_records + total.discarded_records + total.recovered_records);
  EXPECT_GT(lives, 30u);
  EXPECT_GT(discarded, 0u) << "nobody died with a record open";
  RecordProperty("kills", static_cast<int>(lives));
  RecordProperty("recovered", static_cast<int>(discarded));
}

TEST(SharedProcesses, GoOnBesideAStoppedOneUntilTheRingIsFull) {
  SharedRing<> ring(4096);
  test::Turn reserved;
  test::Child stopped([&] {
    SharedProducer producer = ring.MakeProducer(9);
    SharedReservation reservation;
    ASSERT_EQ(producer.Reserve(10, &reservation), SharedReserveOutcome::kReserved);
    reserved.Give();
    while (true) ::pause();
  });
  ASSERT_TRUE(reserved.Take());
  SharedProducer living = ring.MakeProducer(1);
  SharedConsumer consumer = ring.MakeConsumer();
  uint64_t stored = 0;
  while (test::Put(living, "on and on")) ++stored;
  EXPECT_EQ(stored, 63u);
  EXPECT_FALSE(consumer.HasRecords());
  ASSERT_TRUE(consumer.Stalled(MonotonicNs()).has_value());
  EXPECT_EQ(consumer.Stalled(MonotonicNs())->owner, 9u);
  ASSERT_EQ(::kill(stopped.pid(), SIGKILL), 0);
  ASSERT_EQ(stopped.Join(), 128 + SIGKILL);
  ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(9));
  EXPECT_EQ(recovered.discarded_records, 1u);
  EXPECT_EQ(test::Drain(consumer).size(), stored);
  consumer.Release();
  ring.ExpectAddsUp(stored + 1);
}

TEST(SharedProcesses, RecoveryWakesAConsumerThatSleepsOnTheDeadsRecord) {
  SharedRing<> ring(4096);
  SharedProducer dead = ring.MakeProducer(9);
  SharedReservation reservation;
  ASSERT_EQ(dead.Reserve(10, &reservation), SharedReserveOutcome::kReserved);
  SharedProducer living = ring.MakeProducer(1);
  ASSERT_TRUE(test::Put(living, "behind it"));
  test::Turn prepared;
  test::Child sleeper([&] {
    SharedConsumer consumer = ring.MakeConsumer();
    ASSERT_TRUE(consumer.PrepareToWait(kWaitingOnFutex));
    const FutexWord word = consumer.WaitWord();
    prepared.Give();
    ASSERT_EQ(FutexWaitAny({&word, 1}, MonotonicNs() + kPatienceNs), FutexOutcome::kLook);
    ASSERT_EQ(test::Drain(consumer).size(), 1u);
  });
  ASSERT_TRUE(prepared.Take());
  ASSERT_OK_AND_ASSIGN(const SharedRecovered recovered, ring.broker().Recover(9));
  EXPECT_FALSE(recovered.tell_socket);
  EXPECT_EQ(sleeper.Join(), 0);
}

TEST(SharedProcesses, DoNotGiveAForkedChildTheMapping) {
  SharedRing<> ring(4096);
  SharedProducer producer = ring.MakeProducer(1);
  test::Child child([&] { test::Put(producer, "x"); });
  // A sanitizer turns the signal into an exit status of its own.
  EXPECT_NE(child.Join(), 0);
  EXPECT_EQ(producer.ProducerPosition(), 0u);
}

}  // namespace
}  // namespace iob::shm
