// Sections: memfds made, allocated and placed in one step, and a look at what came of it.
//
//     Memfd::Create -> sized, size sealed -> bound to its node -> allocated, in huge pages if so
//     wished -> kept (section_keeper.h) -> SealedMemfd
//
// The order matters: pages are taken from where the section is bound when they are allocated, and
// the keeper must be able to write later on.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "shm/memfd.h"
#include "shm/placement.h"

namespace iob::shm {

// A section of `size_bytes`, every page allocated unless it is sparse. Errors of Memfd::Create and
// SealSize; and, about one item of the placement (FailedItem):
//   kHugePages  RESOURCE_EXHAUSTED: the pool has not enough pages; UNIMPLEMENTED: it has none ever
//   kLock       RESOURCE_EXHAUSTED
//   kNumaNode   FAILED_PRECONDITION: no memory there
absl::StatusOr<SealedMemfd> MakeSection(absl::string_view name, uint64_t size_bytes,
                                        const Placement& placement = {});

// How many bytes of it lie in huge pages, as the kernel maps them. Touches it.
absl::StatusOr<uint64_t> HugeBytesOf(const SealedMemfd& memfd);

// The node that holds it, looked at in up to 64 places; nullopt when they are several, or the
// kernel does not say. Touches it.
std::optional<uint32_t> NodeOf(const SealedMemfd& memfd);

}  // namespace iob::shm
