// Record sources: one face for the readers of all kinds of rings.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "tests/chaos/journal.h"
#include "tests/chaos/peer.h"

namespace iob::test {

class RecordSource {
 public:
  virtual ~RecordSource() = default;
  virtual absl::StatusOr<WaitOutcome> Wait(Deadline deadline) = 0;
  // The next record; false when there is none. Losses are noted in the slot.
  virtual absl::StatusOr<bool> Read(std::vector<std::byte>& ret_bytes) = 0;
  // Gives back what was read.
  virtual void Release() = 0;
};

absl::StatusOr<std::unique_ptr<RecordSource>> OpenSource(Endpoint& endpoint, const PeerTask& task,
                                                         ReaderSlot& slot);

}  // namespace iob::test
