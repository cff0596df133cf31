// Signals as people write and read them.
//
//     WORD  :=  "peer-closed" | "user-0" ... "user-7" | "0" ... "7"
//
// Several are separated by commas or given one by one. Case does not matter, and "_" is as good as
// "-", so that Zircon's spelling works. What is printed is the first form.
//
// Thread-safe: pure functions. All errors are INVALID_ARGUMENT and quote what was wrong.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/iobctl/json.h"

namespace iob::ctl {

// All of `words`, each of which may be several. An error for none at all.
absl::StatusOr<uint32_t> ParseSignals(const std::vector<std::string>& words);
// The same without peer-closed, which only the broker raises; none is fine.
absl::StatusOr<uint32_t> ParseUserSignals(const std::vector<std::string>& words);

// A member: an array of the names.
void AddSignals(std::string_view key, uint32_t signals, JsonWriter* json);

}  // namespace iob::ctl
