#include "shm/submission_client.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<SubmissionClient> SubmissionClient::Map(const SubmissionLayout& layout,
                                                       const SealedMemfd& submit_memfd,
                                                       const SealedMemfd& complete_memfd) {
  if (submit_memfd.size_bytes() != layout.submit_section_bytes() ||
      complete_memfd.size_bytes() != layout.complete_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("queue sections of ", submit_memfd.size_bytes(), " and ",
                     complete_memfd.size_bytes(), " bytes do not make a queue of ",
                     layout.capacity_bytes(), " bytes and ", layout.completions(), " completions"));
  }
  IOB_ASSIGN_OR_RETURN(Mapping submit_page,
                       Mapping::MapWindow(submit_memfd, 0, layout.page_bytes(), 1, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping entries,
                       Mapping::MapWindow(submit_memfd, layout.page_bytes(),
                                          layout.capacity_bytes(), 2, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping complete,
                       ReadOnlyMapping::Map(complete_memfd, OnFork::kDrop));
  // A second client would write over the first one's entries; it could not know its counts either.
  if (submit_page.Word<uint64_t>(kSubmitTailOffset).LoadRelaxed().ForHintOnly() != 0 ||
      complete.Word<uint64_t>(kCompleteHeadOffset).LoadRelaxed().ForHintOnly() != 0) {
    return absl::FailedPreconditionError("the submission queue was used before");
  }
  return SubmissionClient(layout, std::move(submit_page), std::move(entries), std::move(complete));
}

SubmissionClient::SubmissionClient(const SubmissionLayout& layout, Mapping submit_page,
                                   Mapping entries, ReadOnlyMapping complete)
    : layout_(layout),
      submit_page_(std::move(submit_page)),
      entries_(std::move(entries)),
      complete_(std::move(complete)),
      shared_(SharedWordsOf(submit_page_, complete_)),
      entry_bytes_(entries_.bytes()),
      capacity_(layout.capacity_bytes()),
      ends_mask_(std::bit_ceil(capacity_ / kEntryHeaderBytes) - 1),
      ends_(ends_mask_ + 1) {}

SubmissionClient::SharedWords SubmissionClient::SharedWordsOf(const Mapping& submit_page,
                                                              const ReadOnlyMapping& complete) {
  return {.tail = &submit_page.Word<uint64_t>(kSubmitTailOffset),
          .completion_head = &submit_page.Word<uint64_t>(kSubmitCompletionHeadOffset),
          .waiting = &submit_page.Word<uint32_t>(kSubmitWaitingOffset),
          .head = &complete.Word<uint64_t>(kCompleteHeadOffset),
          .completion_tail = &complete.Word<uint64_t>(kCompleteTailOffset),
          .need_wakeup = &complete.Word<uint32_t>(kCompleteNeedWakeupOffset)};
}

AddOutcome SubmissionClient::MakeRoom(uint64_t entry_bytes) {
  if (poisoned_) return AddOutcome::kPoisoned;
  if (entry_bytes > capacity_) return AddOutcome::kTooLarge;
  if (!RefreshHead()) return AddOutcome::kPoisoned;
  return entry_bytes <= capacity_ - (tail_ - head_) ? AddOutcome::kAdded : AddOutcome::kQueueFull;
}

bool SubmissionClient::Publish() {
  if (published_ == tail_ && returned_completions_ == taken_completions_) return false;
  published_ = tail_;
  published_records_ = added_records_;
  returned_completions_ = taken_completions_;
  shared_.completion_head->StoreRelease(returned_completions_);
  shared_.tail->StoreRelease(published_);
  // The broker stores need_wakeup, fences, then looks at these two; we store them, fence, then look
  // at need_wakeup: one of the two sees the other (Dekker).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return shared_.need_wakeup->LoadRelaxed().ForHintOnly() != 0;
}

bool SubmissionClient::RefreshHead() {
  if (poisoned_) return false;
  // Pairs with the broker's release store: it has copied and cleared what is below, and the
  // completions of it are there.
  const auto head = shared_.head->LoadAcquire().AlignedBetween(head_, published_, kEntryAlignBytes);
  if (!head) {
    Poison();
    return false;
  }
  head_ = *head;
  return true;
}

bool SubmissionClient::RefreshCompletionTail() {
  if (poisoned_) return false;
  // Pairs with the broker's release store: the completions below are there. It never has more than
  // a ring of them untaken, and never more than one per entry.
  const uint64_t highest =
      std::min(returned_completions_ + layout_.completions(), published_records_);
  const auto completion_tail =
      shared_.completion_tail->LoadAcquire().Between(completion_tail_, highest);
  if (!completion_tail) {
    Poison();
    return false;
  }
  completion_tail_ = *completion_tail;
  return true;
}

bool SubmissionClient::LoadCompletion(uint64_t number, uint64_t entry_min,
                                      Completion* ret_completion) {
  const uint64_t offset = layout_.CompletionOffset(number);
  const auto fate = complete_.Word<uint64_t>(offset + kCompletionResultOffset)
                        .LoadRelaxed()
                        .Between(0, (kRecordPayloadBytesMax << 32) | UINT32_MAX);
  // Nothing published before means nothing to complete: then no number is good.
  const auto entry = complete_.Word<uint64_t>(offset + kCompletionEntryOffset)
                         .LoadRelaxed()
                         .Between(entry_min, published_records_ - 1);
  if (!fate || !entry || static_cast<uint32_t>(*fate) >= kLossCauses) return false;
  *ret_completion = {
      .cookie =
          complete_.Word<uint64_t>(offset + kCompletionCookieOffset).LoadRelaxed().ForHintOnly(),
      .entry_number = *entry,
      .length_bytes = static_cast<uint32_t>(*fate >> 32),
      .result = static_cast<uint32_t>(*fate)};
  return true;
}

bool SubmissionClient::CountCompletion(uint64_t number, Completion* ret_completion) {
  if (!LoadCompletion(number, counted_entry_min_, ret_completion)) {
    Poison();
    return false;
  }
  counted_completions_ = number + 1;
  counted_entry_min_ = ret_completion->entry_number + 1;
  if (ret_completion->result != kCompletionStored) {
    rejected_records_[ret_completion->result] += 1;
    rejected_bytes_[ret_completion->result] += ret_completion->length_bytes;
  }
  Settle(ret_completion->entry_number + 1);
  return true;
}

TakeOutcome SubmissionClient::TakeCompletion(Completion* ret_completion) {
  if (taken_completions_ == completion_tail_ && !RefreshCompletionTail()) {
    return TakeOutcome::kPoisoned;
  }
  if (poisoned_) return TakeOutcome::kPoisoned;
  if (taken_completions_ == completion_tail_) return TakeOutcome::kNone;
  Completion completion;
  if (taken_completions_ == counted_completions_) {
    if (!CountCompletion(taken_completions_, &completion)) return TakeOutcome::kPoisoned;
  } else if (!LoadCompletion(taken_completions_, taken_entry_min_, &completion)) {
    Poison();
    return TakeOutcome::kPoisoned;
  }
  taken_completions_ += 1;
  taken_entry_min_ = completion.entry_number + 1;
  *ret_completion = completion;
  return TakeOutcome::kTaken;
}

void SubmissionClient::Settle(uint64_t count) {
  // An entry whose end is no longer noted left the queue long ago: SettleBelowHead knows of it.
  if (count <= settled_records_ || added_records_ - count >= ends_.size()) return;
  settled_records_ = count;
  const uint32_t bytes_after = static_cast<uint32_t>(added_bytes_) - EndOf(count - 1).payload_bytes;
  settled_bytes_ = added_bytes_ - bytes_after;
}

void SubmissionClient::SettleBelowHead() {
  // What is too old to have its end noted left the queue long ago: at most as many entries as there
  // are ends fit between head and tail.
  uint64_t low =
      std::max(settled_records_, added_records_ > ends_.size() ? added_records_ - ends_.size() : 0);
  uint64_t high = published_records_;
  while (low < high) {
    const uint64_t middle = std::midpoint(low, high);
    // Both lie within one capacity of each other, so the low halves tell their order.
    const uint32_t beyond_head = EndOf(middle).position - static_cast<uint32_t>(head_);
    if (beyond_head == 0 || beyond_head > UINT32_MAX / 2) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  Settle(low);
}

SubmissionStats SubmissionClient::stats() {
  // Head first: the completions of all that it has passed are then below the completion tail.
  RefreshHead();
  SettleBelowHead();
  if (RefreshCompletionTail()) {
    Completion completion;
    while (counted_completions_ != completion_tail_ &&
           CountCompletion(counted_completions_, &completion)) {
    }
  }
  SubmissionStats stats;
  stats.attempted_records = added_records_;
  stats.attempted_bytes = added_bytes_;
  stats.pending_records = added_records_ - settled_records_;
  stats.pending_bytes = added_bytes_ - settled_bytes_;
  stats.decided.attempted_records = settled_records_;
  stats.decided.attempted_bytes = settled_bytes_;
  stats.decided.rejected_records = rejected_records_;
  stats.decided.rejected_bytes = rejected_bytes_;
  stats.decided.stored_records =
      settled_records_ -
      std::accumulate(rejected_records_.begin(), rejected_records_.end(), uint64_t{0});
  stats.decided.stored_bytes =
      settled_bytes_ - std::accumulate(rejected_bytes_.begin(), rejected_bytes_.end(), uint64_t{0});
  return stats;
}

bool SubmissionClient::PrepareToWait() {
  shared_.waiting->StoreRelaxed(kWaitingOnFutex);
  // Dekker with the broker's PublishServed: our flag, fence, its head.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t head_before = head_;
  return RefreshHead() && head_ == head_before;
}

void SubmissionClient::Poison() { poisoned_ = true; }

absl::Status SubmissionClient::status() const {
  if (!poisoned_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "the submission queue's shared words cannot be: head ", head_, " of ", published_,
      " bytes published, completions ", taken_completions_, " taken of ", completion_tail_));
}

}  // namespace iob::shm
