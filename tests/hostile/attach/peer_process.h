// PeerProcess: an attached client in a process of its own, that does what it is told and can be
// killed, stopped, or given another uid.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "shm/unique_fd.h"

namespace iob::test {

enum class Order : char {
  kDetach = 'd',       // Says detach, lets go of everything.
  kCloseSocket = 's',  // Without a word.
  kCloseFds = 'c',     // The section descriptors; mappings stay.
  kUnmap = 'u',
  kFork = 'f',  // A child that holds copies of everything until ReleaseFork.
  kPark = 'p',  // Sends records of {64, 4000, 4000} bytes to region 0, ready to wait a minute.
  kParkBriefly = 'b',  // The same, ready to wait 700 ms.
  kExitThree = 'x'     // exit(3).
};

class PeerProcess {
 public:
  // Forks, attaches with `ticket`, as `uid` where one is given.
  PeerProcess(const std::string& attach_path, const std::string& ticket,
              std::optional<uid_t> uid = std::nullopt);
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;
  // Kills and reaps what is left.
  ~PeerProcess();

  pid_t pid() const { return pid_; }
  // Empty when it is attached, else what went wrong.
  const std::string& problem() const { return problem_; }

  // True when it has done so.
  bool Do(Order order);
  void ReleaseFork() { release_.Close(); }
  void Kill(int signal);
  // Reaps; the wait status.
  int Reap();

 private:
  [[noreturn]] void Run(const std::string& attach_path, const std::string& ticket,
                        std::optional<uid_t> uid);

  pid_t pid_ = -1;
  shm::UniqueFd ours_;     // Orders out, answers in.
  shm::UniqueFd theirs_;   // In the child.
  shm::UniqueFd release_;  // Write end: closing it lets the forked child go.
  shm::UniqueFd released_;
  std::string problem_;
};

}  // namespace iob::test
