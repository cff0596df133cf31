// SubmissionClient: an endpoint's side of one submission queue.
//
//     TryAdd, TryAdd, ... --Publish--> the broker serves --head passes--> stored, or a completion
//                             '-- true: kick the broker, it is not looking
//
// Records are written in place, once. Success is silent: head passing an entry without a completion
// means that it was stored. A rejected record always gets a completion, visible before head passes.
//
//   Q1  head <= published <= tail <= head + capacity; our positions are private, the shared ones
//       are copies.
//   Q2  A head or a completion tail that moved back or is beyond what was published, and a
//       completion that cannot be, poison the queue: every later call answers so (DATA_LOSS).
//   Q3  stats(): attempted = stored + rejected + pending, always; with nothing pending, stored and
//       rejected are what the broker counted.
//
// A queue belongs to one attachment and is mapped once. Thread-compatible; a forked child does not
// inherit the mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/ledger.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/submission_layout.h"

namespace iob::shm {

struct AddOptions {
  uint64_t cookie = 0;           // Comes back in the completion.
  uint16_t wait_ms = 0;          // For room in the ring. 0: a full ring rejects at once.
  bool want_completion = false;  // Also when the record was stored.
};

enum class AddOutcome : uint8_t {
  kAdded,
  kQueueFull,  // Until the broker has served more: Publish, PrepareToWait.
  kTooLarge,   // For a record or for this queue, or too many parts. Never fits.
  kPoisoned,
};

// What became of one entry.
struct Completion {
  uint64_t cookie = 0;
  uint64_t entry_number = 0;  // The first entry of a queue is 0.
  uint32_t length_bytes = 0;
  uint32_t result = kCompletionStored;  // Or a LossCause.
};

enum class TakeOutcome : uint8_t { kTaken, kNone, kPoisoned };

// The fate of what this client added. Records that TryAdd refused are not in it.
struct SubmissionStats {
  Ledger decided;  // attempted = decided here: stored + rejected.
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t pending_records = 0;
  uint64_t pending_bytes = 0;
};

class SubmissionClient {
 public:
  // FAILED_PRECONDITION when the sections do not make this layout, or when the queue was used
  // before.
  static absl::StatusOr<SubmissionClient> Map(const SubmissionLayout& layout,
                                              const SealedMemfd& submit_memfd,
                                              const SealedMemfd& complete_memfd);

  // Adds one record; the broker sees it after the next Publish. Everything but kAdded leaves the
  // queue as it was.
  AddOutcome TryAdd(std::span<const std::byte> payload, const AddOptions& options = AddOptions()) {
    return TryAddParts({&payload, 1}, options);
  }
  // The same, of a payload in at most kRecordPartsMax parts.
  AddOutcome TryAddParts(std::span<const std::span<const std::byte>> parts,
                         const AddOptions& options = AddOptions()) {
    uint64_t payload_bytes = 0;
    for (const std::span<const std::byte> part : parts) {
      if (part.size() > kRecordPayloadBytesMax - payload_bytes) return AddOutcome::kTooLarge;
      payload_bytes += part.size();
    }
    const uint64_t entry_bytes = EntryBytes(payload_bytes);
    if (entry_bytes > capacity_ - (tail_ - head_) || poisoned_) [[unlikely]] {
      const AddOutcome outcome = MakeRoom(entry_bytes);
      if (outcome != AddOutcome::kAdded) return outcome;
    }
    if (parts.size() > kRecordPartsMax) return AddOutcome::kTooLarge;
    WriteEntry(parts, payload_bytes, options);
    return AddOutcome::kAdded;
  }

  // Makes what was added visible and gives back what TakeCompletion took. True when the broker is
  // not looking and must be kicked. Once per batch.
  bool Publish();

  // The next completion, in the order of the entries. Its place goes back at the next Publish: a
  // client that takes completions without adding anything publishes all the same, because a broker
  // without a place for completions does not serve.
  TakeOutcome TakeCompletion(Completion* ret_completion);

  // Everything that was published is decided. A look at head; false once poisoned.
  bool ServedAll() { return RefreshHead() && head_ == published_; }
  // Entry bytes decided, as last seen, and published.
  uint64_t served_bytes() const { return head_; }
  uint64_t published_bytes() const { return published_; }

  // Before sleeping until more is served: says so, then looks once more. True when head is where
  // this client last saw it, so that sleeping is right; the word stays set until ClearWaiting.
  // Nothing unpublished is served, and nothing at all once completions fill their ring: publish and
  // take them first.
  bool PrepareToWait();
  void ClearWaiting() { shared_.waiting->StoreRelaxed(0); }
  // The word to sleep on: the low half of head as last seen.
  FutexWord HeadWord() const {
    return {.address = shared_.head->address(), .expected = static_cast<uint32_t>(head_)};
  }

