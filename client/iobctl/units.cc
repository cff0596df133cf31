#include "client/iobctl/units.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <ctime>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr std::array<std::pair<std::string_view, uint64_t>, 14> kByteUnits = {{
    {"", 1},
    {"b", 1},
    {"k", uint64_t{1} << 10},
    {"kib", uint64_t{1} << 10},
    {"kb", 1000},
    {"m", uint64_t{1} << 20},
    {"mib", uint64_t{1} << 20},
    {"mb", 1000 * 1000},
    {"g", uint64_t{1} << 30},
    {"gib", uint64_t{1} << 30},
    {"gb", uint64_t{1000} * 1000 * 1000},
    {"t", uint64_t{1} << 40},
    {"tib", uint64_t{1} << 40},
    {"tb", uint64_t{1000} * 1000 * 1000 * 1000},
}};

constexpr std::array<std::pair<std::string_view, uint64_t>, 5> kTimeUnits = {
    {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}}};

constexpr uint64_t kDurationMsMax = uint64_t{24} * 3600 * 1000;

// A number and a unit of `units`, multiplied.
template <typename Units>
absl::StatusOr<uint64_t> ParseWithUnit(const std::string& text, const Units& units,
                                       const std::string& what) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc::result_out_of_range) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is too large"));
  }
  const std::string unit = absl::AsciiStrToLower(std::string(rest, end));
  const auto known = std::find_if(units.begin(), units.end(),
                                  [&unit](const auto& entry) { return entry.first == unit; });
  if (error != std::errc() || known == units.end()) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not ", what));
  }
  if (number > std::numeric_limits<uint64_t>::max() / known->second) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is too large"));
  }
  return number * known->second;
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  return ParseWithUnit(text, kByteUnits, "a size like 4096, 64KiB or 4MiB");
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(const std::string& text) {
  IOB_ASSIGN_OR_RETURN(const uint64_t ms,
                       ParseWithUnit(text, kTimeUnits, "a time like 250ms, 5s, 2m or 1h"));
  if (ms > kDurationMsMax) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is more than a day"));
  }
  return std::chrono::milliseconds(ms);
}

absl::StatusOr<uint64_t> ParseNumber(const std::string& text, uint64_t max) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || number > max) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a number from 0 to ", max));
  }
  return number;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr std::array<const char*, 6> kNames = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  auto value = static_cast<double>(bytes) / 1024;
  size_t name = 0;
  // Not 1024: 1023.96 would print as 1024.0.
  for (; value >= 1023.95 && name + 1 < kNames.size(); value /= 1024) ++name;
  return absl::StrFormat("%.1f %s", value, kNames[name]);
}

std::string FormatCount(uint64_t count) {
  std::string text = absl::StrCat(count);
  for (size_t place = text.size(); place > 3;) {
    place -= 3;
    text.insert(place, 1, ',');
  }
  return text;
}

std::string FormatDuration(std::chrono::nanoseconds duration) {
  const auto ns = static_cast<double>(duration.count());
  if (ns < 1e6) return absl::StrFormat("%.0f us", ns / 1e3);
  if (ns < 1e9) return absl::StrFormat("%.2f ms", ns / 1e6);
  if (ns < 60e9) return absl::StrFormat("%.2f s", ns / 1e9);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  if (seconds < 3600) return absl::StrFormat("%dm %02ds", seconds / 60, seconds % 60);
  return absl::StrFormat("%dh %02dm", seconds / 3600, seconds / 60 % 60);
}

std::string FormatTime(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts = {};
  ::localtime_r(&seconds, &parts);
  std::array<char, 32> text = {};
  const size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts);
  return std::string(text.data(), size);
}

}  // namespace iob::ctl
