// Sizes, times and counts as people write and read them.
//
// Parsing is strict: a number, an optional unit, nothing else. Thread-safe: pure functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace iob::ctl {

// "4096", "64KiB", "4MiB", "1GiB", "1TiB"; K, M, G, T mean the same, KB, MB, GB, TB are powers of
// 1000; case does not matter. INVALID_ARGUMENT also for a size beyond 2^64 - 1.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

// "250ms", "5s", "2m", "1h"; a number alone is seconds. INVALID_ARGUMENT also above a day.
absl::StatusOr<std::chrono::milliseconds> ParseDuration(const std::string& text);

// Digits only, at most `max`.
absl::StatusOr<uint64_t> ParseNumber(const std::string& text, uint64_t max);

// "512 B", "64.0 KiB", "4.0 MiB".
std::string FormatBytes(uint64_t bytes);
// "1,234,567".
std::string FormatCount(uint64_t count);
// "420 us", "1.25 ms", "3.50 s", "2m 05s", "24h 00m".
std::string FormatDuration(std::chrono::nanoseconds duration);
// "2026-11-21 12:00:03" in local time.
std::string FormatTime(std::chrono::system_clock::time_point time);

}  // namespace iob::ctl
