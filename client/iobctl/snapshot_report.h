// Snapshots and autopsies as text and JSON.
//
// Thread-safe: pure functions, but for WriteToFile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/iobctl/json.h"
#include "client/snapshot.h"

namespace iob::ctl {

// A table of regions.
std::string DescribeSnapshot(const SnapshotInfo& info);
// Of one line per crash.
std::string DescribeAutopsies(const std::vector<AutopsyInfo>& autopsies);
// Who ended how, then each ring with its last `records_max` records, and what is wrong with it.
std::string DescribeAutopsy(const Autopsy& autopsy, uint64_t records_max);

// One object each.
void AddSnapshot(const SnapshotInfo& info, JsonWriter* json);
void AddAutopsy(const AutopsyInfo& autopsy, JsonWriter* json);
void AddAutopsy(const Autopsy& autopsy, uint64_t records_max, JsonWriter* json);

// "-" is stdout. UNAVAILABLE and so on with the file's name.
absl::Status WriteToFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace iob::ctl
