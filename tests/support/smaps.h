// What the kernel says of one mapping of this process, in /proc/self/smaps.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

namespace iob::test {

// The rest of the line `key` of the mapping that contains `address`; "" when there is none.
inline std::string SmapsLine(const void* address, const std::string& key) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      const auto wanted = reinterpret_cast<uintptr_t>(address);
      inside = begin <= wanted && wanted < end;
    } else if (inside && line.compare(0, key.size() + 1, key + ":") == 0) {
      return line.substr(key.size() + 1);
    }
  }
  return "";
}

inline uint64_t SmapsBytes(const void* address, const std::string& key) {
  return std::strtoull(SmapsLine(address, key).c_str(), nullptr, 10) << 10;
}

// Two letters: "dd" left out of dumps, "dc" not copied to children, "lo" locked.
inline bool HasVmFlag(const void* address, const std::string& flag) {
  std::istringstream words(SmapsLine(address, "VmFlags"));
  for (std::string word; words >> word;) {
    if (word == flag) return true;
  }
  return false;
}

}  // namespace iob::test
