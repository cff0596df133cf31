// A shared reserve ring whose stall policy is renewal: a producer that stops in the middle of a
// record is left behind, in memory of its own; everybody else goes on, nothing is lost, no order is
// broken, and the old memory is given back as soon as it may be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/reserve_shared_layout.h"
#include "tests/support/raw_client.h"
#include "tests/unit/client/reserve_rings.h"

namespace iob::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// As the attach protocol has it.
std::string BytesOf(const Ticket& ticket) {
  return std::string(AsText(std::as_bytes(std::span(ticket.secret()))));
}

// A producer in a process of its own that is stopped in the middle of its record "late"; when it
// goes on, it submits that, and then "later".
class SlowProducer {
 public:
  explicit SlowProducer(const Ticket& ticket) : child_([this, ticket] { Live(ticket); }) {}
  void StopInTheMiddle() {
    ASSERT_TRUE(reserved_.Take());
    ASSERT_EQ(::kill(child_.pid(), SIGSTOP), 0);
  }
  void GoOn() {
    go_.Give();
    ASSERT_EQ(::kill(child_.pid(), SIGCONT), 0);
  }
  int Join() { return child_.Join(); }
  void Kill() { child_.Kill(); }
  pid_t pid() const { return child_.pid(); }

 private:
  void Live(const Ticket& ticket) {
    Endpoint endpoint = Endpoint::Attach(ticket).value();
    ReserveRingWriter writer = endpoint.OpenReserveWriter(0).value();
    Put(writer, "early");
    const Reservation room = writer.Reserve(4).value();
    reserved_.Give();
    ASSERT_TRUE(go_.Take());
    std::memcpy(room.bytes().data(), "late", 4);
    ASSERT_THAT(writer.Submit(room), IsOk());
    Put(writer, "later");
    EXPECT_EQ(writer.stats().stored_records, 3u);
  }

  Turn reserved_;
  Turn go_;
  Producer child_;
};

class RenewedRing : public StalledRing {
 protected:
  void SetUp() override {
    StalledRing::SetUp();
    ASSERT_NO_FATAL_FAILURE(MakeShared(StallPolicy::kRenew, 50ms));
    // Before there are other processes: none of them inherits what this one holds.
    slow_ = std::make_unique<SlowProducer>(ProducerTicket());
    ASSERT_NO_FATAL_FAILURE(slow_->StopInTheMiddle());
    producer_.emplace(AttachProducer().value());
    writer_.emplace(producer_->OpenReserveWriter(0).value());
  }
  void TearDown() override {
    if (HasFatalFailure() && slow_ != nullptr) slow_->Kill();
    writer_.reset();
    producer_.reset();
    slow_.reset();
    StalledRing::TearDown();
  }
  // The broker finds the stall, and makes new memory.
  void AwaitRenewal() {
    ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_->Watch());
    ASSERT_OK_AND_ASSIGN(const std::optional<WatchedEvent> started, watch.Next(After(kPatience)));
    const Deadline deadline = After(kPatience);
    while (std::chrono::steady_clock::now() < deadline) {
      ASSERT_THAT(reader_->Wait(After(20ms)), IsOk());
      for (std::string& text : Drain()) read_.push_back(std::move(text));
      ASSERT_OK_AND_ASSIGN(const auto event, watch.Next(Deadline()));
      if (!event || event->kind != WatchedEvent::Kind::kProducerStalled) continue;
      EXPECT_TRUE(event->renewed);
      EXPECT_FALSE(event->killed);
      EXPECT_EQ(event->holder.pid, slow_->pid());
      return;
    }
    FAIL() << "no stall was told of";
  }
  void ReadOn(size_t count) {
    for (std::string& text : Await(count)) read_.push_back(std::move(text));
  }
  std::vector<std::string> ReadStartingWith(const std::string& prefix) {
    std::vector<std::string> texts;
    std::copy_if(read_.begin(), read_.end(), std::back_inserter(texts),
                 [&](const std::string& text) { return text.starts_with(prefix); });
    return texts;
  }
  // The capacity counts every generation that there still is.
  void ExpectOneGeneration() {
    EXPECT_TRUE(Eventually([this] {
      EXPECT_THAT(reader_->Wait(After(10ms)), IsOk());
      reader_->Release();
      return Stats().capacity_bytes == kRingBytes;
    }));
  }

  std::unique_ptr<SlowProducer> slow_;
  std::optional<Endpoint> producer_;
  std::optional<ReserveRingWriter> writer_;
  std::vector<std::string> read_;
};

std::vector<std::string> Numbered(int first, int end) {
  std::vector<std::string> texts;
  for (int i = first; i < end; ++i) texts.push_back("n" + std::to_string(i));
  return texts;
}