  // As of now: looks at head and at the completions, taken or not.
  SubmissionStats stats();

  // Why calls say kPoisoned. OK before that.
  absl::Status status() const;

 private:
  // Where an entry ends and how much payload there is up to its end, the low halves of each. Enough
  // to count what a head has passed: less than 4 GiB is ever on the way.
  struct EntryEnd {
    uint32_t position = 0;
    uint32_t payload_bytes = 0;
  };
  struct SharedWords {
    SharedAtomic<uint64_t>* tail;
    SharedAtomic<uint64_t>* completion_head;
    SharedAtomic<uint32_t>* waiting;
    const SharedAtomic<uint64_t>* head;
    const SharedAtomic<uint64_t>* completion_tail;
    const SharedAtomic<uint32_t>* need_wakeup;
  };

  SubmissionClient(const SubmissionLayout& layout, Mapping submit_page, Mapping entries,
                   ReadOnlyMapping complete);
  static SharedWords SharedWordsOf(const Mapping& submit_page, const ReadOnlyMapping& complete);

  void WriteEntry(std::span<const std::span<const std::byte>> parts, uint64_t payload_bytes,
                  const AddOptions& options) {
    const std::array<uint64_t, 2> header = {
        EncodeEntryHeader({.length_bytes = static_cast<uint32_t>(payload_bytes),
                           .wait_ms = options.wait_ms,
                           .op = kEntryOpWrite,
                           .flags = options.want_completion ? kEntryWantCompletion : uint8_t{0}}),
        options.cookie};
    entry_bytes_.CopyIn(offset_, std::as_bytes(std::span(header)));
    uint64_t offset = offset_ + kEntryHeaderBytes;
    for (const std::span<const std::byte> part : parts) {
      entry_bytes_.CopyIn(offset, part);
      offset += part.size();
    }
    const uint64_t entry_bytes = EntryBytes(payload_bytes);
    tail_ += entry_bytes;
    offset_ += entry_bytes;
    if (offset_ >= capacity_) offset_ -= capacity_;
    added_bytes_ += payload_bytes;
    EndOf(added_records_) = {.position = static_cast<uint32_t>(tail_),
                             .payload_bytes = static_cast<uint32_t>(added_bytes_)};
    added_records_ += 1;
  }
  EntryEnd& EndOf(uint64_t entry_number) { return ends_[entry_number & ends_mask_]; }

  AddOutcome MakeRoom(uint64_t entry_bytes);
  bool RefreshHead();
  bool RefreshCompletionTail();
  // The completion with this number, checked against the one before it.
  bool LoadCompletion(uint64_t number, uint64_t entry_min, Completion* ret_completion);
  bool CountCompletion(uint64_t number, Completion* ret_completion);
  // Entries below `count` are decided.
  void Settle(uint64_t count);
  void SettleBelowHead();
  void Poison();

  SubmissionLayout layout_;
  Mapping submit_page_;
  Mapping entries_;  // Twice in a row: an entry that wraps is contiguous here.
  ReadOnlyMapping complete_;
  SharedWords shared_;
  SharedBytes entry_bytes_;
  uint64_t capacity_;
  uint64_t ends_mask_;
  uint64_t tail_ = 0;       // Added.
  uint64_t offset_ = 0;     // tail_ % capacity_.
  uint64_t published_ = 0;  // Of tail_.
  uint64_t head_ = 0;       // As last seen and checked.
  uint64_t added_records_ = 0;
  uint64_t added_bytes_ = 0;
  uint64_t published_records_ = 0;
  std::vector<EntryEnd> ends_;         // Of the newest entries; as many as the queue can hold.
  uint64_t settled_records_ = 0;       // Known to be decided.
  uint64_t settled_bytes_ = 0;         // Their payload.
  uint64_t completion_tail_ = 0;       // As last seen and checked.
  uint64_t counted_completions_ = 0;   // In rejected_.
  uint64_t taken_completions_ = 0;     // Given to the user.
  uint64_t returned_completions_ = 0;  // Of these, given back to the broker.
  uint64_t counted_entry_min_ = 0;     // No completion to come is of an entry before this one.
  uint64_t taken_entry_min_ = 0;
  std::array<uint64_t, kLossCauses> rejected_records_ = {};
  std::array<uint64_t, kLossCauses> rejected_bytes_ = {};
  bool poisoned_ = false;
};

}  // namespace iob::shm
