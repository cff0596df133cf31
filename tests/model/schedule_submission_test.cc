// A submission queue's client and server in every order of their steps, up to a few pre-emptions:
// each entry is served once, in order and whole; neither a server that went idle nor a client that
// waits for its entries is forgotten; what a dead client had published is served.
//
// The queue holds two entries and two completions, and three or more are added. The kick is an
// eventfd, here a StepEvent.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "shm/futex.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/submission_client.h"
#include "shm/submission_layout.h"
#include "shm/submission_server.h"
#include "tests/support/shm_submission.h"
#include "tests/support/step_scheduler.h"

namespace iob::test {
namespace {

using shm::AddOutcome;
using shm::AppendOutcome;
using shm::ServeState;
using shm::TakeOutcome;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr uint64_t kEntriesPerQueue = 2;
constexpr uint64_t kCompletions = 2;

// What the queue is made to do, and what is left out to see that it is missed.
struct Habits {
  uint64_t entries = 3;
  uint64_t per_serve = UINT64_MAX;  // Entries that the server decides at a time.
  bool completions = false;         // Each entry wants one.
  uint64_t refuses = UINT64_MAX;    // The sink does, the entry with this number.
  bool looks_once = false;          // The server goes idle whatever BecomeIdle says.
  bool client_looks_once = false;   // The client sleeps whatever PrepareToWait says.
  bool keeps_kick = false;          // The client does not kick.
  bool waits_unpublished = false;   // The client waits on what it has not published.
};

// One schedule's worth.
class SubmissionPlay {
 public:
  SubmissionPlay(StepRun& run, const Habits& habits)
      : habits_(habits),
        run_(run),
        kick_(run),
        server_(MakeServer(QueueLayout(shm::PageBytes(), kCompletions))),
        client_(MakeClient(server_)),
        payload_(server_.layout().capacity_bytes() / kEntriesPerQueue - shm::kEntryHeaderBytes) {}

  // ---- The client
  void Submit() {
    for (uint64_t entry = 0; entry < habits_.entries; ++entry) {
      std::memcpy(payload_.data(), &entry, sizeof(entry));
      std::memcpy(payload_.data() + payload_.size() - sizeof(entry), &entry, sizeof(entry));
      for (;;) {
        const AddOutcome outcome = client_.TryAdd(
            payload_, {.cookie = ~entry, .wait_ms = 0, .want_completion = habits_.completions});
        if (outcome == AddOutcome::kAdded) break;
        run_.Expect(outcome == AddOutcome::kQueueFull, "an honest entry is refused");
        AwaitServed();
      }
      if (!habits_.waits_unpublished) Publish(entry + 1);
    }
    Publish(habits_.entries);
    while (!client_.ServedAll()) AwaitServed();
    TakeCompletions();
  }
  // The last one that was begun, and the last one that was done.
  uint64_t publishes_begun() const { return publishes_begun_; }
  uint64_t publishes_done() const { return publishes_done_; }

  // ---- The server: until all entries came, or the client is dead.
  void Serve() {
    // Idle from the beginning, as a queue is that was just made.
    while (server_.totals().attempted_records < habits_.entries && !client_died_) {
      const bool sleeps = server_.BecomeIdle();
      if (sleeps || habits_.looks_once) kick_.Take();
      server_.Activate();
      ServeState state = ServeState::kMore;
      while (state == ServeState::kMore) state = ServeOnce();
      run_.Expect(state != ServeState::kViolation, "an honest client is cut");
    }
    if (!client_died_) return;
    server_.FinishAll(shm::LossCause::kClosed,
                      [this](std::span<const std::byte> payload) { return Append(payload); });
  }
  void TellDeath() {
    client_died_ = true;
    kick_.Set();
  }
  uint64_t served() const { return server_.totals().attempted_records; }

  void Check() {
    const shm::SubmissionStats stats = client_.stats();
    const uint64_t refused = habits_.refuses < habits_.entries ? 1 : 0;
    run_.Expect(served() == habits_.entries, "entries are missing");
    run_.Expect(stats.pending_records == 0 && stats.attempted_records == habits_.entries &&
                    stats.decided.stored_records == habits_.entries - refused,
                "the client's account is wrong");
    run_.Expect(server_.totals().stored_records == habits_.entries - refused,
                "the server's account is wrong");
    run_.Expect(completions_taken_ == (habits_.completions ? habits_.entries : refused),
                "completions are missing");
  }

