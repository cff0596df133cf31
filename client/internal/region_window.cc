#include "client/internal/region_window.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "shm/result.h"

namespace iob {
namespace {

absl::Status Invalid(const std::string& message) {
  return WithReason(absl::InvalidArgumentError(message), "INVALID_ARGUMENT");
}

absl::Status OutOfRange(const std::string& message) {
  return WithReason(absl::OutOfRangeError(message), "OUT_OF_RANGE");
}

absl::Status Denied(const GrantedRegion& region, const std::string& what) {
  return WithReason(absl::PermissionDeniedError(
                        absl::StrCat("this endpoint may not ", what, " region ", region.index,
                                     ": its access bits or the handle do not allow it")),
                    "ACCESS_DENIED");
}

bool IsRing(const GrantedRegion& region) { return region.discipline == Discipline::kMediatedRing; }

// What the grants hold, which is what the rights allow or less. Execute is never among it.
Prot Granted(const GrantedRegion& region, HandleRights handle) {
  const RegionRights rights = EffectiveRights(region.access.For(EndpointId::kEp0), handle);
  // A region of no bytes needs no memory.
  const bool readable = region.data || region.size_bytes == 0;
  if (!rights.map_read() || !readable) return Prot{};
  const std::optional<Section>& written = IsRing(region) ? region.head : region.data;
  const bool writable = rights.map_write() && (!written || written->writable);
  return writable ? Prot::kRead | Prot::kWrite : Prot::kRead;
}

// The window's length in whole pages, of the size that the region consists of.
absl::StatusOr<uint64_t> CheckRange(const GrantedRegion& region, const RegionWindow& window) {
  const uint64_t region_bytes = region.size_bytes;
  // A power of two. Only plain memory lies in pages of the pool of huge ones.
  const uint64_t page_bytes = region.data ? region.data->memfd.page_bytes() : shm::PageBytes();
  const uint64_t offset_bytes = window.offset_bytes;
  const uint64_t length_bytes = window.length_bytes;
  if (offset_bytes % page_bytes != 0) {
    return Invalid(
        absl::StrCat("offset ", offset_bytes, " is not a multiple of the page size ", page_bytes));
  }
  const uint64_t rounded_bytes = (length_bytes + page_bytes - 1) & ~(page_bytes - 1);
  if (rounded_bytes < length_bytes || offset_bytes > UINT64_MAX - rounded_bytes) {
    return OutOfRange(
        absl::StrCat(length_bytes, " bytes at offset ", offset_bytes, " end beyond every address"));
  }
  if (length_bytes == 0) return Invalid("a mapping of no bytes");
  if (offset_bytes > region_bytes || rounded_bytes > region_bytes - offset_bytes) {
    return OutOfRange(absl::StrCat(length_bytes, " bytes at offset ", offset_bytes,
                                   ", in whole pages, leave the region of ", region_bytes));
  }
  return rounded_bytes;
}

// Both sections have the sizes that the region's size makes them (V4), and the window lies inside.
absl::StatusOr<shm::AddressRange> MapRing(const GrantedRegion& region, uint64_t offset_bytes,
                                          uint64_t size_bytes, bool writable) {
  const uint64_t head_bytes = region.head->memfd.size_bytes();
  const uint64_t end_bytes = offset_bytes + size_bytes;
  if (writable && end_bytes > head_bytes) {
    return WithReason(
        absl::PermissionDeniedError(absl::StrCat(
            "region ", region.index,
            " is a ring: only its first page can be mapped for writing, its records are sealed")),
        "ACCESS_DENIED");
  }
  const uint64_t head_end_bytes = std::min(end_bytes, head_bytes);
  const uint64_t data_begin_bytes = std::max(offset_bytes, head_bytes);
  const std::array<shm::Part, 2> parts = {
      shm::Part{.memfd = &region.head->memfd,
                .offset_bytes = 0,
                .size_bytes = offset_bytes == 0 ? head_end_bytes : 0,
                .writable = writable},
      shm::Part{.memfd = &region.data->memfd,
                .offset_bytes = data_begin_bytes - head_bytes,
                .size_bytes = end_bytes > data_begin_bytes ? end_bytes - data_begin_bytes : 0,
                .writable = false}};
  return shm::AddressRange::MapParts(parts, shm::OnFork::kShare);
}

}  // namespace

absl::Status CheckProt(const GrantedRegion& region, HandleRights handle, Prot prot) {
  if (!region.access.For(EndpointId::kEp0).may_map() || !handle.map()) {
    return Denied(region, "map");
  }
  if (!Has(prot, Prot::kRead)) {
    return Invalid(absl::StrCat("a mapping for ", ToString(prot), ": it must be readable"));
  }
  const Prot granted = Granted(region, handle);
  if (!Has(granted, Prot::kRead)) return Denied(region, "map and read");
  if (Has(prot, Prot::kWrite) && !Has(granted, Prot::kWrite)) {
    return Denied(region, "map and write");
  }
  if (Has(prot, Prot::kExecute)) return Denied(region, "execute");
  if (!Has(Prot::kRead | Prot::kWrite, prot)) {
    return Invalid(absl::StrCat("a mapping for ", ToString(prot)));
  }
  return absl::OkStatus();
}

absl::StatusOr<shm::AddressRange> MapWindow(const GrantedRegion& region, HandleRights handle,
                                            const RegionWindow& window) {
  if (region.direct) {
    return WithReason(absl::UnimplementedError(absl::StrCat(
                          "region ", region.index, " of discipline ", ToString(region.discipline),
                          " is not one range of memory: open it")),
                      "UNSUPPORTED");
  }
  IOB_RETURN_IF_ERROR(CheckProt(region, handle, window.prot));
  IOB_ASSIGN_OR_RETURN(const uint64_t size_bytes, CheckRange(region, window));
  const bool writable = Has(window.prot, Prot::kWrite);
  if (IsRing(region)) return MapRing(region, window.offset_bytes, size_bytes, writable);
  // Not empty, so it has memory: the right to read it was found there.
  const shm::Part part{.memfd = &region.data->memfd,
                       .offset_bytes = window.offset_bytes,
                       .size_bytes = size_bytes,
                       .writable = writable};
  return shm::AddressRange::MapParts({&part, 1}, shm::OnFork::kShare);
}

Prot WidestProt(const GrantedRegion& region, HandleRights handle) {
  return Has(Granted(region, handle), Prot::kWrite) ? Prot::kRead | Prot::kWrite : Prot::kRead;
}

}  // namespace iob
