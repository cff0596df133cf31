// SubmissionServer: the broker's side of one submission queue.
//
//   published --Serve--> the sink stored it ------------------> head passes it
//                   '--> no room, wait_ms 0; or the sink refused --> completion, head passes it
//                   '--> no room, wait_ms > 0: blocked, it stays the first of its queue
//                          --room made, Serve--> stored
//                          --deadline, Serve--> completion (kDeadline), head passes it
//                          --GiveUp(cause)----> completion (cause), head passes it
//
// Authority is private: head, the completions and the counters live in this object, the shared ones
// are mirrors.
//
//   S1  The header of an entry is fetched once, however often a blocked entry is tried; its payload
//       is handed to the sink with a private length, and the sink copies it at most once.
//   S2  head <= tail <= head + capacity, 8-aligned; an entry ends at or below tail. A client that
//       says otherwise is cut: nothing more is served, what was decided stays counted.
//   S3  completion_tail - completion_head <= completions. An entry is looked at only when a
//       completion has a place, so there is no overflow memory: a client that does not take its
//       completions stalls itself.
//   S4  One Serve decides at most entries_max entries and fewer than bytes_max + one entry's bytes.
//   S5  Of SUBMIT the broker loads three words and [head, tail), and writes zeros below head.
//   S6  The completion of an entry is visible before head passes it, so a client that sees head
//       pass an entry without a completion knows that it was stored.
//
// Per entry: one fetch of its header, no atomic read-modify-write, no system call, no allocation.
// Per Serve that decided anything: one fence, and a futex wake when the client sleeps.
// Owned by one thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/statusor.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"
#include "shm/submission_layout.h"

namespace iob::shm {

enum class ServeState : uint8_t {
  kIdle,       // Everything published is decided.
  kMore,       // A limit was met.
  kBlocked,    // The first entry waits for room in its ring.
  kStalled,    // No place for a completion: the client has to take some.
  kViolation,  // The shared words cannot be; for good. The queue is to be cut.
};

struct ServeLimits {
  uint64_t entries_max = 0;
  uint64_t bytes_max = 0;
  int64_t now_ns = 0;  // For the deadlines of entries that wait.
};

struct ServeResult {
  ServeState state = ServeState::kIdle;
  uint64_t entries = 0;  // Decided: stored or rejected.
  uint64_t bytes = 0;    // Queue bytes that these took.
  // When blocked: what the ring must have free, and until when the entry waits.
  uint64_t room_bytes = 0;
  int64_t deadline_ns = 0;
};

class SubmissionServer {
 public:
  // Makes both sections, maps them, and seals COMPLETE against every writer but this mapping.
  static absl::StatusOr<SubmissionServer> Create(const SubmissionLayout& layout);

  const SubmissionLayout& layout() const { return layout_; }
  const SealedMemfd& submit_memfd() const { return submit_memfd_; }
  const SealedMemfd& complete_memfd() const { return complete_memfd_; }

  // Once both sections were handed out: the mappings are all that serving needs.
  void CloseDescriptors() {
    [[maybe_unused]] const SealedMemfd submit = std::move(submit_memfd_);
    [[maybe_unused]] const SealedMemfd complete = std::move(complete_memfd_);
  }

  // What became of the entries that were decided, since the queue exists.
  const Ledger& totals() const { return totals_; }

  // Decides entries in order until a limit, or as ServeState says. `sink` appends one record:
  // AppendOutcome(std::span<const std::byte> payload). The payload lies in memory that the client
  // may be changing: the sink copies it, once, and looks at nothing else of it.
  // `before_told()` is called when entries were decided, before the client can see it: what the
  // sink stored must be visible to its readers then.
  template <typename Sink, typename BeforeTold>
  ServeResult Serve(const ServeLimits& limits, Sink&& sink, BeforeTold&& before_told) {
    ServeResult result;
    const uint64_t served_from = head_;
    result.state = ServeEntries(limits, sink, result);
    result.bytes = head_ - served_from;
    if (head_ != served_from) {
      before_told();
      PublishServed(served_from);
    }
    if (result.state == ServeState::kBlocked) {
      result.room_bytes = RecordBytes(blocked_->header.length_bytes);
      result.deadline_ns = blocked_->deadline_ns;
    }
    return result;
  }

