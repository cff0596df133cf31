#include "shm/section_keeper.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "shm/placement.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

absl::Status Lock(const AddressRange& range) {
  if (::mlock(range.base(), range.size_bytes()) == 0) return absl::OkStatus();
  const int error_number = errno;
  rlimit limit = {};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  return absl::ResourceExhaustedError(absl::StrCat(
      ErrnoStatus(error_number, absl::StrCat("mlock of ", range.size_bytes(), " bytes")).message(),
      "; the broker's RLIMIT_MEMLOCK is ", limit.rlim_cur,
      " bytes: raise it (LimitMEMLOCK= of its unit), or give it CAP_IPC_LOCK"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SectionKeeper>> SectionKeeper::Create(const SealedMemfd& memfd,
                                                                     Options options) {
  const Part part{
      .memfd = &memfd, .offset_bytes = 0, .size_bytes = memfd.size_bytes(), .writable = true};
  MapPolicy policy = memfd.map_policy();
  policy.prefault = false;
  policy.secret = true;
  IOB_ASSIGN_OR_RETURN(AddressRange range,
                       AddressRange::MapParts({&part, 1}, OnFork::kDrop, policy));
  if (options.lock) {
    const absl::Status locked = Lock(range);
    if (!locked.ok()) return ItemError(PlacementItem::kLock, locked);
  }
  return std::unique_ptr<SectionKeeper>(
      new SectionKeeper(memfd.fd(), std::move(range), options.wipe));
}

SectionKeeper::~SectionKeeper() {
  if (!wipe_) return;
  // Pages that were never written are holes to SEEK_DATA, whether they are allocated or not. A file
  // system that does not know holes (hugetlbfs) calls all of it data.
  const auto end = static_cast<off_t>(range_.size_bytes());
  off_t data = 0;
  while ((data = ::lseek(fd_, data, SEEK_DATA)) >= 0 && data < end) {
    off_t hole = ::lseek(fd_, data, SEEK_HOLE);
    if (hole <= data) hole = end;
    hole = std::min(hole, end);
    ::explicit_bzero(range_.base() + data, static_cast<size_t>(hole - data));
    data = hole;
  }
}

}  // namespace iob::shm
