// Machine: what the demo needs of the machine and nothing of iob: processes, pipes, files, one HTTP
// GET.
//
// Every wait has a deadline; a demo that hangs is worse than one that fails. Single-threaded:
// children are forked without exec, so that they may run under a uid that cannot read the checkout.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shm/unique_fd.h"

namespace iob::demo {

// A pipe for lines of text between two processes.
struct Pipe {
  shm::UniqueFd reading;
  shm::UniqueFd writing;
  static Pipe Make();
};
void WriteLine(int fd, const std::string& line);
// DEADLINE_EXCEEDED after `seconds`; UNAVAILABLE when the other side is gone.
absl::StatusOr<std::string> ReadLine(int fd, int seconds = 60);

// A child that runs `body` and exits with its result; as `uid` where that is not the caller's own.
pid_t Fork(uint32_t uid, const std::function<int()>& body);
// A child that runs a program with stderr in a file.
pid_t Spawn(const std::vector<std::string>& command, const std::string& stderr_path);
// "exit 0", "signal 9"; reaps.
std::string WaitForEnd(pid_t pid);

// A regular file, mapped for reading.
class InputFile {
 public:
  static absl::StatusOr<InputFile> Open(const std::string& path);
  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

// A log file of this machine, repeated into `target` until it has at least `bytes_min`. Returns
// which.
absl::StatusOr<std::string> MakeInputFromLog(const std::string& target, uint64_t bytes_min);

// As `sha256sum` prints it.
std::string Sha256Of(const std::string& path);

// Shmem of /proc/meminfo, in bytes: all memfd and tmpfs memory of the machine.
uint64_t ShmemBytes();

// The body of http://ADDRESS/PATH.
absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path);

int64_t NowNs();

}  // namespace iob::demo
