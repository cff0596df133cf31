// What the daemon allows and what its kernel does, as JSON and as tables.
//
// Thread-safe: pure functions.
#pragma once

#include <string>

#include "client/iobctl/json.h"
#include "client/types.h"

namespace iob::ctl {

// Members `limits` and `kernel_features`.
void AddLimits(const Limits& limits, JsonWriter* json);

std::string DescribeLimits(const Limits& limits);
std::string DescribeFeatures(const Limits& limits);

}  // namespace iob::ctl
