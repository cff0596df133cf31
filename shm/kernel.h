// Kernel interfaces that Debian 12's headers (6.1) do not know, with the version that brought each.
//
// Constants only. Whether the running kernel has them is found out at run time, by the caller that
// needs them.
#pragma once

#include <fcntl.h>
#include <linux/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstdint>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // 6.3
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76  // 6.5
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // 6.5
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83  // 6.16
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010  // 5.1
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // 5.14
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // 6.1
#endif
#ifndef HUGETLBFS_MAGIC
#define HUGETLBFS_MAGIC 0x958458f6
#endif
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36  // 3.15
#define F_OFD_SETLK 37
#endif

namespace iob::shm {

// PIDFD_GET_INFO (6.13); the exit status part is 6.15. Only the first, 64-byte layout is used.
struct PidfdInfo {
  uint64_t mask;
  uint64_t cgroup_id;
  uint32_t pid;
  uint32_t tgid;
  uint32_t ppid;
  uint32_t ruid;
  uint32_t rgid;
  uint32_t euid;
  uint32_t egid;
  uint32_t suid;
  uint32_t sgid;
  uint32_t fsuid;
  uint32_t fsgid;
  int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
inline constexpr uint64_t kPidfdInfoExit = 1ULL << 3;
inline constexpr unsigned long kPidfdGetInfo = _IOWR(0xFF, 11, PidfdInfo);

}  // namespace iob::shm
