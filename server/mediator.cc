#include "server/mediator.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/mutex_lock.h"
#include "shm/futex.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::server {
namespace {

using shm::AppendOutcome;
using shm::LossCause;

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Of an outcome other than kStored.
LossCause CauseOf(AppendOutcome outcome) {
  switch (outcome) {
    case AppendOutcome::kIntegrity:
      return LossCause::kIntegrity;
    case AppendOutcome::kTooLarge:
      return LossCause::kTooLarge;
    case AppendOutcome::kBudget:
      return LossCause::kBudget;
    case AppendOutcome::kStored:
    case AppendOutcome::kFull:
      break;
  }
  return LossCause::kFull;
}

absl::Status ErrorOf(AppendOutcome outcome, const Mediator::Target& target, size_t payload_bytes) {
  const shm::RingLayout& layout = target.ring->writer.layout();
  switch (outcome) {
    case AppendOutcome::kStored:
      return absl::OkStatus();
    case AppendOutcome::kFull:
      return MakeError(
          v1::ERROR_REASON_RING_FULL,
          absl::StrCat("no room for a record of ", payload_bytes, " bytes in a ring of ",
                       layout.capacity_bytes(), "; nothing was written"));
    case AppendOutcome::kIntegrity:
      return MakeError(v1::ERROR_REASON_INTEGRITY,
                       "the consumer's tail cannot be; nothing was written");
    case AppendOutcome::kBudget:
      return MakeError(v1::ERROR_REASON_RING_FULL,
                       absl::StrCat("a record of ", payload_bytes,
                                    " bytes is beyond what this writer may have unread in the "
                                    "ring; nothing was written"));
    case AppendOutcome::kTooLarge:
      break;
  }
  // Within the record limit, but beyond this ring: zx_iob_writev's NO_SPACE.
  return MakeError(v1::ERROR_REASON_RING_FULL,
                   absl::StrCat("a record of ", payload_bytes, " bytes never fits into a ring of ",
                                layout.capacity_bytes()));
}

absl::StatusOr<Region*> FindRegion(const HeldEndpoint& held, uint32_t region_index) {
  if (!held.rights.write())
    return MakeError(v1::ERROR_REASON_ACCESS_DENIED, "the handle has no right WRITE");
  std::vector<Region>& regions = held.buffer->regions();
  if (region_index >= regions.size()) {
    return MakeError(
        v1::ERROR_REASON_OUT_OF_RANGE,
        absl::StrCat("region_index: ", region_index, ", the buffer has ", regions.size()));
  }
  return &regions[region_index];
}

absl::Status WrongDiscipline(const Region& region, uint32_t region_index, absl::string_view only) {
  return MakeError(v1::ERROR_REASON_WRONG_DISCIPLINE,
                   absl::StrCat("region ", region_index, " is ",
                                v1::Discipline_Name(region.spec().discipline), "; only ", only));
}

absl::Status CheckMediatedWrite(const HeldEndpoint& held, const Region& region,
                                uint32_t region_index) {
  if (shm::EffectiveRights(region.spec().access.For(held.endpoint), held.rights).mediated_write())
    return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_ACCESS_DENIED,
                   absl::StrCat("ep", static_cast<int>(held.endpoint),
                                " has no mediated-write right to region ", region_index));
}

