// The kinds of rings that rounds are played with, and what each promises.
#pragma once

#include <array>
#include <cstdint>

#include "client/types.h"

namespace iob::test {

enum class RingKind : uint8_t { kDropNew, kBlock, kOverwrite, kLanes, kShared, kBroadcast, kSlot };
inline constexpr std::array<RingKind, 7> kRingKinds = {
    RingKind::kDropNew, RingKind::kBlock,     RingKind::kOverwrite, RingKind::kLanes,
    RingKind::kShared,  RingKind::kBroadcast, RingKind::kSlot};
inline constexpr std::array<const char*, 7> kRingKindNames = {
    "drop-new", "block", "overwrite", "lanes", "shared", "broadcast", "slot"};

inline const char* Name(RingKind kind) { return kRingKindNames[static_cast<size_t>(kind)]; }

struct RingPromise {
  uint32_t writers = 0;    // At once.
  bool consumer = false;   // One process takes records out; else there are followers only.
  uint32_t followers = 0;  // At once.
  bool lossless = false;   // What is stored stays until it is consumed.
  bool mediated = false;   // By the broker, who counts for itself.
};

inline RingPromise PromiseOf(RingKind kind) {
  switch (kind) {
    case RingKind::kDropNew:
    case RingKind::kBlock:
      return {.writers = 3, .consumer = true, .followers = 1, .lossless = true, .mediated = true};
    case RingKind::kOverwrite:
      return {.writers = 3, .consumer = true, .followers = 1, .lossless = false, .mediated = true};
    case RingKind::kLanes:
    case RingKind::kShared:
      return {.writers = 3, .consumer = true, .followers = 0, .lossless = true, .mediated = false};
    case RingKind::kBroadcast:
    case RingKind::kSlot:
      break;
  }
  return {.writers = 1, .consumer = false, .followers = 2, .lossless = false, .mediated = false};
}

}  // namespace iob::test
