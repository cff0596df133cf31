#include "server/region_copy.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "shm/check.h"
#include "shm/id_allocator_layout.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using shm::RegionRights;

template <typename... Words>
std::string BytesOf(Words... words) {
  const std::array<uint64_t, sizeof...(words)> list = {words...};
  return {reinterpret_cast<const char*>(list.data()), sizeof(list)};
}

}  // namespace

bool MayBeCopied(const Region& region) { return !region.sensitive(); }

bool MayReadCopy(const Region& region, EndpointId endpoint, shm::HandleRights rights) {
  const RegionRights access = region.spec().access.For(endpoint);
  // A producer gets a lane of its own, not those of the others, and without WRITE nothing at all.
  if (region.Produces(endpoint)) return false;
  const RegionRights effective = shm::EffectiveRights(access, rights);
  return effective.map_read() || effective.mediated_read();
}

bool MayBeTorn(const Region& region, std::array<bool, 2> open) {
  // Of a mediated ring nothing is copied that an endpoint may write.
  if (region.ring() != nullptr || region.sealed_ids() != nullptr) return false;
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    if (!open[static_cast<size_t>(endpoint)]) continue;
    const RegionRights rights = region.spec().access.For(endpoint);
    // Of a direct ring the consumer has words to write, too; and where endpoints allocate ids, the
    // broker does not keep still for them either.
    if (region.direct() != nullptr || rights.map_write() || rights.mediated_write()) return true;
  }
  return false;
}

uint64_t CopyBytesOf(const Region& region) {
  if (const DirectRing* const direct = region.direct()) {
    uint64_t bytes = 0;
    for (const SectionPlan& plan : direct->ConsumerSections()) bytes += plan.memfd->size_bytes();
    return bytes;
  }
  return region.spec().size_bytes;
}

absl::StatusOr<RegionCopy> RegionCopy::Open(Region& region, uint64_t target_offset_bytes) {
  if (const MediatedRing* const ring = region.ring()) {
    RegionCopy copy(Kind::kRing, target_offset_bytes);
    const shm::RingLayout& layout = ring->writer.layout();
    v1::SnapshotSection& head = *copy.told_.add_sections();
    head.set_kind(v1::SECTION_KIND_HEAD);
    head.set_offset_bytes(target_offset_bytes);
    head.set_size_bytes(layout.head_section_bytes());
    copy.size_bytes_ = layout.head_section_bytes();
    IOB_RETURN_IF_ERROR(copy.AddSection(v1::SECTION_KIND_DATA, 0, ring->writer.data_memfd(),
                                        layout.capacity_bytes()));
    return copy;
  }
  if (const SealedIds* const ids = region.sealed_ids()) {
    RegionCopy copy(Kind::kIds, target_offset_bytes);
    const shm::SealedMemfd& memfd = ids->writer.memfd();
    IOB_RETURN_IF_ERROR(copy.AddSection(v1::SECTION_KIND_DATA, 0, memfd, memfd.size_bytes()));
    copy.slots_copied_ = copy.slots_end_ = shm::kIdHeaderBytes;
    copy.blobs_copied_ = copy.blobs_begin_ = memfd.size_bytes();
    return copy;
  }
  RegionCopy copy(Kind::kLoose, target_offset_bytes);
  if (const DirectRing* const direct = region.direct()) {
    for (const SectionPlan& plan : direct->ConsumerSections()) {
      IOB_RETURN_IF_ERROR(
          copy.AddSection(plan.kind, plan.lane, *plan.memfd, plan.memfd->size_bytes()));
    }
    return copy;
  }
  for (const shm::SealedMemfd* const memfd : region.Sections()) {
    IOB_RETURN_IF_ERROR(copy.AddSection(v1::SECTION_KIND_DATA, 0, *memfd, memfd->size_bytes()));
  }
  return copy;
}

