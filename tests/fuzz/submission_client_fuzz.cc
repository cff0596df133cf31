// The client of a submission queue against a server that writes whatever it likes into COMPLETE and
// SUBMIT.
//
// Always: attempted = decided + pending, in records and in bytes, and poison is for good. While
// honest, with entries decided between any two loads: every completion is that of its entry, and in
// the end both sides count the same.
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "shm/submission_client.h"
#include "shm/submission_layout.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::AddOutcome;
using shm::TakeOutcome;

// The sections, made once.
struct Queue {
  Queue()
      : layout(
            shm::SubmissionLayout::ForQueue({.capacity_bytes = shm::PageBytes(), .completions = 4})
                .value()),
        submit(layout.submit_section_bytes()),
        complete(layout.complete_section_bytes()) {}
  Queue& Fresh() {
    submit.Clear();
    complete.Clear();
    return *this;
  }

  shm::SubmissionLayout layout;
  Section submit;
  Section complete;
};

class SubmissionClientSchedule {
 public:
  SubmissionClientSchedule(Queue& queue, Input& input)
      : queue_(queue.Fresh()),
        input_(input),
        peer_(input),
        client_(shm::SubmissionClient::Map(queue.layout, queue.submit.memfd, queue.complete.memfd)
                    .value()) {
    const uint64_t first = queue.layout.CompletionOffset(0);
    peer_.Owns(queue.complete.mapping,
               {shm::kCompleteHeadOffset, shm::kCompleteTailOffset, shm::kCompleteNeedWakeupOffset,
                first, first + shm::kCompletionResultOffset, first + shm::kCompletionEntryOffset,
                first + shm::kCompletionReservedOffset,
                first + shm::kCompletionBytes + shm::kCompletionResultOffset,
                first + shm::kCompletionBytes + shm::kCompletionEntryOffset});
    peer_.Owns(queue.submit.mapping, {shm::kSubmitTailOffset, shm::kSubmitCompletionHeadOffset});
    const uint64_t capacity = queue.layout.capacity_bytes();
    peer_.Knows({capacity - 8, capacity, capacity + 8, 3, 4, 5});
    peer_.Acts([this] { Decide(1, /*stores=*/false); });
  }

  void Run() {
    while (!input_.empty()) {
      Step();
      CheckStats();
    }
    if (!peer_.honest()) return;
    peer_.CallOff();
    Publish();
    do {
      Take();
      Decide(1, /*stores=*/true);
    } while (decided_ != entries_.size());
    IOB_CHECK(client_.ServedAll());
    const shm::SubmissionStats stats = client_.stats();
    IOB_CHECK(stats.pending_records == 0 && stats.decided.stored_records == stored_);
  }

 private:
  struct Entry {
    uint64_t payload_bytes = 0;
    bool wants_completion = false;
    uint32_t result = shm::kCompletionStored;
  };

