#include "shm/submission_server.h"

#include "shm/futex.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<SubmissionServer> SubmissionServer::Create(const SubmissionLayout& layout) {
  IOB_ASSIGN_OR_RETURN(Memfd fresh_submit, Memfd::Create("iob-submit"));
  IOB_ASSIGN_OR_RETURN(SealedMemfd submit_memfd,
                       std::move(fresh_submit).SealSize(layout.submit_section_bytes()));
  IOB_ASSIGN_OR_RETURN(Mapping submit_page,
                       Mapping::MapWindow(submit_memfd, 0, layout.page_bytes(), 1, OnFork::kShare));
  IOB_ASSIGN_OR_RETURN(Mapping entries,
                       Mapping::MapWindow(submit_memfd, layout.page_bytes(),
                                          layout.capacity_bytes(), 2, OnFork::kShare));
  IOB_ASSIGN_OR_RETURN(Memfd fresh_complete, Memfd::Create("iob-complete"));
  IOB_ASSIGN_OR_RETURN(SealedMemfd complete_memfd,
                       std::move(fresh_complete).SealSize(layout.complete_section_bytes()));
  IOB_ASSIGN_OR_RETURN(Mapping complete, Mapping::Map(complete_memfd));
  // After our own mapping, before any descriptor leaves: from here on nobody else can ever write.
  IOB_RETURN_IF_ERROR(complete_memfd.SealAgainstWriters());
  return SubmissionServer(layout, std::move(submit_memfd), std::move(complete_memfd),
                          std::move(submit_page), std::move(entries), std::move(complete));
}

SubmissionServer::SubmissionServer(const SubmissionLayout& layout, SealedMemfd submit_memfd,
                                   SealedMemfd complete_memfd, Mapping submit_page, Mapping entries,
                                   Mapping complete)
    : layout_(layout),
      submit_memfd_(std::move(submit_memfd)),
      complete_memfd_(std::move(complete_memfd)),
      submit_page_(std::move(submit_page)),
      entries_(std::move(entries)),
      complete_(std::move(complete)),
      shared_(SharedWordsOf(submit_page_, complete_)),
      entries_base_(entries_.base()),
      entry_words_(&entries_.Word<uint64_t>(0)) {}

SubmissionServer::SharedWords SubmissionServer::SharedWordsOf(const Mapping& submit_page,
                                                              const Mapping& complete) {
  return {.tail = &submit_page.Word<uint64_t>(kSubmitTailOffset),
          .completion_head = &submit_page.Word<uint64_t>(kSubmitCompletionHeadOffset),
          .waiting = &submit_page.Word<uint32_t>(kSubmitWaitingOffset),
          .head = &complete.Word<uint64_t>(kCompleteHeadOffset),
          .completion_tail = &complete.Word<uint64_t>(kCompleteTailOffset),
          .need_wakeup = &complete.Word<uint32_t>(kCompleteNeedWakeupOffset),
          .stored_records = &complete.Word<uint64_t>(kCompleteStoredRecordsOffset),
          .stored_bytes = &complete.Word<uint64_t>(kCompleteStoredBytesOffset),
          .rejected_records = &complete.Word<uint64_t>(kCompleteRejectedRecordsOffset),
          .rejected_bytes = &complete.Word<uint64_t>(kCompleteRejectedBytesOffset)};
}

bool SubmissionServer::RefreshTail() {
  // Pairs with the client's release store in Publish: the entries below are there. Head counts
  // bytes that were really copied, so the sum is far from overflow.
  const auto tail = shared_.tail->LoadAcquire().AlignedBetween(
      tail_, head_ + layout_.capacity_bytes(), kEntryAlignBytes);
  if (!tail) {
    violated_ = true;
    return false;
  }
  tail_ = *tail;
  return true;
}

bool SubmissionServer::RefreshCompletionHead() {
  // Pairs with the client's release store in Publish: it has copied the completions below.
  const auto completion_head =
      shared_.completion_head->LoadAcquire().Between(completion_head_, completion_tail_);
  if (!completion_head) {
    violated_ = true;
    return false;
  }
  completion_head_ = *completion_head;
  return completion_tail_ - completion_head_ < layout_.completions();
}

bool SubmissionServer::PastDeadline(int64_t now_ns, const Entry& entry) {
  if (!blocked_) {
    blocked_ = entry;
    blocked_->deadline_ns = now_ns + int64_t{entry.header.wait_ms} * 1'000'000;
  }
  return now_ns >= blocked_->deadline_ns;
}

void SubmissionServer::PostCompletion(const Entry& entry, std::optional<LossCause> loss) {
  // Only FinishAll comes here without a place, and then what it cannot tell stays untold, in order.
  if (untold_ || !HasCompletionPlace()) {
    untold_ = true;
    return;
  }
  const uint64_t offset = layout_.CompletionOffset(completion_tail_);
  const uint64_t result = loss ? static_cast<uint64_t>(*loss) : kCompletionStored;
  complete_.Word<uint64_t>(offset + kCompletionCookieOffset).StoreRelaxed(entry.cookie);
  complete_.Word<uint64_t>(offset + kCompletionResultOffset)
      .StoreRelaxed(result | uint64_t{entry.header.length_bytes} << 32);
  // Decided entries, this one included, were counted before: its own number is one less.
  complete_.Word<uint64_t>(offset + kCompletionEntryOffset)
      .StoreRelaxed(totals_.attempted_records - 1);
  completion_tail_ += 1;
}

void SubmissionServer::PublishServed(uint64_t served_from) {
  const uint64_t served_bytes = head_ - served_from;
  const uint64_t capacity = layout_.capacity_bytes();
  const uint64_t offset =
      offset_ >= served_bytes ? offset_ - served_bytes : offset_ + capacity - served_bytes;
  // Not for secrecy. A line that we only read stays shared, and the client's next pass has to win
  // it back at several times the price of taking one that we have written.
  std::memset(entries_base_ + offset, 0, served_bytes);
  shared_.stored_records->StoreRelaxed(totals_.stored_records);
  shared_.stored_bytes->StoreRelaxed(totals_.stored_bytes);
  shared_.rejected_records->StoreRelaxed(totals_.attempted_records - totals_.stored_records);
  shared_.rejected_bytes->StoreRelaxed(totals_.attempted_bytes - totals_.stored_bytes);
  shared_.completion_tail->StoreRelease(completion_tail_);
  shared_.head->StoreRelease(told_head_);
  // The client stores `waiting`, fences, then looks at head; we store head, fence, then look at
  // `waiting`: one of the two sees the other (Dekker).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (shared_.waiting->LoadRelaxed().ForHintOnly() != 0) FutexWakeAll(shared_.head->address());
}

void SubmissionServer::GiveUp(LossCause cause) {
  if (!blocked_) return;
  const uint64_t served_from = head_;
  Decide(Entry(*blocked_), cause);
  PublishServed(served_from);
}

bool SubmissionServer::BecomeIdle() {
  shared_.need_wakeup->StoreRelaxed(1);
  // The client stores tail or completion_head, fences, then looks at need_wakeup; we store it,
  // fence, then look at those: one of the two sees the other (Dekker).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const bool has_work = HasEntry() && HasCompletionPlace();
  // A violation found here is for the next Serve to tell.
  if (!has_work && !violated_) return true;
  Activate();
  return false;
}

}  // namespace iob::shm