bool ConsumerLeftIn(const Buffer& buffer, const Region& region) {
  for (const shm::EndpointId endpoint : {shm::EndpointId::kEp0, shm::EndpointId::kEp1}) {
    if (!buffer.endpoint(endpoint).closed && region.spec().access.For(endpoint).map_write())
      return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<Mediator::Target> Mediator::Resolve(const HeldEndpoint& held,
                                                   uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(Region * region, FindRegion(held, region_index));
  MediatedRing* const ring = region->ring();
  if (ring == nullptr)
    return WrongDiscipline(*region, region_index, "a mediated ring takes records");
  IOB_RETURN_IF_ERROR(CheckMediatedWrite(held, *region, region_index));
  return Target{.buffer = held.buffer,
                .writer = held.endpoint,
                .region_index = region_index,
                .region = region,
                .ring = ring,
                .tag = held.buffer->TagOf(*region, held.endpoint)};
}

absl::StatusOr<uint32_t> Mediator::AllocateId(const HeldEndpoint& held, uint32_t region_index,
                                              absl::string_view blob) {
  IOB_ASSIGN_OR_RETURN(Region * region, FindRegion(held, region_index));
  if (region->spec().discipline != v1::DISCIPLINE_ID_ALLOCATOR)
    return WrongDiscipline(*region, region_index, "an id allocator takes blobs");
  IOB_RETURN_IF_ERROR(CheckMediatedWrite(held, *region, region_index));
  if (blob.size() > kIdBlobBytesMax) {
    return BadArgument(
        "blob", absl::StrCat(blob.size(), " bytes, at most ", kIdBlobBytesMax, " are allowed"));
  }
  return region->AllocateId(std::as_bytes(std::span(blob.data(), blob.size())));
}

absl::Status Mediator::Write(const Target& target, const Records& parts) {
  if (parts.size() > static_cast<int>(shm::kRecordPartsMax)) {
    return BadArgument(
        "parts", absl::StrCat(parts.size(), ", at most ", shm::kRecordPartsMax, " are allowed"));
  }
  const MutexLock lock(target.ring->mutex.get());
  joined_.clear();
  for (const std::string& part : parts) joined_.append(part);
  if (joined_.size() > shm::kRecordPayloadBytesMax) {
    Reject(target, LossCause::kTooLarge, joined_.size());
    return BadArgument("parts", absl::StrCat("a record of ", joined_.size(), " bytes, at most ",
                                             shm::kRecordPayloadBytesMax, " are allowed"));
  }
  const AppendOutcome outcome =
      target.region->SinkFor(target.writer, target.tag, /*now_ns=*/0).Append(BytesOf(joined_));
  if (outcome == AppendOutcome::kStored) {
    target.region->CountStored(target.writer, joined_.size());
  } else {
    Reject(target, CauseOf(outcome), joined_.size());
  }
  Publish(target, outcome == AppendOutcome::kStored);
  return ErrorOf(outcome, target, joined_.size());
}

void Mediator::Progress::Lose(int index, LossCause cause) {
  const auto i = static_cast<uint32_t>(index);
  if (!lost.empty() && lost.back().cause == cause &&
      lost.back().first_index + lost.back().count == i) {
    lost.back().count += 1;
  } else {
    lost.push_back({.first_index = i, .count = 1, .cause = cause});
  }
}

bool Mediator::Continue(const Target& target, const Records& records, bool may_wait,
                        Progress& progress) {
  const MutexLock lock(target.ring->mutex.get());
  const int64_t now_ns = target.ring->writer.options().stamped ? shm::MonotonicNs() : 0;
  const RecordSink sink = target.region->SinkFor(target.writer, target.tag, now_ns);
  // Nobody who waits is ahead of a batch that may wait: what is wanted so far is its own wish.
  if (may_wait) Want(*target.ring, 0);
  uint32_t told = progress.stored;
  for (; progress.next < records.size(); ++progress.next) {
    const std::string& record = records[progress.next];
    AppendOutcome outcome = sink.Append(BytesOf(record));
    if (outcome == AppendOutcome::kFull && may_wait) {
      // The consumer must see what is there before it can make room. Then say what is wanted, and
      // look once more: it may have made the room before it could read the wish.
      Publish(target, std::exchange(told, progress.stored) != progress.stored);
      const uint64_t stamp_bytes = target.ring->writer.options().stamp_bytes();
      Want(*target.ring, shm::RecordBytes(record.size() + stamp_bytes));
      outcome = sink.Append(BytesOf(record));
      if (outcome == AppendOutcome::kFull) return false;
      Want(*target.ring, 0);
    }
    if (outcome == AppendOutcome::kStored) {
      target.region->CountStored(target.writer, record.size());
      progress.stored += 1;
    } else {
      Reject(target, CauseOf(outcome), record.size());
      progress.Lose(progress.next, CauseOf(outcome));
    }
  }
  Publish(target, told != progress.stored);
  return true;
}

void Mediator::GiveUp(const Target& target, const Records& records, LossCause cause,
                      Progress& progress) {
  const MutexLock lock(target.ring->mutex.get());
  // If somebody else waits, he is asked next, and wishes again.
  Want(*target.ring, 0);
  for (; progress.next < records.size(); ++progress.next) {
    Reject(target, cause, records[progress.next].size());
    progress.Lose(progress.next, cause);
  }
  Publish(target, /*stored=*/false);
}

void Mediator::Want(MediatedRing& ring, uint64_t room_bytes) {
  ring.Want(MediatedRing::Waiter::kConnections, room_bytes);
}

void Mediator::EndWant(MediatedRing& ring) {
  const MutexLock lock(ring.mutex.get());
  Want(ring, 0);
}

void Mediator::Reject(const Target& target, LossCause cause, uint64_t payload_bytes) {
  target.region->CountRejected(target.writer, cause, payload_bytes);
  target.ring->writer.NoteRejected(1, payload_bytes);
}

void Mediator::Publish(const Target& target, bool stored) {
  if (target.ring->writer.Publish(target.ring->ledger))
    on_readable_(*target.buffer, target.region_index);
  // What was rejected changes the books alone: that is no update (ZX_IOB_SHARED_REGION_UPDATED).
  if (stored && target.region->shared() != nullptr) on_updated_(target.region->koid());
}

bool ConsumerLeft(const Buffer& buffer, const Region& region) {
  if (region.shared() != nullptr) return ConsumerLeft(*region.shared());
  return ConsumerLeftIn(buffer, region);
}

bool ConsumerLeft(const SharedRegion& region) {
  return std::any_of(region.uses().begin(), region.uses().end(), [](const auto& entry) {
    const SharedRegion::Use& use = entry.second;
    return ConsumerLeftIn(*use.buffer, use.buffer->regions()[use.region_index]);
  });
}

}  // namespace iob::server
