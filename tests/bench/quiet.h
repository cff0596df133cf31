// Whether anybody else used the processors while a round ran.
//
// The kernel counts busy time for the whole machine in /proc/stat, in ticks of 10 ms; what the
// round's own processes used is subtracted. Whatever is left was somebody else: another program, an
// interrupt, or the host of a virtual machine (steal).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

namespace iob::bench {

class LoadMeter {
 public:
  explicit LoadMeter(std::span<const pid_t> services);

  // Share of all processors' time since the construction that others took; `own_ns` is what the
  // two sides took.
  double OtherShare(std::span<const pid_t> services, int64_t own_ns) const;

 private:
  int64_t start_ns_;
  int64_t busy_ns_;
  int64_t services_ns_;
};

// Resident memory of a process, in bytes; 0 when it is gone.
uint64_t ResidentBytes(pid_t pid);

// This machine in one line: processors, model, kernel.
const char* MachineLine();

}  // namespace iob::bench
