#include "client/slot.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/connection.h"
#include "client/internal/direct_wait.h"
#include "client/internal/grants.h"
#include "shm/result.h"

namespace iob {
namespace {

// What TryRead begins with; a longer value tells how much it needs.
constexpr size_t kFirstBufferBytes = 256;

}  // namespace

// ---- Writer -------------------------------------------------------------------------------------

absl::StatusOr<SlotWriter> SlotWriter::Open(const GrantedRegion& region,
                                            std::shared_ptr<Connection> connection,
                                            std::shared_ptr<void> claim) {
  IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout, SlotLayoutOf(*region.direct));
  absl::StatusOr<shm::SlotWriter> slot =
      shm::SlotWriter::Map(layout, *region.direct->data, *region.direct->follow);
  if (!slot.ok()) return WithIntegrity(slot.status());
  return SlotWriter(std::move(*slot), region, std::move(connection), std::move(claim));
}

SlotWriter::SlotWriter(shm::SlotWriter slot, const GrantedRegion& region,
                       std::shared_ptr<Connection> connection, std::shared_ptr<void> claim)
    : slot_(std::move(slot)),
      region_index_(region.index),
      value_bytes_max_(region.direct->slot_value_bytes),
      connection_(std::move(connection)),
      claim_(std::move(claim)) {}

absl::Status SlotWriter::Write(std::span<const std::byte> value) {
  // Cells may be longer than what was asked for; readers count on the latter.
  if (value.size() > value_bytes_max_) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "a value of ", value.size(), " bytes in a slot of ", value_bytes_max_)),
                      "INVALID_ARGUMENT");
  }
  if (slot_.Write(value).notify) [[unlikely]]
    connection_->SendNotice(Connection::Notice::kKick, region_index_);
  return absl::OkStatus();
}

// ---- Reader -------------------------------------------------------------------------------------

struct SlotReader::Waiting {
  shm::SlotReader& slot;

  bool HasRecords() { return slot.HasNewer(); }
  absl::Status status() const { return WithIntegrity(slot.status()); }
  bool PrepareToWait(uint32_t how) { return slot.PrepareToWait(how); }
  // The word is not ours alone (wait_hint.h, T2).
  void ClearWaiting() {}
  size_t Words(std::span<shm::FutexWord> words) {
    words[0] = slot.WaitWord();
    return 1;
  }
  int64_t WakeTimeNs() const { return INT64_MAX; }
};

absl::StatusOr<SlotReader> SlotReader::Open(const GrantedRegion& region,
                                            std::shared_ptr<Connection> connection) {
  IOB_ASSIGN_OR_RETURN(const shm::SlotLayout layout, SlotLayoutOf(*region.direct));
  absl::StatusOr<shm::SlotReader> slot =
      shm::SlotReader::Map(layout, *region.direct->data, *region.direct->follow);
  if (!slot.ok()) return WithIntegrity(slot.status());
  return SlotReader(std::move(*slot), region, std::move(connection));
}

SlotReader::SlotReader(shm::SlotReader slot, const GrantedRegion& region,
                       std::shared_ptr<Connection> connection)
    : slot_(std::move(slot)),
      region_index_(region.index),
      value_bytes_max_(region.direct->slot_value_bytes),
      connection_(std::move(connection)) {}

absl::StatusOr<bool> SlotReader::TryRead(SlotCopy* ret_copy) {
  std::vector<std::byte>& bytes = ret_copy->bytes;
  bytes.resize(std::max(bytes.capacity(), kFirstBufferBytes));
  // A writer may change the length between two looks; it can only ask for more as often as there
  // are sizes to double through.
  while (true) {
    SlotValue value;
    switch (slot_.Read(bytes, &value)) {
      case SlotOutcome::kValue:
        bytes.resize(value.value_bytes);
        ret_copy->version = value.version;
        return true;
      case SlotOutcome::kNone:
        return false;
      case SlotOutcome::kTooSmall:
        bytes.resize(std::max<size_t>(value.value_bytes, 2 * bytes.size()));
        break;
      case SlotOutcome::kBusy:
        return WithReason(absl::UnavailableError("the writer was quicker than every copy"), "BUSY");
      case SlotOutcome::kPoisoned:
        return status();
    }
  }
}

absl::StatusOr<WaitOutcome> SlotReader::Wait(Deadline deadline) {
  Waiting waiting{slot_};
  return AwaitDirectRecords(waiting, *connection_, waiter_, deadline);
}

bool SlotReader::ArmFd() {
  Waiting waiting{slot_};
  return ArmForDirectRecords(waiting, *connection_, region_index_);
}

int SlotReader::fd() const { return connection_->fd(); }

absl::Status SlotReader::status() const { return WithIntegrity(slot_.status()); }

}  // namespace iob
