// What peers with a daemon need: a directory that goes away, and a process that ends with it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace iob::bench {

// A fresh directory below /tmp, removed with all that is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() = default;
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();
  absl::Status Create();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A program of somebody else, started for the run and ended with it. Its output is dropped.
class Service {
 public:
  Service() = default;
  Service(const Service&) = delete;
  ~Service();
  absl::Status Start(const std::vector<std::string>& command);
  // Waits until `path` exists; an error when the program ended first or took too long.
  absl::Status WaitFor(const std::string& path);
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

}  // namespace iob::bench
