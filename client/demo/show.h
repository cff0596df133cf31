// Show: the demo's output for a person: what happens, a table, and whether each claim held.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace iob::demo {

// "12.3 MiB", "1.2 M/s".
std::string HumanBytes(double bytes);
std::string HumanRate(double per_second, const std::string& unit);
std::string HumanCount(uint64_t count);

class Show {
 public:
  // One line on what happens now.
  void Step(const std::string& text);
  // A row of the table.
  void Row(const std::string& label, const std::string& value);
  // A row that is a claim: "ok" or "FAILED" in front.
  void Claim(bool holds, const std::string& label, const std::string& value);
  // Prints the table. True when every claim held.
  bool Finish();

 private:
  std::vector<std::pair<std::string, std::string>> rows_;
  int step_ = 0;
  bool all_hold_ = true;
};

}  // namespace iob::demo
