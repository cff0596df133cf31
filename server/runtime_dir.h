// RuntimeDir: the directory with the daemon's sockets, and the lock that says whose it is.
//
//     DIR/iobd.lock    held with flock as long as the daemon lives; removed when it leaves
//     DIR/grpc.sock    control plane
//     DIR/attach.sock  tickets in, descriptors out
//
//   D1  Two daemons never share a directory: the second is told the first one's pid.
//   D2  A socket that somebody listens on is never unlinked, whoever it is; a stale one is taken
//       over.
//   D3  Leaving removes what was made, the directory too if this daemon made it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shm/unique_fd.h"

namespace iob::server {

class RuntimeDir {
 public:
  // Makes the directory if it is missing (mode 0755, so that every uid may connect and only the
  // owner may add files) and takes the lock. FAILED_PRECONDITION: another daemon holds it;
  // INVALID_ARGUMENT: the path is too long for a socket, not a directory, or not writable.
  static absl::StatusOr<std::unique_ptr<RuntimeDir>> Open(const std::string& path);
  ~RuntimeDir();

  const std::string& path() const { return path_; }
  std::string grpc_socket_path() const { return path_ + "/grpc.sock"; }
  std::string attach_socket_path() const { return path_ + "/attach.sock"; }

  // A listening, non-blocking Unix socket with this file mode, bound by us. FAILED_PRECONDITION
  // when somebody else listens there (D2).
  absl::StatusOr<shm::UniqueFd> Listen(const std::string& socket_path, int socket_type,
                                       mode_t mode);

 private:
  RuntimeDir(std::string path, bool made_directory, shm::UniqueFd lock)
      : path_(std::move(path)), made_directory_(made_directory), lock_(std::move(lock)) {}

  std::string path_;
  bool made_directory_;
  shm::UniqueFd lock_;
  std::vector<std::string> sockets_;
};

}  // namespace iob::server