TEST_F(RenewedRing, GoesOnForManyRingsWithoutTheStoppedProducer) {
  Put(*writer_, "n0");
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  ReadOn(read_.size() < 2 ? 2 - read_.size() : 0);
  // Three times what the ring holds.
  const int end = 3 * kRingBytes / 64;
  for (int i = 1; i < end; ++i) {
    Put(*writer_, "n" + std::to_string(i));
    ReadOn(1);
  }
  EXPECT_EQ(ReadStartingWith("n"), Numbered(0, end));
  EXPECT_THAT(ReadStartingWith("late"), IsEmpty());
  EXPECT_EQ(Stats().capacity_bytes, 2 * kRingBytes);
  // What it had reserved is not lost, and its own order holds.
  ASSERT_NO_FATAL_FAILURE(slow_->GoOn());
  ReadOn(2);
  EXPECT_THAT(ReadStartingWith("late"), ElementsAre("late", "later"));
  EXPECT_EQ(slow_->Join(), 0);
  ExpectOneGeneration();
  const RingStats stats = Stats();
  EXPECT_EQ(stats.stored_records, read_.size());
  EXPECT_EQ(stats.consumed_records, read_.size());
}

TEST_F(RenewedRing, GivesTheOldMemoryBackWhenTheStoppedProducerIsKilled) {
  Put(*writer_, "n0");
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  Put(*writer_, "n1");
  slow_->Kill();
  EXPECT_EQ(slow_->Join(), 128 + SIGKILL);
  ReadOn(3 - read_.size());
  EXPECT_EQ(ReadStartingWith("n"), Numbered(0, 2));
  ExpectOneGeneration();
  EXPECT_EQ(Stats().stored_records, 3u);
}

TEST_F(RenewedRing, WakesAProducerThatWaitsForRoom) {
  int count = 0;
  Reservation room;
  while (writer_->TryReserve(10, &room) == ReserveOutcome::kReserved) {
    ASSERT_THAT(writer_->Discard(room), IsOk());
    count += 1;
  }
  ASSERT_GT(count, 100);
  // The consumer stands before the open record and says so; this thread waits for room.
  ReserveRingReader reader = std::move(*reader_);
  reader_.reset();
  std::vector<std::string> read;
  std::thread consumer([&] {
    while (read.size() < 2) {
      ASSERT_THAT(reader.Wait(After(kPatience)), IsOk());
      for (std::string& text : Drain(reader)) read.push_back(std::move(text));
    }
  });
  ASSERT_OK_AND_ASSIGN(const bool has_room, writer_->WaitForRoom(10, After(kPatience)));
  EXPECT_TRUE(has_room);
  Put(*writer_, "after");
  consumer.join();
  EXPECT_THAT(read, ElementsAre("early", "after"));
  reader_.emplace(std::move(reader));
}

TEST_F(RenewedRing, AProducerFinishesWhatItHasOpenBeforeItGoesOn) {
  ASSERT_OK_AND_ASSIGN(const Reservation first, writer_->Reserve(2));
  ASSERT_OK_AND_ASSIGN(const Reservation second, writer_->Reserve(2));
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  Put(*writer_, "n2");
  EXPECT_THAT(Drain(), IsEmpty()) << "its own order is that of Reserve";
  std::memcpy(second.bytes().data(), "n1", 2);
  EXPECT_THAT(writer_->SubmitDeferred(second), IsOk());
  std::memcpy(first.bytes().data(), "n0", 2);
  EXPECT_THAT(writer_->Submit(first), IsOk());
  EXPECT_THAT(Drain(), ElementsAre("n0", "n1", "n2"));
  // Now nothing is open: the next goes into the new memory, and the order holds across.
  const uint64_t position = writer_->ProducerPosition();
  Put(*writer_, "n3");
  EXPECT_GT(writer_->ProducerPosition(), position + kRingBytes);
  EXPECT_THAT(Drain(), ElementsAre("n3"));
  EXPECT_EQ(writer_->stats().stored_records, 4u);
  slow_->Kill();
  ExpectOneGeneration();
}

// "I opened my reader again, and records that I had read before came a second time": the stopped
// producer had gone on in between, so that the old memory looked like any other.
TEST_F(RenewedRing, AReaderThatIsOpenedAgainReadsTheOldMemoryFirstAndNothingTwice) {
  Put(*writer_, "n0");
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  Put(*writer_, "n1");
  ReadOn(3 - read_.size());
  Put(*writer_, "n2");
  reader_.reset();
  ASSERT_NO_FATAL_FAILURE(slow_->GoOn());
  EXPECT_EQ(slow_->Join(), 0);
  reader_.emplace(consumer_->OpenReserveReader(0).value());
  ReadOn(3);
  EXPECT_THAT(Drain(), IsEmpty());
  EXPECT_EQ(ReadStartingWith("n"), Numbered(0, 3));
  EXPECT_THAT(ReadStartingWith("late"), ElementsAre("late", "later"));
  ExpectOneGeneration();
}

TEST_F(RenewedRing, TellsThePeersEndWhenEverythingIsReadOut) {
  Put(*writer_, "n0");
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  Put(*writer_, "n1");
  slow_->Kill();
  writer_.reset();
  producer_.reset();
  DropProducers();
  ReadOn(3 - read_.size());
  EXPECT_EQ(ReadStartingWith("n"), Numbered(0, 2));
  const auto outcome = reader_->Wait(After(kPatience));
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(*outcome, WaitOutcome::kPeerClosed);
}

