// A mediated ring's writer and reader in every order of their steps, up to a few pre-emptions: a
// writer that waits for room (the block policy) is told of it, a reader that waits for records is
// woken, and a reader's successor goes on where it stopped.
//
// Room is made known by a packet on a socket, here a StepEvent; records by a futex, or a packet.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "shm/futex.h"
#include "shm/ledger.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_ring.h"
#include "tests/support/step_scheduler.h"

namespace iob::test {
namespace {

using shm::AppendOutcome;
using shm::ReadOutcome;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr uint64_t kTag = 0x7a67;

// What the ring is made to do, and what is left out to see that it is missed.
struct Habits {
  uint64_t records = 3;
  uint64_t per_ring = 2;  // Records that fill it.
  uint64_t batch = 1;     // Records that are published at once, while there is room.
  bool on_socket = false;
  shm::RingOptions options = {};
  bool looks_once = false;         // The reader sleeps without a look after its flag.
  bool room_looks_once = false;    // The writer waits without a look after its wish.
  bool parks_unpublished = false;  // It waits on what it has not published.
};

// One schedule's worth.
class MediatedPlay {
 public:
  MediatedPlay(StepRun& run, const Habits& habits)
      : habits_(habits),
        run_(run),
        room_made_(run),
        readable_(run),
        writer_(shm::MediatedRingWriter::Create(
                    shm::RingLayout::ForRegion(2 * shm::PageBytes()).value(), habits.options)
                    .value()),
        payload_(writer_.layout().capacity_bytes() / habits.per_ring - shm::kRecordHeaderBytes -
                 habits.options.stamp_bytes()) {
    MapReader();
  }

  // ---- The broker
  void Write() {
    uint64_t unpublished = 0;
    for (uint64_t record = 0; record < habits_.records; ++record) {
      std::memcpy(payload_.data(), &record, sizeof(record));
      std::memcpy(payload_.data() + payload_.size() - sizeof(record), &record, sizeof(record));
      AppendOutcome outcome = Append();
      if (outcome == AppendOutcome::kFull) {
        if (!habits_.parks_unpublished) Publish();
        unpublished = 0;
        outcome = AppendWithRoom();
      }
      run_.Expect(outcome == AppendOutcome::kStored, "an honest record is refused");
      ledger_.CountStored(payload_.size());
      if (++unpublished == habits_.batch) {
        Publish();
        unpublished = 0;
      }
    }
    // Not once more for nothing: that would repair what the last one forgot.
    if (unpublished != 0) Publish();
  }

  // ---- The reader
  void Read() {
    while (received_ < habits_.records) {
      if (TakeOne()) continue;
      const uint32_t how = habits_.on_socket ? shm::kWaitingOnSocket : shm::kWaitingOnFutex;
      const bool sleeps = reader_->PrepareToWait(how);
      run_.Expect(reader_->status().ok(), "an honest ring is poisoned");
      if (sleeps || habits_.looks_once) {
        const shm::FutexWord head = reader_->HeadWord();
        if (habits_.on_socket) {
          readable_.Take();
        } else {
          shm::FutexWaitAny({&head, 1}, kNever);
        }
      }
      reader_->ClearWaiting();
    }
  }
  void ReplaceReader() {
    MapReader();
    // Whatever the dead one had begun to release was read, and comes once more or not.
    received_ =
        RogueConsumer(writer_).tail() * habits_.per_ring / writer_.layout().capacity_bytes();
    run_.Expect(releases_done_ <= received_ && received_ <= releases_begun_,
                "the successor resumes elsewhere");
    // A broker that sees a reader go looks for room itself: nobody is left to tell it.
    room_made_.Set();
  }

  void Check() {
    const shm::RingOccupancy occupancy = writer_.Occupancy();
    run_.Expect(received_ == habits_.records, "records are missing");
    run_.Expect(occupancy.consumed_records == habits_.records && occupancy.resident_records == 0 &&
                    occupancy.tail_violations == 0,
                "the account is wrong");
  }

 private:
  void MapReader() {
    reader_.emplace(shm::MediatedRingReader::Map(writer_.layout(), writer_.head_memfd(),
                                                 writer_.data_memfd(), habits_.options)
                        .value());
  }

