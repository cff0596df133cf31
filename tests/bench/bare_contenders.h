// The bare references: what the machine gives to code that trusts everybody.
#pragma once

#include <string>

#include "tests/bench/contender.h"

namespace iob::bench {

// All shapes of the bare ring (bare_ring.h), for the study of who should own a cache line.
Contenders BareVariants();

// What ours is compared with: the fastest shape of all, the fastest whose consumer maps the
// records read-only, one that can sleep, and a staging ring with a copying process. The first two
// are named as BareVariants names them: a study may have found better ones.
Contenders BareReferences(const std::string& fastest = "zeroes",
                          const std::string& fastest_read_only = "reads");

// Names of the references, as reports name them.
inline constexpr char kBareName[] = "bare ring";
inline constexpr char kBareReadOnlyName[] = "bare ring, read-only consumer";
inline constexpr char kBareSleepName[] = "bare ring, may sleep";
inline constexpr char kBareStagingName[] = "bare staging ring + copying process";

}  // namespace iob::bench
