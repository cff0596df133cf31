#include "server/self_test.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shm/grant_lock.h"
#include "shm/kernel.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/placement.h"
#include "shm/section.h"
#include "shm/unique_fd.h"

namespace iob::server {
namespace {

using shm::EndpointId;
using shm::UniqueFd;

absl::StatusOr<shm::SealedMemfd> ProbeMemfd() {
  auto fresh = shm::Memfd::Create("iob-probe");
  if (!fresh.ok()) return fresh.status();
  return (*std::move(fresh)).SealSize(shm::PageBytes());
}

// A size seal holds, and a reopened description works: the base of everything.
bool SizeSealWorks() {
  const auto memfd = ProbeMemfd();
  return memfd.ok() && ::ftruncate(memfd->fd(), 0) != 0 &&
         memfd->OpenGrant(shm::FdMode::kReadOnly).ok();
}

// After FUTURE_WRITE nobody maps for writing, not through a reopened description either.
bool WriterSealWorks() {
  auto memfd = ProbeMemfd();
  if (!memfd.ok()) return false;
  const auto mapping = shm::Mapping::Map(*memfd);
  if (!mapping.ok() || !memfd->SealAgainstWriters().ok()) return false;
  mapping->base()[0] = std::byte{1};
  const auto reopened = memfd->OpenGrant(shm::FdMode::kReadWrite);
  if (!reopened.ok()) return true;
  void* const writable =
      ::mmap(nullptr, shm::PageBytes(), PROT_READ | PROT_WRITE, MAP_SHARED, reopened->get(), 0);
  if (writable == MAP_FAILED) return true;
  ::munmap(writable, shm::PageBytes());
  return false;
}

// A grant's lock is seen while only a mapping of it is left, and gone after that.
bool GrantLockWorks() {
  const auto memfd = ProbeMemfd();
  if (!memfd.ok()) return false;
  auto grant = memfd->OpenGrant(shm::FdMode::kReadOnly);
  if (!grant.ok() || !shm::LockGrant(grant->get(), shm::GrantRange(EndpointId::kEp0), 0).ok())
    return false;
  void* const mapped = ::mmap(nullptr, shm::PageBytes(), PROT_READ, MAP_SHARED, grant->get(), 0);
  if (mapped == MAP_FAILED) return false;
  grant->Close();
  const bool held =
      shm::AnyGrantHeld(memfd->fd(), shm::GrantRange(EndpointId::kEp0)).value_or(false);
  ::munmap(mapped, shm::PageBytes());
  return held && !shm::AnyGrantHeld(memfd->fd(), shm::GrantRange(EndpointId::kEp0)).value_or(true);
}

bool PeerPidfdWorks() {
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) return false;
  const UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (::getsockopt(ours.get(), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) != 0) return false;
  const UniqueFd closing(pidfd);
  return true;
}

UniqueFd OwnPidfd() { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))); }

bool PidfdInfoWorks() {
  const UniqueFd self = OwnPidfd();
  if (!self.valid()) return false;
  shm::PidfdInfo info = {};
  return ::ioctl(self.get(), shm::kPidfdGetInfo, &info) == 0;
}

bool FutexWaitvWorks() {
  // No waiters is EINVAL; an unknown call is ENOSYS.
  return ::syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, 0) != 0 && errno != ENOSYS;
}

bool NoexecSealWorks() {
  const UniqueFd memfd(::memfd_create("iob-probe", MFD_CLOEXEC | MFD_NOEXEC_SEAL));
  return memfd.valid();
}

bool PassRightsWorks() {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const int off = 0;
  return socket.valid() &&
         ::setsockopt(socket.get(), SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off)) == 0;
}

// Whatever the policy is: memory of ours is gathered by request (MADV_COLLAPSE, Linux 6.1).
bool TransparentHugePagesWork() {
  const auto section =
      shm::MakeSection("iob-probe", shm::kHugePageBytes, {.transparent = true, .prefault = false});
  return section.ok() && shm::HugeBytesOf(*section).value_or(0) == shm::kHugePageBytes;
}

bool PoolHasPages(uint64_t page_bytes) {
  const auto pool = shm::PoolOf(page_bytes);
  return pool && pool->total != 0;
}

