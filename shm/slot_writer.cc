#include "shm/slot_writer.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<SlotWriter> SlotWriter::Map(const SlotLayout& layout, const SealedMemfd& slot,
                                           const SealedMemfd& wait) {
  if (slot.size_bytes() != layout.section_bytes() ||
      wait.size_bytes() != layout.wait_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("slot sections of ", slot.size_bytes(), " and ", wait.size_bytes(),
                     " bytes do not make a slot of ", layout.section_bytes()));
  }
  IOB_ASSIGN_OR_RETURN(Mapping slot_mapping, Mapping::Map(slot, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping wait_page, Mapping::Map(wait, OnFork::kDrop));
  SlotWriter writer(layout, std::move(slot_mapping), std::move(wait_page));
  const auto latest = writer.latest_->LoadAcquire().Between(0, kSlotVersionMax - 1);
  if (!latest) return absl::DataLossError("the slot's latest version cannot be");
  writer.version_ = *latest;
  FutexWakeAll(writer.latest_->address());
  return writer;
}

SlotWriter::SlotWriter(const SlotLayout& layout, Mapping slot, Mapping wait_page)
    : layout_(layout),
      slot_(std::move(slot)),
      wait_page_(std::move(wait_page)),
      bytes_(slot_.bytes()),
      latest_(&slot_.Word<uint64_t>(kSlotLatest)),
      waiting_(&wait_page_.Word<uint32_t>(kWaitHintOffset)) {}

SlotWritten SlotWriter::Write(std::span<const std::byte> value) {
  if (value.size() > layout_.value_bytes_max()) return {.stored = false, .notify = false};
  version_ += 1;
  const uint64_t cell = layout_.CellOffset(version_);
  auto& cell_version = slot_.Word<uint64_t>(cell + kSlotCellVersion);
  cell_version.StoreRelaxed(0);
  // Pairs with the reader's fence behind its copy: who has seen a byte of the new value sees that
  // the cell no longer holds the old one.
  std::atomic_thread_fence(std::memory_order_release);
  slot_.Word<uint64_t>(cell + kSlotCellLength).StoreRelaxed(value.size());
  bytes_.CopyIn(cell + kSlotCellValue, value);
  // Pairs with the reader's acquire loads of the two words: the value is complete.
  cell_version.StoreRelease(version_);
  const uint32_t asked =
      PublishAndTakeAsked(*waiting_, [this] { latest_->StoreRelease(version_); });
  if ((asked & kWaitingOnFutex) != 0) FutexWakeAll(latest_->address());
  return {.stored = true, .notify = (asked & kWaitingOnSocket) != 0};
}

}  // namespace iob::shm
