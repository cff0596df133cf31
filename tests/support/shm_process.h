// Child processes and descriptor tables for tests that need the real kernel.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <utility>
#include <vector>

#include "shm/check.h"
#include "shm/unique_fd.h"

namespace iob::test {

// Descriptors that this process has open.
inline int OpenFds() {
  DIR* const listing = ::opendir("/proc/self/fd");
  IOB_CHECK(listing != nullptr);
  int entries = 0;
  while (::readdir(listing) != nullptr) ++entries;
  ::closedir(listing);
  return entries - 3;  // "." and "..", and the listing's own.
}

// A forked child. It ends without destructors or exit handlers, with 1 when an expectation failed.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    std::fflush(nullptr);
    pid_ = ::fork();
    IOB_CHECK(pid_ >= 0);
    if (pid_ != 0) return;
    body();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) Join();
  }

  pid_t pid() const { return pid_; }

  // Waits for its end; the exit status, or 128 + the signal that killed it.
  int Join() {
    int status = 0;
    IOB_CHECK(::waitpid(std::exchange(pid_, -1), &status, 0) > 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

// Runs `body` in a child, for what would spoil this process (limits, filters).
inline void ExpectInChild(const std::function<void()>& body) {
  EXPECT_EQ(Child(body).Join(), 0) << "an expectation in the child failed, or it died";
}

// Lets this process open `more` descriptors and no further one. For children only.
inline void LimitOpenFds(int more) {
  // The limit is on the number, and holes below it count too.
  int number = -1;
  std::vector<shm::UniqueFd> taken;
  for (int i = 0; i <= more; ++i) {
    number = ::dup(STDERR_FILENO);
    IOB_CHECK(number >= 0);
    taken.emplace_back(number);
  }
  rlimit limit = {};
  IOB_CHECK(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = static_cast<rlim_t>(number);
  IOB_CHECK(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

// One byte each way between two processes, to order their steps without sleeping.
class Turn {
 public:
  Turn() {
    int ends[2];
    IOB_CHECK(::pipe(ends) == 0);
    reader_ = shm::UniqueFd(ends[0]);
    writer_ = shm::UniqueFd(ends[1]);
  }

  void Give() {
    const char byte = 0;
    IOB_CHECK(::write(writer_.get(), &byte, 1) == 1);
  }
  // False when the giver is gone.
  bool Take() {
    writer_.Close();
    char byte = 0;
    return ::read(reader_.get(), &byte, 1) == 1;
  }
  int fd() const { return reader_.get(); }

 private:
  shm::UniqueFd reader_;
  shm::UniqueFd writer_;
};

}  // namespace iob::test
