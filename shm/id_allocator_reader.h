// Reading blobs by id: IdAllocatorSealedReader in place, IdAllocatorSharedReader by copy.
//
// In a sealed region only the broker writes, and it writes a blob once: the bytes are handed out
// where they lie. In a shared region another process may change any byte at any moment: there is no
// way to get at it but a copy, and the copy is what its writers left there when it was made.
//
//   B1  Header and slot are loaded once per call, each as one atomic, header first; what is
//       answered follows from these two values alone.
//   B2  A blob lies in [blob_head, region size) of that header, so every offset that is used is
//       inside the region whatever the words say.
//   B3  Every call looks at no more slots than the region can hold, and Find compares no more bytes
//       than the region has. Nothing is retried: kUncommitted is for the caller to try again.
//
// Thread-safe: nothing is kept between calls. References into a sealed region die with the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/id_allocator_layout.h"
#include "shm/mapping.h"
#include "shm/memfd.h"

namespace iob::shm {

enum class BlobOutcome : uint8_t {
  kBlob,
  kInvalidHeader,
  kUnallocatedId,  // Not yet, or never.
  kUncommitted,    // Claimed, and being filled: try again.
  kTombstone,      // Claimed by a process that died: never.
  kInvalidIndex,   // The slot points where no blob can be.
  kTooLarge,       // More bytes than the caller wants.
};

// OK, DATA_LOSS (kInvalidHeader, kInvalidIndex), NOT_FOUND (kUnallocatedId, kTombstone),
// UNAVAILABLE (kUncommitted), RESOURCE_EXHAUSTED (kTooLarge).
absl::Status StatusOf(BlobOutcome outcome, uint32_t id);

enum class FindOutcome : uint8_t {
  kFound,
  kAbsent,
  kInvalidHeader,
  kInvalidIndex,  // More bytes with this size than the region holds: slots that overlap.
};

// Where a blob is; inside the region.
struct BlobRange {
  uint32_t offset = 0;
  uint32_t size_bytes = 0;
};

// The index of a region, mapped for reading. What both readers share; users want one of them.
class IdIndex {
 public:
  static absl::StatusOr<IdIndex> Map(const IdAllocatorLayout& layout, const SealedMemfd& memfd);

  const ReadOnlyMapping& region() const { return region_; }
  uint32_t region_bytes() const { return layout_.region_bytes(); }
  std::optional<IdHeader> LoadHeader() const;
  BlobOutcome Locate(const IdHeader& header, uint32_t id, BlobRange* ret_range) const;
  BlobOutcome Locate(uint32_t id, BlobRange* ret_range) const;

 private:
  IdIndex(const IdAllocatorLayout& layout, ReadOnlyMapping region)
      : layout_(layout), region_(std::move(region)) {}

  IdAllocatorLayout layout_;
  ReadOnlyMapping region_;
};

class IdAllocatorSealedReader {
 public:
  // FAILED_PRECONDITION unless the section has the region's size and is sealed against writers.
  static absl::StatusOr<IdAllocatorSealedReader> Map(const IdAllocatorLayout& layout,
                                                     const SealedMemfd& memfd);

  // The blob itself, in the region.
  BlobOutcome GetView(uint32_t id, std::span<const std::byte>* ret_blob) const;

  // The lowest id whose blob has these bytes.
  FindOutcome Find(std::span<const std::byte> blob, uint32_t* ret_id) const;

  // Ids and room, as of now.
  std::optional<IdHeader> LoadHeader() const { return index_.LoadHeader(); }

 private:
  explicit IdAllocatorSealedReader(IdIndex index) : index_(std::move(index)) {}
  IdIndex index_;
};

class IdAllocatorSharedReader {
 public:
  // FAILED_PRECONDITION unless the section has the region's size.
  static absl::StatusOr<IdAllocatorSharedReader> Map(const IdAllocatorLayout& layout,
                                                     const SealedMemfd& memfd);

  // A copy of the blob, if it has at most `bytes_max`: the size is what a peer says it is, and the
  // memory for the copy is the caller's.
  BlobOutcome GetCopy(uint32_t id, uint32_t bytes_max, std::vector<std::byte>* ret_blob) const;

  // The lowest id whose blob had these bytes when it was looked at.
  FindOutcome Find(std::span<const std::byte> blob, uint32_t* ret_id) const;

  // Ids and room, as of now.
  std::optional<IdHeader> LoadHeader() const { return index_.LoadHeader(); }

 private:
  explicit IdAllocatorSharedReader(IdIndex index) : index_(std::move(index)) {}
  bool HoldsBytes(uint32_t offset, std::span<const std::byte> blob) const;
  IdIndex index_;
};

}  // namespace iob::shm