absl::Status RegionCopy::AddSection(v1::SectionKind kind, uint32_t lane,
                                    const shm::SealedMemfd& memfd, uint64_t size_bytes) {
  IOB_ASSIGN_OR_RETURN(shm::ReadOnlyMapping memory, shm::ReadOnlyMapping::Map(memfd));
  shm::UniqueFd fd(::fcntl(memfd.fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return shm::ErrnoStatus(errno, "duplicating a section's descriptor");
  const uint64_t offset_bytes = target_offset_bytes_ + size_bytes_;
  v1::SnapshotSection& told = *told_.add_sections();
  told.set_kind(kind);
  told.set_lane(lane);
  told.set_offset_bytes(offset_bytes);
  told.set_size_bytes(size_bytes);
  sections_.push_back({.memory = std::move(memory),
                       .fd = std::move(fd),
                       .target_offset_bytes = offset_bytes,
                       .size_bytes = size_bytes});
  size_bytes_ += size_bytes;
  return absl::OkStatus();
}

void RegionCopy::Look(MediatedRing& ring) {
  // A tail that cannot be leaves the last good one in force.
  ring.writer.RefreshTail();
  tail_ = ring.writer.released_position();
  head_ = ring.writer.head_position();
  if (!std::exchange(looked_, true)) first_ = copied_ = tail_;
}

void RegionCopy::Look(const SealedIds& ids) {
  slots_end_ = shm::IdSlotOffset(ids.writer.next_id());
  blobs_begin_ = slots_end_ + ids.writer.free_bytes();
}

uint64_t RegionCopy::pending_bytes() const {
  switch (kind_) {
    case Kind::kLoose:
      return taken_ ? 0 : size_bytes_;
    case Kind::kRing:
      return head_ - std::max(copied_, tail_);
    case Kind::kIds:
      return (slots_end_ - slots_copied_) + (blobs_copied_ - blobs_begin_);
  }
  return 0;
}

std::vector<CopyHole> RegionCopy::RangesOf(uint64_t low, uint64_t high) const {
  std::vector<CopyHole> ranges;
  const Section& data = sections_.front();
  while (low < high) {
    const uint64_t offset = low % data.size_bytes;
    const uint64_t size = std::min(high - low, data.size_bytes - offset);
    ranges.push_back(
        {.target_offset_bytes = data.target_offset_bytes + offset, .size_bytes = size});
    low += size;
  }
  return ranges;
}

CopyRun RegionCopy::RunAt(const CopyHole& range) const {
  const Section& data = sections_.front();
  const uint64_t offset_bytes = range.target_offset_bytes - data.target_offset_bytes;
  return {.source = data.memory.base() + offset_bytes,
          .target_offset_bytes = range.target_offset_bytes,
          .size_bytes = range.size_bytes,
          .source_fd = data.fd.get(),
          .source_offset_bytes = offset_bytes};
}

std::vector<CopyRun> RegionCopy::TakePending() {
  std::vector<CopyRun> runs;
  switch (kind_) {
    case Kind::kLoose:
      if (std::exchange(taken_, true)) break;
      for (const Section& section : sections_) {
        runs.push_back({.source = section.memory.base(),
                        .target_offset_bytes = section.target_offset_bytes,
                        .size_bytes = section.size_bytes,
                        .source_fd = section.fd.get(),
                        .source_offset_bytes = 0});
      }
      break;
    case Kind::kRing:
      for (const CopyHole& range : RangesOf(std::max(copied_, tail_), head_))
        runs.push_back(RunAt(range));
      copied_ = head_;
      break;
    case Kind::kIds: {
      const uint64_t base = sections_.front().target_offset_bytes;
      if (slots_end_ != slots_copied_) {
        runs.push_back(RunAt({.target_offset_bytes = base + slots_copied_,
                              .size_bytes = slots_end_ - slots_copied_}));
      }
      if (blobs_begin_ != blobs_copied_) {
        runs.push_back(RunAt({.target_offset_bytes = base + blobs_begin_,
                              .size_bytes = blobs_copied_ - blobs_begin_}));
      }
      slots_copied_ = slots_end_;
      blobs_copied_ = blobs_begin_;
      break;
    }
  }
  return runs;
}

std::vector<CopyPatch> RegionCopy::Patches() const {
  switch (kind_) {
    case Kind::kLoose:
      break;
    case Kind::kRing:
      static_assert(shm::kHeadOffset == 0 && shm::kTailOffset == sizeof(uint64_t));
      return {{.target_offset_bytes = target_offset_bytes_, .bytes = BytesOf(head_, tail_)}};
    case Kind::kIds: {
      const uint64_t next_id = (slots_end_ - shm::kIdHeaderBytes) / shm::kIdSlotBytes;
      return {{.target_offset_bytes = target_offset_bytes_,
               .bytes = BytesOf(next_id | blobs_begin_ << 32)}};
    }
  }
  return {};
}

std::vector<CopyHole> RegionCopy::Holes() const {
  if (kind_ != Kind::kRing) return {};
  // What newer records have not overwritten in the copy itself.
  const uint64_t capacity = sections_.front().size_bytes;
  const uint64_t overwritten = head_ < capacity ? 0 : head_ - capacity;
  return RangesOf(std::max(first_, overwritten), tail_);
}

void RegionCopy::FillInfo(v1::SnapshotRegion& info) const {
  *info.mutable_sections() = told_.sections();
  if (kind_ != Kind::kRing) return;
  info.set_head(head_);
  info.set_tail(tail_);
}

}  // namespace iob::server
