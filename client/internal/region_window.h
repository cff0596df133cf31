// Mapping a window of a region: what may be asked for, and where its bytes are.
//
// A region reads as one range whatever it is made of. A mediated ring is two sections side by side,
// and the ledger page behind its records is not part of it:
//
//     region   |  head page  |  records ...                  |
//     sections |  HEAD       |  DATA, the first capacity bytes | ledger page |
//
// Internal to the library. Thread-safe: pure functions over verified grants.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/internal/grants.h"
#include "client/types.h"
#include "shm/mapping.h"

namespace iob {

struct RegionWindow {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;  // Not rounded yet.
  Prot prot = Prot::kRead;
};

// Maps it. The checks, in this order, are those of Endpoint::Map.
absl::StatusOr<shm::AddressRange> MapWindow(const GrantedRegion& region, HandleRights handle,
                                            const RegionWindow& window);

// Those of them that are about rights: whether a window for `prot` can be had at all.
absl::Status CheckProt(const GrantedRegion& region, HandleRights handle, Prot prot);

// The widest that a window of this region may be: for writing where that is allowed.
Prot WidestProt(const GrantedRegion& region, HandleRights handle);

}  // namespace iob
