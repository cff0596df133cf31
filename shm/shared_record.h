// SharedRecord: one record of a reserve ring, where its producer can still change it.
//
// The consumer of a reserve ring reads memory that producers may write at any moment: checking a
// payload in place proves nothing about the next load of it. So a payload is SharedBytes: it can be
// copied out, and only the copy can be believed to stay what it is. Its size, the sequence number
// and the stamp were fetched once and are values of the consumer's own.
//
// Valid until the consumer releases it. The memory may be mapped read-only: do not copy into it.
#pragma once

#include <cstdint>

#include "shm/hostile.h"

namespace iob::shm {

struct SharedRecord {
  SharedBytes payload;
  uint64_t sequence = 0;       // Record number within its lane or ring, discarded ones counted too.
  uint64_t stamp_ns = 0;       // CLOCK_MONOTONIC as the producer claims it; 0 when not stamped.
  uint32_t lane_or_owner = 0;  // Who produced it: the lane's or the owner's number.
};

}  // namespace iob::shm
