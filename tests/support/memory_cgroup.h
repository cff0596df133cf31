// A memory cgroup of a test's own, v1 or v2, whichever this machine has; removed with the object.
// Needs root and a cgroup file system that can be written.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

namespace iob::test {

class MemoryCgroup {
 public:
  // nullptr where there are none to be made: skip the test, saying so. 0: no limit.
  static std::unique_ptr<MemoryCgroup> Create(const std::string& name, uint64_t limit_bytes) {
    const bool v1 = ::access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0;
    const std::string root = v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    if (!v1 && ReadFile(root + "/cgroup.subtree_control").find("memory") == std::string::npos)
      return nullptr;
    const std::string path = root + "/iob-test-" + name + "-" + std::to_string(::getpid());
    if (::mkdir(path.c_str(), 0755) != 0) return nullptr;
    std::unique_ptr<MemoryCgroup> made(new MemoryCgroup(root, path, v1));
    const std::string limit_file = made->File(v1 ? "memory.limit_in_bytes" : "memory.max");
    if (limit_bytes != 0 && !WriteFile(limit_file, std::to_string(limit_bytes))) return nullptr;
    return made;
  }
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;
  // Whoever is still in it goes to the root.
  ~MemoryCgroup() {
    std::istringstream pids(ReadFile(File("cgroup.procs")));
    for (std::string pid; pids >> pid;) WriteFile(root_ + "/cgroup.procs", pid);
    ::rmdir(path_.c_str());
  }

  bool Join(pid_t pid) const { return WriteFile(File("cgroup.procs"), std::to_string(pid)); }
  bool Leave(pid_t pid) const { return WriteFile(root_ + "/cgroup.procs", std::to_string(pid)); }
  uint64_t usage_bytes() const {
    return std::strtoull(ReadFile(File(v1_ ? "memory.usage_in_bytes" : "memory.current")).c_str(),
                         nullptr, 10);
  }
  // How often the kernel killed somebody in it.
  uint64_t oom_kills() const {
    std::istringstream words(ReadFile(File(v1_ ? "memory.oom_control" : "memory.events")));
    for (std::string word; words >> word;) {
      uint64_t count = 0;
      if (word == "oom_kill" && words >> count) return count;
    }
    return 0;
  }

 private:
  MemoryCgroup(std::string root, std::string path, bool v1)
      : root_(std::move(root)), path_(std::move(path)), v1_(v1) {}
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  static std::string ReadFile(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  static bool WriteFile(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text << std::flush;
    return file.good();
  }

  std::string root_;
  std::string path_;
  bool v1_;
};

}  // namespace iob::test
