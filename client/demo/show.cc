#include "client/demo/show.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace iob::demo {

std::string HumanBytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrFormat("%.0f B", bytes);
  return absl::StrFormat("%.1f %s", bytes, kUnits[unit]);
}

std::string HumanRate(double per_second, const std::string& unit) {
  if (per_second >= 1e6) return absl::StrFormat("%.2f M %s/s", per_second / 1e6, unit);
  if (per_second >= 1e3) return absl::StrFormat("%.1f k %s/s", per_second / 1e3, unit);
  return absl::StrFormat("%.0f %s/s", per_second, unit);
}

std::string HumanCount(uint64_t count) {
  const std::string plain = absl::StrCat(count);
  std::string digits;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (i != 0 && (plain.size() - i) % 3 == 0) digits.push_back(',');
    digits.push_back(plain[i]);
  }
  return digits;
}

void Show::Step(const std::string& text) {
  std::printf("%2d  %s\n", ++step_, text.c_str());
  std::fflush(stdout);
}

void Show::Row(const std::string& label, const std::string& value) {
  rows_.emplace_back(label, value);
}

void Show::Claim(bool holds, const std::string& label, const std::string& value) {
  all_hold_ = all_hold_ && holds;
  rows_.emplace_back(label, absl::StrCat(value, holds ? "  [ok]" : "  [FAILED]"));
}

bool Show::Finish() {
  size_t width = 0;
  for (const auto& [label, value] : rows_) width = std::max(width, label.size());
  std::printf("\n");
  for (const auto& [label, value] : rows_) {
    if (value.empty()) {
      std::printf("  %s\n", label.c_str());
    } else {
      std::printf("  %-*s  %s\n", static_cast<int>(width), label.c_str(), value.c_str());
    }
  }
  std::printf("\n  %s\n",
              all_hold_ ? "Everything held." : "Something did NOT hold: see FAILED above.");
  return all_hold_;
}

}  // namespace iob::demo
