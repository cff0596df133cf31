// Event: what the broker tells an endpoint unasked.
#pragma once

#include <cstdint>

#include "client/types.h"

namespace iob {

struct Event {
  enum class Kind : uint8_t {
    kPeerClosed,  // The other endpoint is gone for good; `reason` says how. Once.
    kRevoked,     // The buffer was deleted by force; the connection ends. Once.
    kReadable,    // The ring `region_index` has records; only after RingReader::ArmFd.
  };
  Kind kind = Kind::kReadable;
  CloseReason reason;
  uint32_t region_index = 0;
};

}  // namespace iob