// Any producer can write the word that says a ring is retired: the others ask, and stay.
TEST_F(RenewedRing, AProducerThatLiesAboutARenewalMovesNobody) {
  slow_->GoOn();
  EXPECT_EQ(slow_->Join(), 0);
  RawClient liar(daemon_->attach_path());
  const Ticket ticket = ProducerTicket();
  ASSERT_EQ(liar.Attach(BytesOf(ticket)), "");
  uint8_t* const ctl = liar.SectionBytes(0, v1::SECTION_KIND_RESERVE_CONTROL);
  ASSERT_NE(ctl, nullptr);
  for (const uint8_t word : {uint8_t{1}, uint8_t{2}, uint8_t{255}}) {
    ctl[shm::kSharedRetired] = word;
    Put(*writer_, "n" + std::to_string(word));
    for (std::string& text : Drain()) read_.push_back(std::move(text));
    ASSERT_OK_AND_ASSIGN(const WaitOutcome nothing, reader_->Wait(Deadline()));
    EXPECT_EQ(nothing, WaitOutcome::kDeadline);
  }
  ctl[shm::kSharedRetired] = 0;
  for (std::string& text : Drain()) read_.push_back(std::move(text));
  EXPECT_THAT(ReadStartingWith("n"), ElementsAre("n1", "n2", "n255"));
  EXPECT_EQ(Stats().capacity_bytes, kRingBytes);
}

// Asked for outright, too, by who may not or of what cannot be.
TEST_F(RenewedRing, AsksForNewerMemoryThatThereIsNotAreRefused) {
  RawClient client(daemon_->attach_path());
  ASSERT_EQ(client.Attach(BytesOf(ProducerTicket())), "");
  const auto ask = [&](uint32_t region_index, uint32_t generation) {
    v1::ClientPacket packet;
    packet.mutable_renew_ring()->set_region_index(region_index);
    packet.mutable_renew_ring()->set_generation(generation);
    EXPECT_EQ(client.Send(packet), 0);
    return client.ReceiveAnswer().value_or(v1::BrokerPacket()).ring_grant().failure().reason();
  };
  EXPECT_EQ(ask(0, 0), v1::ERROR_REASON_BUSY);
  EXPECT_EQ(ask(0, UINT32_MAX), v1::ERROR_REASON_BUSY);
  EXPECT_EQ(ask(1, 0), v1::ERROR_REASON_WRONG_DISCIPLINE);
  EXPECT_EQ(ask(UINT32_MAX, 0), v1::ERROR_REASON_WRONG_DISCIPLINE);
  ASSERT_EQ(client.SendDetach(), 0);
}

class RenewedRingWithoutRoom : public RenewedRing {
 protected:
  RenewedRingWithoutRoom() { flags_ = {"--memory-per-uid-max", "50000"}; }
};

// The owner's quota holds one ring of 16 KiB, its control words and the signal page, and no more.
TEST_F(RenewedRingWithoutRoom, WaitsForTheStoppedProducer) {
  ReadOn(1);
  ASSERT_OK_AND_ASSIGN(EventWatch watch, broker_->Watch());
  ASSERT_OK_AND_ASSIGN(const std::optional<WatchedEvent> started, watch.Next(After(kPatience)));
  const auto event = WaitUntilTold(watch);
  ASSERT_TRUE(event.has_value());
  EXPECT_FALSE(event->renewed);
  Put(*writer_, "n0");
  EXPECT_THAT(Drain(), IsEmpty());
  slow_->GoOn();
  EXPECT_THAT(Await(3), ElementsAre("late", "n0", "later"));
}

// A second producer stops in the new memory, a third in the one after that.
TEST_F(RenewedRing, CanBeLeftBehindAgainAndAgain) {
  ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  std::vector<std::unique_ptr<SlowProducer>> left_behind;
  for (int i = 0; i < 2; ++i) {
    left_behind.push_back(std::exchange(slow_, std::make_unique<SlowProducer>(ProducerTicket())));
    ASSERT_NO_FATAL_FAILURE(slow_->StopInTheMiddle());
    Put(*writer_, "n" + std::to_string(i));
    ASSERT_NO_FATAL_FAILURE(AwaitRenewal());
  }
  EXPECT_EQ(Stats().capacity_bytes, 4 * kRingBytes);
  Put(*writer_, "n2");
  left_behind.push_back(std::move(slow_));
  for (const auto& slow : left_behind) ASSERT_NO_FATAL_FAILURE(slow->GoOn());
  ReadOn(3 + 3 * 3 - read_.size());
  EXPECT_EQ(ReadStartingWith("n"), Numbered(0, 3));
  EXPECT_EQ(ReadStartingWith("late").size(), 6u);
  for (const auto& slow : left_behind) EXPECT_EQ(slow->Join(), 0);
  ExpectOneGeneration();
}

}  // namespace
}  // namespace iob::test