 private:
  void Publish(uint64_t entries) {
    publishes_begun_ = entries;
    const bool kicks = client_.Publish();
    publishes_done_ = entries;
    if (kicks && !habits_.keeps_kick) kick_.Set();
  }
  void TakeCompletions() {
    shm::Completion completion;
    for (;;) {
      const TakeOutcome outcome = client_.TakeCompletion(&completion);
      run_.Expect(outcome != TakeOutcome::kPoisoned, "an honest queue is poisoned");
      if (outcome == TakeOutcome::kNone) return;
      const bool refused = completion.entry_number == habits_.refuses;
      run_.Expect(completion.cookie == ~completion.entry_number &&
                      (completion.result != shm::kCompletionStored) == refused,
                  "another entry's completion");
      completions_taken_ += 1;
    }
  }
  void AwaitServed() {
    TakeCompletions();
    if (!habits_.waits_unpublished) Publish(publishes_done_);
    const bool sleeps = client_.PrepareToWait();
    run_.Expect(client_.status().ok(), "an honest queue is poisoned");
    if (sleeps || habits_.client_looks_once) {
      const shm::FutexWord head = client_.HeadWord();
      shm::FutexWaitAny({&head, 1}, kNever);
    }
    client_.ClearWaiting();
  }

  ServeState ServeOnce() {
    const shm::ServeLimits limits{
        .entries_max = habits_.per_serve, .bytes_max = UINT64_MAX, .now_ns = 0};
    return server_
        .Serve(limits, [this](std::span<const std::byte> payload) { return Append(payload); })
        .state;
  }
  // The sink: looks where a ring would copy, with a step in between.
  AppendOutcome Append(std::span<const std::byte> payload) {
    std::array<uint64_t, 2> numbers = {};
    run_.Expect(payload.size() == payload_.size(), "another entry");
    std::memcpy(&numbers[0], payload.data(), sizeof(uint64_t));
    run_.Step();
    std::memcpy(&numbers[1], payload.data() + payload.size() - sizeof(uint64_t), sizeof(uint64_t));
    const uint64_t due = server_.totals().attempted_records;
    run_.Expect(numbers[0] == due && numbers[1] == due, "another entry, or torn");
    return due == habits_.refuses ? AppendOutcome::kIntegrity : AppendOutcome::kStored;
  }

  const Habits habits_;
  StepRun& run_;
  StepEvent kick_;
  shm::SubmissionServer server_;
  shm::SubmissionClient client_;
  std::vector<std::byte> payload_;
  bool client_died_ = false;
  uint64_t publishes_begun_ = 0;
  uint64_t publishes_done_ = 0;
  uint64_t completions_taken_ = 0;
};

std::function<void(StepRun&)> Everyday(const Habits& habits) {
  return [habits](StepRun& run) {
    SubmissionPlay play(run, habits);
    run.AddRole("client", [&play] { play.Submit(); });
    run.AddRole("server", [&play] { play.Serve(); });
    if (run.Go()) play.Check();
  };
}

constexpr StepLimits kTwo{.preemptions_max = 2, .deaths_max = 0};
constexpr StepLimits kThree{.preemptions_max = 3, .deaths_max = 0};
constexpr StepLimits kOneAndDeath{.preemptions_max = 1, .deaths_max = 1};

TEST(ScheduleSubmission, EntriesAreServed) { ExpectHolds(kTwo, Everyday({.entries = 4})); }

TEST(ScheduleSubmission, EntriesAreServedWithOneMorePreemption) {
  ExpectHolds(kThree, Everyday({.entries = 2}));
}

TEST(ScheduleSubmission, EntriesAreServedOneAtATime) {
  ExpectHolds(kTwo, Everyday({.per_serve = 1}));
}

TEST(ScheduleSubmission, CompletionsArriveBeforeHead) {
  ExpectHolds(kTwo, Everyday({.entries = 4, .completions = true}));
  ExpectHolds(kTwo, Everyday({.entries = 3, .refuses = 1}));
}

TEST(ScheduleSubmission, WhatADeadClientPublishedIsServed) {
  ExpectHolds(kOneAndDeath, [](StepRun& run) {
    SubmissionPlay play(run, {.entries = 3});
    run.AddRole(
        "client", [&play] { play.Submit(); }, StepRun::Mortal::kYes);
    run.AddRole("server", [&play] { play.Serve(); });
    run.AddRole("broker", [&] {
      if (run.AwaitEnd(0)) play.TellDeath();
    });
    if (!run.Go()) return;
    run.Expect(play.publishes_done() <= play.served() && play.served() <= play.publishes_begun(),
               "not what was published");
  });
}

TEST(ScheduleSubmission, EachPartIsMissed) {
  ExpectFinds(kTwo, Everyday({.looks_once = true}), "server left asleep");
  ExpectFinds(kTwo, Everyday({.client_looks_once = true}), "client");
  ExpectFinds(kTwo, Everyday({.keeps_kick = true}), "client and server left asleep");
  ExpectFinds(kTwo, Everyday({.waits_unpublished = true}), "client and server left asleep");
}

}  // namespace
}  // namespace iob::test