// As much as one gigantic page, unless the limit does not apply to us.
bool LockWorks() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur >= shm::kGiganticPageBytes)
    return true;
  // Only who is above the limit can lock more than it.
  const uint64_t size_bytes = shm::RoundUpToPages(limit.rlim_cur + 1);
  const auto range = shm::MakeSection("iob-probe", size_bytes, {.lock = true});
  return range.ok();
}

// What rights, events and lifetimes rest on.
KernelFeatures ProbeRights() {
  return {
      {.name = "size_seal",
       .available = SizeSealWorks(),
       .required = true,
       .effect =
           "no peer can shrink memory under another (F_SEAL_SHRINK, Linux 3.17; needs /proc)"},
      {.name = "writer_seal",
       .available = WriterSealWorks(),
       .required = true,
       .effect = "level `sealed`: nobody but the broker writes ring data (F_SEAL_FUTURE_WRITE, "
                 "Linux 5.1)"},
      {.name = "grant_lock",
       .available = GrantLockWorks(),
       .required = true,
       .effect = "mappings count for peer-closed (OFD locks, Linux 3.15)"},
      {.name = "pidfd",
       .available = OwnPidfd().valid(),
       .required = true,
       .effect = "the end of a process is known for certain (pidfd_open, Linux 5.3)"},
      {.name = "peer_pidfd",
       .available = PeerPidfdWorks(),
       .required = false,
       .effect =
           "callers are known beyond pid reuse (SO_PEERPIDFD, Linux 6.5); else by pid at connect"},
      {.name = "exit_info",
       .available = PidfdInfoWorks(),
       .required = false,
       .effect = "how a peer ended is known for every uid (PIDFD_GET_INFO, Linux 6.15); else from "
                 "/proc, or `died`"},
      {.name = "futex_waitv",
       .available = FutexWaitvWorks(),
       .required = false,
       .effect = "readers wait on data and signals at once (Linux 5.16); else signals are seen 10 "
                 "ms late"},
      {.name = "noexec_seal",
       .available = NoexecSealWorks(),
       .required = false,
       .effect = "buffer memory cannot be executed as a program (MFD_NOEXEC_SEAL, Linux 6.3)"},
      {.name = "pass_rights",
       .available = PassRightsWorks(),
       .required = false,
       .effect = "the kernel refuses descriptors from clients (SO_PASSRIGHTS, Linux 6.16); else "
                 "the daemon does"},
  };
}

KernelFeatures ProbePlacement() {
  KernelFeatures features = {
      {.name = "huge_pages",
       .available = TransparentHugePagesWork(),
       .required = false,
       .effect = "placement huge=transparent (Linux 6.1, or transparent_hugepage/shmem_enabled)"},
      {.name = "huge_pool_2m",
       .available = PoolHasPages(shm::kHugePageBytes),
       .required = false,
       .effect = "placement huge=2M: pages set aside when the daemon started (vm.nr_hugepages)"},
      {.name = "huge_pool_1g",
       .available = PoolHasPages(shm::kGiganticPageBytes),
       .required = false,
       .effect = "placement huge=1G: pages set aside when the daemon started "
                 "(/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages)"},
      {.name = "memory_lock",
       .available = LockWorks(),
       .required = false,
       .effect = "placement lock for more than a little (CAP_IPC_LOCK, or RLIMIT_MEMLOCK)"},
      {.name = "numa",
       .available = shm::MemoryNodes().size() > 1,
       .required = false,
       .effect = absl::StrCat("placement numa=N for several N; nodes with memory here: ",
                              absl::StrJoin(shm::MemoryNodes(), ", "))},
  };
  for (KernelFeature& feature : features) feature.optional = true;
  return features;
}

}  // namespace

KernelFeatures ProbeKernel() {
  KernelFeatures features = ProbeRights();
  for (KernelFeature& feature : ProbePlacement()) features.push_back(std::move(feature));
  return features;
}

absl::Status CheckRequired(const KernelFeatures& features) {
  std::vector<std::string> missing;
  for (const KernelFeature& feature : features) {
    if (feature.required && !feature.available) {
      missing.push_back(absl::StrCat(feature.name, ": ", feature.effect));
    }
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this kernel lacks what rights rest on: ", absl::StrJoin(missing, "; ")));
}

}  // namespace iob::server
