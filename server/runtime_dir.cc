#include "server/runtime_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr int kBacklog = 256;
constexpr char kLockName[] = "/iobd.lock";
constexpr char kLongestSocketName[] = "/attach.sock";

// What a person can act on: the path, and what the system said.
absl::Status Unusable(const std::string& path, const char* what) {
  return absl::InvalidArgumentError(
      absl::StrCat("runtime directory ", path, ": ", what, ": ", strerror(errno)));
}

std::string HolderOf(int lock) {
  char text[32] = {};
  const ssize_t size = ::pread(lock, text, sizeof(text) - 1, 0);
  if (size <= 0) return "unknown pid";
  return absl::StrCat(
      "pid ", absl::StripAsciiWhitespace(absl::string_view(text, static_cast<size_t>(size))));
}

// The lock file may be removed by a leaving daemon between our open and our flock: then we hold the
// lock of a file that nobody else can find.
bool IsStillThere(int lock, const std::string& path) {
  struct stat held = {};
  struct stat named = {};
  return ::fstat(lock, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

absl::StatusOr<shm::UniqueFd> TakeLock(const std::string& directory) {
  const std::string path = directory + kLockName;
  while (true) {
    shm::UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!lock.valid()) return Unusable(directory, "cannot make iobd.lock");
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Unusable(directory, "cannot lock iobd.lock");
      return absl::FailedPreconditionError(
          absl::StrCat("runtime directory ", directory, " belongs to a running iobd (",
                       HolderOf(lock.get()), "); stop it or choose another --runtime-dir"));
    }
    if (!IsStillThere(lock.get(), path)) continue;
    const std::string pid = absl::StrCat(::getpid(), "\n");
    if (::ftruncate(lock.get(), 0) != 0 || ::pwrite(lock.get(), pid.data(), pid.size(), 0) < 0) {
      return Unusable(directory, "cannot write iobd.lock");
    }
    return lock;
  }
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Connecting is the only way to know whether somebody listens.
bool SomebodyListens(const std::string& path, int socket_type) {
  const shm::UniqueFd probe(::socket(AF_UNIX, socket_type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = AddressOf(path);
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return true;
  return errno != ECONNREFUSED && errno != ENOENT;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RuntimeDir>> RuntimeDir::Open(const std::string& path) {
  if (path.size() + sizeof(kLongestSocketName) > sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("runtime directory ", path, ": ", path.size(), " bytes, a socket path allows ",
                     sizeof(sockaddr_un::sun_path) - sizeof(kLongestSocketName)));
  }
  const bool made = ::mkdir(path.c_str(), 0755) == 0;
  if (!made && errno != EEXIST) return Unusable(path, "cannot be made");
  auto lock = TakeLock(path);
  if (!lock.ok()) {
    if (made) ::rmdir(path.c_str());
    return std::move(lock).status();
  }
  return std::unique_ptr<RuntimeDir>(new RuntimeDir(path, made, *std::move(lock)));
}

RuntimeDir::~RuntimeDir() {
  for (const std::string& socket : sockets_) ::unlink(socket.c_str());
  ::unlink((path_ + kLockName).c_str());
  if (made_directory_) ::rmdir(path_.c_str());
}

absl::StatusOr<shm::UniqueFd> RuntimeDir::Listen(const std::string& socket_path, int socket_type,
                                                 mode_t mode) {
  struct stat existing = {};
  if (::lstat(socket_path.c_str(), &existing) == 0) {
    if (!S_ISSOCK(existing.st_mode) || SomebodyListens(socket_path, socket_type)) {
      return absl::FailedPreconditionError(absl::StrCat(
          socket_path,
          " is in use by somebody else and was left alone; choose another --runtime-dir"));
    }
    if (::unlink(socket_path.c_str()) != 0) return Unusable(path_, "cannot remove a stale socket");
  }
  shm::UniqueFd socket(::socket(AF_UNIX, socket_type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return shm::ErrnoStatus(errno, "socket");
  const sockaddr_un address = AddressOf(socket_path);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Unusable(path_, "cannot bind a socket");
  }
  sockets_.push_back(socket_path);
  if (::chmod(socket_path.c_str(), mode) != 0) return Unusable(path_, "cannot set a socket's mode");
  if (::listen(socket.get(), kBacklog) != 0) return shm::ErrnoStatus(errno, "listen");
  return socket;
}

}  // namespace iob::server
