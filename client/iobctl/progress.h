// Progress: one line on a terminal that says how far long work has come.
//
// Thread-compatible.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace iob::ctl {

class Progress {
 public:
  // Silent unless stderr is a terminal and `wanted`. `total_bytes` 0: not known.
  Progress(bool wanted, uint64_t total_bytes);
  // Takes the line away again.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Draws at most ten times a second.
  void Update(uint64_t records, uint64_t bytes, uint64_t lost_records);

 private:
  bool enabled_;
  bool drawn_ = false;
  uint64_t total_bytes_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_;
};

// "1,000 records, 62.5 KiB in 0.10 s, 625.0 KiB/s".
std::string Throughput(uint64_t records, uint64_t bytes, std::chrono::nanoseconds elapsed);

}  // namespace iob::ctl
