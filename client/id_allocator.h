// IdAllocator: small numbers for blobs, in a region of discipline id allocator.
//
//     absl::StatusOr<iob::IdAllocator> ids = endpoint->OpenIdAllocator(0);
//     absl::StatusOr<uint32_t> id = ids->AllocateId(blob);       // 0, 1, 2, ...
//     absl::StatusOr<std::vector<std::byte>> back = ids->GetBlob(*id);
//
// A blob is stored once and never changes; both endpoints, and everybody who maps the region, mean
// the same blob by the same id. Who writes decides who must be believed:
//
//   sealed   no endpoint may map the region for writing. Only the broker does, one round trip per
//            id, and what it stored is there for good: blobs can be read in place.
//   shared   an endpoint may map it for writing. It allocates by itself, without the broker
//            (direct), and so may the other one; the broker does it for those who may not. Whoever
//            writes can also spoil: blobs are read by copy, and words that cannot be answer
//            DATA_LOSS.
//
// Which rights: reading needs map-read in the region and MAP and READ in the handle; allocating
// needs map-write, or mediated-write, in the region and WRITE in the handle.
//
// It keeps the region mapped until it is destroyed, also when its Endpoint is closed first: reading
// goes on, allocating answers DETACHED. Thread-compatible, together with its Endpoint and
// everything else opened from that. After a fork the child must not use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "client/types.h"

namespace iob {

class Connection;
struct GrantedRegion;

// The longest blob that the broker stores; a direct allocation takes any that fits the region.
inline constexpr uint64_t kMediatedBlobBytesMax = 65519;

class IdAllocator {
 public:
  IdAllocator(IdAllocator&& other) noexcept;
  IdAllocator& operator=(IdAllocator&& other) noexcept;
  ~IdAllocator();

  uint32_t region_index() const;
  // AllocateId works in memory, without the broker.
  bool direct() const;
  // Only the broker writes: ViewBlob works.
  bool sealed() const;

  // Stores a blob, which may be empty, and returns its id (zx_iob_allocate_id). Equal blobs get ids
  // of their own, unless the region was made with interned_blobs_max. `deadline` is for the
  // broker's answer; see Endpoint for calls.
  //   FAILED_PRECONDITION / DETACHED     closed
  //   PERMISSION_DENIED / ACCESS_DENIED  neither map-write nor mediated-write
  //   INVALID_ARGUMENT                   mediated, and longer than kMediatedBlobBytesMax
  //   DATA_LOSS / INTEGRITY              shared, and words of the region cannot be
  //   RESOURCE_EXHAUSTED / REGION_FULL   no room for the blob and its slot of 8 bytes
  //   UNAVAILABLE / BUSY                 shared, and others change its words all the time
  //   DATA_LOSS / PROTOCOL               the broker answered an id that has no room in the region
  // Of a call that fails, an id may remain that never gets a blob; never more than that.
  absl::StatusOr<uint32_t> AllocateId(std::span<const std::byte> blob,
                                      Deadline deadline = After(kCallTimeout));

  // A copy of the blob. In a shared region its size is what a writer says it is, up to that of the
  // region; `bytes_max` bounds the memory that is taken for it.
  //   PERMISSION_DENIED / ACCESS_DENIED  no map-read
  //   NOT_FOUND                          no such id yet, or its claimant died before it had a blob
  //   UNAVAILABLE / BUSY                 shared, and still being filled: try again
  //   RESOURCE_EXHAUSTED / TOO_LARGE     more than `bytes_max`
  //   DATA_LOSS / INTEGRITY              words of the region cannot be
  absl::StatusOr<std::vector<std::byte>> GetBlob(uint32_t id,
                                                 uint32_t bytes_max = UINT32_MAX) const;

  // The blob itself, in the region; valid as long as this object. Errors as GetBlob, and
  //   FAILED_PRECONDITION / ENFORCEMENT  not sealed: what is read in place could change
  absl::StatusOr<std::span<const std::byte>> ViewBlob(uint32_t id) const;

  // The lowest id with these bytes, if there is one. Looks at every slot, and at the blobs of that
  // size: for large regions, keep an index. PERMISSION_DENIED / ACCESS_DENIED, DATA_LOSS /
  // INTEGRITY.
  absl::StatusOr<std::optional<uint32_t>> Find(std::span<const std::byte> blob) const;

  // Ids handed out so far: 0 to next_id() - 1. PERMISSION_DENIED / ACCESS_DENIED, DATA_LOSS /
  // INTEGRITY.
  absl::StatusOr<uint32_t> next_id() const;

 private:
  friend class Endpoint;
  class Impl;
  static absl::StatusOr<IdAllocator> Open(const GrantedRegion& region, HandleRights handle,
                                          std::shared_ptr<Connection> connection);
  explicit IdAllocator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace iob
