// Record sinks: one face for the writers of all kinds of rings, that keeps the journal (journal.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "tests/chaos/journal.h"
#include "tests/chaos/peer.h"

namespace iob::test {

class RecordSink {
 public:
  virtual ~RecordSink() = default;
  // Hands one record to the ring; `fill` writes its bytes. Its fate may be known later.
  virtual absl::Status Put(uint32_t number, size_t bytes,
                           const std::function<void(std::span<std::byte>)>& fill) = 0;
  // Sends what is held back and notes the fates that are known.
  virtual absl::Status Collect() = 0;
  // Waits until all fates are.
  virtual absl::Status Settle() = 0;
};

// `pause` is called where a record is half written.
absl::StatusOr<std::unique_ptr<RecordSink>> OpenSink(Endpoint& endpoint, const PeerTask& task,
                                                     WriterSlot& slot,
                                                     const std::function<void()>& pause);

}  // namespace iob::test
