#include "server/memory_room.h"

#include <fcntl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/errors.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::UniqueFd;

// For the daemon's own heap, and for what the kernel keeps beside the pages: about a 128th.
constexpr uint64_t kReserveBytes = uint64_t{2} << 20;
constexpr uint64_t kReserveShare = 128;
constexpr size_t kFileBytesMax = size_t{64} << 10;

UniqueFd OpenFile(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

// From its beginning, as it is now.
std::string ReadAll(const UniqueFd& fd) {
  if (!fd.valid()) return "";
  std::string text(kFileBytesMax, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t more =
        ::pread(fd.get(), text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (more <= 0) break;
    size += static_cast<size_t>(more);
  }
  text.resize(size);
  return text;
}

// nullopt for "max" and for what is no number.
std::optional<uint64_t> ReadNumber(const UniqueFd& fd) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(ReadAll(fd), &value)) return std::nullopt;
  return value;
}

// The sum of the lines "KEY VALUE" of these keys.
uint64_t SumOf(const std::string& text, std::initializer_list<absl::string_view> keys) {
  uint64_t sum = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(": "), absl::SkipEmpty());
    uint64_t value = 0;
    if (words.size() < 2 || !absl::SimpleAtoi(words[1], &value)) continue;
    for (const absl::string_view key : keys) sum += words[0] == key ? value : 0;
  }
  return sum;
}

// One of the two kinds of memory cgroups.
struct Hierarchy {
  bool v2 = false;
  std::string mount_root;
  std::string mount_point;
};

// Of the mounts of this process, the one with memory limits: v1's memory controller, or v2.
std::vector<Hierarchy> FindHierarchies() {
  std::vector<Hierarchy> found;
  for (const absl::string_view line :
       absl::StrSplit(ReadAll(OpenFile("/proc/self/mountinfo")), '\n')) {
    // "36 35 0:31 ROOT POINT OPTIONS - TYPE SOURCE SUPER_OPTIONS"
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<absl::string_view> left = absl::StrSplit(halves[0], ' ');
    const std::vector<absl::string_view> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    const bool v2 = right[0] == "cgroup2";
    const std::vector<absl::string_view> options = absl::StrSplit(right[2], ',');
    bool memory = false;
    for (const absl::string_view option : options) memory |= option == "memory";
    if (!v2 && !(right[0] == "cgroup" && memory)) continue;
    found.push_back(
        {.v2 = v2, .mount_root = std::string(left[3]), .mount_point = std::string(left[4])});
  }
  return found;
}

// The path of this process in one of them, as /proc/self/cgroup has it.
std::optional<std::string> OwnPath(bool v2) {
  for (const absl::string_view line :
       absl::StrSplit(ReadAll(OpenFile("/proc/self/cgroup")), '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    bool memory = false;
    for (const absl::string_view controller : absl::StrSplit(parts[1], ','))
      memory |= controller == "memory";
    if (v2 ? parts[0] == "0" && parts[1].empty() : memory) return std::string(parts[2]);
  }
  return std::nullopt;
}

absl::Status NoRoom(uint64_t size_bytes, uint64_t room_bytes, absl::string_view whose) {
  return MakeError(v1::ERROR_REASON_QUOTA,
                   absl::StrCat("memory: ", size_bytes, " bytes asked for, ", room_bytes,
                                " left to the daemon by ", whose));
}

}  // namespace

MemoryRoom::MemoryRoom() {
  for (const Hierarchy& hierarchy : FindHierarchies()) {
    const auto own = OwnPath(hierarchy.v2);
    if (!own) continue;
    absl::string_view below = *own;
    // In a container the mount may begin at the daemon's own cgroup.
    if (hierarchy.mount_root != "/") absl::ConsumePrefix(&below, hierarchy.mount_root);
    std::string path = below == "/" ? "" : std::string(below);
    while (true) {
      const std::string base = hierarchy.mount_point + path + "/memory.";
      const std::string limit = base + (hierarchy.v2 ? "max" : "limit_in_bytes");
      Level level{.path = limit,
                  .limit = OpenFile(limit),
                  .usage = OpenFile(base + (hierarchy.v2 ? "current" : "usage_in_bytes")),
                  .stat = OpenFile(base + "stat")};
      if (level.limit.valid() && level.usage.valid()) levels_.push_back(std::move(level));
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
}

absl::Status MemoryRoom::Check(uint64_t size_bytes) const {
  const uint64_t needed_bytes = size_bytes + size_bytes / kReserveShare + kReserveBytes;
  if (needed_bytes < size_bytes) return NoRoom(size_bytes, 0, "any machine");
  for (const Level& level : levels_) {
    const auto limit_bytes = ReadNumber(level.limit);
    const auto usage_bytes = ReadNumber(level.usage);
    if (!limit_bytes || !usage_bytes) continue;
    uint64_t room_bytes = *limit_bytes - std::min(*usage_bytes, *limit_bytes);
    if (room_bytes >= needed_bytes) continue;
    // Shared memory is not among what can go: it counts as anonymous.
    const std::string stat = ReadAll(level.stat);
    const bool v1_totals = absl::StrContains(stat, "total_inactive_file");
    room_bytes += v1_totals ? SumOf(stat, {"total_inactive_file", "total_active_file"})
                            : SumOf(stat, {"inactive_file", "active_file"});
    if (room_bytes < needed_bytes) {
      return NoRoom(size_bytes, room_bytes, absl::StrCat("its memory cgroup: raise ", level.path));
    }
  }
  // The file takes ten times as long, and is needed only when little is free outright.
  struct sysinfo machine = {};
  if (::sysinfo(&machine) == 0 && machine.freeram * uint64_t{machine.mem_unit} >= needed_bytes)
    return absl::OkStatus();
  const uint64_t available_bytes = SumOf(ReadAll(OpenFile("/proc/meminfo")), {"MemAvailable"})
                                   << 10;
  // Without the figure (no /proc) nothing is known.
  if (available_bytes == 0 || available_bytes >= needed_bytes) return absl::OkStatus();
  return NoRoom(size_bytes, available_bytes, "the machine");
}

}  // namespace iob::server
