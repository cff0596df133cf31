#include "shm/slot_reader.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {

absl::StatusOr<SlotReader> SlotReader::Map(const SlotLayout& layout, const SealedMemfd& slot,
                                           const SealedMemfd& wait) {
  if (slot.size_bytes() != layout.section_bytes() ||
      wait.size_bytes() != layout.wait_section_bytes()) {
    return absl::FailedPreconditionError(
        absl::StrCat("slot sections of ", slot.size_bytes(), " and ", wait.size_bytes(),
                     " bytes do not make a slot of ", layout.section_bytes()));
  }
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping slot_mapping, ReadOnlyMapping::Map(slot, OnFork::kDrop));
  IOB_ASSIGN_OR_RETURN(Mapping wait_page, Mapping::Map(wait, OnFork::kDrop));
  return SlotReader(layout, std::move(slot_mapping), std::move(wait_page));
}

SlotReader::SlotReader(const SlotLayout& layout, ReadOnlyMapping slot, Mapping wait_page)
    : layout_(layout), slot_(std::move(slot)), wait_page_(std::move(wait_page)) {}

bool SlotReader::Refresh() {
  if (poison_ != nullptr) return false;
  // Pairs with the writer's release store: the cell of this version was complete.
  const auto latest =
      slot_.Word<uint64_t>(kSlotLatest).LoadAcquire().Between(latest_, kSlotVersionMax);
  if (!latest) {
    Poison("the latest version");
    return false;
  }
  latest_ = *latest;
  return true;
}

SlotOutcome SlotReader::Read(std::span<std::byte> buffer, SlotValue* ret_value) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    if (!Refresh()) return SlotOutcome::kPoisoned;
    if (latest_ == 0) return SlotOutcome::kNone;
    const uint64_t cell = layout_.CellOffset(latest_);
    const SharedAtomic<uint64_t>& version = slot_.Word<uint64_t>(cell + kSlotCellVersion);
    if (!version.LoadAcquire().Between(latest_, latest_)) continue;
    const auto length = slot_.Word<uint64_t>(cell + kSlotCellLength)
                            .LoadRelaxed()
                            .Between(0, layout_.value_bytes_max());
    const bool fits = length && *length <= buffer.size();
    if (fits) slot_.CopyOut(cell + kSlotCellValue, buffer.first(*length));
    // Pairs with the writer's fence before it touches the cell: if anything above is of a later
    // value, this load finds the cell's version changed.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (!version.LoadRelaxed().Between(latest_, latest_)) continue;
    if (!length) {
      Poison("the length of a value");
      return SlotOutcome::kPoisoned;
    }
    *ret_value = {.version = latest_, .value_bytes = *length};
    if (!fits) return SlotOutcome::kTooSmall;
    version_ = latest_;
    return SlotOutcome::kValue;
  }
  return SlotOutcome::kBusy;
}

absl::Status SlotReader::status() const {
  if (poison_ == nullptr) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the slot holds what cannot be: ", poison_, "; latest version ", latest_));
}

bool SlotReader::HasNewer() { return Refresh() && latest_ != version_; }

bool SlotReader::PrepareToWait(uint32_t how) {
  AskForWake(wait_page_.Word<uint32_t>(kWaitHintOffset), how);
  return !HasNewer() && poison_ == nullptr;
}

FutexWord SlotReader::WaitWord() const {
  return {.address = slot_.Word<uint64_t>(kSlotLatest).address(),
          .expected = static_cast<uint32_t>(latest_)};
}

}  // namespace iob::shm
