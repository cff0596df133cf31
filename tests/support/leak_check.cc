#include "tests/support/leak_check.h"

#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shm/futex.h"

namespace iob::test {
namespace {

constexpr int kLookEveryMs = 2;

std::string FdDirectory(pid_t pid) { return absl::StrCat("/proc/", pid, "/fd"); }

void ForEachFd(pid_t pid, const std::function<void(const std::string& path)>& visit) {
  const std::string directory = FdDirectory(pid);
  DIR* const listing = ::opendir(directory.c_str());
  if (listing == nullptr) return;
  while (const dirent* entry = ::readdir(listing)) {
    if (entry->d_name[0] != '.') visit(absl::StrCat(directory, "/", entry->d_name));
  }
  ::closedir(listing);
}

// Size by (device, inode).
using MemoryFiles = std::map<std::pair<dev_t, ino_t>, uint64_t>;

void AddMemoryFiles(pid_t pid, MemoryFiles& files) {
  ForEachFd(pid, [&files](const std::string& path) {
    std::array<char, 256> target = {};
    if (::readlink(path.c_str(), target.data(), target.size() - 1) <= 0) return;
    struct stat status = {};
    if (!absl::StartsWith(target.data(), "/memfd:iob-") || ::stat(path.c_str(), &status) != 0)
      return;
    files[{status.st_dev, status.st_ino}] = static_cast<uint64_t>(status.st_blocks) * 512;
  });
}

// Those that a process only maps: at least as long as what it maps of them.
void AddMappedMemoryFiles(pid_t pid, MemoryFiles& files) {
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  std::string line;
  while (std::getline(maps, line)) {
    if (!absl::StrContains(line, "/memfd:iob-")) continue;
    unsigned long long begin = 0;
    unsigned long long end = 0;
    unsigned long long offset = 0;
    unsigned major = 0;
    unsigned minor = 0;
    unsigned long long inode = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx %*s %llx %x:%x %llu", &begin, &end, &offset, &major,
                    &minor, &inode) != 6) {
      continue;
    }
    uint64_t& bytes = files[{makedev(major, minor), inode}];
    bytes = std::max<uint64_t>(bytes, offset + (end - begin));
  }
}

uint64_t BytesOf(const MemoryFiles& files) {
  uint64_t bytes = 0;
  for (const auto& [inode, size] : files) bytes += size;
  return bytes;
}

// What other daemons and tests on this machine hold.
uint64_t RegionBytesOfStrangers(pid_t daemon_pid) {
  DIR* const listing = ::opendir("/proc");
  if (listing == nullptr) return 0;
  MemoryFiles files;
  while (const dirent* entry = ::readdir(listing)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry->d_name, &pid) || pid == daemon_pid || pid == ::getpid()) continue;
    AddMemoryFiles(pid, files);
    AddMappedMemoryFiles(pid, files);
  }
  ::closedir(listing);
  return BytesOf(files);
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, int64_t deadline_ms) {
  const int64_t deadline_ns = shm::MonotonicNs() + deadline_ms * 1'000'000;
  while (!condition()) {
    if (shm::MonotonicNs() > deadline_ns) return false;
    ::poll(nullptr, 0, kLookEveryMs);
  }
  return true;
}

int OpenDescriptors(pid_t pid) {
  if (::access(FdDirectory(pid).c_str(), R_OK) != 0) return -1;
  int count = 0;
  ForEachFd(pid, [&count](const std::string&) { ++count; });
  return pid == ::getpid() ? count - 1 : count;  // Without the listing's own.
}

uint64_t ShmemBytes() {
  // The kernel counts per processor, and adds up once a second unless it is asked to. For root
  // only; others are off by at most that second.
  std::string nothing;
  std::ifstream("/proc/sys/vm/stat_refresh") >> nothing;
  std::ifstream file("/proc/meminfo");
  std::string line;
  unsigned long long kib = 0;
  while (std::getline(file, line)) {
    if (std::sscanf(line.c_str(), "Shmem: %llu kB", &kib) == 1) return kib * 1024;
  }
  return 0;
}

uint64_t RegionBytesHeld(pid_t pid) {
  MemoryFiles files;
  AddMemoryFiles(pid, files);
  return BytesOf(files);
}

LeakCheck::LeakCheck(pid_t daemon_pid) : daemon_pid_(daemon_pid), before_(Now()) {
  // A stranger that starts or stops between two looks at the machine spoils one sample, not three.
  for (int i = 0; i < 2; ++i) {
    ::poll(nullptr, 0, kLookEveryMs);
    before_.shmem_bytes = std::max(before_.shmem_bytes, Now().shmem_bytes);
  }
}

LeakCheck::Counts LeakCheck::Now() const {
  const uint64_t shmem_bytes = ShmemBytes();
  const uint64_t of_strangers = RegionBytesOfStrangers(daemon_pid_);
  return {.own_fds = OpenDescriptors(::getpid()),
          .daemon_fds = OpenDescriptors(daemon_pid_),
          .region_bytes = RegionBytesHeld(daemon_pid_),
          .shmem_bytes = shmem_bytes - std::min(shmem_bytes, of_strangers)};
}

std::string LeakCheck::Compare() const {
  Counts now;
  const bool same = Eventually([&] {
    now = Now();
    return now.own_fds == before_.own_fds && now.daemon_fds == before_.daemon_fds &&
           now.region_bytes == before_.region_bytes && now.shmem_bytes <= before_.shmem_bytes;
  });
  if (same) return {};
  return absl::StrCat("descriptors here ", before_.own_fds, " -> ", now.own_fds, ", in the daemon ",
                      before_.daemon_fds, " -> ", now.daemon_fds, ", region bytes in the daemon ",
                      before_.region_bytes, " -> ", now.region_bytes, ", Shmem ",
                      before_.shmem_bytes, " -> ", now.shmem_bytes);
}

}  // namespace iob::test
