#include "tests/bench/quiet.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "shm/futex.h"

namespace iob::bench {
namespace {

int64_t NsPerTick() {
  static const int64_t ns = 1'000'000'000 / ::sysconf(_SC_CLK_TCK);
  return ns;
}

// Busy time of all processors: everything in the first line but idle and iowait.
int64_t BusyNs() {
  std::ifstream file("/proc/stat");
  std::string label;
  file >> label;
  int64_t busy_ticks = 0;
  int64_t ticks = 0;
  for (int column = 0; column < 8 && file >> ticks; ++column) {
    if (column != 3 && column != 4) busy_ticks += ticks;
  }
  return busy_ticks * NsPerTick();
}

int64_t ProcessNs(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(file, text);
  // The name in parentheses may hold anything; the columns go on after its end.
  const size_t name_end = text.rfind(')');
  if (name_end == text.npos) return 0;
  std::istringstream columns(text.substr(name_end + 1));
  std::string skipped;
  for (int column = 3; column < 14; ++column) columns >> skipped;
  int64_t user_ticks = 0;
  int64_t system_ticks = 0;
  columns >> user_ticks >> system_ticks;
  return (user_ticks + system_ticks) * NsPerTick();
}

int64_t ServicesNs(std::span<const pid_t> services) {
  int64_t total = 0;
  for (const pid_t pid : services) total += ProcessNs(pid);
  return total;
}

}  // namespace

LoadMeter::LoadMeter(std::span<const pid_t> services)
    : start_ns_(shm::MonotonicNs()), busy_ns_(BusyNs()), services_ns_(ServicesNs(services)) {}

double LoadMeter::OtherShare(std::span<const pid_t> services, int64_t own_ns) const {
  const int64_t all_ns = (shm::MonotonicNs() - start_ns_) * ::sysconf(_SC_NPROCESSORS_ONLN);
  const int64_t others_ns = BusyNs() - busy_ns_ - own_ns - (ServicesNs(services) - services_ns_);
  if (all_ns <= 0) return 0;
  return std::max(0.0, static_cast<double>(others_ns) / static_cast<double>(all_ns));
}

uint64_t ResidentBytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  uint64_t size_pages = 0;
  uint64_t resident_pages = 0;
  file >> size_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

const char* MachineLine() {
  static const std::string line = [] {
    std::string model = "unknown processor";
    std::ifstream file("/proc/cpuinfo");
    for (std::string text; std::getline(file, text);) {
      if (!text.starts_with("model name")) continue;
      model = text.substr(text.find(':') + 2);
      break;
    }
    utsname name = {};
    ::uname(&name);
    return absl::StrCat(::sysconf(_SC_NPROCESSORS_ONLN), " x ", model, ", Linux ", name.release);
  }();
  return line.c_str();
}

}  // namespace iob::bench