  template <typename Sink>
  ServeResult Serve(const ServeLimits& limits, Sink&& sink) {
    return Serve(limits, sink, [] {});
  }

  // The entry that blocks is rejected. Nothing when none does.
  void GiveUp(LossCause cause);

  // The end of an attachment: decides everything that is published now, and nothing ever again.
  // What finds no room is rejected: with kFull if it would not have waited, else with `cause`, and
  // so is all that comes behind that.
  // Where completions find no place, the shared head stops: what the client cannot be told of stays
  // pending for it.
  template <typename Sink, typename BeforeTold>
  void FinishAll(LossCause cause, Sink&& sink, BeforeTold&& before_told) {
    bool gave_up = false;
    const auto decide = [this, cause, &sink, &gave_up](const Entry& entry) {
      // Nothing is stored behind one that would have waited: a stream ends, it has no hole.
      if (gave_up) return std::optional<LossCause>(cause);
      const AppendOutcome outcome = sink(PayloadOf(entry));
      if (outcome == AppendOutcome::kFull && entry.header.wait_ms != 0) {
        gave_up = true;
        return std::optional<LossCause>(cause);
      }
      return CauseOf(outcome);
    };
    Drain(decide, before_told);
  }
  template <typename Sink>
  void FinishAll(LossCause cause, Sink&& sink) {
    FinishAll(cause, sink, [] {});
  }
  // The same, and stores nothing: everything is rejected with `cause`.
  void RejectAll(LossCause cause) {
    Drain([cause](const Entry&) { return std::optional<LossCause>(cause); }, [] {});
  }

  // Tells the client that it must kick, then looks once more. True when there is nothing to serve,
  // so that not looking is right; false: Serve again, no kick is needed. Not while blocked.
  bool BecomeIdle();
  // The server looks by itself again.
  void Activate() { shared_.need_wakeup->StoreRelaxed(0); }

 private:
  // A private copy of what was fetched of an entry.
  struct Entry {
    EntryHeader header;
    uint64_t cookie = 0;
    int64_t deadline_ns = 0;  // 0 until it first found no room.
  };

  // The words that are touched per Serve, found once. They live as long as the mappings.
  struct SharedWords {
    const SharedAtomic<uint64_t>* tail;
    const SharedAtomic<uint64_t>* completion_head;
    const SharedAtomic<uint32_t>* waiting;
    SharedAtomic<uint64_t>* head;
    SharedAtomic<uint64_t>* completion_tail;
    SharedAtomic<uint32_t>* need_wakeup;
    SharedAtomic<uint64_t>* stored_records;
    SharedAtomic<uint64_t>* stored_bytes;
    SharedAtomic<uint64_t>* rejected_records;
    SharedAtomic<uint64_t>* rejected_bytes;
  };

  SubmissionServer(const SubmissionLayout& layout, SealedMemfd submit_memfd,
                   SealedMemfd complete_memfd, Mapping submit_page, Mapping entries,
                   Mapping complete);
  static SharedWords SharedWordsOf(const Mapping& submit_page, const Mapping& complete);

  static std::optional<LossCause> CauseOf(AppendOutcome outcome) {
    switch (outcome) {
      case AppendOutcome::kStored:
        return std::nullopt;
      case AppendOutcome::kFull:
        return LossCause::kFull;
      case AppendOutcome::kIntegrity:
        return LossCause::kIntegrity;
      case AppendOutcome::kTooLarge:
        return LossCause::kTooLarge;
      case AppendOutcome::kBudget:
        return LossCause::kBudget;
    }
    return LossCause::kIntegrity;
  }

  template <typename Sink>
  ServeState ServeEntries(const ServeLimits& limits, Sink& sink, ServeResult& result) {
    const uint64_t served_from = head_;
    while (HasEntry()) {
      if (result.entries >= limits.entries_max || head_ - served_from >= limits.bytes_max) {
        return ServeState::kMore;
      }
      Entry entry;
      if (!HasCompletionPlace() || !FetchEntry(entry)) break;
      const AppendOutcome outcome = sink(PayloadOf(entry));
      std::optional<LossCause> loss = CauseOf(outcome);
      if (outcome == AppendOutcome::kFull && entry.header.wait_ms != 0) [[unlikely]] {
        if (!PastDeadline(limits.now_ns, entry)) return ServeState::kBlocked;
        loss = LossCause::kDeadline;
      }
      Decide(entry, loss);
      result.entries += 1;
    }
    if (violated_) return ServeState::kViolation;
    return head_ == tail_ ? ServeState::kIdle : ServeState::kStalled;
  }

