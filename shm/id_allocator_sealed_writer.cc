#include "shm/id_allocator_sealed_writer.h"

#include <cstring>

#include "shm/result.h"
#include "shm/section.h"

namespace iob::shm {

absl::StatusOr<IdAllocatorSealedWriter> IdAllocatorSealedWriter::Create(
    const IdAllocatorLayout& layout, const Options& options) {
  IOB_ASSIGN_OR_RETURN(InternTable interned, InternTable::Create(options.interned_max));
  IOB_ASSIGN_OR_RETURN(SealedMemfd memfd,
                       MakeSection("iob-ids", layout.region_bytes(), options.placement));
  IOB_ASSIGN_OR_RETURN(Mapping region, Mapping::Map(memfd));
  // After our own mapping, before any descriptor leaves: from here on nobody else can ever write.
  IOB_RETURN_IF_ERROR(memfd.SealAgainstWriters());
  IdAllocatorSealedWriter writer(layout, std::move(memfd), std::move(region), std::move(interned));
  writer.region_.Word<uint64_t>(kIdHeaderOffset).StoreRelease(writer.header_.word());
  return writer;
}

AllocateOutcome IdAllocatorSealedWriter::Allocate(std::span<const std::byte> blob,
                                                  uint32_t* ret_id) {
  const uint64_t hash = interned_.enabled() ? interned_.HashOf(blob) : 0;
  if (interned_.enabled()) {
    const InternTable::Entry* const known = interned_.Find(
        hash, blob.size(), [&](const InternTable::Entry& entry) { return SameBytes(entry, blob); });
    if (known != nullptr) {
      *ret_id = known->id;
      return AllocateOutcome::kInterned;
    }
  }
  if (!header_.HasRoomFor(blob.size())) return AllocateOutcome::kOutOfMemory;
  const uint32_t id = header_.next_id;
  const auto size_bytes = static_cast<uint32_t>(blob.size());
  header_ = header_.Plus(size_bytes);
  region_.bytes().CopyIn(header_.blob_head, blob);
  // Both pair with the reader's acquire loads (E1).
  region_.Word<uint64_t>(IdSlotOffset(id))
      .StoreRelease(IdSlot::BlobWord(size_bytes, header_.blob_head));
  region_.Word<uint64_t>(kIdHeaderOffset).StoreRelease(header_.word());
  if (interned_.enabled()) {
    interned_.Remember(
        {.hash = hash, .id = id, .offset = header_.blob_head, .size_bytes = size_bytes});
  }
  *ret_id = id;
  return AllocateOutcome::kAllocated;
}

bool IdAllocatorSealedWriter::SameBytes(const InternTable::Entry& entry,
                                        std::span<const std::byte> blob) const {
  return blob.empty() || std::memcmp(region_.base() + entry.offset, blob.data(), blob.size()) == 0;
}

}  // namespace iob::shm