  void Step() {
    switch (input_.Below(10)) {
      case 0:
      case 1:
        Add(input_.UpTo(queue_.layout.capacity_bytes()));
        break;
      case 2:
        Publish();
        break;
      case 3:
        Decide(1 + input_.Byte() % 4, input_.Flag());
        break;
      case 4:
      case 5:
        Take();
        break;
      case 6:
        LookAround();
        break;
      case 7:
      case 8:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
  }

  void Add(uint64_t payload_bytes) {
    const uint64_t number = entries_.size();
    std::vector<std::byte> payload(payload_bytes);
    const bool wants_completion = number % 2 == 0;
    const AddOutcome outcome = peer_.Watch([&] {
      return client_.TryAdd(payload,
                            {.cookie = number, .wait_ms = 0, .want_completion = wants_completion});
    });
    IOB_CHECK(outcome != AddOutcome::kPoisoned || !peer_.honest());
    IOB_CHECK(!poisoned_ || outcome == AddOutcome::kPoisoned || outcome == AddOutcome::kTooLarge);
    if (outcome == AddOutcome::kPoisoned) poisoned_ = true;
    if (outcome != AddOutcome::kAdded) return;
    entries_.push_back({.payload_bytes = payload_bytes,
                        .wants_completion = wants_completion,
                        .result = shm::kCompletionStored});
  }

  void Publish() {
    peer_.Watch([this] { return client_.Publish(); });
    published_ = entries_.size();
  }

  // An honest server, which knows by itself what was published and what was taken.
  void Decide(uint64_t count, bool stores) {
    for (; count != 0 && decided_ != published_; --count) {
      if (completions_ - taken_ == queue_.layout.completions()) return;
      Entry& entry = entries_[decided_];
      if (stores) {
        stored_ += 1;
      } else {
        entry.result = static_cast<uint32_t>(shm::LossCause::kFull);
      }
      if (!stores || entry.wants_completion) PostCompletion(entry);
      decided_ += 1;
      head_ += shm::EntryBytes(entry.payload_bytes);
      Word(shm::kCompleteHeadOffset).StoreRelease(head_);
    }
  }
  void PostCompletion(const Entry& entry) {
    const uint64_t at = queue_.layout.CompletionOffset(completions_);
    Word(at + shm::kCompletionCookieOffset).StoreRelaxed(decided_);
    Word(at + shm::kCompletionResultOffset).StoreRelaxed(entry.result | entry.payload_bytes << 32);
    Word(at + shm::kCompletionEntryOffset).StoreRelaxed(decided_);
    Word(at + shm::kCompletionReservedOffset).StoreRelaxed(0);
    completions_ += 1;
    Word(shm::kCompleteTailOffset).StoreRelease(completions_);
  }
  shm::SharedAtomic<uint64_t>& Word(uint64_t offset) const {
    return queue_.complete.mapping.Word<uint64_t>(offset);
  }

  void Take() {
    uint64_t taken = 0;
    shm::Completion completion;
    TakeOutcome outcome;
    while ((outcome = peer_.Watch([&] { return client_.TakeCompletion(&completion); })) ==
           TakeOutcome::kTaken) {
      // The server may go on while this goes on, by ambush.
      IOB_CHECK(++taken <= 64);
      IOB_CHECK(!poisoned_);
      if (!peer_.honest()) continue;
      IOB_CHECK(completion.cookie == completion.entry_number && completion.cookie < decided_);
      IOB_CHECK(completion.length_bytes == entries_[completion.cookie].payload_bytes);
      IOB_CHECK(completion.result == entries_[completion.cookie].result);
    }
    IOB_CHECK(!poisoned_ || outcome == TakeOutcome::kPoisoned);
    if (outcome == TakeOutcome::kPoisoned) poisoned_ = true;
    IOB_CHECK(!poisoned_ || !client_.status().ok());
    IOB_CHECK(!poisoned_ || !peer_.honest());
    Publish();
    taken_ += taken;
  }

  void LookAround() {
    const bool sleeps = peer_.Watch([this] { return client_.PrepareToWait(); });
    const shm::FutexWord word = client_.HeadWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] {
      (void)client_.ServedAll();
      client_.ClearWaiting();
    });
    IOB_CHECK(client_.served_bytes() <= client_.published_bytes());
    poisoned_ = poisoned_ || !client_.status().ok();
  }

  void CheckStats() {
    const shm::SubmissionStats stats = peer_.Watch([this] { return client_.stats(); });
    const shm::Ledger& decided = stats.decided;
    IOB_CHECK(stats.attempted_records == entries_.size());
    IOB_CHECK(stats.attempted_records == decided.attempted_records + stats.pending_records);
    IOB_CHECK(stats.attempted_bytes == decided.attempted_bytes + stats.pending_bytes);
    IOB_CHECK(decided.attempted_records == std::accumulate(decided.rejected_records.begin(),
                                                           decided.rejected_records.end(),
                                                           decided.stored_records));
    IOB_CHECK(decided.attempted_bytes == std::accumulate(decided.rejected_bytes.begin(),
                                                         decided.rejected_bytes.end(),
                                                         decided.stored_bytes));
    IOB_CHECK(decided.stored_records <= decided.attempted_records);
    poisoned_ = poisoned_ || !client_.status().ok();
    IOB_CHECK(!poisoned_ || !peer_.honest());
  }

  Queue& queue_;
  Input& input_;
  Peer peer_;
  shm::SubmissionClient client_;
  std::vector<Entry> entries_;  // By cookie.
  uint64_t published_ = 0;
  uint64_t decided_ = 0;
  uint64_t stored_ = 0;
  uint64_t head_ = 0;
  uint64_t completions_ = 0;
  uint64_t taken_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::Queue queue;
  iob::fuzz::Input input({data, size});
  iob::fuzz::SubmissionClientSchedule(queue, input).Run();
  return 0;
}