  template <typename Fate, typename BeforeTold>
  void Drain(Fate fate, BeforeTold&& before_told) {
    const uint64_t served_from = head_;
    // One look at the tail: what is published later is not ours to decide any more, and the walk is
    // bounded by the capacity.
    if (!finished_ && !violated_ && RefreshTail()) {
      Entry entry;
      while (head_ != tail_ && FetchEntry(entry)) Decide(entry, fate(entry));
    }
    finished_ = true;
    tail_ = head_;
    if (head_ == served_from) return;
    before_told();
    PublishServed(served_from);
  }

  // An entry is there to be decided.
  bool HasEntry() {
    if (head_ != tail_) return !violated_;
    return !violated_ && !finished_ && RefreshTail() && head_ != tail_;
  }
  bool HasCompletionPlace() {
    return completion_tail_ - completion_head_ < layout_.completions() || RefreshCompletionHead();
  }
  // The first entry's header: as it was fetched before if it blocks, else from its words. False on
  // a violation.
  bool FetchEntry(Entry& ret_entry) {
    if (blocked_) [[unlikely]] {
      ret_entry = *blocked_;
      return true;
    }
    // Every bit pattern passes into the private copy, and only that is parsed.
    const SharedAtomic<uint64_t>* const words = entry_words_ + offset_ / sizeof(uint64_t);
    const auto claimed_header = words[0].LoadRelaxed().Between(0, UINT64_MAX);
    const auto header = DecodeEntryHeader(*claimed_header);
    if (!header || EntryBytes(header->length_bytes) > tail_ - head_) [[unlikely]] {
      violated_ = true;
      return false;
    }
    // The cookie is the client's own: it goes back as it came.
    ret_entry = {
        .header = *header, .cookie = words[1].LoadRelaxed().ForHintOnly(), .deadline_ns = 0};
    return true;
  }
  std::span<const std::byte> PayloadOf(const Entry& entry) const {
    return {entries_base_ + offset_ + kEntryHeaderBytes, entry.header.length_bytes};
  }
  // The first entry's fate is final.
  void Decide(const Entry& entry, std::optional<LossCause> loss) {
    const uint64_t length_bytes = entry.header.length_bytes;
    if (!loss) [[likely]] {
      totals_.CountStored(length_bytes);
    } else {
      totals_.CountRejected(*loss, length_bytes);
    }
    if (loss || (entry.header.flags & kEntryWantCompletion) != 0) PostCompletion(entry, loss);
    const uint64_t entry_bytes = EntryBytes(length_bytes);
    head_ += entry_bytes;
    offset_ += entry_bytes;
    if (offset_ >= layout_.capacity_bytes()) offset_ -= layout_.capacity_bytes();
    if (!untold_) told_head_ = head_;
    blocked_.reset();
  }

  bool RefreshTail();
  bool RefreshCompletionHead();
  // Whether the first entry, which found no room, has waited long enough; if not, it blocks.
  bool PastDeadline(int64_t now_ns, const Entry& entry);
  void PostCompletion(const Entry& entry, std::optional<LossCause> loss);
  // [served_from, head) is decided: clears it, and tells the client.
  void PublishServed(uint64_t served_from);

  SubmissionLayout layout_;
  SealedMemfd submit_memfd_;
  SealedMemfd complete_memfd_;
  Mapping submit_page_;
  Mapping entries_;  // Twice in a row: an entry that wraps is contiguous here.
  Mapping complete_;
  SharedWords shared_;
  std::byte* entries_base_;
  const SharedAtomic<uint64_t>* entry_words_;  // The same bytes.
  uint64_t head_ = 0;
  uint64_t offset_ = 0;  // head_ % capacity.
  uint64_t tail_ = 0;    // The last good one.
  uint64_t completion_tail_ = 0;
  uint64_t completion_head_ = 0;  // The last good one.
  std::optional<Entry> blocked_;  // The first entry, when it waits for room.
  Ledger totals_;
  uint64_t told_head_ = 0;  // What the shared head may say: head_, unless untold_.
  bool untold_ = false;     // A completion found no place while finishing.
  bool violated_ = false;
  bool finished_ = false;
};

}  // namespace iob::shm
