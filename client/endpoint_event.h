// Event: what the broker tells an endpoint unasked, if its handle has the right WAIT.
#pragma once

#include <cstdint>

#include "client/types.h"

namespace iob {

struct Event {
  enum class Kind : uint8_t {
    kPeerClosed,  // The other endpoint is gone for good; `reason` says how. Once.
    kRevoked,     // The buffer was deleted by force; the connection ends. Once.
    kReadable,    // The ring `region_index` has records; only after RingReader::ArmFd.
    kSignaled,    // User signals changed; `signals` are raised. Several changes may be one event.
  };
  Kind kind = Kind::kReadable;
  CloseReason reason;
  uint32_t region_index = 0;
  uint32_t signals = 0;  // As of then, kSignalPeerClosed included; Endpoint::signals() is now.
};

}  // namespace iob