  AppendOutcome Append() { return writer_.Append(kTag, std::as_bytes(std::span(payload_)), 1); }
  void Publish() {
    if (writer_.Publish(ledger_)) readable_.Set();
  }
  AppendOutcome AppendWithRoom() {
    AppendOutcome outcome = AppendOutcome::kFull;
    do {
      writer_.WantRoom(shm::RecordBytes(payload_.size() + habits_.options.stamp_bytes()));
      if (!habits_.room_looks_once && writer_.RefreshTail()) outcome = Append();
      if (outcome == AppendOutcome::kFull) {
        room_made_.Take();
        run_.Expect(writer_.RefreshTail(), "an honest tail is refused");
        outcome = Append();
      }
    } while (outcome == AppendOutcome::kFull);
    writer_.WantRoom(0);
    return outcome;
  }

  bool TakeOne() {
    shm::RecordView record;
    const ReadOutcome outcome = reader_->Next(&record);
    run_.Expect(outcome != ReadOutcome::kPoisoned, "an honest ring is poisoned");
    if (outcome != ReadOutcome::kRecord) return false;
    run_.Expect(record.tag == kTag && record.payload.size() == payload_.size(), "another record");
    std::array<uint64_t, 2> numbers = {};
    std::memcpy(&numbers[0], record.payload.data(), sizeof(uint64_t));
    run_.Step();
    std::memcpy(&numbers[1], record.payload.data() + record.payload.size() - sizeof(uint64_t),
                sizeof(uint64_t));
    run_.Expect(numbers[0] == received_ && numbers[1] == received_, "another record, or torn");
    if (habits_.options.stamped) run_.Expect(record.sequence == received_, "a wrong number");
    received_ += 1;
    releases_begun_ = received_;
    if (reader_->Release()) room_made_.Set();
    releases_done_ = received_;
    return true;
  }

  const Habits habits_;
  StepRun& run_;
  StepEvent room_made_;
  StepEvent readable_;
  shm::MediatedRingWriter writer_;
  std::vector<unsigned char> payload_;
  shm::Ledger ledger_;
  std::optional<shm::MediatedRingReader> reader_;
  uint64_t received_ = 0;
  uint64_t releases_begun_ = 0;
  uint64_t releases_done_ = 0;
};

std::function<void(StepRun&)> Everyday(const Habits& habits) {
  return [habits](StepRun& run) {
    MediatedPlay play(run, habits);
    run.AddRole("writer", [&play] { play.Write(); });
    run.AddRole("reader", [&play] { play.Read(); });
    if (run.Go()) play.Check();
  };
}

constexpr StepLimits kTwo{.preemptions_max = 2, .deaths_max = 0};
constexpr StepLimits kThree{.preemptions_max = 3, .deaths_max = 0};
constexpr StepLimits kOneAndDeath{.preemptions_max = 1, .deaths_max = 1};

TEST(ScheduleMediated, RecordsArrive) { ExpectHolds(kTwo, Everyday({.records = 4})); }

TEST(ScheduleMediated, RecordsArriveWithOneMorePreemption) {
  ExpectHolds(kThree, Everyday({.records = 3, .batch = 2}));
}

// There every release counts: no later one tells of room that an earlier one forgot.
TEST(ScheduleMediated, RecordsArriveThroughARingOfOne) {
  ExpectHolds(kTwo, Everyday({.records = 4, .per_ring = 1}));
}

TEST(ScheduleMediated, RecordsArriveOverASocket) {
  ExpectHolds(kTwo, Everyday({.records = 4, .on_socket = true}));
}

TEST(ScheduleMediated, StampedRecordsArriveInBatches) {
  const shm::RingOptions stamped{
      .policy = shm::RingPolicy::kBlock, .gap_records = false, .stamped = true, .followers = true};
  ExpectHolds(kTwo, Everyday({.records = 4, .batch = 2, .options = stamped}));
}

TEST(ScheduleMediated, ASuccessorOfTheReaderGoesOn) {
  ExpectHolds(kOneAndDeath, [](StepRun& run) {
    MediatedPlay play(run, {});
    run.AddRole("writer", [&play] { play.Write(); });
    run.AddRole(
        "reader", [&play] { play.Read(); }, StepRun::Mortal::kYes);
    run.AddRole("successor", [&] {
      if (!run.AwaitEnd(1)) return;
      play.ReplaceReader();
      play.Read();
    });
    if (run.Go()) play.Check();
  });
}

TEST(ScheduleMediated, EachPartIsMissed) {
  ExpectFinds(kTwo, Everyday({.looks_once = true}), "reader left asleep");
  ExpectFinds(kTwo, Everyday({.on_socket = true, .looks_once = true}), "reader left asleep");
  ExpectFinds(kTwo, Everyday({.room_looks_once = true}), "writer");
  ExpectFinds(kTwo, Everyday({.batch = 4, .parks_unpublished = true}),
              "writer and reader left asleep");
}

}  // namespace
}  // namespace iob::test
